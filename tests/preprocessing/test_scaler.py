import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, Structures, TargetKind, Targets, TargetScaler
from sklearn_soapbpnn.data import as_structures, expand_scale
from sklearn_soapbpnn.preprocessing import check_scales


def fitted_scale(X, y, **kwargs):
    return TargetScaler().fit(X, y, **kwargs).scale_["energy"]


def test_by_hand():
    # per atom: 6 / 3 = 2 and -2 / 2 = -1, not centred: sqrt((4 + 1) / 2)
    frames = [molecule("H2O"), molecule("H2")]
    assert fitted_scale(frames, [6.0, -2.0]) == pytest.approx(np.sqrt(2.5))


def test_is_not_centred():
    assert fitted_scale([Atoms("H")] * 3, [2.0, 2.0, 2.0]) == pytest.approx(2.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 5), st.floats(-1e3, 1e3)), min_size=1, max_size=6))
def test_formula(entries):
    n_atoms, energies = np.array(entries).T
    frames = [Atoms("H" * int(n)) for n in n_atoms]
    expected = np.sqrt(np.mean((energies / n_atoms) ** 2))
    if expected > 1e-6:
        assert fitted_scale(frames, energies) == pytest.approx(expected)


def test_sees_the_offset():
    structures = as_structures([molecule("H2O"), molecule("H2")])
    carrying = structures.with_offset("energy", [100.0, 200.0])
    assert fitted_scale(carrying, [106.0, 198.0]) == pytest.approx(np.sqrt(2.5))


def test_behind_a_baseline():
    frames = [Atoms("H"), Atoms("H"), Atoms("H2")]
    # e_H = (1 * 2 + 1 * 4 + 2 * 6) / 6 = 3: residuals -1, 1, 0
    pipe = make_pipeline(CompositionBaseline(), TargetScaler()).fit(frames, [2.0, 4.0, 6.0])
    assert pipe[-1].scale_["energy"] == pytest.approx(np.sqrt(2 / 3))


@pytest.mark.parametrize("energy", [0.0, 5.0])
def test_zero_residual_gives_one(energy):
    structures = as_structures([Atoms("H2")] * 2).with_offset("energy", [energy, energy])
    assert fitted_scale(structures, [energy, energy]) == 1.0


def test_residual_that_is_rounding_gives_one():
    """Three compositions and three elements: the baseline explains everything but rounding."""
    frames = [molecule(name) for name in ("H2O", "CH4", "H2")]
    energies = np.array([-2081.1, -1100.7, -31.3])
    pipe = make_pipeline(CompositionBaseline(), TargetScaler()).fit(frames, energies)
    np.testing.assert_allclose(pipe[0].predict(frames), energies)
    assert pipe[-1].scale_["energy"] == 1.0


def test_a_small_residual_is_not_mistaken_for_rounding():
    structures = as_structures([Atoms("H")] * 2).with_offset("energy", [-1000.0, -1000.0])
    scale = fitted_scale(structures, [-1000.0 + 1e-6, -1000.0 - 1e-6])
    assert scale == pytest.approx(1e-6, rel=1e-3)
    assert fitted_scale([Atoms("H")], [1e-9]) == pytest.approx(1e-9)


def test_weights():
    frames = [Atoms("H")] * 2
    # (3 * 1 + 1 * 25) / 4 = 7
    scale = fitted_scale(frames, [1.0, 5.0], sample_weight=[3.0, 1.0])
    assert scale == pytest.approx(np.sqrt(7.0))
    repeated = fitted_scale([Atoms("H")] * 4, [1.0, 1.0, 1.0, 5.0])
    assert scale == pytest.approx(repeated)


def test_unlabelled_structures_are_left_out():
    y = Targets(energy=[3.0, np.nan, 3.0])
    frames = [Atoms("H"), Atoms("H5"), Atoms("H")]
    assert fitted_scale(frames, y) == pytest.approx(3.0)
    assert fitted_scale(frames, y, sample_weight=[1.0, 50.0, 1.0]) == pytest.approx(3.0)


def test_weights_must_not_all_be_on_unlabelled_structures():
    y = Targets(energy=[1.0, np.nan])
    with pytest.raises(ValueError, match="sample_weight"):
        fitted_scale([Atoms("H")] * 2, y, sample_weight=[0.0, 1.0])


def test_needs_a_target_that_is_learnt_by_itself():
    y = Targets(energies=[np.zeros(1)])
    with pytest.raises(ValueError, match=r"such as 'energy', but its columns are \['energies'\]"):
        TargetScaler().fit([Atoms("H")], y)


# --- fixed weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [0.1, 2, np.float32(0.5)])
def test_fixed_weights(fixed):
    scaler = TargetScaler(fixed_weights={"energy": fixed}).fit([Atoms("H")], [7.0])
    assert scaler.scale_ == {"energy": float(fixed)}
    assert dict(scaler.transform([Atoms("H")]).scale) == {"energy": float(fixed)}


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "small", None])
def test_fixed_weight_must_be_positive(value):
    message = r"fixed_weights\['energy'\] must be a positive number"
    with pytest.raises(ValueError, match=message) as info:
        TargetScaler({"energy": value}).fit([Atoms("H")], [1.0])
    assert repr(value) in str(info.value)


def test_unknown_target():
    message = r"fixed_weights names 'dipole'; the scaled targets are \['energy'\]"
    with pytest.raises(ValueError, match=message):
        TargetScaler({"dipole": 1.0}).fit([Atoms("H")], [1.0])


def test_weights_must_be_a_mapping():
    with pytest.raises(ValueError, match="'fixed_weights' parameter of TargetScaler"):
        TargetScaler(0.1).fit([Atoms("H")], [1.0])


@pytest.mark.parametrize(
    "fixed",
    [{"blocks": [1.0, 0.0]}, {"blocks": {"H": -1.0}}, {"blocks": [[1.0]]}, {"blocks": ["a"]}],
)
def test_every_fixed_weight_must_be_positive(fixed):
    with pytest.raises(ValueError, match=r"scales\['blocks'\].* must be a positive number"):
        check_scales(fixed, "scales")


def test_fixed_weights_of_no_element():
    with pytest.raises(ValueError, match=r"\['charges'\] names 'Qq', .* not a chemical element"):
        check_scales({"charges": {"Qq": 1.0}})


@pytest.mark.parametrize(
    ("fixed", "expected"), [(3, [3.0, 3.0, 3.0]), ([1, 2.0, 3], [1, 2, 3]), (np.ones(3), [1, 1, 1])]
)
def test_fixed_weights_of_several_scales(fixed, expected):
    kinds = {"blocks": TargetKind.spherical([(0, 1), (1, 1, 2)])}
    y = Targets(kinds=kinds, blocks=np.full((1, 7), 9.0))
    scale = TargetScaler({"blocks": fixed}).fit([Atoms("H")], y).scale_["blocks"]
    np.testing.assert_array_equal(scale, expected)


def test_fixed_weights_of_atoms():
    y = Targets(charges=[[4.0, 6.0]])
    fixed = {"charges": {"H": 0.5, 79: 3.0}}
    table = TargetScaler(fixed).fit([Atoms("HO")], y).scale_["charges"]
    assert table.shape == (119, 1)
    np.testing.assert_array_equal(table[[1, 6, 8, 79], 0], [0.5, 1.0, 6.0, 3.0])
    table = TargetScaler({"charges": 2.0}).fit([Atoms("HO")], y).scale_["charges"]
    np.testing.assert_array_equal(table, 2.0)


def test_fixed_weights_that_do_not_fit():
    y = Targets(dipole=np.ones((1, 3)))
    with pytest.raises(ValueError, match="gives scales of elements, but the target has one value"):
        TargetScaler({"dipole": {"H": 1.0}}).fit([Atoms("H")], y)
    with pytest.raises(ValueError, match="has 3 numbers, but the target has 1 scales"):
        TargetScaler({"dipole": [1.0, 2.0, 3.0]}).fit([Atoms("H")], y)


def test_check_scales_knows_the_targets():
    kinds = {"dipole": TargetKind.vector(), "forces": TargetKind.vector(per_atom=True)}
    assert check_scales({"dipole": 2}, "scales", kinds) == {"dipole": 2.0}
    for name in ("energy", "forces"):
        message = rf"scales names '{name}'; the scaled targets are \['dipole'\]"
        with pytest.raises(ValueError, match=message):
            check_scales({name: 1.0}, "scales", kinds)


# --- other targets -------------------------------------------------------------------------------


def test_a_vector_has_one_scale():
    y = Targets(dipole=[[3.0, 0.0, 0.0], [0.0, 4.0, 8.0]])
    scale = TargetScaler().fit([Atoms("H"), Atoms("H2")], y).scale_
    # per atom (3, 0, 0) and (0, 2, 4)
    assert scale == {"dipole": pytest.approx(np.sqrt((9 + 4 + 16) / 6))}
    assert isinstance(scale["dipole"], float)
    whole = TargetScaler(per_structure_targets=["dipole"]).fit([Atoms("H"), Atoms("H2")], y)
    assert whole.scale_["dipole"] == pytest.approx(np.sqrt((9 + 16 + 64) / 6))


def test_every_block_and_property_has_a_scale():
    kinds = {"blocks": TargetKind.spherical([(0, 1), (1, 1, 2)])}
    # the last axis: block of order 0; (m, property) of the block of order 1
    values = [[5.0, 1.0, 10.0, 2.0, 20.0, 2.0, 20.0], [-5.0, 1.0, 10.0, 2.0, 20.0, 2.0, 20.0]]
    scale = TargetScaler().fit([Atoms("H")] * 2, Targets(kinds=kinds, blocks=values)).scale_
    np.testing.assert_allclose(scale["blocks"], [5.0, np.sqrt(3.0), 10 * np.sqrt(3.0)])
    tensors = np.ones((1, 3, 3, 2)) * [2.0, 3.0]
    y = Targets(kinds={"t": TargetKind.tensor(2)}, t=tensors)
    np.testing.assert_allclose(TargetScaler().fit([Atoms("H")], y).scale_["t"], [2.0, 3.0])


def test_values_of_atoms_have_a_scale_for_each_element():
    frames = [Atoms("OH"), Atoms("HHC")]
    y = Targets(charges=[[-5.0, 1.0], [2.0, np.nan, np.nan]])
    scaler = TargetScaler().fit(frames, y, sample_weight=[1.0, 3.0])
    table = scaler.scale_["charges"]
    assert table.shape == (119, 1)
    # carbon has no label
    expected = [np.sqrt((1 + 3 * 4) / 4), 5.0, 1.0, 1.0]
    np.testing.assert_allclose(table[[1, 8, 6, 79], 0], expected)
    assert (np.delete(table, [1, 8], axis=0) == 1.0).all()
    carrying = scaler.transform([Atoms("H2O")])
    found = expand_scale(carrying, "charges", y.kinds["charges"])
    np.testing.assert_allclose(found[:, 0], [expected[0], expected[0], 5.0])


def test_a_stress_counts_times_the_volume():
    frames = [Atoms("H2", cell=[2, 2, 2], pbc=True), Atoms("H", cell=[1, 1, 3], pbc=True)]
    y = Targets(non_conservative_stress=np.stack([np.eye(3), 2 * np.eye(3)]))
    # per atom 8 / 2 and 2 * 3 on the diagonal
    scale = TargetScaler().fit(frames, y).scale_["non_conservative_stress"]
    assert scale == pytest.approx(np.sqrt((16 + 36) * 3 / 18))
    scaler = TargetScaler(per_structure_targets=("non_conservative_stress",)).fit(frames, y)
    found = scaler.scale_["non_conservative_stress"]
    assert found == pytest.approx(np.sqrt((64 + 36) * 3 / 18))


def test_a_stress_without_cell_says_nothing():
    y = Targets(non_conservative_stress=np.ones((2, 3, 3)))
    frames = [Atoms("H"), Atoms("H", cell=[1, 1, 3], pbc=True)]
    scale = TargetScaler().fit(frames, y).scale_["non_conservative_stress"]
    assert scale == pytest.approx(3.0)
    with pytest.raises(ValueError, match="'non_conservative_stress' of y: no .* finite volume"):
        TargetScaler().fit(frames[:1], y[:1])


@pytest.mark.parametrize("per_structure", [(), ("gap",)])
def test_intensive_targets_are_not_divided(per_structure):
    """They are means already, whether they are named or not."""
    kinds = {"gap": TargetKind.scalar(intensive=True)}
    frames = [Atoms("H"), Atoms("H5")]
    y = Targets(kinds=kinds, gap=[1.0, 7.0], energy=[1.0, 5.0])
    scale = TargetScaler(per_structure_targets=per_structure).fit(frames, y).scale_
    assert scale == {"gap": pytest.approx(5.0), "energy": pytest.approx(1.0)}
    carrying = as_structures(frames).with_offset("gap", [4.0, 4.0])
    assert TargetScaler().fit(carrying, y).scale_["gap"] == pytest.approx(3.0)


def test_intensive_tensors_have_a_scale_for_each_block():
    kinds = {"t": TargetKind.spherical([(0, 1), (1, 1)], intensive=True)}
    y = Targets(kinds=kinds, t=[[3.0, 1.0, 2.0, 2.0], [3.0, 0.0, 0.0, 3.0]])
    scale = TargetScaler().fit([Atoms("H2"), Atoms("H4")], y).scale_["t"]
    np.testing.assert_allclose(scale, [3.0, np.sqrt(3.0)])


def test_what_follows_from_the_energy_has_its_scale():
    y = Targets(
        energy=[2.0], forces=[np.full((1, 3), 0.5)], virial=np.ones((1, 3, 3)), energies=[[2.0]]
    )
    assert TargetScaler().fit([Atoms("H")], y).scale_ == {"energy": 2.0}
    with pytest.raises(ValueError, match=r"names 'forces'; the scaled targets are \['energy'\]"):
        TargetScaler({"forces": 1.0}).fit([Atoms("H")], y)


# --- energies and their derivatives: one scale ---------------------------------------------------

PAIR = [Atoms("H", cell=[2.0, 2.0, 2.0]), Atoms("H2", cell=[2.0, 2.0, 4.0])]
FORCES = [np.array([[3.0, 0.0, 0.0]]), np.array([[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]])]


def test_forces_by_hand():
    # nine components: 2 * sqrt((9 + 16) / 9); energies per atom are much smaller
    y = Targets(energy=[0.1, 0.2], forces=FORCES)
    assert fitted_scale(PAIR, y) == pytest.approx(10 / 3)
    # small forces say nothing about large energies
    assert fitted_scale(PAIR, Targets(energy=[50.0, 100.0], forces=FORCES)) == pytest.approx(50.0)


@pytest.mark.parametrize("name", ["stress", "virial"])
def test_strain_gradient_by_hand(name):
    # stress times volume per atom: components of 8 and of 2 * 16 / 2 = 16 on the diagonals
    values = np.array([1.0, 2.0])[:, None, None] * np.eye(3)
    if name == "virial":
        values = -values * np.array([8.0, 16.0])[:, None, None]
    y = Targets(energy=[0.1, 0.2], **{name: values})
    assert fitted_scale(PAIR, y) == pytest.approx(np.sqrt((3 * 64 + 3 * 256) / 18))
    total = TargetScaler(per_structure_targets=["energy", name]).fit(PAIR, y).scale_["energy"]
    assert total == pytest.approx(np.sqrt((3 * 64 + 3 * 1024) / 18))


def test_unlabelled_forces_and_weights():
    forces = [FORCES[0], np.full((2, 3), np.nan)]
    y = Targets(energy=[0.1, 0.2], forces=forces)
    assert fitted_scale(PAIR, y) == pytest.approx(2 * np.sqrt(3.0))
    y = Targets(energy=[0.1, 0.2], forces=FORCES)
    weighted = fitted_scale(PAIR, y, sample_weight=[3.0, 1.0])
    assert weighted == pytest.approx(2 * np.sqrt((3 * 9 + 16) / (3 * 3 + 6)))


def test_offsets_of_derivatives_are_subtracted():
    structures = as_structures(PAIR).with_offset("forces", FORCES)
    structures = structures.with_offset("virial", -np.array([8.0, 16.0])[:, None, None] * np.eye(3))
    y = Targets(energy=[1.0, 2.0], forces=FORCES, stress=np.stack([np.eye(3)] * 2))
    assert fitted_scale(structures, y) == pytest.approx(1.0)


def test_forces_that_vanish_by_symmetry():
    rounding = [np.full((1, 3), 1e-16), np.full((2, 3), -1e-16)]
    assert fitted_scale(PAIR, Targets(energy=[1.0, 2.0], forces=rounding)) == pytest.approx(1.0)
    # nothing at all is left to learn
    structures = as_structures(PAIR).with_offset("energy", [1.0, 2.0])
    assert fitted_scale(structures, Targets(energy=[1.0, 2.0], forces=rounding)) == 1.0


def test_forces_without_energies():
    assert fitted_scale(PAIR, Targets(forces=FORCES)) == pytest.approx(10 / 3)
    y = Targets(energy=[np.nan, np.nan], forces=FORCES)
    assert fitted_scale(PAIR, y) == pytest.approx(10 / 3)


def test_small_displacements_have_a_scale_of_their_forces():
    """Energies are of second order in the displacements, forces of the first."""
    k, steps = 5.0, np.array([0.01, -0.02])
    frames = [Atoms("H2", [[0, 0, 0], [0, 0, 1 + x]]) for x in steps]
    forces = [k * x * np.array([[0, 0, 1.0], [0, 0, -1.0]]) for x in steps]
    y = Targets(energy=k * steps**2 / 2, forces=forces)
    size = np.sqrt(np.mean(np.square(forces)))
    assert fitted_scale(frames, y) == pytest.approx(2 * size)


def test_single_components_may_have_no_label():
    y = Targets(kinds={"t": TargetKind.scalar(3)}, t=[[2.0, np.nan, np.nan], [np.nan, 3.0, np.nan]])
    scale = TargetScaler().fit([Atoms("H")] * 2, y).scale_["t"]
    np.testing.assert_allclose(scale, [2.0, 3.0, 1.0])


def test_offsets_of_all_targets_are_subtracted():
    y = Targets(dipole=[[3.0, 0.0, 0.0]], charges=[[2.0]])
    structures = as_structures([Atoms("H")]).with_offset("dipole", [[0.0, 0.0, 3.0]])
    structures = structures.with_offset("charges", [np.array([2.0])])
    scale = TargetScaler().fit(structures, y).scale_
    assert scale["dipole"] == pytest.approx(np.sqrt(6))
    assert scale["charges"][1, 0] == 1.0  # nothing is left


def test_rounding_is_judged_for_each_scale():
    y = Targets(kinds={"t": TargetKind.scalar(2)}, t=[[1000.0, 1e-9]])
    structures = as_structures([Atoms("H")]).with_offset("t", np.array([[1000.0 + 1e-10, 0.0]]))
    np.testing.assert_allclose(TargetScaler().fit(structures, y).scale_["t"], [1.0, 1e-9])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_scaling_the_labels_scales_the_scale(seed, per_atom, per_structure):
    rng = np.random.default_rng(seed)
    frames = [Atoms(rng.choice([1, 6, 8], size=rng.integers(1, 5))) for _ in range(4)]
    kind = TargetKind.spherical([(0, 1), (2, 1, 2)], per_atom=per_atom)
    sizes = [len(atoms) for atoms in frames]
    values = [rng.normal(size=(n, 11)) for n in sizes] if per_atom else rng.normal(size=(4, 11))
    factor = np.array([2.0, *[3.0, 5.0] * 5])
    scaler = TargetScaler(per_structure_targets=["t"] * per_structure)
    first = scaler.fit(frames, Targets(kinds={"t": kind}, t=values)).scale_["t"]
    other = [v * factor for v in values] if per_atom else values * factor
    second = scaler.fit(frames, Targets(kinds={"t": kind}, t=other)).scale_["t"]
    seen = np.unique(np.concatenate([atoms.numbers for atoms in frames])) if per_atom else ...
    np.testing.assert_allclose(second[seen], first[seen] * [2.0, 3.0, 5.0])


def test_unknown_per_structure_targets():
    with pytest.raises(
        ValueError, match=r"per_structure_targets names \['spin'\]; y has \['energy'"
    ):
        TargetScaler(per_structure_targets=["spin"]).fit([Atoms("H")], [1.0])
    # what follows from the energy may be named, though it has no scale of its own
    scaler = TargetScaler(per_structure_targets=["virial"]).fit([Atoms("H2")], [1.0])
    assert scaler.scale_ == {"energy": 0.5}


def test_energy_of_whole_structures():
    scaler = TargetScaler(per_structure_targets=("energy",)).fit([Atoms("H2")], [3.0])
    assert scaler.scale_ == {"energy": 3.0}


# --- as a step -----------------------------------------------------------------------------------


def test_transform_attaches_the_scale_and_keeps_the_rest():
    structures = as_structures([molecule("H2"), molecule("O2")]).with_offset("energy", [1.0, 2.0])
    scaler = TargetScaler().fit(structures, [2.0, 1.0])
    carrying = scaler.transform(structures)
    assert isinstance(carrying, Structures)
    assert dict(carrying.scale) == scaler.scale_ == {"energy": pytest.approx(0.5)}
    np.testing.assert_array_equal(carrying.offset["energy"], [1.0, 2.0])
    assert dict(structures.scale) == {}


def test_transform_does_not_depend_on_elements():
    scaler = TargetScaler().fit([Atoms("H")], [2.0])
    assert dict(scaler.transform([Atoms("Au")]).scale) == {"energy": 2.0}


def test_not_fitted():
    with pytest.raises(NotFittedError):
        TargetScaler().transform([Atoms("H")])


def test_clone_and_pickle():
    scaler = TargetScaler({"energy": 0.3})
    parameters = {"fixed_weights": {"energy": 0.3}, "per_structure_targets": ()}
    assert clone(scaler).get_params() == {**parameters, "warm_start": False}
    back = pickle.loads(pickle.dumps(scaler.fit([Atoms("H")], [1.0])))
    assert back.scale_ == {"energy": 0.3}
