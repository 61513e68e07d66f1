"""Every line of the table in docs/scikit-learn.md: what works, what is lost, what is refused."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingRegressor,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import BayesianRidge, RANSACRegressor, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import FeatureUnion
from sklearn.pipeline import make_pipeline as chain
from sklearn.preprocessing import StandardScaler
from soapbpnn_cases import make_pipeline, make_regressor

from sklearn_soapbpnn import CompositionBaseline, SoapFeaturizer, TargetKind, Targets, TargetScaler
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.metrics import (
    make_target_scorer,
    make_uncertainty_scorer,
    negative_log_likelihood,
)

SOAP = {"cutoff_radius": 4.0, "max_radial": 2, "max_angular": 2}
TINY = {"num_epochs": 1, "num_neurons_per_layer": 4}
WIDTH = "bpnn__num_neurons_per_layer"


@pytest.fixture(params=["bare", "pipeline"])
def model(request):
    if request.param == "bare":
        return make_regressor(**SOAP, **TINY)
    return make_pipeline(soap=SOAP, bpnn=TINY)


@pytest.fixture
def pipe():
    return make_pipeline(soap=SOAP, bpnn=TINY)


@pytest.fixture(params=["energies", "targets"])
def labelled(molecules, request):
    X, y = molecules
    return X, np.asarray(y) if request.param == "energies" else y


# --- tools that choose structures ----------------------------------------------------------------

SEARCHES = {
    "grid": lambda pipe, **options: GridSearchCV(pipe, {WIDTH: [3, 4]}, cv=2, **options),
    "random": lambda pipe, **options: RandomizedSearchCV(
        pipe, {WIDTH: [3, 4]}, n_iter=2, cv=2, **options
    ),
    "halving": lambda pipe, **options: HalvingGridSearchCV(
        pipe, {WIDTH: [3, 4]}, cv=2, factor=2, min_resources=6, **options
    ),
    "halving random": lambda pipe, **options: HalvingRandomSearchCV(
        pipe, {WIDTH: [3, 4]}, cv=2, factor=2, min_resources=6, **options
    ),
    "halving epochs": lambda pipe, **options: HalvingGridSearchCV(
        pipe,
        {WIDTH: [3, 4]},
        cv=2,
        factor=2,
        resource="bpnn__num_epochs",
        min_resources=1,
        max_resources=2,
        **options,
    ),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_searches(pipe, molecules, search):
    X, y = molecules
    y = np.asarray(y) if search == "random" else y
    fitted = SEARCHES[search](pipe).fit(X, y)
    assert np.isfinite(fitted.cv_results_["mean_test_score"]).all()
    assert_array_equal(fitted.predict(X), fitted.best_estimator_.predict(X))
    named = fitted.best_estimator_.predict(X, targets=["energy", "forces"])
    assert_array_equal(named["energy"], fitted.predict(X))
    with pytest.raises(TypeError, match="targets"):
        fitted.predict(X, targets=["forces"])


@pytest.mark.parametrize("search", SEARCHES)
def test_searches_scored_by_forces(pipe, molecules, search):
    X, y = molecules
    scorer = make_target_scorer("forces", "mae", kinds=y.kinds)
    fitted = SEARCHES[search](pipe, scoring=scorer).fit(X, y)
    assert (fitted.cv_results_["mean_test_score"] < 0).all()
    assert scorer(fitted, X, y) == scorer(fitted.best_estimator_, X, y) == fitted.score(X, y)


@pytest.mark.parametrize("target", [None, "energy per atom", "forces"])
def test_scores(pipe, molecules, target):
    X, y = molecules
    if target is None:
        y = np.asarray(y)
    scoring = target and {"one": make_target_scorer(target), "other": make_target_scorer("energy")}
    results = cross_validate(pipe, X, y, cv=2, scoring=scoring)
    assert all(np.isfinite(values).all() for values in results.values())
    options = {"cv": 2, "scoring": scoring and scoring["one"]}
    _, *curves = learning_curve(pipe, X, y, train_sizes=[0.5, 1.0], **options)
    curves += validation_curve(pipe, X, y, param_name=WIDTH, param_range=[3, 4], **options)
    assert all(np.isfinite(scores).all() for scores in curves)


def test_incremental_learning_curve(labelled):
    X, y = labelled
    options = {"cv": 2, "train_sizes": [0.5, 1.0], "exploit_incremental_learning": True}
    _, _, scores = learning_curve(make_regressor(**SOAP, **TINY), X, y, **options)
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match="partial_fit"):
        learning_curve(make_pipeline(soap=SOAP, bpnn=TINY), X, y, **options)


def test_cross_val_predict_gives_energies(model, labelled):
    X, y = labelled
    predicted = cross_val_predict(model, X, y, cv=2)
    assert_array_equal(predicted[:6], clone(model).fit(X[6:], y[6:]).predict(X[:6]))


def test_frozen_models_know_their_targets(model, molecules):
    X, y = molecules
    frozen = FrozenEstimator(model.fit(X, y))
    assert frozen.predict(X, targets=["forces"]).names == ("forces",)
    scorer = make_target_scorer("forces")
    assert scorer(frozen, X, y) == scorer(model, X, y)


def test_permuted_labels(pipe, molecules, crystals):
    """Forces stay with their energy, and can belong to structures of the same size only."""
    X, y = molecules
    for labels in (y, np.asarray(y)):
        _, scores, _ = permutation_test_score(pipe, X, labels, cv=2, n_permutations=2)
        assert np.isfinite(scores).all()
    X, y = crystals
    permutation_test_score(pipe, X, np.asarray(y), cv=2, n_permutations=2)
    with pytest.raises(ValueError, match="Target 'forces' of structure .* atoms"):
        permutation_test_score(pipe, X, y, cv=2, n_permutations=2)


# --- tools that look into y ----------------------------------------------------------------------


def make_ensembles(model):
    return {
        "voting": VotingRegressor([("one", model)]),
        "stacking": StackingRegressor([("one", model)], cv=2),
        "transformed": TransformedTargetRegressor(model, transformer=StandardScaler()),
    }


@pytest.mark.parametrize(
    ("name", "model"),
    [("voting", "bare"), ("stacking", "pipeline"), ("transformed", "bare")],
    indirect=["model"],
)
def test_ensembles_drop_forces(model, molecules, name):
    X, y = molecules
    ensemble = make_ensembles(model)[name].fit(X, y)
    predicted = ensemble.predict(X)
    assert_array_equal(predicted, clone(ensemble).fit(X, np.asarray(y)).predict(X))
    with pytest.raises((TypeError, AttributeError)):
        ensemble.predict(X, targets=["forces"])
    # scored by energies all the same, with either kind of scorer
    scorer = make_target_scorer("energy per atom", "mae")
    error = np.abs(predicted - y["energy"]).mean() / 9
    assert scorer(ensemble, X, y) == pytest.approx(-error, rel=1e-9)
    scores = cross_val_score(clone(ensemble), X, y, cv=2, scoring="neg_mean_absolute_error")
    per_atom = cross_val_score(clone(ensemble), X, y, cv=2, scoring=scorer)
    assert_allclose(per_atom, scores / 9, rtol=1e-9)
    with pytest.raises((TypeError, AttributeError)):
        make_target_scorer("forces")(ensemble, X, y)


def test_ensembles_by_hand(molecules):
    X, energies = molecules[0], np.asarray(molecules[1])
    bare = make_regressor()
    members = [("bare", bare), ("pipe", make_pipeline(bpnn={"random_state": 1}))]
    each = [clone(model).fit(X, energies).predict(X) for _, model in members]
    voting = VotingRegressor(members).fit(X, energies)
    assert_allclose(voting.predict(X), np.mean(each, axis=0), rtol=1e-12)

    stacked = StackingRegressor(members, cv=2).fit(X, energies)
    columns = [cross_val_predict(model, X, energies, cv=2) for _, model in members]
    expected = clone(stacked.final_estimator_).fit(np.column_stack(columns), energies)
    assert_allclose(stacked.final_estimator_.coef_, expected.coef_)

    shifted = TransformedTargetRegressor(bare, transformer=StandardScaler(with_std=False))
    by_hand = clone(bare).fit(X, energies - energies.mean()).predict(X) + energies.mean()
    assert_allclose(shifted.fit(X, energies).predict(X), by_hand, rtol=1e-9)


def test_spread_of_a_committee(model, molecules):
    """``transform`` gives the prediction of each member, also at the end of a Pipeline."""
    X, energies = molecules[0], np.asarray(molecules[1])
    members = [(str(seed), make_regressor(**SOAP, **TINY, random_state=seed)) for seed in range(3)]
    voting = VotingRegressor([("first", model), *members]).fit(X, energies)
    each = [member.predict(X) for member in voting.estimators_]
    assert_array_equal(voting.transform(X), np.transpose(each))
    front = chain(CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SOAP))
    pipe = chain(front, VotingRegressor(members)).fit(X, energies)
    structures = clone(front).fit_transform(X, energies)
    each = [clone(one).fit(structures, energies).predict(structures) for _, one in members]
    assert_array_equal(pipe[-1].transform(front.transform(X)), np.transpose(each))
    assert (np.std(each, axis=0) > 0).all()
    stacked = chain(front, StackingRegressor(members, cv=2)).fit(X, energies)
    assert np.isfinite(stacked.predict(X)).all()


def test_ensembles_have_no_error_bars(molecules):
    X, y = molecules
    scorer = make_uncertainty_scorer("energy")
    voting, stacking, shifted = make_ensembles(make_regressor(**SOAP, **TINY)).values()
    with pytest.raises(TypeError, match="VotingRegressor.predict does not .* n_networks"):
        scorer(voting.fit(X, y), X, y)
    with pytest.raises(TypeError, match=r"RidgeCV.predict\(\) got .* 'return_std'"):
        scorer(stacking.fit(X, y), X, y)
    with pytest.raises((TypeError, AttributeError)):
        scorer(shifted.fit(X, y), X, y)
    # that of the regressor which combines them
    stacking = stacking.set_params(final_estimator=BayesianRidge()).fit(X, y)
    expected = -negative_log_likelihood(y["energy"], *stacking.predict(X, return_std=True))
    assert scorer(stacking, X, y) == pytest.approx(expected, rel=1e-9)


def test_one_network_for_each_column(model, molecules):
    X, y = molecules
    columns = np.column_stack([y["energy"], -2.0 * y["energy"]])
    several = MultiOutputRegressor(model).fit(X, columns)
    for k, column in enumerate(columns.T):
        assert_array_equal(several.predict(X)[:, k], clone(model).fit(X, column).predict(X))
    with pytest.raises(ValueError, match="two dimensions"):
        several.fit(X, y)
    # one network for all of them
    y = Targets(kinds={"levels": TargetKind.scalar(2)}, levels=columns)
    assert clone(model).fit(X, y).predict(X).shape == several.predict(X).shape


# --- tools that look into X ----------------------------------------------------------------------

REFUSED = {
    "stacking with X": lambda model: StackingRegressor([("one", model)], cv=2, passthrough=True),
    "bagging": lambda model: BaggingRegressor(model, 2),
    "boosting": lambda model: AdaBoostRegressor(model, n_estimators=2),
    "ransac": lambda model: RANSACRegressor(model, min_samples=6),
    "rfe": RFE,
}


@pytest.mark.parametrize("name", REFUSED)
def test_atoms_that_are_unpacked(model, labelled, name):
    """Structures of equal size become an array of their atoms."""
    with pytest.raises(TypeError):
        REFUSED[name](model).fit(*labelled)


@pytest.mark.parametrize("name", REFUSED)
def test_structures_of_different_size_are_no_array(model, crystals, name):
    with pytest.raises(ValueError, match="inhomogeneous"):
        REFUSED[name](model).fit(*crystals)


def test_bagging_after_the_features(molecules):
    """Regressors of arrays only: an array has lost the structures."""
    X, energies = molecules[0], np.asarray(molecules[1])
    soap = SoapFeaturizer(**SOAP, pooling="sum")
    bagged = chain(soap, BaggingRegressor(Ridge(), 3, random_state=0)).fit(X, energies)
    expected = BaggingRegressor(Ridge(), 3, random_state=0)
    features = np.asarray(soap.fit_transform(X))
    assert_allclose(bagged.predict(X), expected.fit(features, energies).predict(features))
    with pytest.raises(TypeError, match=r"X\[0\] has the type ndarray.*Pass a list of Atoms"):
        chain(soap, BaggingRegressor(make_regressor(**SOAP, **TINY), 2)).fit(X, energies)
    with pytest.raises(ValueError, match="carry no features, so they are not an array"):
        BaggingRegressor(make_regressor(**SOAP, **TINY), 2).fit(as_structures(X), energies)


def test_more_that_is_refused(model, molecules):
    X, y = molecules
    energies = np.asarray(y)
    with pytest.raises(TypeError):
        RegressorChain(model).fit(X, np.column_stack([energies, energies]))
    with pytest.raises(TypeError):
        permutation_importance(clone(model).fit(X, y), X, energies, n_repeats=1)
    with pytest.raises(ValueError, match="CalibratedClassifierCV"):
        CalibratedClassifierCV(model).fit(X, energies)


# --- regressors of arrays ------------------------------------------------------------------------


def test_united_features(molecules):
    """An array for regressors of arrays, no structures for ours."""
    X, y = molecules
    parts = [SoapFeaturizer(**{**SOAP, "cutoff_radius": radius}) for radius in (4.0, 5.0)]
    union = FeatureUnion([("near", parts[0]), ("far", parts[1])])
    both = np.hstack([np.asarray(part.fit_transform(X)) for part in parts])
    expected = Ridge().fit(both, y["energy"]).predict(both)
    assert_allclose(chain(union, Ridge()).fit(X, y).predict(X), expected, rtol=1e-12)
    with pytest.raises(TypeError):
        chain(union, make_regressor()).fit(X, y)


def test_what_is_attached_is_not_seen_by_regressors_of_arrays(crystals):
    """The baseline is to be subtracted by hand in front of them."""
    X, y = crystals
    energies = y["energy"] - [50.0 * atoms.numbers.sum() for atoms in X]
    soap = SoapFeaturizer(**SOAP, pooling="sum")
    plain = chain(soap, Ridge()).fit(X, energies)
    attached = chain(CompositionBaseline(), TargetScaler(), soap, Ridge()).fit(X, energies)
    assert_array_equal(plain.predict(X), attached.predict(X))
    baseline = CompositionBaseline().fit(X, energies)
    by_hand = chain(soap, Ridge()).fit(X, energies - baseline.predict(X))
    error = np.abs(by_hand.predict(X) + baseline.predict(X) - energies).mean()
    assert error < 0.1 * np.abs(plain.predict(X) - energies).mean()
    # and they are scored as ours are
    scorer = make_target_scorer("energy per atom", "mae")
    n_atoms = [len(atoms) for atoms in X]
    expected = -np.mean(np.abs(plain.predict(X) - energies) / n_atoms)
    assert scorer(plain, X, Targets(energy=energies)) == pytest.approx(expected, rel=1e-9)
