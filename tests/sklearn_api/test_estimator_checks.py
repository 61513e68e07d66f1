"""scikit-learn's own checks that need no data, and the others on lists of Atoms."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted, has_fit_parameter
from soapbpnn_cases import (
    KINDS,
    NETWORK,
    OPTIONS,
    SOAP,
    list_predictions,
    make_regressor,
    select_targets,
)

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.data import as_structures

# float64, so that what is equal up to rounding is very nearly equal
FEATURIZER = SoapFeaturizer(**SOAP, dtype="float64")
REGRESSOR = SoapBPNNRegressor(**SOAP, **NETWORK, dtype="float64")
SUPERVISED = [CompositionBaseline(), TargetScaler(), REGRESSOR]
UNSUPERVISED = [ZBLBaseline(), FEATURIZER]
ESTIMATORS = SUPERVISED + UNSUPERVISED
REGRESSORS = [estimator for estimator in ESTIMATORS if is_regressor(estimator)]
DATA_FREE_CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_param_validation",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]


def name_of(estimator):
    return type(estimator).__name__


def each(estimators):
    return pytest.mark.parametrize("estimator", estimators, ids=name_of)


@pytest.fixture
def labels(crystals, request):
    """Labels of the crystals: energies, or Targets with forces and stress."""
    y = crystals[1]
    return {"energies": np.asarray(y), "targets": y}[getattr(request, "param", "targets")]


both_labels = pytest.mark.parametrize("labels", ["energies", "targets"], indirect=True)


def observe(estimator, X):
    """Everything that a fitted estimator says about X: name -> one array per structure."""
    seen = {}
    if hasattr(estimator, "predict"):
        seen["predict"] = list(estimator.predict(X))
    if isinstance(estimator, SoapBPNNRegressor):
        targets = estimator.predict(X, targets=list_predictions(estimator))
        seen |= {name: list(targets[name]) for name in targets.names}
    if hasattr(estimator, "transform"):
        structures = estimator.transform(X)
        seen |= {f"offset {k}": list(v) for k, v in structures.offset.items()}
        seen |= {f"scale {k}": [v] * len(structures) for k, v in structures.scale.items()}
        if structures.features is not None:
            seen["pooled"] = list(np.asarray(structures))
            sizes = np.cumsum(structures.n_atoms)[:-1]
            seen["per atom"] = np.split(structures.per_atom(), sizes)
    assert seen
    return seen


def assert_same(first, second, rtol=0.0):
    assert first.keys() == second.keys()
    for name in first:
        assert len(first[name]) == len(second[name])
        size = max(np.abs(values).max() for values in first[name])
        for a, b in zip(first[name], second[name]):
            if rtol:
                assert_allclose(a, b, rtol=rtol, atol=rtol * size, err_msg=name)
            else:
                assert_array_equal(a, b, err_msg=name)


def snapshot(X):
    """All that an Atoms holds, in copies."""
    return [
        {
            "arrays": {name: values.copy() for name, values in atoms.arrays.items()},
            "cell": atoms.cell.array.copy(),
            "pbc": atoms.pbc.copy(),
            "info": copy.deepcopy(atoms.info),
            "results": copy.deepcopy(atoms.calc.results),
        }
        for atoms in X
    ]


@pytest.mark.parametrize("check", DATA_FREE_CHECKS)
@each(ESTIMATORS)
def test_check_of_sklearn(estimator, check):
    getattr(estimator_checks, check)(name_of(estimator), clone(estimator))


def test_feature_names_need_a_fit():
    estimator_checks.check_get_feature_names_out_error("SoapFeaturizer", SoapFeaturizer())


@each(ESTIMATORS)
def test_html_repr(estimator, crystals):
    X, y = crystals
    for state in (clone(estimator), clone(estimator).fit(X, y)):
        assert name_of(estimator) in state._repr_html_()


@each(ESTIMATORS)
def test_fit_returns_self(estimator, crystals):
    estimator = clone(estimator)
    assert estimator.fit(*crystals) is estimator


@each(ESTIMATORS)
@both_labels
def test_fitting_twice_is_fitting_once(estimator, crystals, labels):
    X, _ = crystals
    estimator = clone(estimator).fit(X, labels)
    once = observe(estimator, X)
    assert_same(observe(estimator.fit(X, labels), X), once)
    assert_same(observe(clone(estimator).fit(X, labels), X), once)


@each(ESTIMATORS)
def test_fit_forgets_earlier_data(estimator, crystals, molecules):
    X, y = crystals
    fresh = clone(estimator).fit(X, y)
    assert_same(observe(clone(estimator).fit(*molecules).fit(X, y), X), observe(fresh, X))


@each(ESTIMATORS)
@both_labels
def test_input_is_left_alone(estimator, crystals, labels):
    X, y = crystals
    before, energies = snapshot(X), np.asarray(y).copy()
    columns = {name: copy.deepcopy(y[name]) for name in y.names}
    calculators = [atoms.calc for atoms in X]
    observe(clone(estimator).fit(X, labels), X)

    assert all(atoms.calc is calculator for atoms, calculator in zip(X, calculators))
    for old, new in zip(before, snapshot(X)):
        np.testing.assert_equal(new, old)
    assert_array_equal(np.asarray(labels), energies)
    for name, column in columns.items():
        np.testing.assert_equal(y[name], column)


@each(ESTIMATORS)
def test_read_only_input(estimator, crystals):
    X, y = crystals
    frozen = [atoms.copy() for atoms in X]
    energies = np.asarray(y).copy()
    for array in [energies, *(atoms.positions for atoms in frozen)]:
        array.setflags(write=False)
    expected = observe(clone(estimator).fit(X, np.asarray(y).copy()), X)
    assert_same(observe(clone(estimator).fit(frozen, energies), frozen), expected)


@pytest.mark.parametrize(
    "estimator",
    [
        CompositionBaseline(fixed_weights={"Cu": -1.0}),
        TargetScaler(fixed_weights={"energy": 2.0}),
        SoapFeaturizer(**SOAP, pooling="sum"),
        SoapBPNNRegressor(
            **SOAP,
            **NETWORK,
            heads={"energy": "linear"},
            fixed_composition_weights={79: -2.0},
            per_structure_targets=["energy"],
            loss={"energy": {"type": "huber", "delta": 0.1, "forces": {"weight": 2.0}}},
            callbacks=[],
            net_params={"optimizer__eps": 1e-9},
        ),
    ],
    ids=name_of,
)
def test_fit_leaves_parameters_alone(estimator, crystals):
    given = estimator.get_params()
    digest = joblib.hash(given)
    estimator.fit(*crystals)
    assert joblib.hash(estimator.get_params()) == digest
    assert all(estimator.get_params()[name] is value for name, value in given.items())


@each(ESTIMATORS)
def test_what_is_learnt_ends_in_an_underscore(estimator, crystals):
    estimator = clone(estimator)
    before = set(vars(estimator))
    estimator.fit(*crystals)
    learnt = set(vars(estimator)) - before
    assert [name for name in learnt if not name.startswith("_")]
    assert all(name.endswith("_") for name in learnt if not name.startswith("_"))


@each(ESTIMATORS)
def test_predict_and_transform_keep_the_state(estimator, crystals):
    X, y = crystals
    estimator = clone(estimator).fit(X, y)
    before = dict(vars(estimator))
    first = observe(estimator, X[:5])
    after = vars(estimator)
    assert before.keys() == after.keys()
    assert all(after[name] is value for name, value in before.items())
    observe(estimator, X[5:])
    assert_same(observe(estimator, X[:5]), first)


@each(ESTIMATORS)
def test_batches_give_what_the_whole_gives(estimator, crystals):
    X, y = crystals
    estimator = clone(estimator).fit(X, y)
    whole = observe(estimator, X)
    for size in (1, 3):
        parts = [observe(estimator, X[i : i + size]) for i in range(0, len(X), size)]
        joined = {name: sum((part[name] for part in parts), []) for name in whole}
        assert_same(joined, whole, rtol=1e-11)


@each(ESTIMATORS)
def test_permuted_samples_permute_the_result(estimator, crystals):
    X, y = crystals
    estimator = clone(estimator).fit(X, y)
    order = np.random.RandomState(0).permutation(len(X))
    whole = observe(estimator, X)
    permuted = {name: [values[i] for i in order] for name, values in whole.items()}
    assert_same(observe(estimator, [X[i] for i in order]), permuted, rtol=1e-11)


def to_object_array(X):
    array = np.empty(len(X), dtype=object)
    array[:] = X
    return array


@pytest.mark.parametrize(
    "convert", [tuple, to_object_array, as_structures, pd.Series], ids=lambda f: f.__name__
)
@each(ESTIMATORS)
def test_kind_of_sequence_does_not_matter(estimator, convert, crystals):
    X, y = crystals
    expected = observe(clone(estimator).fit(X, y), X)
    converted = convert(X)
    assert_same(observe(clone(estimator).fit(converted, y), converted), expected)


@pytest.mark.parametrize(
    "roundtrip",
    [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy],
    ids=["pickle", "deepcopy"],
)
@each(ESTIMATORS)
def test_pickle_and_copy(estimator, roundtrip, crystals):
    X, y = crystals
    unfitted = roundtrip(clone(estimator))
    assert unfitted.get_params() == estimator.get_params()
    fitted = unfitted.fit(X, y)
    assert_same(observe(roundtrip(fitted), X), observe(fitted, X))


@each(ESTIMATORS)
def test_not_fitted(estimator, crystals):
    X, y = crystals
    methods = ["predict", "transform", "get_feature_names_out", "calculator"]
    arguments = {"predict": (X,), "transform": (X,)}
    for method in filter(lambda name: hasattr(estimator, name), methods):
        with pytest.raises(NotFittedError, match=name_of(estimator)):
            getattr(clone(estimator), method)(*arguments.get(method, ()))
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(estimator))
    check_is_fitted(clone(estimator).fit(X, y))


@each(ESTIMATORS)
def test_clone_of_a_fitted_estimator_is_not_fitted(estimator, crystals):
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(clone(estimator).fit(*crystals)))


@pytest.mark.parametrize(
    ("estimator", "parameters", "look"),
    [
        (
            SUPERVISED[0],
            {"fixed_weights": {"Cu": -100.0}},
            lambda baseline: baseline.coef_["energy"][list(baseline.elements_).index(29)],
        ),
        (
            SUPERVISED[1],
            {"fixed_weights": {"energy": 7.0}},
            lambda scaler: scaler.scale_["energy"],
        ),
        (
            FEATURIZER,
            {"max_angular": 1},
            lambda featurizer: max(name[:2] for name in featurizer.get_feature_names_out()),
        ),
        (
            REGRESSOR,
            {"num_neurons_per_layer": 3},
            lambda model: sum(weight.numel() for weight in model.module_.parameters()),
        ),
    ],
    ids=["CompositionBaseline", "TargetScaler", "SoapFeaturizer", "SoapBPNNRegressor"],
)
def test_set_params_after_clone_takes_effect(estimator, parameters, look, crystals):
    X, y = crystals
    original = clone(estimator).fit(X, y)
    before = observe(original, X)
    changed = clone(original).set_params(**parameters).fit(X, y)
    assert look(changed) != look(original)
    assert_same(observe(original, X), before)
    assert_same(observe(type(estimator)(**changed.get_params()).fit(X, y), X), observe(changed, X))


def test_n_features_in_of_the_regressor(data):
    X, y = data
    model = clone(REGRESSOR)
    assert not hasattr(model, "n_features_in_")
    model.fit(X, y)
    featurizer = clone(FEATURIZER).fit(X)
    assert model.n_features_in_ == np.asarray(featurizer.transform(X)).shape[1]
    assert model.n_features_in_ == len(featurizer.get_feature_names_out())


@each(UNSUPERVISED)
def test_some_need_no_y(estimator, crystals):
    X, y = crystals
    assert_same(observe(clone(estimator).fit(X), X), observe(clone(estimator).fit(X, y), X))


@each(ESTIMATORS)
def test_one_structure(estimator, crystals):
    X, y = crystals
    for values in observe(clone(estimator).fit(X[:1], y[:1]), X[:1]).values():
        assert np.isfinite(values[0]).all()


@each(REGRESSORS)
@both_labels
def test_score_is_r2(estimator, crystals, labels):
    X, _ = crystals
    estimator = clone(estimator).fit(X, labels)
    expected = r2_score(np.asarray(labels), estimator.predict(X))
    assert estimator.score(X, labels) == expected
    weights = np.arange(1.0, len(X) + 1)
    weighted = r2_score(np.asarray(labels), estimator.predict(X), sample_weight=weights)
    assert estimator.score(X, labels, sample_weight=weights) == weighted != expected


@each(SUPERVISED)
def test_array_of_energies_is_targets_with_energies(estimator, crystals):
    X, y = crystals
    energies = np.asarray(y)
    expected = observe(clone(estimator).fit(X, energies), X)
    scrambled = pd.Series(energies, index=np.arange(len(X))[::-1])
    for other in (list(energies), tuple(energies), scrambled, Targets(energy=energies)):
        assert_same(observe(clone(estimator).fit(X, other), X), expected)


@each(SUPERVISED)
def test_integer_energies(estimator, crystals):
    X, y = crystals
    energies = np.round(np.asarray(y)).astype(int)
    as_floats = clone(estimator).fit(X, energies.astype(float))
    assert_same(observe(clone(estimator).fit(X, energies), X), observe(as_floats, X))


def test_who_takes_sample_weight():
    assert all(has_fit_parameter(estimator, "sample_weight") for estimator in SUPERVISED)
    assert not any(has_fit_parameter(estimator, "sample_weight") for estimator in UNSUPERVISED)


@each(SUPERVISED)
def test_sample_weight_containers(estimator, crystals):
    X, y = crystals
    weights = np.linspace(0.5, 2.0, len(X))
    expected = observe(clone(estimator).fit(X, y, sample_weight=weights), X)
    series = pd.Series(weights, index=np.arange(len(X))[::-1])
    for other in (list(weights), series):
        assert_same(observe(clone(estimator).fit(X, y, sample_weight=other), X), expected)
    assert_array_equal(weights, np.linspace(0.5, 2.0, len(X)))


@each(SUPERVISED)
def test_equal_sample_weights_are_none(estimator, crystals):
    X, y = crystals
    expected = observe(clone(estimator).fit(X, y), X)
    ones = clone(estimator).fit(X, y, sample_weight=np.ones(len(X)))
    assert_same(observe(ones, X), expected, rtol=1e-9)


# --- targets of every kind, and what changes the network ------------------------------------------


def make_model(option):
    return make_regressor(dtype="float64", **OPTIONS[option])


@pytest.fixture(scope="module", params=OPTIONS)
def fitted(request, everything):
    """A model of all targets; tests only read it."""
    return make_model(request.param).fit(*everything)


def test_pickle_and_copy_of_all_targets(fitted, everything):
    X, _ = everything
    expected = observe(fitted, X)
    assert {"dipole", "shielding", "forces"} < expected.keys()
    for roundtrip in (lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy):
        loaded = roundtrip(fitted)
        assert loaded.kinds_ == fitted.kinds_
        assert_same(observe(loaded, X), expected)


def test_a_clone_learns_all_targets_again(everything):
    X, y = everything
    model = make_model("all").fit(X, y)
    assert_same(observe(clone(model).fit(X, y), X), observe(model, X))


def test_batches_and_order_of_all_targets(fitted, everything):
    """Of atoms, each says the same wherever its structure stands."""
    X, _ = everything
    whole = observe(fitted, X)
    parts = [observe(fitted, X[i : i + 3]) for i in range(0, len(X), 3)]
    joined = {name: sum((part[name] for part in parts), []) for name in whole}
    assert_same(joined, whole, rtol=1e-10)
    order = np.random.RandomState(0).permutation(len(X))
    permuted = {name: [values[i] for i in order] for name, values in whole.items()}
    assert_same(observe(fitted, [X[i] for i in order]), permuted, rtol=1e-10)


@pytest.mark.parametrize(
    "names",
    [["dipole"], ["charges"], ["quadrupole"], ["gaps", "shielding"], ["polarizability", "energy"]],
    ids=" ".join,
)
def test_score_of_other_targets_is_r2(names, everything):
    X, y = everything
    model = make_model("plain").fit(X, select_targets(y, names))
    main = "energy" if "energy" in names else names[0]
    known, predicted = (t.flatten(main) for t in (y, model.predict(X, targets=[main])))
    assert_allclose(model.score(X, y), r2_score(known, predicted), rtol=1e-12)
    weights = np.arange(1.0, len(X) + 1)
    rows = np.repeat(weights, [len(atoms) for atoms in X]) if y.kinds[main].per_atom else weights
    expected = r2_score(known, predicted, sample_weight=rows)
    assert_allclose(model.score(X, y, sample_weight=weights), expected, rtol=1e-12)


def test_default_prediction_is_the_energy_or_the_first_target_of_structures(everything):
    X, y = everything
    model = make_model("plain").fit(X, select_targets(y, ["dipole", "energy"]))
    assert_array_equal(model.predict(X), model.predict(X, targets="energy")["energy"])
    model = make_model("plain").fit(X, select_targets(y, ["shielding", "dipole"]))
    predicted = model.predict(X, targets=["dipole", "shielding"])
    assert predicted.names == ("dipole", "shielding")
    assert predicted.kinds["shielding"] == KINDS["shielding"]
    assert_array_equal(model.predict(X), predicted["dipole"])
    model = make_model("plain").fit(X, select_targets(y, ["shielding", "charges"]))
    predicted = model.predict(X, targets=["charges", "shielding"])
    for mine, theirs, atoms in zip(model.predict(X), predicted["shielding"], X, strict=True):
        assert_array_equal(mine, theirs)
        assert mine.shape == (len(atoms), 3, 3)


def test_sample_weights_of_other_targets(everything):
    """Structures of zero weight are not learnt, and weights of one are none."""
    X, y = everything
    names = ["dipole", "charges", "quadrupole", "shielding"]
    y = select_targets(y, names)
    columns = {name: [np.array(values) for values in y[name]] for name in names}
    for values in columns.values():
        values[2] = values[2] + 50.0
    spoilt = Targets(kinds=KINDS, **columns)
    weights = np.ones(len(X))
    weights[2] = 0.0
    held_out = {"X_val": X[:2], "y_val": y[:2]}
    model = make_model("plain")

    def predict(labels, **fit_params):
        return observe(clone(model).fit(X, labels, **held_out, **fit_params), X)

    plain = predict(y)
    assert_same(predict(spoilt, sample_weight=weights), predict(y, sample_weight=weights))
    assert_same(predict(y, sample_weight=np.ones(len(X))), plain, rtol=1e-9)
    heavy = predict(y, sample_weight=np.linspace(0.2, 3.0, len(X)))
    for name in names:
        assert not np.allclose(np.concatenate(heavy[name]), np.concatenate(plain[name]))
