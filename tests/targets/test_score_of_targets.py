"""``score``, and ``predict`` without ``targets``, of models that learnt no energy."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.metrics import make_target_scorer, summarize_errors

SMALL = {
    "max_radial": 2,
    "max_angular": 2,
    "num_neurons_per_layer": 6,
    "num_epochs": 2,
    "random_state": 0,
}
KINDS = {
    "gap": TargetKind.scalar(intensive=True),
    "gaps": TargetKind.scalar(3, intensive=True),
    "dipole": TargetKind.vector(),
    "dipoles": TargetKind.vector(2),
    "polarizability": TargetKind.tensor(symmetric=True),
    "charges": TargetKind.scalar(per_atom=True),
    "vectors": TargetKind.vector(per_atom=True),
    "several": TargetKind.spherical([(0, 1, 2), (2, -1)]),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_mean_over_the_components(mixture, draw, name):
    y = draw(mixture, {name: KINDS[name]})
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    prediction = model.predict(mixture)
    if KINDS[name].per_atom:
        prediction = np.concatenate(prediction)
    known = y.flatten(name)
    rows = prediction.reshape(known.shape)
    expected = r2_score(known, rows, multioutput="uniform_average")
    np.testing.assert_allclose(model.score(mixture, y), expected, rtol=1e-6)

    weight = np.random.default_rng(0).uniform(0.1, 5.0, len(mixture))
    n_rows = [len(atoms) if KINDS[name].per_atom else 1 for atoms in mixture]
    expected = r2_score(known, rows, sample_weight=np.repeat(weight, n_rows))
    score = model.score(mixture, y, sample_weight=weight)
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    assert not np.isclose(score, model.score(mixture, y))


@pytest.mark.parametrize("name", ["dipole", "charges"])
def test_labels_that_are_missing_are_left_out(mixture, draw, name):
    y = draw(mixture, {name: KINDS[name]})
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    rng = np.random.default_rng(0)
    partial = [np.where(rng.random(p.shape) < 0.3, np.nan, p) for p in y[name]]
    partial = Targets(kinds=KINDS, **{name: partial})
    known, rows = partial.flatten(name), model.predict(mixture, targets=name).flatten(name)
    there = np.isfinite(known)
    expected = [r2_score(a[t], b[t]) for a, b, t in zip(known.T, rows.T, there.T)]
    np.testing.assert_allclose(model.score(mixture, partial), np.mean(expected), rtol=1e-6)


def test_components_without_any_label_are_left_out(mixture, draw):
    y = draw(mixture, {"dipole": KINDS["dipole"]})
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    known, rows = y.flatten("dipole").copy(), model.predict(mixture)
    known[:, 2] = np.nan
    expected = r2_score(known[:, :2], rows[:, :2])
    partial = Targets(kinds={"dipole": KINDS["dipole"]}, dipole=known)
    np.testing.assert_allclose(model.score(mixture, partial), expected, rtol=1e-6)


@pytest.mark.parametrize("name", list(KINDS))
def test_shape_of_predictions(mixture, draw, name):
    """An array of the shape that scikit-learn's scorers see of y, until targets are named."""
    y = draw(mixture, {name: KINDS[name]})
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    plain, named = model.predict(mixture), model.predict(mixture, targets=name)
    assert named.kinds == y.kinds
    if KINDS[name].per_atom:
        assert [values.shape for values in plain] == [values.shape for values in y[name]]
    else:
        assert plain.shape == np.asarray(y).shape
        assert named[name].shape == y[name].shape
        assert np.array_equal(plain, np.asarray(named))


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["dipole", "energy"], "energy"),
        (["dipole", "gap"], "gap"),
        (["gaps", "charges", "gap", "other"], "gap"),
        (["charges", "gaps"], "gaps"),
        (["charges", "dipole"], "dipole"),
        (["vectors", "charges"], "vectors"),
    ],
)
def test_which_target_is_predicted_unless_others_are_named(mixture, draw, names, main):
    """The one that ``np.asarray(y)`` is, so that scikit-learn's scorers compare like with like."""
    kinds = {**KINDS, "energy": TargetKind.scalar(), "other": TargetKind.scalar()}
    y = draw(mixture, {name: kinds[name] for name in names})
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    flat = y.flatten(main)
    if not y.kinds[main].per_atom:
        assert np.array_equal(np.asarray(y), flat.reshape(np.asarray(y).shape))
    plain, named = model.predict(mixture), model.predict(mixture, targets=main)
    plain = np.concatenate([np.ravel(values) for values in plain])
    assert np.array_equal(plain, named.flatten(main).ravel())
    expected = r2_score(flat, named.flatten(main))
    np.testing.assert_allclose(model.score(mixture, y), expected, rtol=1e-6)


def test_energy_comes_first_wherever_it_stands(mixture, draw):
    y = draw(mixture, {"dipole": KINDS["dipole"], "energy": TargetKind.scalar()})
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    assert model.targets_ == ("dipole", "energy")
    prediction = model.predict(mixture)
    assert prediction.shape == (len(mixture),)
    np.testing.assert_allclose(model.score(mixture, y), r2_score(y["energy"], prediction))


@pytest.mark.parametrize("name", list(KINDS))
def test_scorers_of_single_targets(mixture, draw, name):
    y = draw(mixture, KINDS)
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y)
    errors = summarize_errors(mixture, y, model.predict(mixture, targets=list(KINDS)))
    difference = y.flatten(name) - model.predict(mixture, targets=name).flatten(name)
    np.testing.assert_allclose(errors[name]["rmse"], np.sqrt(np.mean(difference**2)))
    for metric in ("rmse", "mae"):
        scorer = make_target_scorer(name, metric, kinds=KINDS)
        np.testing.assert_allclose(scorer(model, mixture, y), -errors[name][metric])
