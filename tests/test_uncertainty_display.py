"""The plot of errors against error bars: what it draws, and what it says."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from numpy.testing import assert_allclose
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, Targets
from sklearn_soapbpnn.metrics import UncertaintyDisplay

mpl.use("Agg")
SHARES = {0.5: 0.674490, 0.68: 0.994458, 0.95: 1.959964}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def draw(n, seed=0, spread=0.5):
    """Labels that were drawn from the predicted distributions."""
    rng = np.random.default_rng(seed)
    std = np.exp(spread * rng.normal(size=n))
    predicted = rng.normal(size=n)
    return rng.normal(predicted, std), predicted, std


def texts_of(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_points_and_lines_by_hand():
    """Labels without a value are not shown, nor do they need an error bar."""
    known, predicted, std = [1.0, 2.0, np.nan, 0.0], [1.5, 1.0, 9.0, 3.0], [1.0, 2.0, 0.0, 1.0]
    shown = UncertaintyDisplay.from_predictions(known, predicted, std, unit="eV", name="gap")
    assert_allclose(shown.points_.get_offsets(), [[1.0, 0.5], [2.0, 1.0], [1.0, 3.0]])
    for level, factor in SHARES.items():
        x, y = shown.lines_[level].get_data()
        assert_allclose(y / x, factor, rtol=1e-6)
        assert x[0] < 1.0 < 2.0 < x[1]
    assert texts_of(shown)[:3] == [
        "50% expected, 67% observed",
        "68% expected, 67% observed",
        "95% expected, 67% observed",
    ]
    assert shown.ax_.get_xlabel() == "predicted standard deviation (eV)"
    assert shown.ax_.get_ylabel() == "absolute error (eV)"
    assert shown.ax_.get_xscale() == shown.ax_.get_yscale() == "log"
    # the mean of 1/4, 1/4 and 9
    assert shown.ax_.get_title().startswith(r"gap: $\langle z^2 \rangle$ = 3.17, miscalibration")


@pytest.mark.parametrize("n", [1, 30, 1000, 5000])
def test_every_label_is_inside_the_axes(n):
    """Also errors of zero, and error bars that are all the same."""
    for spread in (0.0, 0.5, 3.0):
        known, predicted, std = draw(n, spread=spread)
        known[0] = predicted[0]
        shown = UncertaintyDisplay.from_predictions(known, predicted, std)
        shown.figure_.canvas.draw()
        if n <= 1000:
            x, y = shown.points_.get_offsets().T
            (left, right), (bottom, top) = shown.ax_.get_xlim(), shown.ax_.get_ylim()
            assert ((left < x) & (x < right) & (bottom <= y) & (y < top)).all()
            assert len(x) == n
        else:
            assert shown.points_.get_array().sum() == n


def test_dots_of_perfect_error_bars_are_on_the_lines():
    shown = UncertaintyDisplay.from_predictions(*draw(50_000))
    assert len(shown.quantiles_) == 3
    for dots, factor in zip(shown.quantiles_, SHARES.values()):
        x, y = dots.get_data()
        assert len(x) == 10
        # the groups at both ends are wide
        assert_allclose((y / x)[1:-1], factor, rtol=0.1)
    assert texts_of(shown)[0] == "50% expected, 50% observed"


def test_lists_of_atoms_and_given_axes():
    rng = np.random.default_rng(0)
    columns = [[rng.uniform(1, 2, size=(n, 3)) for n in (2, 3)] for _ in range(3)]
    figure, (ax, other) = pyplot.subplots(1, 2)
    shown = UncertaintyDisplay.from_predictions(*columns, ax=ax)
    assert (shown.ax_, shown.figure_) == (ax, figure)
    assert len(shown.points_.get_offsets()) == 15
    assert (shown.unit, shown.name, shown.y_true) == ("", None, columns[0])
    again = shown.plot(other)
    assert again is shown
    assert again.ax_ is other
    assert other.get_title() == ax.get_title()


def test_energies_of_an_estimator(shipped_molecules):
    """Of a Pipeline and of a search over it, in the unit of the labels."""
    X, y = shipped_molecules[0][:24], shipped_molecules[1][:24]
    pipe = make_pipeline(SoapFeaturizer(max_radial=2, max_angular=1), BayesianRidge()).fit(X, y)
    mean, std = pipe.predict(X, return_std=True)
    expected = np.column_stack([std, np.abs(y["energy"] - mean)])
    shown = UncertaintyDisplay.from_estimator(pipe, X, y, target="energy")
    assert_allclose(shown.points_.get_offsets(), expected, rtol=1e-9)
    assert shown.ax_.get_ylabel() == "absolute error (eV)"
    search = GridSearchCV(pipe, {"bayesianridge__tol": [1e-3]}, cv=2).fit(X, y)
    options = {"target": "energy per atom", "ax": shown.ax_}
    shown = UncertaintyDisplay.from_estimator(search, X, np.asarray(y), **options)
    assert_allclose(shown.points_.get_offsets(), expected / 9, rtol=1e-9)
    assert shown.ax_.get_ylabel() == "absolute error (eV/atom)"
    assert shown.ax_.get_title().startswith("energy per atom: ")
    dipoles = Targets(dipole=np.zeros((24, 3)))
    with pytest.raises(ValueError, match="no labels of the target 'energy'"):
        UncertaintyDisplay.from_estimator(pipe, X, dipoles, target="energy")
    with pytest.raises(TypeError, match="BayesianRidge.predict does not accept targets"):
        UncertaintyDisplay.from_estimator(pipe, X, y)


def test_forces_of_our_regressor(shipped_molecules):
    X, y = shipped_molecules[0][:24], shipped_molecules[1][:24]
    model = SoapBPNNRegressor(max_radial=2, max_angular=1, num_epochs=1, random_state=0).fit(X, y)
    mean, std = model.predict(X, targets=["forces"], return_std=True)
    shown = UncertaintyDisplay.from_estimator(model, X, y)
    error = np.abs(y.flatten("forces") - mean.flatten("forces"))
    expected = np.column_stack([std.flatten("forces").ravel(), error.ravel()])
    # errors that are smaller than a fiftieth of the smallest error bar are at the lower edge
    assert_allclose(
        shown.points_.get_offsets(), expected, rtol=1e-5, atol=expected[:, 0].min() / 50
    )
    assert shown.ax_.get_ylabel() == "absolute error (eV/Angstrom)"


def test_error_bars_that_are_none():
    with pytest.raises(ValueError, match="y_std must be positive and finite"):
        UncertaintyDisplay.from_predictions([1.0], [1.0], [0.0])


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install sklearn_soapbpnn\[plot\]"):
        UncertaintyDisplay.from_predictions([1.0], [2.0], [1.0])
