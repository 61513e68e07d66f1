"""Errors of energies, forces and all other targets."""

import numpy as np
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from ..data import Targets, as_structures, as_targets, find_volumes

PER_ATOM = "energy per atom"
METRICS = {"mae": mean_absolute_error, "rmse": root_mean_squared_error}


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
