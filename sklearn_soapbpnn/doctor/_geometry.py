"""Distances within each structure, measured once for all checks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii

from ..data import Structures, find_pairs

# in Angstrom; far enough for bonds between atoms whose positions are in Bohr by mistake
CUTOFF = 6.0
# widths of the Gaussians of distances by which structures are compared
WIDTHS = np.array([1.2, 2.0, 3.0, 4.5])
# noble gases do not bond
UNBOUND = np.isin(np.arange(len(covalent_radii)), [0, 2, 10, 18, 36, 54, 86])
# sums of vectors to neighbours below this fraction of an atom vanish by symmetry
SYMMETRIC = 1e-4


@dataclass(frozen=True)
class Geometry:
    """Distances in each structure; lengths are in the unit of the positions.

    Parameters
    ----------
    counts : array of shape (n_structures, n_elements)
        Number of atoms of each element.
    closest : array of shape (n_structures,)
        Smallest distance divided by the sum of the covalent radii; 0 if atoms are at the same
        place, infinite without neighbours.
    closest_distance : array of shape (n_structures,)
        The distance that this is.
    bond : array of shape (n_structures,)
        Median over the atoms of the smallest distance of each, divided by the sum of the covalent
        radii; NaN if no atom has a neighbour or all are noble gases.
    nearest : array of shape (n_structures,)
        Median over the atoms of the distance of the nearest neighbour; NaN without neighbours.
    alone : array of bool of shape (n_structures,)
        Whether it is a single atom without neighbours.
    symmetric : array of bool of shape (n_structures,)
        Whether the neighbours of each atom balance, so that forces are zero.
    fingerprint : array of shape (n_structures, n_functions)
        Numbers that depend on all distances but not on orientation or the order of the atoms; NaN
        where atoms are at the same place.
    """

    counts: np.ndarray
    closest: np.ndarray
    closest_distance: np.ndarray
    bond: np.ndarray
    nearest: np.ndarray
    alone: np.ndarray
    symmetric: np.ndarray
    fingerprint: np.ndarray


def measure(structures: Structures) -> Geometry:
    """Measure the distances in each structure."""
    columns = structures.numbers, structures.positions, structures.cells, structures.pbc
    rows = [_measure_structure(*arrays) for arrays in zip(*columns)]
    counts = np.stack([np.bincount(numbers, minlength=119) for numbers in structures.numbers])
    return Geometry(counts[:, structures.elements], *(np.array(column) for column in zip(*rows)))


def _measure_structure(numbers, positions, cell, pbc):
    """Return the values of :class:`Geometry` for one structure."""
    n_atoms = len(numbers)
    try:
        i, j, vectors = find_pairs(0, positions, cell, pbc, CUTOFF)
    except ValueError:  # atoms at the same place, or a cell that is almost flat
        unknown = np.full(4 * len(WIDTHS) + 1, np.nan)
        return 0.0, 0.0, np.nan, np.nan, False, False, unknown
    distances = np.sqrt(np.einsum("pa,pa->p", vectors, vectors))
    fingerprint = _compare_distances(numbers, positions, pbc, i, j, distances)
    if len(distances) == 0:
        return np.inf, np.inf, np.nan, np.nan, n_atoms == 1, True, fingerprint
    ratios = distances / (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    shortest = int(ratios.argmin())
    bond = _find_nearest(n_atoms, i, j, ratios)
    bond = bond[np.isfinite(bond) & ~UNBOUND[numbers]]
    nearest = _find_nearest(n_atoms, i, j, distances)
    weighted = vectors * np.exp(-((distances / 2) ** 2))[:, None]
    total = [
        np.bincount(i, component, n_atoms) - np.bincount(j, component, n_atoms)
        for component in weighted.T
    ]
    return (
        ratios[shortest],
        distances[shortest],
        np.median(bond) if len(bond) else np.nan,
        np.median(nearest[np.isfinite(nearest)]),
        False,
        np.abs(total).max() < SYMMETRIC,
        fingerprint,
    )


def _find_nearest(n_atoms, i, j, values):
    """Return the smallest value of each atom's pairs, infinite for an atom without pairs."""
    nearest = np.full(n_atoms, np.inf)
    np.minimum.at(nearest, i, values)
    np.minimum.at(nearest, j, values)
    return nearest


def _compare_distances(numbers, positions, pbc, i, j, distances):
    """Return means and spreads over the atoms of sums over their neighbours.

    The spreads are linear in the displacement of a single atom of a crystal, unlike the means.
    """
    smooth = np.maximum(1 - (distances / CUTOFF) ** 2, 0.0) ** 2  # no jump at the cutoff
    terms = np.exp(-2 * (distances[:, None] / WIDTHS) ** 2) * smooth[:, None]
    # the elements count by their square roots, so that heavy ones do not hide the others
    weights = np.sqrt(numbers)
    n_atoms, values = len(numbers), []
    for term in terms.T:
        plain = np.bincount(i, term, n_atoms) + np.bincount(j, term, n_atoms)
        weighted = np.bincount(i, term * weights[j], n_atoms)
        weighted += np.bincount(j, term * weights[i], n_atoms)
        values += [plain.mean(), plain.std(), weighted.std(), (weighted * weights).mean()]
    # parts of a molecule may be farther apart than the cutoff
    spread = 0.0 if pbc.any() else np.sqrt(((positions - positions.mean(0)) ** 2).sum(1).mean())
    return np.array([*values, spread])
