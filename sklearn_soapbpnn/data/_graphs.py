"""Concatenated graphs: neighbour pairs of many structures, and batches sorted by element."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ._neighbors import find_pairs

NO_PAIRS = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3))


@dataclass
class Graph:
    r"""Atoms and neighbour pairs of many structures, concatenated.

    Each pair within the cutoff is listed once: what :math:`i` sees at :math:`\mathbf r_{ij}`,
    :math:`j` sees at :math:`-\mathbf r_{ij}`, and real spherical harmonics have parity
    :math:`(-1)^l`, so the other half follows for free.

    Parameters
    ----------
    element : Tensor of shape (n_atoms,)
        Index of each atom's element.
    block : Tensor of shape (n_atoms,)
        Which block of its neighbours' density expansion an atom adds to: its element, or the place
        of that among the elements of its own structure.
    n_blocks : int
        Number of blocks.
    atom_counts, pair_counts : Tensor of shape (n_structures,)
        Numbers of atoms and of pairs.
    centers, neighbors : Tensor of shape (n_pairs,)
        Atoms i and j of each pair.
    pair_vectors : Tensor of shape (n_pairs, 3)
        :math:`\mathbf r_{ij} = \mathbf r_j - \mathbf r_i + S \cdot \text{cell}`.
    block_elements : Tensor of shape (n_atoms, n_blocks), default=None
        Index of the element of each block; None if the blocks are the elements.
    n_outside : int, default=0
        How many atoms at the end are neighbours only: their own environments are empty.
    """

    element: Tensor
    block: Tensor
    n_blocks: int
    atom_counts: Tensor
    pair_counts: Tensor
    centers: Tensor
    neighbors: Tensor
    pair_vectors: Tensor
    block_elements: Tensor | None = None
    n_outside: int = 0

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.element)

    def to(self, device, dtype) -> Graph:
        """Return a copy on ``device`` whose pair vectors have ``dtype``."""
        fields = {n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)}
        fields["pair_vectors"] = fields["pair_vectors"].to(dtype)
        return replace(self, **fields)

    def with_own_blocks(self, n_elements: int) -> Graph:
        """Return a copy in which the blocks are the elements of each structure, ascending.

        A structure with fewer elements than others has more blocks than it needs: they are empty.
        """
        n_structures = len(self.atom_counts)
        structure = torch.arange(n_structures, device=self.element.device)
        structure = structure.repeat_interleave(self.atom_counts, output_size=self.n_atoms)
        present = torch.zeros(n_structures, n_elements, dtype=torch.long, device=structure.device)
        present[structure, self.element] = 1
        block = (present.cumsum(1) - 1)[structure, self.element]
        n_blocks = int(present.sum(1).max())
        # those that are present come first, in ascending order
        elements = present.argsort(dim=1, descending=True, stable=True)[:, :n_blocks]
        return replace(self, block=block, n_blocks=n_blocks, block_elements=elements[structure])


def build_graph(structures, cutoff_radius, elements) -> Graph:
    """Find the neighbour pairs of ``structures``, in float64; none if ``cutoff_radius`` is None.

    Raises
    ------
    ValueError
        If two atoms of a structure are at the same place, or its cell is too thin to be searched.
    """
    geometry = structures.indices, structures.positions, structures.cells, structures.pbc
    if cutoff_radius is None:
        pairs = [NO_PAIRS] * len(structures)
    else:
        pairs = [find_pairs(*arrays, cutoff_radius) for arrays in zip(*geometry)]
    centers, neighbors, vectors = (np.concatenate(arrays) for arrays in zip(*pairs))
    n_atoms, n_pairs = structures.n_atoms, np.array([len(i) for i, _, _ in pairs])
    first_atom = np.repeat(np.cumsum(n_atoms) - n_atoms, n_pairs)
    element = torch.from_numpy(np.searchsorted(elements, np.concatenate(structures.numbers)))
    return Graph(
        element=element,
        block=element,
        n_blocks=len(elements),
        atom_counts=torch.from_numpy(n_atoms),
        pair_counts=torch.from_numpy(n_pairs),
        centers=torch.from_numpy(centers + first_atom),
        neighbors=torch.from_numpy(neighbors + first_atom),
        pair_vectors=torch.from_numpy(vectors),
    )


@dataclass
class BatchIndex:
    """Where the atoms and pairs of one batch stand in a :class:`Graph`.

    The atoms of a batch are sorted by element, so that a layer with weights per element works on
    slices. ``rows`` is their place in a table of shape (n_elements, ``n_rows``), in which every
    element has as many rows as the most frequent one.
    """

    structures: Tensor  # (n_structures,) into the graph
    atoms: Tensor  # (n_atoms,) into the graph
    structure_of_atom: Tensor  # (n_atoms,) into the batch
    element: Tensor  # (n_atoms,)
    element_counts: list[int]
    rows: Tensor  # (n_atoms,) into the flattened table
    n_rows: int
    pairs: Tensor  # (n_pairs,) into the graph
    centers: Tensor  # (n_pairs,) into the batch
    neighbors: Tensor
    channel_rows: Tensor  # (2, n_pairs) see channel_rows

    def __len__(self) -> int:
        return len(self.structures)

    def rows_of_networks(self, n_networks: int) -> Tensor:
        """Place of the atoms in a table of shape (n_elements, n_networks, ``n_rows``).

        Returns
        -------
        Tensor of shape (n_networks * n_atoms,)
            The atoms for the first network, then those for the second, and so on.
        """
        if n_networks == 1:
            return self.rows
        sets = self.element * (n_networks - 1) + _column(n_networks, self.rows)
        return (self.rows + sets * self.n_rows).flatten()


def sum_by_structure(values: Tensor, index: BatchIndex) -> Tensor:
    """Sum values of the atoms of a batch, (n_atoms, ...), over each of its structures."""
    total = values.new_zeros(len(index), *values.shape[1:])
    return total.index_add(0, index.structure_of_atom, values)


def plan_all(graph: Graph, n_elements: int) -> BatchIndex:
    """Put all structures of a graph into one batch; the pairs keep their order.

    This is what :func:`plan_batches` returns for one batch, in a fifth of the operations.
    """
    device = graph.element.device
    structures, place, pairs = (
        torch.arange(n, device=device)
        for n in (len(graph.atom_counts), graph.n_atoms, len(graph.centers))
    )
    element, atoms = torch.sort(graph.element, stable=True)
    counts = torch.bincount(element, minlength=n_elements)
    element_counts = counts.tolist()
    n_rows = max(element_counts)
    rows = (n_rows * torch.arange(n_elements, device=device) - _starts(counts))[element] + place
    structure = structures.repeat_interleave(graph.atom_counts, output_size=graph.n_atoms)
    place = torch.empty_like(place).index_copy_(0, atoms, place)
    centers, neighbors = place[graph.centers], place[graph.neighbors]
    return BatchIndex(
        structures=structures,
        atoms=atoms,
        structure_of_atom=structure[atoms],
        element=element,
        element_counts=element_counts,
        rows=rows,
        n_rows=n_rows,
        pairs=pairs,
        centers=centers,
        neighbors=neighbors,
        channel_rows=channel_rows(
            *(centers, neighbors, graph.block[graph.centers], graph.block[graph.neighbors]),
            graph.n_blocks,
        ),
    )


def plan_batches(
    graph: Graph, order: Tensor, sizes: list[int], n_elements: int
) -> list[BatchIndex]:
    """Cut the structures ``order`` into batches of these ``sizes``, of which some may be zero.

    Everything is indexed at once, once an epoch.
    """
    n_structures = torch.tensor(sizes, device=order.device)
    batch = torch.arange(len(sizes), device=order.device)
    batch = batch.repeat_interleave(n_structures, output_size=len(order))
    atoms = _sort_atoms(graph, order, batch, len(sizes), n_elements)
    pairs = _gather_pairs(graph, order, atoms)
    pair_counts = graph.pair_counts[order]
    pairs_per_batch = pair_counts.new_zeros(len(sizes)).index_add(0, batch, pair_counts)

    n_atoms, n_pairs = atoms.element_counts.sum(1).tolist(), pairs_per_batch.tolist()
    fields = {
        "structures": order.split(sizes),
        "atoms": atoms.atoms.split(n_atoms),
        "structure_of_atom": _count_up(n_structures)[atoms.structure].split(n_atoms),
        "element": atoms.element.split(n_atoms),
        "element_counts": atoms.element_counts.tolist(),
        "rows": atoms.rows.split(n_atoms),
        "n_rows": atoms.n_rows.tolist(),
    }
    fields |= {name: values.split(n_pairs, dim=-1) for name, values in pairs.items()}
    return [BatchIndex(**dict(zip(fields, values))) for values in zip(*fields.values())]


@dataclass
class _SortedAtoms:
    """Atoms of all batches, sorted by batch and within each by element."""

    atoms: Tensor  # (n_atoms,) into the graph
    structure: Tensor  # (n_atoms,) into the order
    element: Tensor  # (n_atoms,)
    rows: Tensor  # (n_atoms,) into the flattened table of the batch
    place: Tensor  # (graph.n_atoms,) of each atom of the graph in its batch
    element_counts: Tensor  # (n_batches, n_elements)
    n_rows: Tensor  # (n_batches,)


def _sort_atoms(graph, order, batch, n_batches, n_elements) -> _SortedAtoms:
    n_atoms = graph.atom_counts[order]
    atoms = _ranges(_starts(graph.atom_counts)[order], n_atoms)
    structure = torch.arange(len(order), device=order.device).repeat_interleave(n_atoms)
    key = batch[structure] * n_elements + graph.element[atoms]
    key, permutation = torch.sort(key, stable=True)
    atoms, structure = atoms[permutation], structure[permutation]

    counts = torch.bincount(key, minlength=n_batches * n_elements)
    element_counts = counts.view(n_batches, n_elements)
    n_rows = element_counts.max(1).values
    element = key % n_elements
    rows = element * n_rows[key // n_elements] + _count_up(counts)
    place = torch.empty(graph.n_atoms, dtype=torch.long, device=order.device)
    place[atoms] = _count_up(element_counts.sum(1))
    return _SortedAtoms(atoms, structure, element, rows, place, element_counts, n_rows)


def _gather_pairs(graph, order, atoms) -> dict[str, Tensor]:
    """Return what a :class:`BatchIndex` holds of the pairs, for all batches in a row."""
    pairs = _ranges(_starts(graph.pair_counts)[order], graph.pair_counts[order])
    i, j = graph.centers[pairs], graph.neighbors[pairs]
    centers, neighbors = atoms.place[i], atoms.place[j]
    rows = channel_rows(centers, neighbors, graph.block[i], graph.block[j], graph.n_blocks)
    return {"pairs": pairs, "centers": centers, "neighbors": neighbors, "channel_rows": rows}


def channel_rows(centers, neighbors, center_block, neighbor_block, n_blocks) -> Tensor:
    """Rows (atom, block of the neighbour) that both directions of a pair add to: (2, n_pairs)."""
    forward = centers * n_blocks + neighbor_block
    return torch.stack([forward, neighbors * n_blocks + center_block])


def iterate_chunks(counts, limit) -> Iterator[slice]:
    """Cut structures into runs whose ``counts`` add up to at most ``limit``, where possible."""
    start, total = 0, 0
    for index, count in enumerate(counts):
        if index > start and total + count > limit:
            yield slice(start, index)
            start, total = index, 0
        total += count
    yield slice(start, len(counts))


def repeat_index(index: Tensor, n_rows: int, n_networks: int) -> Tensor:
    """Return an index for the rows of all networks, of which each has ``n_rows`` rows."""
    if n_networks == 1:
        return index
    return (index + n_rows * _column(n_networks, index)).flatten()


def _column(n: int, like: Tensor) -> Tensor:
    """Return the numbers from 0 to n - 1 as a column."""
    return torch.arange(n, device=like.device)[:, None]


def _starts(counts: Tensor) -> Tensor:
    """Return where each of consecutive groups of these sizes begins."""
    return counts.cumsum(0) - counts


def _count_up(counts: Tensor) -> Tensor:
    """Concatenate ``0 ... counts[k] - 1``: the place of each entry in its group."""
    starts = _starts(counts).repeat_interleave(counts)
    return torch.arange(len(starts), device=counts.device) - starts


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Concatenate the ranges ``starts[k] ... starts[k] + counts[k] - 1``."""
    return starts.repeat_interleave(counts) + _count_up(counts)
