"""Forces and stress are the derivatives of the energy: central differences, in float64."""

import numpy as np
import pytest
from ase import Atoms

STEP = 1e-5


def energy(model, atoms):
    return model.predict([atoms])[0]


def differentiate(model, move, shape):
    """Central differences: ``move(index, step)`` returns the structure moved along an index."""
    frames = [move(index, sign * STEP) for index in np.ndindex(shape) for sign in (1, -1)]
    forward, backward = model.predict(frames).reshape(-1, 2).T
    return ((forward - backward) / (2 * STEP)).reshape(shape)


def numerical_forces(model, atoms):
    def move(index, step):
        moved = atoms.copy()
        moved.positions[index] += step
        return moved

    return -differentiate(model, move, (len(atoms), 3))


def numerical_stress(model, atoms):
    def move(index, step):
        strain = np.zeros((3, 3))
        strain[index] += step / 2
        strain[index[::-1]] += step / 2
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        return strained

    return differentiate(model, move, (3, 3)) / atoms.get_volume()


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
