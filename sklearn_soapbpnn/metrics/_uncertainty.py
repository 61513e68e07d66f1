r"""How well standard deviations describe errors.

All functions compare errors with a Gaussian: with a label :math:`y`, a prediction :math:`\mu` and
its standard deviation :math:`\sigma`, the z-score is :math:`z = (y - \mu) / \sigma`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf
from scipy.stats import spearmanr

from ..data import Frames, Labels, Values
from ._errors import match_columns


def summarize_uncertainty(
    X: Frames, y: Labels, prediction: Labels, std: Labels
) -> dict[str, dict[str, float]]:
    """Return how well standard deviations describe the errors, for every target.

    Parameters
    ----------
    X : sequence of ase.Atoms, or Structures
        Structures.
    y : array of shape (n_structures,), or Targets
        Labels; an array is taken as energies. NaN in Targets means not labelled and is ignored.
    prediction, std : array of shape (n_structures, ...), or Targets
        Predictions and their standard deviations in the units of y, such as the two results of
        ``predict(X, return_std=True)``. Arrays are taken as energies, or, if y has no energies, as
        the target that ``np.asarray(y)`` returns.

    Returns
    -------
    dict of str to dict of str to float
        For each target that is predicted, labelled and has a standard deviation, over all labelled
        components: ``"nll"`` (:func:`negative_log_likelihood`), ``"crps"`` (:func:`crps`, in the
        unit of the target), ``"msz"`` (:func:`mean_squared_z_score`), ``"miscalibration_area"``
        (:func:`miscalibration_area`) and ``"correlation"`` (:func:`error_std_correlation`). If
        there are energies, also those of ``"energy per atom"``. Components that symmetry fixes, as
        the forces in a perfect crystal, are left out: their standard deviations and errors are less
        than 1/1000 and 1/10 of the root mean square of the standard deviations.

    Raises
    ------
    TypeError
        If ``X`` is not a sequence of :class:`ase.Atoms`.
    ValueError
        If labels, predictions or standard deviations do not match the structures, a standard
        deviation is not positive where there is a label, or ``prediction`` is an array and it is
        not clear which target it belongs to.

    See Also
    --------
    summarize_errors : The errors themselves.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn.metrics import summarize_uncertainty
    >>> X = [molecule("H2"), molecule("O2")]
    >>> quality = summarize_uncertainty(X, [-2.0, -4.0], [-1.0, -4.5], [0.5, 0.5])
    >>> quality["energy"]["msz"], quality["energy per atom"]["msz"]
    (2.5, 2.5)
    """
    return {
        name: {metric: compute(*columns) for metric, compute in UNCERTAINTY_METRICS.items()}
        for name, columns in match_columns(X, y, prediction, std).items()
    }


def negative_log_likelihood(y_true: Values, y_pred: Values, y_std: Values) -> float:
    r"""Return the mean negative logarithm of the probability density that was given to the labels.

    .. math:: \left\langle \tfrac12 \ln 2 \pi \sigma^2 + \tfrac12 z^2 \right\rangle

    Parameters
    ----------
    y_true, y_pred, y_std : array-like, or list of arrays
        Labels, predictions and their standard deviations in one unit and of the same shape; lists
        have an array for each structure, as per-atom targets do. NaN in y_true means not labelled
        and is ignored.

    Returns
    -------
    float
        In nats per component; smaller is better. In a unit that is c times smaller it grows by
        ln c, so compare values in the same unit only.

    Raises
    ------
    ValueError
        If the shapes differ, there is no label at all, or, where there is a label, y_std is not
        positive or y_pred not finite.

    See Also
    --------
    crps : Less sensitive to labels many standard deviations away.

    Examples
    --------
    >>> from sklearn_soapbpnn.metrics import negative_log_likelihood
    >>> round(negative_log_likelihood([1.0, 2.0], [1.0, 4.0], [1.0, 1.0]), 4)
    1.9189
    """
    error, std = _find_errors(y_true, y_pred, y_std)
    return float(np.mean(np.log(std) + (error / std) ** 2 / 2) + np.log(2 * np.pi) / 2)


def crps(y_true: Values, y_pred: Values, y_std: Values) -> float:
    r"""Return the mean continuous ranked probability score of Gaussians.

    It compares the cumulative distribution :math:`\Phi((t - \mu) / \sigma)` of each prediction with
    the step from 0 to 1 at the label [1]_:

    .. math::
        \left\langle \int \left[\Phi\left(\frac{t - \mu}{\sigma}\right)
        - \theta(t - y)\right]^2 \mathrm{d}t \right\rangle =
        \left\langle \sigma \left[z \left(2 \Phi(z) - 1\right) + 2 \varphi(z)
        - \pi^{-1/2}\right] \right\rangle

    Parameters
    ----------
    y_true, y_pred, y_std : array-like, or list of arrays
        See :func:`negative_log_likelihood`.

    Returns
    -------
    float
        In the unit of the target; smaller is better. If the standard deviations tend to zero, it
        becomes the mean absolute error.

    Raises
    ------
    ValueError
        As in :func:`negative_log_likelihood`.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, A. H. Westveld, T. Goldman, Calibrated probabilistic
       forecasting using ensemble model output statistics and minimum CRPS estimation,
       https://doi.org/10.1175/MWR2904.1

    Examples
    --------
    >>> from sklearn_soapbpnn.metrics import crps
    >>> round(crps([1.0, 2.0], [1.0, 4.0], [1.0, 1.0]), 4)
    0.8432
    """
    error, std = _find_errors(y_true, y_pred, y_std)
    z = error / std
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    scores = z * erf(z / np.sqrt(2)) + 2 * density - 1 / np.sqrt(np.pi)
    return float(np.mean(std * scores))


def mean_squared_z_score(y_true: Values, y_pred: Values, y_std: Values) -> float:
    r"""Return the mean squared error in units of the predicted variance.

    .. math:: \left\langle z^2 \right\rangle

    Parameters
    ----------
    y_true, y_pred, y_std : array-like, or list of arrays
        See :func:`negative_log_likelihood`.

    Returns
    -------
    float
        1 if the standard deviations are right on average, more if they are too small, less if they
        are too large. Its square root is the factor by which they should be multiplied.

    Raises
    ------
    ValueError
        As in :func:`negative_log_likelihood`.

    Examples
    --------
    >>> from sklearn_soapbpnn.metrics import mean_squared_z_score
    >>> mean_squared_z_score([1.0, 2.0], [1.0, 4.0], [1.0, 1.0])
    2.0
    """
    error, std = _find_errors(y_true, y_pred, y_std)
    return float(np.mean((error / std) ** 2))


def miscalibration_area(y_true: Values, y_pred: Values, y_std: Values) -> float:
    r"""Return the area between observed and expected coverage of central intervals.

    The interval :math:`\mu \pm \Phi^{-1}(\tfrac{1 + p}{2}) \sigma` should contain a share p of the
    labels, and contains a share :math:`F(p)` [1]_:

    .. math:: \int_0^1 \left|F(p) - p\right| \mathrm{d}p

    Parameters
    ----------
    y_true, y_pred, y_std : array-like, or list of arrays
        See :func:`negative_log_likelihood`.

    Returns
    -------
    float
        Between 0 (calibrated) and 0.5. If the standard deviations of Gaussian errors are wrong by a
        factor s, it is :math:`|1/2 - (2/\pi) \arctan(1/s)|`, e.g. 0.20 for s = 2 or 1/2.

    Raises
    ------
    ValueError
        As in :func:`negative_log_likelihood`.

    Notes
    -----
    F is a step function, over which the integral is taken exactly. With n independent labels it is
    0.31 / sqrt(n) on average even for perfect standard deviations.

    References
    ----------
    .. [1] K. Tran, W. Neiswanger, J. Yoon, Q. Zhang, E. Xing, Z. W. Ulissi, Methods for comparing
       uncertainty quantifications for material property predictions,
       https://doi.org/10.1088/2632-2153/ab7e1a

    Examples
    --------
    >>> from sklearn_soapbpnn.metrics import miscalibration_area
    >>> miscalibration_area([0.0, 0.0], [0.0, 0.0], [1.0, 1.0])
    0.5
    """
    error, std = _find_errors(y_true, y_pred, y_std)
    # the level p of the smallest interval that contains the label
    levels = np.sort(erf(np.abs(error) / std / np.sqrt(2)))
    observed = np.arange(len(levels) + 1) / len(levels)
    # each step is integrated by the antiderivative t |t| / 2 of |t|, with t = p - F
    start, end = np.append(0.0, levels) - observed, np.append(levels, 1.0) - observed
    return float(np.sum(end * np.abs(end) - start * np.abs(start)) / 2)


def error_std_correlation(y_true: Values, y_pred: Values, y_std: Values) -> float:
    r"""Return Spearman's rank correlation of absolute errors and standard deviations.

    Parameters
    ----------
    y_true, y_pred, y_std : array-like, or list of arrays
        See :func:`negative_log_likelihood`.

    Returns
    -------
    float
        Between -1 and 1; larger is better. NaN if all errors or all standard deviations are the
        same. Even perfect standard deviations do not reach 1, as they are only the widths of the
        distributions from which the errors are drawn: if their logarithms are normally distributed
        with a standard deviation of 0.5, they reach 0.45.

    Raises
    ------
    ValueError
        As in :func:`negative_log_likelihood`.

    Examples
    --------
    >>> from sklearn_soapbpnn.metrics import error_std_correlation
    >>> round(error_std_correlation([1.0, 2.0, 3.0], [1.1, 2.5, 3.2], [0.1, 0.2, 0.3]), 4)
    0.5
    """
    error, std = _find_errors(y_true, y_pred, y_std)
    if np.ptp(np.abs(error)) == 0 or np.ptp(std) == 0:
        return float("nan")
    return float(spearmanr(np.abs(error), std).statistic)


UNCERTAINTY_METRICS = {
    "nll": negative_log_likelihood,
    "crps": crps,
    "msz": mean_squared_z_score,
    "miscalibration_area": miscalibration_area,
    "correlation": error_std_correlation,
}


def find_labelled(y_true, y_pred, y_std=None):
    """Return labels, predictions and standard deviations, if given, where there is a label; 1-D."""
    given = {"y_pred": y_pred} if y_std is None else {"y_pred": y_pred, "y_std": y_std}
    known, shapes = _flatten(y_true)
    others = {name: _flatten(values) for name, values in given.items()}
    for name, (_, other) in others.items():
        if other != shapes:
            raise ValueError(
                f"{name} must have the shape of y_true, {_describe(shapes)}, got "
                f"{_describe(other)}."
            )
    labelled = ~np.isnan(known)
    if not labelled.any():
        raise ValueError("y_true has no label at all (every value is NaN).")
    columns = {"y_true": known[labelled]}
    columns |= {name: flat[labelled] for name, (flat, _) in others.items()}
    for name in ("y_true", "y_pred"):
        _refuse(name, columns[name], ~np.isfinite(columns[name]), "finite")
    if y_std is not None:
        std = columns["y_std"]
        _refuse("y_std", std, ~((std > 0) & np.isfinite(std)), "positive and finite")
    return tuple(columns.values())


def _find_errors(y_true, y_pred, y_std):
    known, predicted, std = find_labelled(y_true, y_pred, y_std)
    return known - predicted, std


def _flatten(values):
    """Return all components as a 1-D array, and the shape of each entry."""
    if isinstance(values, list | tuple) and any(np.ndim(entry) for entry in values):
        entries = [np.asarray(entry, dtype=np.float64) for entry in values]
        return np.concatenate(entries, axis=None), [entry.shape for entry in entries]
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    return values.ravel(), [values.shape[1:]] * len(values)


def _describe(shapes):
    """Return the shape of an array, or how many arrays of which shapes a list has."""
    different = list(dict.fromkeys(shapes))
    if len(different) < 2:
        return str((len(shapes), *(different[0] if different else ())))
    rest = ", ..." if len(shapes) > 3 else ""
    return f"{len(shapes)} arrays of shapes {', '.join(map(str, shapes[:3]))}{rest}"


def _refuse(name, values, wrong, rule):
    if wrong.any():
        raise ValueError(
            f"{name} must be {rule} where there is a label, but {wrong.sum()} of {len(values)} "
            f"values are not, e.g. {values[wrong][0]}. Set these labels to NaN to leave them out."
        )
