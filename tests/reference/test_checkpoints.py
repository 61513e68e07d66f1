"""Checkpoints that metatrain trains give the same numbers here."""

import warnings

import joblib
import numpy as np
import pytest
import torch

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets

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


def make_targets(model, kinds, frames):
    """Labels without a meaning, but energies of the model's own reference."""
    rng = np.random.default_rng(1)
    labels = {
        name: [rng.normal(size=(len(atoms), *kind.shape)) for atoms in frames]
        if kind.per_atom
        else rng.normal(size=(len(frames), *kind.shape))
        for name, kind in kinds.items()
    }
    for name, kind in kinds.items():
        if kind.is_symmetric:
            labels[name] = labels[name] + np.swapaxes(labels[name], 1, 2)
    if "energy" in model.kinds_:
        labels["energy"] = model.predict(frames) + rng.normal(scale=1e-3, size=len(frames))
    return Targets(kinds=kinds, **labels)


def test_learning_goes_on(model, frames):
    y = make_targets(model, model.kinds_, frames)
    before, steps = model.predict(frames), model.fitted_.steps
    model.set_params(warm_start=True, num_epochs=1, learning_rate=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(frames, y)
    np.testing.assert_allclose(model.predict(frames), before, rtol=1e-8, atol=1e-9)
    # scale, baseline and ZBL are those of the checkpoint
    assert model.fitted_.steps is steps
    model.set_params(learning_rate=1e-3).partial_fit(frames, y)
    assert model.fitted_.steps is steps
    assert not np.allclose(model.predict(frames), before, rtol=1e-8)


@pytest.mark.parametrize("checkpoint", ["zbl"], indirect=True)
def test_energies_of_another_reference(model, frames):
    before, n_atoms = model.predict(frames), np.array([len(atoms) for atoms in frames])
    model.set_params(num_epochs=1, learning_rate=1e-12)
    with pytest.warns(UserWarning, match="another reference.*The baseline was refitted"):
        model.partial_fit(frames, before + 1e3 * n_atoms)
    np.testing.assert_allclose(model.predict(frames), before + 1e3 * n_atoms, rtol=1e-8)


@pytest.mark.parametrize("checkpoint", ["orthogonal", "without options"], indirect=True)
def test_targets_that_are_added(model, frames):
    before = model.predict(frames)
    kinds = {**model.kinds_, "extra": TargetKind.scalar()}
    steps = model.fitted_.steps
    model.set_params(learning_rate=1e-12).partial_fit(frames, make_targets(model, kinds, frames))
    np.testing.assert_allclose(model.predict(frames), before, rtol=1e-8, atol=1e-9)
    if model.scale_targets:
        for name, scale in steps.own.scaler.scale_.items():
            np.testing.assert_array_equal(model.scaler_.scale_[name], scale)
        for name, coef in steps.own.baseline.coef_.items():
            np.testing.assert_array_equal(model.baseline_.coef_[name], coef)
        assert model.scaler_.scale_["extra"] != 1
    else:
        assert (model.scaler_, model.baseline_) == (None, None)


def test_options_of_the_checkpoint_are_kept(model):
    assert model.num_epochs == 2
    assert model.batch_size == 6
    assert model.max_angular == 4
    assert model.dtype == "float64"
    assert set(model.heads) == set(model.kinds_)


# earlier formats ---------------------------------------------------------------------------------

one_checkpoint = pytest.mark.parametrize("checkpoint", ["zbl"], indirect=True)
SCHEDULE = {"early_stopping_patience": 200, "scheduler_patience": 100, "scheduler_factor": 0.8}


def write_earlier_training(checkpoint, version):
    """Undo metatrain's upgrades of training options down to an earlier version, in place."""
    checkpoint["trainer_ckpt_version"] = version
    training = checkpoint["train_hypers"]
    if version < 12:
        training["distributed"] = None
    if version < 11:
        del training["max_atoms_per_batch"], training["min_atoms_per_batch"]
        training["batch_atom_bounds"] = [None, None]
    if version < 10:
        del training["batch_atom_bounds"]
    if version < 9:
        training["fixed_composition_weights"] = training.pop("atomic_baseline")
        training["remove_composition_contribution"] = True
    if version < 8:
        del training["remove_composition_contribution"]
    if version < 7:
        for term in training["loss"].values():
            for part in (term, *term.get("gradients", {}).values()):
                part["sliding_factor"] = None
    if version < 6:
        training.update(SCHEDULE)
        del training["warmup_fraction"]
    if version < 5:
        del training["fixed_scaling_weights"]
    if version < 4:
        del training["num_workers"]
    if version < 3:
        weights = {"energy": 1.0, "forces": 10.0, "mtt::dipole": 0.5}
        training["loss"] = {"type": "mse", "reduction": "sum", "weights": weights}


def write_model_6(checkpoint):
    """Undo metatrain's upgrades of models down to version 6, in place."""
    checkpoint["model_ckpt_version"] = 6
    del checkpoint["model_data"]["model_hypers"]["legacy"]
    for name in ("model_state_dict", "best_model_state_dict"):
        checkpoint[name] = {
            key.replace("lambda_basis_module.", ""): value
            for key, value in checkpoint[name].items()
            if "_per_target_" not in key and "_per_property_" not in key
        }


@pytest.fixture
def restore(checkpoint, tmp_path):
    """Return a function that reads the checkpoint after a change, and the warnings about it."""

    def function(change):
        variant = torch.load(checkpoint, weights_only=False)
        change(variant)
        torch.save(variant, tmp_path / "variant.ckpt")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = SoapBPNNRegressor.from_metatrain(tmp_path / "variant.ckpt")
        return model, [str(w.message) for w in caught if w.filename == __file__]

    return function


def assert_same_predictions(model, expected, frames):
    names = ["energy", "dipole", "forces"]
    found = model.predict(frames[:5], targets=names)
    expected = expected.predict(frames[:5], targets=names)
    for name in names:
        for one, other in zip(found[name], expected[name]):
            np.testing.assert_array_equal(one, other)


@one_checkpoint
@pytest.mark.parametrize("version", range(1, 13))
def test_every_earlier_format_of_the_training(version, restore, model, frames):
    found, messages = restore(lambda variant: write_earlier_training(variant, version))
    assert_same_predictions(found, model, frames)
    parameters, expected = found.get_params(), model.get_params()
    left_out = []
    if version < 3:
        left_out.append("loss.weights.forces=10.0")
        energy, dipole = parameters.pop("loss").values()
        assert (energy["weight"], dipole["weight"], dipole["reduction"]) == (1.0, 0.5, "sum")
        del expected["loss"]
    if version < 6:
        left_out += [f"{name}={value}" for name, value in SCHEDULE.items()]
    assert parameters == expected
    assert [message.split("left out: ")[1].split(". ")[0] for message in messages] == (
        ["; ".join(left_out)] if left_out else []
    )


@one_checkpoint
def test_an_earlier_format_of_the_model(restore, model, frames):
    found, messages = restore(write_model_6)
    assert_same_predictions(found, model, frames)
    assert not messages
    assert found.get_params() == model.get_params()


def change_training(version=None, **changes):
    def change(checkpoint):
        if version is not None:
            write_earlier_training(checkpoint, min(version, 12))
            checkpoint["trainer_ckpt_version"] = version
        checkpoint["train_hypers"].update(changes)

    return change


SLIDING = {"energy": {"weight": 3.0, "sliding_factor": 0.1}, "mtt::dipole": {}}


@one_checkpoint
@pytest.mark.parametrize(
    ("change", "named", "parameters"),
    [
        (
            change_training(10, batch_atom_bounds=[4, 64]),
            "max_atoms_per_batch=64; min_atoms_per_batch=4",
            {},
        ),
        (
            change_training(8, remove_composition_contribution=False),
            None,
            {"remove_composition_contribution": False, "fixed_composition_weights": None},
        ),
        (change_training(6, loss=SLIDING), "loss.energy.sliding_factor=0.1", {}),
        (
            change_training(loss={"energy": {"type": "masked_mse", "weight": 3.0}}),
            "loss.energy.type='masked_mse' (mse, mae, huber are available)",
            {"loss": {"energy": {"weight": 3.0}}},
        ),
        (change_training(finetune={"read_from": "a.ckpt"}), "finetune.read_from='a.ckpt'", {}),
        (change_training(99, optimizer="Muon"), "optimizer='Muon'", {}),
        (change_training(weights=list(range(999))), f"weights={list(range(999))}"[:97] + "...", {}),
    ],
)
def test_a_warning_names_what_is_left_out(change, named, parameters, restore, model, frames):
    found, messages = restore(change)
    assert_same_predictions(found, model, frames)
    assert [f"left out: {named}. " in message for message in messages] == [True] * bool(named)
    assert {name: getattr(found, name) for name in parameters} == parameters


@one_checkpoint
@pytest.mark.parametrize(
    ("training", "version"), [("missing", None), (None, 12), ({}, 1), ([1], 12)]
)
def test_no_training_options(training, version, restore, model, frames):
    def change(checkpoint):
        checkpoint |= {"train_hypers": training, "trainer_ckpt_version": version}
        if training == "missing":
            del checkpoint["train_hypers"]

    found, messages = restore(change)
    assert_same_predictions(found, model, frames)
    assert not messages
    assert found.num_epochs == SoapBPNNRegressor().num_epochs


@one_checkpoint
def test_an_option_of_the_model_without_a_counterpart(restore):
    def change(checkpoint):
        checkpoint["model_data"]["model_hypers"]["soap"]["basis"] = "gto"

    with pytest.raises(ValueError, match=r"no counterpart of: architecture\.model\.soap\.basis="):
        restore(change)


# other files -------------------------------------------------------------------------------------


@one_checkpoint
def test_exported_models_are_refused(checkpoint):
    from metatrain.utils.io import load_model

    load_model(checkpoint).export().save(str(checkpoint.with_suffix(".pt")))
    with pytest.raises(ValueError, match=r"model\.pt' holds an exported model.*\.ckpt"):
        SoapBPNNRegressor.from_metatrain(checkpoint.with_suffix(".pt"))


@one_checkpoint
def test_checkpoints_before_the_first_epoch_are_refused(restore):
    with pytest.raises(ValueError, match="holds no best epoch"):
        restore(lambda checkpoint: checkpoint.update(best_model_state_dict=None))


def test_other_files_are_refused(tmp_path):
    torch.save({"architecture_name": "pet"}, tmp_path / "pet.ckpt")
    with pytest.raises(ValueError, match="'pet'"):
        SoapBPNNRegressor.from_metatrain(tmp_path / "pet.ckpt")
    (tmp_path / "options.yaml").write_text("architecture: soap_bpnn")
    for path in (tmp_path / "options.yaml", tmp_path):
        with pytest.raises(ValueError, match=r"cannot be read.*\.ckpt"):
            SoapBPNNRegressor.from_metatrain(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.ckpt"):
        SoapBPNNRegressor.from_metatrain(tmp_path / "missing.ckpt")
