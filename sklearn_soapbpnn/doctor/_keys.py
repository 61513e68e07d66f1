"""Labels that structures carry, but that nobody asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ..data import KNOWN_KINDS, Structures
from ._report import Finding
from ._sample import count

LABEL = re.compile(r"energ|force|grad|stress|virial|dipole|charge|polar|magmom", re.IGNORECASE)


def check_keys(X, sample):
    """Yield keys of info, arrays and calculators that look like labels and are not in y."""
    if isinstance(X, Structures):  # without info, arrays and calculators
        return
    carried = {}
    for place, index in enumerate(sample.X.indices):
        for key, values in _list_labels(X[int(index)]):
            carried.setdefault(key, []).append((place, values))
    for key, entries in carried.items():
        if len(entries) > 1 and all(np.array_equal(values, entries[0][1]) for _, values in entries):
            continue  # a setting of the calculations
        if any(_is_column(sample, name, entries) for name in getattr(sample.y, "names", ())):
            continue
        places = np.array([place for place, _ in entries])
        differs = key in getattr(sample.y, "names", ())
        target = key if key in KNOWN_KINDS else "name"
        yield Finding(
            "unused labels",
            "note",
            sample.indices(places),
            f"{key!r} of {count(places)} {'differs from that' if differs else 'is not'} in y. If "
            f"you want it as a label, read it with Targets.from_atoms(..., {target}={key!r}).",
        )


def _list_labels(atoms):
    """Yield the keys and values of what looks like labels; each key once."""
    results = getattr(atoms.calc, "results", None) or {}
    info = [values for values in atoms.info.values() if isinstance(values, Mapping)]
    seen = set()
    for source in (results, atoms.info, *info, atoms.arrays):
        for key, value in source.items():
            if key in seen or not isinstance(key, str) or not LABEL.search(key):
                continue
            seen.add(key)
            try:
                values = np.asarray(value, dtype=float)
            except (TypeError, ValueError):
                continue
            if values.size and np.asarray(value).dtype != bool:
                yield key, values


def _is_column(sample, name, entries):
    """Return whether values are those of a column, wherever this has a label."""
    column = sample.column(name)
    compared = 0
    for place, values in entries:
        known = np.ravel(column[place])
        # a tensor may be flat or in Voigt order
        if values.size == 6 and known.size == 9:
            known = column[place][(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
        if known.size != values.size or not np.isfinite(known).all():
            continue
        if not np.allclose(known, values.ravel(), rtol=1e-6, atol=1e-9):
            return False
        compared += 1
    return compared > 0
