"""What the training loop does: errors, best epoch, schedule, missing labels, reproducibility."""

import pickle
import signal

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from skorch.callbacks import Callback, EarlyStopping

from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.training import _progress
from sklearn_soapbpnn.training._net import WarmupCosine

LEARNING = {"max_radial": 2, "max_angular": 2, "learning_rate": 3e-3, "random_state": 0}
SMALL = {"max_radial": 2, "max_angular": 2, "num_neurons_per_layer": 8, "random_state": 0}


@pytest.fixture(scope="module")
def molecules(shipped_molecules):
    X, y = shipped_molecules
    return X[:300:10], y[:300:10]


@pytest.fixture(scope="module")
def alloys(crystals):
    """Some crystals twice, so that there are twelve."""
    X, y = crystals
    chosen = np.arange(12) % 8
    return [X[k] for k in chosen], y[chosen]


def label_alloys(X, y):
    """Add targets of every kind, of structures and of atoms."""
    rng = np.random.default_rng(0)
    kinds = {
        "dipole": TargetKind.vector(),
        "gaps": TargetKind.scalar(2, intensive=True),
        "quadrupole": TargetKind.spherical([(0, 1), (2, 1)]),
        "shielding": TargetKind.tensor(per_atom=True),
        "non_conservative_stress": TargetKind.tensor(symmetric=True, per_volume=True),
    }
    columns = {}
    for name, kind in kinds.items():
        labels = [rng.normal(1.0, size=(len(atoms), *kind.shape)) for atoms in X]
        if kind.is_symmetric:
            labels = [(v + v.swapaxes(1, 2)) / 2 for v in labels]
        combine = np.mean if kind.intensive else np.sum
        columns[name] = labels if kind.per_atom else np.stack([combine(v, axis=0) for v in labels])
    return Targets(kinds=kinds, **{name: y[name] for name in y.names}, **columns)


def rmse(a, b):
    return np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2))


def test_history_agrees_with_predict_at_the_best_epoch(alloys):
    X, y = alloys
    model = SoapBPNNRegressor(**SMALL, dtype="float64", num_epochs=6)
    model.fit(X[:8], y[:8], X_val=X[8:], y_val=y[8:])
    prediction, known = model.predict(X[8:], targets=list(y.names)), y[8:]
    n_atoms = np.array([len(atoms) for atoms in X[8:]])
    best = min(model.history_, key=lambda epoch: epoch["valid_metric"])
    assert best["valid_metric_best"]
    for kind, norm in (("rmse", rmse), ("mae", lambda a, b: np.abs(a - b).mean())):
        energy = norm(prediction["energy"] / n_atoms, known["energy"] / n_atoms)
        forces = norm(np.concatenate(prediction["forces"]), np.concatenate(known["forces"]))
        stress = norm(prediction["stress"], known["stress"])
        np.testing.assert_allclose(best[f"valid_energy_{kind}"], energy)
        np.testing.assert_allclose(best[f"valid_forces_{kind}"], forces)
        np.testing.assert_allclose(best[f"valid_stress_{kind}"], stress)
    product = best["valid_energy_rmse"] * best["valid_forces_rmse"] * best["valid_stress_rmse"]
    np.testing.assert_allclose(best["valid_metric"], product)


def test_history_of_every_target_agrees_with_predict(alloys):
    """In the user's units; of blocks and properties as well where that is asked for."""
    X, y = alloys
    y = label_alloys(X, y)
    model = SoapBPNNRegressor(**SMALL, dtype="float64", num_epochs=2, log_separate_blocks=True)
    model.fit(X[:8], y[:8], X_val=X[8:], y_val=y[8:])
    best = min(model.history_, key=lambda epoch: epoch["valid_metric"])
    prediction, names = model.predict(X[8:], targets=list(y.names)), list(y.names)[1:]
    errors = {name: prediction.flatten(name) - y[8:].flatten(name) for name in names}
    errors |= {f"gaps[{k}]": errors["gaps"][:, k] for k in range(2)}
    errors["quadrupole[l0+]"] = errors["quadrupole"][:, :1]
    errors["quadrupole[l2+]"] = errors["quadrupole"][:, 1:]
    for name, error in errors.items():
        np.testing.assert_allclose(best[f"valid_{name}_mae"], np.abs(error).mean())
        np.testing.assert_allclose(best[f"valid_{name}_rmse"], np.sqrt(np.mean(error**2)))
    product = np.prod([best[f"valid_{name}_rmse"] for name in y.names])
    np.testing.assert_allclose(best["valid_metric"], product)
    assert {key for key in best if "[" in key and key.endswith("_rmse")} == {
        f"valid_{name}_rmse" for name in errors if "[" in name
    }


def test_blocks_are_logged_on_request_only(alloys, capsys, read_table, monkeypatch):
    X, y = alloys
    y = label_alloys(X, y)
    monkeypatch.setattr(_progress, "WIDTH", 1000)
    for wanted in (False, True):
        model = SoapBPNNRegressor(**SMALL, num_epochs=1, log_separate_blocks=wanted, verbose=1)
        model.fit(X, y)
        (row,) = read_table(capsys.readouterr().out)
        for block in ("gaps[1]", "quadrupole[l2+]"):
            assert (f"valid_{block}_mae" in model.history_[-1]) == wanted
            assert (f"{block} rmse" in row) == wanted


@pytest.mark.parametrize("name", ["dipole", "quadrupole", "shielding", "non_conservative_stress"])
def test_labels_of_tensors_that_are_missing_do_not_matter(alloys, name):
    """What stands where there is no label changes nothing, of a structure or of a component."""
    X, y = alloys
    y = label_alloys(X, y)
    columns = {"energy": y["energy"], name: [np.array(values) for values in y[name]]}
    for values, one in zip(columns[name][1:3], (..., 0)):
        values[one] = np.nan
    partial = Targets(kinds={name: y.kinds[name]}, **columns)
    model = SoapBPNNRegressor(**SMALL, dtype="float64", num_epochs=2)
    model.fit(X[:6], partial[:6], X_val=X, y_val=partial)
    assert np.isfinite(model.history_[:, "train_loss"]).all()
    prediction, known = model.predict(X, targets=[name]).flatten(name), partial.flatten(name)
    assert np.isfinite(prediction).all()
    best = min(model.history_, key=lambda epoch: epoch["valid_metric"])
    error = (prediction - known)[np.isfinite(known)]
    assert error.size < known.size
    np.testing.assert_allclose(best[f"valid_{name}_rmse"], np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize("metric", ["rmse_prod", "mae_prod", "loss"])
def test_best_model_metric(molecules, metric):
    X, y = molecules
    model = SoapBPNNRegressor(**SMALL, num_epochs=4, best_model_metric=metric).fit(X, y)
    last = model.history_[-1]
    expected = {
        "rmse_prod": last["valid_energy_rmse"] * last["valid_forces_rmse"],
        "mae_prod": last["valid_energy_mae"] * last["valid_forces_mae"],
        "loss": last["valid_loss"],
    }
    assert last["valid_metric"] == expected[metric]


def test_stress_and_virial_are_the_same_information(alloys):
    X, y = alloys
    volumes = np.array([atoms.get_volume() for atoms in X])[:, None, None]
    virial = Targets(energy=y["energy"], forces=y["forces"], virial=-y["stress"] * volumes)
    models = [SoapBPNNRegressor(**SMALL, dtype="float64", num_epochs=3) for _ in range(2)]
    first, second = (model.fit(X, labels) for model, labels in zip(models, (y, virial)))
    np.testing.assert_allclose(
        first.predict(X, targets="stress")["stress"],
        second.predict(X, targets="stress")["stress"],
        rtol=1e-9,
        atol=1e-12,
    )


def test_learns_stress(alloys):
    X, y = alloys
    loss = {"energy": {"weight": 0.0, "forces": {"weight": 0.0}, "stress": {"weight": 1.0}}}
    model = SoapBPNNRegressor(**SMALL, num_epochs=40, learning_rate=1e-2, loss=loss)
    model.fit(X, y)
    losses = model.history_[:, "train_loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_labels_that_are_missing_do_not_matter(molecules):
    """NaN must act as if the entry were not in the loss, whatever the others are."""
    X, y = molecules
    energy, forces = y["energy"].copy(), [f.copy() for f in y["forces"]]
    energy[::3] = np.nan
    for values in forces[1::3]:
        values[:4] = np.nan
    partial = Targets(energy=energy, forces=forces)
    model = SoapBPNNRegressor(**LEARNING, num_epochs=80).fit(X, partial)
    assert np.isfinite(model.history_[:, "train_loss"]).all()
    assert np.isfinite(model.history_[:, "valid_loss"]).all()
    prediction = model.predict(X, targets=["energy", "forces"])
    missing = np.isnan(energy)
    assert rmse(prediction["energy"][missing], y["energy"][missing]) < 0.5 * np.std(y["energy"])
    entries = np.isnan(np.concatenate(forces))
    known, predicted = np.concatenate(y["forces"]), np.concatenate(prediction["forces"])
    assert rmse(predicted[entries], known[entries]) < 0.5 * np.std(known[entries])


def test_forces_of_zero_weight_are_as_good_as_no_forces(molecules):
    X, y = molecules
    loss = {"energy": {"forces": {"weight": 0.0}}}
    shared = {**SMALL, "dtype": "float64", "num_epochs": 3, "best_model_metric": "loss"}
    shared["fixed_scaling_weights"] = {"energy": 0.1}  # labelled forces would have a say in it
    with_forces = SoapBPNNRegressor(**shared, loss=loss).fit(X, y)
    without = SoapBPNNRegressor(**shared).fit(X, y["energy"])
    np.testing.assert_allclose(
        with_forces.history_[:, "train_loss"], without.history_[:, "train_loss"], rtol=1e-9
    )
    np.testing.assert_allclose(with_forces.predict(X), without.predict(X), rtol=1e-9)


def test_structures_of_zero_weight_are_not_learnt(molecules):
    X, y = molecules
    wrong = y["energy"].copy()
    wrong[::2] += 100.0
    weight = np.arange(len(X)) % 2
    model = SoapBPNNRegressor(**SMALL, num_epochs=5, validation_fraction=0)
    prediction = model.fit(X, wrong, sample_weight=weight).predict(X)
    assert np.abs(prediction - y["energy"]).max() < 2.0


def test_without_validation_the_last_epoch_is_kept(molecules):
    X, y = molecules
    model = SoapBPNNRegressor(**SMALL, num_epochs=2, validation_fraction=0).fit(X, y)
    assert "valid_loss" not in model.history_[-1]
    assert np.isfinite(model.predict(X)).all()


def test_per_structure_targets(molecules):
    X, y = molecules
    shared = {**SMALL, "dtype": "float64", "num_epochs": 1, "learning_rate": 1e-12}
    fixed = {"scale_targets": False}
    per_atom = SoapBPNNRegressor(**shared, **fixed).fit(X, y["energy"])
    fixed["per_structure_targets"] = ["energy"]
    whole = SoapBPNNRegressor(**shared, **fixed).fit(X, y["energy"])
    n_atoms = len(X[0])
    np.testing.assert_allclose(
        whole.history_[-1, "train_loss"], n_atoms**2 * per_atom.history_[-1, "train_loss"]
    )
    np.testing.assert_allclose(
        whole.history_[-1, "valid_energy_rmse"],
        n_atoms * per_atom.history_[-1, "valid_energy_rmse"],
    )
    scales = [
        SoapBPNNRegressor(**shared, per_structure_targets=names)
        .fit(X, y["energy"])
        .scaler_.scale_["energy"]
        for names in ([], ["energy"])
    ]
    np.testing.assert_allclose(scales[1], n_atoms * scales[0])


@pytest.mark.parametrize("name", ["stress", "dipole", "gaps", "quadrupole"])
def test_per_structure_targets_beside_the_energy(alloys, name):
    """The loss of a target that is not divided by the number of atoms, here four throughout.

    That of an intensive target never is.
    """
    X, y = alloys
    chosen = [k for k, atoms in enumerate(X) if len(atoms) == 4]
    X, y = [X[k] for k in chosen], label_alloys(X, y)[chosen]
    y = Targets(kinds=y.kinds, energy=y["energy"], **{name: y[name]})
    shared = {**SMALL, "dtype": "float64", "num_epochs": 1, "learning_rate": 1e-12}
    shared["loss"] = {"energy": {"weight": 0.0, "stress": {"weight": 1.0}}}
    shared["scale_targets"] = False
    losses = [
        SoapBPNNRegressor(**shared, per_structure_targets=names).fit(X, y).history_
        for names in ([], [name])
    ]
    factor = 1 if y.kinds[name].intensive else 4**2
    for key in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(losses[1][-1, key], factor * losses[0][-1, key], rtol=1e-9)


@pytest.fixture(scope="module")
def base_prediction(molecules):
    X, y = molecules
    return SoapBPNNRegressor(**SMALL, num_epochs=2).fit(X[:20], y[:20]).predict(X[:20])


@pytest.mark.parametrize(
    "options",
    [
        {"heads": {"energy": "linear"}},
        {"zbl": True},
        {"species_encoding": "alchemical"},
        {"long_range": True},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 0, "heads": {"energy": "linear"}},
        {"layernorm": False},
        {"scale_targets": False},
        {"remove_composition_contribution": False, "num_epochs": 1},
        {"loss": "mae"},
        {"loss": {"energy": {"type": "huber", "delta": 0.1}}},
        {"loss": {"energy": {"reduction": "sum"}}},
        {"batch_size": 3},
        {"warmup_fraction": 0.5},
        {"learning_rate": 1e-2},
        {"cutoff_radius": 3.0},
        {"cutoff_width": 1.0},
        {"max_radial": 3},
        {"max_angular": 1},
        {"radial_scale": 2.0},
        {"num_neurons_per_layer": 5},
        {"random_state": 1},
        {"validation_fraction": 0.5},
        {"fixed_scaling_weights": {"energy": 3.0}},
        {"fixed_composition_weights": {"H": -10.0, "C": -20.0, "O": -30.0}},
        {"net_params": {"optimizer": torch.optim.SGD}},
    ],
    ids=str,
)
def test_no_option_is_ignored(molecules, base_prediction, options):
    X, y = molecules
    changed = SoapBPNNRegressor(**{**SMALL, "num_epochs": 2, **options}).fit(X[:20], y[:20])
    prediction = changed.predict(X[:20])
    assert np.isfinite(prediction).all()
    assert not np.array_equal(prediction, base_prediction)


def predict_quadrupoles(alloys, **options):
    X, y = alloys[0][:4], label_alloys(*alloys)[:4]
    y = Targets(kinds=y.kinds, energy=y["energy"], quadrupole=y["quadrupole"])
    shared = {**SMALL, "species_encoding": "alchemical", "long_range": True, "num_epochs": 1}
    model = SoapBPNNRegressor(**{**shared, **options}).fit(X, y)
    return model.predict(X, targets=["quadrupole"])["quadrupole"]


@pytest.fixture(scope="module")
def base_quadrupoles(alloys):
    return predict_quadrupoles(alloys)


@pytest.mark.parametrize(
    "options",
    [
        {"n_pseudo_species": 2},
        {"add_lambda_basis": False},
        {"heads": {"quadrupole": "linear"}},
        {"loss": {"quadrupole": "mae"}},
        {"loss": {"quadrupole": {"weight": 3.0}}},
        {"use_ewald": True},
        {"smearing": 1.0},
        {"kspace_resolution": 0.9},
        {"interpolation_nodes": 3},
        {"fixed_scaling_weights": {"quadrupole": [0.1, 5.0]}},
        {"fixed_composition_weights": {"quadrupole": {"Cu": 3.0}}},
    ],
    ids=str,
)
def test_no_option_of_tensors_and_long_range_is_ignored(alloys, base_quadrupoles, options):
    quadrupoles = predict_quadrupoles(alloys, **options)
    assert np.isfinite(quadrupoles).all()
    assert not np.array_equal(quadrupoles, base_quadrupoles)


# --- warm start ----------------------------------------------------------------------------------


def test_warm_start_goes_on(molecules):
    """Two fits learn from where the first one ended, with its baseline and its scale."""
    X, y = molecules
    shared = {**LEARNING, "num_epochs": 30, "validation_fraction": 0, "batch_size": 4}
    model = SoapBPNNRegressor(**shared, warm_start=True).fit(X, y)
    first = model.history_[:, "train_loss"]
    steps = model.baseline_, model.scaler_, model.featurizer_
    model.set_params(learning_rate=1e-4).fit(X, y)
    again = model.history_[:, "train_loss"]
    assert len(again) == 30
    assert again[0] < 0.5 * first[0]
    assert again[-1] < again[0] < 1.1 * first[-1]
    assert (model.baseline_, model.scaler_, model.featurizer_) == steps
    model.set_params(**shared, warm_start=False).fit(X, y)
    assert model.history_[:, "train_loss"] == first


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"species_encoding": "alchemical", "zbl": True},
        {"long_range": True},
        {"num_hidden_layers": 0},
    ],
    ids=str,
)
def test_warm_start_without_steps_changes_nothing(alloys, options):
    """A learning rate next to zero: what was learnt before is still there, other labels or not."""
    X, y = alloys
    y = label_alloys(X, y)
    model = SoapBPNNRegressor(**SMALL, num_epochs=2, dtype="float64", warm_start=True, **options)
    before = model.fit(X, y).predict(X, targets=list(y.names))
    model.set_params(learning_rate=1e-14).fit(X[:5], y[:5])
    after = model.predict(X, targets=list(y.names))
    for name in y.names:
        size = np.abs(before.flatten(name)).max()
        np.testing.assert_allclose(
            after.flatten(name), before.flatten(name), rtol=1e-8, atol=1e-8 * size
        )


def test_warm_start_of_a_model_that_is_not_fitted_is_a_start(molecules):
    X, y = molecules
    warm, cold = (
        SoapBPNNRegressor(**SMALL, num_epochs=1, warm_start=warm).fit(X, y).predict(X)
        for warm in (True, False)
    )
    assert np.array_equal(warm, cold)


def test_random_state_fixes_the_fit_to_the_bit(molecules):
    X, y = molecules
    first, second = (SoapBPNNRegressor(**SMALL, num_epochs=2).fit(X, y) for _ in range(2))
    assert np.array_equal(first.predict(X), second.predict(X))
    assert first.history_[:, "train_loss"] == second.history_[:, "train_loss"]


def test_nothing_global_changes(molecules, capsys):
    X, y = molecules
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    settings = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    SoapBPNNRegressor(**{**SMALL, "random_state": None}, num_epochs=1).fit(X[:9], y[:9]).predict(X)
    assert torch.equal(before[0], torch.get_rng_state())
    assert settings == (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )
    assert capsys.readouterr() == ("", "")


def test_interrupting_keeps_the_best_epoch_so_far(molecules):
    class Interrupt(Callback):
        def on_batch_begin(self, net, training=False, **kwargs):
            if training and len(net.history) == 4:
                raise KeyboardInterrupt

    X, y = molecules
    model = SoapBPNNRegressor(**SMALL, num_epochs=50, callbacks=[Interrupt()])
    with pytest.warns(ConvergenceWarning, match="interrupted after 3 of 50"):
        model.fit(X, y)
    assert np.isfinite(model.predict(X)).all()


class ControlC(Callback):
    """Send the signal of Ctrl-C in the third epoch, while a callback is called."""

    def __init__(self, where):
        self.where = where

    def send(self, net, where):
        if where == self.where and len(net.history) == 3:
            signal.raise_signal(signal.SIGINT)

    def on_epoch_begin(self, net, **kwargs):
        self.send(net, "on_epoch_begin")

    def on_batch_end(self, net, **kwargs):
        self.send(net, "on_batch_end")

    def on_epoch_end(self, net, **kwargs):
        self.send(net, "on_epoch_end")


@pytest.mark.parametrize("where", ["on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_interrupts_are_told_from_callbacks_that_end_a_fit(molecules, where):
    """In skorch both are KeyboardInterrupt."""
    X, y = molecules
    options = {**SMALL, "num_epochs": 30}
    with pytest.warns(ConvergenceWarning, match="interrupted after [23] of 30"):
        model = SoapBPNNRegressor(**options, callbacks=[ControlC(where)]).fit(X[:20], y[:20])
    assert np.isfinite(model.predict(X)).all()
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=1e9)
    assert len(SoapBPNNRegressor(**options, callbacks=[stop]).fit(X[:20], y[:20]).history_) < 30


def test_learning_rate_warms_up_and_follows_a_cosine():
    factor = WarmupCosine(110, 0.1)
    np.testing.assert_allclose([factor(step) for step in (0, 5, 10)], [0, 5 / 11, 10 / 11])
    np.testing.assert_allclose(factor(11), 1.0)
    np.testing.assert_allclose(factor(110), 0.0, atol=1e-12)
    assert all(factor(step) > factor(step + 1) for step in range(11, 110))


def test_divergence_is_reported(molecules):
    X, y = molecules
    model = SoapBPNNRegressor(**{**SMALL, "learning_rate": 1e30}, num_epochs=3)
    with pytest.warns(ConvergenceWarning, match="learning_rate"):
        model.fit(X[:20], y[:20])


def test_interrupting_the_first_epoch_ends_the_program(molecules):
    class Interrupt(Callback):
        def on_batch_begin(self, net, **kwargs):
            raise KeyboardInterrupt

    X, y = molecules
    with pytest.raises(KeyboardInterrupt):
        SoapBPNNRegressor(**SMALL, num_epochs=2, callbacks=[Interrupt()]).fit(X, y)


def test_callbacks_of_skorch_work(molecules):
    X, y = molecules
    stop = EarlyStopping(monitor="valid_metric", patience=2, sink=lambda text: None)
    model = SoapBPNNRegressor(**SMALL, num_epochs=60, learning_rate=0.3, callbacks=[stop])
    model.fit(X[:20], y[:20])
    assert len(model.history_) < 60


def test_an_epoch_that_diverged_is_never_the_best(molecules):
    class Spoil(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                for parameter in net.module_.parameters():
                    parameter.data.fill_(np.nan)

    X, y = molecules
    model = SoapBPNNRegressor(**SMALL, num_epochs=4, callbacks=[Spoil()])
    with pytest.warns(ConvergenceWarning):
        model.fit(X, Targets(energy=1e4 * y["energy"]))
    # nor is there one after it
    assert model.history_[:, "valid_metric_best"][2:] == [False]
    assert np.isfinite(model.predict(X)).all()


def test_validation_structures_without_labels_pick_nothing(molecules):
    X, y = molecules
    seed = int(np.random.RandomState(0).randint(2**31 - 1, size=3)[0])
    _, held_out = train_test_split(np.arange(10), test_size=1, random_state=seed)
    energy = y["energy"][:10].copy()
    energy[held_out] = np.nan
    model = SoapBPNNRegressor(**SMALL, num_epochs=3)
    with pytest.warns(UserWarning, match="held out for validation"):
        model.fit(X[:10], Targets(energy=energy))
    assert "valid_metric" not in model.history_[-1]


@pytest.mark.parametrize("batch_size", [1, np.int64(8)])
def test_weights_act_whatever_the_size_of_the_batch(molecules, batch_size):
    """Half of the structures are shifted; heavy weights pull the prediction to them."""
    X, y = molecules[0][::2], molecules[1][::2]
    half = np.arange(len(X)) < 8
    shared = {**LEARNING, "batch_size": batch_size, "validation_fraction": 0, "num_epochs": 40}
    fixed = {"fixed_scaling_weights": {"energy": 0.1}}
    baseline = CompositionBaseline().fit(X, y)
    fixed["fixed_composition_weights"] = dict(zip(baseline.elements_, baseline.coef_["energy"]))
    labels = y["energy"] + np.where(half, 1.0, -1.0)
    errors = [
        np.mean(
            SoapBPNNRegressor(**shared, **fixed).fit(X, labels, sample_weight=weight).predict(X)
            - y["energy"]
        )
        for weight in (np.where(half, 100.0, 1.0), np.where(half, 1.0, 100.0))
    ]
    assert errors[0] > 0.2
    assert errors[1] < -0.2


def test_mean_of_the_weights_does_not_matter(molecules):
    X, y = molecules
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    models = [
        SoapBPNNRegressor(**SMALL, num_epochs=2, dtype="float64").fit(X, y, sample_weight=w)
        for w in (weight, 1000 * weight)
    ]
    first, second = (model.predict(X) for model in models)
    np.testing.assert_allclose(first, second, rtol=1e-9)


def test_files_hold_the_weights_once(molecules):
    X, y = molecules
    model = SoapBPNNRegressor(num_epochs=1, random_state=0).fit(X[:8], y[:8])
    size = sum(p.nbytes for p in model.module_.parameters())
    assert len(pickle.dumps(model)) < 2 * size


def test_structures_of_zero_weight_may_be_all_that_is_left_to_train_on(molecules):
    X, y = molecules
    seed = int(np.random.RandomState(0).randint(2**31 - 1, size=3)[0])
    _, held_out = train_test_split(np.arange(10), test_size=1, random_state=seed)
    weight = np.zeros(10)
    weight[held_out] = 1.0
    model = SoapBPNNRegressor(**SMALL, num_epochs=2)
    with pytest.warns(UserWarning, match="label .*, and a weight, are held out for"):
        model.fit(X[:10], y[:10], sample_weight=weight)
    assert model.history_[:, "train_loss"] == [0.0, 0.0]
    assert np.isfinite(model.predict(X[:10])).all()
