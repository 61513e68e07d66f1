"""Faults that are planted in the shipped data are found, in the right structures, and no others.

The quick fit takes most of the time of ``check_data``. It sees nothing but forces, so tests of
faults in energies and stress share one.
"""

import contextlib
import io

import numpy as np
import pytest
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import Bohr, GPa, Hartree, kcal, mol
from numpy.testing import assert_array_equal

from sklearn_soapbpnn import SoapBPNNRegressor, Targets, check_data
from sklearn_soapbpnn._doctor import _fit_forces
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.datasets import load_cuau, load_malonaldehyde
from sklearn_soapbpnn.doctor import DataReport, Finding, QuickFit, examine, read_sample
from sklearn_soapbpnn.doctor._consistency import check_forces

SOME = [7, 23, 41]
NONE = np.zeros(0, int)
ALL = list(range(50))


@pytest.fixture(scope="module")
def molecules():
    X, y = load_malonaldehyde(return_X_y=True)
    return X[::10], y[::10]


@pytest.fixture(scope="module")
def crystals():
    X, y = load_cuau(return_X_y=True)
    return X[:50], y[:50]


@pytest.fixture(scope="module")
def fits(molecules, crystals):
    random = np.random.RandomState(0)
    samples = {"molecules": read_sample(*molecules)[0], "crystals": read_sample(*crystals)[0]}
    return {name: _fit_forces(random, sample, NONE, NONE) for name, sample in samples.items()}


def check_with_fit(X, y, fit):
    """What check_data reports of data with the forces of the fit."""
    return DataReport(examine(read_sample(X, y)[0], None, lambda *_: fit)[0], "")


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


@pytest.mark.parametrize("data", ["molecules", "crystals"])
def test_no_alarm_on_shipped_data(request, data):
    report = check_data(*request.getfixturevalue(data))
    assert not report.counts
    assert repr(report).startswith("No problems found in 50 structures")


@pytest.mark.parametrize(
    ("load", "which"), [(load_cuau, slice(1, None, 8)), (load_malonaldehyde, slice(0, 120, 10))]
)
def test_no_alarm_on_few_structures(load, which):
    X, y = load(return_X_y=True)
    assert not check_data(X[which], y[which]).counts


def test_structures_that_only_the_second_fit_leaves_out_are_not_accused(molecules):
    X, y = molecules
    sample = read_sample(X, change(y, forces=change_some(y["forces"], np.negative)))[0]
    fit = QuickFit(np.arange(50), np.arange(50) >= 40, y)
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
        assert "1 have the opposite sign" in finding.message


def test_a_few_huge_forces_do_not_accuse_all(molecules):
    X, y = molecules
    forces = [*y["forces"][:-1], -1000 * y["forces"][-1]]
    sample = read_sample(X, change(y, forces=forces))[0]
    (finding,) = check_forces(sample, QuickFit(np.arange(50), np.arange(50) >= 35, y))
    assert finding.name == "forces of single structures"
    assert_array_equal(finding.structures, [49])


# --- units and signs, which a quick fit to the forces tells --------------------------------------


def test_energies_in_hartree_and_forces_of_the_wrong_sign(molecules):
    X, y = molecules[0][:30], molecules[1][:30]
    forces = [-values for values in y["forces"]]
    report = check_data(X, change(y, energy=y["energy"] / Hartree, forces=forces))
    assert names_of(report) == {"units of energies and forces", "sign of forces"}
    finding = find(report, "units of energies and forces")
    assert "energies in Hartree and forces in eV/Angstrom" in finding.message
    assert "Convert energies to eV and forces to eV/Angstrom" in finding.message
    assert finding.severity == "error"
    assert_array_equal(finding.structures, ALL[:30])


@pytest.mark.parametrize(
    ("data", "factor", "units"),
    [
        ("molecules", mol / kcal, "energies in eV and forces in kcal/mol/Angstrom"),
        ("crystals", Bohr / Hartree, "energies in eV and forces in Hartree/Bohr"),
    ],
)
def test_units_of_energies_and_forces(request, fits, data, factor, units):
    X, y = request.getfixturevalue(data)
    # relative to them, forces are too large by the factor
    report = check_with_fit(X, change(y, energy=y["energy"] / factor), fits[data])
    assert names_of(report) == {"units of energies and forces"}
    assert units in report.findings[0].message


def test_forces_of_other_structures(molecules):
    X, y = molecules
    order = np.random.default_rng(0).permutation(50)
    y = change(y, forces=[y["forces"][k] for k in order])
    assert names_of(check_data(X[:30], y[:30])) == {"forces of other structures"}


def test_energies_of_other_structures(molecules, fits):
    X, y = molecules
    order = np.random.default_rng(0).permutation(50)
    report = check_with_fit(X, change(y, energy=y["energy"][order]), fits["molecules"])
    assert names_of(report) == {"forces and energies"}


@pytest.mark.parametrize(
    ("factor", "names", "unit"),
    [
        (-1, {"sign of stress"}, ""),
        (1 / GPa, {"units of stress"}, "in GPa"),
        (-10 / GPa, {"units of stress", "sign of stress"}, "in kbar"),
    ],
)
def test_stress(crystals, fits, factor, names, unit):
    X, y = crystals
    report = check_with_fit(X, change(y, stress=factor * y["stress"]), fits["crystals"])
    assert names_of(report) == names
    assert not unit or f"as if {unit}" in find(report, "units of stress").message
    assert_array_equal(report.findings[0].structures, ALL)


def test_size_of_a_stress_without_forces(crystals):
    X, y = crystals
    stress = y["stress"]
    report = check_data(X, Targets(energy=y["energy"], stress=10 * stress / GPa))
    assert "units of stress" in names_of(report)
    assert names_of(check_data(X, Targets(energy=y["energy"], stress=stress))) == set()


def test_stress_that_is_a_virial(crystals, fits):
    X, y = crystals
    virial = -y["stress"] * as_structures(X).volumes[:, None, None]
    report = check_with_fit(X, change(y, stress=virial), fits["crystals"])
    assert names_of(report) == {"sign of stress", "units of stress"}
    assert "stress times the volume" in find(report, "units of stress").message


def test_virial_that_is_a_stress(crystals):
    X, y = crystals
    y = Targets(energy=y["energy"], forces=y["forces"], virial=y["stress"])
    assert names_of(check_data(X[:30], y[:30])) == {"sign of virial", "units of virial"}


@pytest.mark.parametrize(
    ("order", "name"),
    [((0, 1, 2, 5, 3, 4), "VASP"), ((0, 5, 4, 1, 3, 2), "the upper triangle, row by row")],
)
def test_order_of_the_stress(crystals, fits, order, name):
    X, y = crystals
    voigt = y["stress"][:, (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    stress = np.array([voigt_6_to_full_3x3_stress(values) for values in voigt[:, order]])
    report = check_with_fit(X, change(y, stress=stress), fits["crystals"])
    assert names_of(report) == {"order of stress"}
    assert f"the order of {name}" in report.findings[0].message


# --- single structures ---------------------------------------------------------------------------


def test_forces_of_single_structures(molecules):
    """Faults in forces of single structures, all in one file."""
    X, y = [atoms.copy() for atoms in molecules[0]], molecules[1]
    forces = list(y["forces"])
    forces[3] = np.zeros_like(forces[3])
    forces[7], forces[19] = -forces[7], -forces[19]
    forces[12] = forces[12] * Bohr / Hartree
    forces[15] = 100 * forces[15]
    X[23].positions[0] = np.nan
    X[31] = X[31][:8]
    report = check_data(X, change(y, forces=forces))
    # positions are those in X, though some structures are left out
    places = {finding.name: list(finding.structures) for finding in report.findings}
    assert places == {
        "invalid structures": [23],
        "labels of other structures": [31],
        "labels that are zero": [3],
        "forces of single structures": [7, 19],
        "force units": [12],
        "force outliers": [15],
    }
    assert "X[23]" in find(report, "invalid structures").message


def test_single_energies_in_hartree(molecules, fits):
    X, y = molecules
    y = change(y, energy=change_some(y["energy"], lambda e: e / Hartree))
    report = check_with_fit(X, y, fits["molecules"])
    assert names_of(report) == {"energy units"}
    assert_array_equal(report.findings[0].structures, SOME)
    assert "in Hartree beside eV" in report.findings[0].message


def test_half_of_the_energies_in_hartree(molecules):
    X, y = molecules
    energy = np.where(np.arange(50) % 2, y["energy"], y["energy"] / Hartree)
    finding = find(check_data(X, energy), "energy units")
    assert_array_equal(finding.structures % 2, finding.structures[0] % 2 * np.ones(25))


def test_energies_per_atom(crystals):
    X, y = crystals
    X = [*X, *(atoms * (2, 1, 1) for atoms in X[:20])]
    per_atom = y["energy"] / as_structures(X[:50]).n_atoms - 4.0
    energies = np.concatenate([per_atom, per_atom[:20]])
    assert "energies per atom" in names_of(check_data(X, energies))
    energies *= as_structures(X).n_atoms
    assert not names_of(check_data(X, energies)) & {"energies per atom"}


@pytest.mark.parametrize("factor", [-1, 1 / GPa])
def test_stress_of_single_structures(crystals, fits, factor):
    X, y = crystals
    size = np.linalg.norm(y["stress"] - np.median(y["stress"], axis=0), axis=(1, 2))
    largest = np.sort(np.argsort(size)[-3:])
    stress = y["stress"].copy()
    stress[largest] *= factor
    report = check_with_fit(X, change(y, stress=stress), fits["crystals"])
    assert names_of(report) == {"stress of single structures"}
    assert_array_equal(report.findings[0].structures, largest)


@pytest.mark.parametrize(("data", "which"), [("crystals", SOME), ("molecules", ALL)])
def test_positions_in_bohr(request, data, which):
    X, y = request.getfixturevalue(data)
    X = [atoms.copy() for atoms in X]
    for k in which:
        X[k].positions /= Bohr
        X[k].cell /= Bohr
    report = check_data(X, y["energy"])
    assert names_of(report) == {"bond lengths"}
    assert_array_equal(report.findings[0].structures, which)


@pytest.mark.parametrize(("data", "offset"), [("molecules", 0.2), ("crystals", 1.5)])
def test_another_level_of_theory(request, fits, data, offset):
    X, y = request.getfixturevalue(data)
    energy = y["energy"].copy()
    energy[SOME] += offset * as_structures(X).n_atoms[SOME]
    report = check_with_fit(X, change(y, energy=energy), fits[data])
    assert names_of(report) == {"level of theory"}
    assert_array_equal(report.findings[0].structures, SOME)


def test_a_third_of_the_energies_at_another_level_of_theory(molecules, fits):
    X, y = molecules
    energy = y["energy"].copy()
    energy[::3] += 0.15 * 9
    report = check_with_fit(X, change(y, energy=energy), fits["molecules"])
    assert names_of(report) == {"level of theory"}
    assert_array_equal(report.findings[0].structures, ALL[::3])


def test_energy_outliers(molecules, fits):
    X, y = molecules
    energy = y["energy"].copy()
    energy[7] -= 20
    for report in (
        check_with_fit(X, change(y, energy=energy), fits["molecules"]),
        check_data(X, energy),
    ):
        assert names_of(report) == {"energy outliers"}
        assert_array_equal(report.findings[0].structures, [7])


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
        assert_array_equal(report.findings[0].structures, range(50, 50 + len(energies)))


def test_one_isolated_atom_in_hartree(crystals):
    X, y = load_cuau(return_X_y=True)
    X, atoms = X[::4], {"Cu": -1355.0, "Au": -890.0}
    energy = y["energy"][::4] + [
        sum(atoms[symbol] - 3 for symbol in crystal.symbols) for crystal in X
    ]
    y = Targets(energy=energy)
    assert not names_of(check_data(*add_isolated_atoms(X, y, atoms)))
    atoms["Au"] /= Hartree
    report = check_data(*add_isolated_atoms(X, y, atoms))
    assert "isolated Au is" in find(report, "isolated atoms").message
    assert_array_equal(find(report, "isolated atoms").structures, [51])


def test_isolated_atoms_with_two_energies(molecules):
    X, y = add_isolated_atoms(*molecules, {"H": -11.0, "C": -49.0, "O": -101.0})
    X, y = [*X, X[-1]], Targets.concatenate([y, change(y[[52]], energy=y["energy"][[52]] + 1)])
    report = check_data(X, y)
    assert_array_equal(find(report, "isolated atoms").structures, [52, 53])


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_labels(crystals, value):
    X, _ = crystals
    report = check_data(X, np.full(50, value))
    assert "all labels of energy are" in find(report, "constant labels").message
    assert names_of(report) == {"constant labels"}


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


def test_nothing_but_an_invalid_structure(molecules):
    X = molecules[0][0].copy()
    X.positions[0] = np.nan
    assert names_of(check_data([X])) == {"invalid structures"}


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
    with pytest.raises(ValueError, match="X has 50 structures, but y has 49 labels"):
        check_data(X, y[:49])
    with pytest.raises(ValueError, match="holds no structures"):
        check_data([], y)


def test_reports_repeat(molecules):
    X, y = molecules
    y = change(y, forces=y["forces"][::-1])  # the report tells their correlation with the fit
    first, second = (repr(check_data(X[:12], y[:12], random_state=5)) for _ in range(2))
    assert "forces of other structures" in first
    assert first == second


def test_forms_of_a_report():
    findings = [
        Finding("a note", "note", np.zeros(0, int), "fine"),
        Finding("a warning", "warning", np.array([3]), "odd"),
        Finding("<b>", "error", np.arange(9), "1 < 2"),
    ]
    report = DataReport(findings, "9 structures")
    assert repr(report).splitlines() == [
        "1 error, 1 warning in 9 structures:",
        "  error    <b>: 1 < 2 [structures 0, 1, 2, 3, 4, 5, ... (9 in all)]",
        "  warning  a warning: odd [structure 3]",
        "  note     a note: fine",
    ]
    assert "&lt;b&gt;" in report._repr_html_()
    assert "<b>" not in report._repr_html_()
    frame = report.to_frame()
    assert list(frame.columns) == ["name", "severity", "structures", "message"]
    assert list(frame["severity"]) == ["error", "warning", "note"]


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
