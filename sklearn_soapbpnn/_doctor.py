"""check_data: what is wrong with structures and labels."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from ._regressor import SoapBPNNRegressor
from .data import Frames, Labels, Targets, find_volumes
from .doctor import FEW, DataReport, QuickFit, check_keys, examine, read_sample

# the quick fit takes seconds: no more structures and atoms than these to fit, and atoms to predict
MOST_STRUCTURES, MOST_ATOMS, MOST_PREDICTED = 200, 8000, 40000
FEWEST_STRUCTURES = 10
# steps of 8 structures that suffice to predict forces with a correlation of 0.9
N_STEPS, BATCH = 250, 8
# more than 40 learn wrong forces of single structures by heart, but with 40, forces of 10 molecules
# were predicted with a correlation of 0.2 only, with 100 of 0.8
MOST_EPOCHS, MOST_EPOCHS_OF_FEW = 40, 100
SMALL: dict[str, Any] = {
    **{"max_radial": 3, "max_angular": 2, "batch_size": BATCH, "validation_fraction": 0.0},
    # wrong labels should not dominate it, and a GPU would not pay
    **{"loss": "huber", "device": "cpu"},
}


def check_data(
    X: Frames,
    y: Labels | None = None,
    X_val: Frames | None = None,
    y_val: Labels | None = None,
    *,
    random_state: int | np.random.RandomState | None = 0,
) -> DataReport:
    """Look for faults in structures and labels, before or after a fit.

    Whether labels belong together is seen by a small model that is fitted to the forces of at most
    200 structures: sign and factor of energies and stress against its predictions tell whether
    units and signs agree. This takes a few seconds. ``docs/checking_data.md`` lists all checks, and
    what they cannot see.

    Parameters
    ----------
    X : sequence of ase.Atoms, or Structures
        The structures. Invalid ones are reported and left out.
    y : array of shape (n_structures,), or Targets, default=None
        Their labels; in an array NaN means not labelled. None checks the structures only, and lists
        the labels that they carry.
    X_val, y_val : default=None
        Validation structures and their labels. They are only compared with X, to find copies; check
        them with a call of their own.
    random_state : int, RandomState instance or None, default=0
        Which structures the small model is fitted to, and its initial weights.

    Returns
    -------
    DataReport
        Its ``findings`` have the attributes ``name``, ``severity``, ``structures`` (positions in X)
        and ``message``. It prints one line for each, and ``to_frame()`` returns a table.

    Raises
    ------
    TypeError
        If X is not a sequence of structures.
    ValueError
        If X is empty, or y has another length.

    Examples
    --------
    >>> from sklearn_soapbpnn import Targets, check_data
    >>> from sklearn_soapbpnn.datasets import load_cuau
    >>> X, y = load_cuau(return_X_y=True)
    >>> columns = {name: y[name] for name in y.names}
    >>> columns["stress"] = -160.2177 * columns["stress"]  # in GPa, positive under pressure
    >>> report = check_data(X, Targets(**columns))
    >>> [finding.name for finding in report.findings if finding.severity != "note"]
    ['sign of stress', 'units of stress']
    >>> report.headline
    '2 errors in 200 structures with energy, forces, stress:'
    """
    sample, findings = read_sample(X, y)
    if sample is None:
        return DataReport(findings, f"{len(findings)} structures")
    validation = None if X_val is None else read_sample(X_val, y_val, "X_val", "y_val")[0]
    random = check_random_state(random_state)

    found, fit = examine(sample, validation, partial(_fit_forces, random))
    findings += [*found, *check_keys(X, sample)]
    return DataReport(findings, sample.title, _describe_rest(sample, fit))


def _fit_forces(random, sample, spoilt, first):
    """Fit a small model to forces alone, for :func:`examine`; return None if there are too few.

    Energies stay unknown to it, so that they can be compared with its predictions.
    """
    usable = np.flatnonzero(sample.has_label("forces") & (sample.X.n_atoms > 1))
    usable = random.permutation(np.setdiff1d(usable, [*spoilt, *first]))
    usable = np.concatenate([first, usable])
    if len(usable) < FEWEST_STRUCTURES:
        return None
    n_atoms = np.cumsum(sample.X.n_atoms[usable])
    n_fitted = max(2, min(MOST_STRUCTURES, 2 * len(usable) // 3, np.sum(n_atoms <= MOST_ATOMS)))
    places = usable[: max(2 * n_fitted, np.sum(n_atoms <= MOST_PREDICTED))]
    chosen = places[:n_fitted]
    forces = [sample.y["forces"][k] for k in chosen]
    if not any(values.any() for values in forces):
        return None
    most_epochs = MOST_EPOCHS if n_fitted >= FEW else MOST_EPOCHS_OF_FEW
    nearest = np.nanmax([np.nanmedian(sample.geometry.nearest[places]), 2.0])
    model = SoapBPNNRegressor(
        cutoff_radius=float(np.clip(1.5 * nearest, 4.0, 8.0)),
        num_epochs=int(np.clip(N_STEPS * BATCH // n_fitted, 10, most_epochs)),
        random_state=random.randint(2**31),
        **SMALL,
    )
    names = ["energy", "forces"]
    if np.isfinite(find_volumes(sample.X[places])).any():
        names += [name for name in ("stress", "virial") if sample.column(name)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # the energies are relative, which suffices for comparisons
        warnings.simplefilter("ignore", UserWarning)
        model.fit(sample.X[chosen], Targets(forces=forces))
        predicted = model.predict(sample.X[places], targets=names)
    return QuickFit(places, np.arange(len(places)) >= n_fitted, predicted)


def _describe_rest(sample, fit):
    """Return what could not be checked, for the report."""
    if sample.y is None:
        return "labels, as there is no y."
    if fit is None:
        return (
            "signs and units of energies, forces and stress against each other, which needs at "
            f"least {FEWEST_STRUCTURES} structures with forces and without the errors above."
        )
    n_left = np.sum(sample.has_label("forces")) - len(fit.places)
    if n_left > 0:
        return f"the forces of {n_left} structures, single atoms and a part of many structures."
    return ""
