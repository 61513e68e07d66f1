"""The model for torch-sim: the numbers of the ASE calculator, for many systems in one call."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.datasets import load_cuau

ts = pytest.importorskip("torch_sim", reason="torch-sim needs Python 3.12, and is not installed")
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from sklearn_soapbpnn.interfaces.torch_sim import SoapBPNNModel  # noqa: E402

FEMTOSECOND = 1e-3 * ts.units.MetalUnits.time  # torch-sim's units of time are picoseconds
SMALL = {"max_radial": 2, "max_angular": 2, "num_neurons_per_layer": 8, "num_epochs": 1}
FRAMES = [
    bulk("Si", cubic=True),
    bulk("Mg") * (2, 2, 1),
    bulk("Fe"),
    bulk("Si") * (1, 2, 1),
    molecule("C6H6", vacuum=3.0, pbc=True),
]


def fit(X=FRAMES, **options):
    X = [atoms.copy() for atoms in X for _ in range(2)]
    for seed, atoms in enumerate(X):
        atoms.rattle(0.1, seed=seed)
    y = np.random.default_rng(0).normal(size=len(X))
    options = {"dtype": "float64", "random_state": 0, "validation_fraction": 0, **SMALL, **options}
    return SoapBPNNRegressor(**options).fit(X, y)


@pytest.mark.parametrize(
    "options", [{}, {"species_encoding": "alchemical"}, {"zbl": True}, {"n_networks": 2}], ids=str
)
def test_gives_the_numbers_of_the_calculator(options):
    regressor = fit(**options)
    model = SoapBPNNModel(regressor)
    frames = [atoms.copy() for atoms in FRAMES]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed + 50)
        atoms.set_cell(atoms.cell + 0.1 * np.triu(np.ones((3, 3))), scale_atoms=True)
    output = model(ts.io.atoms_to_state(frames, "cpu", torch.float64))
    forces = output["forces"].split([len(atoms) for atoms in frames])
    for atoms, energy, force, stress in zip(frames, output["energy"], forces, output["stress"]):
        atoms.calc = regressor.calculator()
        np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(force, atoms.get_forces(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), rtol=0, atol=1e-9)


@pytest.mark.parametrize("pbc", [False, [True, True, False]], ids=str)
def test_other_boundary_conditions(pbc):
    regressor = fit()
    slab = molecule("C6H6", vacuum=1.0)
    slab.pbc = pbc
    output = SoapBPNNModel(regressor)(ts.io.atoms_to_state([slab, slab], "cpu", torch.float64))
    slab.calc = regressor.calculator()
    np.testing.assert_allclose(output["energy"], slab.get_potential_energy(), atol=1e-9)
    np.testing.assert_allclose(output["forces"][:12], slab.get_forces(), atol=1e-9)


def test_passes_the_checks_of_torch_sim():
    validate_model_outputs(SoapBPNNModel(fit()), torch.device("cpu"), torch.float64)


def test_energies_alone_and_single_precision():
    model = SoapBPNNModel(fit(dtype="float32"), compute_forces=False, compute_stress=False)
    output = model(ts.io.atoms_to_state(FRAMES, "cpu", torch.float32))
    assert output.keys() == {"energy"}
    assert output["energy"].dtype == torch.float32


def test_reads_files_and_whole_pipelines(tmp_path):
    X, y = FRAMES[:3], [-1.0, -2.0, -3.0]
    regressor = SoapBPNNRegressor(**SMALL, dtype="float64", random_state=0, validation_fraction=0)
    pipe = make_pipeline(CompositionBaseline(), regressor).fit(X, y)
    fit().save(tmp_path / "model.safetensors")
    assert SoapBPNNModel(tmp_path / "model.safetensors").dtype == torch.float64
    state = ts.io.atoms_to_state(X, "cpu", torch.float64)
    np.testing.assert_allclose(SoapBPNNModel(pipe)(state)["energy"], pipe.predict(X))
    with pytest.raises(ValueError, match=r"Use the whole Pipeline: SoapBPNNModel\(pipe\)"):
        SoapBPNNModel(pipe[-1])


def test_conserves_energy():
    X, y = load_cuau(return_X_y=True)
    options = {**SMALL, "num_epochs": 10, "dtype": "float64", "random_state": 0}
    model = SoapBPNNModel(SoapBPNNRegressor(**options).fit(X[:40], y[:40]))
    start = ts.io.atoms_to_state(X[:2], "cpu", torch.float64)
    start.rng = 0
    state = ts.nve_init(start, model, kT=0.02)
    totals, potentials = [], []
    for _ in range(30):
        state = ts.nve_step(state, model, dt=FEMTOSECOND)
        kinetic = ts.calc_kinetic_energy(
            masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
        )
        totals.append(state.energy + kinetic)
        potentials.append(state.energy)
    totals, potentials = torch.stack(totals).numpy(), torch.stack(potentials).numpy()
    assert (np.ptp(totals, axis=0) < 0.01 * np.ptp(potentials, axis=0)).all()


def test_refuses_models_without_energies():
    X = FRAMES[:2]
    y = Targets(kinds={"gap": TargetKind.scalar(intensive=True)}, gap=[1.0, 2.0])
    model = SoapBPNNRegressor(**SMALL, validation_fraction=0).fit(X, y)
    with pytest.raises(ValueError, match="needs the energy"):
        SoapBPNNModel(model)
