"""partial_fit and warm_start: what is kept, what starts anew, and what new targets get."""

import pickle

import numpy as np
import pytest
import torch
from ase.build import molecule
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
)
from sklearn_soapbpnn.preprocessing import ZBLBaseline

KINDS = {
    "dipole": TargetKind.vector(),
    "charges": TargetKind.scalar(per_atom=True),
    "gap": TargetKind.scalar(intensive=True),
}
FIT = {
    **{"max_radial": 2, "max_angular": 1, "num_neurons_per_layer": 4, "random_state": 0},
    **{"num_epochs": 4, "learning_rate": 1e-2, "dtype": "float64"},
}
STILL = {"num_epochs": 1, "learning_rate": 1e-13}


class Watch(Callback):
    """Keep the learning rate of every step, the optimizer's memory, and the weights of epochs."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.rates_, self.weights_ = [], []
        self.memory_ = len(net.optimizer_.state)
        self.n_train_, self.n_valid_ = len(X), 0 if y is None else len(y)

    def on_batch_begin(self, net, training=True, **kwargs):
        if training:
            self.rates_.append(net.optimizer_.param_groups[0]["lr"])

    def on_epoch_end(self, net, **kwargs):
        self.weights_.append(copy_weights(net))


@pytest.fixture(scope="module")
def X():
    names = ("H2O", "CH3CH2OH", "CH4", "CO", "H2CO", "C2H2", "CH3OH", "H2", "O2", "CO2")
    frames = [molecule(name) for name in names]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    return frames


def draw(X, *names, seed=0):
    """Labels that have a scale and a baseline of their own."""
    rng = np.random.default_rng(seed)
    n_atoms = np.array([len(atoms) for atoms in X])
    columns = {
        "energy": -10.0 * n_atoms + rng.normal(size=len(X)),
        "dipole": 0.1 * rng.normal(size=(len(X), 3)),
        "charges": [atoms.numbers + 0.3 * rng.normal(size=len(atoms)) for atoms in X],
        "gap": [5.0 + np.mean(atoms.numbers) + 0.3 * rng.normal() for atoms in X],
    }
    kinds = {name: kind for name, kind in KINDS.items() if name in names}
    return Targets(kinds=kinds, **{name: columns[name] for name in names})


def copy_weights(net):
    return {name: value.numpy().copy() for name, value in net.module_.state_dict().items()}


def assert_same(model, other):
    first, second = copy_weights(model.net_), copy_weights(other.net_)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name
    losses = [m.history_[:, "train_loss"] for m in (model, other)]
    assert losses[0] == losses[1]


def predict(model, X, names=("energy", "forces")):
    prediction = model.predict(X, targets=list(names))
    return np.concatenate([prediction.flatten(name).ravel() for name in names])


# --- what is kept and what starts anew -----------------------------------------------------------


def test_without_a_fit_before_it_is_fit(X):
    y = draw(X, "energy")
    assert_same(SoapBPNNRegressor(**FIT).partial_fit(X, y), SoapBPNNRegressor(**FIT).fit(X, y))


def test_it_is_a_fit_with_warm_start(X):
    y, more = draw(X, "energy"), draw(X, "energy", "dipole", seed=1)
    weight, groups = np.arange(1.0, 11.0), np.arange(10) % 4
    partial = SoapBPNNRegressor(**FIT).fit(X, y)
    partial.partial_fit(X, more, sample_weight=weight, groups=groups)
    warm = SoapBPNNRegressor(**FIT, warm_start=True).fit(X, y)
    warm.fit(X, more, sample_weight=weight, groups=groups)
    assert_same(partial, warm)
    assert np.array_equal(predict(partial, X), predict(warm, X))
    validated = SoapBPNNRegressor(**FIT).fit(X, y).partial_fit(X, y, X_val=X[:3], y_val=y[:3])
    assert_same(
        validated, warm.set_params(warm_start=False).fit(X, y).partial_fit(X, y, X[:3], y[:3])
    )


def test_steps_are_kept(X):
    model = SoapBPNNRegressor(**FIT, zbl=True).fit(X, draw(X, "energy"))
    names = ("zbl_", "baseline_", "scaler_", "featurizer_", "elements_")
    before = {name: getattr(model, name) for name in names}
    coef = model.baseline_.coef_["energy"].copy()
    scale = model.scaler_.scale_["energy"]
    model.partial_fit(X[:5], draw(X[:5], "energy", seed=1))
    for name, value in before.items():
        now = getattr(model, name)
        assert np.array_equal(now, value) if name == "elements_" else now is value
    assert np.array_equal(model.baseline_.coef_["energy"], coef)
    assert model.scaler_.scale_["energy"] == scale


def test_weights_are_kept(X):
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT).fit(X, y)
    before = predict(model, X)
    model.set_params(**STILL).partial_fit(X[:5], draw(X[:5], "energy", seed=1))
    np.testing.assert_allclose(predict(model, X), before, rtol=1e-9, atol=1e-10)


def test_optimizer_and_schedule_start_anew(X):
    """The learning rate warms up again, for the steps of the new data."""
    watch = Watch()
    options = {**FIT, "batch_size": 1, "warmup_fraction": 0.25, "callbacks": [watch]}
    model = SoapBPNNRegressor(**options).fit(X, draw(X, "energy"))
    first = list(watch.rates_)
    assert first[:10] == pytest.approx(np.arange(10) / 9 * 1e-2)
    assert first[9] == max(first)
    assert first[-1] < 0.05 * first[9]
    model.partial_fit(X, draw(X, "energy", seed=1))
    assert watch.rates_ == first
    assert watch.memory_ == 0
    model.set_params(num_epochs=2, learning_rate=1e-3).partial_fit(X, draw(X, "energy"))
    assert len(watch.rates_) == 18
    assert max(watch.rates_) == pytest.approx(1e-3)
    assert watch.rates_[0] == 0.0


def test_history_and_best_epoch_start_anew(X):
    """What is kept is the best epoch of this fit, even where the one before was better."""
    y, watch = draw(X, "energy"), Watch()
    model = SoapBPNNRegressor(**{**FIT, "num_epochs": 30}, callbacks=[watch])
    model.fit(X, y, X_val=X, y_val=y)
    best_before = min(model.history_[:, "valid_metric"])
    model.set_params(num_epochs=3, learning_rate=0.1)
    model.partial_fit(X, draw(X, "energy", seed=1), X_val=X, y_val=y)
    assert model.history_[:, "epoch"] == [1, 2, 3]
    metrics = model.history_[:, "valid_metric"]
    assert min(metrics) > best_before
    best = watch.weights_[int(np.argmin(metrics))]
    for name, value in copy_weights(model.net_).items():
        assert np.array_equal(value, best[name])


def test_an_integer_seed_holds_out_the_same_structures(X):
    """So what was learnt from is never validated on; without a seed it may be."""

    class Rows(Callback):
        def on_train_begin(self, net, X=None, y=None, **kwargs):
            self.rows_ = [part.labels["gap"].values.flatten().tolist() for part in (X, y)]

    y = Targets(kinds={"gap": KINDS["gap"]}, gap=np.arange(10.0))
    rows = Rows()
    model = SoapBPNNRegressor(
        **FIT, callbacks=[rows], scale_targets=False, remove_composition_contribution=False
    )
    model.fit(X, y)
    first = rows.rows_
    model.partial_fit(X, y)
    assert rows.rows_ == first


def test_learning_goes_on(X):
    y = draw(X, "energy")
    options = {**FIT, "validation_fraction": 0, "warmup_fraction": 0, "num_epochs": 20}
    model = SoapBPNNRegressor(**{**options, "learning_rate": 1e-3}).fit(X, y)
    losses = [model.history_[-1, "train_loss"]]
    for _ in range(3):
        losses.append(model.partial_fit(X, y).history_[-1, "train_loss"])
    assert losses == sorted(losses, reverse=True)


def test_clone_drops_all(X):
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT).fit(X, y).partial_fit(X, y)
    copy = clone(model)
    with pytest.raises(NotFittedError):
        copy.predict(X)
    assert not [name for name in vars(copy) if name.endswith("_") or name.startswith("_")]
    assert_same(copy.partial_fit(X, y), SoapBPNNRegressor(**FIT).fit(X, y))


def test_a_pickled_model_goes_on_as_the_model_does(X):
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    more = draw(X, "energy", "dipole", seed=1)
    assert_same(copy.partial_fit(X, more), model.partial_fit(X, more))


def test_fit_starts_afresh_after_partial_fit(X):
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT).fit(X, y).partial_fit(X, draw(X, "dipole"))
    assert_same(model.fit(X, y), SoapBPNNRegressor(**FIT).fit(X, y))
    assert model.targets_ == ("energy",)


def test_a_warm_start_that_was_killed_goes_on(X, tmp_path):
    """From the checkpoint, if the model that it started from is the same."""

    class PowerCut(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if net.history[-1]["epoch"] == 4:
                raise ZeroDivisionError

    y, more = draw(X, "energy"), draw(X, "energy", "gap", seed=1)
    model = SoapBPNNRegressor(**FIT, warm_start=True).fit(X, y)
    saved = pickle.dumps(model)
    model.fit(X, more)
    again = pickle.loads(saved)
    again.set_params(checkpoint_dir=tmp_path, checkpoint_interval=1, callbacks=[PowerCut()])
    with pytest.raises(ZeroDivisionError):
        again.fit(X, more)
    again.set_params(callbacks=None)
    assert_same(again.fit(X, more, resume=True), model)


# --- new targets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"species_encoding": "alchemical"}, {"zbl": True}], ids=str
)
def test_new_targets_change_nothing_of_the_old(X, options):
    """With a learning rate next to zero: what is predicted without steps of the optimizer."""
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT, **options).fit(X, y)
    before = predict(model, X, ("energy", "forces", "energies"))
    new = draw(X, "energy", "gap", "dipole", "charges")
    model.set_params(**STILL).partial_fit(X, new)
    after = predict(model, X, ("energy", "forces", "energies"))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-10)
    assert model.targets_ == ("energy", "gap", "dipole", "charges")
    assert list(model.kinds_) == ["energy", "gap", "dipole", "charges"]


@pytest.mark.parametrize("with_the_old", [True, False])
def test_new_targets_get_baseline_and_scale(X, with_the_old):
    """As a fit of their own would give them, from the new data."""
    names = ["gap", "dipole", "charges"]
    model = SoapBPNNRegressor(**FIT).fit(X, draw(X, "energy"))
    coef, scale = model.baseline_.coef_["energy"], model.scaler_.scale_["energy"]
    new = draw(X, *["energy"] * with_the_old, *names, seed=1)
    weight = np.linspace(1.0, 2.0, len(X))
    model.partial_fit(X, new, sample_weight=weight)
    baseline = CompositionBaseline().fit(X, new, sample_weight=weight)
    scaler = TargetScaler().fit(baseline.transform(X), new, sample_weight=weight)
    assert model.baseline_.coef_["energy"] is coef
    assert model.scaler_.scale_["energy"] == scale
    assert model.baseline_.coef_.keys() == {"energy", "gap", "charges"}
    for name in ("gap", "charges"):
        np.testing.assert_allclose(model.baseline_.coef_[name], baseline.coef_[name], rtol=1e-12)
    for name in names:
        np.testing.assert_allclose(model.scaler_.scale_[name], scaler.scale_[name], rtol=1e-12)
    # about 5, which no network of these few epochs could have learnt
    gap = model.predict(X, targets=["gap"])["gap"]
    np.testing.assert_allclose(gap, new["gap"], atol=0.3 * np.ptp(new["gap"]))


def test_new_targets_are_learnt(X):
    names = ["gap", "dipole", "charges"]
    model = SoapBPNNRegressor(**FIT).fit(X, draw(X, "energy"))
    model.set_params(num_epochs=100, validation_fraction=0, warmup_fraction=0)
    y = draw(X, *names)
    model.partial_fit(X, y)
    losses = model.history_[:, "train_loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_new_heads(X):
    model = SoapBPNNRegressor(**FIT, heads={"energy": "linear"}).fit(X, draw(X, "energy"))
    model.set_params(heads={"energy": "linear", "gap": "linear"})
    model.partial_fit(X, draw(X, "gap", "dipole"))
    widths = {
        name: model.last_layer_features(X[:1], name)[0].shape
        for name in ("energy", "gap", "dipole")
    }
    assert widths["energy"] == widths["gap"]
    fresh = SoapBPNNRegressor(**FIT, heads={"gap": "linear"}).fit(X, draw(X, "gap", "dipole"))
    for name in ("gap", "dipole"):
        assert fresh.last_layer_features(X[:1], name)[0].shape == widths[name]


def test_energy_may_come_last(X):
    """The main target is the energy from then on, with forces."""
    model = SoapBPNNRegressor(**FIT).fit(X, draw(X, "dipole"))
    assert model.predict(X).shape == (10, 3)
    before = predict(model, X, ["dipole"])
    y = draw(X, "energy")
    forces = [np.zeros((len(atoms), 3)) for atoms in X]
    model.set_params(**STILL).partial_fit(X, Targets(energy=y["energy"], forces=forces))
    assert model.predict(X).shape == (10,)
    assert predict(model, X, ["forces"]).shape == (3 * sum(map(len, X)),)
    np.testing.assert_allclose(predict(model, X, ["dipole"]), before, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("names", [["energy", "forces"], ["forces"]], ids=str)
def test_a_new_energy_has_the_scale_that_its_derivatives_need(X, names):
    """It is that of a first fit, also if there are labels of forces alone."""
    rng = np.random.default_rng(0)
    columns = {"energy": draw(X, "energy")["energy"]}
    columns["forces"] = [50 * rng.normal(size=(len(atoms), 3)) for atoms in X]
    y = Targets(**{name: columns[name] for name in names})
    model = SoapBPNNRegressor(**FIT).fit(X, draw(X, "dipole")).partial_fit(X, y)
    first = SoapBPNNRegressor(**FIT).fit(X, y)
    assert model.scaler_.scale_["energy"] == first.scaler_.scale_["energy"] > 90
    assert model.targets_ == ("dipole", *names)


def test_targets_that_are_left_out_can_be_predicted(X):
    model = SoapBPNNRegressor(**FIT).fit(X, draw(X, "energy", "dipole", "charges"))
    model.partial_fit(X, draw(X, "charges"))
    prediction = model.predict(X, targets=["energy", "forces", "dipole", "charges"])
    assert all(np.isfinite(prediction.flatten(name)).all() for name in prediction.names)
    keys = model.history_[-1].keys()
    assert "valid_charges_rmse" in keys
    assert "valid_dipole_rmse" not in keys


@pytest.mark.parametrize("names", [["gap"], ["charges"], ["energy", "gap"]], ids=str)
def test_new_targets_of_structures_with_fewer_elements(X, names):
    model = SoapBPNNRegressor(**FIT).fit(X, draw(X, "energy"))
    water = [X[0], molecule("H2O"), molecule("H2"), molecule("O2")]
    model.partial_fit(water, draw(water, *names))
    assert np.isfinite(predict(model, water, names)).all()
    assert np.isfinite(predict(model, X, ["energy"])).all()


OLD_ONLY = "a parameter that names an old target is refused where y lacks it, and when it is unset"


@pytest.mark.parametrize(
    "options",
    [
        {"heads": {"energy": "linear"}},
        {"net_params": {"optimizer": torch.optim.AdamW}},
        pytest.param({"fixed_composition_weights": {"H": -1.0}}),
        pytest.param({"fixed_scaling_weights": {"energy": 0.1}}),
        pytest.param({"per_structure_targets": ["energy"]}),
        pytest.param({"loss": {"energy": "mae"}}),
        {"zbl": True},
    ],
    ids=str,
)
def test_parameters_of_old_targets_may_stay(X, options):
    model = SoapBPNNRegressor(**FIT, **options).fit(X, draw(X, "energy"))
    model.partial_fit(X, draw(X, "dipole"))
    assert np.isfinite(predict(model, X, ["energy", "dipole"])).all()


@pytest.mark.parametrize(
    "options",
    [
        {"fixed_composition_weights": {"H": -10.0}},
        {"fixed_scaling_weights": {"energy": 0.1}},
        {"per_structure_targets": ["energy"]},
    ],
    ids=str,
)
def test_parameters_of_old_targets_that_are_learnt_on(X, options):
    model = SoapBPNNRegressor(**FIT, **options).fit(X, draw(X, "energy"))
    model.partial_fit(X, draw(X, "energy", "gap"))
    assert np.isfinite(predict(model, X, ["energy", "gap"])).all()


# --- what is refused -----------------------------------------------------------------------------

CHANGES = {
    **{"cutoff_radius": 4.0, "cutoff_width": 0.4, "max_radial": 3, "max_angular": 2},
    **{"num_hidden_layers": 1, "num_neurons_per_layer": 5, "layernorm": False},
    **{"add_lambda_basis": False, "heads": {"energy": "linear"}, "zbl": True},
    **{"species_encoding": "alchemical", "n_pseudo_species": 3, "long_range": True},
    "n_networks": 2,
    **{"dtype": "float32", "scale_targets": False, "remove_composition_contribution": False},
    **{"fixed_scaling_weights": {"energy": 1.0}, "fixed_composition_weights": {"H": 1.0}},
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_what_weights_stand_for_cannot_change(X, name):
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT).fit(X, y)
    before, history = predict(model, X), model.history_
    model.set_params(**{name: CHANGES[name]})
    with pytest.raises(ValueError, match=f"{name}=.*but the previous fit.* had"):
        model.partial_fit(X, y)
    model.set_params(**{name: clone(SoapBPNNRegressor(**FIT)).get_params()[name]})
    assert np.array_equal(predict(model, X), before)
    assert model.history_ is history


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1e-3, "batch_size": 3, "num_epochs": 2, "warmup_fraction": 0.5},
        {"loss": {"energy": {"type": "huber", "forces": "mae"}}, "best_model_metric": "loss"},
        {"validation_fraction": 0.3, "random_state": 4},
        {"early_stopping": True, "n_iter_no_change": 1},
        {"net_params": {"optimizer": torch.optim.AdamW}},
        {"device": "cpu", "verbose": 0, "log_mae": True, "log_separate_blocks": True},
        {"heads": {"energy": "mlp"}},
    ],
    ids=str,
)
def test_everything_else_may_change(X, changes):
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT).fit(X, y).set_params(**changes)
    forces = [np.zeros((len(atoms), 3)) for atoms in X]
    model.partial_fit(X, Targets(energy=y["energy"], forces=forces))
    assert np.isfinite(predict(model, X)).all()


def test_equal_arrays_are_no_change(X):
    kinds = {"levels": TargetKind.spherical([(0, 1), (1, 1)])}
    y = Targets(kinds=kinds, levels=np.random.default_rng(0).normal(size=(10, 4)))
    scales = {"levels": np.array([0.1, 0.2])}
    model = SoapBPNNRegressor(**FIT, fixed_scaling_weights=scales).fit(X, y)
    model.set_params(fixed_scaling_weights={"levels": np.array([0.1, 0.2])}).partial_fit(X, y)


def test_equal_numbers_of_other_types_are_no_change(X, tmp_path):
    """Searches and files of options hand over NumPy's numbers, and integers for lengths."""
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT, cutoff_radius=5, zbl=True).fit(X, y)
    model.set_params(
        cutoff_radius=np.float64(5.0),
        max_radial=np.int64(2),
        num_neurons_per_layer=np.int32(4),
        layernorm=np.bool_(True),
        dtype=np.str_("float64"),
    )
    before = predict(model, X)
    model.save(tmp_path / "model")
    assert np.array_equal(predict(SoapBPNNRegressor.load(tmp_path / "model"), X), before)
    model.partial_fit(X, y)


def test_data_that_cannot_be_gone_on_with(X):
    y = draw(X, "energy", "charges")
    model = SoapBPNNRegressor(**FIT).fit(X, y)
    before = predict(model, X, ["energy", "charges"])
    other = [molecule("SH2"), molecule("HCl")]
    with pytest.raises(ValueError, match=r"\['S', 'Cl'\]"):
        model.partial_fit(other, draw(other, "energy"))
    kinds = {"charges": TargetKind.vector(per_atom=True)}
    vectors = Targets(kinds=kinds, charges=[atoms.positions for atoms in X])
    with pytest.raises(ValueError, match="Target 'charges' is .*but the previous fit"):
        model.partial_fit(X, vectors)
    with pytest.raises(ValueError, match="X carries"):
        model.partial_fit(CompositionBaseline().fit(X, y).transform(X), y)
    assert np.array_equal(predict(model, X, ["energy", "charges"]), before)


# --- in a Pipeline -------------------------------------------------------------------------------


def make_pipeline(**options):
    steps = {
        "baseline": CompositionBaseline(),
        "scaler": TargetScaler(),
        "soap": SoapFeaturizer(max_radial=2, max_angular=1, dtype="float64"),
        "bpnn": SoapBPNNRegressor(**{**FIT, **options}),
    }
    return Pipeline(list(steps.items()))


def test_pipeline(X):
    """Its steps stay as they are if the last one goes on behind them."""
    y, more = draw(X, "energy"), draw(X[:6], "energy", seed=1)
    pipe = make_pipeline().fit(X, y)
    alone = SoapBPNNRegressor(**FIT).fit(X, y)
    coef = pipe["baseline"].coef_["energy"].copy()
    pipe["bpnn"].partial_fit(pipe[:-1].transform(X[:6]), more)
    assert np.array_equal(pipe["baseline"].coef_["energy"], coef)
    assert np.array_equal(pipe.predict(X), alone.partial_fit(X[:6], more).predict(X))


def start_warm(pipe):
    names = [name for name in pipe.get_params() if name.endswith("__warm_start")]
    assert len(names) == len(pipe)
    return pipe.set_params(**dict.fromkeys(names, True))


@pytest.mark.parametrize("zbl", [False, True])
def test_every_step_of_a_pipeline_starts_warm(X, zbl):
    """On other data, with targets that are new, it is what the regressor does alone."""
    y, more = draw(X, "energy"), draw(X[:6], "energy", "charges", "dipole", seed=1)
    pipe = make_pipeline()
    if zbl:
        pipe.steps.insert(0, ("zbl", ZBLBaseline()))
    start_warm(pipe).fit(X, y).fit(X[:6], more)
    alone = SoapBPNNRegressor(**FIT, zbl=zbl).fit(X, y).partial_fit(X[:6], more)
    names = ["energy", "charges", "dipole"]
    assert np.array_equal(predict(pipe, X, names), predict(alone, X, names))


def test_the_first_baseline_of_a_pipeline_may_come_late(X):
    """Dipoles have none."""
    y, more = draw(X, "dipole"), draw(X[:6], "energy", "dipole", seed=1)
    pipe = start_warm(make_pipeline()).fit(X, y).fit(X[:6], more)
    alone = SoapBPNNRegressor(**FIT).fit(X, y).partial_fit(X[:6], more)
    names = ["energy", "dipole"]
    assert np.array_equal(predict(pipe, X, names), predict(alone, X, names))
    assert np.abs(pipe.predict(X[:6]) - more["energy"]).max() < 20  # of some -50
    # of targets that have one already it is refused, and other steps predict nothing
    with pytest.raises(ValueError, match=r"carry \[\], but X carries \['offset'\]"):
        alone.partial_fit(pipe["baseline"].transform(X), draw(X, "charges"))
    with pytest.raises(ValueError, match="X lacks the offset"):
        pipe["bpnn"].predict(pipe[1:-1].transform(X))


@pytest.mark.parametrize("cold", [("baseline", "scaler"), ("baseline",), ("scaler",)], ids=str)
def test_cold_steps_under_a_network_that_goes_on(X, cold):
    """It would meet another baseline and scale, or none at all."""
    pipe = start_warm(make_pipeline()).fit(X, draw(X, "energy"))
    for name in cold:
        pipe.set_params(**{f"{name}__warm_start": False})
    before = clone(pipe["bpnn"]).set_params(warm_start=False)
    message = "that it carried in fit. Set warm_start=True on every step"
    with pytest.raises(ValueError, match=message):
        pipe.fit(X, draw(X, "charges"))
    if "scaler" in cold:
        with pytest.raises(ValueError, match="another scale of 'energy'.*warm_start=True on every"):
            pipe.fit(X[:6], draw(X[:6], "energy", seed=1))
    assert before.get_params() == clone(pipe["bpnn"]).set_params(warm_start=False).get_params()
    # nor may it predict behind them
    with pytest.raises(ValueError, match="in fit. Predict through the Pipeline"):
        pipe.predict(X)


def test_saved_models_know_what_they_carried(X, tmp_path):
    pipe = start_warm(make_pipeline()).fit(X, draw(X, "energy"))
    pipe["bpnn"].save(tmp_path / "model")
    loaded = SoapBPNNRegressor.load(tmp_path / "model")
    steps = start_warm(make_pipeline())[:-1].fit(X[:6], draw(X[:6], "energy", seed=1))
    with pytest.raises(ValueError, match="another scale of 'energy'"):
        loaded.partial_fit(steps.transform(X), draw(X, "energy"))
    other = TargetScaler().fit(X, draw(X, "charges")).transform(pipe["baseline"].transform(X))
    with pytest.raises(ValueError, match="X lacks the scale of"):
        loaded.predict(pipe["soap"].transform(other))
    more = draw(X, "energy", "charges", seed=1)
    X_more = pipe[:-1].fit(X, more).transform(X)
    expected = pipe["bpnn"].partial_fit(X_more, more).predict(X_more)
    assert np.array_equal(loaded.partial_fit(X_more, more).predict(X_more), expected)


def test_steps_that_start_warm_refuse_new_elements(X):
    pipe = start_warm(make_pipeline()).fit(X, draw(X, "energy"))
    before = pipe.predict(X)
    other = [molecule("SH2"), molecule("HCl")]
    for step in (pipe, pipe["baseline"], pipe["soap"]):
        with pytest.raises(ValueError, match=r"\['S', 'Cl'\] absent from the previous fit"):
            step.fit(other, draw(other, "energy"))
    assert np.array_equal(pipe.predict(X), before)


def test_steps_that_start_warm_refuse_targets_of_another_kind(X):
    kinds = {"q": TargetKind.scalar()}, {"q": TargetKind.scalar(per_atom=True)}
    first, other = (
        Targets(kinds=kinds[0], q=np.arange(len(X))),
        Targets(kinds=kinds[1], q=[np.ones(len(atoms)) for atoms in X]),
    )
    for y, then in ((first, other), (other, first)):
        for step in (CompositionBaseline(warm_start=True), TargetScaler(warm_start=True)):
            if isinstance(step, TargetScaler) and y is first:
                continue  # one number scales values of atoms as well
            with pytest.raises(ValueError, match="'q'"):
                step.fit(X, y).fit(X, then)


def test_the_regressors_own_steps_stay_ordinary_ones(X):
    model = SoapBPNNRegressor(**FIT).fit(X, draw(X, "energy"))
    model.partial_fit(X, draw(X, "energy", "charges"))
    for step in (model.baseline_, model.scaler_, model.featurizer_):
        assert step.warm_start is False


def test_validation_structures_of_elements_that_are_known(X):
    y = draw(X, "energy")
    model = SoapBPNNRegressor(**FIT).fit(X, y)
    hydrogen = [k for k, atoms in enumerate(X) if set(atoms.symbols) == {"H"}]
    model.partial_fit([X[k] for k in hydrogen], y[hydrogen], X_val=X, y_val=y)


def test_validation_structures_that_carry_more(X):
    y = draw(X, "energy")
    more = CompositionBaseline().fit(X, y).transform(X)
    with pytest.raises(ValueError, match="X_val carries the offset, which X lacks"):
        SoapBPNNRegressor(**FIT).fit(X, y, X_val=more, y_val=y)


def test_validation_structures_behind_other_steps(X):
    """Neither of other targets nor of another scale, whatever the structures."""
    y, both = draw(X, "energy"), draw(X, "energy", "charges")
    own = TargetScaler().fit(X, y).transform(X)
    other = TargetScaler({"energy": 7.0}).fit(X, y).transform(X)
    with pytest.raises(ValueError, match="X_val carries another scale of 'energy' than X carries"):
        SoapBPNNRegressor(**FIT).fit(own, y, X_val=other, y_val=y)
    more = TargetScaler().fit(X, both).transform(X)
    with pytest.raises(ValueError, match=r"X_val lacks the scale of \['charges'\] that X carries"):
        SoapBPNNRegressor(**FIT).fit(more, both, X_val=own, y_val=both)


def test_fixed_weights_of_new_targets(X):
    """Those of targets that are known stay what they are."""
    y, more = draw(X, "energy"), draw(X[:6], "charges", seed=1)
    baseline = CompositionBaseline({"energy": {"H": -1.0}}, warm_start=True).fit(X, y)
    scaler = TargetScaler({"energy": 2.0}, warm_start=True).fit(X, y)
    coef = baseline.coef_["energy"].copy()
    baseline.set_params(fixed_weights={"energy": {"H": -9.0}, "charges": {"O": 0.5}})
    scaler.set_params(fixed_weights={"energy": 9.0, "charges": 3.0})
    baseline.fit(X[:6], more)
    scaler.fit(X[:6], more)
    assert np.array_equal(baseline.coef_["energy"], coef)
    assert baseline.coef_["charges"][list(baseline.elements_).index(8)] == 0.5
    assert scaler.scale_["energy"] == 2.0
    assert scaler.scale_["charges"][8] == 3.0


def test_a_warm_start_of_a_pipeline_on_the_same_data(X):
    y = draw(X, "energy")
    pipe = make_pipeline(warm_start=True).fit(X, y).fit(X, y)
    alone = SoapBPNNRegressor(**FIT, warm_start=True).fit(X, y).fit(X, y)
    assert np.array_equal(pipe.predict(X), alone.predict(X))
