"""joblib files; what a fresh process makes of them is in test_fresh_process.py."""

import pickle
import re
import sys
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from soapbpnn_cases import OPTIONS, list_predictions, make_pipeline, make_regressor

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapFeaturizer,
    TargetScaler,
    ZBLBaseline,
    _version,
)
from sklearn_soapbpnn.descriptors._store import _process_store

N_TRAIN = 6
CANDIDATES = {"bpnn__num_neurons_per_layer": [4, 8]}


@pytest.fixture(scope="module")
def fitted(crystals):
    """Models that tests only read."""
    X, y = crystals
    X, y = X[:N_TRAIN], y[:N_TRAIN]
    return {
        "estimator": make_regressor().fit(X, y),
        "pipeline": make_pipeline().fit(X, y),
        "search": GridSearchCV(make_pipeline(), CANDIDATES, cv=2).fit(X, y),
    }


def forces_of(model, X):
    model = getattr(model, "best_estimator_", model)
    return model.predict(X, targets=["energy", "forces"])["forces"]


def test_joblib(fitted, crystals, tmp_path):
    X, y = crystals
    for name, model in fitted.items():
        joblib.dump(model, tmp_path / name)
        loaded = joblib.load(tmp_path / name)
        _process_store.clear()
        assert_array_equal(loaded.predict(X), model.predict(X))
        for mine, theirs in zip(forces_of(loaded, X), forces_of(model, X)):
            assert_array_equal(mine, theirs)
        # and it can be fitted again
        assert_array_equal(clone(loaded).fit(X, y).predict(X), clone(model).fit(X, y).predict(X))


def test_joblib_of_all_targets(everything, tmp_path):
    X, y = everything
    pipe = make_pipeline(zbl=True, bpnn=OPTIONS["all"]).fit(X[:N_TRAIN], y[:N_TRAIN])
    joblib.dump(pipe, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model")
    _process_store.clear()
    names = list_predictions(pipe[-1])
    mine, theirs = (m.predict(X, targets=names) for m in (loaded, pipe))
    for name in names:
        assert_array_equal(mine.flatten(name), theirs.flatten(name), err_msg=name)


def test_file_does_not_hold_the_training_data(molecules):
    X, y = molecules
    sizes = [len(pickle.dumps(make_regressor().fit(X[:n], y[:n]))) for n in (4, 12)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_attached_structures_survive(crystals):
    X, y = crystals
    attached = make_pipeline()[:3].fit_transform(X, y)
    loaded = pickle.loads(pickle.dumps(attached))
    assert loaded.scale == attached.scale
    assert_array_equal(loaded.offset["energy"], attached.offset["energy"])
    assert_array_equal(np.asarray(loaded), np.asarray(attached))
    with pytest.raises(TypeError, match="assignment"):
        loaded.scale["energy"] = 1.0


def test_targets_survive(crystals):
    _, y = crystals
    loaded = pickle.loads(pickle.dumps(y))
    assert loaded.names == y.names
    for name in y.names:
        np.testing.assert_equal(loaded[name], y[name])


@pytest.mark.parametrize("package", ["sklearn_soapbpnn", "sklearn", "skorch", "torch"])
def test_other_versions(fitted, crystals, package, monkeypatch):
    """Whoever reads a pickle that other versions wrote is warned, and still gets the model."""
    X, _ = crystals
    written = {name: pickle.dumps(model) for name, model in fitted.items()}
    monkeypatch.setattr(
        _version if package == "sklearn_soapbpnn" else sys.modules[package], "__version__", "0.0.1"
    )
    for name, model in fitted.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = pickle.loads(written[name])
        messages = " ".join(str(warning.message) for warning in caught)
        assert re.search(rf"was pickled with {package} \S+ \(here 0.0.1\)", messages)
        assert_array_equal(loaded.predict(X), model.predict(X))


def test_builds_of_torch_for_other_devices(fitted, monkeypatch):
    """A pickle moves from a machine with a GPU to one without in silence."""
    written = pickle.dumps(fitted["pipeline"])
    monkeypatch.setattr(torch, "__version__", torch.__version__.partition("+")[0] + "+cu126")
    pickle.loads(written)


@pytest.mark.parametrize(
    "step", [CompositionBaseline(), TargetScaler(), ZBLBaseline(), SoapFeaturizer()], ids=repr
)
def test_steps_remember_their_version(step, crystals, monkeypatch):
    X, y = crystals
    written = pickle.dumps(step.fit(X, y))
    assert vars(pickle.loads(written)).keys() == vars(step).keys()
    monkeypatch.setattr(_version, "__version__", "9.9")
    with pytest.warns(UserWarning, match=rf"{type(step).__name__} was pickled with .*here 9.9"):
        pickle.loads(written)
