"""Do energies follow forces? Units, signs and outliers, by comparison with the quick fit."""

from __future__ import annotations

import numpy as np
from ase.units import Bohr, Hartree, Rydberg, kcal, kJ, mol
from scipy.spatial import KDTree
from scipy.stats import spearmanr

from ._consistency import FEW, cosine, name_units
from ._labels import find_far, find_other_units
from ._report import Finding
from ._sample import Sample, count, spread

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
        return factor, list(_report_factor(sample, fit, places, factor, abs(correlation)))
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


def _report_factor(sample, fit, places, factor, correlation):
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
    bound = FINE if correlation > SETTLES_FACTOR and fit.n_fitted >= FEW else ROUGH
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
    if np.sum(known) < 5:
        return
    places, rest, usual = _subtract_fits(sample, np.flatnonzero(known), fit, factor)
    total = np.array(sample.column("energy"))[places]
    if np.ptp(total) <= 1e-9 * np.abs(total).max():
        return
    found = _find_outliers(rest, usual)
    if usual is None and fit is not None:
        found = found[~np.isin(places[found], _expect_high(sample, fit))]
    if len(found) == 0:
        yield from _report_levels(sample, places, fit)
        return
    low, high = f"{rest[found].min():+.3g}", f"{rest[found].max():+.3g}"
    seen = (
        f"{count(found, 'energy', 'energies')} off by {low if low == high else f'{low} to {high}'} "
        f"per atom (standard deviation of the others {spread(rest):.2g})"
    )
    follow = usual is not None and _follow(sample, fit, places[found])
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


def _subtract_fits(sample, places, fit, factor):
    """Return what fits leave of the energies per atom.

    Returns
    -------
    places : array of int
        Positions of the structures.
    rest : array of shape (n_places,)
        Energies minus a fit on composition and, if they follow it, the quick fit.
    usual : float or None
        Spread of the energies without the quick fit; None if it was not used.
    """
    alone = sample.residuals(places, sample.y["energy"][places])
    fitted, predicted = _choose_predicted(places, fit)
    if len(fitted) < 5:
        return places, alone, None
    features = predicted[:, None] / sample.X.n_atoms[fitted, None]
    rest = sample.residuals(fitted, sample.y["energy"][fitted], features)
    usual = spread(alone[np.isin(places, fitted)])
    # energies of which some are wrong may hide that the others follow
    if factor is None and spread(rest) > usual / 3:
        return places, alone, None
    return fitted, rest, usual


def _choose_predicted(places, fit):
    """Return those of the structures that a good quick fit predicts, and their energies."""
    if fit is None or fit.n_fitted < FEW:
        return np.zeros(0, int), np.zeros(0)
    chosen = np.isin(fit.places, places)
    return fit.places[chosen], fit.predicted["energy"][chosen]


def _expect_high(sample, fit):
    """Return the structures of which the quick fit, too, predicts energies above all others."""
    rest = sample.residuals(fit.places, fit.predicted["energy"])
    return fit.places[rest > 3 * spread(rest)]


def _report_levels(sample, places, fit):
    """Yield a fifth or more of the energies if they are off by the same from similar structures.

    Phases and conformers have different energies, too, but then similar structures have the same.
    """
    places = places[np.isfinite(sample.geometry.fingerprint[places]).all(1)]
    fitted, predicted = _choose_predicted(places, fit)
    if len(fitted) < 5:
        fitted, predicted = places, 0.0
    if len(fitted) < 5:
        return
    places, rest = fitted, sample.residuals(fitted, sample.y["energy"][fitted] - predicted)
    first, second = _pair_neighbors(sample, places)
    if len(first) < 10:
        return
    order = np.argsort(rest)
    few = max(2, len(rest) // 5)
    cut = few + np.argmax(np.diff(rest[order])[few - 1 : 1 - few])
    upper = np.isin(np.arange(len(rest)), order[cut:])
    offset = np.median(rest[upper]) - np.median(rest[~upper])
    size = max(spread(rest[upper]), spread(rest[~upper]))
    mixed = np.mean(upper[first] != upper[second]) / (2 * upper.mean() * (1 - upper.mean()))
    if offset > 8 * size and mixed > 0.5:
        fewer = upper if upper.mean() <= 0.5 else ~upper
        yield Finding(
            "level of theory",
            "error",
            np.sort(sample.indices(places[fewer])),
            f"{count(np.flatnonzero(fewer), 'energy', 'energies')} off by "
            f"{offset if fewer is upper else -offset:+.3g} per atom from those of similar "
            f"structures (standard deviation within each of the two kinds {size:.2g}). Another "
            "functional, dispersion, basis, cutoff or reference: keep one of the two kinds.",
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
        return find_far(np.abs(rest), max(8 * size, 2 * usual), gap=2.0)
    # structures under pressure have high energies, but none is far below the others
    low = find_far(np.maximum(-rest, 0), 10 * size, gap=2.0)
    return np.union1d(low, find_far(np.maximum(rest, 0), 15 * size, gap=3.0))


def _is_offset(rest):
    """Return whether several values are almost the same."""
    return rest.std() < 0.3 * abs(rest.mean())


def _follow(sample, fit, places):
    """Return whether the forces of most structures are as a fit to the forces predicts."""
    known, predicted = fit.pairs_of_forces(sample)
    cosines = [cosine(*values) for k, *values in zip(fit.places, known, predicted) if k in places]
    return np.median(cosines) > 0.5
