"""Errors of energies, forces and stress, and scorers for them."""

import numpy as np
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from .data import Targets, as_structures, as_targets

METRICS = {"mae": mean_absolute_error, "rmse": root_mean_squared_error}


def summarize_errors(X, y, prediction):
    """Return the errors of a prediction, over all that is labelled.

    Parameters
    ----------
    X : sequence of ase.Atoms, or Structures
        Structures.
    y : array of shape (n_structures,), or Targets
        Labels; NaN is left out.
    prediction : array of shape (n_structures,), or Targets
        Predictions.

    Returns
    -------
    dict of str to dict of str to float
        For each target its ``"mae"`` and ``"rmse"`` over all components, in the unit of the
        target; ``"energy per atom"`` as well.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn.metrics import summarize_errors
    >>> summarize_errors([molecule("H2")], [-2.0], [-1.0])["energy per atom"]
    {'mae': 0.5, 'rmse': 0.5}
    """
    structures = as_structures(X)
    y = as_targets(y, structures)
    if not isinstance(prediction, Targets):
        prediction = Targets(energy=prediction)
    errors = {}
    for name in prediction.names:
        if name not in y:
            continue
        known, predicted = _flatten(y, name), _flatten(prediction, name)
        errors[name] = _compute_errors(known, predicted)
        if name == "energy":
            n_atoms = structures.n_atoms
            errors["energy per atom"] = _compute_errors(known / n_atoms, predicted / n_atoms)
    return errors


def make_target_scorer(target, metric="rmse"):
    """Return a scorer of one target, negative so that greater is better.

    Parameters
    ----------
    target : str
        ``"energy"``, ``"energy per atom"``, ``"forces"``, ``"stress"``, ...
    metric : {"rmse", "mae"}, default="rmse"
        Error over all labelled components.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, for the ``scoring`` of cross-validation and searches; y is
        Targets.

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
    return _TargetScorer(target, metric)


class _TargetScorer:
    """Scorer that asks for one target; a class, so that worker processes can be sent it."""

    def __init__(self, target, metric):
        self.target = target
        self.metric = metric

    def __call__(self, estimator, X, y):
        prediction = estimator.predict(X, targets=[self.target.removesuffix(" per atom")])
        errors = summarize_errors(X, y, prediction)
        if self.target not in errors:
            raise ValueError(
                f"y has no labels of the target {self.target!r} that is to be scored; pass Targets "
                "with that column."
            )
        return -errors[self.target][self.metric]

    def __repr__(self):
        return f"make_target_scorer({self.target!r}, {self.metric!r})"


def _flatten(targets, name):
    column = targets[name]
    return np.concatenate(column) if isinstance(column, list) else np.asarray(column)


def _compute_errors(known, predicted):
    labelled = np.isfinite(known)
    pair = known[labelled], predicted[labelled]
    return {name: float(metric(*pair)) for name, metric in METRICS.items()}
