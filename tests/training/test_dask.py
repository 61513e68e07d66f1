"""Searches and featurisation on a dask cluster, through joblib."""

import os

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

GRID = {"bpnn__num_neurons_per_layer": [4, 8]}


@pytest.fixture(scope="module")
def cluster(server):
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    forked = {"distributed.worker.multiprocessing-method": server.get_start_method()}
    with (
        dask.config.set(forked),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def data(shipped_molecules):
    X, y = shipped_molecules
    return X[:40:5], y[:40:5]["energy"]


def make_featurizer(folder=None):
    return SoapFeaturizer(max_radial=2, max_angular=2, memory=folder)


def make_search(folder, scoring=None):
    model = SoapBPNNRegressor(num_epochs=1, random_state=0)
    pipe = Pipeline([("soap", make_featurizer(folder)), ("bpnn", model)])
    return GridSearchCV(pipe, GRID, cv=2, scoring=scoring)


def count_files(folder):
    return sum(path.is_file() for path in folder.rglob("*"))


def test_a_search_on_a_cluster_finds_what_one_process_finds(cluster, data, tmp_path):
    X, y = data
    store, seen = tmp_path / "store", tmp_path / "seen"
    seen.mkdir()

    def score(model, X, y):
        (seen / str(os.getpid())).touch()
        return model.score(X, y)

    expected = make_search(None).fit(X, y)
    with joblib.parallel_config(backend="dask"):
        search = make_search(store, score).fit(X, y)
    workers = set(cluster.run(os.getpid).values())
    assert {int(path.name) for path in seen.iterdir()} <= workers
    assert count_files(store)
    scores = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, expected.cv_results_["mean_test_score"], rtol=1e-4)
    np.testing.assert_allclose(search.predict(X), expected.predict(X), rtol=1e-6)


@pytest.mark.usefixtures("cluster")
def test_structures_are_featurised_on_a_cluster(data):
    """The recipe of docs/distributed.md."""
    X, _ = data
    featurizer = make_featurizer().fit(X)
    parts = [X[start : start + 2] for start in range(0, len(X), 2)]
    with joblib.parallel_config(backend="dask"):
        parts = joblib.Parallel()(joblib.delayed(featurizer.transform)(part) for part in parts)
    found = np.concatenate([np.asarray(part) for part in parts])
    np.testing.assert_allclose(found, featurizer.transform(X), rtol=1e-5)
