"""What ends a fit early, what is held out for it, and what is shown meanwhile."""

import math
import pickle
import re
import time

import numpy as np
import pytest
import sklearn
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochTimer,
    GradientNormClipping,
    PrintLog,
    ProgressBar,
    TensorBoard,
    TrainEndCheckpoint,
    WandbLogger,
)

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
)
from sklearn_soapbpnn.metrics import make_target_scorer, summarize_errors

SMALL = {"max_radial": 2, "max_angular": 1, "num_neurons_per_layer": 4, "random_state": 0}
FIT = {**SMALL, "num_epochs": 60, "learning_rate": 3e-2, "dtype": "float64"}
STOP = {**FIT, "early_stopping": True, "n_iter_no_change": 3}


class KeepWeights(Callback):
    """Keep the weights of every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.weights_ = []

    def on_epoch_end(self, net, **kwargs):
        state = net.module_.state_dict()
        self.weights_.append({name: value.clone() for name, value in state.items()})


@pytest.fixture(scope="module")
def molecules(shipped_molecules):
    X, y = shipped_molecules
    return X[:150:5], y[:150:5]


@pytest.fixture(scope="module")
def energies(molecules):
    X, y = molecules
    return X, Targets(energy=y["energy"])


# --- early stopping ------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 4])
@pytest.mark.parametrize("metric", ["rmse_prod", "mae_prod", "loss"])
def test_stops_some_epochs_after_the_best(molecules, patience, metric):
    X, y = molecules
    keep = KeepWeights()
    options = {**STOP, "n_iter_no_change": patience, "best_model_metric": metric}
    model = SoapBPNNRegressor(**options, callbacks=[keep]).fit(X, y)
    metrics = model.history_[:, "valid_metric"]
    best = int(np.argmin(metrics))
    assert len(metrics) == best + 1 + patience < 60
    assert model.history_[:, "valid_metric_best"][best:] == [True] + [False] * patience
    # never waited that long before
    bests = np.flatnonzero(model.history_[:, "valid_metric_best"])
    assert np.diff(bests, prepend=-1).max() <= patience
    state = model.module_.state_dict()
    assert all(torch.equal(value, keep.weights_[best][name]) for name, value in state.items())


def test_metric_is_the_product_of_errors(molecules):
    X, y = molecules
    model = SoapBPNNRegressor(**STOP).fit(X, y)
    for epoch in model.history_:
        product = epoch["valid_energy_rmse"] * epoch["valid_forces_rmse"]
        assert epoch["valid_metric"] == pytest.approx(product)


def test_epochs_until_then_are_those_of_a_whole_fit(energies):
    X, y = energies
    stopped = SoapBPNNRegressor(**STOP).fit(X, y)
    whole = SoapBPNNRegressor(**FIT).fit(X, y)
    n_epochs = len(stopped.history_)
    assert n_epochs < len(whole.history_) == 60
    assert whole.history_[:, "valid_loss"][:n_epochs] == stopped.history_[:, "valid_loss"]


def test_patience_that_is_never_used_up(energies):
    X, y = energies
    model = SoapBPNNRegressor(**{**STOP, "n_iter_no_change": 60}).fit(X, y)
    assert len(model.history_) == 60


@pytest.mark.parametrize("fraction", [0, 0.1])
def test_with_validation_structures(energies, fraction):
    X, y = energies
    model = SoapBPNNRegressor(**{**STOP, "validation_fraction": fraction})
    model.fit(X[:20], y[:20], X_val=X[20:], y_val=y[20:])
    metrics = model.history_[:, "valid_metric"]
    assert len(metrics) == np.argmin(metrics) + 4 < 60
    errors = summarize_errors(X[20:], y[20:], model.predict(X[20:]))
    assert errors["energy per atom"]["rmse"] == pytest.approx(min(metrics), rel=1e-6)


def test_without_validation_it_is_refused(energies):
    with pytest.raises(ValueError, match="early_stopping=True needs validation structures"):
        SoapBPNNRegressor(**STOP, validation_fraction=0).fit(*energies)


@pytest.mark.parametrize("case", ["one structure", "labels elsewhere"])
@pytest.mark.filterwarnings("ignore:None of the structures held out")
def test_where_nothing_can_be_validated(energies, case):
    """Either an error, or all epochs: not the patience from the first epoch on."""
    X, y = energies
    if case == "one structure":
        X, y = X[:1], y[:1]
    else:
        held_out = find_held_out(len(X), **FIT)[1]
        labels = y["energy"].copy()
        labels[held_out] = np.nan
        y = Targets(energy=labels)
    try:
        model = SoapBPNNRegressor(**{**STOP, "num_epochs": 6}).fit(X, y)
    except ValueError:
        return
    assert len(model.history_) == 6


# --- what is held out ----------------------------------------------------------------------------


class Rows(Callback):
    """Keep the labels of the training and of the validation set."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.rows_ = [
            [] if part is None else part.labels["row"].values.flatten().round().int().tolist()
            for part in (X, y)
        ]


def find_held_out(n_structures, groups=None, **options):
    """Return the rows that are learnt from, and those that are held out."""
    rows = Rows()
    X = [Atoms("H")] * n_structures
    y = Targets(kinds={"row": TargetKind.scalar()}, row=np.arange(n_structures, dtype=float))
    own = {"num_epochs": 1, "scale_targets": False, "remove_composition_contribution": False}
    options = {**SMALL, **options, **own, "per_structure_targets": ["row"], "dtype": "float64"}
    SoapBPNNRegressor(**options, callbacks=[rows]).fit(X, y, groups=groups)
    train, valid = (sorted(part) for part in rows.rows_)
    assert sorted([*train, *valid]) == list(range(n_structures))
    return train, valid


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 5), min_size=2, max_size=20).filter(lambda g: len(set(g)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_groups_are_held_out_as_a_whole(groups, fraction, seed):
    options = {"validation_fraction": fraction, "random_state": seed}
    train, valid = find_held_out(len(groups), groups, **options)
    groups = np.array(groups)
    here, there = set(groups[train]), set(groups[valid])
    assert here
    assert there
    assert not here & there
    n_groups = len(set(groups))
    assert len(there) == min(math.ceil(fraction * n_groups), n_groups - 1)
    # what groups are called does not matter
    names = np.array(["run", "slab", "surface", "vapour", "wall", "zinc"])[groups]
    assert find_held_out(len(groups), names, **options) == (train, valid)


@pytest.mark.parametrize("n_structures", [2, 3, 20])
def test_groups_of_one_are_structures(n_structures):
    train, valid = find_held_out(n_structures, np.arange(n_structures)[::-1])
    assert len(valid) == math.ceil(0.1 * n_structures)
    assert train


@pytest.mark.parametrize(
    "groups",
    [
        ["a", "b"] * 5,
        np.array(["a", "bcd"] * 5, dtype=object),
        [0.5, 1.5] * 5,
        [True, False] * 5,
        np.repeat(np.arange(5), 2).astype("datetime64[D]"),
    ],
    ids=lambda groups: type(groups[0]).__name__,
)
def test_groups_of_any_type(groups):
    train, valid = find_held_out(10, groups)
    assert not {str(groups[k]) for k in train} & {str(groups[k]) for k in valid}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2], r"groups must have one entry for each of the 30 structures, .*\(2,\)"),
        (np.ones((30, 1)), r"groups must have one entry .*shape \(30, 1\)"),
        (3, r"groups must have one entry .*shape \(\)"),
        ([7] * 30, "groups is 7 for every structure, so no group can be held out"),
        (["a"] * 30, "groups is 'a' for every structure"),
        pytest.param(np.array(["a"] * 30, dtype=object), "groups is 'a' for every structure"),
    ],
    ids=["short", "matrix", "number", "one integer", "one text", "one object"],
)
def test_groups_that_cannot_be_used(energies, groups, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SoapBPNNRegressor(**FIT).fit(*energies, groups=groups)


def test_one_group_with_validation_structures(energies):
    """What the message of a single group proposes."""
    X, y = energies
    model = SoapBPNNRegressor(**{**FIT, "num_epochs": 1})
    model.fit(X[:20], y[:20], X_val=X[20:], y_val=y[20:], groups=["a"] * 20)


def test_groups_of_cross_validation_reach_fit(energies):
    """With metadata routing the same groups make the folds and the validation set."""
    X, y = energies
    groups = np.arange(len(X)) // 5
    seen = []

    class Spy(SoapBPNNRegressor):
        def fit(self, X, y, groups=None):
            seen.append(set(groups.tolist()))
            return super().fit(X, y, groups=groups)

    # sklearn builds models from the names in their signature
    Spy.__init__ = SoapBPNNRegressor.__init__
    with sklearn.config_context(enable_metadata_routing=True):
        model = Spy(**{**FIT, "num_epochs": 2}).set_fit_request(groups=True)
        routed = {"cv": GroupKFold(3), "params": {"groups": groups}, "error_score": "raise"}
        scores = cross_val_score(model, X, y, **routed)
    assert np.isfinite(scores).all()
    assert [len(names) for names in seen] == [4, 4, 4]
    folds = [set(range(6)) - names for names in seen]
    assert set.union(*folds) == set(range(6))


def test_groups_in_a_pipeline(energies):
    X, y = energies
    groups = np.arange(len(X)) % 5
    pipe = Pipeline(
        [
            ("baseline", CompositionBaseline()),
            ("scaler", TargetScaler()),
            ("soap", SoapFeaturizer(max_radial=2, max_angular=1, dtype="float64")),
            ("bpnn", SoapBPNNRegressor(**{**FIT, "num_epochs": 3})),
        ]
    )
    pipe.fit(X, y, bpnn__groups=groups)
    alone = SoapBPNNRegressor(**{**FIT, "num_epochs": 3}).fit(X, y, groups=groups)
    assert np.array_equal(pipe.predict(X), alone.predict(X))


def test_validation_structures_go_through_a_pipeline(energies):
    """With transform_input they get the baseline, the scale and the features of X."""
    X, y = energies
    with sklearn.config_context(enable_metadata_routing=True):
        regressor = SoapBPNNRegressor(**STOP).set_fit_request(X_val=True, y_val=True)
        steps = [
            ("baseline", CompositionBaseline()),
            ("scaler", TargetScaler()),
            ("soap", SoapFeaturizer(max_radial=2, max_angular=1, dtype="float64")),
            ("bpnn", regressor),
        ]
        pipe = Pipeline(steps, transform_input=["X_val"])
        pipe.fit(X[:20], y[:20], X_val=X[20:], y_val=y[20:])
    alone = SoapBPNNRegressor(**STOP).fit(X[:20], y[:20], X_val=X[20:], y_val=y[20:])
    assert pipe["bpnn"].history_[:, "valid_metric"] == alone.history_[:, "valid_metric"]
    assert np.array_equal(pipe.predict(X), alone.predict(X))


# --- the table -----------------------------------------------------------------------------------


def read_epochs(rows):
    return [int(row["epoch *best"].rstrip("*")) for row in rows]


@pytest.mark.parametrize(
    ("num_epochs", "interval", "printed"),
    [
        (12, 5, [1, 5, 10, 12]),
        (10, 5, [1, 5, 10]),
        (3, 1, [1, 2, 3]),
        (4, 100, [1, 4]),
        (1, 5, [1]),
    ],
)
def test_epochs_that_are_printed(energies, capsys, read_table, num_epochs, interval, printed):
    options = {**FIT, "num_epochs": num_epochs, "log_interval": interval, "verbose": 1}
    SoapBPNNRegressor(**options).fit(*energies)
    rows = read_table(capsys.readouterr().out)
    assert read_epochs(rows) == printed
    assert rows[-1]["seconds left"] == "0"


@pytest.mark.parametrize("verbose", [0, False])
def test_nothing_is_printed_without_verbose(molecules, capsys, tmp_path, verbose):
    options = {**STOP, "num_epochs": 6, "verbose": verbose, "log_interval": 1}
    model = SoapBPNNRegressor(**options, checkpoint_dir=tmp_path)
    model.fit(*molecules, resume=True).fit(*molecules, resume=True).partial_fit(*molecules)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("mae", [False, True])
def test_columns_are_those_of_the_history(molecules, capsys, read_table, mae):
    X, y = molecules
    options = {**FIT, "num_epochs": 6, "log_interval": 1, "verbose": 1, "log_mae": mae}
    model = SoapBPNNRegressor(**options).fit(X, y)
    rows = read_table(capsys.readouterr().out)
    errors = ["energy rmse eV/atom", "energy mae eV/atom"]
    errors += ["forces rmse eV/Angstrom", "forces mae eV/Angstrom"]
    errors = errors if mae else errors[::2]
    assert list(rows[0]) == ["epoch *best", "train loss", "valid loss", *errors, "seconds left"]
    assert read_epochs(rows) == model.history_[:, "epoch"]
    for row, epoch in zip(rows, model.history_, strict=True):
        assert row["train loss"] == f"{epoch['train_loss']:.3e}"
        assert row["valid loss"] == f"{epoch['valid_loss']:.3e}"
        assert row["epoch *best"].endswith("*") == epoch["valid_metric_best"]
        for title in errors:
            name, kind, _ = title.split()
            assert row[title] == f"{epoch[f'valid_{name}_{kind}']:.3e}"


def test_columns_without_validation(energies, capsys, read_table):
    options = {**FIT, "num_epochs": 2, "validation_fraction": 0, "verbose": 1}
    SoapBPNNRegressor(**options).fit(*energies)
    (row, _) = read_table(capsys.readouterr().out)
    assert list(row) == ["epoch", "train loss", "seconds left"]


def test_seconds_left(energies, capsys, read_table):
    """What the epochs so far took on average, for those to come."""

    class Dawdle(Callback):
        def on_batch_begin(self, net, training=True, **kwargs):
            time.sleep(0.05 if training else 0.0)

    options = {**FIT, "num_epochs": 20, "log_interval": 2, "verbose": 1, "batch_size": 14}
    X, y = energies
    model = SoapBPNNRegressor(**options, callbacks=[Dawdle()]).fit(X, y)
    durations = model.history_[:, "dur"]
    rows = read_table(capsys.readouterr().out)
    for row, done in zip(rows, read_epochs(rows)):
        assert row["seconds left"] == f"{(20 - done) * np.mean(durations[:done]):.0f}"


def test_the_table_goes_on_after_a_checkpoint(energies, capsys, read_table, tmp_path):
    class PowerCut(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if net.history[-1]["epoch"] == 6:
                raise ZeroDivisionError

    options = {**FIT, "num_epochs": 8, "log_interval": 2, "verbose": 1}
    options.update(checkpoint_dir=tmp_path, checkpoint_interval=1)
    with pytest.raises(ZeroDivisionError):
        SoapBPNNRegressor(**options, callbacks=[PowerCut()]).fit(*energies)
    capsys.readouterr()
    model = SoapBPNNRegressor(**options).fit(*energies, resume=True)
    text = capsys.readouterr().out
    assert re.search(r"^Fit of .*^Resuming after epoch 5 from .*\.checkpoint\.$", text, re.M | re.S)
    rows = read_table(text)
    assert read_epochs(rows) == [6, 8]
    assert rows[-1]["train loss"] == f"{model.history_[7, 'train_loss']:.3e}"


def test_the_last_epoch_of_an_early_stop_is_printed(energies, capsys, read_table):
    model = SoapBPNNRegressor(**STOP, verbose=1, log_interval=50).fit(*energies)
    assert len(model.history_) < 50
    rows = read_table(capsys.readouterr().out)
    assert read_epochs(rows) == [1, len(model.history_)]


def test_history_agrees_with_metrics_and_scorers(shipped_alloys):
    """The errors of the best epoch are those of the model that fit returns."""
    X, y = (part[10:26] for part in shipped_alloys)
    dipoles = np.random.default_rng(0).normal(size=(16, 3))
    dipoles[1::4] = np.nan
    kinds = {"dipole": TargetKind.vector()}
    y = Targets(kinds=kinds, dipole=dipoles, **{name: y[name] for name in y.names})
    model = SoapBPNNRegressor(**{**FIT, "num_epochs": 6, "learning_rate": 0.1})
    model.fit(X[:10], y[:10], X_val=X[10:], y_val=y[10:])
    best = min(model.history_, key=lambda epoch: epoch["valid_metric"])
    prediction = model.predict(X[10:], targets=list(y.names))
    errors = summarize_errors(X[10:], y[10:], prediction)
    names = {"energy": "energy per atom", "forces": "forces", "stress": "stress"}
    for name in y.names:
        for kind in ("rmse", "mae"):
            known = errors[names.get(name, name)][kind]
            assert best[f"valid_{name}_{kind}"] == pytest.approx(known, rel=1e-8)
            scorer = make_target_scorer(names.get(name, name), kind)
            assert scorer(model, X[10:], y[10:]) == pytest.approx(-known, rel=1e-8)


# --- loggers of skorch ---------------------------------------------------------------------------


class Writer:
    """What skorch calls of a SummaryWriter."""

    def __init__(self):
        self.scalars, self.closed = [], False

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars.append((tag, scalar_value, global_step))

    def close(self):
        self.closed = True


class Run:
    """What skorch calls of a W&B run."""

    def __init__(self, folder):
        self.dir, self.logged, self.watched = folder, [], []

    def watch(self, module):
        self.watched.append(module)

    def log(self, values):
        self.logged.append(values)


@pytest.mark.parametrize("fraction", [0.1, 0])
def test_tensorboard(molecules, fraction):
    writer = Writer()
    options = {**FIT, "num_epochs": 3, "validation_fraction": fraction}
    model = SoapBPNNRegressor(**options, callbacks=[TensorBoard(writer)]).fit(*molecules)
    assert writer.closed
    logged = {(tag, step): value for tag, value, step in writer.scalars}
    keys = [k for k in model.history_[0] if k not in ("epoch", "batches") and "_best" not in k]
    assert ("valid_forces_mae" in keys) == (fraction > 0)
    for epoch in model.history_:
        for key in keys:
            tag = key if key == "dur" else f"Loss/{key}"
            assert logged[tag, epoch["epoch"]] == epoch[key]


def test_tensorboard_goes_on_after_a_checkpoint(energies, tmp_path):
    """Steps count on, so that both parts make one curve."""

    class PowerCut(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if net.history[-1]["epoch"] == 3:
                raise ZeroDivisionError

    writer = Writer()
    options = {**FIT, "num_epochs": 5, "checkpoint_dir": tmp_path, "checkpoint_interval": 1}
    with pytest.raises(ZeroDivisionError):
        SoapBPNNRegressor(**options, callbacks=[TensorBoard(writer), PowerCut()]).fit(*energies)
    model = SoapBPNNRegressor(**options, callbacks=[TensorBoard(writer)])
    model.fit(*energies, resume=True)
    losses = [(step, value) for tag, value, step in writer.scalars if tag == "Loss/train_loss"]
    assert losses == list(enumerate(model.history_[:, "train_loss"], start=1))


def test_wandb(molecules, tmp_path):
    """It is also given the best weights, as a file."""
    run = Run(tmp_path)
    options = {**FIT, "num_epochs": 3}
    model = SoapBPNNRegressor(**options, callbacks=[WandbLogger(run)]).fit(*molecules)
    assert run.watched == [model.module_]
    for logged, epoch in zip(run.logged, model.history_, strict=True):
        assert logged.items() <= dict(epoch).items()
        assert {"train_loss", "valid_loss", "valid_energy_rmse", "valid_forces_mae"} <= set(logged)
    weights = torch.load(tmp_path / "best_model.pth", weights_only=True)
    assert weights.keys() == model.module_.state_dict().keys()


def test_wandb_without_validation(energies, tmp_path):
    run = Run(tmp_path)
    options = {**FIT, "num_epochs": 2, "validation_fraction": 0}
    model = SoapBPNNRegressor(**options, callbacks=[WandbLogger(run, save_model=False)])
    model.fit(*energies)
    assert [values["train_loss"] for values in run.logged] == model.history_[:, "train_loss"]


CALLBACKS = {
    "Checkpoint": lambda folder: Checkpoint(dirname=folder),
    "TrainEndCheckpoint": lambda folder: TrainEndCheckpoint(dirname=folder),
    "EarlyStopping": lambda folder: EarlyStopping(monitor="valid_metric", load_best=True),
    "ProgressBar": lambda folder: ProgressBar(detect_notebook=False),
    "PrintLog": lambda folder: PrintLog(),
    "GradientNormClipping": lambda folder: GradientNormClipping(1e-3),
    "EpochTimer": lambda folder: EpochTimer(),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_of_skorch(energies, name, tmp_path, capsys):
    """As they are; those that write leave the weights, those that show something the losses."""
    options = {"max_radial": 1, "max_angular": 1, "num_epochs": 3, "random_state": 0}
    callback = CALLBACKS[name](tmp_path)
    model = SoapBPNNRegressor(**options, callbacks=[callback], verbose=name == "PrintLog")
    model.fit(*energies)
    assert len(model.history_) == 3
    if name.endswith("Checkpoint"):
        saved = torch.load(tmp_path / f"{'train_end_' * ('End' in name)}params.pt")
        assert saved.keys() == model.module_.state_dict().keys()
    if name == "PrintLog":
        assert "valid_energy_mae" in capsys.readouterr().out
    pickle.loads(pickle.dumps(model))
