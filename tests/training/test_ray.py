"""A search on a ray cluster, through joblib."""

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer

ray = pytest.importorskip("ray", reason="too large for the extra `test`: pip install ray")


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    from ray.util.joblib import register_ray

    # leave no token in the home folder, and tell nobody
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_a_search_on_a_cluster_finds_what_one_process_finds(shipped_molecules, tmp_path):
    X, y = shipped_molecules
    X, y = X[:60:5], y[:60:5]["energy"]
    soap = SoapFeaturizer(max_radial=2, max_angular=2, memory=tmp_path)
    model = SoapBPNNRegressor(num_epochs=3, random_state=0)
    pipe = Pipeline([("soap", soap), ("bpnn", model)])
    search = GridSearchCV(pipe, {"bpnn__num_neurons_per_layer": [4, 8]}, cv=3)
    with joblib.parallel_config(backend="ray"):
        search.fit(X, y)
    found = search.cv_results_["mean_test_score"]
    search.set_params(estimator__soap__memory=None).fit(X, y)
    np.testing.assert_allclose(found, search.cv_results_["mean_test_score"], rtol=1e-4)
