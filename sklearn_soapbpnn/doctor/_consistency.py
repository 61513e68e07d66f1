"""Do forces belong to their structures? Comparison with a quick fit to the forces alone.

The fit sees no energies and no stress, so what it predicts for them follows from the forces. Sign
and factor of energies and stress against these predictions tell the units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data import Targets
from ._report import Finding
from ._sample import count

# correlation of predicted and labelled forces of structures that the fit has not seen; clean data
# have at least 0.85 with 20 structures and 0.94 with 60
UNRELATED, WEAK = 0.3, 0.5
# correlation below which the forces of a single structure are wrong, that of a change of sign, and
# the number of fitted structures below which only the latter counts, and no size, since some may be
# unlike all others
CONTRADICTS, OPPOSITE, FEW = 0.2, -0.7, 30


@dataclass(frozen=True)
class QuickFit:
    """Predictions of a fit to the forces alone.

    Parameters
    ----------
    places : array of int
        Positions of the structures in the sample.
    is_new : array of bool
        Whether the fit has not seen the structure.
    predicted : Targets
        Energies, forces and stress; energies are relative.
    """

    places: np.ndarray
    is_new: np.ndarray
    predicted: Targets

    def pairs_of_forces(self, sample):
        """Return labelled and predicted forces as two lists of arrays."""
        labels = sample.column("forces")
        return [labels[k] for k in self.places], self.predicted["forces"]

    @property
    def n_fitted(self):
        """Number of structures that the fit has seen."""
        return int(np.sum(~self.is_new))

    @property
    def rms_forces(self):
        """Root mean square of the predicted forces of each structure."""
        return np.array([np.sqrt(np.mean(values**2)) for values in self.predicted["forces"]])


def check_forces(sample, fit, accused=None):
    """Yield forces that do not belong to their structures.

    Parameters
    ----------
    sample : Sample
        Structures and labels.
    fit : QuickFit
        Quick fit to the forces.
    accused : array of int, default=None
        The only structures whose forces may be wrong by direction; None allows all.
    """
    known, predicted = fit.pairs_of_forces(sample)
    new = np.flatnonzero(fit.is_new)
    cosines = np.array([cosine(*values) for values in zip(known, predicted)])
    overall = cosine(
        np.concatenate([known[k] for k in new]), np.concatenate([predicted[k] for k in new])
    )
    # a few forces in another unit may be larger than all others together
    overall = max(overall, float(np.median(cosines[new])))
    if overall < WEAK:
        yield Finding(
            "forces of other structures",
            "error" if overall < UNRELATED else "warning",
            sample.indices(fit.places),
            f"a quick fit to the forces of {len(known) - len(new)} structures predicts those of "
            f"{len(new)} others with a correlation of {overall:.2f}; 0.9 is usual. The forces, or "
            "some of them, belong to other structures or to another order of the atoms.",
        )
        return
    size = fit.rms_forces
    labelled = np.array([np.sqrt(np.mean(values**2)) for values in known])
    ratio = labelled / np.maximum(size, 1e-300)
    # the directions of small forces are errors of the fit
    clear = (size > 0.3 * np.median(size)) & (ratio > 0) & (np.median(cosines) > 0.85)
    enough = fit.n_fitted >= FEW
    limit = CONTRADICTS if enough else OPPOSITE
    wrong = clear & (cosines < limit) & (labelled > 0.3 * np.median(labelled))
    if accused is not None:
        wrong &= np.isin(fit.places, accused)
    yield from _report_directions(sample, fit, cosines, wrong)
    if enough:
        yield from _report_sizes(sample, fit, ratio, clear & (cosines > 0.5))


def _report_directions(sample, fit, cosines, wrong):
    if wrong.any():
        opposite = np.sum(cosines[wrong] < OPPOSITE)
        yield Finding(
            "forces of single structures",
            "error",
            np.sort(sample.indices(fit.places[wrong])),
            f"the forces of {count(np.flatnonzero(wrong))} contradict a quick fit to all: "
            f"correlations from {cosines[wrong].min():.2f} to {cosines[wrong].max():.2f} (median "
            f"of all {np.median(cosines):.2f}). {opposite} have the opposite sign; others belong "
            "to other structures or to another order of the atoms.",
        )


def _report_sizes(sample, fit, ratio, clear):
    other = clear & ((ratio > 6) | (ratio < 1 / 6))
    if other.any():
        yield Finding(
            "force units",
            "error",
            np.sort(sample.indices(fit.places[other])),
            f"the forces of {count(np.flatnonzero(other))} have the direction, but "
            f"{np.median(ratio[other]):.3g} times the size that a quick fit to all predicts: look "
            "for another unit, and convert them.",
        )


def name_units(factor, units):
    """Return the names of the units whose factor is nearest, or an empty string."""
    distance = {name: abs(np.log(factor / value)) for name, value in units.items()}
    nearest = min(distance.values())
    if nearest > 0.35:
        return ""
    return " or ".join(name for name, value in distance.items() if value < nearest + 0.15)


def cosine(one, other):
    """Return the correlation of two sets of vectors, without subtraction of means."""
    one, other = np.ravel(one), np.ravel(other)
    norm = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / norm) if norm > 0 else 0.0
