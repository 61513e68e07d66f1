"""Common parts of the steps that are fitted on targets and attach data to structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from .._estimators import Documented
from .._version import VersionedPickle
from ..data import (
    DERIVED_TARGETS,
    TargetKind,
    as_structures,
    as_targets,
    check_labelled,
    subtract_offset,
)


class TargetStep(Documented, VersionedPickle, TransformerMixin, BaseEstimator):
    """Pipeline step that is fitted on the targets and attaches the result to X."""

    def __init_subclass__(cls, **kwargs):
        # never convert structures to a table, even if set_output requests it
        super().__init_subclass__(auto_wrap_output_keys=None, **kwargs)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the input features, since this step makes no features.

        Parameters
        ----------
        input_features : sequence of str, default=None
            Names of the input features.

        Returns
        -------
        array of str
            The same names; empty for None.

        Raises
        ------
        NotFittedError
            If the step is not fitted.
        """
        check_is_fitted(self)
        return np.asarray([] if input_features is None else input_features, dtype=object)

    def set_output(self, *, transform: Any = None) -> Self:
        """Do nothing: this step passes structures on, and a later step makes the table.

        Parameters
        ----------
        transform : object, default=None
            Ignored.

        Returns
        -------
        self
        """
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags


@dataclass
class Residual:
    """Residual of a target, i.e. label minus offset, with one row per structure or per atom.

    Parameters
    ----------
    kind : TargetKind
        Kind of the target.
    labels : array of shape (n_rows, kind.size)
        Labels; zero if missing.
    values : array of shape (n_rows, kind.size)
        ``labels - offset``; zero if the label is missing.
    known : array of bool of shape (n_rows, kind.size)
        Whether a component is labelled.
    weights : array of shape (n_rows,)
        Weight of the structure to which the row belongs.
    structure : array of shape (n_rows,)
        Index of the structure to which the row belongs.
    """

    kind: TargetKind
    labels: np.ndarray
    values: np.ndarray
    known: np.ndarray
    weights: np.ndarray
    structure: np.ndarray


def compute_residuals(X, y, sample_weight):
    """Return structures, and the :class:`Residual` of each target that is not derived.

    Raises
    ------
    TypeError, ValueError
        If X or y is invalid, y has no such target, a target has no label at all, or all labelled
        structures have zero weight.
    """
    structures = as_structures(X)
    targets = as_targets(y, structures)
    check_labelled(targets)
    names = [name for name in targets.names if name not in DERIVED_TARGETS]
    if not names:
        raise ValueError(
            f"y needs a column other than {list(DERIVED_TARGETS)}, such as 'energy', but its "
            f"columns are {list(targets.names)}."
        )
    weights = _check_sample_weight(
        sample_weight, structures.n_atoms, dtype=np.float64, ensure_non_negative=True
    )
    return structures, {
        name: _compute_residual(structures, targets, name, weights) for name in names
    }


def _compute_residual(structures, targets, name, weights):
    kind, labels = targets.kinds[name], targets.flatten(name)
    known = np.isfinite(labels)
    values = np.where(known, subtract_offset(structures, targets, name), 0.0)
    labels = np.where(known, labels, 0.0)
    structure = np.arange(len(structures))
    if kind.per_atom:
        structure = np.repeat(structure, structures.n_atoms)
    rows = known.any(1)
    if rows.any() and not weights[structure][rows].any():
        raise ValueError(f"sample_weight is zero for every structure with a label of {name!r}.")
    return Residual(kind, labels, values, known, weights[structure], structure)


def has_baseline(kind):
    """Return whether a target is a sum or mean of atomic values with an invariant part."""
    return kind.invariant_components.size > 0 and not kind.per_volume
