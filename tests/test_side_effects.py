"""What the library must leave alone: global state, the user's objects, and other threads."""

import copy
import logging
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import sklearn
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.descriptors._store import _process_store
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator

SOAP = {"cutoff_radius": 3.5, "max_radial": 2, "max_angular": 2}
NETWORK = {"num_neurons_per_layer": 6, "num_epochs": 1, "batch_size": 3, "random_state": 0}
OPTIONS = {
    "plain": {},
    "alchemical": {"species_encoding": "alchemical", "n_pseudo_species": 2, "dtype": "float64"},
    "long range": {"species_encoding": "alchemical", "long_range": True, "zbl": True},
    "streamed": {"memory_limit": 1, "num_workers": 0},
}
NAMES = ["energy", "energies", "forces", "stress", "features"]


def make_frames(n_structures=8):
    """Structures with everything that users attach to them."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(n_structures):
        n_atoms = 3 + k % 4
        atoms = Atoms(rng.choice([1, 6, 8], n_atoms), cell=[5.0, 6.0, 7.0], pbc=k % 2)
        atoms.positions = rng.permutation(np.indices((3, 3, 3)).reshape(3, -1).T)[:n_atoms] * 1.3
        atoms.positions += rng.normal(scale=0.1, size=(n_atoms, 3))
        atoms.set_constraint(FixAtoms([0]))
        atoms.info.update(name=f"frame {k}", nested={"a": [k]})
        atoms.set_array("note", np.arange(n_atoms))
        atoms.set_velocities(rng.normal(size=(n_atoms, 3)))
        results = {"energy": rng.normal(), "forces": rng.normal(size=(n_atoms, 3))}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture
def data():
    X = make_frames()
    return X, Targets.from_atoms(X, energy="energy", forces="forces")


@pytest.fixture(autouse=True)
def _empty_store():
    _process_store.clear()


def make_model(option="plain", **parameters):
    return SoapBPNNRegressor(**{**SOAP, **NETWORK, **OPTIONS[option], **parameters})


def make_pipeline(**parameters):
    return Pipeline(
        [
            ("baseline", CompositionBaseline()),
            ("scaler", TargetScaler()),
            ("soap", SoapFeaturizer(**SOAP)),
            ("bpnn", SoapBPNNRegressor(**{**NETWORK, **parameters})),
        ]
    )


def predict(model, X):
    """Everything that a model says, in one array."""
    predicted = model.predict(X, targets=NAMES)
    return np.concatenate([np.ravel(values) for name in NAMES for values in predicted[name]])


def calculate(model, X):
    """What the calculator says of energies, forces and stresses."""
    values = []
    calculator = SoapBPNNCalculator(model)
    for atoms in X:
        atoms = atoms.copy()
        atoms.calc = calculator
        values += [[atoms.get_potential_energy()], atoms.get_forces().ravel(), atoms.get_stress()]
    return np.concatenate(values)


# --- global state --------------------------------------------------------------------------------


def hash_random_states():
    return {
        "random": random.getstate(),
        "numpy": joblib.hash(np.random.get_state()),
        "torch": joblib.hash(torch.get_rng_state().numpy()),
    }


def list_globals():
    """Everything global that a library might change."""
    return {
        **hash_random_states(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "debug": torch.get_deterministic_debug_mode(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "sklearn": sklearn.get_config(),
        "numpy errors": np.geterr(),
        "print options": np.get_printoptions(),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "threads of Python": threading.active_count(),
        "streams": (sys.stdout, sys.stderr),
    }


def save_and_load(model, X, y, tmp_path):
    model.fit(X, y)
    path = tmp_path / "model.joblib"
    joblib.dump(model, path)
    predict(joblib.load(path), X)
    predict(pickle.loads(pickle.dumps(model)), X)
    copy.deepcopy(model)
    if hasattr(model, "save"):
        model.save(tmp_path / "model.soapbpnn")
        predict(type(model).load(tmp_path / "model.soapbpnn"), X)


class Stop(Callback):
    """End a fit in the middle of an epoch."""

    def on_batch_end(self, net, **kwargs):
        raise RuntimeError("stopped")


def fail(X, y):
    with pytest.raises(RuntimeError, match="stopped"):
        make_model("long range", callbacks=[Stop()]).fit(X, y)


ACTIONS = {
    "fit": lambda X, y, path: make_model().fit(X, y),
    "fit alchemical": lambda X, y, path: make_model("alchemical").fit(X, y),
    "fit long range": lambda X, y, path: make_model("long range").fit(X, y),
    "fit streamed": lambda X, y, path: make_model("streamed").fit(X, y),
    "fit with checkpoints": lambda X, y, path: make_model(checkpoint_dir=path).fit(X, y),
    "fit that is refused": lambda X, y, path: pytest.raises(
        ValueError, make_model().fit, X, np.full(len(X), np.nan)
    ),
    "fit that fails": lambda X, y, path: fail(X, y),
    "predict": lambda X, y, path: predict(make_model("long range").fit(X, y), X),
    "score": lambda X, y, path: make_model().fit(X, y).score(X, y),
    "partial_fit": lambda X, y, path: make_model().fit(X, y).partial_fit(X, y),
    "Pipeline": lambda X, y, path: predict(make_pipeline().fit(X, y), X),
    "search": lambda X, y, path: GridSearchCV(
        make_pipeline(), {"bpnn__layernorm": [True, False]}, cv=2
    ).fit(X, y),
    "featurise": lambda X, y, path: np.asarray(SoapFeaturizer(**SOAP).fit_transform(X)),
    "featurise to disk": lambda X, y, path: SoapFeaturizer(**SOAP, memory=path).fit_transform(X),
    "calculator": lambda X, y, path: calculate(make_model().fit(X, y), X[1:4:2]),
    "files": lambda X, y, path: save_and_load(make_model(), X, y, path),
    "clone": lambda X, y, path: clone(make_model().fit(X, y)),
    "repr": lambda X, y, path: make_model().fit(X, y)._repr_html_(),
    "options": lambda X, y, path: make_model(optimizer="adam").to_options(path / "options.yaml"),
}


@pytest.fixture(scope="module", autouse=True)
def _warm_up():
    """What packages set up when they are first used is not looked at."""
    X = make_frames()
    y = Targets.from_atoms(X, energy="energy", forces="forces")
    predict(make_model("long range").fit(X, y), X)


def test_global_random_states_do_not_matter(data):
    """An int as ``random_state`` fixes everything, whatever the global generators hold."""
    X, y = data
    expected = predict(make_model("long range").fit(X, y), X)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert_array_equal(predict(make_model("long range").fit(X, y), X), expected)


def describe_atoms(atoms):
    """What there is to an Atoms, down to whose memory it is."""
    return {
        "arrays": {
            name: (id(array), array.tobytes(), array.dtype, array.flags.writeable, array.strides)
            for name, array in atoms.arrays.items()
        },
        "cell": (id(atoms.cell), atoms.cell.array.tobytes(), atoms.cell.array.flags.writeable),
        "pbc": (atoms.pbc.tolist(), atoms.pbc.flags.writeable),
        "info": {name: (id(value), repr(value)) for name, value in atoms.info.items()},
        "constraints": [(id(entry), repr(entry)) for entry in atoms.constraints],
        "calc": id(atoms.calc),
        "results": joblib.hash(atoms.calc.results),
    }


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_else_changes(data, action, tmp_path):
    """Neither global state nor structures and labels, given as Targets or as an array."""
    X, y = data
    energy = np.array(y["energy"])
    before = [describe_atoms(atoms) for atoms in X], joblib.hash(y)
    state = list_globals()
    ACTIONS[action](X, y, tmp_path)
    ACTIONS[action](X, energy, tmp_path)
    assert [name for name, value in list_globals().items() if state[name] != value] == []
    assert ([describe_atoms(atoms) for atoms in X], joblib.hash(y)) == before
    assert_array_equal(energy, y["energy"])
    assert energy.flags.writeable
    assert len(X) == 8


# --- the user's objects --------------------------------------------------------------------------


def test_arrays_of_targets_are_copied():
    """Neither do labels change with the user's arrays, nor is the user kept from changing these."""
    energy, forces = np.arange(2.0), [np.ones((1, 3)), np.ones((2, 3))]
    y = Targets(energy=energy, forces=forces)
    energy += 1.0
    forces[1] += 1.0
    assert y["energy"].tolist() == [0.0, 1.0]
    assert (y["forces"][1] == 1.0).all()


def test_read_only_views_are_copied():
    energy = np.arange(2.0)
    view = energy.view()
    view.flags.writeable = False
    y = Targets(energy=view)
    energy += 1.0
    assert y["energy"].tolist() == [0.0, 1.0]


def test_later_changes_are_not_seen(data):
    """A fit keeps nothing of the structures and arrays that it was given."""
    X, y = data
    energy, weight = np.array(y["energy"]), np.linspace(0.5, 1.0, len(X))
    model = make_model().fit(X, energy, sample_weight=weight)
    expected = predict(model, make_frames())
    for atoms in X:
        atoms.positions += 0.1
    energy[:], weight[:] = 7.0, 0.0
    assert_array_equal(predict(model, make_frames()), expected)


def test_predictions_are_the_users(data):
    X, y = data
    model = make_model().fit(X, y)
    expected = predict(model, X)
    energy = model.predict(X)
    energy[:] = 7.0
    model.calculator().get_property("forces", X[0])[:] = 7.0
    assert_array_equal(predict(model, X), expected)


# --- settings of the user ------------------------------------------------------------------------


@pytest.fixture(params=["float64", "no gradients", "deterministic", "strict numpy", "sklearn"])
def setting(request):
    """Change a global setting while a test runs."""
    keep = torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr(), sklearn.get_config()
    if request.param == "float64":
        torch.set_default_dtype(torch.float64)
    elif request.param == "no gradients":
        torch.set_grad_enabled(False)
    elif request.param == "deterministic":
        torch.use_deterministic_algorithms(True)
    elif request.param == "strict numpy":
        np.seterr(all="raise")
    else:
        sklearn.set_config(transform_output="pandas", enable_metadata_routing=True)
    yield request.param
    torch.set_default_dtype(keep[0])
    torch.set_grad_enabled(keep[1])
    torch.use_deterministic_algorithms(False)
    np.seterr(**keep[2])
    sklearn.set_config(**keep[3])


def fit_option(option):
    X = make_frames()
    y = Targets.from_atoms(X, energy="energy", forces="forces")
    _process_store.clear()
    model = make_model(option).fit(X, y)
    return predict(model, X), calculate(model, X[1:2])


@pytest.fixture(scope="module")
def expected():
    return {option: fit_option(option) for option in OPTIONS}


# what a setting makes impossible
KNOWN = {
    "float64": (["long range"], "torch's second derivative of det in float32"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_settings_change_nothing(expected, setting, option, request):
    options, reason = KNOWN.get(setting, ((), ""))
    if option in options:
        request.applymarker(pytest.mark.xfail(reason=reason))
    for values, wanted in zip(fit_option(option), expected[option], strict=True):
        assert_array_equal(values, wanted)


@pytest.mark.parametrize("option", OPTIONS)
def test_predict_in_inference_mode(data, option):
    X, y = data
    model = make_model(option).fit(X, y)
    expected = predict(model, X)
    with torch.no_grad():
        assert_array_equal(predict(model, X), expected)
    with torch.inference_mode():
        assert_array_equal(predict(model, X), expected)


@pytest.mark.parametrize("option", OPTIONS)
def test_fit_and_load_in_inference_mode(expected, option, tmp_path):
    with torch.inference_mode():
        found = fit_option(option)
    for values, wanted in zip(found, expected[option], strict=True):
        assert_array_equal(values, wanted)
    X = make_frames()
    y = Targets.from_atoms(X, energy="energy", forces="forces")
    make_model(option).fit(X, y).save(tmp_path / "model")
    with torch.inference_mode():
        loaded = SoapBPNNRegressor.load(tmp_path / "model")
        assert_array_equal(predict(loaded, X), expected[option][0])
    assert_array_equal(predict(loaded, X), expected[option][0])


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "make_setting",
    [lambda: torch.autocast("cpu"), lambda: torch.device("meta")],
    ids=["autocast", "default device"],
)
def test_settings_of_a_block(expected, option, make_setting):
    with make_setting():
        found = fit_option(option)
    for values, wanted in zip(found, expected[option], strict=True):
        assert_array_equal(values, wanted)


@pytest.mark.parametrize("make_setting", [torch.inference_mode, lambda: torch.device("meta")])
def test_features_in_settings_of_a_block(make_setting):
    X = make_frames()
    soap = {"max_radial": 4, "max_angular": 3}
    with make_setting():
        features = SoapFeaturizer(**soap).fit_transform(X)
        found = np.asarray(features), features.per_atom()
        zbl = ZBLBaseline().fit_transform(X).offset["energy"]
    _process_store.clear()
    features = SoapFeaturizer(**soap).fit_transform(X)
    assert_array_equal(found[0], np.asarray(features))
    assert_array_equal(found[1], features.per_atom())
    assert_array_equal(zbl, ZBLBaseline().fit_transform(X).offset["energy"])


def test_both_precisions_in_one_process(data):
    X, y = data
    single, double = (make_model(dtype=dtype).fit(X, y) for dtype in ("float32", "float64"))
    before = predict(single, X), predict(double, X)
    assert {t.dtype for t in single.module_.state_dict().values()} == {torch.float32}
    assert {t.dtype for t in double.module_.state_dict().values()} == {torch.float64}
    for model, values in zip((single, double, single), (*before, before[0])):
        assert_array_equal(predict(model, X), values)
        assert_array_equal(predict(clone(model).fit(X, y), X), values)
    assert not np.array_equal(*before)


# --- threads and processes -----------------------------------------------------------------------


def fit_one(option):
    torch.set_num_threads(1)  # of this process; the number of threads changes rounding
    X = make_frames()
    y = Targets.from_atoms(X, energy="energy", forces="forces")
    return predict(make_model(option).fit(X, y), X)


def test_fits_in_threads(expected):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fit_one, [*OPTIONS, *OPTIONS]))
    for option, values in zip([*OPTIONS, *OPTIONS], found):
        assert_array_equal(values, expected[option][0], err_msg=option)


def test_fits_in_processes(expected, server):
    options = ["plain", "long range"]
    with server.Pool(2) as pool:
        found = pool.map(fit_one, options)
    for option, values in zip(options, found):
        assert_array_equal(values, expected[option][0], err_msg=option)


def run_in_threads(function, n_calls=6, n_threads=3):
    """Call a function again and again, all threads at once."""
    start = threading.Barrier(n_threads)

    def work(_):
        start.wait()
        return [function() for _ in range(n_calls // n_threads)]

    with ThreadPoolExecutor(n_threads) as pool:
        return [result for results in pool.map(work, range(n_threads)) for result in results]


@pytest.mark.parametrize("option", ["long range", "streamed"])
def test_predict_in_threads(data, option):
    """One model serves several threads, on different structures."""
    X, y = data
    model = make_model(option).fit(X, y)
    expected = predict(model, X)
    for values in run_in_threads(lambda: predict(model, X)):
        assert_array_equal(values, expected)
    singles = [predict(model, [atoms]) for atoms in X]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda atoms: predict(model, [atoms]), X))
    for values, wanted in zip(found, singles, strict=True):
        assert_array_equal(values, wanted)


@pytest.mark.parametrize("option", ["plain", "long range"])
def test_calculators_in_threads(data, option):
    """Every thread has its own calculator, of the one model."""
    X, y = data
    model = make_model(option).fit(X, y)
    X = X[1:4:2]
    expected = calculate(model, X)
    for values in run_in_threads(lambda: calculate(model, X)):
        assert_array_equal(values, expected)


def test_featurizers_in_threads(data):
    X, _ = data
    expected = np.asarray(SoapFeaturizer(**SOAP).fit_transform(X))

    def featurize():
        _process_store.clear()
        return np.asarray(SoapFeaturizer(**SOAP).fit_transform(X))

    for values in run_in_threads(featurize):
        assert_array_equal(values, expected)


def test_threads_write_one_folder(data, tmp_path):
    X, _ = data
    expected = np.asarray(SoapFeaturizer(**SOAP).fit_transform(X))

    def featurize():
        return np.asarray(SoapFeaturizer(**SOAP, memory=tmp_path).fit_transform(X))

    for values in run_in_threads(featurize):
        assert_array_equal(values, expected)
    assert len(list(tmp_path.rglob("*.npy"))) == len(X)
    assert not list(tmp_path.rglob("*.part"))
