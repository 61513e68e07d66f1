"""Plots of predictions and of the training: what they draw, and what they say."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import same_color
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, LearningCurveDisplay, ValidationCurveDisplay
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, TargetKind, Targets
from sklearn_soapbpnn.metrics import (
    ParityDisplay,
    TrainingHistoryDisplay,
    make_target_scorer,
    summarize_errors,
)

mpl.use("Agg")
TINY = {"max_radial": 2, "max_angular": 1, "random_state": 0}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def data(shipped_molecules):
    return shipped_molecules[0][:24], shipped_molecules[1][:24]


@pytest.fixture(scope="module")
def model(data):
    return SoapBPNNRegressor(**TINY, num_epochs=3).fit(*data)


def texts_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_parity_by_hand():
    """Labels without a value are not shown; components are drawn together."""
    known = [[1.0, np.nan], [3.0, -2.0]]
    shown = ParityDisplay.from_predictions(known, [[2.0, 9.0], [3.0, 0.0]], unit="e", name="mu")
    assert_allclose(shown.points_.get_offsets(), [[1, 2], [3, 3], [-2, 0]])
    assert shown.errors_ == pytest.approx({"mae": 1.0, "rmse": np.sqrt(5 / 3)})
    assert shown.ax_.get_title() == "mu: MAE 1, RMSE 1.29 e"
    assert shown.ax_.get_xlabel() == "label (e)"
    assert shown.ax_.get_ylabel() == "prediction (e)"
    assert shown.ax_.get_xlim() == shown.ax_.get_ylim() == pytest.approx((-2.25, 3.25))
    x, y = shown.line_.get_data()
    assert_allclose(x, y)
    assert shown.ax_.get_legend() is None
    # without a name or a unit
    assert ParityDisplay.from_predictions([1.0], [2.0]).ax_.get_title() == "MAE 1, RMSE 1"


def test_a_single_label_has_axes():
    shown = ParityDisplay.from_predictions([0.0], [0.0])
    assert shown.ax_.get_xlim() == (-1.0, 1.0)


def test_parity_of_energies_is_that_of_the_summary(data):
    """Of a Pipeline and of a search over it, in the unit of the labels."""
    X, y = data
    pipe = make_pipeline(SoapFeaturizer(max_radial=2, max_angular=1), Ridge()).fit(X, y)
    errors = summarize_errors(X, y, pipe.predict(X))
    expected = np.column_stack([y["energy"], pipe.predict(X)])
    shown = ParityDisplay.from_estimator(pipe, X, y)
    assert_allclose(shown.points_.get_offsets(), expected / 9)
    assert shown.errors_ == pytest.approx(errors["energy per atom"])
    assert shown.ax_.get_ylabel() == "prediction (eV/atom)"
    search = GridSearchCV(pipe, {"ridge__alpha": [1.0]}, cv=2).fit(X, y)
    figure, (ax, other) = pyplot.subplots(1, 2)
    shown = ParityDisplay.from_estimator(search, X, np.asarray(y), target="energy", ax=ax)
    assert_allclose(shown.points_.get_offsets(), expected)
    assert (shown.ax_, shown.figure_, shown.unit) == (ax, figure, "eV")
    again = shown.plot(other)
    assert again is shown
    assert other.get_title() == ax.get_title()
    with pytest.raises(TypeError, match="Ridge.predict does not accept targets"):
        ParityDisplay.from_estimator(pipe, X, y, target="forces")


def test_forces_are_coloured_by_element(data, model):
    """Each component has the colour of its atom; labels that are missing take theirs with them."""
    X, y = data[0][:3], data[1][:3]
    forces = [values.copy() for values in y["forces"]]
    forces[1][2, 1] = np.nan
    shown = ParityDisplay.from_estimator(model, X, Targets(forces=forces), target="forces")
    assert texts_of(shown.ax_) == ["C", "H", "O"]
    points = shown.points_.get_offsets()
    assert len(points) == 3 * 9 * 3 - 1
    colors = dict(zip(texts_of(shown.ax_), ("tab:blue", "tab:orange", "tab:green")))
    labels, found = np.concatenate(forces), {float(x): k for k, (x, _) in enumerate(points)}
    for atom, symbol in enumerate(np.concatenate([list(atoms.symbols) for atoms in X])):
        for value in labels[atom][np.isfinite(labels[atom])]:
            color = shown.points_.get_facecolors()[found[value]]
            assert same_color(color[:3], colors[symbol])
    assert shown.ax_.get_title().endswith("eV/Angstrom")
    # lists of atoms give the same as rows
    predicted = model.predict(X, targets="forces")["forces"]
    elements = [np.array(atoms.symbols) for atoms in X]
    again = ParityDisplay.from_predictions(forces, predicted, elements=elements)
    assert_allclose(again.points_.get_offsets(), points)
    assert_allclose(again.points_.get_facecolors(), shown.points_.get_facecolors())
    with pytest.raises(ValueError, match="an entry for each of the 27 atoms in y_true, got 9"):
        ParityDisplay.from_predictions(forces, predicted, elements=elements[0])


def test_many_labels_are_a_density():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(2000, 3))
    shown = ParityDisplay.from_predictions(known, known + 0.1)
    assert shown.points_.get_array().sum() == 6000
    # unless they have elements, which must not be too many either
    coloured = ParityDisplay.from_predictions(known, known, elements=["H"] * 1000 + ["O"] * 1000)
    assert len(coloured.points_.get_offsets()) == 6000
    many = [f"X{k % 11}" for k in range(2000)]
    shown = ParityDisplay.from_predictions(known, known, elements=many)
    assert shown.points_.get_array().sum() == 6000
    assert shown.ax_.get_legend() is None


@pytest.mark.parametrize(
    "display",
    [
        ParityDisplay(y_true=[1.0], y_pred=[2.0]),
        TrainingHistoryDisplay(history=[{"epoch": 1, "train_loss": 1.0}]),
    ],
)
def test_without_matplotlib(monkeypatch, display):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install sklearn_soapbpnn\[plot\]"):
        display.plot()


def test_wrong_shapes_and_values():
    with pytest.raises(ValueError, match=r"y_pred must have the shape of y_true, \(2,\), got \(3,"):
        ParityDisplay.from_predictions([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="y_true has no label"):
        ParityDisplay.from_predictions([np.nan], [1.0])
    with pytest.raises(ValueError, match="y_pred must be finite"):
        ParityDisplay.from_predictions([1.0], [np.nan])


def test_history_of_a_fit(data, model):
    shown = TrainingHistoryDisplay.from_estimator(model)
    assert list(shown.lines_) == [
        *("train_loss", "valid_loss", "valid_energy_rmse", "valid_forces_rmse")
    ]
    for key, line in shown.lines_.items():
        assert_allclose(line.get_data(), [[1, 2, 3], model.history_[:, key]])
    best = int(np.flatnonzero(model.history_[:, "valid_metric_best"])[-1]) + 1
    assert shown.best_epoch_ == best
    losses, errors = shown.ax_
    assert losses.get_yscale() == errors.get_yscale() == "log"
    assert texts_of(losses) == ["training", "validation", f"best epoch: {best}"]
    assert texts_of(errors)[:2] == ["energy (eV/atom)", "forces (eV/Angstrom)"]
    assert_allclose(losses.lines[-1].get_xdata(), best)
    # in axes that are there already; a Pipeline and a search have the history of their model
    figure, axes = pyplot.subplots(1, 2)
    search = GridSearchCV(make_pipeline(model), {"soapbpnnregressor__num_epochs": [2]}, cv=2)
    with pytest.raises(NotFittedError):
        TrainingHistoryDisplay.from_estimator(search)
    shown = TrainingHistoryDisplay.from_estimator(search.fit(*data), ax=axes)
    assert (shown.figure_, shown.ax_) == (figure, list(axes))
    assert len(shown.history) == 2


def test_history_without_validation_and_with_other_units(data):
    X, y = data
    mine = {"energy": TargetKind.scalar(unit="kcal/mol"), "gap": TargetKind.scalar(intensive=True)}
    y = Targets(kinds=mine, energy=y["energy"], forces=y["forces"], gap=np.arange(24.0))
    model = SoapBPNNRegressor(**TINY, num_epochs=1, log_separate_blocks=True).fit(X, y)
    shown = TrainingHistoryDisplay.from_estimator(model)
    # the model does not know the unit of length
    assert texts_of(shown.ax_[1])[:3] == ["energy (kcal/mol/atom)", "forces", "gap"]
    whole = {"validation_fraction": 0.0, "per_structure_targets": ["energy"]}
    shown = TrainingHistoryDisplay.from_estimator(model.set_params(**whole).fit(X, y))
    assert list(shown.lines_) == ["train_loss"]
    assert len(shown.ax_) == 1
    assert shown.best_epoch_ is None
    whole["validation_fraction"] = 0.2
    shown = TrainingHistoryDisplay.from_estimator(model.set_params(**whole).fit(X, y))
    assert texts_of(shown.ax_[1])[0] == "energy (kcal/mol)"


def test_history_of_what_has_none(data, model):
    other = SoapBPNNRegressor(**TINY).set_fitted(model.fitted_)
    with pytest.raises(ValueError, match="The history is empty"):
        TrainingHistoryDisplay.from_estimator(other)
    ridge = make_pipeline(SoapFeaturizer(max_radial=2, max_angular=1), Ridge()).fit(*data)
    with pytest.raises(TypeError, match="Ridge has no history"):
        TrainingHistoryDisplay.from_estimator(ridge)


def test_curves_of_scikit_learn(data):
    """Its displays take our scorers, show errors rather than scores, and name them on the axis."""
    X, y = data
    model = SoapBPNNRegressor(**TINY, num_epochs=1)
    options = {"cv": 2, "scoring": make_target_scorer("forces", "mae")}
    options |= {"negate_score": True, "score_name": "forces MAE"}
    shown = LearningCurveDisplay.from_estimator(model, X, y, train_sizes=[6, 12], **options)
    assert (shown.test_scores < 0).all()
    assert_allclose(shown.lines_[1].get_data(), [[6, 12], -shown.test_scores.mean(1)])
    assert shown.ax_.get_ylabel() == "forces MAE"
    vary = {"param_name": "learning_rate", "param_range": [1e-3, 1e-2]}
    shown = ValidationCurveDisplay.from_estimator(model, X, y, **vary, **options)
    assert_allclose(shown.lines_[1].get_ydata(), -shown.test_scores.mean(1))
    assert shown.ax_.get_xlabel() == "learning_rate"
