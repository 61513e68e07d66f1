"""Neighbour pairs of one structure."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import vesin
from ase.geometry import complete_cell, wrap_positions
from scipy.spatial import KDTree

# atoms closer than this (in the unit of the positions) are at the same place
COINCIDENT = 1e-6
# largest number of periodic images of an atom to be searched, far more than in any real material
MOST_IMAGES = 10**6
# If a box has more than 1e5 bins, vesin 0.6 merges them in proportion to the shape of the box. If
# that is some 150 times longer than wide, no bin is left along the short side, and vesin divides by
# zero.
MANY_BINS, LONG = 5 * 10**4, 50
# atoms of a molecule whose distances are all computed, which is faster than to sort them into bins
FEW_ATOMS = 64


def find_pairs(index, positions, cell, pbc, cutoff_radius):
    """Find all pairs of one structure within the cutoff, listing each pair only once.

    Parameters
    ----------
    index : int
        Number of the structure in error messages.
    positions : array of shape (n_atoms, 3)
        Positions.
    cell : array of shape (3, 3)
        Cell vectors as rows, in the unit of the positions.
    pbc : array of shape (3,)
        Whether each direction is periodic.
    cutoff_radius : float
        Largest distance of a neighbour, in the unit of the positions.

    Returns
    -------
    centers, neighbors : array of shape (n_pairs,)
        Atoms i and j of each pair.
    vectors : array of shape (n_pairs, 3)
        Vectors from i to the periodic image of j.

    Raises
    ------
    ValueError
        If two atoms are at the same place, or the cell is so thin that there are too many periodic
        images to search.
    """
    if len(positions) <= FEW_ATOMS and not pbc.any():
        centers, neighbors, vectors = _search_all(positions, cutoff_radius)
    else:
        centers, neighbors, vectors = _search_box(index, positions, cell, pbc, cutoff_radius)
    distances = np.sqrt(np.einsum("pa,pa->p", vectors, vectors))
    if len(distances) and distances.min() < COINCIDENT:
        pair = int(np.argmin(distances))
        raise ValueError(
            f"Atoms {centers[pair]} and {neighbors[pair]} of structure {index} are at the same "
            f"place (distance {distances[pair]:.1e}). Remove one, or repair the structure."
        )
    return centers, neighbors, vectors


def _search_all(positions, cutoff_radius):
    """Compare all atoms of a molecule with each other."""
    i, j = _list_pairs(len(positions))
    vectors = positions[j] - positions[i]
    near = np.einsum("pa,pa->p", vectors, vectors) <= cutoff_radius**2
    return i[near], j[near], vectors[near]


@lru_cache(maxsize=FEW_ATOMS + 1)
def _list_pairs(n_atoms):
    return np.triu_indices(n_atoms, 1)


def _search_box(index, positions, cell, pbc, cutoff_radius):
    """Find the pairs with a suitable algorithm for this box."""
    heights, extents = _measure_box(positions, cell, pbc)
    n_images = np.prod(2 * np.ceil(cutoff_radius / heights[pbc]) + 1)
    if n_images > MOST_IMAGES:
        raise ValueError(
            f"The cell of structure {index} is only {heights[pbc].min():.1e} high, so "
            f"{n_images:.0e} periodic images of an atom are within {cutoff_radius:.3g}: "
            f"{cell.tolist()}. Repair the structure, or reduce its cell with "
            "ase.build.niggli_reduce."
        )
    n_bins = np.maximum(np.where(pbc, heights, extents) / cutoff_radius, 1)
    is_long = n_bins.prod() > MANY_BINS and n_bins.max() > LONG * n_bins.min()
    if is_long:
        reach = np.where(pbc, np.ceil(cutoff_radius / heights), 0).astype(int)
        return _search_long(positions, cell, pbc, cutoff_radius, reach)
    return _search(positions, cell, pbc, cutoff_radius)


def _measure_box(positions, cell, pbc):
    """Return the distances between opposite faces of the cell, and the extent of the positions.

    Non-periodic directions are taken as perpendicular to the others.
    """
    completed = complete_cell(cell * pbc[:, None])
    normals = np.linalg.inv(completed).T
    heights = 1 / np.linalg.norm(normals, axis=1)
    return heights, np.ptp(positions @ normals.T, axis=0) * heights


def _search(positions, cell, pbc, cutoff_radius):
    finder = vesin.NeighborList(cutoff=cutoff_radius, full_list=False, n_threads=1)
    centers, neighbors, vectors = finder.compute(positions, cell, pbc, "ijD")
    return centers.astype(np.int64), neighbors.astype(np.int64), vectors.reshape(-1, 3)


def _search_long(positions, cell, pbc, cutoff_radius, reach):
    """Find the pairs in a long box, which vesin cannot handle, in ``reach`` cells on each side."""
    shifts = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach)), axis=-1).reshape(-1, 3)
    inside = wrap_positions(positions, cell * pbc[:, None], pbc, eps=0)
    images = inside + (shifts @ cell)[:, None]
    found = KDTree(inside).sparse_distance_matrix(
        KDTree(images.reshape(-1, 3)), cutoff_radius, output_type="ndarray"
    )
    i, (shift, j) = found["i"], divmod(found["j"], len(positions))
    # (i, j, shift) and (j, i, -shift) are the same pair: keep the first in this order
    ends = np.column_stack([j - i, shifts[shift]])
    first = ends[np.arange(len(ends)), (ends != 0).argmax(1)] > 0
    i, j, shift = i[first], j[first], shift[first]
    return i, j, images[shift, j] - inside[i]
