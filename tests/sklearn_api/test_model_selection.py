"""Splitting, scoring and searching with lists of Atoms, energies and Targets."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import sklearn
from matplotlib import pyplot
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import (
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LearningCurveDisplay,
    LeaveOneGroupOut,
    LeaveOneOut,
    RandomizedSearchCV,
    ValidationCurveDisplay,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    train_test_split,
)
from sklearn.pipeline import Pipeline
from soapbpnn_cases import NETWORK, make_pipeline, make_regressor, select_targets

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    TargetKind,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.metrics import make_target_scorer

mpl.use("Agg")
MODELS = {"bare": make_regressor, "pipeline": make_pipeline}
SCORERS = {
    "r2": r2_score,
    "neg_mean_absolute_error": lambda y, p: -mean_absolute_error(y, p),
    "neg_root_mean_squared_error": lambda y, p: -root_mean_squared_error(y, p),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def fit_by_hand(model, X, y, train, **fit_params):
    return clone(model).fit([X[i] for i in train], y[train], **fit_params)


def predict_by_hand(model, X, y, cv):
    """Predictions for each fold, without any of scikit-learn's indexing."""
    return [
        (test, fit_by_hand(model, X, y, train).predict([X[i] for i in test]))
        for train, test in cv.split(range(len(X)))
    ]


def test_cross_val_score(labelled):
    X, y = labelled
    cv = KFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(make_pipeline(), X, y, cv=cv, scoring="neg_mean_absolute_error")
    folds = predict_by_hand(make_pipeline(), X, y, cv)
    truth = np.asarray(y)
    assert_array_equal(scores, [-mean_absolute_error(truth[test], p) for test, p in folds])


def test_cross_val_predict(model, labelled):
    X, y = labelled
    predictions = cross_val_predict(model, X, y, cv=KFold(2))
    for test, expected in predict_by_hand(model, X, y, KFold(2)):
        assert_array_equal(predictions[test], expected)


def test_cross_validate(model, labelled):
    X, y = labelled
    result = cross_validate(
        model, X, y, cv=2, scoring=list(SCORERS), return_estimator=True, return_indices=True
    )
    truth = np.asarray(y)
    for i, (fitted, test) in enumerate(zip(result["estimator"], result["indices"]["test"])):
        predictions = fitted.predict([X[j] for j in test])
        for name, score in SCORERS.items():
            assert result[f"test_{name}"][i] == score(truth[test], predictions)


def test_energies_alone_are_targets_with_energies(model, crystals):
    X, y = crystals
    energies = np.asarray(y)
    scrambled = pd.Series(energies, index=np.arange(len(X))[::-1])
    expected = cross_val_score(model, X, energies, cv=2)
    for other in (list(energies), scrambled, Targets(energy=energies)):
        assert_array_equal(cross_val_score(model, X, other, cv=2), expected)
    # and forces change what is learnt
    assert not np.array_equal(cross_val_score(model, X, y, cv=2), expected)


def test_leave_one_out(molecules):
    X, y = molecules[0][:4], molecules[1][:4]
    scoring = "neg_mean_absolute_error"
    scores = cross_val_score(make_pipeline(), X, y, cv=LeaveOneOut(), scoring=scoring)
    folds = predict_by_hand(make_pipeline(), X, y, LeaveOneOut())
    expected = [-abs(np.asarray(y)[test[0]] - p[0]) for test, p in folds]
    assert_allclose(scores, expected, rtol=1e-12)


@pytest.mark.parametrize("cv", [LeaveOneGroupOut(), GroupKFold(2)], ids=["logo", "kfold"])
def test_groups(labelled, cv):
    X, y = labelled
    groups = [f"group {i % 3}" for i in range(len(X))]
    result = cross_validate(make_pipeline(), X, y, groups=groups, cv=cv, return_indices=True)
    n_folds = cv.get_n_splits(X, groups=groups)
    assert len(result["test_score"]) == n_folds
    for train, test in zip(result["indices"]["train"], result["indices"]["test"]):
        assert not {groups[i] for i in train} & {groups[i] for i in test}


@pytest.mark.parametrize("convert", [list, tuple, as_structures], ids=lambda f: f.__name__)
def test_train_test_split(data, convert):
    X, y = data
    numbered = [atoms.copy() for atoms in X]
    energy_of = {atoms.positions.tobytes(): energy for atoms, energy in zip(X, np.asarray(y))}
    parts = train_test_split(convert(numbered), y, np.asarray(y), test_size=3, random_state=0)
    X_train, X_test, y_train, y_test, e_train, e_test = parts
    assert [len(part) for part in parts] == [len(X) - 3, 3] * 3
    for structures, targets, energies in ((X_train, y_train, e_train), (X_test, y_test, e_test)):
        assert isinstance(targets, Targets)
        assert targets.names == y.names
        assert_array_equal(np.asarray(targets), energies)
        for atoms, energy, forces in zip(structures, energies, targets["forces"]):
            assert energy_of[atoms.positions.tobytes()] == energy
            assert forces.shape == atoms.positions.shape


def test_split_of_attached_structures_keeps_what_is_attached(crystals):
    """Slices carry what the whole carries, so that a fit on them is the fit on a slice."""
    X, y = crystals
    attached = make_pipeline()[:3].fit_transform(X, y)
    train, test, y_train, _ = train_test_split(attached, y, test_size=3, random_state=1)
    _, chosen = train_test_split(np.arange(len(X)), test_size=3, random_state=1)
    assert test.scale == attached.scale
    assert_array_equal(test.offset["energy"], attached.offset["energy"][chosen])
    assert_array_equal(np.asarray(test), np.asarray(attached)[chosen])
    model = SoapBPNNRegressor(**NETWORK).fit(train, y_train)
    assert_allclose(model.predict(test), model.predict(attached)[chosen], rtol=1e-6)


def test_learning_curve(model, labelled):
    X, y = labelled
    sizes, train_scores, test_scores = learning_curve(model, X, y, cv=2, train_sizes=[0.5, 1.0])
    assert_array_equal(sizes, [len(X) // 4, len(X) // 2])
    assert_array_equal(test_scores[-1], cross_val_score(model, X, y, cv=2))
    train, _ = next(KFold(2).split(X))
    train = train[: sizes[0]]
    fitted = fit_by_hand(model, X, y, train)
    assert train_scores[0, 0] == fitted.score([X[i] for i in train], y[train])


@pytest.mark.parametrize("scoring", ["neg_mean_absolute_error", None])
def test_grid_search(labelled, scoring):
    X, y = labelled
    grid = {"bpnn__num_neurons_per_layer": [4, 8]}
    search = GridSearchCV(make_pipeline(), grid, cv=2, scoring=scoring).fit(X, y)
    candidates = [make_pipeline().set_params(**p) for p in search.cv_results_["params"]]
    expected = [cross_val_score(pipe, X, y, cv=2, scoring=scoring).mean() for pipe in candidates]
    assert_array_equal(search.cv_results_["mean_test_score"], expected)
    assert len(set(expected)) == len(candidates)
    best = candidates[int(np.argmax(expected))].fit(X, y)
    assert search.best_params_ == {
        "bpnn__num_neurons_per_layer": best["bpnn"].num_neurons_per_layer
    }
    assert_array_equal(search.predict(X), best.predict(X))
    assert search.score(X, y) == (
        best.score(X, y) if scoring is None else -mean_absolute_error(y, best.predict(X))
    )


def test_search_over_steps(crystals):
    """Whether the Pipeline scales or the regressor does: the same score."""
    X, y = crystals
    grid = {"scaler": ["passthrough", TargetScaler()], "soap__max_angular": [1, 2]}
    results = GridSearchCV(make_pipeline(), grid, cv=2).fit(X, y).cv_results_
    scores = results["mean_test_score"].reshape(2, 2)
    assert_array_equal(scores[0], scores[1])
    assert scores[0, 0] != scores[0, 1]


def test_search_of_the_bare_regressor(labelled):
    X, y = labelled
    grid = {"max_radial": [2, 3], "learning_rate": [1e-2]}
    bare = GridSearchCV(make_regressor(), grid, cv=2).fit(X, y)
    grid = {"soap__max_radial": [2, 3], "bpnn__learning_rate": [1e-2]}
    pipe = GridSearchCV(make_pipeline(), grid, cv=2).fit(X, y)
    for name in ("mean_test_score", "split0_test_score"):
        assert_array_equal(bare.cv_results_[name], pipe.cv_results_[name])


OPTION_GRID = [
    {"heads": [None, {"energy": "linear"}]},
    {"loss": ["mae", {"energy": {"type": "huber", "delta": 0.1, "forces": {"weight": 5.0}}}]},
    {"species_encoding": ["alchemical"], "n_pseudo_species": [1, 2]},
    {"long_range": [True], "smearing": [1.0, 2.0]},
    {"long_range": [True], "use_ewald": [True]},
    {"num_hidden_layers": [0]},
]


def test_search_over_options_of_the_network(crystals):
    """Each option makes a difference, and the same one in a Pipeline."""
    X, y = crystals
    shared = {"num_epochs": 1, "batch_size": 2}
    bare = GridSearchCV(make_regressor(**shared), OPTION_GRID, cv=2).fit(X, y)
    grid = [{f"bpnn__{name}": v for name, v in part.items()} for part in OPTION_GRID]
    pipe = GridSearchCV(make_pipeline(bpnn=shared), grid, cv=2).fit(X, y)
    scores = bare.cv_results_["mean_test_score"]
    assert_array_equal(scores, pipe.cv_results_["mean_test_score"])
    assert len(set(scores)) == len(scores) == 10
    assert_array_equal(bare.predict(X), pipe.predict(X))


def test_search_over_zbl(crystals):
    """A step that comes and goes is the switch of the regressor."""
    X, y = crystals
    bare = GridSearchCV(make_regressor(num_epochs=1), {"zbl": [False, True]}, cv=2).fit(X, y)
    grid = {"zbl": ["passthrough", ZBLBaseline()]}
    pipe = GridSearchCV(make_pipeline(zbl=True, bpnn={"num_epochs": 1}), grid, cv=2).fit(X, y)
    scores = bare.cv_results_["mean_test_score"]
    assert_array_equal(scores, pipe.cv_results_["mean_test_score"])
    assert scores[0] != scores[1]


def predict_rows(model, X, y, train, test, name):
    """Labels and predictions of one target, for one fold, as rows."""
    fitted = fit_by_hand(model, X, y, train)
    predicted = fitted.predict([X[i] for i in test], targets=[name])
    return y[test].flatten(name), predicted.flatten(name)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name", ["dipole", "charges", "quadrupole"])
def test_cross_val_score_without_energies(everything, make, name):
    X, y = everything
    y = select_targets(y, [name])
    scores = cross_val_score(make(), X, y, cv=2)
    folds = [predict_rows(make(), X, y, *fold, name) for fold in KFold(2).split(X)]
    assert_allclose(scores, [r2_score(*rows) for rows in folds], rtol=1e-12)


@pytest.mark.parametrize("name", ["dipole", "polarizability", "quadrupole", "gaps"])
def test_scorers_of_sklearn_for_a_tensor(everything, name):
    """One column of values per structure is an array with a flat second axis."""
    X, y = everything
    y = select_targets(y, [name])
    folds = [predict_rows(make_regressor(), X, y, *fold, name) for fold in KFold(2).split(X)]
    for scoring, score in SCORERS.items():
        scores = cross_val_score(make_regressor(), X, y, cv=2, scoring=scoring)
        assert_allclose(scores, [score(*rows) for rows in folds], rtol=1e-12)
    predictions = cross_val_predict(make_regressor(), X, y, cv=2)
    assert_array_equal(predictions, np.concatenate([predicted for _, predicted in folds]))


def test_scorers_of_sklearn_find_the_scalar(everything):
    """Among several targets, whatever their order."""
    X, y = everything
    gap = Targets(kinds={"gap": TargetKind.scalar()}, gap=y["gaps"][:, 0])
    y = Targets(kinds=gap.kinds, charges=y["charges"], dipole=y["dipole"], gap=gap["gap"])
    scores = cross_val_score(make_regressor(), X, y, cv=2, scoring="neg_mean_absolute_error")
    folds = [predict_rows(make_regressor(), X, y, *fold, "gap") for fold in KFold(2).split(X)]
    assert_allclose(scores, [-mean_absolute_error(*rows) for rows in folds], rtol=1e-12)


def test_scorers_of_single_targets(everything):
    X, y = everything
    names = ["polarizability", "shielding", "quadrupole", "charges", "stress", "gaps"]
    metrics = {"rmse": root_mean_squared_error, "mae": mean_absolute_error}
    scoring = {
        f"{name} {metric}": make_target_scorer(name, metric) for name in names for metric in metrics
    }
    scores = cross_validate(
        make_pipeline(), X, y, cv=2, scoring=scoring, return_estimator=True, return_indices=True
    )
    for fold, (fitted, test) in enumerate(zip(scores["estimator"], scores["indices"]["test"])):
        predicted = fitted.predict([X[i] for i in test], targets=names)
        for name in names:
            rows = y[test].flatten(name).ravel(), predicted.flatten(name).ravel()
            for metric, compute in metrics.items():
                # over all entries, not the mean over columns
                found = scores[f"test_{name} {metric}"][fold]
                assert_allclose(found, -compute(*rows), rtol=1e-12, err_msg=name)


def test_search_that_is_scored_by_several_targets(everything):
    X, y = everything
    scoring = {name: make_target_scorer(name) for name in ("energy per atom", "polarizability")}
    grid = {"bpnn__heads": [{"polarizability": "mlp"}, {"polarizability": "linear"}]}
    search = GridSearchCV(make_pipeline(), grid, cv=2, scoring=scoring, refit="polarizability")
    results = search.fit(X, y).cv_results_
    for name in scoring:
        scores = results[f"mean_test_{name}"]
        assert scores[0] != scores[1]
        assert (scores < 0).all()
    best = int(np.argmax(results["mean_test_polarizability"]))
    assert search.best_params_ == results["params"][best]


def test_nested_cross_validation_scored_by_forces(molecules):
    """Of a search, of a Pipeline that ends in one, and of a search over such a Pipeline."""
    X, y = molecules
    scorer = make_target_scorer("forces", "mae")
    search = GridSearchCV(
        make_pipeline(), {"bpnn__num_neurons_per_layer": [4]}, cv=2, scoring=scorer
    )
    front, last = make_pipeline()[:3], make_regressor()
    inner = GridSearchCV(last, {"num_neurons_per_layer": [4]}, cv=2, scoring=scorer)
    models = {
        "search": search,
        "search at the end": Pipeline([("front", front), ("search", inner)]),
        "search alone in a Pipeline": Pipeline([("search", search)]),
        "search over searches": GridSearchCV(search, {"cv": [2]}, cv=2, scoring=scorer),
    }
    expected = []
    for train, test in KFold(2).split(X):
        fitted = fit_by_hand(search, X, y, train)
        prediction = fitted.best_estimator_.predict([X[i] for i in test], targets="forces")
        error = prediction.flatten("forces") - y[test].flatten("forces")
        expected.append(-np.abs(error).mean())
    for name, model in models.items():
        scores = cross_val_score(model, X, y, cv=2, scoring=scorer)
        assert_allclose(scores, expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("display", [LearningCurveDisplay, ValidationCurveDisplay])
def test_displays_are_labelled_by_the_scorer(molecules, display):
    X, y = molecules
    scorer = make_target_scorer("forces", "mae")
    options = {"train_sizes": [0.5, 1.0]}
    if display is ValidationCurveDisplay:
        options = {"param_name": "bpnn__num_neurons_per_layer", "param_range": [4, 8]}
    for negate, label in ((False, "Negative forces mae"), (True, "Forces mae")):
        shown = display.from_estimator(
            make_pipeline(), X, y, cv=2, scoring=scorer, negate_score=negate, **options
        )
        assert shown.ax_.get_ylabel() == label
        pyplot.close(shown.figure_)
    assert np.isfinite(shown.test_scores).all()
    assert (shown.test_scores < 0).all()


def test_randomized_search_of_a_nested_pipeline(molecules):
    X, y = molecules
    nested = Pipeline([("front", make_pipeline()[:3]), ("bpnn", SoapBPNNRegressor(**NETWORK))])
    space = {"front__soap__max_angular": [1, 2], "bpnn__learning_rate": [1e-3, 1e-2]}
    search = RandomizedSearchCV(nested, space, n_iter=2, cv=2, random_state=0).fit(X, y)
    for parameters, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"]
    ):
        flat = {name.removeprefix("front__"): value for name, value in parameters.items()}
        pipe = make_pipeline().set_params(**flat)
        assert score == cross_val_score(pipe, X, y, cv=2).mean()


def test_routed_sample_weight(labelled):
    X, y = labelled
    weights = np.linspace(0.1, 2.0, len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline()
        for step in ("baseline", "scaler", "bpnn"):
            pipe.named_steps[step].set_fit_request(sample_weight=True)
        pipe["bpnn"].set_score_request(sample_weight=True)
        grid = {"bpnn__num_neurons_per_layer": [4, 8]}
        search = GridSearchCV(pipe, grid, cv=2).fit(X, y, sample_weight=weights)
    parameters = search.best_params_
    bare = make_regressor(num_neurons_per_layer=parameters["bpnn__num_neurons_per_layer"])
    expected = clone(bare).fit(X, y, sample_weight=weights)
    assert_array_equal(search.predict(X), expected.predict(X))
    for fold, (train, test) in enumerate(KFold(2).split(X)):
        fitted = fit_by_hand(bare, X, y, train, sample_weight=weights[train])
        predictions = fitted.predict([X[i] for i in test])
        expected = r2_score(np.asarray(y)[test], predictions, sample_weight=weights[test])
        assert search.cv_results_[f"split{fold}_test_score"][search.best_index_] == expected


@pytest.mark.parametrize("step", [CompositionBaseline(), TargetScaler()], ids=["base", "scale"])
def test_repeated_structures_are_weights(crystals, step):
    X, y = crystals
    energies = np.asarray(y)
    repeats = np.random.RandomState(0).randint(0, 4, size=len(X))
    assert {0, 1} < set(repeats)
    index = np.repeat(np.arange(len(X)), repeats)
    weighted = clone(step).fit(X, energies, sample_weight=repeats)
    repeated = clone(step).fit([X[i] for i in index], energies[index])
    if isinstance(step, TargetScaler):
        assert_allclose(weighted.scale_["energy"], repeated.scale_["energy"], rtol=1e-13)
    else:
        assert_array_equal(weighted.elements_, repeated.elements_)
        assert_allclose(weighted.coef_["energy"], repeated.coef_["energy"], rtol=1e-11)


def test_weight_zero_leaves_a_structure_out(crystals):
    X, y = crystals
    left_out = np.array([1, 4])
    weights = np.ones(len(X))
    weights[left_out] = 0.0
    rest = np.setdiff1d(np.arange(len(X)), left_out)
    garbage = np.asarray(y).copy()
    garbage[left_out] = 1e6
    weighted = CompositionBaseline().fit(X, garbage, sample_weight=weights)
    expected = CompositionBaseline().fit([X[i] for i in rest], garbage[rest])
    assert_allclose(weighted.coef_["energy"], expected.coef_["energy"], rtol=1e-11)
    everything = CompositionBaseline().fit(X, garbage)
    assert not np.allclose(everything.coef_["energy"], expected.coef_["energy"])
    attached = expected.transform(X)
    scaler = TargetScaler().fit(attached, garbage, sample_weight=weights)
    assert_allclose(
        scaler.scale_["energy"], TargetScaler().fit(attached[rest], garbage[rest]).scale_["energy"]
    )


def test_weights_on_unlabelled_structures_only(crystals):
    """All of the weight on energies that are not known leaves nothing to fit: an error says so."""
    X, _ = crystals
    y = Targets(energy=[np.nan, 1.0])
    for step in (CompositionBaseline(), TargetScaler()):
        with pytest.raises(ValueError, match="weight"):
            step.fit(X[:2], y, sample_weight=[1.0, 0.0])


@pytest.mark.parametrize(("fraction", "n_val"), [(0.25, 3), (0.01, 1), (0.0, 0)])
def test_labels_that_are_held_out_are_not_learnt(molecules, fraction, n_val):
    """With one epoch, the labels that do not change the network are those of the hold-out."""
    X, y = molecules
    energies = np.asarray(y)
    model = make_regressor(
        validation_fraction=fraction,
        num_epochs=1,
        remove_composition_contribution=False,
        scale_targets=False,
    )
    expected = clone(model).fit(X, energies).predict(X)
    unchanged = 0
    for i in range(len(X)):
        other = energies.copy()
        other[i] += 50.0
        unchanged += np.array_equal(clone(model).fit(X, other).predict(X), expected)
    assert unchanged == n_val


def test_array_of_targets_is_a_copy_where_one_is_asked_for(crystals):
    """np.array copies, so that changing the copy leaves the targets alone."""
    y = crystals[1][:]
    before = np.asarray(y).tolist()
    energies = np.array(y)
    energies += 1.0
    assert np.asarray(y).tolist() == before
