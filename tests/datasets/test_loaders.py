import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress

from sklearn_soapbpnn.data import Targets
from sklearn_soapbpnn.datasets import load_cuau, load_malonaldehyde

ROUNDING = 1e-7  # labels are stored with eight decimals
STEP = 1e-4  # of central differences


@pytest.fixture(scope="module")
def malonaldehyde():
    return load_malonaldehyde()


@pytest.fixture(scope="module")
def cuau():
    return load_cuau()


def emt_energy(atoms):
    atoms.calc = EMT()
    return atoms.get_potential_energy()


def strained(atoms, strain):
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


@pytest.mark.parametrize(
    ("name", "load", "target_names"),
    [
        ("malonaldehyde", load_malonaldehyde, ["energy", "forces"]),
        ("cuau", load_cuau, ["energy", "forces", "stress"]),
    ],
)
def test_bunch(request, name, load, target_names):
    bunch = request.getfixturevalue(name)
    assert isinstance(bunch.target, Targets)
    assert bunch.target_names == target_names == list(bunch.target.names)
    assert len(bunch.target) == len(bunch.data)
    for key in target_names:
        for atoms, known in zip(bunch.data, bunch.target[key], strict=True):
            value = atoms.calc.get_property(key, allow_calculation=False)
            if key == "stress":
                value = voigt_6_to_full_3x3_stress(value)
            assert np.isfinite(value).all()
            np.testing.assert_array_equal(known, value)

    data, target = load(return_X_y=True)
    assert all(a == b for a, b in zip(data, bunch.data, strict=True))
    np.testing.assert_array_equal(np.asarray(target), np.asarray(bunch.target))


@pytest.mark.parametrize("name", ["malonaldehyde", "cuau"])
def test_description_names_units_and_origin(request, name):
    bunch = request.getfixturevalue(name)
    assert bunch.filename.endswith(".extxyz.gz")
    for words in ["eV/Angstrom", "Number of structures", str(len(bunch.data)), "python -m", "CC0"]:
        assert words in bunch.DESCR


def test_malonaldehyde_structures(malonaldehyde):
    assert len(malonaldehyde.data) == 500
    for atoms in malonaldehyde.data:
        assert atoms.get_chemical_formula() == "C3H4O2"
        assert not atoms.pbc.any()
        assert np.isfinite(atoms.get_dipole_moment()).all()
    np.testing.assert_array_equal(malonaldehyde.temperature, np.repeat([300.0, 600.0], [300, 200]))


def test_malonaldehyde_is_intact(malonaldehyde):
    for atoms in malonaldehyde.data:
        distances = atoms.get_all_distances()
        assert distances[np.arange(4), np.arange(1, 5)].max() < 1.9  # O-C-C-C-O
        assert distances[5:, :5].min(axis=1).max() < 1.5  # each H on some heavy atom


def test_malonaldehyde_feels_no_net_force_or_torque(malonaldehyde):
    for atoms in malonaldehyde.data:
        forces = atoms.get_forces()
        assert np.abs(forces.sum(axis=0)).max() < 1e-3
        assert np.abs(np.cross(atoms.positions, forces).sum(axis=0)).max() < 1e-3


def test_malonaldehyde_is_hotter_at_600_K(malonaldehyde):
    energy = np.asarray(malonaldehyde.target)
    hot = malonaldehyde.temperature == 600
    assert energy[hot].mean() > energy[~hot].mean()
    assert energy[hot].std() > energy[~hot].std()


@pytest.mark.parametrize("i", [0, 250, 499])
def test_malonaldehyde_labels_are_those_of_xtb(malonaldehyde, i):
    tblite = pytest.importorskip("tblite.ase")
    atoms = malonaldehyde.data[i].copy()
    atoms.calc = tblite.TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0)
    stored = malonaldehyde.data[i]
    assert atoms.get_potential_energy() == pytest.approx(stored.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), stored.get_forces(), atol=1e-4)
    np.testing.assert_allclose(atoms.get_dipole_moment(), stored.get_dipole_moment(), atol=1e-4)


def test_cuau_structures(cuau):
    assert len(cuau.data) == 200
    for atoms in cuau.data:
        assert set(atoms.numbers) <= {29, 79}
        assert atoms.pbc.all()
        assert atoms.get_volume() > 0
    assert {len(atoms) for atoms in cuau.data} == {31, 32}
    gold = np.array([(atoms.numbers == 79).mean() for atoms in cuau.data])
    assert gold.min() == 0
    assert gold.max() == 1
    assert len(np.unique(gold)) > 20


@pytest.mark.parametrize("i", [0, 1, 2, 3, 4, 5, 12, 199])
def test_cuau_labels_are_those_of_emt(cuau, i):
    atoms = cuau.data[i].copy()
    atoms.calc = EMT()
    stored = cuau.data[i].calc
    for key in ["energy", "forces", "stress"]:
        np.testing.assert_allclose(
            atoms.calc.get_property(key, atoms), stored.results[key], rtol=0, atol=ROUNDING
        )


@pytest.mark.parametrize("i", [2, 5, 12])
def test_cuau_forces_are_minus_the_gradient(cuau, i):
    for atom, axis in [(0, 0), (7, 1), (30, 2)]:
        energies = []
        for sign in (1, -1):
            atoms = cuau.data[i].copy()
            atoms.positions[atom, axis] += sign * STEP
            energies.append(emt_energy(atoms))
        slope = (energies[0] - energies[1]) / (2 * STEP)
        assert cuau.data[i].get_forces()[atom, axis] == pytest.approx(-slope, abs=1e-5)


@pytest.mark.parametrize("i", [2, 5, 12])
def test_cuau_stress_is_the_strain_derivative_per_volume(cuau, i):
    atoms = cuau.data[i]
    for a, b in [(0, 0), (2, 2), (0, 1), (1, 2)]:
        strain = np.zeros((3, 3))
        strain[a, b] += STEP / 2
        strain[b, a] += STEP / 2
        difference = emt_energy(strained(atoms, strain)) - emt_energy(strained(atoms, -strain))
        expected = difference / (2 * STEP * atoms.get_volume())
        assert atoms.get_stress(voigt=False)[a, b] == pytest.approx(expected, abs=1e-6)


def test_cuau_stress_is_negative_under_compression(cuau):
    volume = np.array([atoms.get_volume() / len(atoms) for atoms in cuau.data])
    stress = np.array([atoms.get_stress(voigt=False).trace() for atoms in cuau.data])
    copper = np.array([(atoms.numbers == 29).all() for atoms in cuau.data])
    assert np.corrcoef(volume[copper], stress[copper])[0, 1] > 0.5
