"""Error bars in simulations: results of the ASE calculator, and the observer."""

import warnings

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor, Targets
from sklearn_soapbpnn.interfaces.ase import (
    SoapBPNNCalculator,
    UncertaintyExceeded,
    UncertaintyObserver,
)

SMALL = {"max_radial": 2, "max_angular": 2, "num_epochs": 5, "random_state": 0}


@pytest.fixture(scope="module")
def model(shipped_molecules):
    X, y = shipped_molecules
    return SoapBPNNRegressor(**SMALL).fit(X[:100], y[:100])


@pytest.fixture
def atoms(model, shipped_molecules):
    atoms = shipped_molecules[0][0].copy()
    atoms.calc = model.calculator(uncertainty=True)
    return atoms


def heat(atoms, observer, temperature=300, steps=20):
    rng = np.random.default_rng(0)
    spread = np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * rng.normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.attach(observer)
    dynamics.run(steps)


def test_results_are_those_of_predict(model, atoms):
    forces = atoms.get_forces()
    names = ["energy", "energies", "forces"]
    values, stds = model.predict([atoms], targets=names, return_std=True)
    np.testing.assert_allclose(forces, values["forces"][0], atol=1e-5)
    for name in names:
        result = atoms.calc.results[f"{name}_std"]
        assert np.shape(result) == np.shape(stds[name][0])
        np.testing.assert_allclose(result, stds[name][0], rtol=1e-3)
    assert atoms.calc.get_property("energy_std", atoms) == atoms.calc.results["energy_std"]


def test_forces_are_left_out_unless_they_are_requested(atoms):
    atoms.get_potential_energy()
    assert "energy_std" in atoms.calc.results
    assert "forces_std" not in atoms.calc.results
    # a request for the error bars alone computes the forces as well
    assert atoms.calc.get_property("forces_std", atoms).shape == (9, 3)
    assert "forces" in atoms.calc.results


def test_without_uncertainty_there_are_none(model, shipped_molecules):
    atoms = shipped_molecules[0][0].copy()
    atoms.calc = model.calculator()
    atoms.get_forces()
    assert not any(name.endswith("_std") for name in atoms.calc.results)


def test_pipelines(shipped_molecules):
    X, y = shipped_molecules
    pipe = make_pipeline(CompositionBaseline(), SoapBPNNRegressor(**SMALL)).fit(X[:40], y[:40])
    atoms = X[0].copy()
    atoms.calc = SoapBPNNCalculator(pipe, uncertainty=True)
    std = pipe.predict(X[:1], return_std=True)[1]
    assert atoms.calc.get_property("energy_std", atoms) == pytest.approx(std[0], rel=1e-4)


def test_models_without_error_bars_are_refused(shipped_molecules):
    X, y = shipped_molecules
    model = SoapBPNNRegressor(**SMALL, validation_fraction=0).fit(X[:10], y[:10])
    with pytest.raises(ValueError, match=r"'energy' has no error bars.*calibrate\(X, y\)"):
        model.calculator(uncertainty=True)
    dipoles = Targets(dipole=np.random.default_rng(0).normal(size=(10, 3)))
    model = SoapBPNNRegressor(**SMALL).fit(X[:10], dipoles)
    with pytest.raises(ValueError, match="the model has learnt"):
        model.calculator(uncertainty=True)


def test_the_observer_warns_once_and_collects(atoms):
    observer = UncertaintyObserver(atoms, threshold=1e-6, max_frames=5)
    with pytest.warns(UserWarning, match="above the threshold of 1e-06") as found:
        heat(atoms, observer)
    assert len(found) == 1
    assert observer.n_exceeded == 21
    assert len(observer.frames) == 5
    # they are copies, of different times
    assert not np.allclose(observer.frames[0].positions, observer.frames[1].positions)
    assert observer.frames[0].calc is None


def test_the_observer_is_quiet_below_its_threshold(atoms):
    observer = UncertaintyObserver(atoms, threshold=1e3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heat(atoms, observer)
    assert observer.frames == []


def test_the_observer_watches_relaxations_of_cells(shipped_alloys):
    """Their optimizers, and barostats, ask for the stress, with which forces are known."""
    X, y = shipped_alloys
    atoms = X[40].copy()
    atoms.calc = SoapBPNNRegressor(**SMALL).fit(X[:20], y[:20]).calculator(uncertainty=True)
    atoms.get_stress()
    assert atoms.calc.results["forces_std"].shape == (len(atoms), 3)
    observer = UncertaintyObserver(atoms, threshold=1e-6)
    relaxation = BFGS(FrechetCellFilter(atoms), logfile=None)
    relaxation.attach(observer)
    with pytest.warns(UserWarning, match="above the threshold"):
        relaxation.run(fmax=1e-6, steps=2)
    assert observer.n_exceeded == 3


def test_the_observer_stops_a_simulation(atoms):
    observer = UncertaintyObserver(atoms, threshold=1e-6, stop=True)
    with pytest.raises(UncertaintyExceeded, match="standard deviation"):
        heat(atoms, observer)
    assert observer.n_exceeded == len(observer.frames) == 1


def test_the_usual_threshold_is_three_times_the_error_of_the_validation(model, atoms):
    best = [epoch for epoch in model.history_ if epoch["valid_metric_best"]][-1]
    observer = UncertaintyObserver(atoms)
    assert observer.threshold == pytest.approx(3 * best["valid_forces_rmse"])


def test_bad_arguments(model, atoms, shipped_molecules):
    with pytest.raises(ValueError, match=r"threshold must be positive, got 0"):
        UncertaintyObserver(atoms, threshold=0)
    plain = atoms.copy()
    plain.calc = EMT()
    with pytest.raises(TypeError, match="uncertainty=True, got EMT"):
        UncertaintyObserver(plain, threshold=1)
    X, y = shipped_molecules
    plain.calc = (
        SoapBPNNRegressor(**SMALL).fit(X[:20], y[:20]["energy"]).calculator(uncertainty=True)
    )
    with pytest.raises(ValueError, match="fitted with forces of validation structures"):
        UncertaintyObserver(plain)
