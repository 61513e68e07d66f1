"""Scorers for scikit-learn: one number for one target, greater is better."""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature

from sklearn.pipeline import Pipeline

from ..data import KNOWN_KINDS
from ._errors import METRICS, PER_ATOM, summarize_errors


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
    if hasattr(estimator, "best_estimator_"):
        return _predict(estimator.best_estimator_, X, name)
    if isinstance(estimator, Pipeline):
        front, last = estimator[:-1], estimator[-1]
        return _predict(last, front.transform(X) if len(front) else X, name)
    if name == "energy" and "targets" not in signature(estimator.predict).parameters:
        # an ensemble, or a regressor of arrays, which predicts energies only
        return estimator.predict(X)
    return estimator.predict(X, targets=[name])
