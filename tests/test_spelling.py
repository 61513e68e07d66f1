"""Misspelt names: the error says which name was probably meant."""

import inspect

import numpy as np
import pytest
from ase import Atoms

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Targets,
    TargetScaler,
)
from sklearn_soapbpnn.data import sort_by_similarity, suggest
from sklearn_soapbpnn.metrics import make_target_scorer

TINY = {"max_radial": 2, "max_angular": 1, "num_epochs": 1}
X = [Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * k]]) for k in range(4)]
Y = Targets(energy=np.arange(4.0), forces=np.zeros((4, 2, 3)))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("force", "forces"),
        ("Forces", "forces"),
        ("REF_forces", "forces"),
        ("enregy", "energy"),
        ("polarisability", "polarizability"),
        ("gap", None),
        ("e", None),
        (1, None),
        ("energy", None),  # it is not misspelt
    ],
)
def test_suggestions(name, meant):
    known = ["charges", "energy", "forces", "stress", "polarizability"]
    assert suggest(name, known) == (f" Did you mean {meant!r}?" if meant else "")
    assert suggest(name, []) == ""
    if meant:
        assert sort_by_similarity(name, known)[0] == meant
        # the longer name is also found from the shorter
        assert suggest(meant, [name, "other"]) == f" Did you mean {name!r}?"


def fit(**parameters):
    return SoapBPNNRegressor(**TINY, **parameters).fit(X, Y)


def read_options(**options):
    return SoapBPNNRegressor.from_options({"architecture": {"name": "soap_bpnn", **options}})


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: Y["frces"], "forces"),
        (lambda: Y.select(["energies"]), "energy"),
        (lambda: Targets(force=[1.0]), "forces"),
        (lambda: SoapBPNNRegressor(num_epoch=1), "num_epochs"),
        (lambda: SoapBPNNRegressor(cutoff=4.0), "cutoff_radius"),
        (lambda: SoapBPNNRegressor(lr=1e-3), "learning_rate"),
        (lambda: SoapBPNNRegressor().set_params(seed=0), "random_state"),
        (lambda: SoapFeaturizer(r_cut=4.0), "cutoff_radius"),
        (lambda: SoapFeaturizer(max_anguler=1), "max_angular"),
        (lambda: SoapBPNNRegressor().set_params(num_epoch=1), "num_epochs"),
        (lambda: SoapFeaturizer().set_params(max_anguler=1), "max_angular"),
        (lambda: CompositionBaseline().set_params(weights=None), "fixed_weights"),
        (lambda: fit(loss={"enrgy": "mse"}), "energy"),
        (lambda: fit(loss={"energy": {"force": "mse"}}), "forces"),
        (lambda: fit(loss="hubber"), "huber"),
        (lambda: fit(heads={"enrgy": "mlp"}), "energy"),
        (lambda: fit(per_structure_targets=["enrgy"]), "energy"),
        (lambda: fit(fixed_scaling_weights={"enrgy": 1.0}), "energy"),
        (lambda: fit(fixed_composition_weights={"enrgy": {"H": 1.0}}), "energy"),
        (lambda: TargetScaler(per_structure_targets=["enrgy"]).fit(X, Y), "energy"),
        (lambda: CompositionBaseline().fit(X, Y).predict(X, targets=["enrgy"]), "energy"),
        (lambda: make_target_scorer("forces", "maae"), "mae"),
        (lambda: make_target_scorer("forces_", kinds=Y.kinds), "forces"),
        (lambda: read_options(training={"num_epoch": 3}), "num_epochs"),
        (lambda: read_options(model={"soap": {"max_anguler": 3}}), "max_angular"),
        (lambda: read_options(trainng={"loss": "mse"}), "architecture.training.loss"),
    ],
)
def test_errors_suggest_what_was_meant(call, meant):
    with pytest.raises((KeyError, TypeError, ValueError), match=f"Did you mean '{meant}'"):
        call()


def test_hints_leave_the_signature():
    """Sphinx would show the arguments of a ``__new__``, so there is none."""
    assert {"max_radial", "cutoff_radius"} <= {*inspect.signature(SoapFeaturizer).parameters}
    assert SoapFeaturizer.__new__ is object.__new__


def test_outputs():
    model = fit()
    for name in ("force", "stresses", "feature", "energy_last_layer_feature"):
        with pytest.raises(ValueError, match="available are .* Did you mean '"):
            model.predict(X, targets=[name])
    with pytest.raises(ValueError, match=r"targets names 'gap'; available are \[[^]]*\]\.$"):
        model.predict(X, targets=["gap"])


def test_other_names_are_refused_as_scikit_learn_does():
    with pytest.raises(ValueError, match="Invalid parameter 'foo' for estimator SoapFeaturizer"):
        SoapFeaturizer().set_params(foo=1)
    with pytest.raises(ValueError, match="Invalid parameter 'foo' for estimator SoapFeaturizer"):
        SoapFeaturizer().set_params(foo__bar=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        SoapFeaturizer(foo=1)
    # nothing similar in the section either, although paths have the section in common
    with pytest.raises(ValueError, match=r"architecture.training.foo=1\. Remove"):
        read_options(training={"foo": 1})


def test_keys_of_a_file():
    """Those that are there, the most similar first."""
    info = {"ref_energy": -1.0, "config_type": "md", "free_energy": -1.1}
    arrays = {"ref_forces": np.zeros((2, 3))}
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], info=info)
    atoms.arrays.update(arrays)
    with pytest.raises(KeyError) as caught:
        Targets.from_atoms([atoms], energy="REF_energies", forces="ref_forces")
    message = str(caught.value)
    assert "no label 'REF_energies' for target 'energy'. Did you mean 'ref_energy'?" in message
    assert "its info ['ref_energy', 'free_energy', 'config_type']" in message
    with pytest.warns(UserWarning, match="label 'energy', so .* Did you mean 'free_energy'"):
        y = Targets.from_atoms([atoms], missing="nan", energy="energy", forces="ref_forces")
    assert np.isnan(y["energy"]).all()
    with pytest.raises(KeyError, match=r"arrays \['ref_forces', "):
        Targets.from_atoms([atoms], forces="forces")
