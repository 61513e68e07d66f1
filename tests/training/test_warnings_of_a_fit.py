"""What a fit says when it has not learnt, and which epoch it keeps when an error is rounding."""

import warnings

import numpy as np
import pytest
from ase.build import bulk, molecule
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Targets,
    TargetScaler,
)

SOAP = {"max_radial": 2, "max_angular": 2, "cutoff_radius": 4.0}
NO_BETTER = "no better than the composition baseline"


def make_model(**parameters):
    options = {**SOAP, "num_epochs": 20, "learning_rate": 1e-2, "random_state": 0}
    return SoapBPNNRegressor(**{**options, **parameters})


@pytest.fixture(scope="module")
def data(shipped_molecules):
    X, y = shipped_molecules
    return X[:120:3], y[:120:3]


@pytest.fixture
def _warned():
    """Let every warning be an error, the one of short fits too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- no better than the baseline -----------------------------------------------------------------


@pytest.mark.usefixtures("_warned")
@pytest.mark.parametrize("options", [{}, {"validation_fraction": 0}], ids=["validation", "none"])
def test_a_fit_that_learns_is_silent(data, options):
    make_model(**options).fit(*data)


@pytest.mark.parametrize("options", [{}, {"validation_fraction": 0}], ids=["validation", "none"])
def test_forces_of_the_wrong_sign(data, options):
    X, y = data
    y = Targets(energy=y["energy"], forces=[-forces for forces in y["forces"]])
    where = "training" if options else "validation"
    with pytest.warns(ConvergenceWarning, match=rf"{NO_BETTER}.*in {where}.*'energy': \d"):
        make_model(**options).fit(X, y)


@pytest.mark.usefixtures("_warned")
def test_a_few_steps_are_a_trial(data):
    X, y = data
    make_model(num_epochs=1).fit(X[:20], y[:20])


def test_energies_in_another_unit_than_forces(data):
    X, y = data
    y = Targets(energy=y["energy"] / 27.2114, forces=y["forces"])
    with pytest.warns(ConvergenceWarning, match=NO_BETTER):
        make_model().fit(X, y)


def test_stress_in_kbar(shipped_alloys):
    X, y = shipped_alloys[0][:12], shipped_alloys[1][:12]
    y = Targets(energy=y["energy"], forces=y["forces"], stress=1602.18 * y["stress"])
    with pytest.warns(ConvergenceWarning, match=NO_BETTER):
        make_model().fit(X, y)


def test_divergence_without_nan(data):
    with pytest.warns(ConvergenceWarning, match="'forces': .*learning_rate"):
        make_model(learning_rate=1e3, num_epochs=3, optimizer="adam").fit(*data)


def test_ratio_is_that_of_the_recorded_error(data):
    """The ratio by hand: validation error of the kept epoch over the RMS of the forces."""
    X, y = data
    X_val, y_val = X[:10], y[:10]
    model = make_model(learning_rate=1e-9, num_epochs=3)
    with pytest.warns(ConvergenceWarning, match=NO_BETTER) as caught:
        model.fit(X[10:], y[10:], X_val=X_val, y_val=y_val)
    kept = model.history_[model.net_.best_epoch_.best_number_ - 1]
    error = kept["valid_forces_rmse"]
    ratio = error / np.sqrt(np.mean(np.concatenate(y_val["forces"]) ** 2))
    (text,) = [str(entry.message) for entry in caught if NO_BETTER in str(entry.message)]
    assert f"'forces': {ratio:.2g}" in text


@pytest.mark.usefixtures("_warned")
def test_small_displacements_are_learnt():
    """Energies are of second order in the displacements, forces of the first."""
    crystal = bulk("Cu", a=3.6, cubic=True)
    rng, spring, X, energies, forces = np.random.default_rng(0), 3.0, [], [], []
    for _ in range(30):
        step = 0.01 * rng.normal(size=crystal.positions.shape)
        step -= step.mean(0)
        moved = crystal.copy()
        moved.positions += step
        X.append(moved)
        energies.append(0.5 * spring * np.sum(step**2))
        forces.append(-spring * step)
    y = Targets(energy=energies, forces=forces)
    model = make_model(num_epochs=40, learning_rate=3e-3).fit(X[:24], y[:24])
    found = np.concatenate(model.predict(X[24:], targets=["forces"])["forces"])
    wanted = np.concatenate(forces[24:])
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.5 * np.sqrt(np.mean(wanted**2))


# --- a loss that is not a number -----------------------------------------------------------------


def test_nan_ends_the_fit_at_once(data, tmp_path):
    options = {"learning_rate": 1e20, "checkpoint_dir": tmp_path, "checkpoint_interval": 50}
    with pytest.warns(ConvergenceWarning, match="The loss is (nan|inf) after"):
        model = make_model(**options).fit(*data)
    losses = model.history_[:, "train_loss"]
    assert len(losses) < 20
    assert np.isfinite(losses[:-1]).all()
    assert not np.isfinite(losses[-1])
    with pytest.warns(ConvergenceWarning, match="The loss is"):
        again = make_model(**options).fit(*data, resume=True)
    assert len(again.history_) == len(losses)


# --- errors that are zero by symmetry ------------------------------------------------------------


def make_crystals(scales):
    X = [bulk("Cu", a=3.6 * scale) for scale in scales]
    volumes = np.array([atoms.get_volume() for atoms in X])
    return X, (volumes / 11.6 - 1) ** 2


def test_forces_of_perfect_crystals_do_not_pick_the_epoch():
    X, energies = make_crystals(np.linspace(0.9, 1.1, 20))
    X_val, energies_val = make_crystals(np.linspace(0.91, 1.09, 7))
    kept = []
    for size in (0.0, 1e-10):
        y, y_val = (
            Targets(energy=values, forces=[np.full((1, 3), size)] * len(values))
            for values in (energies, energies_val)
        )
        model = make_model(num_epochs=40)
        kept.append(model.fit(X, y, X_val=X_val, y_val=y_val))
    alone = make_model(num_epochs=40)
    alone.fit(X, energies, X_val=X_val, y_val=energies_val)
    best = alone.net_.best_epoch_.best_number_
    assert best > 20
    assert [model.net_.best_epoch_.best_number_ for model in kept] == [best, best]
    np.testing.assert_allclose(kept[0].predict(X_val), alone.predict(X_val), rtol=1e-4)


def test_dipoles_of_centrosymmetric_molecules_do_not_end_the_fit_early():
    X, energies = [], []
    for scale in np.linspace(0.95, 1.08, 12):
        for name in ("CO2", "C2H2"):
            atoms = molecule(name)
            atoms.positions *= scale
            X.append(atoms)
            energies.append(50 * (scale - 1) ** 2)
    y = Targets(energy=energies, dipole=np.zeros((24, 3)))
    model = make_model(num_epochs=40, learning_rate=1e-3, early_stopping=True, n_iter_no_change=5)
    model.fit(X, y, X_val=X[1::3], y_val=y[1::3])
    assert model.net_.best_epoch_.best_number_ > 20


def test_forces_that_are_zero_but_not_by_symmetry_count():
    """At a minimum forces vanish, and what is predicted there is an error."""
    X, y = [], []
    for seed in range(8):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        X.append(atoms)
        y.append(float(seed))
    y = Targets(energy=y, forces=[np.zeros((3, 3))] * 8)
    model = make_model(num_epochs=5).fit(X, y, X_val=X[:4], y_val=y[:4])
    product = [epoch["valid_energy_rmse"] * epoch["valid_forces_rmse"] for epoch in model.history_]
    np.testing.assert_allclose(model.history_[:, "valid_metric"], product)


# --- forces without energies ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_forces(data):
    X, y = data
    return make_model(num_epochs=50).fit(X[:30], Targets(forces=y["forces"][:30]))


def test_forces_alone_are_learnt(data, from_forces):
    X, y = data
    found = np.concatenate(from_forces.predict(X[30:], targets=["forces"])["forces"])
    wanted = np.concatenate(y["forces"][30:])
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.5 * np.sqrt(np.mean(wanted**2))
    assert from_forces.targets_ == ("forces",)
    assert "valid_energy_rmse" not in from_forces.history_[-1]


def test_energies_are_then_known_up_to_a_constant(data, from_forces):
    X, y = data
    with pytest.warns(UserWarning, match="known up to a constant"):
        energies = from_forces.predict(X)
    assert np.std(energies - y["energy"]) < 0.5 * np.std(y["energy"])
    with pytest.raises(ValueError, match="needs labels of 'energy' to be scored"):
        from_forces.score(X, Targets(forces=y["forces"]))


def test_unlabelled_energies_are_no_energies(data, from_forces):
    X, y = data
    unlabelled = Targets(energy=np.full(30, np.nan), forces=y["forces"][:30])
    same = make_model(num_epochs=50).fit(X[:30], unlabelled)
    forces = [model.predict(X[30:], targets="forces")["forces"] for model in (from_forces, same)]
    np.testing.assert_array_equal(np.concatenate(forces[0]), np.concatenate(forces[1]))


def test_forces_alone_in_a_pipeline_and_a_file(data, from_forces, tmp_path):
    X, y = data
    steps = [CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SOAP)]
    network = SoapBPNNRegressor(num_epochs=50, learning_rate=1e-2, random_state=0)
    pipe = make_pipeline(*steps, network).fit(X[:30], Targets(forces=y["forces"][:30]))
    from_forces.save(tmp_path / "model")
    loaded = SoapBPNNRegressor.load(tmp_path / "model")
    expected = np.concatenate(from_forces.predict(X[30:], targets="forces")["forces"])
    for model in (pipe, loaded):
        found = np.concatenate(model.predict(X[30:], targets="forces")["forces"])
        np.testing.assert_array_equal(found, expected)
    with pytest.warns(UserWarning, match="known up to a constant"):
        loaded.predict(X[:1])


def test_stress_alone(crystals):
    X, y = crystals[0], crystals[1]
    model = make_model(num_epochs=2).fit(X, Targets(stress=y["stress"]))
    assert model.predict(X, targets=["stress"])["stress"].shape == (8, 3, 3)
    assert model.targets_ == ("stress",)
