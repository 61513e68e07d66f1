import pickle
import tracemalloc
from dataclasses import replace
from functools import partial

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sklearn_soapbpnn import TargetKind
from sklearn_soapbpnn.data import DERIVED_TARGETS, ENERGY_KINDS, KNOWN_KINDS, Block

KINDS = {
    "scalar": (TargetKind.scalar(), ()),
    "one scalar": (TargetKind.scalar(1), (1,)),
    "scalars": (TargetKind.scalar(4, unit="eV"), (4,)),
    "scalar of atoms": (TargetKind.scalar(per_atom=True), ()),
    "vector": (TargetKind.vector(unit="e Angstrom"), (3,)),
    "vectors": (TargetKind.vector(2, per_atom=True), (3, 2)),
    "tensor": (TargetKind.tensor(), (3, 3)),
    "symmetric tensor": (TargetKind.tensor(symmetric=True), (3, 3)),
    "tensors": (TargetKind.tensor(2, per_volume=True), (3, 3, 2)),
    "symmetric tensors": (TargetKind.tensor(2, symmetric=True, per_atom=True), (3, 3, 2)),
    "pseudoscalar": (TargetKind.spherical((0, -1)), (1,)),
    "invariant block": (TargetKind.spherical((0, 1)), (1,)),
    "invariant blocks": (TargetKind.spherical((0, 1), 3), (1, 3)),
    "quadrupole": (TargetKind.spherical((2, 1)), (5,)),
    "octupoles": (TargetKind.spherical((3, 1), 4), (7, 4)),
    "blocks": (TargetKind.spherical([(0, 1, 2), (1, -1), (2, 1, 3)], per_atom=True), (20,)),
    "one block in a list": (TargetKind.spherical([(2, -1, 2)]), (10,)),
    "intensive scalar": (TargetKind.scalar(intensive=True, unit="eV"), ()),
    "intensive vectors": (TargetKind.vector(2, intensive=True), (3, 2)),
    "intensive tensor": (TargetKind.tensor(symmetric=True, intensive=True), (3, 3)),
    "intensive quadrupole": (TargetKind.spherical((2, 1), intensive=True), (5,)),
    "intensive blocks": (TargetKind.spherical([(0, 1, 2), (1, 1)], intensive=True), (5,)),
}
every_kind = pytest.mark.parametrize(("kind", "shape"), KINDS.values(), ids=KINDS)


def rotate_cartesian(tensor, rotation, rank):
    for axis in range(rank):
        tensor = np.moveaxis(np.tensordot(rotation, tensor, (1, axis)), 0, axis)
    return tensor


@every_kind
def test_shape(kind, shape):
    assert kind.shape == shape
    assert kind.size == np.prod(shape, dtype=int)
    assert isinstance(kind.size, int)
    assert kind.transform.shape == (kind.size, sum(block.size for block in kind.blocks))


@every_kind
def test_repr_makes_an_equal_kind(kind, shape):
    again = eval(repr(kind), {"TargetKind": TargetKind})
    assert again == kind
    assert hash(again) == hash(kind)


@every_kind
def test_pickle_whatever_is_cached(kind, shape):
    fresh = pickle.loads(pickle.dumps(kind))
    before = joblib.hash(fresh)
    assert fresh.invariant_components.flags.writeable is False
    assert (fresh.n_scales, len(fresh.scale_names)) == (kind.n_scales, kind.n_scales)
    assert joblib.hash(fresh) == before
    back = pickle.loads(pickle.dumps(fresh))
    assert back == fresh == kind
    assert len({back, fresh, kind}) == 1
    np.testing.assert_array_equal(back.transform, kind.transform)


@every_kind
def test_transform_is_orthonormal(kind, shape):
    columns = kind.transform
    np.testing.assert_allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-14)
    if kind.is_symmetric:
        n = kind.blocks[0].n_properties
        basis = columns.reshape(3, 3, n, -1)
        np.testing.assert_allclose(basis, basis.swapaxes(0, 1), atol=1e-15)
    else:
        assert columns.shape[0] == columns.shape[1]


@every_kind
def test_with_unit(kind, shape):
    assert kind.with_unit("Ha").unit == "Ha"
    assert kind.with_unit("Ha").with_unit(kind.unit) == kind


INTENSIVE = [name for name in KINDS if name.startswith("intensive ")]


@every_kind
def test_intensive_is_part_of_a_kind(kind, shape):
    assert kind.intensive == (kind in [KINDS[name][0] for name in INTENSIVE])
    assert kind.with_unit("Ha").intensive == kind.intensive
    assert pickle.loads(pickle.dumps(kind)).intensive == kind.intensive
    if not (kind.per_atom or kind.per_volume):
        other = replace(kind, intensive=not kind.intensive)
        assert other != kind
        assert joblib.hash(other) != joblib.hash(kind)


def test_components_of_a_vector():
    """The components m = -1, 0, 1 are y, z, x."""
    np.testing.assert_array_equal(TargetKind.vector().transform @ [2.0, 3.0, 1.0], [1.0, 2.0, 3.0])
    pair = TargetKind.vector(2)
    value = pair.transform @ [2.0, 20.0, 3.0, 30.0, 1.0, 10.0]
    np.testing.assert_array_equal(value.reshape(3, 2), [[1, 10], [2, 20], [3, 30]])


def test_blocks_of_a_tensor():
    kind = TargetKind.tensor()
    assert kind.blocks == (Block(0, 1), Block(1, -1), Block(2, 1))
    assert TargetKind.tensor(3, symmetric=True).blocks == (Block(0, 1, 3), Block(2, 1, 3))
    trace, axial, traceless = np.split(kind.transform.reshape(3, 3, 9), [1, 4], axis=2)
    np.testing.assert_allclose(np.abs(trace[:, :, 0]), np.eye(3) / np.sqrt(3), atol=1e-15)
    np.testing.assert_allclose(axial, -axial.swapaxes(0, 1), atol=1e-15)
    np.testing.assert_allclose(traceless, traceless.swapaxes(0, 1), atol=1e-15)
    np.testing.assert_allclose(np.trace(traceless), 0.0, atol=1e-15)
    # d_xy, d_yz, d_z2, d_xz, d_x2-y2
    assert abs(traceless[0, 1, 0]) == pytest.approx(np.sqrt(0.5))
    assert abs(traceless[1, 2, 1]) == pytest.approx(np.sqrt(0.5))
    assert abs(traceless[2, 2, 2]) == pytest.approx(np.sqrt(2 / 3))
    assert abs(traceless[0, 2, 3]) == pytest.approx(np.sqrt(0.5))
    assert traceless[0, 0, 4] == pytest.approx(-traceless[1, 1, 4])


def real_harmonics(o3_lambda, points):
    """Real solid harmonics, m ascending, up to a factor."""
    x, y, z = points.T
    second = (x * y, y * z, (3 * z**2 - 1) / np.sqrt(12), x * z, (x**2 - y**2) / 2)
    return np.stack([(np.ones_like(x),), (y, z, x), second][o3_lambda], axis=1)


def wigner(o3_lambda, rotation):
    """Matrix of a rotation on real spherical harmonics, from values at random points."""
    points = np.random.default_rng(0).normal(size=(50, 3))
    points /= np.linalg.norm(points, axis=1)[:, None]
    before = real_harmonics(o3_lambda, points)
    after = real_harmonics(o3_lambda, points @ rotation.T)
    return np.linalg.lstsq(before, after, rcond=None)[0].T


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000))
def test_rotating_a_tensor_rotates_its_blocks(seed):
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    for kind, rank in ((TargetKind.vector(), 1), (TargetKind.tensor(), 2)):
        value = np.random.default_rng(seed).normal(size=kind.shape)
        rotated = rotate_cartesian(value, rotation, rank).ravel() @ kind.transform
        ends = np.cumsum([block.size for block in kind.blocks])[:-1]
        before, after = (np.split(v, ends) for v in (value.ravel() @ kind.transform, rotated))
        for block, old, new in zip(kind.blocks, before, after, strict=True):
            np.testing.assert_allclose(new, wigner(block.o3_lambda, rotation) @ old, atol=1e-12)


def test_properties_of_tensors_do_not_mix():
    single, several = TargetKind.tensor(symmetric=True), TargetKind.tensor(3, symmetric=True)
    spherical = np.random.default_rng(0).normal(size=(6, 3))
    # blocks one after the other, each ordered by m, then by property
    value = (several.transform @ spherical.ravel()).reshape(3, 3, 3)
    for k in range(3):
        expected = (single.transform @ spherical[:, k]).reshape(3, 3)
        np.testing.assert_allclose(value[..., k], expected, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "n_invariants"),
    [
        *(("scalar", 1), ("scalars", 4), ("vector", 0), ("vectors", 0), ("tensor", 1)),
        *(("symmetric tensors", 2), ("pseudoscalar", 0), ("quadrupole", 0), ("blocks", 2)),
        *(("invariant blocks", 3), ("one block in a list", 0)),
    ],
)
def test_number_of_invariants(name, n_invariants):
    kind = KINDS[name][0]
    assert kind.invariant_components.shape[1] == n_invariants


@every_kind
def test_invariants_are_what_only_scalars_change(kind, shape):
    """Values that are constant on the components of an invariant come from scalars alone."""
    scalars = [b.o3_lambda == 0 and b.o3_sigma == 1 for b in kind.blocks]
    scalars = np.concatenate([np.full(b.size, s) for b, s in zip(kind.blocks, scalars)])
    values = np.zeros((kind.invariant_components.shape[1], kind.size))
    for value, components in zip(values, kind.invariant_components.T):
        value[components] = 1
    found = values @ kind.transform
    assert not found[:, ~scalars].round(14).any()
    assert np.linalg.matrix_rank(found) == len(values) == scalars.sum()


@pytest.mark.parametrize("make", [TargetKind.scalar, TargetKind.vector, TargetKind.tensor])
def test_many_properties_take_memory_that_grows_with_their_number(make):
    tracemalloc.start()
    kind = make(20_000)
    assert kind.invariant_components.nbytes <= 3 * 8 * 20_000
    assert len(kind.scale_index) == kind.size
    if kind.cartesian_rank is not None:
        assert kind.property_transform.size <= 81
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_invariants_of_tensors_are_their_diagonals():
    found = np.zeros((3, 3, 2), int)
    found.flat[TargetKind.tensor(2).invariant_components] = [1, 2]
    np.testing.assert_array_equal(found[:, :, 0], np.eye(3))
    np.testing.assert_array_equal(found[:, :, 1], 2 * np.eye(3))


@pytest.mark.parametrize(
    ("name", "index", "names"),
    [
        ("scalar", [0], [""]),
        ("scalars", [0, 1, 2, 3], ["0", "1", "2", "3"]),
        ("vectors", [0, 1] * 3, ["0", "1"]),
        ("tensor", [0] * 9, [""]),
        ("tensors", [0, 1] * 9, ["0", "1"]),
        ("quadrupole", [0] * 5, ["l2+"]),
        ("octupoles", [0, 1, 2, 3] * 7, ["l3+,0", "l3+,1", "l3+,2", "l3+,3"]),
        (
            "blocks",
            [0, 1, 2, 2, 2, *[3, 4, 5] * 5],
            ["l0+,0", "l0+,1", "l1-", "l2+,0", "l2+,1", "l2+,2"],
        ),
    ],
)
def test_scales(name, index, names):
    kind = KINDS[name][0]
    assert kind.scale_index.tolist() == index
    assert kind.scale_names == names
    assert kind.n_scales == len(names)


def test_is_scalar():
    scalar = {name for name, (kind, _) in KINDS.items() if kind.is_scalar}
    names = {"scalar", "one scalar", "scalars", "scalar of atoms", "intensive scalar"}
    assert scalar == {*names, "invariant block", "invariant blocks"}


def test_known_kinds():
    assert KNOWN_KINDS["stress"].per_volume
    assert KNOWN_KINDS["virial"].is_symmetric
    assert not KNOWN_KINDS["virial"].per_volume
    per_atom = {name for name, kind in KNOWN_KINDS.items() if kind.per_atom}
    assert per_atom == {"forces", "energies", "charges", "non_conservative_forces"}
    assert set(DERIVED_TARGETS) == set(ENERGY_KINDS) - {"energy"}
    assert not any(kind.intensive for kind in KNOWN_KINDS.values())


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_properties", [0, -1, 1.5, "2"])
@pytest.mark.parametrize("make", [TargetKind.scalar, TargetKind.vector, TargetKind.tensor])
def test_number_of_properties(make, n_properties):
    with pytest.raises(ValueError, match="n_properties must be a positive integer or None") as info:
        make(n_properties)
    assert repr(n_properties) in str(info.value)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (2, "blocks must hold"),
        ([], "blocks must hold"),
        ((2, 1, 3), r"A single block must be \(o3_lambda, o3_sigma\), got \(2, 1, 3\)"),
        ((2,), "A single block must be"),
        ((-1, 1), "o3_lambda >= 0"),
        ((1, 0), "o3_sigma 1 or -1"),
        ((1.5, 1), "A block must be"),
        (("a", 1), "A block must be"),
        ([(1,)], "A block must be"),
        ([(1, 1, 1, 1)], "A block must be"),
        ([(1, 1), 2], "A block must be"),
        ([(1, 1, 0)], "n_properties must be a positive integer"),
        ([(1, 1), (2, 1), (1, 1, 3)], "twice"),
    ],
)
def test_blocks_that_are_none(blocks, message):
    with pytest.raises(ValueError, match=message):
        TargetKind.spherical(blocks)


def test_properties_of_a_list_of_blocks():
    with pytest.raises(ValueError, match="n_properties=2 is for a single pair"):
        TargetKind.spherical([(1, 1), (2, 1)], 2)


@pytest.mark.parametrize(
    "make",
    [
        TargetKind.scalar,
        TargetKind.vector,
        TargetKind.tensor,
        partial(TargetKind.spherical, (2, 1)),
    ],
)
def test_values_of_atoms_are_not_intensive(make):
    with pytest.raises(ValueError, match="intensive=True .* per_atom=True .*Leave out one"):
        make(per_atom=True, intensive=True)


def test_values_per_volume_are_not_intensive():
    with pytest.raises(ValueError, match="intensive=True .* per_volume=True .*Leave out one"):
        TargetKind.tensor(symmetric=True, per_volume=True, intensive=True)
    with pytest.raises(ValueError, match="Leave out one"):
        replace(KNOWN_KINDS["non_conservative_stress"], intensive=True)
