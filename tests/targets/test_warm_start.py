"""A warm start goes on from the weights, baseline and scale of the fit before."""

import numpy as np
import pytest
from ase.build import molecule

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
)

KINDS = {
    "energy": TargetKind.scalar(),
    "dipole": TargetKind.vector(),
    "charges": TargetKind.scalar(per_atom=True),
}
NAMES = [*KINDS, "forces"]
SMALL = {
    "max_radial": 2,
    "max_angular": 2,
    "num_neurons_per_layer": 6,
    "dtype": "float64",
    "num_epochs": 3,
    "learning_rate": 1e-2,
    "random_state": 0,
}
STILL = {"num_epochs": 1, "learning_rate": 1e-12}


@pytest.fixture
def y(mixture, draw):
    return draw(mixture, {**KINDS, "forces": TargetKind.vector(per_atom=True)})


def predict(model, X):
    prediction = model.predict(X, targets=NAMES)
    return np.concatenate([prediction.flatten(name).ravel() for name in NAMES])


@pytest.mark.parametrize(
    "options",
    [{}, {"species_encoding": "alchemical"}, {"long_range": True}, {"zbl": True}],
    ids=str,
)
def test_second_fit_goes_on_where_the_first_ended(mixture, y, draw, options):
    model = SoapBPNNRegressor(**SMALL, **options, warm_start=True).fit(mixture, y)
    before, baseline, scaler = predict(model, mixture), model.baseline_, model.scaler_
    other = draw(mixture[:7], {**KINDS, "forces": y.kinds["forces"]}, seed=1)
    model.set_params(**STILL, random_state=1).fit(mixture[:7], other)
    np.testing.assert_allclose(predict(model, mixture), before, rtol=1e-7, atol=1e-8)
    assert model.baseline_ is baseline
    assert model.scaler_ is scaler
    assert len(model.history_) == 1


def test_without_warm_start_a_refit_starts_anew(mixture, y, draw):
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    first, coef = predict(model, mixture), model.baseline_.coef_["energy"]
    model.fit(mixture[:7], draw(mixture[:7], {**KINDS, "forces": y.kinds["forces"]}, seed=1))
    assert not np.allclose(model.baseline_.coef_["energy"], coef)
    model.fit(mixture, y)
    np.testing.assert_array_equal(predict(model, mixture), first)
    model.set_params(**STILL).fit(mixture, y)
    assert not np.allclose(predict(model, mixture), first)


def test_two_short_fits_get_as_far_as_they_should(mixture, y):
    model = SoapBPNNRegressor(**SMALL, warm_start=True, validation_fraction=0).fit(mixture, y)
    losses = [model.history_[-1, "train_loss"]]
    for _ in range(3):
        losses.append(model.fit(mixture, y).history_[-1, "train_loss"])
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_first_fit_of_a_warm_start_is_an_ordinary_one(mixture, y):
    first, second = (
        predict(SoapBPNNRegressor(**SMALL, warm_start=warm).fit(mixture, y), mixture)
        for warm in (False, True)
    )
    np.testing.assert_array_equal(first, second)


def test_structures_that_carry_everything(mixture, y):
    X = CompositionBaseline().fit(mixture, y).transform(mixture)
    X = TargetScaler().fit(X, y).transform(X)
    X = SoapFeaturizer(max_radial=2, max_angular=2, dtype="float64").fit(X).transform(X)
    model = SoapBPNNRegressor(**SMALL, warm_start=True).fit(X, y)
    before = predict(model, X)
    model.set_params(**STILL).fit(X, y)
    np.testing.assert_allclose(predict(model, X), before, rtol=1e-7, atol=1e-8)
    with pytest.raises(ValueError, match="carr"):
        model.fit(mixture, y)


def test_what_does_not_go_together_is_refused(mixture, y, draw):
    model = SoapBPNNRegressor(**SMALL, warm_start=True).fit(mixture, y)
    before = predict(model, mixture)
    with pytest.raises(ValueError, match="'S'"):
        model.fit([*mixture, molecule("SH2")], draw([*mixture, molecule("SH2")], KINDS))
    other = {**KINDS, "charges": TargetKind.scalar(2, per_atom=True)}
    with pytest.raises(ValueError, match="charges"):
        model.fit(mixture, draw(mixture, other))
    np.testing.assert_array_equal(predict(model, mixture), before)


@pytest.mark.parametrize(
    "names", [["energy"], ["dipole"], ["charges", "energy", "forces"]], ids=str
)
def test_targets_that_are_left_out_can_still_be_predicted(mixture, y, names):
    model = SoapBPNNRegressor(**SMALL, warm_start=True).fit(mixture, y)
    before = predict(model, mixture)
    some = Targets(kinds=KINDS, **{name: y[name] for name in names})
    model.set_params(**STILL).fit(mixture, some)
    np.testing.assert_allclose(predict(model, mixture), before, rtol=1e-7, atol=1e-8)
    assert set(model.targets_) == {*KINDS, "forces"}


@pytest.mark.parametrize("species_encoding", ["orthogonal", "alchemical"])
def test_new_targets_leave_the_others_as_they_are(mixture, y, species_encoding):
    model = SoapBPNNRegressor(**SMALL, species_encoding=species_encoding, warm_start=True)
    model.fit(mixture, Targets(energy=y["energy"], forces=y["forces"]))
    before = model.predict(mixture, targets=["energy", "forces"])
    model.set_params(**STILL).fit(mixture, y)
    after = model.predict(mixture, targets=NAMES)
    for name in before.names:
        rows = before.flatten(name)
        np.testing.assert_allclose(after.flatten(name), rows, rtol=1e-7, atol=1e-8)
    fresh = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    for name in ("dipole", "charges"):
        np.testing.assert_allclose(model.scaler_.scale_[name], fresh.scaler_.scale_[name])
        assert np.abs(after.flatten(name)).max() > 0


def test_without_hidden_layers_there_is_nothing_for_new_targets_to_share(mixture, y):
    model = SoapBPNNRegressor(**SMALL, num_hidden_layers=0, warm_start=True)
    model.fit(mixture, Targets(energy=y["energy"]))
    with pytest.raises(ValueError, match="num_hidden_layers=0"):
        model.fit(mixture, y)
