"""Structures and labels as the checks see them: what cannot be used is left out and reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data import Structures, Targets, as_structures
from ._geometry import Geometry, measure
from ._report import Finding

# of the median absolute deviation of Gaussian numbers, so that it is their standard deviation
MAD = 1.4826
N_ITERATIONS = 30


@dataclass(frozen=True)
class Sample:
    """Structures with labels.

    Parameters
    ----------
    X : Structures
        Structures that could be read; their ``indices`` are positions in the user's X.
    y : Targets or None
        Labels of the same structures.
    """

    X: Structures
    y: Targets | None

    def __len__(self):
        return len(self.X)

    @cached_property
    def geometry(self) -> Geometry:
        """Distances in each structure."""
        return measure(self.X)

    @property
    def title(self):
        """What was checked, for the report."""
        columns = "" if self.y is None else f" with {', '.join(self.y.names)}"
        return f"{count(self)}{columns}"

    @property
    def shares(self):
        """Fraction of each element: array of shape (n_structures, n_elements)."""
        return self.geometry.counts / self.X.n_atoms[:, None]

    def column(self, name):
        """Return a column as a list with an array for each structure; empty if there is none."""
        return [] if self.y is None or name not in self.y else list(self.y[name])

    def has_label(self, name):
        """Return which structures have all components of a label."""
        if self.y is None or name not in self.y:
            return np.zeros(len(self), bool)
        return np.array([np.isfinite(values).all() for values in self.y[name]])

    def indices(self, chosen):
        """Return the positions in the user's X of chosen structures (positions or a mask)."""
        return self.X.indices[chosen]

    def residuals(self, chosen, values, features=None):
        """Return values per atom minus a linear fit on composition, in which few outliers count.

        Parameters
        ----------
        chosen : array of int
            Positions of the structures.
        values : array of shape (n_chosen,)
            Values per structure, such as energies.
        features : array of shape (n_chosen, n_features), default=None
            Further features of the fit.
        """
        columns = self.shares[chosen]
        if features is not None:
            columns = np.column_stack([columns, features])
        values = values / self.X.n_atoms[chosen]
        weights, coefficients = np.ones(len(values)), None
        for _ in range(N_ITERATIONS):  # least absolute deviations
            coefficients = np.linalg.lstsq(
                columns * weights[:, None], values * weights, rcond=None
            )[0]
            rest = values - columns @ coefficients
            weights = 1 / np.sqrt(np.maximum(np.abs(rest), 1e-6 * np.ptp(values) + 1e-12))
        return rest - np.median(rest)


def count(chosen, one="structure", several="structures"):
    """Return how many there are as text, e.g. "1 structure"."""
    return f"{len(chosen)} {one if len(chosen) == 1 else several}"


def spread(values):
    """Return a standard deviation that outliers hardly change."""
    return MAD * np.median(np.abs(values - np.median(values)))


def read_sample(X, y, X_name="X", y_name="y") -> tuple[Sample | None, list[Finding]]:
    """Return structures and labels that can be used, and findings about the others.

    Raises
    ------
    TypeError
        If X is not a sequence of structures.
    ValueError
        If X is empty, or y has another number of structures.
    """
    structures, invalid = _read_structures(X, X_name)
    n_structures = len(invalid) + (0 if structures is None else len(structures))
    y = _read_labels(y)
    if y is not None and len(y) != n_structures:
        raise ValueError(
            f"{X_name} has {n_structures} structures, but {y_name} has {len(y)} labels."
        )
    findings = [
        Finding("invalid structures", "error", np.array([index]), message)
        for index, message in invalid.items()
    ]
    if structures is None:
        return None, findings
    if y is not None:
        y = y[structures.indices]
        wrong = sorted(set(_find_wrong_rows(structures, y)))
        if wrong:
            findings.append(_report_wrong_rows(structures.indices[wrong]))
            kept = np.setdiff1d(np.arange(len(structures)), wrong)
            structures, y = structures[kept], y[kept]
    return (Sample(structures, y) if len(structures) else None), findings


def _read_structures(X, name):
    """Return the valid structures, or None, and the messages about the others by position."""
    if isinstance(X, Structures):
        X = as_structures(X, name)
        return Structures(X.numbers, X.positions, X.cells, X.pbc), {}
    try:
        return as_structures(X, name), {}
    except ValueError:
        if len(X) == 0:
            raise
    parts, invalid = [], {}
    for index in range(len(X)):
        try:
            parts.append((index, as_structures([X[index]], name)))
        except ValueError as err:
            invalid[index] = str(err).replace(f"{name}[0]", f"{name}[{index}]", 1)
    if not parts:
        return None, invalid
    columns = ([getattr(part, key)[0] for _, part in parts] for key in _GEOMETRY)
    return Structures(*columns, indices=[index for index, _ in parts]), invalid


_GEOMETRY = ("numbers", "positions", "cells", "pbc")


def _read_labels(y):
    """Return labels as Targets, or None; in an array, NaN and infinity mean not labelled."""
    if y is None or isinstance(y, Targets):
        return y
    energy = np.array(y, dtype=float)
    energy[~np.isfinite(energy)] = np.nan
    return Targets(energy=energy)


def _find_wrong_rows(structures, y) -> Iterator[int]:
    for name, kind in y.kinds.items():
        if kind.per_atom:
            rows = np.array([len(values) for values in y[name]])
            yield from np.flatnonzero(rows != structures.n_atoms).tolist()


def _report_wrong_rows(indices):
    message = (
        f"the number of atoms is not that of the labels per atom in {count(indices)}. "
        "Labels and structures are in different orders, or belong to different files."
    )
    return Finding("labels of other structures", "error", indices, message)
