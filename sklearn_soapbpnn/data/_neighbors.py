"""Neighbour pairs of one structure."""

from __future__ import annotations

import numpy as np
import vesin
from ase.geometry import complete_cell, wrap_positions
from scipy.spatial import KDTree

# closer than this (in the unit of the positions), two atoms are at the same place
COINCIDENT = 1e-6
# images of an atom within reach; no cell of real matter comes near
MOST_IMAGES = 10**6
# In boxes of more than 1e5 bins, vesin 0.6 merges them keeping the shape of the box. Where it is
# some 150 times longer than wide, none is left along the short side, and it divides by zero.
MANY_BINS, LONG = 5 * 10**4, 50


def find_pairs(index, positions, cell, pbc, cutoff_radius):
    """Find the pairs of one structure within the cutoff, each once.

    Parameters
    ----------
    index : int
        What messages call the structure.
    positions, cell, pbc : array
        See :class:`Structures`.
    cutoff_radius : float
        Neighbours farther than this are not seen.

    Returns
    -------
    centers, neighbors : array of shape (n_pairs,)
        Atoms i and j of each pair.
    vectors : array of shape (n_pairs, 3)
        From i to the image of j.

    Raises
    ------
    ValueError
        If two atoms are at the same place, or the cell is so thin that it cannot be searched.
    """
    heights, extents = _measure_box(positions, cell, pbc)
    n_images = np.prod(2 * np.ceil(cutoff_radius / heights[pbc]) + 1)
    if n_images > MOST_IMAGES:
        raise ValueError(
            f"The cell of structure {index} is only {heights[pbc].min():.1e} high, so that "
            f"{n_images:.0e} images of an atom are closer than {cutoff_radius:.3g}: "
            f"{cell.tolist()}. Repair the structure, or reduce its cell with "
            "ase.build.niggli_reduce."
        )
    n_bins = np.maximum(np.where(pbc, heights, extents) / cutoff_radius, 1)
    is_long = n_bins.prod() > MANY_BINS and n_bins.max() > LONG * n_bins.min()
    if is_long:
        reach = np.where(pbc, np.ceil(cutoff_radius / heights), 0).astype(int)
        centers, neighbors, vectors = _search_long(positions, cell, pbc, cutoff_radius, reach)
    else:
        centers, neighbors, vectors = _search(positions, cell, pbc, cutoff_radius)
    distances = np.linalg.norm(vectors, axis=1)
    if len(distances) and distances.min() < COINCIDENT:
        pair = int(np.argmin(distances))
        raise ValueError(
            f"Atoms {centers[pair]} and {neighbors[pair]} of structure {index} are at the same "
            f"place (distance {distances[pair]:.1e}). Remove one, or repair the structure."
        )
    return centers, neighbors, vectors


def _measure_box(positions, cell, pbc):
    """Distances between the faces of the cell, and how far the positions reach between them.

    Directions that are not periodic are perpendicular to the others.
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
    """Do the same in a box for which vesin is not made; ``reach`` cells away to either side."""
    shifts = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach)), axis=-1).reshape(-1, 3)
    inside = wrap_positions(positions, cell * pbc[:, None], pbc, eps=0)
    images = inside + (shifts @ cell)[:, None]
    found = KDTree(inside).sparse_distance_matrix(
        KDTree(images.reshape(-1, 3)), cutoff_radius, output_type="ndarray"
    )
    i, (shift, j) = found["i"], divmod(found["j"], len(positions))
    # of i, j, shift and j, i, -shift the first in this order is kept
    ends = np.column_stack([j - i, shifts[shift]])
    first = ends[np.arange(len(ends)), (ends != 0).argmax(1)] > 0
    i, j, shift = i[first], j[first], shift[first]
    return i, j, images[shift, j] - inside[i]
