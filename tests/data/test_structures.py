import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapFeaturizer, Structures, TargetKind
from sklearn_soapbpnn.data import as_structures, expand_scale, flatten_offset

FORMULAS = ["H2O", "CH4", "H2", "NH3"]
OFFSET = np.array([1.0, 2.0, 3.0, 4.0])


@pytest.fixture
def frames():
    return [molecule(name) for name in FORMULAS]


@pytest.fixture
def structures(frames):
    return as_structures(frames)


@pytest.fixture
def attached(frames):
    """Structures that carry everything a step can attach."""
    featurizer = SoapFeaturizer(cutoff_radius=3.0, max_radial=1, max_angular=1)
    carrying = featurizer.fit_transform(frames)
    return carrying.with_offset("energy", OFFSET).with_scale("energy", 0.5)


def formulas(structures):
    return [atoms.get_chemical_formula(mode="reduce") for atoms in structures]


def all_arrays(structures):
    geometry = (structures.numbers, structures.positions, structures.cells, structures.pbc)
    return [array for arrays in geometry for array in arrays]


def assert_same_atoms(a, b):
    for name in ("numbers", "positions", "pbc"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.cell.array, b.cell.array)


# --- what is read from Atoms ---------------------------------------------------------------------


def test_holds_the_geometry():
    slab = Atoms("CuO", [[0, 0, 0], [0, 0, 1.5]], cell=[2, 3, 4], pbc=(True, True, False))
    structures = as_structures([slab, molecule("H2")])
    np.testing.assert_array_equal(structures.numbers[0], [29, 8])
    np.testing.assert_array_equal(structures.positions[0], [[0, 0, 0], [0, 0, 1.5]])
    np.testing.assert_array_equal(structures.cells[0], np.diag([2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(structures.pbc[0], [True, True, False])
    np.testing.assert_array_equal(structures.n_atoms, [2, 2])
    np.testing.assert_array_equal(structures.elements, [1, 8, 29])
    np.testing.assert_allclose(structures.volumes, [24.0, 0.0])


def test_volume_of_a_left_handed_cell_is_positive():
    atoms = Atoms("H", cell=[[0, 2, 0], [3, 0, 0], [0, 0, 4]], pbc=True)
    np.testing.assert_allclose(as_structures([atoms]).volumes, [24.0])


def test_round_trip_to_atoms():
    frames = [molecule("CH3OH"), bulk("NaCl", "rocksalt", a=5.6), Atoms("H")]
    for atoms, back in zip(frames, as_structures(frames), strict=True):
        assert type(back) is Atoms
        assert_same_atoms(atoms, back)


def test_structures_are_returned_as_they_are(structures):
    assert as_structures(structures) is structures


@pytest.mark.parametrize("container", [list, tuple, iter, lambda frames: (a for a in frames)])
def test_any_iterable_of_atoms(frames, container):
    assert formulas(as_structures(container(frames))) == formulas(frames)


def test_object_array_of_atoms(frames):
    array = np.empty(len(frames), dtype=object)
    array[:] = frames
    assert formulas(as_structures(array)) == formulas(frames)


class OwnAtoms(Atoms):
    """A user's subclass."""


def decorated():
    atoms = molecule("H2O")
    atoms.set_constraint(FixAtoms([0]))
    atoms.set_array("spin", np.arange(3.0))
    atoms.info["energy"] = 1.0
    atoms.calc = EMT()
    return atoms


def with_positions(transform):
    atoms = molecule("H2O")
    atoms.arrays["positions"] = transform(atoms.positions)
    return atoms


def read_only(values):
    values = values.copy()
    values.flags.writeable = False
    return values


@pytest.mark.parametrize(
    "make",
    [
        lambda: OwnAtoms(molecule("H2O")),
        decorated,
        lambda: with_positions(read_only),
        lambda: with_positions(np.asfortranarray),
        lambda: with_positions(lambda values: np.repeat(values, 2, axis=0)[::2]),
    ],
    ids=["subclass", "decorated", "read-only", "fortran", "strided"],
)
def test_unusual_atoms(make):
    (atoms,) = as_structures([make()])
    assert_same_atoms(atoms, molecule("H2O"))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_positions_become_float64(dtype):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]])
    atoms.arrays["positions"] = atoms.positions.astype(dtype)
    atoms.arrays["numbers"] = atoms.numbers.astype(np.int32)
    structures = as_structures([atoms])
    assert structures.positions[0].dtype == np.float64
    assert structures.numbers[0].dtype == np.int64
    np.testing.assert_array_equal(structures.positions[0], [[0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("number", [119, -1])
def test_numbers_outside_the_periodic_table(structures, number):
    numbers = [*structures.numbers[:3], [7, 1, number, 1]]
    geometry = structures.positions, structures.cells, structures.pbc
    with pytest.raises(ValueError, match=rf"Structure 3 .* numbers \[{number}\], .* 0 to 118"):
        Structures(numbers, *geometry)


def test_dummy_atoms_and_the_last_element():
    """ASE gives its dummy atom X the number 0."""
    structures = as_structures([Atoms("XOg", [[0, 0, 0], [0, 0, 1]])])
    np.testing.assert_array_equal(structures.elements, [0, 118])
    assert repr(structures) == "Structures(1 structures, 2 atoms, X Og)"


def test_structures_are_joined_as_lists(structures, attached):
    with pytest.raises(ValueError, match="not an array.*to join structures, join lists of Atoms"):
        np.concatenate([structures, structures])
    assert formulas(as_structures([*structures, *structures])) == 2 * formulas(structures)
    assert np.concatenate([attached, attached]).shape == (8, attached.shape[1])


# --- immutability --------------------------------------------------------------------------------


def test_later_changes_of_atoms_are_not_seen():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    original = atoms.copy()
    structures = as_structures([atoms])
    atoms.positions += 1.0
    atoms.numbers[:] = 1
    atoms.set_cell(np.eye(3))
    atoms.pbc = False
    assert_same_atoms(structures[0], original)


def test_atoms_that_come_out_may_be_changed(structures):
    atoms = structures[0]
    atoms.positions += 1.0
    atoms.numbers[:] = 2
    atoms.set_cell(np.eye(3))
    atoms.pbc = True
    assert_same_atoms(structures[0], molecule("H2O"))


@pytest.mark.parametrize("how", ["built", "sliced", "pickled"])
def test_geometry_is_read_only(structures, how):
    if how == "sliced":
        structures = structures[1:]
    elif how == "pickled":
        structures = pickle.loads(pickle.dumps(structures))
    for array in all_arrays(structures):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_offset_and_scale_are_read_only(attached):
    with pytest.raises(TypeError):
        attached.offset["energy"] = 0.0
    with pytest.raises(TypeError):
        attached.scale["energy"] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        attached.offset["energy"][0] = 0.0


def test_attaching_returns_a_copy(structures):
    offset = OFFSET.copy()
    carrying = structures.with_offset("energy", offset).with_scale("energy", 2.0)
    assert dict(structures.offset) == dict(structures.scale) == {}
    offset[:] = 0.0
    np.testing.assert_array_equal(carrying.offset["energy"], OFFSET)


# --- what steps attach ---------------------------------------------------------------------------


def test_with_offset_adds(structures):
    carrying = structures.with_offset("energy", OFFSET)
    twice = carrying.with_offset("energy", [10.0, 10.0, 10.0, 10.0])
    np.testing.assert_array_equal(twice.offset["energy"], OFFSET + 10.0)
    np.testing.assert_array_equal(carrying.offset["energy"], OFFSET)


def test_with_offset_keeps_other_targets(structures):
    carrying = structures.with_offset("energy", OFFSET).with_offset("charge", 2 * OFFSET)
    np.testing.assert_array_equal(carrying.offset["energy"], OFFSET)
    np.testing.assert_array_equal(carrying.offset["charge"], 2 * OFFSET)


@pytest.mark.parametrize("offset", [1.0, [1.0, 2.0], np.zeros((1, 4))])
def test_offset_needs_one_value_for_each_structure(structures, offset):
    with pytest.raises(ValueError, match=r"offset of 'energy' must have shape \(4, \.\.\.\)"):
        structures.with_offset("energy", offset)


def of_atoms(structures, shape=()):
    """An offset of atoms that tells them apart."""
    return [
        np.broadcast_to(np.reshape(z, (-1, *[1] * len(shape))), (len(z), *shape)) * 10.0 + k
        for k, z in enumerate(structures.numbers)
    ]


@pytest.mark.parametrize("shape", [(), (3,), (3, 3), (5, 2)])
def test_offset_of_any_shape(structures, shape):
    values = np.random.default_rng(0).normal(size=(4, *shape))
    twice = structures.with_offset("t", values).with_offset("t", values)
    np.testing.assert_array_equal(twice.offset["t"], 2 * values)
    np.testing.assert_array_equal(twice[[3, 1]].offset["t"], 2 * values[[3, 1]])


@pytest.mark.parametrize("shape", [(), (3,), (5, 2)])
@pytest.mark.parametrize("container", [list, tuple])
def test_offset_of_atoms(structures, shape, container):
    values = container(of_atoms(structures, shape))
    twice = structures.with_offset("t", values).with_offset("t", values)
    assert isinstance(twice.offset["t"], tuple)
    for picked in (twice[[3, 1]], pickle.loads(pickle.dumps(twice))[[3, 1]]):
        for found, k in zip(picked.offset["t"], (3, 1), strict=True):
            np.testing.assert_array_equal(found, 2 * values[k])
            assert not found.flags.writeable
    assert twice[:0].offset["t"] == ()
    assert twice[:0][[]].offset["t"] == ()


def test_offset_of_atoms_needs_every_atom(structures):
    message = r"arrays of \[3, 5, 2\] rows, but the structures have \[3, 5, 2, 4\] atoms"
    with pytest.raises(ValueError, match=message):
        structures.with_offset("t", of_atoms(structures)[:3])
    with pytest.raises(ValueError, match="one row for each atom"):
        structures.with_offset("t", of_atoms(structures[::-1]))


def test_offsets_of_one_target_are_alike(structures):
    carrying = structures.with_offset("t", np.zeros((4, 3)))
    message = (
        r"values of shape \(\) for each structure and the other values of shape \(3,\) for each"
    )
    with pytest.raises(ValueError, match=message):
        carrying.with_offset("t", np.zeros(4))
    with pytest.raises(ValueError, match="for each atom and the other .* for each structure"):
        carrying.with_offset("t", of_atoms(structures, (3,)))
    mixed = of_atoms(structures)[:3] + of_atoms(structures, (3,))[3:]
    with pytest.raises(ValueError, match="values of one shape"):
        structures.with_offset("t", mixed)


def test_flatten_offset(structures):
    tensor, vector = TargetKind.tensor(), TargetKind.vector(per_atom=True)
    np.testing.assert_array_equal(flatten_offset(structures, "t", tensor), np.zeros((4, 9)))
    np.testing.assert_array_equal(flatten_offset(structures, "t", vector), np.zeros((14, 3)))
    values = np.arange(36.0).reshape(4, 3, 3)
    carrying = structures.with_offset("t", values).with_offset("v", of_atoms(structures, (3,)))
    found = flatten_offset(carrying, "t", tensor)
    np.testing.assert_array_equal(found, values.reshape(4, 9))
    found = flatten_offset(carrying[[2, 0]], "v", vector)
    expected = [of_atoms(structures, (3,))[k] for k in (2, 0)]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    for name, kind in (("t", vector), ("v", tensor), ("t", TargetKind.scalar(9))):
        with pytest.raises(ValueError, match=f"offset of '{name}'.*does not fit.*Predict through"):
            flatten_offset(carrying, name, kind)


def test_scale_of_every_layout(structures):
    array, table = np.array([1.0, 2.0]), np.arange(1.0, 2 * 119 + 1).reshape(119, 2)
    carrying = structures.with_scale("a", array).with_scale("t", table).with_scale("n", 3)
    array[0] = 99.0
    for back in (carrying, carrying[[0]], pickle.loads(pickle.dumps(carrying))):
        np.testing.assert_array_equal(back.scale["a"], [1.0, 2.0])
        np.testing.assert_array_equal(back.scale["t"], table)
        assert back.scale["n"] == 3.0
        assert isinstance(back.scale["n"], float)
        with pytest.raises(ValueError, match="read-only"):
            back.scale["t"][0] = 1.0


@pytest.mark.parametrize("scale", [np.ones((3, 2)), np.ones((119, 1, 1))])
def test_scale_of_another_layout(structures, scale):
    with pytest.raises(ValueError, match=r"scale of 't' must be a number.*\(119, n_scales\)"):
        structures.with_scale("t", scale)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, [1.0, np.inf], np.zeros((119, 1))])
def test_scale_must_be_positive(structures, scale):
    with pytest.raises(ValueError, match="scale of 't' must be positive and finite"):
        structures.with_scale("t", scale)


def test_expand_scale_of_structures(structures):
    kind = TargetKind.spherical([(0, 1), (1, 1, 2)])
    np.testing.assert_array_equal(expand_scale(structures, "t", kind), np.ones(7))
    carrying = structures.with_scale("t", [2.0, 3.0, 5.0]).with_scale("one", 4.0)
    expected = [2.0, 3.0, 5.0, 3.0, 5.0, 3.0, 5.0]
    np.testing.assert_array_equal(expand_scale(carrying, "t", kind), expected)
    np.testing.assert_array_equal(expand_scale(carrying, "one", kind), np.full(7, 4.0))


def test_expand_scale_of_atoms(structures):
    kind = TargetKind.vector(2, per_atom=True)
    np.testing.assert_array_equal(expand_scale(structures, "t", kind), np.ones((14, 6)))
    table = np.arange(1.0, 2 * 119 + 1).reshape(119, 2)
    carrying = structures.with_scale("t", table).with_scale("one", 4.0).with_scale("row", [2, 3])
    numbers = np.concatenate(structures.numbers)
    found = expand_scale(carrying, "t", kind)
    np.testing.assert_array_equal(found, np.tile(table[numbers], 3))
    np.testing.assert_array_equal(expand_scale(carrying, "one", kind), np.full((14, 6), 4.0))
    found = expand_scale(carrying, "row", kind)
    np.testing.assert_array_equal(found, np.tile([2.0, 3.0], (14, 3)))


def test_expand_scale_that_does_not_fit(structures):
    carrying = structures.with_scale("t", np.ones((119, 2))).with_scale("a", np.ones(2))
    for name, kind in (
        ("t", TargetKind.scalar(2)),
        ("t", TargetKind.scalar(per_atom=True)),
        ("a", TargetKind.vector()),
    ):
        with pytest.raises(ValueError, match=f"scale of '{name}'.*does not fit TargetKind"):
            expand_scale(carrying, name, kind)


def test_with_scale_replaces(structures):
    carrying = structures.with_scale("energy", 2).with_scale("energy", 3)
    assert dict(carrying.scale) == {"energy": 3.0}


def test_shape(structures, attached):
    assert structures.shape == (4,)
    assert len(structures) == len(attached) == 4
    n_features = attached.per_atom().shape[1]
    assert attached.shape == (4, n_features) == np.asarray(attached).shape


def test_no_array_without_features(structures):
    for convert in (np.asarray, np.array, lambda s: s.per_atom()):
        with pytest.raises(ValueError, match="carry no features.*Put a SoapFeaturizer before"):
            convert(structures)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_the_array(frames, pooling, dtype):
    featurizer = SoapFeaturizer(3.0, max_radial=1, max_angular=1, pooling=pooling, dtype=dtype)
    features = featurizer.fit_transform(frames)
    assert np.asarray(features).dtype == features.per_atom().dtype == dtype
    assert np.asarray(features, dtype=np.float16).dtype == np.float16


def test_repr(structures, attached):
    n_atoms = 3 + 5 + 2 + 4
    assert repr(structures) == f"Structures(4 structures, {n_atoms} atoms, H C N O)"
    assert repr(attached).endswith(", H C N O, offset, scale, features)")


# --- indexing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [0, 3, -1, -4, np.int8(2), np.int64(-2), np.array(1), (1, ...), (np.int64(1), ...)]
)
def test_integer_gives_atoms(structures, attached, key):
    position = int(key[0]) if isinstance(key, tuple) else int(key)
    for sequence in (structures, attached):
        atoms = sequence[key]
        assert isinstance(atoms, Atoms)
        assert_same_atoms(atoms, molecule(FORMULAS[position]))


SELECTIONS = [
    slice(None),
    slice(1, 3),
    slice(None, None, 2),
    slice(None, None, -1),
    slice(-2, None),
    [2, 0],
    [-1, -1, 0],
    np.array([3, 3, 0], dtype=np.uint8),
    range(2),
    np.array([3, 1], dtype=np.int8),
    [True, False, True, False],
    np.array([False, True, True, True]),
]


@pytest.mark.parametrize("with_ellipsis", [False, True])
@pytest.mark.parametrize("key", SELECTIONS, ids=str)
def test_selection_takes_everything_along(attached, key, with_ellipsis):
    reference = np.arange(4)[key if isinstance(key, slice) else np.asarray(key)]
    part = attached[(key, ...)] if with_ellipsis else attached[key]
    assert isinstance(part, Structures)
    assert len(part) == len(reference)
    assert part.shape == (len(reference), attached.shape[1])
    for position, atoms in zip(reference, part, strict=True):
        assert_same_atoms(atoms, molecule(FORMULAS[position]))
    np.testing.assert_array_equal(part.offset["energy"], OFFSET[reference])
    assert part.scale["energy"] == 0.5
    np.testing.assert_array_equal(np.asarray(part), np.asarray(attached)[reference])


def test_per_atom_features_are_sliced(attached):
    rows = np.split(attached.per_atom(), np.cumsum(attached.n_atoms)[:-1])
    part = attached[[2, 0]]
    np.testing.assert_array_equal(part.per_atom(), np.concatenate([rows[2], rows[0]]))


EMPTY = [slice(5, 9), slice(2, 2), [], np.array([], dtype=int), np.zeros(4, dtype=bool), ([], ...)]


@pytest.mark.parametrize("key", EMPTY, ids=str)
def test_empty_selection(structures, key):
    empty = structures.with_offset("energy", OFFSET)[key]
    assert isinstance(empty, Structures)
    assert len(empty) == 0
    assert empty.shape == empty.n_atoms.shape == empty.offset["energy"].shape == (0,)
    assert list(empty) == []
    assert repr(empty).startswith("Structures(0 structures, 0 atoms")


def test_empty_selection_of_features(attached):
    empty = attached[:0]
    assert empty.shape == np.asarray(empty).shape == (0, attached.shape[1])


@pytest.mark.parametrize(
    "key",
    [
        4,
        -5,
        [4],
        [0, -5],
        [True, False],
        [True] * 5,
        np.array([], dtype=bool),
        np.ones((4, 1), dtype=bool),
        True,
        np.False_,
        1.0,
        [0.5],
        [[0, 1], [2, 3]],
        None,
        "energy",
        (0, 1),
        (0, ..., ...),
        (slice(None), None),
    ],
    ids=str,
)
def test_wrong_index_raises(structures, attached, key):
    for sequence in (structures, attached):
        with pytest.raises(IndexError):
            sequence[key]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data(), st.integers(1, 8))
def test_indexing_composes_like_that_of_arrays(data, n):
    structures = as_structures([Atoms("H" * (k + 1)) for k in range(n)]).with_offset(
        "energy", np.arange(n) + 1.0
    )
    reference = np.arange(n) + 1
    keys = st.one_of(
        st.slices(n),
        st.lists(st.integers(-n, n - 1)).map(lambda key: np.array(key, dtype=int)),
        st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
    )
    key = data.draw(keys)
    part, expected = structures[key], reference[key]
    np.testing.assert_array_equal(part.n_atoms, expected)
    np.testing.assert_array_equal(part.offset["energy"], expected)


def test_iteration_gives_atoms_in_order_and_again(attached):
    for _ in range(2):
        assert formulas(attached) == formulas([molecule(name) for name in FORMULAS])


def test_train_test_split_keeps_everything_together(attached):
    train, test, offset_train, offset_test = train_test_split(attached, OFFSET, random_state=0)
    for part, offset in ((train, offset_train), (test, offset_test)):
        assert isinstance(part, Structures)
        np.testing.assert_array_equal(part.offset["energy"], offset)
        expected = [FORMULAS[int(value) - 1] for value in offset]
        assert formulas(part) == formulas([molecule(name) for name in expected])


def test_pickle_round_trip(attached):
    back = pickle.loads(pickle.dumps(attached))
    assert repr(back) == repr(attached)
    for a, b in zip(all_arrays(attached), all_arrays(back), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(back.offset["energy"], OFFSET)
    assert dict(back.scale) == {"energy": 0.5}
    np.testing.assert_array_equal(np.asarray(back), np.asarray(attached))
    with pytest.raises(TypeError):
        back.offset["energy"] = 0.0
