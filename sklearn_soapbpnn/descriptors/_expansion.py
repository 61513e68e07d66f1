"""Density expansion: the pair basis, summed over the neighbours of each element."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from ..data import Graph, build_graph, channel_rows, iterate_chunks, usual_settings
from ._pair_basis import PairBasis
from ._pair_sums import sum_pairs

# number of pairs of the structures that are expanded at a time
PAIRS_PER_GRAPH = 50_000


def expand_density(basis: PairBasis, graph: Graph, pairs=None) -> Tensor:
    r"""Sum the pair basis over the neighbours of each block.

    .. math:: c_i^{a,nlm} = \sum_{j \text{ of block } a} B_{nlm}(\mathbf r_{ij})

    Parameters
    ----------
    basis : PairBasis
        The basis; seen from atom j, a pair has the sign :math:`(-1)^l`.
    graph : Graph
        Pairs of neighbours, and the block of each atom.
    pairs : FusedPairs or FactoredPairs, default=None
        Computes the sums over the pairs; None makes a new one.

    Returns
    -------
    Tensor of shape (n_atoms, n_blocks, n_channels)
        Zero for atoms that are neighbours only.
    """
    i, j = graph.centers, graph.neighbors
    rows = channel_rows(i, j, graph.block[i], graph.block[j], graph.n_blocks)
    pairs = pairs or sum_pairs(basis, graph.pair_vectors, derivatives=False)
    expansion = pairs.expand(rows, graph.n_atoms * graph.n_blocks)
    expansion = expansion.view(graph.n_atoms, graph.n_blocks, -1)
    expansion[graph.n_atoms - graph.n_outside :] = 0
    return expansion


@usual_settings()
def compute_expansions(structures, parameters, dtype) -> list[np.ndarray]:
    """Expand the neighbour density of every atom, for the elements of its structure.

    Returns
    -------
    list of arrays of shape (n_atoms, n_elements_of_the_structure, n_channels)
        Elements are in ascending order of the atomic number.
    """
    basis = _load_basis(parameters, dtype)
    elements = structures.elements
    graph = build_graph(structures, parameters.cutoff_radius, elements)
    expansions = []
    for part, chunk in _split_graph(graph, PAIRS_PER_GRAPH):
        chunk, counts = chunk.with_own_blocks(len(elements)), structures.n_atoms[part]
        expansion = expand_density(basis, chunk.to("cpu", dtype))
        n_own = 1 + np.maximum.reduceat(chunk.block.numpy(), np.cumsum(counts) - counts)
        for block, n in zip(expansion.split(counts.tolist()), n_own):
            expansions.append(block.numpy()[:, :n].copy())
    return expansions


@lru_cache(maxsize=32)
def _load_basis(parameters, dtype) -> PairBasis:
    """Return the pair basis on the CPU; it is shared, as it has no weights."""
    return PairBasis(parameters).to(dtype)


def _split_graph(graph: Graph, max_pairs):
    """Yield slices of the structures that have few pairs, and their graphs."""
    for part in iterate_chunks(graph.pair_counts.tolist(), max_pairs):
        atoms, pairs = (_find_items(n, part) for n in (graph.atom_counts, graph.pair_counts))
        own = Graph(
            element=graph.element[atoms],
            block=graph.block[atoms],
            n_blocks=graph.n_blocks,
            atom_counts=graph.atom_counts[part],
            pair_counts=graph.pair_counts[part],
            centers=graph.centers[pairs] - atoms.start,
            neighbors=graph.neighbors[pairs] - atoms.start,
            pair_vectors=graph.pair_vectors[pairs],
        )
        yield part, own


def _find_items(counts, part) -> slice:
    """Return which atoms or pairs belong to some of the structures, given the number of each."""
    first = int(counts[: part.start].sum())
    return slice(first, first + int(counts[part].sum()))
