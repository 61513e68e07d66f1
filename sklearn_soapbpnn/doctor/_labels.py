"""Checks of labels that need no model: missing and constant ones, isolated atoms, outliers."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols

from ..data import LEARNT_DERIVATIVES
from ._report import Finding
from ._sample import count, spread

# values of known units of energy in eV
EV = {"": 1.0, "eV": 1.0, "meV": 1e-3, "Hartree": 27.211386, "Ha": 27.211386, "Ry": 13.605693}
EV |= {"kcal/mol": 0.0433641, "kJ/mol": 0.0103643}
# energies of units that are mixed up are multiples of each other
RATIOS = {"Hartree": 27.211386, "Rydberg": 13.605693, "kcal/mol": 1 / 23.060548}
RATIOS |= {"kJ/mol": 1 / 96.485332, "meV": 1e-3}
# atomization energies per atom in eV: the strongest bound solids have 9
LEAST_BOUND, MOST_BOUND = 1.0, 15.0


def check_missing(sample):
    """Yield columns that some structures lack."""
    for name in sample.y.names if sample.y is not None else ():
        known = [np.isfinite(values) for values in sample.column(name)]
        some, every = (np.array([test(there) for there in known]) for test in (np.any, np.all))
        # a fit to forces alone has an empty column of energies
        is_optional = name == "energy" and {*LEARNT_DERIVATIVES} & {*sample.y.names}
        if every.all() or (is_optional and not some.any()):
            continue
        part = f", {np.sum(some & ~every)} of them some components" * bool(np.any(some & ~every))
        yield Finding(
            "missing labels",
            "note" if some.any() else "warning",
            sample.indices(~every),
            f"no {name} in {np.sum(~every)} of {count(every)}{part}. They are ignored for this "
            "target; if that is not meant, look at the key that it was read from.",
        )


def check_constant(sample):
    """Yield columns whose labels are all the same, and structures whose labels are all zero."""
    for name, kind in sample.y.kinds.items() if sample.y is not None else ():
        known = np.flatnonzero(sample.has_label(name))
        values = [np.ravel(sample.column(name)[k]) for k in known]
        flat = np.concatenate(values) if values else np.zeros(0)
        if len(values) < 2 or not len(flat):
            continue
        if np.ptp(flat) <= 1e-9 * np.abs(flat).max():
            yield Finding(
                "constant labels",
                "error",
                sample.indices(known),
                f"all labels of {name} are {flat[0]:.4g}. Probably they were not calculated, or "
                "another key holds them: leave the target out, or read it from there.",
            )
            continue
        if kind.shape == () and not name.startswith("energy"):
            continue
        zero = np.array([not np.any(entry) for entry in values])
        zero &= ~(sample.geometry.symmetric | (sample.X.n_atoms == 1))[known]
        if zero.any():
            yield Finding(
                "labels that are zero",
                "error",
                sample.indices(known[zero]),
                f"{name} of exactly zero in {count(known[zero])}, though no symmetry requires it. "
                "If it was not calculated, set it to NaN.",
            )


def check_force_outliers(sample):
    """Yield structures with forces far beyond all others."""
    known = np.flatnonzero(sample.has_label("forces") & (sample.X.n_atoms > 1))
    if len(known) < 5:
        return
    largest = np.array([np.abs(sample.column("forces")[k]).max() for k in known])
    found = known[find_far(largest, 10 * np.median(largest), gap=3.0)]
    if len(found):
        rest = np.setdiff1d(known, found)
        ordinary = largest[np.isin(known, rest)]
        yield Finding(
            "force outliers",
            "warning",
            sample.indices(found),
            f"forces of up to {largest.max():.3g} (median of the largest in each structure "
            f"{np.median(largest):.3g}, next largest {ordinary.max():.3g}). Look for calculations "
            "that did not converge and for atoms that are too close.",
        )


def find_far(values, threshold, gap):
    """Return the positions of few large values that are apart from the others by a factor."""
    order = np.argsort(-values)
    few = max(1, len(values) // 5)
    ratios = values[order[:few]] / np.maximum(values[order[1 : few + 1]], 1e-300)
    far = np.flatnonzero((ratios > gap) & (values[order[:few]] > threshold))
    return np.sort(order[: far[-1] + 1]) if len(far) else order[:0]


def find_other_units(sample):
    """Return energies that are those of other structures in another unit.

    Returns
    -------
    dict of str to array of int
        For each unit, the positions of structures whose energies are in it, if the others are in
        eV.
    """
    known = np.flatnonzero(sample.has_label("energy") & ~sample.geometry.alone)
    if len(known) < 5 or not np.all(sample.y["energy"][known]):
        return {}
    energy = sample.y["energy"][known]
    rest, fitted = _fit_mixed_units(sample, known, energy)
    # only energies that are large compared to their differences show their unit
    large = np.abs(fitted) > 30 * spread(rest)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (fitted * sample.X.n_atoms[known]) / energy
    found = {}
    for name, factor in RATIOS.items():
        for unit, value in ((name, factor), (f"eV beside {name}", 1 / factor)):
            same = large & (np.abs(ratio / value - 1) < 0.03)
            if same.any():
                found[unit] = known[same]
    return found


def _fit_mixed_units(sample, known, energy):
    """Return residuals and values of the fit on composition, though up to half may be in a unit.

    If no unit is that of most structures, the fit lies between two. Then each energy is read in the
    unit in which it is nearer to the fit, and the fit repeated.
    """
    rest = sample.residuals(known, energy)
    fitted = energy / sample.X.n_atoms[known] - rest
    best = rest, fitted
    if spread(rest) < 0.03 * np.median(np.abs(fitted)):
        return best
    for factor in RATIOS.values():
        middle, read = fitted, energy
        for _ in range(3):
            with np.errstate(divide="ignore"):
                nearer = np.log(np.abs(middle * sample.X.n_atoms[known] / energy)) / np.log(factor)
            read = energy * factor ** np.clip(np.round(nearer), -1, 1)
            left = sample.residuals(known, read)
            middle = read / sample.X.n_atoms[known] - left
        if spread(left) < 0.1 * spread(best[0]):
            best = left, middle
    return best


def check_extensive(sample):
    """Yield energies that do not grow with the number of atoms."""
    known = np.flatnonzero(sample.has_label("energy") & ~sample.geometry.alone)
    n_atoms = sample.X.n_atoms[known]
    if len(known) < 10 or n_atoms.max() < 1.5 * n_atoms.min():
        return
    energy = sample.y["energy"][known]
    if np.ptp(energy) <= 1e-9 * np.abs(energy).max():
        return
    # how well composition explains them, if they are per atom and if they are not
    intensive = np.abs(sample.residuals(known, energy * n_atoms)).mean()
    extensive = np.abs(sample.residuals(known, energy) * n_atoms).mean()
    if intensive < 0.2 * extensive:
        yield Finding(
            "energies per atom",
            "error",
            sample.indices(known),
            "energies of large and small structures of similar composition are alike, as if they "
            "were per atom. Multiply them by the number of atoms.",
        )


def check_mixed_units(sample):
    """Yield structures whose energies are in another unit than the others."""
    for unit, found in find_other_units(sample).items():
        yield Finding(
            "energy units",
            "error",
            sample.indices(found),
            f"the energies of {count(found)} differ from the others by the factor of two units, "
            f"as if they were in {unit}{'' if 'beside' in unit else ' beside eV'}. Convert "
            "them.",
        )


def check_isolated_atoms(sample):
    """Yield isolated atoms that are missing or do not fit the other energies."""
    labelled = sample.has_label("energy")
    unit = EV.get(sample.y.kinds["energy"].unit) if labelled.any() else None
    if unit is None:
        return
    alone = np.flatnonzero(labelled & sample.geometry.alone)
    if len(alone) == 0:
        yield from _report_no_atoms(sample)
        return
    energy = sample.y["energy"] * unit
    element = sample.geometry.counts[alone].argmax(1)
    names = [chemical_symbols[number] for number in sample.X.elements]
    atoms = {k: energy[alone[element == k]] for k in np.unique(element)}
    for k, values in atoms.items():
        if np.ptp(values) > 0.01:
            yield Finding(
                "isolated atoms",
                "error",
                sample.indices(alone[element == k]),
                f"isolated {names[k]} has energies from {values.min():.6g} to {values.max():.6g} "
                "eV. Keep the one of the spin state and settings that you want.",
            )
    missing = [names[k] for k in range(len(names)) if k not in atoms]
    if missing:
        yield Finding(
            "isolated atoms",
            "warning",
            sample.indices(alone),
            f"there are isolated atoms, but none of {', '.join(missing)}. Add them, or leave all "
            "out: otherwise the baseline mixes two meanings.",
        )
    else:
        yield from _check_binding(sample, alone, {k: v.mean() for k, v in atoms.items()}, energy)


def _report_no_atoms(sample):
    """Note that isolated atoms are missing where the baseline depends on them."""
    if len(np.unique(sample.shares.round(6), axis=0)) > 1 and sample.has_label("energy").any():
        yield Finding(
            "isolated atoms",
            "note",
            np.zeros(0, int),
            "there are no isolated atoms. Energies of dissociation need them; nothing else does.",
        )


def _find_odd_atoms(sample, rest, energies, energy):
    """Return the elements whose isolated atoms alone are far from a fit on composition."""
    shares = sample.shares[rest]
    none = np.zeros(len(energies), bool)
    if len(rest) <= 2 * len(energies) or np.linalg.matrix_rank(shares) < len(energies):
        return none
    target = energy[rest] / sample.X.n_atoms[rest]
    fitted = np.linalg.lstsq(shares, target, rcond=None)[0]
    errors = np.sqrt(np.diag(np.linalg.inv(shares.T @ shares))) * (target - shares @ fitted).std()
    odd = (np.abs(fitted - energies) > MOST_BOUND) & (errors < 1.0)
    # a method that differs for all is seen from the binding energies
    return odd if np.sum(odd) <= len(odd) / 2 else none


def _check_binding(sample, alone, atoms, energy):
    rest = np.setdiff1d(np.flatnonzero(sample.has_label("energy")), alone)
    if len(rest) == 0:
        return
    energies = np.array([atoms[k] for k in sorted(atoms)])
    odd = _find_odd_atoms(sample, rest, energies, energy)
    if odd.any():
        element = sample.geometry.counts[alone].argmax(1)
        names = ", ".join(chemical_symbols[number] for number in sample.X.elements[odd])
        yield Finding(
            "isolated atoms",
            "error",
            sample.indices(alone[odd[element]]),
            f"the energy of isolated {names} is more than {MOST_BOUND:.0f} eV from what the others "
            "require of the element. Look for another unit, spin state or method.",
        )
        return
    free = sample.geometry.counts @ energies
    bound = (energy - free)[rest] / sample.X.n_atoms[rest]
    typical = np.median(bound)
    if not -MOST_BOUND < typical < LEAST_BOUND:
        yield Finding(
            "isolated atoms",
            "error",
            sample.indices(alone),
            f"energies per atom are {typical:+.3g} eV relative to the isolated atoms (median); "
            f"0 to -10 eV is usual. Calculate the atoms with the same method and settings, in the "
            "same unit; for energies that are relative to atoms set theirs to zero.",
        )
