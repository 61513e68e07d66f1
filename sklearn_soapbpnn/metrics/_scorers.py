"""Scorers for scikit-learn: one number for one target, greater is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np

from ..data import KNOWN_KINDS, Frames, Labels, TargetKind, Targets, suggest
from ..model import apply_steps
from ._errors import METRICS, PER_ATOM, compute_errors, match_columns
from ._uncertainty import UNCERTAINTY_METRICS


def make_target_scorer(
    target: str, metric: str = "rmse", *, kinds: Mapping[str, TargetKind] | None = None
) -> Callable[[Any, Frames, Labels], float]:
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

    See Also
    --------
    make_uncertainty_scorer : A scorer for error bars.

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
    _check_arguments(target, metric, METRICS, kinds)
    return _TargetScorer(target, metric)


def make_uncertainty_scorer(
    target: str, metric: str = "nll", *, kinds: Mapping[str, TargetKind] | None = None
) -> Callable[[Any, Frames, Labels], float]:
    """Return a scorer for the error bars of one target; greater is better.

    Parameters
    ----------
    target : str
        ``"energy"``, ``"energy per atom"``, or the name of any other column of y.
    metric : {"nll", "crps", "msz", "miscalibration_area", "correlation"}, default="nll"
        What is scored, over all labelled components:

        - ``"nll"``: minus the :func:`negative_log_likelihood`;
        - ``"crps"``: minus the :func:`crps`;
        - ``"msz"``: minus the absolute logarithm of the :func:`mean_squared_z_score`, so that 0 is
          best, and error bars too large by a factor are as bad as those too small by this factor;
        - ``"miscalibration_area"``: minus the :func:`miscalibration_area`;
        - ``"correlation"``: the :func:`error_std_correlation`.

        Choose models by one of the first two, which large errors with correct error bars do not
        satisfy.
    kinds : mapping of str to TargetKind, default=None
        See :func:`make_target_scorer`.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, as :func:`make_target_scorer` returns it. It calls ``predict``
        with ``return_std=True``; for energies, the estimator may be any that accepts this, e.g. a
        Pipeline of :class:`SoapFeaturizer` and scikit-learn's ``BayesianRidge``.

    Raises
    ------
    TypeError, ValueError
        As in :func:`make_target_scorer`. The scorer raises a TypeError if the estimator does not
        predict standard deviations.

    See Also
    --------
    summarize_uncertainty : All metrics of all targets.

    Examples
    --------
    >>> from sklearn.linear_model import BayesianRidge
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_soapbpnn import SoapFeaturizer
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.metrics import make_uncertainty_scorer
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = make_pipeline(SoapFeaturizer(max_angular=2), BayesianRidge())
    >>> scorer = make_uncertainty_scorer("energy", "crps")
    >>> cross_val_score(model, X[:20], y[:20], cv=2, scoring=scorer).shape
    (2,)
    """
    _check_arguments(target, metric, UNCERTAINTY_METRICS, kinds)
    return _UncertaintyScorer(target, metric)


class _TargetScorer:
    """Scorer for one target; a class, so that it can be pickled for worker processes."""

    return_std = False
    maker = "make_target_scorer"

    def __init__(self, target, metric):
        self.target = target
        self.metric = metric
        # scikit-learn's displays make the axis label from this name
        self.__name__ = self._find_name()

    def __call__(self, estimator, X, y):
        return self._score(*predict_target(estimator, X, y, self.target, self.return_std))

    def __repr__(self):
        return f"{self.maker}({self.target!r}, {self.metric!r})"

    def _find_name(self):
        return f"neg_{self.target}_{self.metric}"

    def _score(self, known, predicted):
        return -compute_errors(known, predicted)[self.metric]


class _UncertaintyScorer(_TargetScorer):
    """Scorer for the error bars of one target."""

    return_std = True
    maker = "make_uncertainty_scorer"

    def _find_name(self):
        what = {"msz": "neg_{}_abs_log_msz", "correlation": "{}_error_std_correlation"}
        return what.get(self.metric, "neg_{}_" + self.metric).format(self.target)

    def _score(self, known, predicted, std):
        value = UNCERTAINTY_METRICS[self.metric](known, predicted, std)
        if self.metric == "correlation":
            return value
        if self.metric == "msz":
            with np.errstate(divide="ignore"):  # no errors at all: minus infinity
                return -float(np.abs(np.log(value)))
        return -value


def predict_target(estimator, X, y, target, return_std=False):
    """Return labels and predictions of one target.

    Parameters
    ----------
    estimator : estimator
        A fitted regressor, a Pipeline, or a search over either.
    X, y
        See :func:`make_target_scorer`.
    target : str
        Name of the target, or ``"energy per atom"``.
    return_std : bool, default=False
        Whether to return standard deviations, too.

    Returns
    -------
    list of arrays of shape (n_rows, size)
        Labels (NaN where there are none), predictions, and standard deviations if requested.

    Raises
    ------
    TypeError
        If the estimator does not predict the target or its standard deviation.
    ValueError
        If y has no labels of the target.
    """
    options = {"return_std": True} if return_std else {}
    results = _predict(estimator, X, _name_column(target), options)
    results = results if return_std else [results]
    # an array is the energy, whatever the columns of y are
    named = (part if isinstance(part, Targets) else Targets(energy=part) for part in results)
    columns = match_columns(X, y, *named)
    if target not in columns:
        raise ValueError(
            f"y has no labels of the target {target!r}. To score it, pass Targets with this column."
        )
    return columns[target]


def _predict(estimator, X, name, options):
    """Return the prediction of one target; ``predict`` of a search has no argument for it."""
    estimator, X = apply_steps(estimator, X)
    if name != "energy" or "targets" in signature(estimator.predict).parameters:
        options = {"targets": [name], **options}
    # otherwise an ensemble, or a regressor of arrays, which predicts energies only
    _check_accepts(estimator, options)
    return estimator.predict(X, **options)


def _check_accepts(estimator, options):
    """Raise if ``predict`` has no argument for targets other than the energy, or error bars."""
    try:
        signature(estimator.predict).bind(None, **options)
    except TypeError as err:
        wanted = ", ".join(f"{name}={value!r}" for name, value in options.items())
        lacks, has = "so it predicts energies only", "predicts all targets"
        if "return_std" in options:
            lacks = "so it has no error bars of this target"
            has = "has; its argument n_networks makes a committee"
        raise TypeError(
            f"{type(estimator).__name__}.predict does not accept {wanted}, {lacks}. "
            f"SoapBPNNRegressor {has}."
        ) from err


def _check_arguments(target, metric, metrics, kinds):
    """Raise if there is no such metric, or the target of a scorer cannot be a column of y."""
    if metric not in metrics:
        hint = suggest(metric, metrics)
        raise ValueError(f"metric must be one of {sorted(metrics)}, got {metric!r}.{hint}")
    if not isinstance(target, str):
        raise TypeError(f"target must be the name of one target, got {target!r}.")
    if kinds is None:
        _check_spelling(target)
    elif not isinstance(kinds, Mapping):
        raise TypeError(
            f"kinds must map the names of targets to their kinds, got {kinds!r}. Pass y.kinds."
        )
    elif _name_column(target) not in kinds:
        hint = suggest(target, kinds)
        raise ValueError(f"target={target!r} is not in kinds, which has {list(kinds)}.{hint}")


def _check_spelling(target):
    known = [*KNOWN_KINDS, PER_ATOM]
    # a name that contains another, such as free_energy, may well be meant
    hint = "" if target in known else suggest(target, known, cutoff=0.8)
    if hint:
        raise ValueError(
            f"target={target!r} is not a known target.{hint} If y has a column of that name, pass "
            "its kinds as well: kinds=y.kinds."
        )


def _name_column(target):
    """Return the name of the column from which the score is computed."""
    return "energy" if target == PER_ATOM else target
