"""Every kind of target transforms as its kind says, in float64."""

import numpy as np
import pytest
from every_kind import (
    KINDS,
    NETWORKS,
    choose_structures,
    find_wigner,
    fit_network,
    predict_rows,
    turn,
)
from scipy.spatial.transform import Rotation

RTOL = 1e-10
NAMES = [*KINDS, "energies", "forces", "virial"]
SHORT_RANGE = [name for name in NETWORKS if "long range" not in name]
every_network = pytest.mark.parametrize("network", list(NETWORKS))
# the mesh that waves are summed on stays where it is, and is another for a larger cell
without_long_range = pytest.mark.parametrize("network", SHORT_RANGE)


def predict(network, frames, names=NAMES):
    return predict_rows(fit_network(network), frames, names)


def kind_of(name):
    like = {"energies": "charges", "forces": "atomic_dipole", "virial": "polarizability"}
    return KINDS[like.get(name, name)]


def assert_same(actual, expected, sizes=None):
    """Compare all targets, each relative to its largest value."""
    for name, rows in expected.items():
        size = np.nanmax(np.abs((sizes or expected)[name]))
        atol = RTOL * size
        np.testing.assert_allclose(actual[name], rows, rtol=0, atol=atol, err_msg=name)


def transform(frames, matrix):
    frames = [atoms.copy() for atoms in frames]
    for atoms in frames:
        atoms.set_cell(atoms.cell.array @ matrix.T)
        atoms.positions = atoms.positions @ matrix.T
    return frames


def test_matrices_of_wigner():
    """They are orthogonal, multiply as the rotations do; components of l = 1 are y, z, x."""
    first, second = Rotation.random(2, rng=0).as_matrix()
    for l in range(4):
        d = find_wigner(l, first)
        np.testing.assert_allclose(d @ d.T, np.eye(2 * l + 1), atol=1e-12)
        product = d @ find_wigner(l, second)
        np.testing.assert_allclose(product, find_wigner(l, first @ second), atol=1e-12)
        np.testing.assert_allclose(find_wigner(l, -first), (-1) ** l * d, atol=1e-12)
    order = [1, 2, 0]
    np.testing.assert_allclose(find_wigner(1, first), first[np.ix_(order, order)], atol=1e-12)


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].cartesian_rank])
def test_cartesian_values_turn_as_the_blocks_that_they_consist_of(name):
    kind, matrix = KINDS[name], -Rotation.random(rng=1).as_matrix()
    blocks = np.random.default_rng(0).normal(size=(4, kind.transform.shape[1]))
    turned, start = [], 0
    for block in kind.blocks:
        part = blocks[:, start : start + block.size].reshape(4, 2 * block.o3_lambda + 1, -1)
        start += block.size
        part = np.einsum("mn,inp->imp", find_wigner(block.o3_lambda, matrix), part)
        turned.append(block.o3_sigma * part.reshape(4, -1))  # the determinant is -1
    expected = turn(kind, blocks @ kind.transform.T, matrix)
    np.testing.assert_allclose(np.hstack(turned) @ kind.transform.T, expected, atol=1e-12)


@every_network
def test_no_component_of_any_target_is_zero(network):
    """Else the tests below would say nothing."""
    for name, rows in predict(network, choose_structures(network).values()).items():
        assert (np.nanmax(np.abs(rows), axis=0) > 1e-12).all(), name
        assert len(np.unique(rows[:, 0])) > 2, name


@every_network
@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "rotation and inversion"])
def test_rotation_and_inversion(network, sign):
    frames = list(choose_structures(network).values())
    matrix = sign * Rotation.random(rng=1).as_matrix()
    before, after = predict(network, frames), predict(network, transform(frames, matrix))
    assert_same(after, {name: turn(kind_of(name), rows, matrix) for name, rows in before.items()})
    for name, rows in before.items():
        changed = not np.allclose(after[name], rows, atol=0, equal_nan=True)
        assert changed == (not kind_of(name).is_scalar), name


@every_network
def test_inversion_gives_every_block_its_parity(network):
    frames = list(choose_structures(network).values())
    before, after = predict(network, frames), predict(network, transform(frames, -np.eye(3)))
    expected = {}
    for name, rows in before.items():
        kind = kind_of(name)
        signs = [np.full(b.size, b.o3_sigma * (-1) ** b.o3_lambda) for b in kind.blocks]
        if kind.cartesian_rank is not None:
            signs = [(-1) ** kind.cartesian_rank]
        expected[name] = rows * np.hstack(signs)
    assert_same(after, expected)


@every_network
def test_symmetric_tensors_are_symmetric_and_others_are_not(network):
    rows = predict(network, choose_structures(network).values())
    for name in (name for name in KINDS if KINDS[name].cartesian_rank == 2):
        tensors = rows[name].reshape(len(rows[name]), 3, 3, -1)
        difference = np.nanmax(np.abs(tensors - tensors.swapaxes(1, 2)))
        if KINDS[name].is_symmetric:
            assert difference < 1e-14, name
        else:
            assert difference > 1e-9 * np.nanmax(np.abs(tensors)), name


@every_network
def test_translation(network):
    periodic_too = network in SHORT_RANGE
    frames = [a for a in choose_structures(network).values() if periodic_too or not a.pbc.any()]
    far = [atoms.copy() for atoms in frames]
    for atoms in far:
        atoms.positions += [0.3, -1.7, 12.9]
    names = NAMES
    if not periodic_too:
        names = [name for name in NAMES if name != "virial" and not kind_of(name).per_volume]
    assert_same(predict(network, far, names), predict(network, frames, names))


@every_network
def test_permutation(network):
    frames = list(choose_structures(network).values())
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(atoms)) for atoms in frames]
    starts = np.cumsum([0, *map(len, frames[:-1])])
    of_atoms = np.concatenate([start + order for start, order in zip(starts, orders)])
    before = predict(network, frames)
    expected = {n: r[of_atoms] if kind_of(n).per_atom else r for n, r in before.items()}
    assert_same(predict(network, [a[order] for a, order in zip(frames, orders)]), expected)


@without_long_range
def test_supercell(network):
    """Twice the cell is twice what grows with the structure, and the same mean and atoms."""
    frames = [a for a in choose_structures(network).values() if a.cell.rank == 3]
    repeats = [tuple(1 + atoms.pbc) for atoms in frames]
    cells = predict(network, frames)
    larger = predict(network, [a.repeat(n) for a, n in zip(frames, repeats)])
    n_cells = [int(np.prod(repeat)) for repeat in repeats]
    ends = np.cumsum([len(atoms) for atoms in frames])[:-1]
    for name, rows in cells.items():
        kind = kind_of(name)
        if kind.per_atom:
            parts = [np.tile(p, (n, 1)) for p, n in zip(np.split(rows, ends), n_cells)]
            expected = np.concatenate(parts)
        else:
            stays = kind.per_volume or kind.intensive
            expected = rows if stays else rows * np.array(n_cells)[:, None]
        assert_same(larger, {name: expected})


@every_network
def test_batch_is_a_loop_of_singles(network):
    """So no structure has any influence on another."""
    frames = list(choose_structures(network).values())
    together = predict(network, frames)
    ends = np.cumsum([len(atoms) for atoms in frames])[:-1]
    for index, atoms in enumerate(frames):
        has_volume = atoms.cell.rank == 3
        names = [n for n in NAMES if has_volume or not (n == "virial" or kind_of(n).per_volume)]
        expected = {
            name: np.split(together[name], ends)[index]
            if kind_of(name).per_atom
            else together[name][[index]]
            for name in names
        }
        assert_same(predict(network, [atoms], names), expected, sizes=together)


@every_network
def test_far_molecules_see_each_other_only_over_long_range(network):
    atoms = choose_structures(network)["molecule"]
    far = atoms.copy()
    far.positions += [30.0, 0.0, 0.0]
    names = [name for name in NAMES if name != "virial" and not kind_of(name).per_volume]
    alone, both = predict(network, [atoms], names), predict(network, [atoms + far], names)
    for name in names:
        kind = kind_of(name)
        copies = np.tile(alone[name], (2, 1)) if kind.per_atom else 2 * alone[name]
        expected = alone[name] if kind.intensive else copies
        size = np.abs(expected).max()
        deviation = np.abs(both[name] - expected).max()
        assert (deviation < RTOL * size) == (network in SHORT_RANGE), name
