"""Error bars from the last layer: the formula, calibration, members, and where they are kept."""

import copy
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
)
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.interfaces import load_model

TINY = {
    **{"max_radial": 2, "max_angular": 2, "num_neurons_per_layer": 3, "num_epochs": 4},
    **{"dtype": "float64", "random_state": 0},
}
DERIVED = ["energy", "energies", "forces"]


def make_data(n, seed=0):
    """Return molecules in cells, with labels of every kind that have a bit of a pattern."""
    rng = np.random.default_rng(seed)
    X, y = [], {"energy": [], "forces": [], "stress": [], "dipole": [], "charges": [], "pol": []}
    for _ in range(n):
        atoms = Atoms("OHH", [[0, 0, 0], [0.95, 0, 0], [-0.2, 0.93, 0]], cell=[4, 4.5, 5], pbc=True)
        atoms.rattle(0.1, rng=rng)
        X.append(atoms)
        matrix = rng.normal(size=(3, 3))
        y["energy"].append(-10 + rng.normal())
        y["forces"].append(rng.normal(size=(3, 3)))
        y["stress"].append(0.01 * (matrix + matrix.T))
        y["dipole"].append(rng.normal(size=3))
        y["charges"].append(rng.normal(size=3))
        y["pol"].append(matrix + matrix.T)
    return X, Targets(kinds={"pol": TargetKind.tensor(symmetric=True)}, **y)


@pytest.fixture(scope="module")
def data():
    return make_data(24)


@pytest.fixture(scope="module", params=["orthogonal", "alchemical"])
def model(request, data):
    X, y = data
    model = SoapBPNNRegressor(**TINY, species_encoding=request.param)
    return model.fit(X[:16], y[:16], X_val=X[16:], y_val=y[16:])


@pytest.fixture(scope="module")
def molecular(shipped_molecules):
    X, y = shipped_molecules
    model = SoapBPNNRegressor(max_radial=2, max_angular=2, num_epochs=5, random_state=0)
    return model.fit(X[:80], y[:80], X_val=X[80:120], y_val=y[80:120])


def flatten(column):
    """Return a column as rows of an array: (n_structures or n_atoms, n_components)."""
    rows = np.concatenate(column) if isinstance(column, list) else np.asarray(column)
    return rows.reshape(len(rows), -1)


def list_rows(model, X, names):
    """Return the derivatives of predictions with respect to last-layer weights, by differences.

    Predictions are linear in these weights, so that a difference is exact.
    """
    before = {name: flatten(model.predict(X, targets=[name])[name]) for name in names}
    rows = {}
    for name in names:
        target = name if name in model.kinds_ else "energy"
        weight = model.module_.head(target).weights[-1]
        parts = []
        for k in range(weight.numel()):
            with torch.no_grad():
                weight.view(-1)[k] += 1
                after = flatten(model.predict(X, targets=[name])[name])
                weight.view(-1)[k] -= 1
            parts.append(after - before[name])
        rows[name] = np.stack(parts, axis=-1)
    return rows


@pytest.mark.parametrize("target", ["energy", "dipole", "pol"])
def test_variances_follow_the_formula(model, data, target):
    X, y = data
    labels = ["energy", "forces", "stress"] if target == "energy" else [target]
    train, other = list_rows(model, X[:16], labels), list_rows(model, X[16:], labels)
    predicted = model.predict(X, targets=labels)
    H = 0
    for name in labels:
        error = flatten(predicted[name][:16]) - flatten(y[name][:16])
        # the labels of the loss are per atom, and for the stress virials
        H = H + np.einsum("ick,icl->kl", train[name], train[name]) / (error**2).mean()
    H += 1e-10 * np.trace(H) / len(H) * np.eye(len(H))
    std = model.predict(X[16:], targets=labels, return_std=True)[1]
    for name in labels:
        variance = np.einsum("ick,kl,icl->ic", other[name], np.linalg.inv(H), other[name])
        error = flatten(predicted[name][16:]) - flatten(y[name][16:])
        alpha = np.sqrt((error**2 / variance).mean())
        np.testing.assert_allclose(flatten(std[name]), alpha * np.sqrt(variance), rtol=1e-5)


def test_errors_of_the_validation_structures_are_as_large_as_their_error_bars(model, data):
    X, y = data
    names = list(y.names)
    predicted, std = model.predict(X[16:], targets=names, return_std=True)
    for name in names:
        z = (flatten(predicted[name]) - flatten(y[name][16:])) / flatten(std[name])
        assert np.mean(z**2) == pytest.approx(1, rel=1e-6)


def test_standard_deviations_have_the_shape_of_the_predictions(model, data):
    X, y = data
    names = [*y.names, "energies", "virial"]
    predicted, std = model.predict(X[:3], targets=names, return_std=True)
    assert std.names == predicted.names
    alone = model.predict(X[:3], targets=names)
    for name in names:
        assert np.shape(std[name]) == np.shape(predicted[name])
        assert (flatten(std[name]) > 0).all()
        np.testing.assert_allclose(flatten(predicted[name]), flatten(alone[name]), rtol=1e-12)
    energy, energy_std = model.predict(X[:3], return_std=True)
    np.testing.assert_allclose(energy_std, std["energy"])
    np.testing.assert_allclose(energy, predicted["energy"])


def test_error_bars_have_the_symmetries_of_the_predictions(model, data):
    X, _ = data
    names = [*DERIVED, "pol"]
    _, std = model.predict(X[:1], targets=names, return_std=True)
    order = [2, 0, 1]
    turned = X[0][order]
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    turned.positions += 0.3
    _, other = model.predict([turned], targets=names, return_std=True)
    for name in ("energy", "energies"):
        np.testing.assert_allclose(
            flatten(other[name]), flatten(std[name])[order if name == "energies" else [0]]
        )
    # the covariance of a vector turns with it, and its trace stays
    for name, rows in {"forces": order, "pol": [0]}.items():
        traces = [(flatten(values[name]) ** 2).sum(1) for values in (other, std)]
        np.testing.assert_allclose(traces[0], traces[1][rows])


def test_error_bars_of_copies_add_up(model, data):
    X, _ = data
    once = model.predict(X[:1], targets=DERIVED, return_std=True)[1]
    twice = model.predict([X[0] * (2, 1, 1)], targets=DERIVED, return_std=True)[1]
    # the same weights are uncertain in both copies
    np.testing.assert_allclose(twice["energy"], 2 * once["energy"])
    np.testing.assert_allclose(twice["forces"][0], np.tile(once["forces"][0], (2, 1)))


def test_error_bars_grow_away_from_the_training_structures(molecular, shipped_molecules):
    X, _ = shipped_molecules
    known = X[:40]
    hot = [atoms.copy() for atoms in known]
    for k, atoms in enumerate(hot):
        atoms.rattle(0.1, seed=k)
    near, far = (molecular.predict(frames, return_std=True)[1] for frames in (known, hot))
    assert np.median(far) > 2 * np.median(near)


@pytest.mark.parametrize("names", [["energy", "energies"], ["forces"], ["dipole"], ["pol"]])
def test_members_spread_as_the_standard_deviation_says(model, data, names):
    X, _ = data
    predicted, std = model.predict(X[:2], targets=names, return_std=True)
    members = model.predict(X[:2], targets=names, n_samples=2000)
    for name in names:
        values = np.stack([flatten(member[name]) for member in members])
        np.testing.assert_allclose(values.std(0), flatten(std[name]), rtol=0.1)
        z = (values.mean(0) - flatten(predicted[name])) / flatten(std[name])
        assert abs(z).max() < 5 / np.sqrt(2000)


def test_forces_of_members_are_derivatives_of_their_energies(model, data):
    X, _ = data
    X, step = X[0], 1e-4
    members = model.predict([X], targets=["energy", "forces"], n_samples=3)
    for atom, axis in product(range(3), range(3)):
        moved = []
        for sign in (1, -1):
            atoms = X.copy()
            atoms.positions[atom, axis] += sign * step
            moved.append(atoms)
        energies = model.predict(moved, targets=["energy", "forces"], n_samples=3)
        for member, pair in zip(members, energies):
            slope = (pair["energy"][0] - pair["energy"][1]) / (2 * step)
            assert member["forces"][0][atom, axis] == pytest.approx(-slope, abs=1e-6)


def test_members_are_always_the_same(model, data):
    X, _ = data
    few, many = model.predict(X[:2], n_samples=3), model.predict(X[:2], n_samples=5)
    assert few.shape == (3, 2)
    np.testing.assert_allclose(many[:3], few)
    targets = model.predict(X[:2], targets="energy", n_samples=3)
    np.testing.assert_allclose([member["energy"] for member in targets], few)


def test_pipelines_and_searches(data):
    X, y = data
    soap = {"max_radial": 2, "max_angular": 2, "dtype": "float64"}
    steps = CompositionBaseline(), TargetScaler(), SoapFeaturizer(**soap)
    pipe = make_pipeline(*steps, SoapBPNNRegressor(**TINY)).fit(X, y["energy"])
    y_pred, std = pipe.predict(X[:3], return_std=True)
    np.testing.assert_allclose(y_pred, pipe.predict(X[:3]))
    assert std.shape == (3,)
    assert pipe.predict(X[:3], n_samples=4).shape == (4, 3)
    grid = {"soapbpnnregressor__num_neurons_per_layer": [2, 3]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y["energy"])
    assert search.best_estimator_.predict(X[:3], return_std=True)[1].shape == (3,)
    assert cross_val_predict(pipe, X, y["energy"], cv=2).shape == (24,)


def test_pickles_and_files_keep_the_error_bars(model, data, tmp_path):
    X, y = data
    names = [*y.names]
    expected = model.predict(X[:2], targets=names, return_std=True)[1]
    path = tmp_path / "model.safetensors"
    model.save(path)
    for other in (pickle.loads(pickle.dumps(model)), load_model(path)):
        std = other.predict(X[:2], targets=names, return_std=True)[1]
        for name in names:
            np.testing.assert_array_equal(flatten(std[name]), flatten(expected[name]))


def test_data_in_batches_give_the_same(data):
    X, y = data
    bars = [
        SoapBPNNRegressor(**TINY, memory_limit=limit, num_workers=0).fit(X, y).fitted_.error_bars
        for limit in (None, 1)
    ]
    for name, H in bars[0].hessians.items():
        np.testing.assert_allclose(bars[1].hessians[name], H, rtol=1e-6, atol=1e-9 * abs(H).max())
    assert bars[1].scales == pytest.approx(bars[0].scales, rel=1e-6)


def test_labels_that_are_missing_do_not_count(data):
    X, y = data
    energy, forces = y["energy"].copy(), [rows.copy() for rows in y["forces"]]
    energy[3], forces[3] = np.nan, np.full((3, 3), np.nan)
    whole = SoapBPNNRegressor(**TINY).fit(X, Targets(energy=y["energy"], forces=y["forces"]))
    train = [k for k in range(16) if k != 3]
    part, others = Targets(energy=energy, forces=forces), slice(16, None)
    bars = []
    for chosen in (range(16), train):
        frames = [X[k] for k in chosen]
        model = copy.copy(whole)
        model.calibrate(X[others], part[others], frames, part[list(chosen)])
        bars.append(model.fitted_.error_bars)
    np.testing.assert_allclose(bars[0].hessians["energy"], bars[1].hessians["energy"])
    assert bars[0].scales == pytest.approx(bars[1].scales)


def test_calibrate_rescales(model, data):
    X, y = data
    other = copy.copy(model).calibrate(X[:4], y[:4])
    predicted, std = other.predict(X[:4], targets=["energy", "forces"], return_std=True)
    for name in ("energy", "forces"):
        z = (flatten(predicted[name]) - flatten(y[name][:4])) / flatten(std[name])
        assert np.mean(z**2) == pytest.approx(1, rel=1e-6)
    before = model.predict(X[:2], targets="energy", return_std=True)
    after = other.predict(X[:2], targets="energy", return_std=True)
    np.testing.assert_array_equal(before[0]["energy"], after[0]["energy"])
    assert not np.allclose(before[1]["energy"], after[1]["energy"])


def test_calibrate_with_the_training_data_repeats_the_fit(model, data):
    X, y = data
    other = copy.copy(model).calibrate(X[16:], y[16:], X[:16], y[:16])
    bars, expected = other.fitted_.error_bars, model.fitted_.error_bars
    assert bars.scales == pytest.approx(expected.scales, rel=1e-6)
    for name, H in expected.hessians.items():
        np.testing.assert_allclose(bars.hessians[name], H, rtol=1e-6, atol=1e-9 * abs(H).max())


def test_partial_fit_adds_to_what_is_known(data):
    X, y = data
    y = Targets(energy=y["energy"], forces=y["forces"])
    model = SoapBPNNRegressor(**TINY).fit(X[:12], y[:12])
    before = model.fitted_.error_bars.hessians["energy"]
    after = model.set_params(learning_rate=1e-9).partial_fit(X[12:], y[12:])
    change = after.fitted_.error_bars.hessians["energy"] - before
    assert np.linalg.eigvalsh(change).min() > -1e-6 * np.trace(change)
    assert np.trace(change) > 0


def test_outputs_without_error_bars_are_refused_with_the_way_out(model, data):
    X, y = data
    with pytest.raises(ValueError, match="'features' has no error bars: it is not a prediction"):
        model.predict(X, targets="features", return_std=True)
    with pytest.raises(ValueError, match="n_samples must be a positive integer, or None, got 0"):
        model.predict(X, n_samples=0)
    with pytest.raises(ValueError, match="either return_std or n_samples"):
        model.predict(X, return_std=True, n_samples=2)
    alone = SoapBPNNRegressor(**TINY, validation_fraction=0).fit(X, y["energy"])
    with pytest.raises(ValueError, match=r"no labels of it for validation. Call calibrate\(X, y\)"):
        alone.predict(X, return_std=True)
    assert alone.calibrate(X, y["energy"]).predict(X, return_std=True)[1].shape == (24,)
    linear = SoapBPNNRegressor(**TINY, num_hidden_layers=0, heads={"energy": "linear"})
    with pytest.raises(ValueError, match="no hidden layers, so it has no last layer"):
        linear.fit(X, y["energy"]).predict(X, return_std=True)


def test_an_interrupt_keeps_the_network(data, monkeypatch):
    X, y = data
    expected = SoapBPNNRegressor(**TINY).fit(X, y["energy"])

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sklearn_soapbpnn.training._fit.fit_error_bars", interrupt)
    with pytest.warns(ConvergenceWarning, match="calibrate makes error bars"):
        model = SoapBPNNRegressor(**TINY).fit(X, y["energy"])
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    with pytest.raises(ValueError, match="'energy' has no error bars"):
        model.predict(X, return_std=True)
    with pytest.raises(ValueError, match="needs X_train and y_train"):
        model.calibrate(X, y["energy"])
    monkeypatch.undo()
    model.calibrate(X, y["energy"], X, y["energy"])
    assert model.predict(X, return_std=True)[1].shape == (24,)


def test_labels_for_calibrate_are_checked(model, data):
    X, y = data
    with pytest.raises(ValueError, match="X_train and y_train must be given together"):
        model.calibrate(X, y, X_train=X)
    with pytest.raises(ValueError, match="but the model has learnt"):
        model.calibrate(X, Targets(kinds={"gap": TargetKind.scalar()}, gap=np.zeros(24)))
    with pytest.raises(ValueError, match="absent from fit"):
        model.calibrate([Atoms("C")], [0.0])


def test_energies_alone_give_forces_the_scale_of_the_energies(data):
    X, y = data
    model = SoapBPNNRegressor(**TINY).fit(X, y["energy"])
    scales = model.fitted_.error_bars.scales
    assert list(scales) == ["energy"]
    std = model.predict(X[:2], targets=["forces"], return_std=True)[1]
    assert (flatten(std["forces"]) > 0).all()


def test_long_range_models_have_error_bars_of_energies(data):
    pytest.importorskip("torchpme", reason="long-range sums need torch-pme")
    X, y = data
    model = SoapBPNNRegressor(**TINY, long_range=True, use_ewald=True).fit(
        X, Targets(energy=y["energy"], forces=y["forces"])
    )
    assert (model.predict(X[:2], return_std=True)[1] > 0).all()
    with pytest.raises(ValueError, match="with long_range=True only energies"):
        model.predict(X[:2], targets="forces", return_std=True)


def test_reading_structures_once_or_together_is_the_same(model, data):
    X, _ = data
    together = model.predict(X, targets=DERIVED, return_std=True)[1]
    for k in (0, 5):
        alone = model.predict([X[k]], targets=DERIVED, return_std=True)[1]
        for name in DERIVED:
            np.testing.assert_allclose(alone[name][0], together[name][k], rtol=1e-9)
    assert as_structures(X).n_atoms.sum() == 72


def test_the_error_bars_of_a_committee_are_its_calibrated_spread(data, tmp_path):
    X, y = data
    names = [*y.names, "energies"]
    model = SoapBPNNRegressor(**TINY, n_networks=3)
    model.fit(X[:16], y[:16], X_val=X[16:], y_val=y[16:])
    predicted, std = model.predict(X[16:], targets=names, return_std=True)
    mean = model.predict(X[16:], targets=names)
    scales = model.fitted_.error_bars.scales
    for name in names:
        np.testing.assert_allclose(flatten(predicted[name]), flatten(mean[name]), rtol=1e-10)
        if name == "stress":  # members have the scale of the forces, as derivatives of an energy
            continue
        members = model.predict(X[16:], targets=name, n_samples=3)
        members = np.stack([flatten(member[name]) for member in members])
        np.testing.assert_allclose(members.mean(0), flatten(mean[name]), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(members.std(0, ddof=1), flatten(std[name]), rtol=1e-9)
        if name in y:
            z = (flatten(mean[name]) - flatten(y[name][16:])) / flatten(std[name])
            assert np.mean(z**2) == pytest.approx(1)
            assert scales[name] > 0
    with pytest.raises(ValueError, match="n_samples=4, but the model is a committee of n_net"):
        model.predict(X, n_samples=4)
    model.save(tmp_path / "model.safetensors")
    other = load_model(tmp_path / "model.safetensors").predict(X[16:], return_std=True)[1]
    np.testing.assert_array_equal(other, std["energy"])
    # without validation structures there is nothing to calibrate with
    blind = SoapBPNNRegressor(**TINY, n_networks=2, validation_fraction=0).fit(X, y["energy"])
    with pytest.raises(ValueError, match=r"Call calibrate\(X, y\)"):
        blind.predict(X, return_std=True)
    assert blind.calibrate(X, y["energy"]).predict(X, return_std=True)[1].shape == (24,)
