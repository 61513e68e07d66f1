"""Checks of structures alone: overlaps, lengths in Bohr, duplicates."""

from __future__ import annotations

import numpy as np
from ase.units import Bohr
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from ._report import Finding
from ._sample import spread

# smallest distances divided by the sum of the covalent radii: hydrogen in H2 has 1.2, metals under
# pressure 0.8
OVERLAP, CLOSE = 0.3, 0.5
# median distance of nearest neighbours, in the same unit: 1 in Angstrom, 1.9 in Bohr
TOO_LONG = 1.5
# largest difference of the fingerprints of copies, relative to the largest in the data
SAME = 1e-5
# labels of copies are the same if they differ by less than this fraction of their spread
SAME_LABEL = 1e-3


def check_overlaps(sample):
    """Yield structures in which atoms overlap."""
    geometry = sample.geometry
    for severity, low, high in (("error", -1, OVERLAP), ("warning", OVERLAP, CLOSE)):
        found = np.flatnonzero((geometry.closest >= low) & (geometry.closest < high))
        if len(found) == 0:
            continue
        worst = found[geometry.closest[found].argmin()]
        yield Finding(
            "overlapping atoms",
            severity,
            sample.indices(found),
            f"atoms are as close as {geometry.closest_distance[worst]:.2g} (structure "
            f"{sample.indices(worst)}), {geometry.closest[worst]:.2g} times the sum of their "
            "covalent radii. Remove these structures, unless they are meant to be there; if all "
            "distances are too short, look for positions in nm or a cell that is too small.",
        )


def check_bonds(sample):
    """Yield structures whose atoms are so far apart that the positions may be in Bohr."""
    bond = sample.geometry.bond
    # a molecule of two atoms may be a point of a dissociation curve
    long = (bond > TOO_LONG) & ((sample.X.n_atoms > 2) | (np.nanmedian([*bond, 1]) > TOO_LONG))
    found = np.flatnonzero(long)
    if len(found):
        yield Finding(
            "bond lengths",
            "error",
            sample.indices(found),
            f"the nearest neighbours are {np.median(bond[found]):.2f} covalent bond lengths away "
            "(1 is usual in Angstrom, 1.89 in Bohr; the median over atoms and structures). If "
            f"positions and cells are in Bohr, multiply them by {Bohr:.6f}.",
        )


def check_duplicates(sample, validation=None):
    """Yield copies within the structures, and of them among validation structures."""
    same, other, images = [], [], []
    for group in find_copies(sample):
        if _labels_differ(sample, group):
            other.extend(group)
        else:
            (same if _is_exact(sample.X, group) else images).extend(group)
    if other:
        yield Finding(
            "duplicates with other labels",
            "error",
            sample.indices(np.sort(other)),
            f"{len(other)} structures have a copy with another energy or other forces (up to "
            "rotation and the order of atoms). Labels are mixed up, or of two methods: keep one.",
        )
    if same:
        yield Finding(
            "duplicates",
            "warning",
            sample.indices(np.sort(same)),
            f"{len(same)} structures are copies of each other, up to rotation and the order of "
            "atoms. They count several times, and copies in training and test data make errors "
            "look too small: keep one of each.",
        )
    if images:
        yield Finding(
            "symmetric copies",
            "note",
            sample.indices(np.sort(images)),
            f"{len(images)} crystals are rotated or mirrored images of others. Keep one of each, "
            "or at least keep them together when you split the data.",
        )
    if validation is not None:
        yield from _check_leak(sample, validation)


def find_copies(sample):
    """Return groups of equal structures, as arrays of positions in the sample."""
    return [group for group in _group(sample.X.numbers, [sample.geometry]) if len(group) > 1]


def _is_exact(structures, group):
    """Return whether copies are more than equivalent by symmetry, as equally strained crystals."""
    if not structures.pbc[group[0]].any():
        return True
    rows = [np.vstack([structures.positions[k], structures.cells[k]]) for k in group]
    return any(np.allclose(one, other, atol=1e-4) for one, other in zip(rows, [*rows[1:], rows[0]]))


def _check_leak(sample, validation):
    numbers = [*sample.X.numbers, *validation.X.numbers]
    n_train, found = len(sample), []
    for group in _group(numbers, [sample.geometry, validation.geometry]):
        if group.min() < n_train <= group.max():
            found.extend(group[group < n_train])
    if found:
        yield Finding(
            "duplicates in validation data",
            "warning",
            sample.indices(np.sort(found)),
            f"X_val contains copies of {len(found)} structures of X, so validation errors are too "
            "small. Remove the copies from one of the two.",
        )


def _group(numbers, geometries):
    """Yield arrays of positions of structures with the same atoms and the same distances."""
    fingerprint = np.concatenate([geometry.fingerprint for geometry in geometries])
    # single atoms are compared by their energies elsewhere
    usable = np.isfinite(fingerprint).all(1) & ~np.concatenate([g.alone for g in geometries])
    fingerprint = fingerprint / np.maximum(np.nanmax(np.abs(fingerprint), axis=0), 1e-12)
    by_atoms = {}
    for index in np.flatnonzero(usable):
        by_atoms.setdefault(np.sort(numbers[index]).tobytes(), []).append(index)
    for places in map(np.array, by_atoms.values()):
        if len(places) < 2:
            continue
        rows = fingerprint[places]
        # the nearest other structure is enough to link a group
        distances, nearest = KDTree(rows).query(rows, k=2, p=np.inf)
        # of several copies any two may be nearest
        nearest = np.where(nearest[:, 0] == np.arange(len(rows)), nearest[:, 1], nearest[:, 0])
        linked = np.flatnonzero(distances[:, 1] < SAME)
        shape = (len(places), len(places))
        links = coo_array((np.ones(len(linked)), (linked, nearest[linked])), shape=shape)
        group_of = connected_components(links, directed=False)[1]
        linked = linked[np.argsort(group_of[linked], kind="stable")]
        starts = np.flatnonzero(np.diff(group_of[linked])) + 1
        yield from (places[group] for group in np.split(linked, starts) if len(group))


def _labels_differ(sample, group):
    """Return whether copies have different energies, or different norms of forces."""
    labels = []
    if "energy" in (sample.y.names if sample.y is not None else ()):
        labels.append(sample.y["energy"])
    if sample.column("forces"):
        labels.append(np.array([np.linalg.norm(values) for values in sample.column("forces")]))
    for values in labels:
        known = values[np.isfinite(values)]
        here = values[group][np.isfinite(values[group])]
        if len(here) and np.ptp(here) > SAME_LABEL * spread(known) + 1e-6 * np.abs(here).max():
            return True
    return False
