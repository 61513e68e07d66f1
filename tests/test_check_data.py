"""Faults that are planted in the shipped data are found, in the right structures, and no others."""

import contextlib
import io

import numpy as np
import pytest
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import Bohr, GPa, Hartree, kcal, mol
from numpy.testing import assert_array_equal

from sklearn_soapbpnn import SoapBPNNRegressor, Targets, check_data
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.datasets import load_cuau, load_malonaldehyde
from sklearn_soapbpnn.doctor import QuickFit, read_sample
from sklearn_soapbpnn.doctor._consistency import check_forces

SOME = [7, 23, 41]
ALL = list(range(60))


@pytest.fixture(scope="module")
def molecules():
    X, y = load_malonaldehyde(return_X_y=True)
    return X[:300:5], y[:300:5]


@pytest.fixture(scope="module")
def crystals():
    X, y = load_cuau(return_X_y=True)
    return X[:60], y[:60]


def change(y, **columns):
    return Targets(**{**{name: y[name] for name in y.names}, **columns})


def change_some(values, function):
    return [function(value) if k in SOME else value for k, value in enumerate(values)]


def names_of(report):
    return {finding.name for finding in report.findings if finding.severity != "note"}


def find(report, name):
    (finding,) = [finding for finding in report.findings if finding.name == name]
    return finding


# --- clean data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_malonaldehyde, load_cuau])
def test_no_alarm_on_shipped_data(load):
    report = check_data(*load(return_X_y=True))
    assert not report.counts
    assert repr(report).startswith("No problems found in ")


def test_no_alarm_on_few_structures():
    X, y = load_cuau(return_X_y=True)
    assert not check_data(X[::8], y[::8]).counts


def test_structures_that_only_the_second_fit_leaves_out_are_not_accused(molecules):
    X, y = molecules
    sample = read_sample(X, change(y, forces=change_some(y["forces"], np.negative)))[0]
    fit = QuickFit(np.arange(60), np.arange(60) >= 40, y)
    (finding,) = check_forces(sample, fit, np.array([7, 41, 50]))
    assert_array_equal(finding.structures, [7, 41])


def test_few_structures_are_accused_of_the_opposite_sign_only(molecules):
    X, y = molecules
    turned = [values[[1, 2, 3, 4, 5, 6, 7, 8, 0]] for values in y["forces"]]
    forces = [turned[7], *y["forces"][1:40]]
    forces[23] = -forces[23]
    sample = read_sample(X[:40], change(y[:40], forces=forces))[0]
    for n_fitted, found in ((20, [23]), (35, [0, 23])):
        fit = QuickFit(np.arange(40), np.arange(40) >= n_fitted, y[:40])
        (finding,) = check_forces(sample, fit)
        assert_array_equal(finding.structures, found)


# --- units and signs, which a quick fit to the forces tells --------------------------------------


def in_hartree(y):
    return change(y, energy=y["energy"] / Hartree)


def forces_in_hartree_per_bohr(y):
    return change(y, forces=[values * Bohr / Hartree for values in y["forces"]])


def forces_in_kcal_per_mol(y):
    return change(y, forces=[values * mol / kcal for values in y["forces"]])


@pytest.mark.parametrize(
    ("data", "plant", "units"),
    [
        ("molecules", in_hartree, "energies in Hartree and forces in eV/Angstrom"),
        ("crystals", forces_in_hartree_per_bohr, "energies in eV and forces in Hartree/Bohr"),
        ("molecules", forces_in_kcal_per_mol, "energies in eV and forces in kcal/mol/Angstrom"),
    ],
)
def test_units_of_energies_and_forces(request, data, plant, units):
    X, y = request.getfixturevalue(data)
    report = check_data(X, plant(y))
    assert names_of(report) == {"units of energies and forces"}
    finding = report.findings[0]
    assert units in finding.message
    assert "Convert energies to eV and forces to eV/Angstrom" in finding.message
    assert finding.severity == "error"
    assert_array_equal(finding.structures, ALL)


def test_forces_of_the_wrong_sign(molecules):
    X, y = molecules
    report = check_data(X, change(y, forces=[-values for values in y["forces"]]))
    assert names_of(report) == {"sign of forces"}


def test_forces_of_other_structures(molecules):
    X, y = molecules
    order = np.random.default_rng(0).permutation(60)
    report = check_data(X, change(y, forces=[y["forces"][k] for k in order]))
    assert names_of(report) == {"forces of other structures"}


def test_energies_of_other_structures(molecules):
    X, y = molecules
    order = np.random.default_rng(0).permutation(60)
    assert "forces and energies" in names_of(check_data(X, change(y, energy=y["energy"][order])))


def test_single_forces_of_the_wrong_sign(molecules):
    X, y = molecules
    report = check_data(X, change(y, forces=change_some(y["forces"], np.negative)))
    assert names_of(report) == {"forces of single structures"}
    assert_array_equal(report.findings[0].structures, SOME)
    assert "3 have the opposite sign" in report.findings[0].message


def test_single_forces_in_another_unit(molecules):
    X, y = molecules
    forces = change_some(y["forces"], lambda values: values * Bohr / Hartree)
    report = check_data(X, change(y, forces=forces))
    assert names_of(report) == {"force units"}
    assert_array_equal(report.findings[0].structures, SOME)


@pytest.mark.parametrize(
    ("factor", "names", "unit"),
    [
        (-1, {"sign of stress"}, ""),
        (1 / GPa, {"units of stress"}, "in GPa"),
        (-10 / GPa, {"units of stress", "sign of stress"}, "in kbar"),
    ],
)
def test_stress(crystals, factor, names, unit):
    X, y = crystals
    report = check_data(X, change(y, stress=factor * y["stress"]))
    assert names_of(report) == names
    assert not unit or f"as if {unit}" in find(report, "units of stress").message
    assert_array_equal(report.findings[0].structures, ALL)


def test_virial_and_stress_are_told_apart(crystals):
    X, y = crystals
    virial = -y["stress"] * as_structures(X).volumes[:, None, None]
    columns = {"energy": y["energy"], "forces": y["forces"]}
    assert not names_of(check_data(X, Targets(**columns, virial=virial)))
    report = check_data(X, Targets(**columns, stress=virial))
    assert names_of(report) == {"sign of stress", "units of stress"}
    assert "stress times the volume" in find(report, "units of stress").message
    report = check_data(X, Targets(**columns, virial=y["stress"]))
    assert names_of(report) == {"sign of virial", "units of virial"}


@pytest.mark.parametrize(
    ("order", "name"),
    [((0, 1, 2, 5, 3, 4), "VASP"), ((0, 5, 4, 1, 3, 2), "the upper triangle, row by row")],
)
def test_order_of_the_stress(crystals, order, name):
    X, y = crystals
    voigt = y["stress"][:, (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    stress = np.array([voigt_6_to_full_3x3_stress(values) for values in voigt[:, order]])
    report = check_data(X, change(y, stress=stress))
    assert names_of(report) == {"order of stress"}
    assert f"the order of {name}" in report.findings[0].message


# --- single structures ---------------------------------------------------------------------------


def test_single_energies_in_hartree(molecules):
    X, y = molecules
    report = check_data(X, change(y, energy=change_some(y["energy"], lambda e: e / Hartree)))
    assert names_of(report) == {"energy units"}
    assert_array_equal(report.findings[0].structures, SOME)
    assert "in Hartree beside eV" in report.findings[0].message


@pytest.mark.parametrize(("data", "which"), [("crystals", SOME), ("molecules", ALL)])
def test_positions_in_bohr(request, data, which):
    X, y = request.getfixturevalue(data)
    X = [atoms.copy() for atoms in X]
    for k in which:
        X[k].positions /= Bohr
        X[k].cell /= Bohr
    report = check_data(X, y)
    assert names_of(report) == {"bond lengths"}
    assert_array_equal(report.findings[0].structures, which)


@pytest.mark.parametrize(("data", "offset"), [("molecules", 0.2), ("crystals", 1.5)])
def test_another_level_of_theory(request, data, offset):
    X, y = request.getfixturevalue(data)
    energy = y["energy"].copy()
    energy[SOME] += offset * as_structures(X).n_atoms[SOME]
    report = check_data(X, change(y, energy=energy))
    assert names_of(report) == {"level of theory"}
    assert_array_equal(report.findings[0].structures, SOME)


def test_outliers(molecules):
    X, y = molecules
    energy, forces = y["energy"].copy(), y["forces"]
    energy[7] -= 20
    forces[23] = 100 * forces[23]
    report = check_data(X, change(y, energy=energy, forces=forces))
    assert names_of(report) == {"energy outliers", "force outliers"}
    assert_array_equal(find(report, "energy outliers").structures, [7])
    assert_array_equal(find(report, "force outliers").structures, [23])
    assert_array_equal(find(check_data(X, energy), "energy outliers").structures, [7])


def test_atoms_that_overlap(crystals):
    X, y = [atoms.copy() for atoms in crystals[0]], crystals[1]
    X[7].positions[1] = X[7].positions[0]
    X[23].positions[1] = X[23].positions[0] + [0.3, 0.0, 0.0]
    report = check_data(X, y["energy"])
    assert names_of(report) == {"overlapping atoms"}
    assert_array_equal(report.findings[0].structures, [7, 23])


def test_duplicates(molecules):
    X, y = list(molecules[0]), molecules[1]
    turned = X[7].copy()
    turned.rotate(40, (1, 2, 3))
    turned.translate(5)
    X[8], X[24] = turned[::-1], X[23]
    energy = y["energy"].copy()
    energy[[8, 24]] = energy[[7, 23]]
    report = check_data(X, energy)
    assert_array_equal(find(report, "duplicates").structures, [7, 8, 23, 24])
    energy[24] += 0.1
    report = check_data(X, energy)
    assert_array_equal(find(report, "duplicates").structures, [7, 8])
    assert_array_equal(find(report, "duplicates with other labels").structures, [23, 24])


def test_copies_in_validation_data(molecules):
    X, y = molecules
    y = y["energy"]
    report = check_data(X[:30], y[:30], X[28:], y[28:])
    assert names_of(report) == {"duplicates in validation data"}
    assert_array_equal(report.findings[0].structures, [28, 29])


def test_crystals_strained_along_equivalent_axes_are_no_alarm(crystals):
    X = [crystals[0][0].copy() for _ in range(3)]
    for k, atoms in enumerate(X):
        atoms.positions = atoms.positions[:, np.roll([0, 1, 2], k)]
        atoms.cell = atoms.cell.array[:, np.roll([0, 1, 2], k)]
    report = check_data(X, np.full(3, 1.0) + 1e-9 * np.arange(3))
    assert find(report, "symmetric copies").severity == "note"
    assert "duplicates" not in names_of(report)


# --- labels --------------------------------------------------------------------------------------


def add_isolated_atoms(X, y, energies):
    atoms = [Atoms(symbol) for symbol in energies]
    return [*X, *atoms], Targets(energy=np.concatenate([y["energy"], [*energies.values()]]))


@pytest.mark.parametrize(
    ("energies", "is_fine"),
    [
        ({"H": -11.0, "C": -49.0, "O": -101.0}, True),
        ({"H": 0.0, "C": 0.0, "O": 0.0}, False),
        ({"H": -13.6, "C": -1029.0, "O": -2042.0}, False),
        ({"H": -11.0, "C": -49.0}, False),
    ],
)
def test_isolated_atoms(molecules, energies, is_fine):
    report = check_data(*add_isolated_atoms(*molecules, energies))
    assert names_of(report) == (set() if is_fine else {"isolated atoms"})
    if not is_fine:
        assert_array_equal(report.findings[0].structures, range(60, 60 + len(energies)))


def test_isolated_atoms_with_two_energies(molecules):
    X, y = add_isolated_atoms(*molecules, {"H": -11.0, "C": -49.0, "O": -101.0})
    X, y = [*X, X[-1]], Targets.concatenate([y, change(y[[62]], energy=y["energy"][[62]] + 1)])
    report = check_data(X, y)
    assert_array_equal(find(report, "isolated atoms").structures, [62, 63])


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_labels(crystals, value):
    X, _ = crystals
    report = check_data(X, np.full(60, value))
    assert "all labels of energy are" in find(report, "constant labels").message
    assert names_of(report) == {"constant labels"}


def test_single_forces_of_zero(molecules):
    X, y = molecules
    report = check_data(X, change(y, forces=change_some(y["forces"], np.zeros_like)))
    assert names_of(report) == {"labels that are zero"}
    assert_array_equal(report.findings[0].structures, SOME)


def test_missing_labels(molecules):
    X, y = molecules
    energy = y["energy"].copy()
    energy[SOME] = np.nan
    finding = find(check_data(X, energy), "missing labels")
    assert finding.severity == "note"
    assert_array_equal(finding.structures, SOME)


def test_labels_nobody_asked_for(molecules):
    X, y = molecules
    X = [atoms.copy() for atoms in X]
    for k in SOME:
        X[k].arrays["REF_forces"] = 2 * y["forces"][k]
        X[k].info.update(virials=np.eye(3) * k, dft_energy=y["energy"][k], name_of_forces="PBE")
    report = check_data(X, y["energy"])
    found = [finding for finding in report.findings if finding.name == "unused labels"]
    assert sorted(finding.message.split("'")[1] for finding in found) == ["REF_forces", "virials"]
    assert all(finding.severity == "note" for finding in found)
    assert_array_equal(found[0].structures, SOME)


def test_forgotten_labels_are_named_as_from_atoms_wants_them(molecules):
    X, y = [atoms.copy() for atoms in molecules[0]], molecules[1]
    for atoms, forces in zip(X, y["forces"]):
        atoms.arrays["forces"] = forces
    message = find(check_data(X, y["energy"]), "unused labels").message
    assert "from_atoms(..., forces='forces')" in message


# --- calls and reports ---------------------------------------------------------------------------


def test_structures_that_cannot_be_read_are_reported(molecules):
    X, y = [atoms.copy() for atoms in molecules[0]], molecules[1]
    X[7].positions[0] = np.nan
    X[23] = X[23][:8]
    report = check_data(X, change(y, forces=change_some(y["forces"], np.negative)))
    assert_array_equal(find(report, "invalid structures").structures, [7])
    assert "X[7]" in find(report, "invalid structures").message
    assert_array_equal(find(report, "labels of other structures").structures, [23])
    # positions of all others are still those in X
    assert_array_equal(find(report, "forces of single structures").structures, [41])
    assert names_of(check_data([X[7]])) == {"invalid structures"}


def test_structures_alone(molecules):
    report = check_data(molecules[0])
    assert not report.counts
    assert "there is no y" in report.unchecked


def test_few_structures_are_not_fitted(molecules):
    X, y = molecules
    report = check_data(X[:4], change(y, forces=[-values for values in y["forces"]])[:4])
    assert not report.counts
    assert "Not checked: signs and units" in repr(report)


def test_wrong_arguments(molecules):
    X, y = molecules
    with pytest.raises(TypeError, match="must be a sequence of ase.Atoms"):
        check_data(X[0], y)
    with pytest.raises(ValueError, match="X has 60 structures, but y has 59 labels"):
        check_data(X, y[:59])
    with pytest.raises(ValueError, match="holds no structures"):
        check_data([], y)


def test_reports_repeat(molecules):
    X, y = molecules
    y = change(y, forces=[-values for values in y["forces"]])
    assert repr(check_data(X, y, random_state=5)) == repr(check_data(X, y, random_state=5))


def test_forms_of_a_report(crystals):
    X, y = crystals
    report = check_data(X, change(y, stress=-y["stress"], energy=y["energy"].clip(max=np.nan)))
    report.findings[0] = type(report.findings[0])("<b>", "error", np.arange(9), "1 < 2")
    lines = repr(report).splitlines()
    assert lines[0] == report.headline
    assert len(lines) >= 1 + len(report.findings)
    assert "[structures 0, 1, 2, 3, 4, 5, ... (9 in all)]" in lines[1]
    assert "&lt;b&gt;" in report._repr_html_()
    assert "<b>" not in report._repr_html_()
    frame = report.to_frame()
    assert list(frame.columns) == ["name", "severity", "structures", "message"]
    assert len(frame) == len(report.findings)
    severities = list(frame["severity"])
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


# --- the line of a fit ---------------------------------------------------------------------------


def read_line(X, y, **data):
    model = SoapBPNNRegressor(max_radial=1, max_angular=1, num_epochs=1, verbose=1)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        model.fit(X, y, **data)
    return out.getvalue().partition("\n epoch")[0].partition("\nData: ")[2]


def test_a_fit_says_what_it_sees(molecules):
    X, y = molecules
    assert read_line(X, y) == "no problems found; check_data(X, y) looks closer."
    y_other = change(y, energy=change_some(y["energy"], lambda e: e / Hartree))
    line = read_line(X, y_other, X_val=X[:3], y_val=y[:3])
    assert line.startswith("1 error, 1 warning (energy units, duplicates in validation")
    assert max(map(len, line.splitlines())) <= 80


def test_a_fit_to_forces_alone_misses_no_energies(molecules):
    X, y = molecules
    assert read_line(X, y.select(["forces"])).startswith("no problems found")
