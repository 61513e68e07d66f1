"""Errors of energies, forces and all other targets, and scorers for them."""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature

import numpy as np
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from .data import KNOWN_KINDS, Targets, as_structures, as_targets, find_volumes
from .model import apply_steps

__all__ = ["PER_ATOM", "make_target_scorer", "summarize_errors"]

PER_ATOM = "energy per atom"
METRICS = {"mae": mean_absolute_error, "rmse": root_mean_squared_error}


def __dir__():
    # tab completion should not offer scikit-learn's functions that are imported here
    return __all__


def summarize_errors(X, y, prediction):
    """Return the errors of a prediction for every target.

    Parameters
    ----------
    X : sequence of ase.Atoms, or Structures
        Structures.
    y : array of shape (n_structures,), or Targets
        Labels; an array is taken as energies. NaN in Targets means not labelled and is ignored.
    prediction : array of shape (n_structures, ...), or Targets
        Predictions in the units of y, such as the result of ``predict``. An array is taken as
        energies, or, if y has no energies, as the target that ``np.asarray(y)`` returns.

    Returns
    -------
    dict of str to dict of str to float
        For each target that is both predicted and labelled, its ``"mae"`` and ``"rmse"`` over all
        labelled components, in the unit of the target. If there are energies, also the errors of
        ``"energy per atom"``.

    Raises
    ------
    TypeError
        If ``X`` is not a sequence of :class:`ase.Atoms`.
    ValueError
        If labels or predictions do not match the structures, a target has no label at all, or
        ``prediction`` is an array and it is not clear which target it belongs to.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn.metrics import summarize_errors
    >>> summarize_errors([molecule("H2")], [-2.0], [-1.0])["energy per atom"]
    {'mae': 0.5, 'rmse': 0.5}
    """
    structures = as_structures(X)
    y = as_targets(y, structures)
    prediction = _name_array(prediction, y)
    errors = {}
    for name in prediction.names:
        if name not in y:
            continue
        known, predicted = y.flatten(name), prediction.flatten(name)
        if known.shape != predicted.shape:
            raise ValueError(
                f"Target {name!r} has labels of shape {known.shape} over all rows, but predictions "
                f"of shape {predicted.shape}. Pass the prediction for the same structures."
            )
        if prediction.kinds[name].per_volume:
            # without a cell the stress is not defined, so its label is ignored
            known = np.where(find_volumes(structures)[:, None] > 0, known, np.nan)
        if not np.isfinite(known).any():
            continue
        errors[name] = _compute_errors(known, predicted)
        if name == "energy":
            n_atoms = structures.n_atoms[:, None]
            errors[PER_ATOM] = _compute_errors(known / n_atoms, predicted / n_atoms)
    return errors


def make_target_scorer(target, metric="rmse", *, kinds=None):
    """Return a scorer for one target: its negative error, so that greater is better.

    Parameters
    ----------
    target : str
        ``"energy"``, ``"energy per atom"``, or the name of any other column of y.
    metric : {"rmse", "mae"}, default="rmse"
        Root mean square or mean absolute error over all labelled components, in the unit of the
        target.
    kinds : mapping of str to TargetKind, default=None
        The targets of y, e.g. ``y.kinds``; ``target`` must be one of them. With None any name is
        accepted unless it looks like a misspelling of a predefined target.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, for the argument ``scoring`` of cross-validation, searches and
        learning curves, with y as Targets. The estimator is a regressor of this library, a Pipeline
        that ends in one, or a search over either; for energies, it may be any estimator that
        predicts them.

    Raises
    ------
    TypeError
        If ``target`` is not a string, or ``kinds`` is not a mapping.
    ValueError
        If ``metric`` is unknown, ``target`` looks misspelt, or it is not in ``kinds``. This is
        checked here because searches turn errors that occur during scoring into NaN.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.metrics import make_target_scorer
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=2, num_epochs=1)
    >>> scorer = make_target_scorer("forces", "mae")
    >>> cross_val_score(model, X[:20], y[:20], cv=2, scoring=scorer).shape
    (2,)
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")
    _check_target(target, kinds)
    return _TargetScorer(target, metric)


class _TargetScorer:
    """Scorer for one target; a class, so that it can be pickled for worker processes."""

    def __init__(self, target, metric):
        self.target = target
        self.metric = metric
        # scikit-learn's displays make the axis label from this name
        self.__name__ = f"neg_{target}_{metric}"

    def __call__(self, estimator, X, y):
        prediction = _predict(estimator, X, _name_column(self.target))
        errors = summarize_errors(X, y, prediction)
        if self.target not in errors:
            raise ValueError(
                f"y has no labels of the target {self.target!r}. To score it, pass Targets with "
                "this column."
            )
        return -errors[self.target][self.metric]

    def __repr__(self):
        return f"make_target_scorer({self.target!r}, {self.metric!r})"


def _check_target(target, kinds):
    """Raise if the target of a scorer cannot be a column of y."""
    if not isinstance(target, str):
        raise TypeError(f"target must be the name of one target, got {target!r}.")
    if kinds is None:
        known = [*KNOWN_KINDS, PER_ATOM]
        if target in known:
            return
        close = get_close_matches(target.lower(), known, n=1, cutoff=0.8)
        if close:
            raise ValueError(
                f"target={target!r} is not a known target; did you mean {close[0]!r}? If y has a "
                "column of that name, pass its kinds as well: kinds=y.kinds."
            )
        return
    if not isinstance(kinds, Mapping):
        raise TypeError(
            f"kinds must map the names of targets to their kinds, got {kinds!r}. Pass y.kinds."
        )
    if _name_column(target) not in kinds:
        raise ValueError(f"target={target!r} is not in kinds, which has {list(kinds)}.")


def _name_column(target):
    """Return the name of the column from which the score is computed."""
    return "energy" if target == PER_ATOM else target


def _predict(estimator, X, name):
    """Return the prediction of one target; ``predict`` of a search has no argument for it."""
    estimator, X = apply_steps(estimator, X)
    if name == "energy" and "targets" not in signature(estimator.predict).parameters:
        # an ensemble, or a regressor of arrays, which predicts energies only
        return estimator.predict(X)
    return estimator.predict(X, targets=[name])


def _name_array(prediction, y):
    """Return predictions as Targets; an array is what ``predict`` returns by default."""
    if isinstance(prediction, Targets):
        return prediction
    name = "energy" if "energy" in y else y.array_name
    if name is None:
        raise ValueError(
            f"prediction must be Targets where y has the columns {list(y.names)}, as an array "
            "could be any of them."
        )
    values, kind = np.asarray(prediction), y.kinds[name]
    if values.shape[1:] == (kind.size,):
        values = values.reshape(-1, *kind.shape)
    return Targets(kinds={name: kind}, **{name: values})


def _compute_errors(known, predicted):
    labelled = np.isfinite(known)
    pair = known[labelled], predicted[labelled]
    return {name: float(metric(*pair)) for name, metric in METRICS.items()}
