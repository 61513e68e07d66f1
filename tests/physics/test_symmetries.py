"""Invariance of energies and equivariance of forces and stress, in float64."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}


def predict(model, atoms):
    targets = ["energy", "forces"] + (["stress"] if atoms.cell.rank == 3 else [])
    prediction = model.predict([atoms], targets=targets)
    stress = prediction["stress"][0] if "stress" in prediction else np.zeros((3, 3))
    return prediction["energy"][0], prediction["forces"][0], stress


def transformed(atoms, matrix):
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ matrix.T)
    atoms.positions = atoms.positions @ matrix.T
    return atoms


def test_translation(model, structure):
    energy, forces, stress = predict(model, structure)
    structure.positions += [0.3, -1.7, 12.9]
    moved = predict(model, structure)
    np.testing.assert_allclose(moved[0], energy, **TOLERANCE)
    np.testing.assert_allclose(moved[1], forces, **TOLERANCE)
    np.testing.assert_allclose(moved[2], stress, **TOLERANCE)


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "inversion"])
def test_rotation_and_inversion(model, structure, sign):
    matrix = sign * Rotation.random(rng=1).as_matrix()
    energy, forces, stress = predict(model, structure)
    rotated = predict(model, transformed(structure, matrix))
    np.testing.assert_allclose(rotated[0], energy, **TOLERANCE)
    np.testing.assert_allclose(rotated[1], forces @ matrix.T, **TOLERANCE)
    np.testing.assert_allclose(rotated[2], matrix @ stress @ matrix.T, **TOLERANCE)


def test_permutation(model, structure):
    order = np.random.default_rng(0).permutation(len(structure))
    energy, forces, _ = predict(model, structure)
    permuted = predict(model, structure[order])
    np.testing.assert_allclose(permuted[0], energy, **TOLERANCE)
    np.testing.assert_allclose(permuted[1], forces[order], **TOLERANCE)


def test_supercell_multiplies_the_energy(model, structure):
    repeat = tuple(2 if periodic else 1 for periodic in structure.pbc)
    energy, forces, stress = predict(model, structure)
    supercell = predict(model, structure.repeat(repeat))
    np.testing.assert_allclose(supercell[0], energy * np.prod(repeat), **TOLERANCE)
    np.testing.assert_allclose(
        supercell[1], np.tile(forces, (int(np.prod(repeat)), 1)), **TOLERANCE
    )
    np.testing.assert_allclose(supercell[2], stress, **TOLERANCE)


def test_wrapping_into_the_cell_changes_nothing(model, structure):
    energy, forces, _ = predict(model, structure)
    shifts = np.random.default_rng(0).integers(-3, 4, (len(structure), 3)) * structure.pbc
    structure.positions += shifts @ structure.cell.array
    moved = predict(model, structure)
    np.testing.assert_allclose(moved[0], energy, **TOLERANCE)
    np.testing.assert_allclose(moved[1], forces, **TOLERANCE)


def test_batch_is_a_loop_of_singles(model, structures):
    together = model.predict(structures, targets=["energy", "forces"])
    for index, atoms in enumerate(structures):
        energy, forces, _ = predict(model, atoms)
        np.testing.assert_allclose(together["energy"][index], energy, **TOLERANCE)
        np.testing.assert_allclose(together["forces"][index], forces, **TOLERANCE)


def test_forces_and_torques_of_a_molecule_vanish(model, molecule):
    _, forces, _ = predict(model, molecule)
    assert np.abs(forces).max() > 1e-3
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-11)
    np.testing.assert_allclose(np.cross(molecule.positions, forces).sum(0), 0, atol=1e-11)


def test_far_molecules_do_not_see_each_other(model, molecule):
    energy, forces, _ = predict(model, molecule)
    far = molecule.copy()
    far.positions += [30.0, 0.0, 0.0]
    both = predict(model, molecule + far)
    np.testing.assert_allclose(both[0], 2 * energy, **TOLERANCE)
    np.testing.assert_allclose(both[1], np.tile(forces, (2, 1)), **TOLERANCE)
