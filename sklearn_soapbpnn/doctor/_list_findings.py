"""All checks, in the order in which they depend on each other."""

from __future__ import annotations

import textwrap

import numpy as np

from ._consistency import check_forces
from ._energies import check_energy_outliers, compare_energies
from ._labels import (
    check_constant,
    check_extensive,
    check_force_outliers,
    check_isolated_atoms,
    check_missing,
    check_mixed_units,
)
from ._report import DataReport
from ._sample import Sample
from ._stress import check_stress, check_stress_size
from ._structures import check_bonds, check_duplicates, check_overlaps

# findings about structures that should not take part in the quick fit
SPOILT = ("overlapping atoms", "bond lengths", "force outliers", "labels that are zero")
NONE = np.zeros(0, int)


def examine(sample, validation=None, fit_forces=None):
    """Return what all checks find.

    Parameters
    ----------
    sample : Sample
        Structures and labels.
    validation : Sample, default=None
        Validation structures, compared with the others only.
    fit_forces : callable, default=None
        Called with the sample and positions in it: of structures that must not spoil a fit, and of
        some that must be in it. Returns a :class:`QuickFit`, or None if there is too little to fit.
        Without it only the checks that need no model are made.

    Returns
    -------
    findings : list of Finding
    fit : QuickFit or None
    """
    findings = [
        *check_overlaps(sample),
        *check_bonds(sample),
        *check_duplicates(sample, validation),
        *check_missing(sample),
        *check_constant(sample),
        *check_isolated_atoms(sample),
        *check_force_outliers(sample),
        *check_mixed_units(sample),
        *check_extensive(sample),
    ]
    fit = None
    if fit_forces is not None:
        spoilt = _locate(sample, findings, *SPOILT)
        fit = fit_forces(sample, spoilt, NONE) if len(spoilt) < len(sample) / 2 else None
    if fit is None:
        return [*findings, *check_energy_outliers(sample), *check_stress_size(sample)], None
    wrong = [*check_forces(sample, fit)]
    accused = _locate(sample, wrong, "forces of single structures")
    suspects = np.intersect1d(accused, fit.places[fit.is_new])
    if len(suspects):  # or are they merely unlike the structures of the fit?
        fit = fit_forces(sample, spoilt, suspects)
        # the second fit leaves out others, which may be unlike its structures in turn
        wrong = [*check_forces(sample, fit, accused)]
    findings += wrong
    factor = None
    if not any(finding.name == "forces of other structures" for finding in wrong):
        factor, found = compare_energies(sample, fit)
        findings += [*found, *check_stress(sample, fit, factor)]
    findings += check_energy_outliers(sample, fit, factor)
    if not any(finding.name == "units of stress" for finding in findings):
        findings += check_stress_size(sample)
    return findings, fit


def _locate(sample, findings, *names):
    """Return the positions in the sample of the structures of some findings."""
    found = [finding.structures for finding in findings if finding.name in names]
    return np.flatnonzero(np.isin(sample.X.indices, np.concatenate([*found, NONE])))


def summarize_data(X, y, validation=None):
    """Return a line on what the checks that need no model find, for the output of a fit."""
    sample = Sample(X, y)
    findings, _ = examine(sample, validation and Sample(*validation))
    report = DataReport(findings, sample.title)
    if not report.counts:
        return "Data: no problems found; check_data(X, y) looks closer."
    line = f"Data: {report.counts} ({', '.join(report.names)}): see check_data(X, y)."
    return textwrap.fill(line, 80, subsequent_indent="    ")
