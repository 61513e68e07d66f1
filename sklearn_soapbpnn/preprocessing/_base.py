"""What the steps that attach something to structures share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from .._version import VersionedPickle
from ..data import DERIVED_TARGETS, TargetKind, as_structures, as_targets, subtract_offset


class TargetStep(VersionedPickle, TransformerMixin, BaseEstimator):
    """Pipeline step that learns about the targets and attaches what it learnt to X."""

    def __init_subclass__(cls, **kwargs):
        # structures are no table: never wrap them, whatever set_output says
        super().__init_subclass__(auto_wrap_output_keys=None, **kwargs)

    def get_feature_names_out(self, input_features=None):
        """Return the names that come in: no features are made here."""
        check_is_fitted(self)
        return np.asarray([] if input_features is None else input_features, dtype=object)

    def set_output(self, *, transform=None):
        """Return self: structures pass through, and a later step makes the table."""
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags


@dataclass
class Residual:
    """What the offset leaves of a target, in rows of structures or of all atoms.

    Parameters
    ----------
    kind : TargetKind
        Kind of the target.
    labels : array of shape (n_rows, kind.size)
        Labels, zero where there is none.
    values : array of shape (n_rows, kind.size)
        ``labels - offset``, zero where there is no label.
    known : array of shape (n_rows, kind.size)
        Which components have a label.
    weights : array of shape (n_rows,)
        Weight of each row's structure.
    structure : array of shape (n_rows,)
        Index of each row's structure.
    """

    kind: TargetKind
    labels: np.ndarray
    values: np.ndarray
    known: np.ndarray
    weights: np.ndarray
    structure: np.ndarray


def compute_residuals(X, y, sample_weight):
    """Return structures, and the :class:`Residual` of every target that is learnt by itself."""
    structures = as_structures(X)
    targets = as_targets(y, structures)
    names = [name for name in targets.names if name not in DERIVED_TARGETS]
    if not names:
        raise ValueError(
            f"y needs a column that is learnt by itself, such as 'energy', it has "
            f"{list(targets.names)}."
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
        raise ValueError(f"sample_weight is zero for every structure whose {name} is known.")
    return Residual(kind, labels, values, known, weights[structure], structure)
