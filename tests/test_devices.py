"""The library on a GPU: what is computed there, what is on the CPU, and who waits for whom."""

import pickle
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from simulated_gpu import DEVICE, SimulatedGPU

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets

SMALL = {"max_radial": 2, "max_angular": 2, "num_neurons_per_layer": 8, "random_state": 0}
KINDS = {
    "energy": TargetKind.scalar(),
    "dipole": TargetKind.vector(),
    "polarizability": TargetKind.tensor(symmetric=True),
    "charges": TargetKind.scalar(per_atom=True),
}
OUTPUTS = ["energy", "energies", "forces", "virial", "dipole", "polarizability", "charges"]
NETWORKS = {
    "orthogonal": {"optimizer": "adam"},
    "alchemical": {"species_encoding": "alchemical", "optimizer": "muon"},
    "orthogonal, long range": {"long_range": True, "optimizer": "muon"},
    "alchemical, long range": {"species_encoding": "alchemical", "long_range": True},
    "committee": {"n_networks": 3},
    "alchemical committee": {"n_networks": 2, "species_encoding": "alchemical"},
    "streamed": {"memory_limit": 1, "num_workers": 0},
    "without hidden layers": {"num_hidden_layers": 0, "heads": dict.fromkeys(KINDS, "linear")},
}

# each part of the library once, since a simulated GPU is slow
SIMULATED = [
    name for name in NETWORKS if name not in ("alchemical, long range", "alchemical committee")
]


def draw_data():
    """Structures of every kind, labels without meaning, of which some are missing."""
    water, slab = molecule("H2O"), molecule("CH3OH")
    slab.set_cell(np.diag([4.0, 5.0, 0.0]))
    slab.pbc = [True, True, False]
    frames = [water, slab, bulk("C", "diamond", a=3.6), Atoms("O"), molecule("CO"), water.copy()]
    rng = np.random.default_rng(0)
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    symmetric = [matrix + matrix.T for matrix in rng.normal(size=(len(frames), 3, 3))]
    virial = [m if atoms.cell.rank == 3 else m * np.nan for m, atoms in zip(symmetric, frames)]
    labels = {
        "energy": rng.normal(size=len(frames)),
        "forces": [rng.normal(size=(len(atoms), 3)) for atoms in frames],
        "virial": virial,
        "dipole": rng.normal(size=(len(frames), 3)),
        "polarizability": symmetric,
        "charges": [rng.normal(size=len(atoms)) for atoms in frames],
    }
    return frames, Targets(kinds=KINDS, **labels)


def fit(device, dtype="float64", **options):
    options = {"num_epochs": 1, "batch_size": 2, "learning_rate": 1e-2, **SMALL, **options}
    return SoapBPNNRegressor(device=device, dtype=dtype, **options).fit(*draw_data())


def predict(model):
    """Rows of all outputs of the model, and what its calculator says of a crystal."""
    frames, _ = draw_data()
    prediction = model.predict(frames, targets=OUTPUTS)
    rows = {name: prediction.flatten(name) for name in OUTPUTS}
    frames[2].calc = model.calculator()
    crystal = {"forces in ASE": frames[2].get_forces(), "stress in ASE": frames[2].get_stress()}
    return rows | crystal


def assert_same(actual, expected, rtol):
    for name, rows in expected.items():
        atol = rtol * np.nanmax(np.abs(rows))
        np.testing.assert_allclose(actual[name], rows, rtol=0, atol=atol, err_msg=name)


@pytest.fixture
def _fused_adam(monkeypatch):
    """Torch makes fused steps of Adam on a list of devices, in which the simulated one is not."""
    module = sys.modules[torch.optim.Optimizer.__module__]
    known = ["cpu", DEVICE.type]
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: known)


@pytest.mark.parametrize("network", SIMULATED)
@pytest.mark.usefixtures("_fused_adam")
def test_nothing_is_left_on_the_cpu(network):
    """Every operation of fit, predict and the calculator has all its tensors on one device."""
    with SimulatedGPU():
        model = fit(DEVICE.type, **NETWORKS[network])
        assert {weights.device for weights in model.module_.parameters()} == {DEVICE}
        actual = predict(model)
    assert_same(actual, predict(fit("cpu", **NETWORKS[network])), rtol=1e-12)


@pytest.mark.parametrize("network", ["orthogonal", "alchemical", "committee"])
@pytest.mark.usefixtures("_fused_adam")
def test_no_step_waits_for_the_gpu(network):
    """There are as many waits in a fit of six steps an epoch as in one of a single step."""
    waits = []
    for batch_size in (1, 6):
        with SimulatedGPU() as gpu:
            fit(DEVICE.type, batch_size=batch_size, validation_fraction=0, **NETWORKS[network])
        waits.append(Counter(gpu.waits))
    assert waits[0] == waits[1]
    assert any("plan_batches" in place for place in waits[0])  # they would be noticed


def test_a_gpu_is_given_many_structures_at_a_time(monkeypatch):
    """Else it would wait for the CPU, which starts its work, and the CPU for each result."""
    monkeypatch.setattr("sklearn_soapbpnn.model._evaluate.ATOMS_PER_CHUNK", 2)
    model, frames = fit("cpu"), [molecule("H2O")] * 4
    expected, waits = model.predict(frames), []
    with SimulatedGPU() as gpu:
        model.fitted_.network.to(DEVICE)
        for few in (frames[:1], frames):
            gpu.waits.clear()
            np.testing.assert_allclose(model.predict(few), expected[: len(few)])
            waits.append(Counter(gpu.waits))
    assert waits[0] == waits[1]


def test_simulated_gpu_notices_a_buffer_on_the_cpu():
    with SimulatedGPU():
        model = fit("cpu")
        network = model.fitted_.network.to(DEVICE)
        predict(model)
        network.basis.parity = network.basis.parity.cpu()
        with pytest.raises(RuntimeError, match="on the CPU and on the GPU"):
            predict(model)


def test_simulated_gpu_refuses_what_cuda_refuses():
    with SimulatedGPU() as gpu:
        there, index = torch.ones(3, 3, device=DEVICE), torch.zeros(2, dtype=torch.long)
        for mixed in (
            lambda: there + torch.ones(3, 3),
            lambda: there.index_select(0, index),
            lambda: torch.cat([there, torch.ones(1, 3)]),
            lambda: torch.mm(there, there, out=torch.empty(3, 3)),
        ):
            with pytest.raises(RuntimeError, match="on the CPU and on the GPU"):
                mixed()
        assert not gpu.waits
        assert (there * torch.tensor(2.0)).device == DEVICE
        assert not gpu.waits
        assert there[index].sum().item() == 6.0
        assert len(gpu.waits) == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_device_gives_the_numbers_of_the_cpu(network, dtype, device, tmp_path):
    """The loss and the first step are the same; the model, passed on to the CPU, is the same."""
    tried_anyway = [("orthogonal", "float64"), ("streamed", "float32")]
    if device == "cpu" and (network, dtype) not in tried_anyway:
        pytest.skip("without a GPU this compares the CPU with itself")
    rtol = {"float32": 1e-4, "float64": 1e-10}[dtype]
    options = {"dtype": dtype, "batch_size": 6, **NETWORKS[network]}
    model, expected = fit(device, **options), fit("cpu", **options)
    losses = [fitted.history_[0, ["train_loss", "valid_loss"]] for fitted in (model, expected)]
    np.testing.assert_allclose(*(loss[0] for loss in losses), rtol=rtol)
    rows = predict(model)
    # a step of Adam turns rounding noise of float32 into a change of weights
    if dtype == "float64":
        np.testing.assert_allclose(*losses, rtol=1e-6)
        assert_same(rows, predict(expected), rtol=1e-6)
    model.save(tmp_path / "model.safetensors")
    copies = (
        SoapBPNNRegressor.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(model)),
    )
    for copy in copies:
        assert copy.module_.device.type == device
        copy.fitted_.network.cpu()
        assert_same(predict(copy), rows, rtol)
