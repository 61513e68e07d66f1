"""Forces and stress are the derivatives of the energy: central differences, in float64."""

import numpy as np
import pytest
from ase import Atoms

STEP = 1e-5


def energy(model, atoms):
    return model.predict([atoms])[0]


def numerical_forces(model, atoms):
    forces = np.zeros((len(atoms), 3))
    for index in np.ndindex(forces.shape):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index] += sign * STEP
            forces[index] -= sign * energy(model, moved) / (2 * STEP)
    return forces


def numerical_stress(model, atoms):
    stress = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * STEP / 2
            strain[j, i] += sign * STEP / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            stress[i, j] += sign * energy(model, strained) / (2 * STEP * atoms.get_volume())
    return stress


def assert_close(actual, expected):
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * scale)


def test_forces(model, structure):
    (forces,) = model.predict([structure], targets=["forces"])["forces"]
    assert_close(forces, numerical_forces(model, structure))


def test_stress(model, structure):
    if structure.cell.rank < 3:
        with pytest.raises(ValueError, match="no cell of finite volume"):
            model.predict([structure], targets=["stress"])
        return
    prediction = model.predict([structure], targets=["stress", "virial"])
    assert_close(prediction["stress"][0], numerical_stress(model, structure))
    volume = structure.get_volume()
    np.testing.assert_allclose(prediction["virial"][0], -volume * prediction["stress"][0])


def test_compression_raises_the_energy_when_the_stress_is_negative(model, structures):
    """The sign is ASE's: tensile positive, so that pressure is minus a third of the trace."""
    for atoms in structures:
        if atoms.cell.rank < 3:
            continue
        trace = np.trace(model.predict([atoms], targets=["stress"])["stress"][0])
        larger = atoms.copy()
        larger.set_cell(atoms.cell.array * (1 + 1e-6), scale_atoms=True)
        assert np.sign(energy(model, larger) - energy(model, atoms)) == np.sign(trace)


def test_energy_and_forces_are_smooth_at_the_cutoff(model):
    distances = model.cutoff_radius + np.array([-1e-3, -1e-6, 0.0, 1e-6])
    dimers = [Atoms("CO", [[0, 0, 0], [0, 0, distance]]) for distance in distances]
    prediction = model.predict(dimers, targets=["energy", "forces"])
    (apart,) = model.predict([Atoms("CO", [[0, 0, 0], [0, 0, 50.0]])])
    np.testing.assert_allclose(prediction["energy"][1:], apart, rtol=0, atol=1e-6)
    for forces in prediction["forces"][1:]:
        assert np.abs(forces).max() < 1e-4


def test_single_precision_agrees_with_double(structures):
    from sklearn_soapbpnn import SoapBPNNRegressor

    rng = np.random.default_rng(0)
    y = rng.normal(size=len(structures))
    predictions = []
    for dtype in ("float32", "float64"):
        model = SoapBPNNRegressor(dtype=dtype, num_epochs=1, random_state=0)
        predictions.append(model.fit(structures, y).predict(structures, targets=["forces"]))
    for single, double in zip(*(prediction["forces"] for prediction in predictions)):
        np.testing.assert_allclose(single, double, rtol=1e-3, atol=1e-4)
