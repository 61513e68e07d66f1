r"""Do the labels belong together? Comparison with a quick fit to the forces alone.

The fit sees no energies and no stress, so what it predicts for them follows from the forces. Sign
and factor of energies and stress against these predictions tell the units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.units import Bohr, Hartree, Rydberg, kcal, kJ, mol
from scipy.spatial import KDTree
from scipy.stats import spearmanr

from ..data import Targets
from ._labels import find_far, find_other_units
from ._report import Finding
from ._sample import Sample, count, spread

# correlation of predicted and labelled forces of structures that the fit has not seen; clean data
# have at least 0.85 with 20 structures and 0.94 with 60
UNRELATED, WEAK = 0.3, 0.5
# correlation below which the forces of a single structure are wrong, that of a change of sign, and
# the number of fitted structures below which only the latter counts, and no size, since some may be
# unlike all others
CONTRADICTS, OPPOSITE, FEW = 0.2, -0.7, 30
# rank correlation of differences of energies that settles the sign, and one that settles a factor;
# with few structures of many phases, right signs may have -0.7
SETTLES_SIGN, SETTLES_FACTOR = 0.6, 0.95
SETTLES_WRONG_SIGN = -0.8
# factors within these bounds may be errors of the fit
ROUGH, FINE = 2.5, 1.5
# factor by which forces are too large if energies or forces are in another unit
FORCE_UNITS = {
    "energies in Hartree and forces in eV/Angstrom": Hartree,
    "energies in Hartree and forces in Hartree/Bohr": Bohr,
    "energies in Rydberg and forces in eV/Angstrom": Rydberg,
    "energies in kcal/mol and forces in eV/Angstrom": kcal / mol,
    "energies in kJ/mol and forces in eV/Angstrom": kJ / mol,
    "energies in eV and forces in Hartree/Bohr": Bohr / Hartree,
    "energies in eV and forces in Hartree/Angstrom": 1 / Hartree,
    "energies in eV and forces in Rydberg/Bohr": Bohr / Rydberg,
    "energies in eV and forces in eV/Bohr": Bohr,
    "energies in eV and forces in kcal/mol/Angstrom": mol / kcal,
    "energies in eV and forces in kJ/mol/Angstrom": mol / kJ,
    "energies in eV and forces in kJ/mol/nm": 10 * mol / kJ,
    "energies in eV and forces in meV/Angstrom": 1000.0,
    "positions in Bohr beside energies in eV and forces in eV/Angstrom": 1 / Bohr,
}


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
    overall = _cosine(
        np.concatenate([known[k] for k in new]), np.concatenate([predicted[k] for k in new])
    )
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
    cosine = np.array([_cosine(*values) for values in zip(known, predicted)])
    size = fit.rms_forces
    labelled = np.array([np.sqrt(np.mean(values**2)) for values in known])
    ratio = labelled / np.maximum(size, 1e-300)
    # the directions of small forces are errors of the fit
    clear = (size > 0.3 * np.median(size)) & (ratio > 0) & (np.median(cosine) > 0.85)
    enough = fit.n_fitted >= FEW
    limit = CONTRADICTS if enough else OPPOSITE
    wrong = clear & (cosine < limit) & (labelled > 0.3 * np.median(labelled))
    if accused is not None:
        wrong &= np.isin(fit.places, accused)
    yield from _report_directions(sample, fit, cosine, wrong)
    if enough:
        yield from _report_sizes(sample, fit, ratio, clear & (cosine > 0.5))


def _report_directions(sample, fit, cosine, wrong):
    if wrong.any():
        opposite = np.sum(cosine[wrong] < OPPOSITE)
        yield Finding(
            "forces of single structures",
            "error",
            np.sort(sample.indices(fit.places[wrong])),
            f"the forces of {count(np.flatnonzero(wrong))} contradict a quick fit to all: "
            f"correlations from {cosine[wrong].min():.2f} to {cosine[wrong].max():.2f} (median of "
            f"all {np.median(cosine):.2f}). {opposite} have the opposite sign; others belong to "
            "other structures or to another order of the atoms.",
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


def compare_energies(sample, fit):
    """Return the factor of the forces relative to the derivatives of the energies, and findings.

    Returns
    -------
    factor : float or None
        1 in consistent units, negative if the signs differ; None if it cannot be told.
    findings : list of Finding
    """
    found = find_other_units(sample)
    mixed = np.concatenate([*found.values(), []]).astype(int)
    chosen = np.flatnonzero(sample.has_label("energy")[fit.places] & ~np.isin(fit.places, mixed))
    places = fit.places[chosen]
    first, second = _pair_neighbors(sample, places)
    if len(first) < 10:
        return None, []
    n_atoms = sample.X.n_atoms[places]
    known = sample.y["energy"][places] / n_atoms
    predicted = fit.predicted["energy"][chosen] / n_atoms
    here, there = known[first] - known[second], predicted[first] - predicted[second]
    if not (np.ptp(here) and np.ptp(there)):
        return None, []
    correlation = spearmanr(here, there)[0]
    ratio = np.median(np.abs(there)) / max(np.median(np.abs(here)), 1e-300)
    if correlation >= SETTLES_SIGN or correlation <= SETTLES_WRONG_SIGN:
        factor = float(np.copysign(ratio, correlation))
        return factor, list(_report_factor(sample, places, factor, abs(correlation)))
    # energies that do not even resemble those of similar structures are mixed up
    rest = sample.residuals(places, sample.y["energy"][places])
    shuffled = rest[np.random.default_rng(0).permutation(len(rest))]
    similar = np.median(np.abs(rest[first] - rest[second]))
    if similar < 0.7 * np.median(np.abs(rest - shuffled)) or abs(correlation) > 0.25:
        return None, []
    return None, [
        Finding(
            "forces and energies",
            "error",
            np.sort(sample.indices(places)),
            "the forces belong to the structures, but the energies do not follow them: the rank "
            f"correlation of energy differences with a quick fit to the forces is "
            f"{correlation:.2f}. The energies are in another order, or of another calculation.",
        )
    ]


def _pair_neighbors(sample, places):
    """Return the pairs of each structure with the three that resemble it most.

    They have the same composition, since forces do not tell the energies of elements.
    """
    if len(places) < 5:
        return np.zeros((2, 0), int)
    rows = sample.geometry.fingerprint[places]
    rows = rows / np.maximum(rows.std(axis=0), 1e-12)
    rows = np.column_stack([rows, 1e3 * sample.shares[places]])
    nearest = KDTree(rows).query(rows, k=4)[1][:, 1:]
    first, second = np.repeat(np.arange(len(places)), 3), nearest.ravel()
    same = np.abs(sample.shares[places[first]] - sample.shares[places[second]]).max(1) < 1e-6
    same &= first != second
    return first[same], second[same]


def _report_factor(sample, places, factor, correlation):
    where = np.sort(sample.indices(places))
    seen = "the rank correlation of energy differences with a quick fit to the forces is "
    if factor < 0:
        yield Finding(
            "sign of forces",
            "error",
            where,
            f"forces and energies contradict each other: {seen}{-correlation:.2f}. Forces are "
            "minus the derivative of the energy; these look like the derivative itself. Change "
            "their sign.",
        )
    bound = FINE if correlation > SETTLES_FACTOR else ROUGH
    if 1 / bound < abs(factor) < bound:
        return
    units = name_units(abs(factor), FORCE_UNITS)
    yield Finding(
        "units of energies and forces",
        "error",
        where,
        f"forces are {abs(factor):.3g} times as large as the changes of the energies require"
        f"{f', as with {units}' if units else ''}. Convert energies to eV and "
        "forces to eV/Angstrom.",
    )


def name_units(factor, units):
    """Return the names of the units whose factor is nearest, or an empty string."""
    distance = {name: abs(np.log(factor / value)) for name, value in units.items()}
    nearest = min(distance.values())
    if nearest > 0.35:
        return ""
    return " or ".join(name for name, value in distance.items() if value < nearest + 0.15)


def check_energy_outliers(sample: Sample, fit=None, factor=None):
    """Yield structures whose energies are far from all others.

    Parameters
    ----------
    sample : Sample
        Structures and labels.
    fit : QuickFit, default=None
        Without it, energies are compared with a fit on composition alone.
    factor : float, default=None
        See :func:`compare_energies`; None if energies do not follow the fit.
    """
    known = sample.has_label("energy") & ~sample.geometry.alone
    known[[k for found in find_other_units(sample).values() for k in found]] = False
    features = None
    if factor is not None and fit.n_fitted >= FEW:
        places = fit.places[known[fit.places]]
        energy = dict(zip(fit.places, fit.predicted["energy"]))
        features = np.array([[energy[k] / sample.X.n_atoms[k]] for k in places])
    else:
        places = np.flatnonzero(known)
    if len(places) < 5:
        return
    total = np.array(sample.column("energy"))[places]
    if np.ptp(total) <= 1e-9 * np.abs(total).max():
        return
    rest = alone = sample.residuals(places, total)
    if features is not None:
        rest = sample.residuals(places, total, features)
    found = _find_outliers(rest, None if features is None else spread(alone))
    if len(found) == 0:
        return
    low, high = f"{rest[found].min():+.3g}", f"{rest[found].max():+.3g}"
    seen = (
        f"{count(found, 'energy', 'energies')} off by {low if low == high else f'{low} to {high}'} "
        f"per atom (standard deviation of the others {spread(rest):.2g})"
    )
    follow = features is not None and _follow(sample, fit, places[found])
    if len(found) > 1 and (follow or _is_offset(rest[found])):
        yield Finding(
            "level of theory",
            "error",
            sample.indices(np.sort(places[found])),
            f"{seen}, though nothing else about the structures is unusual. Another functional, "
            "dispersion, basis, cutoff or reference: calculate them like the others, or leave them "
            "out.",
        )
    else:
        yield Finding(
            "energy outliers",
            "warning",
            sample.indices(np.sort(places[found])),
            f"{seen}. Look for calculations that did not converge or were made with other "
            "settings.",
        )


def _find_outliers(rest, usual):
    """Return the positions of few values that are apart from the others.

    ``usual`` is the spread of the energies themselves, if ``rest`` is what a fit leaves of them: a
    good fit may miss single structures by much more than others, but not by as much as this.
    """
    size = spread(rest)
    if size == 0:
        size = 1e-9 + 1e-3 * np.abs(rest).max()
    if usual is not None:
        return find_far(np.abs(rest), max(8 * size, 3 * usual), gap=2.0)
    # structures under pressure have high energies, but none is far below the others
    low = find_far(np.maximum(-rest, 0), 10 * size, gap=2.0)
    return np.union1d(low, find_far(np.maximum(rest, 0), 15 * size, gap=3.0))


def _is_offset(rest):
    """Return whether several values are almost the same."""
    return rest.std() < 0.3 * abs(rest.mean())


def _follow(sample, fit, places):
    """Return whether the forces of most structures are as a fit to the forces predicts."""
    known, predicted = fit.pairs_of_forces(sample)
    cosines = [_cosine(*values) for k, *values in zip(fit.places, known, predicted) if k in places]
    return np.median(cosines) > 0.5


def _cosine(one, other):
    one, other = np.ravel(one), np.ravel(other)
    norm = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / norm) if norm > 0 else 0.0
