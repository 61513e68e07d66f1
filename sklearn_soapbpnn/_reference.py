"""Energies of another reference than those that a fit which is gone on with has seen."""

import warnings
from copy import copy
from dataclasses import replace

import numpy as np

from .data import Structures
from .nn import evaluate
from .preprocessing import CompositionBaseline, count_elements

# structures that are looked at to find out whether the reference is another one
SAMPLE = 1000
# differences from the predictions that composition explains are of another reference where they
# are this many times as large as what it leaves, and this share of the scale
TIMES_REST = 3.0
SHARE_OF_SCALE = 0.1


def follow_reference(steps, network, X, y, fixed, told):
    """Return steps whose baseline is of the reference of new energies, with a warning.

    Another functional, code or pseudopotential moves energies by so much an atom of each element.
    The network cannot learn that, and need not.

    Parameters
    ----------
    steps : Steps
        What comes before the network.
    network : SoapBPNN
        The network of the fit before.
    X, y : Structures, Targets
        What it is to go on with.
    fixed : mapping
        ``fixed_composition_weights`` of the energies.
    told : bool
        Whether the fit before knew energies, rather than their derivatives alone.
    """
    labelled = np.flatnonzero(y.labelled("energy"))
    sample = labelled[np.unique(np.linspace(0, len(labelled) - 1, SAMPLE).astype(int))]
    shift, rest, scale = _find_shift(steps, network, X[sample], y[sample])
    if shift <= max(TIMES_REST * rest, SHARE_OF_SCALE * scale):
        return steps
    text = (
        "y holds energies of another reference than the fit that this goes on with: they differ "
        f"by {shift:.3g} per atom from what it predicts, and composition alone explains that. "
    )
    if steps.baseline is None or fixed:
        where = "fixed_composition_weights" if fixed else "a baseline that is not its own"
        warnings.warn(
            f"{text}This regressor keeps {where}, so predicted energies will be wrong. Fit the "
            "baseline anew: set warm_start=False on the CompositionBaseline of a Pipeline (only), "
            "or fit with warm_start=False.",
            UserWarning,
            stacklevel=7,
        )
        return steps
    if told:
        warnings.warn(
            f"{text}The baseline was refitted, so predictions are of the new reference.",
            UserWarning,
            stacklevel=7,
        )
    return _shift_baseline(steps, network, X[labelled], y[labelled])


def _fit_difference(steps, network, X, y):
    """Fit, by composition, what the model lacks of the labels; return that and the difference."""
    predicted = evaluate(network, steps.prepare(X), derivatives=False)
    difference = y["energy"] - predicted["energy"]
    # without the offset that they carry
    X = Structures(X.numbers, X.positions, X.cells, X.pbc)
    return CompositionBaseline().fit(X, difference), X, difference


def _find_shift(steps, network, X, y):
    """Sizes per atom of what composition explains and of what it leaves; and the scale."""
    found, bare, difference = _fit_difference(steps, network, X, y)
    scale = steps.attach(X[:1]).scale.get("energy", 1.0)
    shift = found.predict(bare)
    size = np.sqrt(np.mean((shift / X.n_atoms) ** 2))
    n_free = len(X) - np.linalg.matrix_rank(count_elements(bare, bare.elements, as_shares=False))
    if n_free == 0:
        # composition explains any labels of so few structures
        return size, TIMES_REST * scale, scale
    return size, np.sqrt(np.sum(((difference - shift) / X.n_atoms) ** 2) / n_free), scale


def _shift_baseline(steps, network, X, y):
    found, *_ = _fit_difference(steps, network, X, y)
    baseline = copy(steps.baseline)
    energies = baseline.coef_["energy"].copy()
    energies[np.searchsorted(baseline.elements_, found.elements_)] += found.coef_["energy"]
    baseline.coef_ = {**baseline.coef_, "energy": energies}
    return replace(steps, baseline=baseline)
