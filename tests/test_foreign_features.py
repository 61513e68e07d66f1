"""Features of another descriptor than fit saw are refused, and what else may differ is not."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer
from sklearn_soapbpnn.metrics import make_target_scorer, summarize_errors

X = [molecule(name) for name in ("H2O", "CH4", "H2", "CO2")]
ENERGIES = [-14.0, -24.0, -6.0, -23.0]
SMALL = {"max_radial": 2, "max_angular": 1}


@pytest.fixture
def featurizer():
    return SoapFeaturizer(**SMALL).fit(X)


@pytest.fixture
def model(featurizer):
    model = SoapBPNNRegressor(num_epochs=1, random_state=0)
    return model.fit(featurizer.transform(X), ENERGIES)


@pytest.mark.parametrize("other", [{"cutoff_radius": 4.0}, {"max_radial": 3}])
def test_other_parameters(model, featurizer, other):
    foreign = SoapFeaturizer(**{**SMALL, **other}).fit(X).transform(X)
    with pytest.raises(ValueError, match="X carries features of .*but fit used"):
        model.predict(foreign)
    with pytest.raises(ValueError, match="X_val carries features of .*but fit used"):
        model.fit(featurizer.transform(X), ENERGIES, X_val=foreign, y_val=ENERGIES)


def test_other_elements(model):
    foreign = SoapFeaturizer(**SMALL).fit(X[:2]).transform(X[:2])
    fewer = SoapFeaturizer(**SMALL).fit(X[:1]).transform(X[:1])
    assert np.isfinite(model.predict(foreign)).all()
    with pytest.raises(ValueError, match="features over the elements"):
        model.predict(fewer)


def test_inference_mode_of_torch(model, featurizer):
    structures = featurizer.transform(X)
    expected = model.predict(structures, targets=["forces"])["forces"]
    with torch.inference_mode():
        found = model.predict(structures, targets=["forces"])["forces"]
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


def test_failed_refit_keeps_the_model(model, featurizer):
    before = model.predict(featurizer.transform(X))
    model.set_params(max_radial=5)
    with pytest.raises(ValueError, match="contradicts the features"):
        model.fit(featurizer.transform(X), ENERGIES)
    np.testing.assert_array_equal(model.predict(featurizer.transform(X)), before)


def test_own_arguments_of_the_net_are_refused():
    with pytest.raises(ValueError, match="net_params names 'lr'"):
        SoapBPNNRegressor(net_params={"lr": 0.1}).fit(X, ENERGIES)


def test_scorer_of_a_target_that_y_lacks(featurizer):
    model = SoapBPNNRegressor(**SMALL, num_epochs=1).fit(X, ENERGIES)
    with pytest.raises(ValueError, match="no labels of the target 'forces'"):
        make_target_scorer("forces")(model, X, ENERGIES)
    score = make_target_scorer("energy per atom", "mae")(model, X, ENERGIES)
    errors = summarize_errors(X, ENERGIES, model.predict(X))
    np.testing.assert_allclose(-score, errors["energy per atom"]["mae"])
