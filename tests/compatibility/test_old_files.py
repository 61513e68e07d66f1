"""Files of an earlier version are read, and fits give the numbers that they gave."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from make_files import COLUMNS, FILES, load_data, make_pipeline, make_regressor

from sklearn_soapbpnn import SoapBPNNRegressor


@pytest.fixture(scope="module")
def data():
    return load_data()


@pytest.fixture(scope="module")
def predictions():
    return pickle.loads((FILES / "predictions.pickle").read_bytes())


def assert_equal(found, wanted):
    assert found.names == wanted.names
    for name in found.names:
        # sums are ordered in other ways on other processors
        np.testing.assert_allclose(found.flatten(name), wanted.flatten(name), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["regressor", "pipeline"])
def test_a_saved_model_predicts_what_it_predicted(name, data, predictions):
    model = SoapBPNNRegressor.load(FILES / f"{name}.safetensors")
    assert_equal(model.predict(data[0], targets=COLUMNS), predictions[name])


def test_a_saved_model_keeps_its_history():
    model = SoapBPNNRegressor.load(FILES / "regressor.safetensors")
    assert len(model.history_) == 4
    assert {"train_loss", "valid_metric", "valid_forces_rmse"} <= set(model.history_[-1])


def test_a_fit_of_a_regressor_gives_the_same_numbers(data, predictions):
    found = make_regressor().fit(*data).predict(data[0], targets=COLUMNS)
    assert_equal(found, predictions["regressor"])


def test_a_fit_of_a_pipeline_gives_the_same_numbers(data, predictions):
    found = make_pipeline().fit(*data).predict(data[0], targets=COLUMNS)
    assert_equal(found, predictions["pipeline"])


def test_a_fit_continues_from_an_old_checkpoint(tmp_path, data, predictions):
    model = make_regressor(checkpoint_dir=tmp_path).fit(*data)
    (own,) = tmp_path.iterdir()  # named after data and parameters
    shutil.copy(FILES / "after_two_epochs.checkpoint", own)
    model.fit(*data, resume=True)
    old = torch.load(FILES / "after_two_epochs.checkpoint", weights_only=True)["history"]
    assert len(model.history_) == 4
    assert [epoch["dur"] for epoch in model.history_[:2]] == [epoch["dur"] for epoch in old]
    assert_equal(model.predict(data[0], targets=COLUMNS), predictions["regressor"])
