"""Energies of another reference than those that the model was fitted on."""

import warnings
from copy import copy
from dataclasses import replace

import numpy as np

from ..data import Structures
from ..model import evaluate
from ..preprocessing import CompositionBaseline, check_fixed_weights, count_elements

# structures that are looked at to find out whether the reference is another one
SAMPLE = 1000
# differences from the predictions that composition explains are of another reference where they
# are this many times as large as what it leaves, and this share of the scale
TIMES_REST = 3.0
SHARE_OF_SCALE = 0.1


def follow_reference(before, X, y, fixed):
    """Return a model's steps with a baseline of the reference of new energies, with a warning.

    Another functional, code or pseudopotential shifts energies by a constant for each atom of an
    element. The network cannot learn that, and need not.

    Parameters
    ----------
    before : FittedModel
        The model that a fit continues from.
    X, y : Structures, Targets
        New data.
    fixed : mapping or None
        ``fixed_composition_weights``.
    """
    steps = before.steps
    fixed = check_fixed_weights(fixed).get("energy")
    labelled = np.flatnonzero(y.labelled("energy"))
    sample = labelled[np.unique(np.linspace(0, len(labelled) - 1, SAMPLE).astype(int))]
    shift, rest, scale = _find_shift(before, X[sample], y[sample])
    if shift <= max(TIMES_REST * rest, SHARE_OF_SCALE * scale):
        return steps
    text = (
        "y holds energies of another reference than the fit that this continues: they differ by "
        f"{shift:.3g} per atom from what it predicts, and composition alone explains that. "
    )
    if steps.own.baseline is None or fixed:
        where = "fixed_composition_weights" if fixed else "a baseline that is not its own"
        warnings.warn(
            f"{text}This regressor keeps {where}, so predicted energies will be wrong. Fit the "
            "baseline anew: set warm_start=False on the CompositionBaseline of a Pipeline (only), "
            "or fit with warm_start=False.",
            UserWarning,
            stacklevel=7,
        )
        return steps
    if "energy" in before.targets:
        warnings.warn(
            f"{text}The baseline was refitted, so predictions are of the new reference.",
            UserWarning,
            stacklevel=7,
        )
    return _shift_baseline(before, X[labelled], y[labelled])


def _fit_difference(before, X, y):
    """Fit, by composition, what the model lacks of the labels; return that and the difference."""
    predicted = evaluate(before.network, before.steps.prepare(X), ["energy"])
    difference = y["energy"] - predicted["energy"]
    # without the offset that they carry
    X = Structures(X.numbers, X.positions, X.cells, X.pbc)
    return CompositionBaseline().fit(X, difference), X, difference


def _find_shift(before, X, y):
    """Sizes per atom of what composition explains and of what it leaves; and the scale."""
    found, bare, difference = _fit_difference(before, X, y)
    scale = before.steps.own.attach(X[:1]).scale.get("energy", 1.0)
    shift = found.predict(bare)
    size = np.sqrt(np.mean((shift / X.n_atoms) ** 2))
    n_free = len(X) - np.linalg.matrix_rank(count_elements(bare, bare.elements, as_shares=False))
    if n_free == 0:
        # composition explains any labels of so few structures
        return size, TIMES_REST * scale, scale
    return size, np.sqrt(np.sum(((difference - shift) / X.n_atoms) ** 2) / n_free), scale


def _shift_baseline(before, X, y):
    """Return steps whose baseline holds the difference of the references."""
    found, *_ = _fit_difference(before, X, y)
    own = before.steps.own
    baseline = copy(own.baseline)
    energies = baseline.coef_["energy"].copy()
    energies[np.searchsorted(baseline.elements_, found.elements_)] += found.coef_["energy"]
    baseline.coef_ = {**baseline.coef_, "energy": energies}
    return replace(before.steps, own=replace(own, baseline=baseline))
