import pickle
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import TargetKind, Targets
from sklearn_soapbpnn.data import KNOWN_KINDS, as_structures, as_targets

N_ATOMS = (3, 5, 2)
ENERGY = np.array([-1.0, -2.0, -3.0])
ENERGY.flags.writeable = False
VOIGT = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # xx yy zz yz xz xy
FULL = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
STRESS = np.stack([FULL, 2 * FULL, 3 * FULL])
CHARGES = {"charges": TargetKind.scalar(per_atom=True, unit="e")}


def make_forces(counts=N_ATOMS):
    return [np.full((n, 3), float(index)) for index, n in enumerate(counts)]


@pytest.fixture
def frames():
    return [molecule(name) for name in ("H2O", "CH4", "H2")]


@pytest.fixture
def targets():
    """Every known column, and two declared ones."""
    return Targets(
        kinds={"gap": TargetKind.scalar(intensive=True), **CHARGES},
        energy=ENERGY,
        forces=make_forces(),
        stress=STRESS,
        virial=-STRESS,
        dipole=np.arange(9.0).reshape(3, 3),
        gap=10 * ENERGY,
        charges=[np.arange(float(n)) for n in N_ATOMS],
    )


# --- columns -------------------------------------------------------------------------------------


def test_columns(targets):
    names = ("energy", "forces", "stress", "virial", "dipole", "gap", "charges")
    assert targets.names == names
    assert tuple(targets.kinds) == names
    assert targets.kinds["forces"] == TargetKind.vector(per_atom=True, unit="eV/Angstrom")
    assert targets.kinds["charges"] == CHARGES["charges"]
    assert len(targets) == 3
    assert targets.shape == (3,)
    assert repr(targets) == f"Targets(3 structures: {', '.join(names)})"
    np.testing.assert_array_equal(targets["energy"], ENERGY)
    np.testing.assert_array_equal(targets["gap"], 10 * ENERGY)
    assert targets["stress"].shape == targets["virial"].shape == (3, 3, 3)
    assert targets["dipole"].shape == (3, 3)
    assert [values.shape for values in targets["forces"]] == [(n, 3) for n in N_ATOMS]
    assert [values.shape for values in targets["charges"]] == [(n,) for n in N_ATOMS]


def test_values_become_float64():
    y = Targets(energy=[1, 2], forces=[np.zeros((1, 3), dtype=np.float32), [[0, 0, 1]]])
    assert y["energy"].dtype == np.float64
    assert all(values.dtype == np.float64 for values in y["forces"])


def test_contains(targets):
    assert "forces" in targets
    assert "spin" not in targets


def test_no_columns():
    with pytest.raises(ValueError, match=r"at least one column, e\.g\. Targets\(energy="):
        Targets()


def test_unknown_name_says_how_to_declare_it():
    message = r"'spin' is not known.*Declare it, e\.g\. kinds=\{'spin': TargetKind\.scalar\(\)\}"
    with pytest.raises(ValueError, match=message):
        Targets(energy=ENERGY, spin=[[0.0]] * 3)
    with pytest.raises(ValueError, match=message):
        Targets.from_atoms([Atoms("H")], spin="spin")


def test_kind_must_be_a_target_kind():
    with pytest.raises(TypeError, match="'gap'.*TargetKind"):
        Targets(kinds={"gap": (3,)}, gap=np.zeros((2, 3)))


def test_a_known_kind_can_be_redeclared():
    y = Targets(kinds={"dipole": TargetKind.vector(per_atom=True)}, dipole=[np.zeros((2, 3))])
    assert y.kinds["dipole"].per_atom
    assert y["dipole"][0].shape == (2, 3)


def test_unknown_column(targets):
    with pytest.raises(KeyError, match=r"no column 'spin'; it has \['energy', 'forces'"):
        targets["spin"]
    with pytest.raises(KeyError, match="no column 'spin'; it has"):
        targets.labelled("spin")


def test_unequal_lengths():
    with pytest.raises(ValueError, match=r"differ in length: \{'energy': 3, 'forces': 2\}"):
        Targets(energy=ENERGY, forces=make_forces()[:2])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"energy": 1.0}, r"energy must have shape \(n,\), got \(\)"),
        ({"energy": [[1.0], [2.0]]}, r"energy must have shape \(n,\), got \(2, 1\)"),
        ({"stress": np.zeros((2, 6))}, r"got \(2, 6\)\. Convert each from Voigt order"),
        ({"forces": np.zeros((2, 6))}, r"forces\[0\] must have shape \(n, 3\), got \(6,\)"),
        (
            {"forces": [np.zeros((2, 3)), np.zeros((2, 2))]},
            r"forces\[1\] must have shape \(n, 3\), got \(2, 2\)",
        ),
        ({"stress": np.zeros((2, 6))}, r"stress must have shape \(n, 3, 3\), got \(2, 6\)"),
        ({"dipole": np.zeros(3)}, r"dipole must have shape \(n, 3\), got \(3,\)"),
        ({"forces": 1.0}, "forces"),
        ({"forces": None}, "forces"),
        ({"energy": ["low", "high"]}, "energy is not an array of numbers"),
        ({"energy": [1.0, [2.0, 3.0]]}, "energy is not an array of numbers"),
    ],
)
def test_wrong_shape(columns, message):
    with pytest.raises(ValueError, match=message):
        Targets(**columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"energy": [0.0, np.inf]}, r"energy contains infinity at index 1"),
        ({"energy": [-np.inf, 0.0]}, r"energy contains infinity at index 0"),
        (
            {"forces": [np.zeros((2, 3)), [[0, 0, 0], [0, np.inf, 0]]]},
            r"forces\[1\] contains infinity at index 1",
        ),
        ({"dipole": [[0, 0, 0], [0, 0, 0], [0, 0, np.inf]]}, "dipole contains infinity at index 2"),
    ],
)
def test_infinity(columns, message):
    with pytest.raises(ValueError, match=message):
        Targets(**columns)


@pytest.mark.parametrize("name", ["energy", "forces", "stress", "virial", "energies"])
def test_kinds_of_the_energy_change_their_unit_only(name):
    own = KNOWN_KINDS[name]
    y = Targets(
        kinds={name: own.with_unit("a.u.")},
        **{
            name: np.zeros((2, 1, *own.shape))[:, 0]
            if not own.per_atom
            else [np.zeros((1, *own.shape))] * 2
        },
    )
    assert y.kinds[name] == own.with_unit("a.u.")
    assert y.units == {name: "a.u."}
    other = TargetKind.vector(per_atom=not own.per_atom)
    with pytest.raises(ValueError, match=f"'{name}' means: its (shape|per_atom) must be"):
        Targets(kinds={name: other}, **{name: []})


@pytest.mark.parametrize("name", ["energy", "stress", "virial"])
def test_the_energy_and_its_derivatives_are_extensive(name):
    make = TargetKind.scalar if name == "energy" else partial(TargetKind.tensor, symmetric=True)
    kind = make(intensive=True, unit="eV")
    message = rf"kinds\['{name}'\]=.*intensive=True.* its intensive must be False.*another name"
    with pytest.raises(ValueError, match=message):
        Targets(kinds={name: kind}, **{name: np.zeros((2, *kind.shape))})


def test_other_known_names_may_be_intensive():
    """A polarisation per atom, say."""
    kind = TargetKind.vector(intensive=True)
    assert Targets(kinds={"dipole": kind}, dipole=np.zeros((2, 3))).kinds["dipole"] == kind


def test_spherical_forces_are_refused():
    """Of the same shape, but with components y, z, x."""
    kinds = {"forces": TargetKind.spherical((1, 1), per_atom=True)}
    with pytest.raises(ValueError, match="its cartesian_rank must be 1.*use another name"):
        Targets(kinds=kinds, forces=make_forces())


def test_stress_stays_symmetric_and_per_volume():
    y = Targets(kinds={"stress": TargetKind.tensor(unit="GPa")}, stress=np.zeros((1, 3, 3)))
    assert y.kinds["stress"] == KNOWN_KINDS["stress"].with_unit("GPa")


def test_units(targets):
    assert targets.units["energy"] == "eV"
    assert targets.units["charges"] == "e"
    assert targets.units["gap"] == ""
    assert tuple(targets.units) == targets.names


def test_any_name_and_kind():
    kinds = {
        "mtt::dos": TargetKind.scalar(5),
        "a b, c": TargetKind.spherical([(0, 1), (2, 1, 2)], per_atom=True),
        "class": TargetKind.tensor(2),
    }
    columns = {
        "mtt::dos": np.zeros((2, 5)),
        "a b, c": [np.zeros((3, 11)), np.zeros((1, 11))],
        "class": np.zeros((2, 3, 3, 2)),
    }
    y = Targets(kinds=kinds, **columns)
    assert y.names == tuple(columns)
    assert y.kinds == kinds
    assert y[[1]].kinds == pickle.loads(pickle.dumps(y)).kinds == kinds
    assert y[[1]]["a b, c"][0].shape == (1, 11)
    with pytest.raises(ValueError, match=r"a b, c\[1\] must have shape \(n, 11\), got \(1, 10\)"):
        Targets(kinds=kinds, **{"a b, c": [np.zeros((3, 11)), np.zeros((1, 10))]})


def test_flatten(targets):
    assert targets.flatten("energy").shape == (3, 1)
    assert targets.flatten("charges").shape == (10, 1)
    np.testing.assert_array_equal(targets.flatten("forces"), np.concatenate(make_forces()))
    np.testing.assert_array_equal(targets.flatten("stress"), STRESS.reshape(3, 9))


# --- symmetric tensors ---------------------------------------------------------------------------

SYMMETRIC = TargetKind.tensor(symmetric=True)


def symmetric(n, seed=0):
    tensors = np.random.default_rng(seed).normal(size=(n, 3, 3))
    return tensors + tensors.swapaxes(1, 2)


@pytest.mark.parametrize("name", ["stress", "virial", "polarizability", "non_conservative_stress"])
def test_nine_numbers_in_another_order(name):
    """xx yy zz, then the rest, read as rows."""
    order = [0, 4, 8, 1, 5, 6, 3, 7, 2]
    frames = [Atoms("H", info={"label": tensor.ravel()[order]}) for tensor in symmetric(5)]
    message = (
        rf"Target '{name}' of structure \d is not symmetric: its antisymmetric part is \d\d% of "
        r"its norm \(5 of 5 labels .*order of the nine numbers.*\(a \+ a\.T\) / 2"
    )
    with pytest.raises(ValueError, match=message) as caught:
        Targets.from_atoms(frames, **{name: "label"})
    suggested = f"kinds={{'{name}': TargetKind.tensor(" in str(caught.value)
    assert suggested == (name in ("polarizability", "non_conservative_stress"))


def test_size_of_an_asymmetry():
    tensors = np.stack([np.eye(3)] * 4)
    tensors[2, 0, 1] = 2.0
    # the antisymmetric part is 1 in two places, all of it 1, 1, 1 and 2
    message = r"'virial' of structure 2 .* part is 53% of its norm \(1 of 4 labels"
    with pytest.raises(ValueError, match=message):
        Targets(virial=tensors)


def test_small_labels_are_compared_to_the_others_too():
    with pytest.raises(ValueError, match="'stress' of structure 0 is not symmetric.*24%.*1 of 3"):
        Targets(stress=np.arange(27.0).reshape(3, 3, 3))


def test_asymmetry_of_atoms_and_properties():
    kind = TargetKind.tensor(2, symmetric=True, per_atom=True, unit="ppm")
    labels = [np.stack([symmetric(n, k) for k in range(2)], axis=-1) for n in N_ATOMS]
    assert Targets(kinds={"t": kind}, t=labels)["t"][1].shape == (5, 3, 3, 2)
    labels[1][4, 0, 2, 1] += 9.0
    message = r"'t' of atom 4 of structure 1 is not symmetric.*\(1 of 10 labels.*declare"
    with pytest.raises(ValueError, match=message) as caught:
        Targets(kinds={"t": kind}, t=labels)
    assert "kinds={'t': TargetKind.tensor(2, per_atom=True, unit='ppm')}" in str(caught.value)
    labels[1][4, 0, 2, 1] = np.nan
    Targets(kinds={"t": kind}, t=labels)


@pytest.mark.parametrize("unit", [1e-40, 1.0, 1e200])
@pytest.mark.parametrize(
    "noise",
    [
        lambda rng, tensors: 0.03 * rng.normal(size=tensors.shape),
        lambda rng, tensors: tensors.astype(np.float32) - tensors,
        lambda rng, tensors: np.where(rng.random(tensors.shape) < 0.5, np.nan, 0.0),
        lambda rng, tensors: -tensors,
    ],
    ids=["noise", "rounding", "missing components", "zero"],
)
def test_noise_is_symmetric_enough(unit, noise):
    """Also where a tensor is much smaller than the others, and what it holds is noise."""
    rng, tensors = np.random.default_rng(0), symmetric(50)
    tensors[::7] = 0.0
    labels = unit * (tensors + noise(rng, tensors))
    y = Targets(kinds={"t": SYMMETRIC}, t=labels)
    np.testing.assert_array_equal(y["t"], labels)


def test_rounding_is_symmetric_enough_where_nothing_else_is_left():
    Targets(stress=1e-16 * np.random.default_rng(0).normal(size=(5, 3, 3)))


def test_symmetric_kinds_without_labels():
    kinds = {"t": SYMMETRIC, "a": TargetKind.tensor(symmetric=True, per_atom=True)}
    for n in (0, 2):
        y = Targets(kinds=kinds, t=np.full((n, 3, 3), np.nan), a=[np.zeros((0, 3, 3))] * n)
        assert len(y) == n


# --- labels --------------------------------------------------------------------------------------


def test_nan_is_not_labelled():
    forces = make_forces()
    forces[1][2, 1] = np.nan
    y = Targets(energy=[np.nan, 0.0, 1.0], forces=forces)
    np.testing.assert_array_equal(y.labelled("energy"), [False, True, True])
    labelled = y.labelled("forces")
    assert [values.shape for values in labelled] == [(n, 3) for n in N_ATOMS]
    assert labelled[0].all()
    assert labelled[2].all()
    np.testing.assert_array_equal(np.argwhere(~labelled[1]), [[2, 1]])


def test_none_is_not_labelled():
    y = Targets(energy=[None, 1.0])
    np.testing.assert_array_equal(y.labelled("energy"), [False, True])


def test_array_is_the_energy_or_the_first_scalar_column(targets):
    np.testing.assert_array_equal(np.asarray(targets), ENERGY)
    kinds = {name: TargetKind.scalar(intensive=True) for name in ("gap", "homo")}
    y = Targets(kinds=kinds, forces=make_forces(), gap=ENERGY, homo=3 * ENERGY, energy=2 * ENERGY)
    np.testing.assert_array_equal(np.asarray(y), 2 * ENERGY)
    np.testing.assert_array_equal(np.asarray(y.select(["forces", "gap", "homo"])), ENERGY)
    assert np.asarray(y, dtype=np.float32).dtype == np.float32


def test_a_scalar_per_atom_is_not_the_array():
    y = Targets(kinds=CHARGES, charges=[np.zeros(3)], energy=[1.0])
    np.testing.assert_array_equal(np.asarray(y), [1.0])


def test_array_of_the_only_column_per_structure_is_flat():
    tensors = np.arange(9.0).reshape(3, 3, 1) + np.diag([1.0, 2.0, 3.0])
    tensors = tensors + tensors.swapaxes(1, 2)
    y = Targets(forces=make_forces(), polarizability=tensors)
    assert y.array_name == "polarizability"
    np.testing.assert_array_equal(np.asarray(y), tensors.reshape(3, 9))
    np.testing.assert_array_equal(np.asarray(y[[2, 0]]), tensors.reshape(3, 9)[[2, 0]])


@pytest.mark.parametrize(
    "columns",
    [
        {"dipole": np.zeros((3, 3)), "polarizability": np.zeros((3, 3, 3))},
        {"forces": make_forces()},
    ],
)
def test_array_needs_a_scalar_or_a_single_column(columns):
    y = Targets(**columns)
    assert y.array_name is None
    with pytest.raises(ValueError, match="has no scalar column.*make_target_scorer") as info:
        np.asarray(y)
    assert str(list(columns)) in str(info.value)


@pytest.mark.parametrize("frozen", [False, True])
def test_masked_labels_are_missing(frozen):
    values = np.ma.array([1.0, 2.0], mask=[True, False])
    if frozen:
        values.data.flags.writeable = False
        values.flags.writeable = False
    energy = Targets(energy=values)["energy"]
    assert type(energy) is np.ndarray
    assert np.array_equal(energy, [np.nan, 2.0], equal_nan=True)
    with pytest.raises(ValueError, match=r"y\[0\] is NaN"):
        as_targets(values, as_structures([Atoms("H"), Atoms("O")]))


def test_tensors_that_are_differentiated():
    labels = torch.tensor([1.0], requires_grad=True)
    for call in (
        lambda: Targets(energy=labels),
        lambda: as_targets(labels, as_structures([Atoms("H")])),
    ):
        with pytest.raises(ValueError, match="detach"):
            call()


def test_np_array_is_a_copy():
    y = Targets(energy=[1.0, 2.0])
    array = np.array(y)
    array[:] = 99.0
    np.testing.assert_array_equal(y["energy"], [1.0, 2.0])


def test_pickle(targets):
    back = pickle.loads(pickle.dumps(targets))
    assert back.names == targets.names
    assert back.kinds == targets.kinds
    for name in targets.names:
        for a, b in zip(targets[name], back[name], strict=True):
            np.testing.assert_array_equal(a, b)


# --- indexing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        slice(1, None),
        slice(None, None, -2),
        slice(3, 3),
        [2, 0],
        [-1, -1],
        [],
        np.array([1]),
        [False, True, True],
        np.zeros(3, dtype=bool),
    ],
    ids=str,
)
@pytest.mark.parametrize("with_ellipsis", [False, True])
def test_selection_slices_every_column(targets, key, with_ellipsis):
    reference = np.arange(3)[key if isinstance(key, slice) or len(key) else np.array([], int)]
    part = targets[(key, ...)] if with_ellipsis else targets[key]
    assert isinstance(part, Targets)
    assert part.names == targets.names
    assert part.kinds == targets.kinds
    assert len(part) == len(reference)
    for name in targets.names:
        assert len(part[name]) == len(reference)
        for position, values in zip(reference, part[name], strict=True):
            np.testing.assert_array_equal(values, targets[name][position])


@pytest.mark.parametrize("key", [1, -2, np.int32(1), np.array(1), (1, ...)], ids=str)
def test_integer_gives_a_dict(targets, key):
    entry = targets[key]
    assert list(entry) == list(targets.names)
    assert entry["energy"] == ENERGY[1]
    np.testing.assert_array_equal(entry["forces"], np.ones((5, 3)))


@pytest.mark.parametrize(
    "key",
    [
        3,
        -4,
        [3],
        [True, False],
        np.array([], dtype=bool),
        True,
        [[0, 1], [1, 2]],
        0.5,
        None,
        (0, 1),
    ],
    ids=str,
)
def test_wrong_index_raises(targets, key):
    with pytest.raises(IndexError):
        targets[key]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_columns_stay_together(data, counts):
    n = len(counts)
    y = Targets(energy=np.arange(float(n)), forces=make_forces(counts))
    key = data.draw(
        st.one_of(
            st.slices(n),
            st.lists(st.integers(-n, n - 1)).map(lambda key: np.array(key, dtype=int)),
            st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
        )
    )
    part = y[key]
    assert len(part) == len(part["forces"]) == len(np.arange(n)[key])
    for energy, forces in zip(part["energy"], part["forces"], strict=True):
        np.testing.assert_array_equal(forces, np.full((counts[int(energy)], 3), energy))


def test_train_test_split(frames, targets):
    X_train, X_test, y_train, y_test = train_test_split(frames, targets, random_state=0)
    for X, y in ((X_train, y_train), (X_test, y_test)):
        assert isinstance(y, Targets)
        assert [len(atoms) for atoms in X] == [len(forces) for forces in y["forces"]]


# --- from_atoms ----------------------------------------------------------------------------------


def test_from_atoms_reads_results_of_any_calculator():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = EMT()
    atoms.get_forces()
    atoms.get_stress()
    y = Targets.from_atoms([atoms], energy="energy", forces="forces", stress="stress")
    assert y.names == ("energy", "forces", "stress")
    np.testing.assert_array_equal(y["energy"], [atoms.get_potential_energy()])
    np.testing.assert_array_equal(y["forces"][0], atoms.get_forces())
    np.testing.assert_array_equal(y["stress"][0], atoms.get_stress(voigt=False))


def test_from_atoms_prefers_results_then_info_then_arrays():
    atoms = Atoms("H", info={"label": 2.0})
    atoms.set_array("label", np.array([3.0]))
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results["label"] = 1.0
    for expected in (1.0, 2.0, 3.0):
        assert Targets.from_atoms([atoms], energy="label")["energy"] == [expected]
        if "label" in atoms.calc.results:
            del atoms.calc.results["label"]
        else:
            atoms.info.pop("label", None)


def test_from_atoms_ignores_constraints():
    atoms = molecule("H2")
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.calc = SinglePointCalculator(atoms, forces=np.ones((2, 3)))
    np.testing.assert_array_equal(atoms.get_forces(), 0.0)
    np.testing.assert_array_equal(Targets.from_atoms([atoms], forces="forces")["forces"][0], 1.0)


def test_from_atoms_does_not_start_a_calculation():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    with pytest.raises(KeyError, match="no label 'energy'"):
        Targets.from_atoms([atoms], energy="energy")


@pytest.mark.parametrize("name", ["stress", "virial"])
@pytest.mark.parametrize("value", [VOIGT, FULL, FULL.ravel(), FULL.tolist(), list(VOIGT)])
def test_from_atoms_undoes_voigt_and_flattening(name, value):
    y = Targets.from_atoms([Atoms("H", info={"label": value})], **{name: "label"})
    np.testing.assert_array_equal(y[name], [FULL])


def test_from_atoms_keeps_the_order_of_flat_matrices():
    matrix, kinds = np.arange(9.0), {"shielding": TargetKind.tensor()}
    frames = [Atoms("H", info={"label": matrix})]
    y = Targets.from_atoms(frames, kinds=kinds, shielding="label")
    np.testing.assert_array_equal(y["shielding"], [matrix.reshape(3, 3)])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6).map(np.array))
def test_voigt_round_trip(voigt):
    y = Targets.from_atoms([Atoms("H", info={"label": voigt})], stress="label")
    np.testing.assert_array_equal(full_3x3_to_voigt_6_stress(y["stress"][0]), voigt)


def test_from_atoms_takes_a_scalar_out_of_its_array():
    y = Targets.from_atoms([Atoms("H", info={"e": np.array([1.5])})], energy="e")
    np.testing.assert_array_equal(y["energy"], [1.5])


def test_from_atoms_reads_declared_columns(frames):
    for atoms in frames:
        atoms.set_array("q", np.arange(float(len(atoms))))
    y = Targets.from_atoms(frames, kinds=CHARGES, charges="q")
    assert [len(values) for values in y["charges"]] == list(N_ATOMS)


@pytest.mark.parametrize("flat", [(4, 9), (36,), (4, 3, 3)])
def test_from_atoms_reshapes_values_of_atoms(flat):
    kinds = {"shielding": TargetKind.tensor(per_atom=True)}
    values = np.arange(36.0)
    atoms = Atoms("H4", info={"s": values.reshape(flat)})
    y = Targets.from_atoms([atoms], kinds=kinds, shielding="s")
    np.testing.assert_array_equal(y["shielding"][0], values.reshape(4, 3, 3))


def test_from_atoms_takes_a_column_of_numbers_of_atoms():
    atoms = Atoms("H2")
    atoms.set_array("q", np.array([[1.0], [2.0]]))
    y = Targets.from_atoms([atoms], charges="q")
    np.testing.assert_array_equal(y["charges"][0], [1.0, 2.0])
    y = Targets.from_atoms([atoms], kinds={"q": TargetKind.scalar(1, per_atom=True)}, q="q")
    np.testing.assert_array_equal(y["q"][0], [[1.0], [2.0]])


def test_from_atoms_undoes_voigt_of_atoms():
    kinds = {"stresses": TargetKind.tensor(symmetric=True, per_atom=True)}
    atoms = Atoms("H2")
    atoms.set_array("s", np.stack([VOIGT, 2 * VOIGT]))
    y = Targets.from_atoms([atoms], kinds=kinds, stresses="s")
    np.testing.assert_array_equal(y["stresses"][0], [FULL, 2 * FULL])


def test_from_atoms_undoes_flattening_of_any_kind():
    kinds = {"blocks": TargetKind.spherical((2, 1), 2), "two": TargetKind.tensor(2)}
    info = {"b": np.arange(10.0), "t": np.arange(18.0)}
    y = Targets.from_atoms([Atoms("H", info=info)], kinds=kinds, blocks="b", two="t")
    np.testing.assert_array_equal(y["blocks"][0], np.arange(10.0).reshape(5, 2))
    np.testing.assert_array_equal(y["two"][0], np.arange(18.0).reshape(3, 3, 2))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (TargetKind.tensor(), VOIGT, r"\(3, 3\)"),
        (TargetKind.tensor(2), np.zeros((2, 3, 3)), r"\(3, 3, 2\)"),
        (TargetKind.spherical((2, 1), 3), np.zeros((3, 5)), r"\(5, 3\)"),
        (TargetKind.vector(per_atom=True), np.zeros((3, 4)), r"\(n_atoms, 3\), n_atoms=4"),
        (TargetKind.vector(per_atom=True), np.zeros((5, 3)), r"\(n_atoms, 3\), n_atoms=4"),
        (TargetKind.scalar(per_atom=True), np.zeros(5), r"\(n_atoms,\), n_atoms=4"),
    ],
)
def test_from_atoms_does_not_guess(kind, value, expected):
    """Voigt vectors of tensors that are not symmetric, transposed axes, other structures."""
    frames = [Atoms("H4", info={"label": value})]
    with pytest.raises(ValueError, match=f"'label' of structure 0.*'t' needs {expected}"):
        Targets.from_atoms(frames, kinds={"t": kind}, t="label")


def test_missing_nan_has_the_shape_of_the_kind():
    kinds = {"blocks": TargetKind.spherical((2, 1), 2), **CHARGES}
    frames = [Atoms("H4"), Atoms("H")]
    y = Targets.from_atoms(frames, missing="nan", kinds=kinds, blocks="b", charges="q")
    assert y["blocks"].shape == (2, 5, 2)
    assert [values.shape for values in y["charges"]] == [(4,), (1,)]
    assert not y.labelled("blocks").any()


def test_missing_key_lists_the_keys_there_are():
    labelled = Atoms("H", info={"e": 1.0})
    other = Atoms("H", info={"config": "isolated"})
    other.set_array("q", np.zeros(1))
    other.calc = SinglePointCalculator(other, energy=1.0, forces=np.zeros((1, 3)))
    with pytest.raises(KeyError) as info:
        Targets.from_atoms([labelled, other], energy="e")
    message = str(info.value)
    for part in (
        "Structure 1",
        "'e'",
        "['energy', 'forces']",
        "['config']",
        "['numbers', 'positions', 'q']",
        "missing='nan'",
    ):
        assert part in message


def test_missing_nan_marks_as_not_labelled(frames):
    frames[0].info.update(e=1.0, v=VOIGT, d=[0.0, 0.0, 1.0])
    frames[0].set_array("f", np.ones((3, 3)))
    keys = {"energy": "e", "forces": "f", "virial": "v", "dipole": "d"}
    y = Targets.from_atoms(frames, missing="nan", **keys)
    np.testing.assert_array_equal(y.labelled("energy"), [True, False, False])
    assert [values.shape for values in y["forces"]] == [(n, 3) for n in N_ATOMS]
    for name in keys:
        assert np.all(y.labelled(name)[0])
        assert not any(np.any(y.labelled(name)[index]) for index in (1, 2))


def test_unknown_value_of_missing(frames):
    with pytest.raises(ValueError, match="missing must be 'raise' or 'nan', got 'zero'"):
        Targets.from_atoms(frames, energy="energy", missing="zero")


@pytest.mark.parametrize("label", ["low", [1.0, 2.0]])
def test_from_atoms_names_the_structure_with_a_bad_label(label):
    frames = [Atoms("H", info={"e": 1.0}), Atoms("H", info={"e": label})]
    with pytest.raises(ValueError, match=r"[Ss]tructure 1|energy\[1\]"):
        Targets.from_atoms(frames, energy="e")


# --- fitting together with structures ------------------------------------------------------------


def test_as_targets_takes_an_array_for_energies(frames):
    y = as_targets([1, 2, 3], as_structures(frames))
    assert y.names == ("energy",)
    np.testing.assert_array_equal(y["energy"], [1.0, 2.0, 3.0])


def test_as_targets_returns_targets_as_they_are(frames, targets):
    assert as_targets(targets, as_structures(frames)) is targets


def test_as_targets_checks_the_number_of_atoms(frames):
    y = Targets(kinds=CHARGES, energy=ENERGY, charges=[np.zeros(n) for n in (3, 4, 2)])
    message = "'charges' of structure 1 has 4 rows, but the structure has 5 atoms"
    with pytest.raises(ValueError, match=message):
        as_targets(y, as_structures(frames))
