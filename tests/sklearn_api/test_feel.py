"""What users see of estimators and searches: text, HTML with links, progress."""

import re

import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import sklearn_soapbpnn
from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.metrics import make_target_scorer

SITE = "https://sklearn-soapbpnn.readthedocs.io/en/latest/api/sklearn_soapbpnn."
STEPS = (ZBLBaseline, CompositionBaseline, TargetScaler, SoapFeaturizer, SoapBPNNRegressor)
TINY = {"max_radial": 2, "max_angular": 1, "num_epochs": 1}


def links_of(html):
    """Return the pages to which a piece of HTML links, without places within them."""
    return {link.split("#")[0] for link in re.findall(r'href="(https:[^"]*)"', html)}


@pytest.mark.parametrize("Step", STEPS)
def test_html_links_to_the_page_of_the_estimator(Step):
    assert getattr(sklearn_soapbpnn, Step.__name__) is Step  # where the page says it is
    html = Step()._repr_html_()
    assert links_of(html) == {f"{SITE}{Step.__name__}.html"}
    # each parameter links to its description, if the page can be searched for it
    found = re.findall(r"#:~:text=(\w+)", html)
    assert set(found) <= set(Step().get_params())
    if Step is SoapBPNNRegressor:
        assert {"num_epochs", "learning_rate", "species_encoding"} <= set(found)


def test_html_of_a_pipeline_links_to_all_its_steps():
    html = make_pipeline(*(Step() for Step in STEPS))._repr_html_()
    assert {f"{SITE}{Step.__name__}.html" for Step in STEPS} < links_of(html)


def test_no_links_for_classes_of_others():
    class Mine(SoapFeaturizer):
        pass

    assert not [link for link in links_of(Mine()._repr_html_()) if "soapbpnn" in link]


def test_fitted_model_is_described_in_a_line(shipped_molecules):
    X, y = shipped_molecules[0][:10], shipped_molecules[1][:10]
    model = SoapBPNNRegressor(**TINY).fit(X, y)
    n_weights = sum(weight.numel() for weight in model.module_.parameters())
    assert repr(model.fitted_) == f"FittedModel(energy, forces of H C O, {n_weights} weights)"
    html = model._repr_html_()
    assert "FittedModel(" in html
    assert "n_features_in_" in html


def test_a_search_shows_the_scores_of_each_fit(shipped_molecules, capsys):
    X, y = shipped_molecules[0][:10], shipped_molecules[1][:10]
    scoring = {name: make_target_scorer(name) for name in ("energy per atom", "forces")}
    grid = {"learning_rate": [1e-3, 1e-2]}
    options = {"cv": 2, "scoring": scoring, "refit": False, "verbose": 3}
    GridSearchCV(SoapBPNNRegressor(**TINY), grid, **options).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Fitting 2 folds for each of 2 candidates, totalling 4 fits"
    assert len(lines) == 5
    pattern = r"\[CV 1/2\] END learning_rate=0.001; energy per atom: \(test=-.*forces: \(test=-"
    assert re.match(pattern, lines[1])
