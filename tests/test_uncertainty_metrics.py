"""Metrics of error bars: by hand, against scipy, and where the answer is known."""

import pickle

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
)
from sklearn_soapbpnn.metrics import (
    crps,
    error_std_correlation,
    make_target_scorer,
    make_uncertainty_scorer,
    mean_squared_z_score,
    miscalibration_area,
    negative_log_likelihood,
    summarize_uncertainty,
)

FRAMES = [Atoms("H"), Atoms("OH")]
METRICS = {
    "nll": negative_log_likelihood,
    "crps": crps,
    "msz": mean_squared_z_score,
    "miscalibration_area": miscalibration_area,
    "correlation": error_std_correlation,
}
TINY = {"num_neurons_per_layer": 8, "num_epochs": 2, "random_state": 0}
BELOW = "must be positive and finite where there is a label"


@pytest.fixture
def drawn():
    """Labels that were drawn from the predicted distributions."""
    rng = np.random.default_rng(0)
    std = np.exp(rng.normal(scale=0.5, size=20_000))
    predicted = rng.normal(size=len(std))
    return rng.normal(predicted, std), predicted, std


def random_columns(seed, n=50):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.normal(size=n), np.exp(rng.normal(size=n))


# --- single metrics ------------------------------------------------------------------------------


def test_by_hand():
    known, predicted, std = [1.0, 0.0, 3.0], [1.0, 2.0, 0.0], [1.0, 2.0, 1.0]
    assert mean_squared_z_score(known, predicted, std) == pytest.approx((0 + 1 + 9) / 3)
    expected = (10 / 2 + np.log(2.0)) / 3 + np.log(2 * np.pi) / 2
    assert negative_log_likelihood(known, predicted, std) == pytest.approx(expected)
    # ranks of the errors 0, 2, 3 and of the standard deviations, of which two are the same
    expected = np.corrcoef([1, 2, 3], [1.5, 3, 1.5])[0, 1]
    assert error_std_correlation(known, predicted, std) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_likelihood_is_that_of_scipy(seed):
    known, predicted, std = random_columns(seed)
    expected = -stats.norm(predicted, std).logpdf(known).mean()
    assert negative_log_likelihood(known, predicted, std) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(0.1, 10))
def test_crps_is_the_integral_of_its_definition(z, std):
    """Of the squared difference of cumulative distribution and step."""
    cumulative = stats.norm(0.0, std).cdf
    left, _ = integrate.quad(lambda t: cumulative(t) ** 2, -12 * std, z * std)
    right, _ = integrate.quad(lambda t: (1 - cumulative(t)) ** 2, z * std, 12 * std)
    assert crps([z * std], [0.0], [std]) == pytest.approx(left + right, rel=1e-6)


def test_crps_of_small_error_bars_is_the_absolute_error():
    known, predicted, std = random_columns(0)
    expected = np.abs(known - predicted).mean()
    assert crps(known, predicted, 1e-9 * std) == pytest.approx(expected, rel=1e-6)


def test_area_by_hand():
    """Labels at the borders of the intervals of 20 % and 60 %."""
    z = stats.norm.ppf([0.6, 0.8])
    # F is 0 up to 0.2, 1/2 up to 0.6, and then 1
    expected = 0.2**2 / 2 + (0.3**2 + 0.1**2) / 2 + 0.4**2 / 2
    assert miscalibration_area(z, [0.0, 0.0], [1.0, 1.0]) == pytest.approx(expected)
    assert miscalibration_area(-2 * z, [0.0, 0.0], [2.0, 2.0]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_area_is_the_integral_over_levels(seed):
    known, predicted, std = random_columns(seed)
    levels = (np.arange(200_000) + 0.5) / 200_000
    inside = np.sort(np.abs(known - predicted) / std)
    observed = np.searchsorted(inside, stats.norm.ppf((1 + levels) / 2), side="right") / len(inside)
    expected = np.abs(observed - levels).mean()
    assert miscalibration_area(known, predicted, std) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e9])
def test_area_is_largest_where_all_labels_are_inside_or_outside(value):
    assert miscalibration_area([value] * 3, [0.0] * 3, [1.0] * 3) == pytest.approx(0.5)


def test_correlation_is_that_of_scipy():
    known, predicted, std = random_columns(0)
    expected = stats.spearmanr(np.abs(known - predicted), std).statistic
    assert error_std_correlation(known, predicted, std) == expected
    assert error_std_correlation([1.0, 3.0, 7.0], [0.0] * 3, [0.1, 0.4, 0.5]) == 1.0


@pytest.mark.parametrize(
    ("known", "std"), [([1.0, 2.0], [1.0, 1.0]), ([1.0, -1.0], [1.0, 2.0]), ([1.0], [2.0])]
)
def test_correlation_with_a_constant_is_not_defined(known, std):
    assert np.isnan(error_std_correlation(known, np.zeros(len(known)), std))


# --- known distributions -------------------------------------------------------------------------


def test_perfect_error_bars(drawn):
    _, _, std = drawn
    root = np.sqrt(len(std))
    # five standard errors
    assert mean_squared_z_score(*drawn) == pytest.approx(1.0, abs=5 * np.sqrt(2) / root)
    entropy = np.log(std).mean() + np.log(2 * np.pi) / 2 + 0.5
    assert negative_log_likelihood(*drawn) == pytest.approx(entropy, abs=5 * np.sqrt(0.5) / root)
    assert crps(*drawn) == pytest.approx(std.mean() / np.sqrt(np.pi), rel=0.03)
    assert miscalibration_area(*drawn) < 5 * 0.3 / root
    assert error_std_correlation(*drawn) == pytest.approx(0.45, abs=5 / root)


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 10.0])
def test_error_bars_that_are_wrong_by_a_factor(drawn, factor):
    known, predicted, std = drawn
    wrong = known, predicted, factor * std
    assert mean_squared_z_score(*wrong) == pytest.approx(factor**-2, rel=0.05)
    area = abs(0.5 - 2 / np.pi * np.arctan(1 / factor))
    assert miscalibration_area(*wrong) == pytest.approx(area, abs=0.01)
    excess = negative_log_likelihood(*wrong) - negative_log_likelihood(*drawn)
    assert excess == pytest.approx(np.log(factor) + (factor**-2 - 1) / 2, rel=0.06)
    # proper scores are best for the truth
    assert excess > 0
    assert crps(*wrong) > crps(*drawn)
    assert error_std_correlation(*wrong) == pytest.approx(error_std_correlation(*drawn), rel=1e-9)


def test_mean_area_of_perfect_error_bars():
    """0.31 / sqrt(n), as the documentation says."""
    rng = np.random.default_rng(0)
    areas = [miscalibration_area(rng.normal(size=64), [0.0] * 64, [1.0] * 64) for _ in range(2000)]
    assert np.mean(areas) == pytest.approx(0.31 / 8, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.floats(0.01, 100), st.floats(-100, 100))
def test_units_and_order(seed, n, unit, shift):
    """What a change of the unit, of the zero, or of the order does to each metric."""
    known, predicted, std = random_columns(seed, n)
    order = np.random.default_rng(seed).permutation(n)
    before = {name: metric(known, predicted, std) for name, metric in METRICS.items()}
    columns = (unit * (known + shift), unit * (predicted + shift), unit * std)
    after = {
        name: metric(*(column[order] for column in columns)) for name, metric in METRICS.items()
    }
    before["nll"] += np.log(unit)
    before["crps"] *= unit
    for name, value in after.items():
        if name != "correlation" or n > 5:  # errors that are the same but for rounding
            assert value == pytest.approx(before[name], rel=1e-6, abs=1e-6), name


# --- what is passed ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_shapes_of_arrays_and_lists(name):
    """The same labels per atom, as an array, and between some that are unknown."""
    metric = METRICS[name]
    columns = random_columns(1, 12)
    expected = metric(*columns)
    assert metric(*(column.reshape(2, 2, 3) for column in columns)) == expected
    lists = [[column[:3].reshape(1, 3), column[3:].reshape(3, 3)] for column in columns]
    assert metric(*lists) == expected
    assert metric(*(list(column) for column in columns)) == expected
    known, predicted, std = (np.append(column, np.nan) for column in columns)
    assert metric(known, predicted, std) == expected
    assert metric(Targets(energy=known), predicted, std) == expected


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_error_bars_that_are_none(name, value):
    metric = METRICS[name]
    message = rf"y_std {BELOW}, but 1 of 2 values are not, e\.g\. {value}\. Set .* NaN"
    with pytest.raises(ValueError, match=message):
        metric([1.0, 2.0], [1.0, 2.0], [1.0, value])
    # it does not matter where there is no label
    columns = [1.0, 2.0], [1.5, 2.0], [1.0, 2.0]
    unknown = [[*column, extra] for column, extra in zip(columns, (np.nan, np.nan, value))]
    assert metric(*unknown) == metric(*columns)


@pytest.mark.parametrize(
    ("known", "predicted", "std", "message"),
    [
        ([np.nan], [1.0], [1.0], "y_true has no label at all"),
        ([], [], [], "y_true has no label at all"),
        ([1.0], [np.nan], [1.0], r"y_pred must be finite .* 1 of 1 values .* nan"),
        ([np.inf], [1.0], [1.0], r"y_true must be finite .* inf"),
        ([1.0, 2.0], [1.0], [1.0, 1.0], r"y_pred must have the shape .*\(2,\), got \(1,\)"),
        ([1.0, 2.0], [1.0, 2.0], 1.0, r"y_std must have the shape of y_true, \(2,\), got \(1,\)"),
        (np.ones((2, 3)), np.ones((2, 3)), np.ones((3, 2)), r"y_std .*\(2, 3\), got \(3, 2\)"),
        (
            [np.ones((1, 3)), np.ones((2, 3))],
            [np.ones((2, 3)), np.ones((1, 3))],
            [np.ones((1, 3)), np.ones((2, 3))],
            r"y_pred .*2 arrays of shapes \(1, 3\), \(2, 3\), got 2 arrays of shapes \(2, 3\)",
        ),
    ],
)
def test_columns_that_do_not_match(known, predicted, std, message):
    for metric in METRICS.values():
        with pytest.raises(ValueError, match=message):
            metric(known, predicted, std)


# --- all targets ---------------------------------------------------------------------------------


def test_summary_of_every_target():
    kinds = {"blocks": TargetKind.spherical([(0, 1), (1, 1)])}
    rng = np.random.default_rng(0)

    def draw(sign=True):
        values = {
            "energy": rng.normal(size=2),
            "forces": [rng.normal(size=(len(atoms), 3)) for atoms in FRAMES],
            "blocks": rng.normal(size=(2, 4)),
            "dipole": rng.normal(size=(2, 3)),
        }
        return values if sign else {name: [*map(np.abs, rows)] for name, rows in values.items()}

    y, prediction, std = draw(), draw(), draw(sign=False)
    y["dipole"] = [[1.0, np.nan, 0.0], [np.nan] * 3]
    del std["blocks"]
    columns = [Targets(kinds=kinds, **part) for part in (y, prediction, std)]
    quality = summarize_uncertainty(FRAMES, *columns)
    assert list(quality) == ["energy", "energy per atom", "forces", "dipole"]
    for name in ("energy", "forces", "dipole"):
        expected = {key: f(y[name], prediction[name], std[name]) for key, f in METRICS.items()}
        assert quality[name] == pytest.approx(expected, rel=1e-12)
    per_atom = [np.array(part["energy"]) / [1, 2] for part in (y, prediction, std)]
    expected = {key: f(*per_atom) for key, f in METRICS.items()}
    assert quality["energy per atom"] == pytest.approx(expected, rel=1e-12)


def test_summary_of_arrays():
    quality = summarize_uncertainty(FRAMES, [1.0, 2.0], [2.0, 2.0], [1.0, 2.0])
    assert quality["energy"]["msz"] == quality["energy per atom"]["msz"] == 0.5
    assert quality["energy"]["nll"] - quality["energy per atom"]["nll"] == pytest.approx(
        np.log(2) / 2
    )


def test_stress_without_a_cell():
    """Its error bar is NaN, and its label is ignored."""
    frames = [Atoms("H"), Atoms("H", cell=[4.0] * 3, pbc=True)]
    y, prediction = (Targets(stress=np.full((2, 3, 3), value)) for value in (0.0, 2.0))
    std = Targets(stress=[np.full((3, 3), np.nan), np.ones((3, 3))])
    assert summarize_uncertainty(frames, y, prediction, std)["stress"]["msz"] == 4.0


def test_what_symmetry_fixes_is_left_out():
    """Noise divided by noise, as for the forces in a perfect crystal; scalars are never fixed."""
    y = Targets(forces=[np.full((1, 3), 1e-6), np.full((2, 3), 3.0)])
    prediction = Targets(forces=[np.zeros((1, 3)), np.full((2, 3), 2.0)])
    for noise in (0.0, 1e-9):
        std = Targets(forces=[[[noise] * 3], np.full((2, 3), 0.5)])
        assert summarize_uncertainty(FRAMES, y, prediction, std)["forces"]["msz"] == 4.0
    charges = (Targets(charges=[[0.0], [0.0, value]]) for value in (0.0, 2.0))
    std = Targets(charges=[[1e-9], [1.0, 1.0]])
    assert summarize_uncertainty(FRAMES, *charges, std)["charges"]["msz"] == pytest.approx(4 / 3)
    # an error that is not small counts, and has to
    std = Targets(forces=[np.full((1, 3), 1e-9), np.full((2, 3), 0.5)])
    wrong = Targets(forces=[np.full((1, 3), 1.0), np.full((2, 3), 2.0)])
    assert summarize_uncertainty(FRAMES, y, wrong, std)["forces"]["msz"] > 1e17
    # a mistake, rather than symmetry
    for value in (0.0, -1.0, np.nan):
        std = Targets(forces=[np.full((1, 3), value), np.full((2, 3), value)])
        with pytest.raises(ValueError, match=f"y_std {BELOW}, but 9 of 9"):
            summarize_uncertainty(FRAMES, y, prediction, std)


def test_error_bars_of_other_structures():
    with pytest.raises(ValueError, match=r"labels of shape \(2, 1\) .* std has the shape \(3, 1\)"):
        summarize_uncertainty(FRAMES, [1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0])
    y = Targets(dipole=np.zeros((2, 3)), charges=[[0.0], [0.0, 0.0]])
    y = Targets(kinds={"gap": TargetKind.vector()}, gap=np.zeros((2, 3)), dipole=y["dipole"])
    with pytest.raises(ValueError, match=r"std must be Targets where y has the columns"):
        summarize_uncertainty(FRAMES, y, y, np.ones((2, 3)))


# --- scorers -------------------------------------------------------------------------------------


SCORES = {
    "nll": lambda value: -value,
    "crps": lambda value: -value,
    "msz": lambda value: -abs(np.log(value)),
    "miscalibration_area": lambda value: -value,
    "correlation": lambda value: value,
}


@pytest.fixture(scope="module")
def labelled(shipped_molecules):
    X, y = shipped_molecules
    rng = np.random.default_rng(0)
    columns = {name: y[:24][name] for name in y.names}
    return X[:24], Targets(charges=[rng.normal(size=len(atoms)) for atoms in X[:24]], **columns)


@pytest.fixture(scope="module")
def fitted(labelled):
    """A Pipeline, which need not have learnt much."""
    pipe = make_pipeline(
        CompositionBaseline(),
        SoapFeaturizer(max_radial=2, max_angular=1),
        SoapBPNNRegressor(**TINY),
    )
    return pipe.fit(*labelled)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("target", ["energy", "energy per atom", "forces", "charges"])
def test_scores(fitted, labelled, metric, target):
    X, y = labelled
    quality = summarize_uncertainty(X, y, *fitted.predict(X, targets=y.names, return_std=True))
    scorer = make_uncertainty_scorer(target, metric)
    expected = SCORES[metric](quality[target][metric])
    assert scorer(fitted, X, y) == pytest.approx(expected, rel=1e-6)
    again = pickle.loads(pickle.dumps(scorer))
    assert again(FrozenEstimator(fitted), X, y) == pytest.approx(expected, rel=1e-6)
    assert repr(again) == f"make_uncertainty_scorer({target!r}, {metric!r})"
    assert ("neg_" in again.__name__) == (metric != "correlation")


@pytest.mark.parametrize("n_networks", [1, 2])
def test_search_scored_by_error_bars(fitted, labelled, n_networks):
    """Of the last layer and of a committee; each fold has those of its own fit."""
    X, y = labelled
    pipe = clone(fitted).set_params(soapbpnnregressor__n_networks=n_networks)
    scorer = make_uncertainty_scorer("forces", kinds=y.kinds)
    grid = {"soapbpnnregressor__num_neurons_per_layer": [4]}
    search = GridSearchCV(pipe, grid, cv=KFold(2), scoring=scorer).fit(X, y)
    scores = []
    for train, test in KFold(2).split(X):
        pipe.set_params(**search.best_params_).fit([X[i] for i in train], y[train])
        part = [X[i] for i in test]
        predicted = pipe.predict(part, targets=["forces"], return_std=True)
        scores.append(-summarize_uncertainty(part, y[test], *predicted)["forces"]["nll"])
    assert search.cv_results_["mean_test_score"] == pytest.approx(np.mean(scores), rel=1e-6)
    assert search.score(X, y) == scorer(search.best_estimator_, X, y)


def test_score_of_error_bars_that_are_infinitely_too_large(fitted, labelled):
    X = labelled[0]
    y = fitted.predict(X, targets=["energy"])
    assert make_uncertainty_scorer("energy", "msz")(fitted, X, y) == -np.inf


def test_scores_of_regressors_of_arrays(shipped_molecules):
    """In a Pipeline, and in a search over it; scikit-learn's own have error bars of the energy."""
    X, y = shipped_molecules[0][:24], shipped_molecules[1][:24]
    soap = SoapFeaturizer(max_radial=2, max_angular=1)
    pipe = make_pipeline(soap, BayesianRidge())
    scorer = make_uncertainty_scorer("energy per atom", "crps")
    fitted = pipe.fit(X, y)
    columns = (np.asarray(column) / 9 for column in (y, *fitted.predict(X, return_std=True)))
    expected = -crps(*columns)
    for model in (fitted, FrozenEstimator(fitted), make_pipeline(fitted)):
        assert scorer(model, X, y) == pytest.approx(expected, rel=1e-9)
    scores = cross_val_score(pipe, X, y, cv=2, scoring=scorer)
    search = GridSearchCV(pipe, {"bayesianridge__tol": [1e-3]}, cv=2, scoring=scorer).fit(X, y)
    assert search.cv_results_["mean_test_score"] == pytest.approx(scores.mean(), rel=1e-9)
    assert scorer(search, X, y) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(TypeError, match=r"BayesianRidge.predict does not accept targets=\['forces"):
        make_uncertainty_scorer("forces")(pipe, X, y)


def test_estimators_without_error_bars(shipped_molecules):
    X, y = shipped_molecules[0][:6], shipped_molecules[1][:6]
    pipe = make_pipeline(SoapFeaturizer(max_radial=2, max_angular=1), Ridge()).fit(X, y)
    message = r"Ridge.predict does not accept return_std=True, .* SoapBPNNRegressor .* n_networks"
    with pytest.raises(TypeError, match=message):
        make_uncertainty_scorer("energy")(pipe, X, y)
    make_target_scorer("energy")(pipe, X, y)


def test_labels_that_are_missing(fitted, labelled):
    X, y = labelled
    with pytest.raises(ValueError, match="no labels of the target 'energy'"):
        make_uncertainty_scorer("energy")(fitted, X, y.select(["charges"]))


def test_arguments_of_scorers():
    """They are checked as those of the scorers of errors are."""
    with pytest.raises(ValueError, match=r"metric must be one of \['correlation', .*'rmse'"):
        make_uncertainty_scorer("energy", "rmse")
    with pytest.raises(ValueError, match="Did you mean 'forces'"):
        make_uncertainty_scorer("force")
    with pytest.raises(ValueError, match="is not in kinds"):
        make_uncertainty_scorer("forces", kinds=Targets(energy=[0.0]).kinds)
