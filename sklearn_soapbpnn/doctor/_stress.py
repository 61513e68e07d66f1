"""Sign, unit and order of stress or virial, by comparison with a quick fit to the forces."""

from __future__ import annotations

import numpy as np
from ase.units import Bohr, GPa, Hartree
from scipy.optimize import linear_sum_assignment

from ._consistency import FEW, name_units
from ._report import Finding
from ._sample import count

# components of a symmetric tensor in the order of ASE, and where they are in 3x3
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
ROWS, COLUMNS = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
# orders of other codes
ORDERS = {
    ("xx", "yy", "zz", "xy", "yz", "xz"): "VASP",
    ("xx", "yy", "zz", "xy", "xz", "yz"): "LAMMPS",
    ("xx", "xy", "xz", "yy", "yz", "zz"): "the upper triangle, row by row",
    ("xx", "xy", "yy", "xz", "yz", "zz"): "the lower triangle, row by row",
}
# mean correlation of the components with the fit that settles sign and factor, and those of single
# structures; how much a better order must gain, and factors that may be errors of the fit
SETTLES, SETTLES_SINGLE, GAIN, ROUGH = 0.6, 0.7, 0.5, 2.5
# 80 GPa: a typical stress of this size is rarely meant
LARGE = 0.5


def check_stress_size(sample):
    """Yield a stress that is too large for eV/Angstrom^3; for data without a quick fit."""
    known = np.flatnonzero(sample.has_label("stress"))
    if len(known) == 0:
        return
    largest = np.median([np.abs(sample.y["stress"][k]).max() for k in known])
    if largest > LARGE:
        yield Finding(
            "units of stress",
            "warning",
            sample.indices(known),
            f"the largest component is {largest:.3g} eV/Angstrom^3 = {largest / GPa:.3g} GPa "
            f"(median). {_WAY_OUT}",
        )


_WAY_OUT = "Divide GPa by 160.2177, kbar by 1602.177, and a virial by minus the volume."


def check_stress(sample, fit, factor):
    """Yield stress or virial whose order, sign or unit contradicts the forces.

    Parameters
    ----------
    sample : Sample
        Structures and labels.
    fit : QuickFit
        Quick fit to the forces.
    factor : float or None
        Factor of the forces relative to the energies, with which the stress should agree.
    """
    name = next((name for name in ("stress", "virial") if sample.column(name)), None)
    chosen = np.flatnonzero(sample.has_label(name)[fit.places]) if name else ()
    if len(chosen) < 5:
        return
    places = fit.places[chosen]
    known = sample.y[name][places][:, ROWS, COLUMNS]
    predicted = fit.predicted[name][chosen][:, ROWS, COLUMNS]
    if name == "virial":
        known, predicted = (v / sample.X.n_atoms[places, None] for v in (known, predicted))
    usable = np.isfinite(predicted).all(1)
    places, known, predicted = places[usable], known[usable], predicted[usable]
    if len(known) < 5:
        return
    order, sign, quality, gain = _find_order(known, predicted)
    if quality < SETTLES:
        return
    where = np.sort(sample.indices(places))
    if gain > GAIN:
        yield _report_order(name, where, order, gain, quality)
    else:
        order = np.arange(6)
    aligned = predicted[:, order]
    ratio = sign * _size(known) / _size(aligned)
    yield from _report_ratio(sample, places, name, ratio, factor, quality)
    if fit.n_fitted >= FEW and quality > SETTLES_SINGLE:
        yield from _check_single(sample, places, name, known, ratio * aligned)


def _check_single(sample, places, name, known, expected):
    """Yield structures whose stress has another sign or unit than that of the others."""
    known, expected = (values - np.median(values, axis=0) for values in (known, expected))
    distance = np.linalg.norm(known - expected, axis=1)
    size = np.median(distance)
    other = np.zeros(len(known), bool)
    for factor in (-1, GPa, -GPa, GPa / 10, -GPa / 10, 1 / GPa, -1 / GPa, 10 / GPa, -10 / GPa):
        changed = np.linalg.norm(factor * known - expected, axis=1)
        other |= (distance > 5 * size) & (changed < 0.3 * distance)
    if other.any():
        yield Finding(
            f"{name} of single structures",
            "error",
            np.sort(sample.indices(places[other])),
            f"the {name} of {count(np.flatnonzero(other))} agrees with a quick fit to the forces "
            "only after a change of sign or of the unit (GPa, kbar), unlike that of the others. "
            "Convert it like the others.",
        )


def _find_order(known, predicted):
    """Return the order and sign of the components in which labels agree best with predictions.

    Returns
    -------
    order : array of int of shape (6,)
        Component of the prediction that each component of the labels is.
    sign : int
        Sign of the labels relative to the predictions.
    quality : float
        Mean correlation in this order.
    gain : float
        Sum of the correlations, minus that in the order of ASE.
    """
    known, predicted = (_limit(values - np.median(values, axis=0)) for values in (known, predicted))
    norms = np.outer(np.linalg.norm(known, axis=0), np.linalg.norm(predicted, axis=0))
    correlation = np.divide(known.T @ predicted, norms, out=np.zeros((6, 6)), where=norms > 0)
    # components that are always zero, as shear in cubic crystals, tell nothing
    n_known = max(np.count_nonzero(norms.any(axis=1)), 1)
    best = None
    for sign in (1, -1):
        order = linear_sum_assignment(-sign * correlation)[1]
        total = sign * correlation[np.arange(6), order].sum()
        if best is None or total > best[0]:
            best = total, order, sign
    total, order, sign = best
    gain = total - sign * np.trace(correlation)
    return order, sign, total / n_known, gain


def _limit(values):
    """Return values of which none are larger than usual, so that single ones do not decide."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values * np.minimum(1.0, np.median(norms) / np.maximum(norms, 1e-300))


def _size(values):
    centered = values - np.median(values, axis=0)
    return np.median(np.linalg.norm(centered, axis=1))


def _report_order(name, where, order, gain, quality):
    given = tuple(VOIGT[k] for k in order)
    known = ORDERS.get(given)
    # 3x3 labels are in the order xx, yy, zz, yz, xz, xy here
    return Finding(
        f"order of {name}",
        "error",
        where,
        f"what should be {' '.join(VOIGT)} correlates best with {' '.join(given)} of a quick fit "
        f"to the forces (mean correlation {quality:.2f}, {quality - gain / 6:.2f} as it "
        f"is){f': the order of {known}' if known else ''}. Reorder the components before Targets, "
        "or pass 3x3 matrices.",
    )


def _report_ratio(sample, places, name, ratio, factor, quality):
    """Yield sign and unit of a stress that is ``ratio`` times the one that fits the forces."""
    where = np.sort(sample.indices(places))
    # relative to the energies, from which forces may differ by sign and unit
    relative = ratio * (1.0 if factor is None else factor)
    seen = f"its mean correlation with a quick fit to the forces is {quality:.2f}"
    if relative < 0:
        required, otherwise = " and energies", ""
        if factor is None:
            required, otherwise = "", ", or that of the forces, if these are the derivatives"
        meant = (
            "It is positive under tension, though in VASP and others it is positive under pressure"
            if name == "stress"
            else "It is minus the stress times the volume"
        )
        yield Finding(
            f"sign of {name}",
            "error",
            where,
            f"{name} has the opposite sign of what forces{required} require ({seen} after a change "
            f"of sign). {meant}: change its sign{otherwise}.",
        )
    sizes = sorted((abs(ratio), abs(relative)), key=lambda size: abs(np.log(size)))
    if 1 / ROUGH < sizes[0] < ROUGH:
        return
    volume = float(np.median(sample.X.volumes[places]))
    units = {"GPa": 1 / GPa, "kbar": 10 / GPa, "Hartree/Bohr^3": Bohr**3 / Hartree}
    units["eV/Angstrom^3 beside energies in Hartree"] = Hartree
    units["eV/Angstrom^3 beside forces in Hartree/Bohr"] = Hartree / Bohr
    units["eV, as it is the stress times the volume (a virial, which has the opposite sign)"] = (
        volume
    )
    if name == "virial":
        units = {"eV/Angstrom^3, as it is a stress": 1 / volume, "kbar": 10 / GPa / volume}
        units["GPa"] = 1 / GPa / volume
    given = name_units(sizes[0], units)
    yield Finding(
        f"units of {name}",
        "error",
        where,
        f"{name} is {sizes[0]:.3g} times as large as the forces require ({seen})"
        f"{f', as if in {given}' if given else ''}. {_WAY_OUT if name == 'stress' else ''}".strip(),
    )
