from collections import Counter

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_soapbpnn.data import (
    as_structures,
    build_graph,
    iterate_chunks,
    plan_all,
    plan_batches,
)

DECIMALS = 6  # of pair vectors that are compared


def make_graph(frames, cutoff):
    structures = as_structures(frames)
    return build_graph(structures, cutoff, structures.elements)


def count_pairs(i, j, vectors):
    """Return the multiset of pairs (i, j, rounded vector)."""
    rounded = np.round(np.asarray(vectors).reshape(-1, 3), DECIMALS) + 0.0  # no negative zeros
    return Counter(zip(map(int, i), map(int, j), map(tuple, rounded.tolist())))


def full_list(graph):
    """Both directions of every pair of a graph."""
    i, j, vectors = graph.centers, graph.neighbors, graph.pair_vectors
    return count_pairs(torch.cat([i, j]), torch.cat([j, i]), torch.cat([vectors, -vectors]))


def reference_list(frames, cutoff):
    """The same from ASE."""
    pairs, first = Counter(), 0
    for atoms in frames:
        i, j, vectors = neighbor_list("ijD", atoms, cutoff)
        pairs += count_pairs(i + first, j + first, vectors)
        first += len(atoms)
    return pairs


def slab():
    atoms = fcc111("Cu", size=(2, 2, 2), vacuum=6.0)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    return atoms


def flat_slab():
    """A slab without a third cell vector."""
    return Atoms("CuO", [[0, 0, 0], [0.3, 0.4, 1.5]], cell=[2.5, 2.7, 0], pbc=(True, True, False))


def wire(direction):
    positions = np.array([[0.1, 0.2, 0.3], [0.5, -0.4, 0.9]])
    pbc = [axis == direction for axis in range(3)]
    return Atoms("CuH", positions, cell=np.diag([2.8 * on for on in pbc]), pbc=pbc)


def skewed():
    cell = [[4.0, 0.0, 0.0], [3.7, 1.5, 0.0], [-2.9, 1.1, 3.3]]
    scaled = [[0.1, 0.2, 0.3], [0.7, 0.6, 0.9], [0.45, 0.5, 0.05]]
    return Atoms("NaClH", scaled_positions=scaled, cell=cell, pbc=True)


def unwrapped(atoms, seed=0):
    shifts = np.random.default_rng(seed).integers(-7, 8, size=(len(atoms), 3)) * atoms.pbc
    atoms = atoms.copy()
    atoms.positions += shifts @ atoms.cell.array
    return atoms


SYSTEMS = {
    "molecule": molecule("CH3CH2OH"),
    "far from the origin": Atoms(molecule("H2O"), positions=molecule("H2O").positions + 1e3),
    "bulk": bulk("NaCl", "rocksalt", a=5.64),
    "rattled bulk": bulk("Cu", cubic=True) * (2, 1, 1),
    "tiny cell": bulk("Cu", a=1.9),
    "slab": slab(),
    "slab without vacuum": flat_slab(),
    "wire x": wire(0),
    "wire y": wire(1),
    "wire z": wire(2),
    "skewed": skewed(),
    "left-handed": Atoms("HO", [[0, 0, 0], [1, 1, 1]], cell=np.eye(3)[[1, 0, 2]] * 3.3, pbc=True),
    "single atom": Atoms("H"),
    "isolated atoms": Atoms("HOC", [[0, 0, 0], [50, 0, 0], [0, -50, 0]]),
    "isolated in a box": Atoms("H", cell=[20, 20, 20], pbc=True),
}
SYSTEMS["rattled bulk"].rattle(0.2, seed=1)


@pytest.mark.parametrize("cutoff", [1.7, 4.1])
@pytest.mark.parametrize("name", SYSTEMS)
def test_pairs_agree_with_ase(name, cutoff):
    frames = [SYSTEMS[name]]
    graph = make_graph(frames, cutoff)
    assert full_list(graph) == reference_list(frames, cutoff)
    assert graph.pair_counts.tolist() == [len(graph.centers)]


@pytest.mark.parametrize("name", ["bulk", "rattled bulk", "tiny cell", "slab", "wire z", "skewed"])
def test_unwrapped_positions_have_the_same_pairs(name):
    atoms = SYSTEMS[name]
    moved = unwrapped(atoms)
    assert np.abs(moved.positions - atoms.positions).max() > 5.0
    assert full_list(make_graph([moved], 4.1)) == full_list(make_graph([atoms], 4.1))


@st.composite
def random_structures(draw):
    """A few atoms in a cell of any shape and periodicity, anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_atoms = draw(st.integers(1, 4))
    pbc = [draw(st.booleans()) for _ in range(3)]
    lengths = np.array([draw(st.sampled_from([1.5, 3.0, 9.0])) for _ in range(3)])
    skew = draw(st.sampled_from([0.0, 0.5, 1.0]))
    cell = lengths[:, None] * (np.eye(3) + np.tril(rng.uniform(-skew, skew, (3, 3)), -1))
    if draw(st.booleans()):
        cell[~np.array(pbc)] = 0.0
        positions = rng.uniform(-2.0, 2.0, (n_atoms, 3))
    else:
        positions = rng.uniform(-0.5, 1.5, (n_atoms, 3)) @ cell
    atoms = Atoms(rng.choice([1, 6, 8], n_atoms), positions, cell=cell, pbc=pbc)
    return unwrapped(atoms, draw(st.integers(0, 99))) if draw(st.booleans()) else atoms


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(random_structures(), min_size=1, max_size=3), st.floats(0.7, 3.5))
def test_pairs_of_random_structures_agree_with_ase(frames, cutoff):
    graph = make_graph(frames, cutoff)
    assert full_list(graph) == reference_list(frames, cutoff)
    assert graph.atom_counts.tolist() == [len(atoms) for atoms in frames]
    assert int(graph.pair_counts.sum()) == len(graph.centers)


def test_concatenation():
    frames = list(SYSTEMS.values())
    graph = make_graph(frames, 3.1)
    assert full_list(graph) == reference_list(frames, 3.1)
    elements = as_structures(frames).elements
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    np.testing.assert_array_equal(elements[graph.element.numpy()], numbers)
    assert graph.n_atoms == len(numbers)
    assert graph.pair_vectors.dtype == torch.float64
    # the pairs of a structure stand together, in the order of the structures
    owner = torch.arange(len(frames)).repeat_interleave(graph.atom_counts)
    expected = torch.arange(len(frames)).repeat_interleave(graph.pair_counts)
    assert torch.equal(owner[graph.centers], expected)
    assert torch.equal(owner[graph.neighbors], expected)


def test_elements_may_go_beyond_those_present():
    structures = as_structures([molecule("H2O")])
    graph = build_graph(structures, 2.0, np.array([1, 6, 8]))
    assert graph.element.tolist() == [2, 0, 0]


def test_dimer():
    graph = make_graph([Atoms("HO", [[0, 0, 0], [0.1, 0.2, 0.9]])], 2.0)
    sign = 1 if graph.centers.tolist() == [0] else -1
    assert sorted([*graph.centers.tolist(), *graph.neighbors.tolist()]) == [0, 1]
    np.testing.assert_allclose(sign * graph.pair_vectors.numpy(), [[0.1, 0.2, 0.9]])


def test_no_pairs_without_a_cutoff():
    graph = make_graph([molecule("H2O"), molecule("H2")], None)
    assert len(graph.centers) == len(graph.neighbors) == 0
    assert graph.pair_vectors.shape == (0, 3)
    assert graph.pair_counts.tolist() == [0, 0]
    assert graph.atom_counts.tolist() == [3, 2]


def test_atom_beyond_the_cutoff_is_no_neighbor():
    frames = [Atoms("H2", [[0, 0, 0], [0, 0, z]]) for z in (1.999, 2.001)]
    assert make_graph(frames, 2.0).pair_counts.tolist() == [1, 0]


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("HOO", [[0, 0, 0], [1, 1, 1], [1, 1, 1]]),
        Atoms("HOO", [[0, 0, 0], [1, 1, 1], [1, 1, 1 + 1e-9]]),
        Atoms("HOO", [[0, 0, 0], [1, 1, 0], [1, 1, 5]], cell=[5, 5, 5], pbc=True),
        Atoms("HOO", [[0, 0, 0], [1, 1, 0], [-9, 6, 10]], cell=[5, 5, 5], pbc=True),
    ],
    ids=["same", "nearly", "image", "far image"],
)
def test_coincident_atoms(atoms):
    frames = [molecule("H2O"), atoms]
    with pytest.raises(ValueError, match="structure 1 are at the same place") as info:
        make_graph(frames, 2.0)
    assert {"1", "2"} <= set(str(info.value).split("of structure")[0].split())
    assert "distance" in str(info.value)
    assert "Remove one" in str(info.value)


def test_atoms_at_images_along_an_open_direction_are_apart():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 5]], cell=[5, 5, 5], pbc=(True, True, False))
    assert make_graph([atoms], 2.0).pair_counts.tolist() == [0]


def test_to_changes_only_the_pair_vectors():
    graph = make_graph([molecule("H2O")], 2.0)
    single = graph.to("cpu", torch.float32)
    assert single.pair_vectors.dtype == torch.float32
    assert single.centers.dtype == single.element.dtype == torch.int64
    torch.testing.assert_close(single.pair_vectors.double(), graph.pair_vectors)


# --- batches -------------------------------------------------------------------------------------


def check_batches(graph, order, sizes, n_elements):
    """Compare with what one would write down structure by structure."""
    batches = plan_batches(graph, order, sizes, n_elements)
    assert [batch.structures.tolist() for batch in batches] == [
        part.tolist() for part in order.split(sizes)
    ]
    n = len(graph.atom_counts)
    owner = torch.arange(n).repeat_interleave(graph.atom_counts)
    pair_owner = torch.arange(n).repeat_interleave(graph.pair_counts)
    for batch in batches:
        members = batch.structures
        assert len(batch) == len(members)
        # every atom and pair of the members, once
        atoms, pairs = (
            [k for k, structure in enumerate(of.tolist()) if structure in members.tolist()]
            for of in (owner, pair_owner)
        )
        assert sorted(batch.atoms.tolist()) == atoms
        assert sorted(batch.pairs.tolist()) == pairs
        # who is who
        assert torch.equal(members[batch.structure_of_atom], owner[batch.atoms])
        assert torch.equal(batch.element, graph.element[batch.atoms])
        assert torch.equal(batch.atoms[batch.centers], graph.centers[batch.pairs])
        assert torch.equal(batch.atoms[batch.neighbors], graph.neighbors[batch.pairs])
        # sorted by element, which makes the table
        assert (batch.element.diff() >= 0).all()
        counts = torch.bincount(batch.element, minlength=n_elements).tolist()
        assert batch.element_counts == counts
        assert batch.n_rows == max(counts)
        rows = [e * batch.n_rows + k for e, count in enumerate(counts) for k in range(count)]
        assert batch.rows.tolist() == rows
    return batches


def test_batches_by_hand():
    frames = [Atoms("OH", [[0, 0, 0], [0, 0, 1]]), Atoms("H"), Atoms("HO", [[0, 0, 0], [0, 0, 1]])]
    graph = make_graph(frames, 2.0)
    first, last = plan_batches(graph, torch.tensor([2, 0, 1]), [2, 1], 2)
    assert first.structures.tolist() == [2, 0]
    assert first.atoms.tolist() == [3, 1, 4, 0]  # H H O O
    assert first.structure_of_atom.tolist() == [0, 1, 0, 1]
    assert first.element.tolist() == [0, 0, 1, 1]
    assert first.element_counts == [2, 2]
    assert first.rows.tolist() == [0, 1, 2, 3]
    assert first.n_rows == 2
    assert {frozenset(p) for p in zip(first.centers.tolist(), first.neighbors.tolist())} == {
        frozenset({0, 2}),
        frozenset({1, 3}),
    }
    assert last.atoms.tolist() == [2]
    assert last.element_counts == [1, 0]
    assert len(last.pairs) == len(last.centers) == 0


@pytest.mark.parametrize(
    "sizes",
    [[1] * 15, [4, 4, 4, 3], [15], [3, 0, 5, 0, 0, 7], [0, 15], [14, 1, 0]],
    ids=str,
)
def test_batches_of_all_systems(sizes):
    frames = list(SYSTEMS.values())
    graph = make_graph(frames, 3.1)
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))
    n_elements = len(as_structures(frames).elements)
    batches = check_batches(graph, order, sizes, n_elements)
    assert [len(batch) for batch in batches] == sizes


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.sampled_from([1, 6, 8]), min_size=1, max_size=4), min_size=1, max_size=7),
    st.lists(st.integers(0, 7), max_size=4),
    st.randoms(use_true_random=False),
)
def test_batches_of_random_structures(numbers, cuts, random):
    frames = [Atoms(z, np.arange(3 * len(z)).reshape(-1, 3) * 0.4) for z in numbers]
    structures = as_structures(frames)
    graph = build_graph(structures, 2.5, np.array([1, 6, 8]))
    order = list(range(len(frames)))
    random.shuffle(order)
    ends = sorted(min(cut, len(order)) for cut in cuts)
    sizes = [end - start for start, end in zip([0, *ends], [*ends, len(order)])]
    check_batches(graph, torch.tensor(order), sizes, 3)


def test_some_structures_only():
    graph = make_graph([molecule(name) for name in ("H2O", "CH4", "H2", "NH3")], 2.0)
    check_batches(graph, torch.tensor([3, 1, 0]), [2, 1], 4)


@pytest.mark.parametrize("n_elements", [0, 3])
def test_all_structures_in_one_batch(n_elements):
    """What is the same for all batches is found in fewer steps for a single one."""
    frames = list(SYSTEMS.values())
    graph = make_graph(frames, 3.1)
    n_elements += len(as_structures(frames).elements)
    for own in (graph, graph.with_own_blocks(n_elements)):
        (expected,) = plan_batches(own, torch.arange(len(frames)), [len(frames)], n_elements)
        batch = plan_all(own, n_elements)
        assert batch.element_counts == expected.element_counts
        assert batch.n_rows == expected.n_rows
        for name, values in vars(expected).items():
            if isinstance(values, torch.Tensor):
                assert torch.equal(getattr(batch, name), values), name


def test_blocks_are_the_elements_of_each_structure():
    frames = [molecule("H2O"), molecule("H2"), molecule("CO2"), Atoms("C")]
    structures = as_structures(frames)
    graph = build_graph(structures, 2.0, np.array([1, 2, 6, 8])).with_own_blocks(4)
    assert graph.n_blocks == 2
    assert graph.block.tolist() == [1, 0, 0, 0, 0, 0, 1, 1, 0]
    own = graph.block_elements.gather(1, graph.block[:, None])[:, 0]
    assert torch.equal(own, graph.element)
    assert graph.block_elements[:2].tolist() == [[0, 3]] * 2


def test_batches_of_nothing():
    graph = make_graph([molecule("H2O")], 2.0)
    check_batches(graph, torch.tensor([], dtype=torch.long), [0, 0], 2)


# --- chunks --------------------------------------------------------------------------------------


def test_chunks_by_hand():
    assert list(iterate_chunks([2, 3, 1, 9, 1], 5)) == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 4),
        slice(4, 5),
    ]
    assert list(iterate_chunks([1, 1], 10)) == [slice(0, 2)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(1, 30))
def test_chunks_cover_everything_once_and_are_as_large_as_they_may(counts, limit):
    chunks = list(iterate_chunks(np.array(counts), limit))
    covered = [index for chunk in chunks for index in range(len(counts))[chunk]]
    assert covered == list(range(len(counts)))
    for chunk, following in zip(chunks, [*chunks[1:], None]):
        total = sum(counts[chunk])
        assert total <= limit or chunk.stop - chunk.start == 1
        if following is not None:
            assert total + counts[following.start] > limit
