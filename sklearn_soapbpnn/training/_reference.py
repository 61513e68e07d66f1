"""New energies with another reference than the energies of the previous fit."""

import warnings
from copy import copy
from dataclasses import replace

import numpy as np

from ..data import Structures
from ..model import evaluate
from ..preprocessing import CompositionBaseline, check_fixed_weights, count_elements

# number of structures that are used to detect another reference
SAMPLE = 1000
# the reference is another one if the part of the differences (label minus prediction) that the
# composition explains exceeds this multiple of the residual, and this fraction of the scale
TIMES_REST = 3.0
SHARE_OF_SCALE = 0.1


def follow_reference(before, X, y, sample_weight, fixed):
    """Return a model's steps, with the baseline refitted if new energies have another reference.

    Another functional, code or pseudopotential shifts the energy by a constant for each atom of an
    element. The network cannot learn this shift, and need not if the baseline contains it. A
    warning says that the baseline was refitted, or that it should be.

    Parameters
    ----------
    before : FittedModel
        Model from which the fit continues.
    X, y, sample_weight
        New data, see :meth:`SoapBPNNRegressor.fit`.
    fixed : mapping or None
        ``fixed_composition_weights``.

    Returns
    -------
    Steps
    """
    steps = before.steps
    if steps.own.baseline is None and "energy" not in steps.carried.get("offset", ()):
        return steps  # the network learns the reference with everything else
    fixed = check_fixed_weights(fixed).get("energy")
    weights = np.ones(len(X)) if sample_weight is None else sample_weight
    counts = np.flatnonzero(y.labelled("energy") & (weights > 0))
    if len(counts) == 0:
        return steps
    sample = counts[np.unique(np.linspace(0, len(counts) - 1, SAMPLE).astype(int))]
    shift, rest, scale = _find_shift(before, X[sample], y[sample], weights[sample])
    if shift <= max(TIMES_REST * rest, SHARE_OF_SCALE * scale):
        return steps
    text = (
        "y has energies of another reference than the previous fit, from which this one continues: "
        f"they differ by {shift:.3g} per atom from its predictions, a difference that depends on "
        "the composition only. "
    )
    if steps.own.baseline is None or fixed:
        where = "the baseline of another step"
        remedy = (
            "Refit the baseline: set warm_start=False on the CompositionBaseline of a Pipeline "
            "(and on no other step), or fit with warm_start=False."
        )
        if fixed:
            where = "fixed_composition_weights"
            remedy = "Set those of the new reference, and fit with warm_start=False."
        warnings.warn(
            f"{text}This regressor keeps {where}, so predicted energies will be wrong. {remedy}",
            UserWarning,
            stacklevel=7,
        )
        return steps
    if "energy" in before.targets:
        warnings.warn(
            f"{text}The baseline was refitted, so predictions have the new reference.",
            UserWarning,
            stacklevel=7,
        )
    return _shift_baseline(before, X[counts], y[counts], weights[counts])


def _fit_difference(before, X, y, weights):
    """Fit label minus prediction by the composition.

    Returns
    -------
    CompositionBaseline
        The fit.
    Structures
        X without attached data.
    array of shape (n_structures,)
        Label minus prediction.
    """
    predicted = evaluate(before.network, before.steps.prepare(X), ["energy"])
    difference = y["energy"] - predicted["energy"]
    # without attached data, since an offset would be subtracted from the difference
    X = Structures(X.numbers, X.positions, X.cells, X.pbc)
    return CompositionBaseline().fit(X, difference, weights), X, difference


def _find_shift(before, X, y, weights):
    """Return the RMS per atom of the shift and of the residual, and the scale of the energy.

    The shift is the part of label minus prediction that the composition explains.
    """
    found, bare, difference = _fit_difference(before, X, y, weights)
    scale = before.steps.own.attach(X[:1]).scale.get("energy", 1.0)
    shift = found.predict(bare)
    size = np.sqrt(np.mean((shift / X.n_atoms) ** 2))
    n_free = len(X) - np.linalg.matrix_rank(count_elements(bare, bare.elements, as_shares=False))
    if n_free == 0:
        # with so few structures the composition explains any labels
        return size, TIMES_REST * scale, scale
    return size, np.sqrt(np.sum(((difference - shift) / X.n_atoms) ** 2) / n_free), scale


def _shift_baseline(before, X, y, weights):
    """Return steps whose baseline includes the difference between the references."""
    found, *_ = _fit_difference(before, X, y, weights)
    own = before.steps.own
    baseline = copy(own.baseline)
    energies = baseline.coef_["energy"].copy()
    energies[np.searchsorted(baseline.elements_, found.elements_)] += found.coef_["energy"]
    baseline.coef_ = {**baseline.coef_, "energy": energies}
    return replace(before.steps, own=replace(own, baseline=baseline))
