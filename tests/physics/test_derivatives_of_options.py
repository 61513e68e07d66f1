"""Forces and stress are the derivatives of the energy with every option, in float64."""

from functools import lru_cache

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.stress import voigt_6_to_full_3x3_stress
from every_kind import KINDS, SMALL, draw_labels, make_structures

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.potentials import compute_zbl

# five-point stencil; the radial basis is a spline, of which only the first derivative is smooth
POINTS = np.array([-2, -1, 1, 2])
WEIGHTS = np.array([1, -8, 8, -1]) / 12
STEP = 2e-5
VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
ENERGY = {"energy": TargetKind.scalar()}
SOME = {name: KINDS[name] for name in ("dipole", "energy", "atomic_tensor", "several", "charges")}
ALCHEMICAL = {"species_encoding": "alchemical"}
LINEAR = {"heads": {"energy": "linear"}}
LONG_RANGE = {"long_range": True}
OPTIONS = {
    "zbl": {"zbl": True},
    "long range": LONG_RANGE,
    "long range and zbl": {"long_range": True, "zbl": True},
    "long range, linear head, one layer": {**LONG_RANGE, **LINEAR, "num_hidden_layers": 1},
    "long range, three mesh points": {**LONG_RANGE, "interpolation_nodes": 3},
    "long range, fine mesh": {**LONG_RANGE, "smearing": 1.0, "kspace_resolution": 0.7},
    "alchemical": ALCHEMICAL,
    "alchemical, two species": {**ALCHEMICAL, "n_pseudo_species": 2, "layernorm": False},
    "alchemical, long range and zbl": {**ALCHEMICAL, "long_range": True, "zbl": True},
    "alchemical, no hidden layer": {**ALCHEMICAL, "num_hidden_layers": 0},
    "alchemical, linear model": {**ALCHEMICAL, **LINEAR, "num_hidden_layers": 0},
    "no hidden layer": {"num_hidden_layers": 0},
    "linear model": {**LINEAR, "num_hidden_layers": 0},
    "one hidden layer": {"num_hidden_layers": 1},
    "linear head": LINEAR,
    "many targets": {"kinds": SOME},
    "many targets, linear heads": {"kinds": SOME, "heads": dict.fromkeys(SOME, "linear")},
    "many targets, no hidden layer": {"kinds": SOME, "num_hidden_layers": 0},
    "many targets, linear model": {
        "kinds": SOME,
        "num_hidden_layers": 0,
        "heads": dict.fromkeys(SOME, "linear"),
    },
    "many targets, long range": {"kinds": SOME, **LONG_RANGE},
    "many targets, alchemical": {"kinds": SOME, **ALCHEMICAL},
    "many targets, alchemical, no hidden layer": {
        "kinds": SOME,
        **ALCHEMICAL,
        "num_hidden_layers": 0,
    },
    "many targets, alchemical, long range": {"kinds": SOME, **ALCHEMICAL, **LONG_RANGE},
}


@lru_cache
def fit(name):
    options = dict(OPTIONS[name])
    kinds = options.pop("kinds", ENERGY)
    frames = [atoms for name, atoms in make_structures().items() if name != "wire"]
    y = draw_labels(frames, kinds)
    forces = [atoms.positions - atoms.positions.mean(0) for atoms in frames]
    columns = {name: y[name] for name in y.names}
    return SoapBPNNRegressor(
        **{**SMALL, **options},
        dtype="float64",
        num_epochs=2,
        learning_rate=1e-2,
        random_state=0,
    ).fit(frames, Targets(kinds=kinds, forces=forces, **columns))


def differentiate(model, move, size):
    """Derivatives of the energy: ``move(i, step)`` returns the structure moved along i."""
    frames = [move(i, STEP * point) for i in range(size) for point in POINTS]
    return model.predict(frames, targets="energy")["energy"].reshape(size, -1) @ WEIGHTS / STEP


def numerical_forces(model, atoms):
    def move(i, step):
        moved = atoms.copy()
        moved.positions[i // 3, i % 3] += step
        return moved

    return -differentiate(model, move, 3 * len(atoms)).reshape(-1, 3)


def numerical_stress(model, atoms):
    def move(i, step):
        strain = np.zeros((3, 3))
        strain[VOIGT[i]] += step / 2
        strain[VOIGT[i][::-1]] += step / 2
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        return strained

    return voigt_6_to_full_3x3_stress(differentiate(model, move, 6) / atoms.get_volume())


def assert_close(actual, expected):
    size = np.abs(expected).max()
    assert size > 1e-4
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * size)


def make_small_structures():
    """Of few atoms, all of them off their sites."""
    structures = {
        "molecule": molecule("H2CO"),
        "crystal": bulk("CO", "zincblende", a=3.9),
        "slab": molecule("H2O"),
    }
    structures["slab"].set_cell([[3.0, 0.0, 0.0], [1.1, 3.2, 0.0], [-0.8, 0.9, 4.5]])
    structures["slab"].pbc = [True, True, False]
    for atoms in structures.values():
        atoms.rattle(0.1, seed=2)
    return structures


# crystals have forces and stress; other boundary conditions matter to sums over the structure
CASES = [(option, "crystal") for option in OPTIONS]
CASES += [
    (option, shown)
    for option in (*(name for name in OPTIONS if "long range" in name), "zbl", "alchemical")
    for shown in ("molecule", "slab")
]


@pytest.mark.parametrize(("option", "shown"), CASES)
def test_forces_and_stress(option, shown):
    model, atoms = fit(option), make_small_structures()[shown]
    has_volume = bool(atoms.cell.rank == 3)
    names = ["forces", "energies", "energy"] + ["stress", "virial"] * has_volume
    prediction = model.predict([atoms], targets=names)
    assert_close(prediction["forces"][0], numerical_forces(model, atoms))
    if has_volume:
        stress = prediction["stress"][0]
        assert_close(stress, numerical_stress(model, atoms))
        np.testing.assert_allclose(prediction["virial"][0], -atoms.get_volume() * stress)
    np.testing.assert_allclose(prediction["energies"][0].sum(), prediction["energy"][0])
    np.testing.assert_allclose(model.predict([atoms]), prediction["energy"])


@pytest.mark.parametrize("option", ["zbl", "alchemical, long range and zbl"])
def test_forces_at_short_distance(option):
    model = fit(option)
    for distance in (0.4, 0.7, 1.2):
        atoms = Atoms("COH", [[0, 0, 0], [0, 0, distance], [0.9, 0.1, 0.2]])
        (forces,) = model.predict([atoms], targets="forces")["forces"]
        assert_close(forces, numerical_forces(model, atoms))


@pytest.mark.parametrize("options", [{}, ALCHEMICAL, LONG_RANGE], ids=str)
def test_with_zbl_the_network_learns_what_zbl_leaves(options):
    """Subtracting it from the labels and adding it to predictions is the same, to rounding."""
    frames = [atoms for name, atoms in make_structures().items() if name != "wire"]
    for atoms in frames[:3]:
        atoms.positions *= 0.6  # else nothing is close enough
        atoms.cell *= 0.6
    zbl = compute_zbl(as_structures(frames))
    assert min(energies.sum() for energies in zbl.energies[:3]) > 1.0
    energy = draw_labels(frames, ENERGY)["energy"]
    rng = np.random.default_rng(0)
    forces = [rng.normal(size=(len(atoms), 3)) for atoms in frames]
    virial = rng.normal(size=(len(frames), 3, 3))
    virial += virial.swapaxes(1, 2)
    sums = np.array([energies.sum() for energies in zbl.energies])
    rest = Targets(
        energy=energy - sums,
        forces=[a - b for a, b in zip(forces, zbl.forces)],
        virial=virial - zbl.virial,
    )
    shared = {**SMALL, **options, "dtype": "float64", "num_epochs": 3, "random_state": 0}
    model = SoapBPNNRegressor(zbl=True, **shared)
    model.fit(frames, Targets(energy=energy, forces=forces, virial=virial))
    other = SoapBPNNRegressor(**shared).fit(frames, rest)
    np.testing.assert_allclose(
        model.history_[:, "train_loss"], other.history_[:, "train_loss"], rtol=1e-7
    )
    names = ["energy", "energies", "forces", "virial"]
    prediction, left = (m.predict(frames, targets=names) for m in (model, other))
    close = {"rtol": 1e-7, "atol": 1e-7}
    np.testing.assert_allclose(prediction["energy"], left["energy"] + sums, **close)
    np.testing.assert_allclose(prediction["virial"], left["virial"] + zbl.virial, **close)
    for name, parts in (("energies", zbl.energies), ("forces", zbl.forces)):
        for total, part, of_zbl in zip(prediction[name], left[name], parts):
            np.testing.assert_allclose(total, part + of_zbl, **close)
