import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, Structures, TargetKind, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.preprocessing import check_fixed_weights

WEIGHTS = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2040.0}
CHARGE = TargetKind.scalar(per_atom=True)
GAP = TargetKind.scalar(intensive=True)
FORMULAS = ["H2", "CH4", "H2O", "NH3", "CO2", "CH3OH", "N2", "O2"]


@pytest.fixture
def frames():
    return [molecule(name) for name in FORMULAS]


def composition_energies(frames, weights=WEIGHTS):
    return np.array([sum(weights[number] for number in atoms.numbers) for atoms in frames])


def counts_of(frames, elements):
    return np.array([[(atoms.numbers == z).sum() for z in elements] for atoms in frames], float)


def test_recovers_energies_of_elements(frames):
    baseline = CompositionBaseline().fit(frames, composition_energies(frames))
    np.testing.assert_array_equal(baseline.elements_, [1, 6, 7, 8])
    np.testing.assert_allclose(baseline.coef_["energy"], list(WEIGHTS.values()), rtol=1e-12)
    others = [molecule("CH3CH2OH"), molecule("N2H4"), Atoms("O")]
    np.testing.assert_allclose(baseline.predict(others), composition_energies(others), rtol=1e-12)


def test_least_squares_by_hand():
    # two energies for the same composition: the mean
    baseline = CompositionBaseline().fit([Atoms("H2")] * 2, [1.0, 3.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [1.0])


def test_one_composition_gives_the_smallest_weights():
    # 2 e_H + e_O = -10 is closest to zero at -10 (2, 1) / 5
    baseline = CompositionBaseline().fit([molecule("H2O")] * 3, [-10.0] * 3)
    np.testing.assert_allclose(baseline.coef_["energy"], [-4.0, -2.0])
    np.testing.assert_allclose(baseline.predict([molecule("H2O")]), [-10.0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.sampled_from([1, 6, 8]), min_size=1, max_size=5), min_size=1, max_size=6),
    st.integers(0, 1000),
)
def test_equals_the_pseudo_inverse(numbers, seed):
    frames = [Atoms(z) for z in numbers]
    energies = np.random.default_rng(seed).normal(size=len(frames))
    baseline = CompositionBaseline().fit(frames, energies)
    elements = np.unique(np.concatenate(numbers))
    counts = counts_of(frames, elements)
    np.testing.assert_array_equal(baseline.elements_, elements)
    np.testing.assert_allclose(
        baseline.coef_["energy"], np.linalg.pinv(counts) @ energies, atol=1e-9
    )


# --- fixed weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [{"O": -5.0}, {8: -5.0}, {np.int64(8): np.float32(-5.0)}])
def test_fixed_weights_by_symbol_and_number(fixed):
    frames = [molecule("H2O"), molecule("H2O2")]
    baseline = CompositionBaseline(fixed_weights=fixed).fit(frames, [-7.0, -12.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [-1.0, -5.0])


def test_the_rest_is_fitted_around_fixed_weights():
    # with e_O = 0: 2 e_H = 1 and 2 e_H = 3, so e_H = 1
    frames = [molecule("H2O"), molecule("H2O2")]
    baseline = CompositionBaseline({"O": 0.0}).fit(frames, [1.0, 3.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [1.0, 0.0], atol=1e-12)


def test_all_weights_fixed(frames):
    baseline = CompositionBaseline(dict(WEIGHTS)).fit(frames, np.zeros(len(frames)))
    np.testing.assert_array_equal(baseline.coef_["energy"], list(WEIGHTS.values()))


def test_fixed_weights_of_absent_elements_do_not_matter():
    baseline = CompositionBaseline({"H": -1.0, "Cu": -99.0}).fit([molecule("H2")], [-5.0])
    np.testing.assert_array_equal(baseline.elements_, [1])
    np.testing.assert_array_equal(baseline.coef_["energy"], [-1.0])


@pytest.mark.parametrize("element", ["Qq", "h", "hydrogen", 500, -1, 1.5, None])
@pytest.mark.parametrize("target", [None, "energy"])
def test_no_element(element, target):
    fixed = {element: 0.0} if target is None else {target: {element: 0.0}}
    with pytest.raises(ValueError, match="chemical element") as info:
        CompositionBaseline(fixed).fit([Atoms("H")], [0.0])
    assert repr(element) in str(info.value)


def test_fixed_weights_in_every_form():
    assert check_fixed_weights(None) == check_fixed_weights({}) == {}
    assert check_fixed_weights({"H": -1, 8: 2.0}) == {"energy": {1: -1.0, 8: 2.0}}
    by_target = {"energy": {"H": -1}, "gap": 3, "H": {1: 2}}
    expected = {"energy": {1: -1.0}, "gap": 3.0, "H": {1: 2.0}}
    assert check_fixed_weights(by_target) == expected


def test_check_fixed_weights_knows_the_targets():
    kinds = {"gap": GAP, "dipole": TargetKind.vector(), "energies": CHARGE}
    assert check_fixed_weights({"gap": 1}, "weights", kinds) == {"gap": 1.0}
    for name in ("dipole", "energies", "spin"):
        with pytest.raises(ValueError, match=rf"weights names '{name}', .* these are \['gap'\]"):
            check_fixed_weights({name: 1.0}, "weights", kinds)


def test_fixed_weights_mix_no_elements_and_targets():
    message = r"weights mixes the elements \['H', 8\] with \['energy'\], which are not chemical"
    with pytest.raises(ValueError, match=message):
        check_fixed_weights({"H": 0.0, "energy": 0.0, 8: 1.0}, "weights")


@pytest.mark.parametrize("fixed", [{"H": 0.0}, {"dipole": 0.0}, {"forces": 0.0}, {"spin": 0.0}])
def test_fixed_weights_of_targets_without_a_baseline(fixed):
    y = Targets(dipole=np.ones((1, 3)), charges=[[1.0]])
    with pytest.raises(
        ValueError, match=r"nor a target of y with a .* baseline; these are \['charges'"
    ):
        CompositionBaseline(fixed).fit([Atoms("H")], y)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf, "low", None, [1.0]])
def test_weight_is_no_number(weight):
    forms = {
        r"\['H'\]": {"H": weight},
        r"\['energy'\]\['H'\]": {"energy": {"H": weight}},
        r"\['energy'\]": {"energy": weight},
    }
    for where, fixed in forms.items():
        message = rf"fixed_weights{where} must be a finite number"
        with pytest.raises(ValueError, match=message) as info:
            CompositionBaseline(fixed).fit([Atoms("H")], [0.0])
        assert repr(weight) in str(info.value)


def test_weights_must_be_a_mapping():
    with pytest.raises(ValueError, match="'fixed_weights' parameter of CompositionBaseline"):
        CompositionBaseline([0.0]).fit([Atoms("H")], [0.0])


# --- weights and labels --------------------------------------------------------------------------


def test_weight_two_is_the_structure_twice(frames):
    rng = np.random.default_rng(0)
    energies = rng.normal(size=len(frames))
    repeats = rng.integers(0, 4, size=len(frames))
    repeats[:5] += 1  # every element stays
    weighted = CompositionBaseline().fit(frames, energies, sample_weight=repeats)
    many = [atoms for atoms, n in zip(frames, repeats) for _ in range(n)]
    repeated = CompositionBaseline().fit(many, np.repeat(energies, repeats))
    np.testing.assert_allclose(weighted.coef_["energy"], repeated.coef_["energy"], atol=1e-10)


def test_weights_by_hand():
    baseline = CompositionBaseline()
    baseline.fit([Atoms("H")] * 2, [0.0, 4.0], sample_weight=[3.0, 1.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [1.0])


def test_unlabelled_structures_are_left_out():
    frames = [Atoms("H"), Atoms("H2"), Atoms("O")]
    y = Targets(energy=[-1.0, np.nan, -5.0])
    baseline = CompositionBaseline().fit(frames, y, sample_weight=[1.0, 100.0, 1.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [-1.0, -5.0])


def test_element_of_unlabelled_structures_is_known_with_weight_zero():
    baseline = CompositionBaseline().fit([Atoms("H"), Atoms("O")], Targets(energy=[-1.0, np.nan]))
    np.testing.assert_array_equal(baseline.elements_, [1, 8])
    np.testing.assert_allclose(baseline.predict([molecule("H2O")]), [-2.0])


def test_needs_a_target_that_is_learnt_by_itself():
    y = Targets(energies=[np.zeros(1)])
    with pytest.raises(ValueError, match=r"such as 'energy', but its columns are \['energies'\]"):
        CompositionBaseline().fit([Atoms("H")], y)


# --- other targets ----------------------------------------------------------------------------


def isotropic(values):
    return np.multiply.outer(values, np.eye(3))


def test_polarizability_has_an_isotropic_baseline():
    frames = [Atoms("H2"), Atoms("O"), Atoms("H2O")]
    tensors = isotropic([4.0, 5.0, 9.0])
    anisotropic = np.array([[1.0, 2, 3], [2, -3, 4], [3, 4, 2]])  # of trace zero
    y = Targets(polarizability=tensors + anisotropic)
    baseline = CompositionBaseline().fit(frames, y)
    coef = baseline.coef_["polarizability"]
    np.testing.assert_allclose(coef, isotropic([2.0, 5.0]), atol=1e-12)
    offset = baseline.transform(frames).offset
    assert list(offset) == ["polarizability"]
    np.testing.assert_allclose(offset["polarizability"], tensors, atol=1e-12)
    np.testing.assert_allclose(baseline.predict(frames), tensors, atol=1e-12)


def test_every_property_of_tensors_has_its_own():
    frames = [Atoms("H2"), Atoms("O")]
    values = np.stack([isotropic([4.0, 5.0]), isotropic([-2.0, 1.0])], axis=-1)
    y = Targets(kinds={"t": TargetKind.tensor(2)}, t=values)
    coef = CompositionBaseline().fit(frames, y).coef_["t"]
    expected = np.stack([isotropic([2.0, 5.0]), isotropic([-1.0, 1.0])], axis=-1)
    np.testing.assert_allclose(coef, expected, atol=1e-12)


def test_only_scalar_blocks_have_a_baseline():
    kinds = {"blocks": TargetKind.spherical([(0, 1, 2), (0, -1), (1, 1)])}
    values = np.array([[4.0, 6.0, 9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 9.0, 9.0, 9.0, 9.0]])
    frames = [Atoms("H2"), Atoms("O")]
    coef = CompositionBaseline().fit(frames, Targets(kinds=kinds, blocks=values)).coef_["blocks"]
    expected = [[2.0, 3.0, 0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(coef, expected, atol=1e-12)


def test_values_of_atoms_have_the_mean_of_their_element():
    frames = [Atoms("OH"), Atoms("HO"), Atoms("C")]
    charges = [[-1.0, 1.0], [2.0, np.nan], [np.nan]]
    baseline = CompositionBaseline().fit(frames, Targets(charges=charges), [1.0, 3.0, 1.0])
    # H: (1 + 3 * 2) / 4; carbon has no label
    np.testing.assert_allclose(baseline.coef_["charges"], [1.75, 0.0, -1.0])
    offset = baseline.transform([Atoms("H2O")]).offset["charges"]
    assert isinstance(offset, tuple)
    np.testing.assert_allclose(offset[0], [1.75, 1.75, -1.0])
    np.testing.assert_allclose(baseline.predict([Atoms("H2O")])[0], [1.75, 1.75, -1.0])
    assert baseline.predict([Atoms("H2O")], targets="charges").kinds["charges"].per_atom


def test_tensors_of_atoms():
    kinds = {"shielding": TargetKind.tensor(per_atom=True)}
    values = isotropic([2.0, 4.0])
    values[0, 0, 1] = 7.0
    y = Targets(kinds=kinds, shielding=[values])
    coef = CompositionBaseline().fit([Atoms("H2")], y).coef_["shielding"]
    np.testing.assert_allclose(coef, isotropic([3.0]), atol=1e-12)


def test_forces_without_energies_have_a_baseline_of_zero_or_what_is_fixed():
    y = Targets(forces=[np.ones((1, 3)), np.ones((2, 3))])
    frames = [Atoms("H"), Atoms("OH")]
    for options in ({}, {"sample_weight": [0.0, 1.0]}):
        baseline = CompositionBaseline().fit(frames, y, **options)
        np.testing.assert_array_equal(baseline.predict(frames), [0.0, 0.0])
    baseline = CompositionBaseline({"H": -1.0}).fit(frames, y)
    np.testing.assert_array_equal(baseline.predict(frames), [-1.0, -1.0])


def test_nothing_to_learn():
    y = Targets(dipole=np.ones((2, 3)))
    frames = [Atoms("H"), Atoms("OH")]
    baseline = CompositionBaseline().fit(frames, y)
    assert baseline.coef_ == {}
    np.testing.assert_array_equal(baseline.elements_, [1, 8])
    assert dict(baseline.transform(frames).offset) == {}
    with pytest.raises(ValueError, match="nothing; the targets with a .* baseline are \\[\\]"):
        baseline.predict(frames)
    with pytest.raises(ValueError, match="absent from fit"):
        baseline.transform([Atoms("Cu")])


def test_what_follows_from_the_energy_has_no_baseline_of_its_own():
    rows = [np.ones((1, 3)), np.ones((2, 3))]
    y = Targets(
        energy=[-1.0, -3.0],
        energies=[np.ones(1), np.ones(2)],
        forces=rows,
        stress=np.ones((2, 3, 3)),
        virial=np.ones((2, 3, 3)),
        charges=[np.ones(1), np.ones(2)],
    )
    assert set(CompositionBaseline().fit([Atoms("H"), Atoms("OH")], y).coef_) == {
        "energy",
        "charges",
    }


def test_every_component_is_left_out_where_it_has_no_label():
    """The first property is known in two structures, the second in others, the third in none."""
    frames = [Atoms("H"), Atoms("H2"), Atoms("O"), Atoms("OH")]
    values = [[1.0, np.nan], [np.nan, 6.0], [5.0, 2.0], [9.0, 5.0]]
    y = Targets(kinds={"t": TargetKind.scalar(3)}, t=np.c_[values, np.full(4, np.nan)])
    coef = CompositionBaseline().fit(frames, y).coef_["t"]
    counts = counts_of(frames, [1, 8])
    expected = np.linalg.pinv(counts[[0, 2, 3]]) @ [1.0, 5.0, 9.0]
    np.testing.assert_allclose(coef[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(coef[:, 1], [3.0, 2.0], atol=1e-12)
    np.testing.assert_array_equal(coef[:, 2], 0.0)


def test_a_tensor_needs_its_whole_diagonal():
    tensors = isotropic([1.0, 100.0])
    tensors[1, 2, 2] = np.nan
    tensors[0, 0, 1] = np.nan
    coef = CompositionBaseline().fit([Atoms("H")] * 2, Targets(polarizability=tensors)).coef_
    np.testing.assert_allclose(coef["polarizability"], isotropic([1.0]), atol=1e-12)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_properties_are_fitted_one_by_one(seed, n):
    rng = np.random.default_rng(seed)
    frames = [Atoms(rng.choice([1, 6, 8], size=rng.integers(1, 5))) for _ in range(6)]
    values, weights = rng.normal(size=(6, n)), rng.random(6) + 0.1
    values[rng.random((6, n)) < 0.2] = np.nan
    values[0] = 1.0
    y = Targets(kinds={"t": TargetKind.scalar(n)}, t=values)
    coef = CompositionBaseline({"t": {6: 0.5}}).fit(frames, y, weights).coef_["t"]
    for k in range(n):
        single = CompositionBaseline({"C": 0.5}).fit(frames, Targets(energy=values[:, k]), weights)
        np.testing.assert_allclose(coef[:, k], single.coef_["energy"], atol=1e-10)


@pytest.mark.parametrize(
    ("fixed", "expected"), [(2.0, [2.0, 2.0]), ({"H": 2.0}, [2.0, 4.0]), ({1: 2, "O": 7}, [2, 7])]
)
def test_fixed_weights_of_other_targets(fixed, expected):
    frames = [Atoms("OH")]
    y = Targets(
        kinds={"dos": TargetKind.scalar(2), "polarizability": TargetKind.tensor()},
        dos=[[6.0, 6.0]],
        polarizability=isotropic([6.0]),
        charges=[[4.0, 9.0]],
    )
    names = ("dos", "polarizability", "charges")
    coef = CompositionBaseline(dict.fromkeys(names, fixed)).fit(frames, y).coef_
    np.testing.assert_allclose(coef["dos"], np.transpose([expected] * 2), atol=1e-12)
    np.testing.assert_allclose(coef["polarizability"], isotropic(expected), atol=1e-12)
    np.testing.assert_allclose(coef["charges"], expected)


def test_offsets_of_all_targets_are_subtracted_before():
    frames = [Atoms("H"), Atoms("H2")]
    y = Targets(
        energy=[9.0, 18.0],
        polarizability=isotropic([3.0, 6.0]),
        charges=[[1.0], [1.0, 1.0]],
    )
    structures = (
        as_structures(frames)
        .with_offset("energy", [10.0, 20.0])
        .with_offset("polarizability", isotropic([1.0, 2.0]))
        .with_offset("charges", [np.array([0.25]), np.array([0.25, 0.25])])
    )
    baseline = CompositionBaseline().fit(structures, y)
    np.testing.assert_allclose(baseline.coef_["energy"], [-1.0])
    np.testing.assert_allclose(baseline.coef_["polarizability"], isotropic([2.0]), atol=1e-12)
    np.testing.assert_allclose(baseline.coef_["charges"], [0.75])
    offset = baseline.transform(structures).offset
    np.testing.assert_allclose(offset["energy"], y["energy"])
    np.testing.assert_allclose(offset["polarizability"], y["polarizability"], atol=1e-12)
    np.testing.assert_allclose(np.concatenate(offset["charges"]), 1.0)


def test_predict_names_its_targets():
    frames = [Atoms("H"), Atoms("OH")]
    y = Targets(charges=[[1.0], [2.0, 1.0]], energy=[-1.0, -5.0])
    baseline = CompositionBaseline().fit(frames, y)
    np.testing.assert_allclose(baseline.predict(frames), [-1.0, -5.0])
    assert baseline.predict(frames, targets=["charges", "energy"]).names == ("charges", "energy")
    predicted = baseline.predict(frames, targets="energy")
    np.testing.assert_array_equal(predicted["energy"], baseline.predict(frames))
    for targets, what in ((["energy", "spin"], "'spin'"), ([], "nothing")):
        message = rf"targets names {what}; .* are \['charges', 'energy'\]"
        with pytest.raises(ValueError, match=message):
            baseline.predict(frames, targets=targets)


def test_needs_a_weight_for_every_target():
    y = Targets(energy=[1.0, 2.0], dipole=[[1.0, 1.0, 1.0], [np.nan] * 3])
    with pytest.raises(ValueError, match="zero for every structure with a label of 'dipole'"):
        CompositionBaseline().fit([Atoms("H")] * 2, y, sample_weight=[0.0, 1.0])


# --- intensive targets ---------------------------------------------------------------------------


def test_mean_over_the_atoms_by_hand():
    # H2O and H2 and O2: 2/3 w_H + 1/3 w_O = 7, w_H = 6, w_O = 9
    frames = [molecule(name) for name in ("H2O", "H2", "O2")]
    baseline = CompositionBaseline().fit(frames, Targets(kinds={"gap": GAP}, gap=[7.0, 6.0, 9.0]))
    np.testing.assert_allclose(baseline.coef_["gap"], [6.0, 9.0])
    np.testing.assert_allclose(baseline.predict([molecule("H2O2"), Atoms("OOOH")]), [7.5, 8.25])
    offset = baseline.transform(frames).offset
    assert list(offset) == ["gap"]
    np.testing.assert_allclose(offset["gap"], [7.0, 6.0, 9.0])


def test_mean_of_one_composition_has_the_smallest_weights():
    # (2 w_H + w_O) / 3 = 10 is closest to zero at 30 (2, 1) / 5
    y = Targets(kinds={"gap": GAP}, gap=[9.0, 11.0])
    baseline = CompositionBaseline().fit([molecule("H2O")] * 2, y)
    np.testing.assert_allclose(baseline.coef_["gap"], [12.0, 6.0])
    np.testing.assert_allclose(baseline.predict([molecule("H2O")]), [10.0])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000))
def test_means_equal_the_pseudo_inverse_of_the_shares(seed):
    rng = np.random.default_rng(seed)
    frames = [Atoms(rng.choice([1, 6, 8], size=rng.integers(1, 6))) for _ in range(5)]
    kind = TargetKind.scalar(2, intensive=True)
    values, weights = rng.normal(size=(5, 2)), rng.random(5) + 0.1
    values[1, 0] = np.nan
    y = Targets(kinds={"t": kind}, t=values)
    baseline = CompositionBaseline().fit(frames, y, sample_weight=weights)
    counts = counts_of(frames, baseline.elements_)
    shares = counts / counts.sum(1, keepdims=True)
    for k, column in enumerate(values.T):
        there, root = np.isfinite(column), np.sqrt(weights)
        inverse = np.linalg.pinv(shares[there] * root[there, None])
        coef = inverse @ (column * root)[there]
        np.testing.assert_allclose(baseline.coef_["t"][:, k], coef, atol=1e-9)


def test_twice_a_structure(frames):
    """The same mean and twice the sum, to the bit: halves and doubles are exact."""
    kinds = {
        **{"gap": GAP, "total": TargetKind.scalar()},
        "tensor": TargetKind.tensor(symmetric=True, intensive=True),
    }
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=(len(frames), *kind.shape)) for name, kind in kinds.items()}
    columns["tensor"] += columns["tensor"].swapaxes(1, 2)
    baseline = CompositionBaseline().fit(frames, Targets(kinds=kinds, **columns))
    single = baseline.predict(frames, targets=list(kinds))
    twice = baseline.predict([atoms + atoms for atoms in frames], targets=list(kinds))
    for name, kind in kinds.items():
        assert np.abs(single[name]).max() > 0
        np.testing.assert_array_equal(twice[name], single[name] * (1 if kind.intensive else 2))


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        # H2O, H2: what is left of 7 and 6 for the elements that are free
        ({"H": 3.0}, [3.0, 15.0]),
        ({"O": 0.0}, [(7 * 2 / 3 + 6) / (4 / 9 + 1), 0.0]),
        ({"H": 5, 8: 5}, [5.0, 5.0]),
        (5.0, [5.0, 5.0]),
    ],
)
def test_fixed_weights_of_means(fixed, expected):
    frames = [molecule("H2O"), molecule("H2")]
    y = Targets(kinds={"gap": GAP}, gap=[7.0, 6.0])
    baseline = CompositionBaseline({"gap": fixed}).fit(frames, y)
    np.testing.assert_allclose(baseline.coef_["gap"], expected)
    if fixed == 5.0:
        np.testing.assert_allclose(baseline.predict([molecule("H2O2"), Atoms("O")]), 5.0)


def test_offsets_of_means_are_subtracted_before():
    structures = as_structures([Atoms("H"), Atoms("H2")]).with_offset("gap", [10.0, 10.0])
    baseline = CompositionBaseline().fit(structures, Targets(kinds={"gap": GAP}, gap=[12.0, 12.0]))
    np.testing.assert_allclose(baseline.coef_["gap"], [2.0])
    np.testing.assert_allclose(baseline.transform(structures).offset["gap"], [12.0, 12.0])


def test_a_sum_does_not_become_a_mean():
    frames, gap = [Atoms("H"), Atoms("H2")], [1.0, 2.0]
    first = Targets(kinds={"gap": TargetKind.scalar()}, gap=gap)
    baseline = CompositionBaseline(warm_start=True).fit(frames, first)
    with pytest.raises(ValueError, match=r"'gap' is .*intensive=True.*but was .*scalar\(\) in"):
        baseline.fit(frames, Targets(kinds={"gap": GAP}, gap=gap))


# --- as a step -----------------------------------------------------------------------------------


def test_transform_attaches_the_prediction(frames):
    energies = composition_energies(frames)
    baseline = CompositionBaseline().fit(frames, energies)
    structures = baseline.transform(frames)
    assert isinstance(structures, Structures)
    np.testing.assert_allclose(structures.offset["energy"], energies)
    np.testing.assert_array_equal(structures.offset["energy"], baseline.predict(frames))
    shares = structures.offset["energies"]
    for atoms, share in zip(frames, shares, strict=True):
        np.testing.assert_allclose(share, [WEIGHTS[number] for number in atoms.numbers])


def test_fit_learns_what_the_offset_leaves():
    structures = as_structures([Atoms("H"), Atoms("H2")]).with_offset("energy", [10.0, 20.0])
    baseline = CompositionBaseline().fit(structures, [9.0, 18.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [-1.0])
    offset = baseline.transform(structures).offset["energy"]
    np.testing.assert_allclose(offset, [9.0, 18.0])


def test_two_baselines_subtract_nothing_twice(frames):
    energies = composition_energies(frames) + np.random.default_rng(0).normal(size=len(frames))
    first = CompositionBaseline({"H": -10.0, "C": -1000.0, "N": -1400.0, "O": -2000.0})
    pipe = make_pipeline(first, CompositionBaseline()).fit(frames, energies)
    single = CompositionBaseline().fit(frames, energies)
    np.testing.assert_allclose(
        pipe[-1].coef_["energy"], single.coef_["energy"] - pipe[0].coef_["energy"], rtol=1e-9
    )
    both = pipe.transform(frames).offset["energy"]
    np.testing.assert_allclose(both, single.predict(frames), rtol=1e-12)
    # a third one finds nothing left
    rest = CompositionBaseline().fit(pipe.transform(frames), energies)
    np.testing.assert_allclose(rest.coef_["energy"], 0.0, atol=1e-9)


def test_is_a_regressor(frames):
    energies = composition_energies(frames) + np.arange(len(frames)) ** 2
    baseline = CompositionBaseline().fit(frames, energies)
    expected = r2_score(energies, baseline.predict(frames))
    assert is_regressor(baseline)
    assert 0.9 < expected < 1.0
    assert baseline.score(frames, energies) == expected
    assert baseline.score(frames, Targets(energy=energies)) == expected


@pytest.mark.parametrize("method", ["predict", "transform"])
def test_unseen_element(method):
    baseline = CompositionBaseline().fit([molecule("H2O")], [-10.0])
    message = r"elements \['C', 'N'\] absent from fit, which saw \['H', 'O'\]. Refit"
    with pytest.raises(ValueError, match=message):
        getattr(baseline, method)([molecule("H2O"), molecule("HCN")])


@pytest.mark.parametrize("method", ["predict", "transform"])
def test_not_fitted(method):
    with pytest.raises(NotFittedError):
        getattr(CompositionBaseline(), method)([Atoms("H")])


def test_takes_what_structures_are_read_from(frames):
    energies = composition_energies(frames)
    for X in (tuple(frames), as_structures(frames), (atoms for atoms in frames)):
        baseline = CompositionBaseline().fit(X, energies)
        np.testing.assert_allclose(baseline.coef_["energy"], list(WEIGHTS.values()), rtol=1e-12)
    transformed = baseline.transform(atoms for atoms in frames)
    np.testing.assert_allclose(transformed.offset["energy"], energies)


def test_clone_and_pickle(frames):
    baseline = CompositionBaseline({"H": -13.6})
    parameters = {"fixed_weights": {"H": -13.6}, "warm_start": False}
    assert clone(baseline).get_params() == parameters
    baseline.fit(frames, composition_energies(frames))
    back = pickle.loads(pickle.dumps(baseline))
    np.testing.assert_array_equal(back.predict(frames), baseline.predict(frames))


def test_fit_does_not_touch_its_arguments(frames):
    fixed, energies = {"H": -1.0}, composition_energies(frames)
    before = energies.copy()
    baseline = CompositionBaseline(fixed).fit(frames, energies)
    assert baseline.fixed_weights is fixed
    assert fixed == {"H": -1.0}
    np.testing.assert_array_equal(energies, before)
