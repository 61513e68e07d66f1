"""What the steps that attach something to structures share."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..data import as_structures, as_targets


class TargetStep(TransformerMixin, BaseEstimator):
    """Pipeline step that learns about the energies and attaches what it learnt to X."""

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


def check_residual(X, y, sample_weight):
    """Return structures with a known energy, it, ``y - offset``, and their weights."""
    structures = as_structures(X)
    targets = as_targets(y, structures)
    if "energy" not in targets:
        raise ValueError(f"y needs a column 'energy', it has {list(targets.names)}.")
    weights = _check_sample_weight(sample_weight, targets["energy"], ensure_non_negative=True)
    residual = targets["energy"] - structures.offset.get("energy", 0.0)
    known = np.flatnonzero(np.isfinite(residual))
    if not weights[known].any():
        raise ValueError("sample_weight is zero for every structure whose energy is known.")
    return structures[known], targets["energy"][known], residual[known], weights[known]
