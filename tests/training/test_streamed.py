"""Data larger than memory: batches that are made for each step give the same fit."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache

import joblib
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from joblib.externals.loky import get_reusable_executor
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
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
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.descriptors import SoapParameters, estimate_memory, estimate_weights
from sklearn_soapbpnn.model import _fitted
from sklearn_soapbpnn.training import (
    StreamedData,
    Workers,
    _streamed,
    count_workers,
)

CPU = torch.device("cpu")
SOAP = {"cutoff_radius": 4.0, "max_radial": 2, "max_angular": 2}
NETWORK = {"num_neurons_per_layer": 8, "num_epochs": 2, "batch_size": 3, "random_state": 0}
STREAMED = {"memory_limit": 1, "num_workers": 0}
OPTIONS = {
    "plain": {},
    "alchemical": {"species_encoding": "alchemical", "n_pseudo_species": 2},
    "committee": {"n_networks": 3},
    "long range": {"long_range": True},
    "alchemical and long range": {"species_encoding": "alchemical", "long_range": True},
    "no hidden layers": {"num_hidden_layers": 0, "layernorm": False},
    "ZBL": {"zbl": True},
}
# rounding that two orders of summation may differ by, after a few steps
RTOL = {"float32": 1e-5, "float64": 1e-12}


@cache
def load_data():
    """Ten small crystals with labels of many kinds, some of them missing."""
    rng = np.random.default_rng(0)
    X = [bulk("Cu", cubic=True, a=3.6 + 0.03 * k) for k in range(10)]
    for k, atoms in enumerate(X):
        atoms.numbers[: k % 4] = 79
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    forces = [rng.normal(size=(4, 3)) for _ in X]
    forces[1][0] = np.nan
    stress = rng.normal(size=(10, 3, 3))
    stress = stress + np.swapaxes(stress, 1, 2)
    stress[2] = np.nan
    columns = {
        "energy": rng.normal(size=10),
        "forces": forces,
        "stress": stress,
        "dipole": rng.normal(size=(10, 3)),
        "quadrupole": rng.normal(size=(10, 5)),
        "charges": [rng.normal(size=4) for _ in X],
        "gap": rng.normal(size=10),
    }
    kinds = {
        "quadrupole": TargetKind.spherical((2, 1)),
        "gap": TargetKind.scalar(intensive=True),
    }
    return X, Targets(kinds=kinds, **columns)


@pytest.fixture(scope="module")
def data():
    return load_data()


def choose_labels(option):
    """Without hidden layers few targets do."""
    _, y = load_data()
    return y.select(["energy", "forces", "stress"]) if option == "no hidden layers" else y


@cache
def fit_in_memory(option, dtype="float64"):
    """An ordinary fit, to compare with; tests leave it as it is."""
    return make_model(**OPTIONS[option], dtype=dtype).fit(load_data()[0], choose_labels(option))


def make_model(**parameters):
    return SoapBPNNRegressor(**{**SOAP, **NETWORK, **parameters})


def make_pipeline(soap=None, **parameters):
    return Pipeline(
        [
            ("baseline", CompositionBaseline()),
            ("scaler", TargetScaler()),
            ("soap", SoapFeaturizer(**{**SOAP, **(soap or {})})),
            ("bpnn", SoapBPNNRegressor(**{**NETWORK, **parameters})),
        ]
    )


def list_names(model):
    derived = ["energies", "forces", "stress"] if "energy" in model.kinds_ else []
    return [*model.kinds_, *derived, "features"]


def predict_flat(model, X, names):
    predicted = model.predict(X, targets=names)
    return {name: np.concatenate([np.ravel(v) for v in predicted[name]]) for name in names}


def assert_same_fit(model, expected, X, *, rtol=0.0):
    """Check predictions and history, to the bit without ``rtol``."""
    last = lambda m: m[-1] if isinstance(m, Pipeline) else m  # noqa: E731
    names = list_names(last(expected))
    found, wanted = (predict_flat(m, X, names) for m in (model, expected))
    for name in names:
        scale = np.abs(wanted[name]).max()
        assert_allclose(found[name], wanted[name], rtol=rtol, atol=rtol * scale, err_msg=name)
    for name in ("train_loss", "valid_loss", "valid_metric"):
        here, there = (last(m).history_[:, name] for m in (model, expected))
        assert_allclose(here, there, rtol=10 * rtol, err_msg=name)


class Watch(Callback):
    def __init__(self, seen):
        self.seen = seen

    def on_batch_begin(self, net, **kwargs):
        self.seen.append(1)


def make_parameters():
    return SoapParameters(**SOAP)


def count_streams(monkeypatch):
    """Return a list that grows with every data set that is streamed."""
    made, prepare = [], StreamedData._prepare

    def count(self, *arguments):
        made.append(len(arguments[0]))
        return prepare(self, *arguments)

    monkeypatch.setattr(StreamedData, "_prepare", count)
    return made


# --- what is streamed ----------------------------------------------------------------------------


def test_validation_structures_count(data, monkeypatch):
    """They may be more than there is memory for, even if those that are trained on are few."""
    X, y = data
    y = y.select(["energy", "forces"])
    needed = estimate_memory([as_structures(X[:2])], make_parameters(), True, 4, CPU)
    width, n_elements = make_model().num_neurons_per_layer, len(as_structures(X).elements)
    weights = estimate_weights(make_parameters(), n_elements, width, 4)
    limited = make_model(memory_limit=weights + 3 * needed, num_workers=0)
    expected = make_model().fit(X[:2], y[:2], X_val=X, y_val=y)
    made = count_streams(monkeypatch)
    limited.fit(X[:2], y[:2], X_val=X, y_val=y)
    assert made == [2, 10]
    assert_same_fit(limited, expected, X, rtol=RTOL["float32"])
    limited.fit(X[:2], y[:2], X_val=X[:1], y_val=y[:1])
    assert len(made) == 2


def test_what_cannot_be_described_is_found_first(data):
    X, y = data
    broken = [atoms.copy() for atoms in X]
    broken[7].positions[1] = broken[7].positions[0]
    for options in ({}, {"X_val": broken, "y_val": y}):
        seen = []
        watch = Watch(seen)
        model = make_model(memory_limit=1, num_workers=0, callbacks=[watch])
        with pytest.raises(ValueError, match="of structure 7 are at the same place"):
            model.fit(X if options else broken, y, **options)
        assert not seen


def test_workers_share_the_cores_of_a_node(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 16)
    assert [count_workers(n) for n in (None, 0, 3)] == [15, 0, 3]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [count_workers(n) for n in (None, 0, 3)] == [3, 0, 3]


class Daemon:
    daemon = True


def test_processes_that_may_start_no_others(data, monkeypatch):
    """Those of dask and of multiprocessing."""
    X, y = data
    expected = make_model(memory_limit=1, num_workers=0).fit(X, y)
    monkeypatch.setattr(_streamed, "current_process", Daemon)
    assert_same_fit(make_model(memory_limit=1, num_workers=None).fit(X, y), expected, X)
    with pytest.raises(ValueError, match="num_workers=1, but this process .* Set num_workers=0"):
        make_model(num_workers=1).fit(X, y)


def test_search_in_processes_of_multiprocessing(data):
    X, y = data
    model = make_model(memory_limit=1, num_workers=None, num_epochs=1)
    with joblib.parallel_config("multiprocessing"):
        found = cross_val_score(model, X, y, cv=2, n_jobs=2, error_score="raise")
    assert_array_equal(found, cross_val_score(model.set_params(num_workers=0), X, y, cv=2))


def test_interrupts_while_the_workers_end():
    """None of them gets lost, and nothing is lost by them."""
    with Workers(1) as workers:
        (pid,) = workers.map(os.getpid, [()])
        shut_down = workers._pool.shutdown

        def shut_down_slowly(**kwargs):
            for _ in range(3):
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            shut_down(**kwargs)

        workers._pool.shutdown = shut_down_slowly
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_structures_that_carry_features_are_not_looked_at(data, monkeypatch):
    X, y = data
    pipe = make_pipeline().fit(X, y)
    looked = []
    monkeypatch.setattr(_fitted, "exceeds_memory", lambda *args: looked.append(args))
    pipe.predict(X)
    assert not looked


# --- the same fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "dtype"),
    [*((option, "float64") for option in OPTIONS), ("plain", "float32"), ("alchemical", "float32")],
)
def test_same_as_in_memory(data, option, dtype, monkeypatch):
    """Predictions agree to rounding: features are made for a batch, not for all structures."""
    X, y = data[0], choose_labels(option)
    expected = fit_in_memory(option, dtype)
    made = count_streams(monkeypatch)
    model = make_model(**OPTIONS[option], dtype=dtype, **STREAMED).fit(X, y)
    assert made == [9, 1]  # training and validation
    assert_same_fit(model, expected, X, rtol=RTOL[dtype])


@pytest.mark.parametrize("option", ["plain", "alchemical"])
@pytest.mark.parametrize(
    "names", [["energy"], ["energy", "stress"], ["dipole"], ["gap"], ["quadrupole", "charges"]]
)
def test_some_of_the_targets(data, option, names):
    X, y = data
    options = {**OPTIONS[option], "dtype": "float64"}
    expected = make_model(**options).fit(X, y.select(names))
    model = make_model(**options, **STREAMED).fit(X, y.select(names))
    assert_same_fit(model, expected, X, rtol=RTOL["float64"])


def test_weights_groups_and_validation_data(data):
    X, y = data
    weight = np.linspace(0.0, 2.0, 8)
    for fit_params in (
        {"X_val": X[8:], "y_val": y[8:], "sample_weight": weight},
        {"groups": np.arange(8) // 3, "sample_weight": weight},
    ):
        expected = make_model(dtype="float64").fit(X[:8], y[:8], **fit_params)
        model = make_model(dtype="float64", **STREAMED).fit(X[:8], y[:8], **fit_params)
        assert_same_fit(model, expected, X, rtol=RTOL["float64"])


def test_same_bits_twice(data):
    X, y = data
    first, second = (make_model(**STREAMED).fit(X, y) for _ in range(2))
    assert_same_fit(first, second, X)


def test_limit_decides(data, monkeypatch):
    X, y = data
    made = count_streams(monkeypatch)
    parameters = SoapParameters(4.0, 0.5, 2, 2)
    needed = estimate_memory([as_structures(X)], parameters, True, 4, CPU)
    width, n_elements = make_model().num_neurons_per_layer, len(as_structures(X).elements)
    needed += estimate_weights(parameters, n_elements, width, 4)
    make_model(memory_limit=1.01 * needed).fit(X, y)
    assert made == []
    make_model(memory_limit=0.5 * needed, num_workers=0).fit(X, y)
    assert made == [9, 1]


def test_weights_that_do_not_fit_are_refused_before_work_starts():
    """They grow with the cube of the number of elements; nothing of that size is made."""
    X = [Atoms(numbers=range(1, 101), positions=np.arange(300.0).reshape(-1, 3))] * 3
    message = "100 elements.*weights of .* GiB.*species_encoding='alchemical'.*memory_limit"
    with pytest.raises(ValueError, match=message):
        SoapBPNNRegressor(num_neurons_per_layer=256).fit(X, np.arange(3.0))
    embedded = {"species_encoding": "alchemical", "max_radial": 1, "max_angular": 1}
    SoapBPNNRegressor(**embedded, num_epochs=1).fit(X, np.arange(3.0))


@pytest.mark.parametrize("option", ["plain", "alchemical", "long range"])
def test_batches_without_pairs(option):
    """Atoms without neighbours, and whole batches of them."""
    X = [
        Atoms("H"),
        Atoms("HO", [[0, 0, 0], [0, 0, 9]]),
        Atoms("O"),
        Atoms("H2", [[0, 0, 0], [0, 0, 1]]),
    ]
    y = Targets(energy=[1.0, 2.0, 3.0, 4.0], forces=[np.ones((len(atoms), 3)) for atoms in X])
    options = {**OPTIONS[option], "dtype": "float64", "batch_size": 1, "validation_fraction": 0.25}
    expected = make_model(**options).fit(X, y)
    model = make_model(**options, **STREAMED).fit(X, y)
    found, wanted = (predict_flat(m, X, ["energy", "forces"]) for m in (model, expected))
    for name in wanted:
        assert_allclose(found[name], wanted[name], rtol=1e-12, atol=1e-12)


# --- prediction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_predict_without_stored_features(data, option):
    """The limit counts in predict, too, and changes rounding at most."""
    X, y = data[0], choose_labels(option)
    model = copy.copy(fit_in_memory(option))
    names = list_names(model)
    expected = predict_flat(model, X, names)
    model.set_params(memory_limit=1)
    assert model.fitted_.prepare(as_structures(X), names, memory_limit=1).features is None
    for name, values in predict_flat(model, X, names).items():
        scale = np.abs(expected[name]).max()
        assert_allclose(values, expected[name], rtol=1e-12, atol=1e-13 * scale, err_msg=name)
    assert_allclose(model.score(X, y), model.set_params(memory_limit=None).score(X, y), rtol=1e-12)


# --- with the rest of the library ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "on_disk"),
    [("plain", False), ("long range", False), ("plain", True), ("alchemical", True)],
)
def test_features_of_a_pipeline(data, option, on_disk, tmp_path, monkeypatch):
    """Features that are there already are used, read batch by batch: the same bits."""
    X, y = data
    expected = make_pipeline(**OPTIONS[option]).fit(X, y)
    made = count_streams(monkeypatch)
    soap = {"memory": tmp_path} if on_disk else {}
    pipe = make_pipeline(soap, **OPTIONS[option], **STREAMED).fit(X, y)
    assert made == [9, 1]
    assert_same_fit(pipe, expected, X, rtol=RTOL["float32"])


def test_deleted_features_of_a_pipeline(data, tmp_path):
    X, y = data
    pipe = make_pipeline({"memory": tmp_path / "store"}, **STREAMED)
    structures = pipe[:-1].fit_transform(X, y)
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "store")):
        pipe[-1].fit(structures, y)
    assert not hasattr(pipe[-1], "net_")


def test_search(data):
    X, y = data
    y = y.select(["energy", "forces"])
    grid = {"num_neurons_per_layer": [4, 8]}
    expected = GridSearchCV(make_model(dtype="float64"), grid, cv=2).fit(X, y)
    search = GridSearchCV(make_model(dtype="float64", **STREAMED), grid, cv=2).fit(X, y)
    for name in ("mean_test_score", "split0_test_score"):
        assert_allclose(search.cv_results_[name], expected.cv_results_[name], rtol=1e-10)
    assert_same_fit(search.best_estimator_, expected.best_estimator_, X, rtol=1e-12)


def test_early_stopping(data):
    X, y = data
    options = {"early_stopping": True, "n_iter_no_change": 2, "num_epochs": 30}
    options |= {"learning_rate": 0.3, "validation_fraction": 0.3, "dtype": "float64"}
    expected = make_model(**options).fit(X, y)
    assert len(expected.history_) < 30
    model = make_model(**options, **STREAMED).fit(X, y)
    assert len(model.history_) == len(expected.history_)
    assert_array_equal(
        model.history_[:, "valid_metric_best"], expected.history_[:, "valid_metric_best"]
    )


def test_warm_start(data):
    X, y = data
    models = [make_model(dtype="float64", **options) for options in ({}, STREAMED)]
    for model in models:
        model.fit(X, y).partial_fit(X[:6], y[:6])
    assert_same_fit(*models, X, rtol=RTOL["float64"])
    # a fit may go on in the other way
    models[0].set_params(**STREAMED)
    models[1].set_params(memory_limit=None)
    for model in models:
        model.partial_fit(X, y)
    assert_same_fit(*models, X, rtol=10 * RTOL["float64"])


class StopAfter(Callback):
    """Die after an epoch, as a process that is killed does."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, net, **kwargs):
        if net.history[-1]["epoch"] == self.epoch:
            raise RuntimeError("killed")


def test_resume(data, tmp_path):
    """In either way."""
    X, y = data
    options = {"dtype": "float64", "num_epochs": 4, "checkpoint_dir": tmp_path}
    options |= {"checkpoint_interval": 2, **STREAMED}
    expected = make_model(**{**options, "checkpoint_dir": None}).fit(X, y)
    with pytest.raises(RuntimeError, match="killed"):
        make_model(**options, callbacks=[StopAfter(3)]).fit(X, y)
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda *_: ["copy"])
    epochs = []

    class Count(Callback):
        def on_epoch_end(self, net, **kwargs):
            epochs.append(net.history[-1]["epoch"])

    model = make_model(**options, callbacks=[Count()]).fit(X, y, resume=True)
    assert_same_fit(model, expected, X)
    options |= {"memory_limit": None, "checkpoint_dir": tmp_path / "copy"}
    model = make_model(**options, callbacks=[Count()]).fit(X, y, resume=True)
    assert_same_fit(model, expected, X, rtol=RTOL["float64"])
    assert epochs == [3, 4] * 2


# --- other processes -----------------------------------------------------------------------------


@pytest.fixture
def shut_down():
    """End the processes that joblib keeps for the next call."""
    yield
    get_reusable_executor().shutdown(wait=True)


def test_workers_give_the_same_bits(data, shut_down):
    """Whatever backend joblib is told to use; and in the same session a search may follow."""
    X, y = data
    y = y.select(["energy", "forces", "dipole"])
    options = {**OPTIONS["alchemical and long range"], "zbl": True, "memory_limit": 1}
    here = make_model(**options, num_workers=0).fit(X, y)
    with joblib.parallel_config("threading"):
        there = make_model(**options, num_workers=2).fit(X, y)
    assert_same_fit(there, here, X)
    assert joblib.Parallel(2)(joblib.delayed(abs)(k) for k in (-1, 2)) == [1, 2]


def test_workers_of_a_search(data, shut_down):
    """Processes within processes."""
    X, y = data
    model = make_model(memory_limit=1, num_workers=1)
    # a single split, for which a single process of the search imports the library
    options = {"cv": [(range(5), range(5, 10))], "error_score": "raise"}
    found = cross_val_score(model, X, y, n_jobs=2, **options)
    assert_array_equal(found, cross_val_score(model.set_params(num_workers=0), X, y, **options))


INTERRUPTED = """
import os, sys, warnings
from pathlib import Path
from ase.build import bulk
from skorch.callbacks import Callback
from sklearn_soapbpnn import SoapBPNNRegressor
warnings.simplefilter("ignore")

class Report(Callback):
    def on_epoch_end(self, net, **kwargs):
        print("epoch", *read_children(), flush=True)

def read_children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

if __name__ == "__main__":
    X = [bulk("Cu", cubic=True, a=3.5 + 0.01 * k) for k in range(20)]
    model = SoapBPNNRegressor(
        cutoff_radius=4.0, max_radial=2, max_angular=2, num_epochs=10**6, batch_size=2,
        memory_limit=1, num_workers=1, callbacks=[Report()],
    )
    for _ in range(2):
        model.fit(X, range(20))
        print("fitted", len(model.history_), model.predict(X[:1]).shape, flush=True)
        print("children", *read_children(), flush=True)
"""


def is_alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="processes are read from /proc")
def test_interrupt_leaves_no_processes(tmp_path):
    """Ctrl-C keeps the best epoch, sent to one process or, by a terminal, to all of a group."""
    script = tmp_path / "train.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:

        def read(expected, skipped=""):
            word, *rest = process.stdout.readline().split() or ["nothing"]
            while word == skipped:
                word, *rest = process.stdout.readline().split()
            assert word == expected, process.stderr.read()
            return rest

        seen = set()
        try:
            for send in (os.kill, os.killpg):
                read("epoch")
                workers = read("epoch")
                assert len(workers) >= 2  # and what tidies up after them
                send(process.pid, signal.SIGINT)
                read("fitted", skipped="epoch")
                left = read("children")
                assert len(left) < len(workers)
                assert not any(map(is_alive, set(workers) - set(left)))
                seen |= {*workers, *left}
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    until = time.monotonic() + 10
    while any(map(is_alive, seen)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [child for child in seen if is_alive(child)]


class InterruptBatch(Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, n_batches):
        self.n_batches = n_batches

    def on_batch_begin(self, net, **kwargs):
        self.n_batches -= 1
        if self.n_batches == 0:
            raise KeyboardInterrupt


def test_interrupt_keeps_the_best_epoch(data, tmp_path):
    """The next fit finds everything in order; it reads features from disk."""
    X, y = data
    y = y.select(["energy", "forces"])
    model = make_model(num_epochs=50, callbacks=[InterruptBatch(10)], **STREAMED)
    with pytest.warns(ConvergenceWarning, match="interrupted after 2 of 50 epochs"):
        model.fit(X, y)
    assert len([e for e in model.history_ if "train_loss" in e]) == 2
    soap = {"memory": tmp_path}
    again = make_pipeline(soap, **STREAMED).fit(X, y)  # warnings are errors
    assert_same_fit(again, make_pipeline(soap, **STREAMED).fit(X, y), X)
