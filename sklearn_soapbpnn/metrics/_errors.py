"""Errors of energies, forces and all other targets."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from ..data import Frames, Labels, Targets, as_structures, as_targets, find_volumes

PER_ATOM = "energy per atom"
METRICS = {"mae": mean_absolute_error, "rmse": root_mean_squared_error}

# share of the root mean square below which a standard deviation is rounding noise
FIXED_BY_SYMMETRY = 1e-3
# and an error, with that of labels that are not quite symmetric
SMALL_ERROR = 0.1


def summarize_errors(X: Frames, y: Labels, prediction: Labels) -> dict[str, dict[str, float]]:
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
        If labels or predictions do not match the structures, or ``prediction`` is an array and it
        is not clear which target it belongs to.

    See Also
    --------
    summarize_uncertainty : How good the error bars are.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn.metrics import summarize_errors
    >>> summarize_errors([molecule("H2")], [-2.0], [-1.0])["energy per atom"]
    {'mae': 0.5, 'rmse': 0.5}
    """
    return {
        name: compute_errors(*columns) for name, columns in match_columns(X, y, prediction).items()
    }


def compute_errors(known, predicted):
    """Return every error over the labelled components of one target."""
    labelled = np.isfinite(known)
    pair = known[labelled], predicted[labelled]
    return {name: float(metric(*pair)) for name, metric in METRICS.items()}


def match_columns(X, y, prediction, std=None):
    """Return labels and predictions of each target that has both, as rows.

    Parameters
    ----------
    X, y, prediction
        See :func:`summarize_errors`.
    std : array of shape (n_structures, ...), or Targets, default=None
        Standard deviations of the predictions, if there are any.

    Returns
    -------
    dict of str to list of arrays of shape (n_rows, size)
        For each target, and for ``"energy per atom"``: labels (NaN where there are none, and, with
        std, where symmetry fixes the value), predictions, and standard deviations if given.
    """
    structures = as_structures(X)
    y = as_targets(y, structures)
    predicted = {"prediction": _name_array(prediction, y, "prediction")}
    if std is not None:
        predicted["std"] = _name_array(std, y, "std")
    matched = {}
    for name in predicted["prediction"].names:
        if name not in y or any(name not in values for values in predicted.values()):
            continue
        known = y.flatten(name)
        columns = [known, *(values.flatten(name) for values in predicted.values())]
        for argument, column in zip(predicted, columns[1:]):
            _check_rows(name, known, argument, column)
        if predicted["prediction"].kinds[name].per_volume:
            # without a cell the stress is not defined, so its label is ignored
            columns[0] = np.where(find_volumes(structures)[:, None] > 0, known, np.nan)
        if not np.isfinite(columns[0]).any():
            continue
        if std is not None:
            fixed = _find_fixed(*columns, y.kinds[name])
            columns[0] = np.where(fixed, np.nan, columns[0])
        matched[name] = columns
        if name == "energy":
            matched[PER_ATOM] = [column / structures.n_atoms[:, None] for column in columns]
    return matched


def _find_fixed(known, predicted, std, kind):
    """Return which components are fixed by symmetry, as the forces in a perfect crystal are.

    Their errors and standard deviations are rounding noise, whose ratio means nothing. A large
    error is none, so a committee whose members agree by chance does not go unnoticed. Scalars are
    never fixed.
    """
    if kind.is_scalar:
        return np.zeros(std.shape, dtype=bool)
    typical = np.sqrt(np.mean(std[np.isfinite(known)] ** 2))
    is_right = np.abs(known - predicted) < SMALL_ERROR * typical
    return is_right & (np.abs(std) < FIXED_BY_SYMMETRY * typical)


def _check_rows(name, known, argument, values):
    if known.shape != values.shape:
        raise ValueError(
            f"Target {name!r} has labels of shape {known.shape} over all rows, but {argument} "
            f"has the shape {values.shape}. Pass the {argument} of the same structures."
        )


def _name_array(values, y, argument):
    """Return predictions as Targets; an array is what ``predict`` returns by default."""
    if isinstance(values, Targets):
        return values
    name = "energy" if "energy" in y else y.array_name
    if name is None:
        raise ValueError(
            f"{argument} must be Targets where y has the columns {list(y.names)}, as an array "
            "could be any of them."
        )
    values, kind = np.asarray(values), y.kinds[name]
    if values.shape[1:] == (kind.size,):
        values = values.reshape(-1, *kind.shape)
    return Targets(kinds={name: kind}, **{name: values})
