"""Checkpoints that metatrain trains give the same numbers here."""

import warnings

import joblib
import numpy as np
import pytest
import torch

from sklearn_soapbpnn import SoapBPNNRegressor, Targets

pytest.importorskip("metatrain.soap_bpnn", reason="the extra `bench` installs metatrain")
pytestmark = [
    pytest.mark.metatrain,
    pytest.mark.filterwarnings("ignore"),  # metatrain's own
]


@pytest.fixture
def model(checkpoint):
    return SoapBPNNRegressor.from_metatrain(checkpoint)


@pytest.fixture
def reference(checkpoint, frames):
    """What metatrain says of some structures: its targets, and forces and stress."""
    from metatomic.torch import ModelOutput, System, systems_to_torch
    from metatrain.utils.io import model_from_checkpoint
    from metatrain.utils.neighbor_lists import (
        get_requested_neighbor_lists,
        get_system_with_neighbor_lists,
    )

    network = model_from_checkpoint(torch.load(checkpoint, weights_only=False), "export")
    network = network.eval().to(torch.float64)
    systems, leaves = [], []
    for atoms in frames[:5]:
        system = systems_to_torch(atoms, dtype=torch.float64)
        positions = system.positions.detach().requires_grad_()
        strain = torch.eye(3, dtype=torch.float64, requires_grad=True)
        leaves.append((positions, strain))
        system = System(system.types, positions @ strain, system.cell @ strain, system.pbc)
        lists = get_requested_neighbor_lists(network)
        systems.append(get_system_with_neighbor_lists(system, lists))
    targets = network.dataset_info.targets
    outputs = {name: ModelOutput(sample_kind=info.sample_kind) for name, info in targets.items()}
    values = network(systems, outputs)
    flat = {
        name.removeprefix("mtt::"): np.hstack(
            [block.values.detach().flatten(1).numpy() for block in value.blocks()]
        )
        for name, value in values.items()
    }
    energy = values["energy"].block().values.sum()
    gradients = torch.autograd.grad(energy, [leaf for pair in leaves for leaf in pair])
    flat["forces"] = -torch.cat(gradients[0::2]).numpy()
    in_cells = zip(frames, gradients[1::2])
    stress = [g.numpy() / atoms.get_volume() for atoms, g in in_cells if atoms.cell.rank == 3]
    flat["stress"] = np.stack([(s + s.T).reshape(9) / 2 for s in stress])
    return flat


def test_every_target_agrees(model, reference, frames):
    names = [*model.kinds_, "forces", "stress"]
    prediction = model.predict(frames[:5], targets=names)
    assert set(names) == set(reference)
    for name in names:
        column = prediction[name]
        values = np.concatenate(column) if isinstance(column, list) else column
        values = values.reshape(-1, reference[name].shape[1])
        values = values[np.isfinite(values).all(1)]
        expected = reference[name][np.isfinite(reference[name]).all(1)]
        if name == "stress" and model.long_range:
            # torch-pme's mesh is right for diagonal strains only: see docs/metatrain.md
            values, expected = values[:, ::4], expected[:, ::4]
        if name == "non_conservative_stress":
            expected = expected[np.abs(expected).max(1) > 0]  # zero where there is no cell
        size = np.abs(expected).max()
        assert size > 0
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6 * size, err_msg=name)


def test_pickled_model_predicts_the_same(model, frames, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict(frames[:5]), model.predict(frames[:5]))


def test_learning_goes_on(model, frames):
    rng = np.random.default_rng(1)
    labels = {
        name: [rng.normal(size=(len(atoms), *kind.shape)) for atoms in frames]
        if kind.per_atom
        else rng.normal(size=(len(frames), *kind.shape))
        for name, kind in model.kinds_.items()
    }
    for name, kind in model.kinds_.items():
        if kind.is_symmetric:
            labels[name] = labels[name] + np.swapaxes(labels[name], 1, 2)
    y = Targets(kinds=model.kinds_, **labels)
    before = model.predict(frames)
    model.set_params(warm_start=True, num_epochs=1, learning_rate=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(frames, y)
    np.testing.assert_allclose(model.predict(frames), before, rtol=1e-8)


def test_options_of_the_checkpoint_are_kept(model):
    assert model.num_epochs == 2
    assert model.batch_size == 4
    assert model.max_angular == 4
    assert model.dtype == "float64"
    assert set(model.heads) == set(model.kinds_)


def test_other_files_are_refused(tmp_path):
    torch.save({"architecture_name": "pet"}, tmp_path / "pet.ckpt")
    with pytest.raises(ValueError, match="'pet'"):
        SoapBPNNRegressor.from_metatrain(tmp_path / "pet.ckpt")
    with pytest.raises(FileNotFoundError, match=r"missing\.ckpt"):
        SoapBPNNRegressor.from_metatrain(tmp_path / "missing.ckpt")
