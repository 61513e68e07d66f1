"""Intensive targets are means over atoms: exact comparisons with sums, in float64."""

import pickle

import numpy as np
import pytest
import torch

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.training import TotalLoss, TrainingData, parse_loss

KINDS = {
    "energy": TargetKind.scalar(),
    "gap": TargetKind.scalar(intensive=True),
    "dipole": TargetKind.vector(),
    "polarization": TargetKind.vector(intensive=True),
    "polarizability": TargetKind.tensor(symmetric=True),
    "mean_tensor": TargetKind.tensor(2, intensive=True),
    "several": TargetKind.spherical([(0, 1, 2), (2, -1)]),
    "mean_several": TargetKind.spherical([(0, 1, 2), (2, -1)], intensive=True),
}
SMALL = {
    "max_radial": 3,
    "max_angular": 2,
    "num_neurons_per_layer": 6,
    "dtype": "float64",
    "num_epochs": 2,
    "learning_rate": 1e-2,
    "random_state": 0,
}
STILL = {"num_epochs": 1, "learning_rate": 1e-12, "batch_size": 100, "validation_fraction": 0}
NETWORKS = {
    "orthogonal": {},
    "no hidden layer": {"num_hidden_layers": 0, "heads": {"gap": "linear"}},
    "alchemical": {"species_encoding": "alchemical"},
}
every_network = pytest.mark.parametrize("network", NETWORKS)


def copy_apart(atoms):
    """Two copies that do not see each other."""
    atoms = atoms.copy()
    if atoms.pbc.any():
        return atoms.repeat((2, 1, 1))
    far = atoms.copy()
    far.positions += [50.0, 0.0, 0.0]
    return atoms + far


def double(y):
    """Labels of two copies of every structure."""
    columns = {name: y[name] * (1 if kind.intensive else 2) for name, kind in y.kinds.items()}
    return Targets(kinds=y.kinds, **columns)


@pytest.fixture
def y(mixture, draw):
    return draw(mixture, KINDS)


@every_network
def test_two_copies_have_the_same_mean_and_twice_the_sum(network, mixture, y):
    model = SoapBPNNRegressor(**SMALL, **NETWORKS[network]).fit(mixture, y)
    copies = [copy_apart(atoms) for atoms in mixture]
    for estimator in (model, model.baseline_):
        names = list(estimator.kinds_)
        expected = double(estimator.predict(mixture, targets=names))
        twice = estimator.predict(copies, targets=names)
        for name in names:
            size = np.abs(expected[name]).max()
            assert size > 0
            np.testing.assert_allclose(twice[name], expected[name], atol=1e-11 * size, rtol=0)


@every_network
@pytest.mark.parametrize("per_structure", [(), ("gap", "mean_tensor")], ids=str)
def test_two_copies_have_the_same_loss_and_gradient(network, per_structure, mixture, y):
    """Per atom nothing is different, and ``per_structure_targets`` says nothing of means."""
    model = SoapBPNNRegressor(**{**SMALL, **STILL}, **NETWORKS[network]).fit(mixture, y)
    module, criterion = model.module_, TotalLoss(parse_loss("mse", KINDS))
    values, gradients = [], []
    for X, labels in ((mixture, y), ([copy_apart(atoms) for atoms in mixture], double(y))):
        structures = model.fitted_.steps.prepare(as_structures(X))
        data = TrainingData(structures, labels, module, per_structure=per_structure)
        (batch,) = data.batches(torch.arange(len(X), device=data.device), [len(X)])
        module.zero_grad()
        loss = criterion(batch.predictions(module), batch.labels)
        loss.backward()
        values.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    np.testing.assert_allclose(*values, rtol=1e-11)
    np.testing.assert_allclose(values[0], model.history_[0, "train_loss"], rtol=1e-6)
    size = float(gradients[0].abs().max())
    assert size > 0
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10 * size)


@pytest.mark.parametrize("per_structure", [(), ("gap",)], ids=str)
def test_loss_by_hand(mixture, y, per_structure):
    """Errors of the value itself, in units of its scale, whatever the number of atoms."""
    y = y.select(["gap"])
    options = {**SMALL, **STILL, "per_structure_targets": per_structure}
    model = SoapBPNNRegressor(**options).fit(mixture, y)
    counts = np.array([[(atoms.numbers == z).sum() for z in (1, 6, 8)] for atoms in mixture])
    shares = counts / counts.sum(1, keepdims=True)
    residual = y["gap"] - shares @ np.linalg.lstsq(shares, y["gap"], rcond=None)[0]
    scale = np.sqrt(np.mean(residual**2))
    expected = np.mean(((model.predict(mixture) - y["gap"]) / scale) ** 2)
    np.testing.assert_allclose(model.scaler_.scale_["gap"], scale)
    np.testing.assert_allclose(model.history_[-1, "train_loss"], expected, rtol=1e-6)
    model.set_params(validation_fraction=0.1).fit(mixture, y, X_val=mixture, y_val=y)
    error = np.sqrt(np.mean((model.predict(mixture) - y["gap"]) ** 2))
    np.testing.assert_allclose(model.history_[-1, "valid_gap_rmse"], error, rtol=1e-9)


def test_mean_of_the_last_layer(mixture, y):
    """Features and last-layer features are of atoms, and know of neither sums nor means."""
    plain = {"scale_targets": False, "remove_composition_contribution": False}
    model = SoapBPNNRegressor(**SMALL, **plain, species_encoding="alchemical")
    model.fit(mixture, y.select(["gap"]))
    weight = model.module_.head("gap").weights[-1].detach().cpu().numpy()[0, 0]
    features = model.last_layer_features(mixture, "gap")
    expected = [(f @ weight).mean() for f in features]
    np.testing.assert_allclose(model.predict(mixture), expected, rtol=1e-10)


def test_labels_that_are_missing_change_nothing(mixture, y):
    """As if the structures were not there."""
    gap = np.where(np.arange(len(mixture)) % 3 == 1, np.nan, y["gap"])
    kept = np.flatnonzero(np.isfinite(gap))
    options = {**SMALL, "validation_fraction": 0, "batch_size": 100}
    some = SoapBPNNRegressor(**options).fit(mixture, Targets(kinds=KINDS, gap=gap))
    few = SoapBPNNRegressor(**options)
    few.fit([mixture[k] for k in kept], Targets(kinds=KINDS, gap=gap[kept]))
    np.testing.assert_allclose(some.predict(mixture), few.predict(mixture), rtol=1e-9)


def test_going_on_with_a_new_target(mixture, y):
    model = SoapBPNNRegressor(**SMALL).fit(mixture, y.select(["energy"]))
    model.partial_fit(mixture, y.select(["gap"]))
    assert model.kinds_["gap"] == KINDS["gap"]
    copies = model.predict([copy_apart(atoms) for atoms in mixture], targets=["gap", "energy"])
    single = double(model.predict(mixture, targets=["gap", "energy"]))
    for name in ("gap", "energy"):
        np.testing.assert_allclose(copies[name], single[name], rtol=1e-9)
    back = pickle.loads(pickle.dumps(model))
    assert back.kinds_["gap"].intensive
    np.testing.assert_array_equal(back.predict(mixture, targets="gap")["gap"], single["gap"])


def test_a_sum_does_not_become_a_mean(mixture, y):
    """Neither in a fit that goes on, nor in validation."""
    total = Targets(kinds={"gap": TargetKind.scalar()}, gap=y["gap"])
    model = SoapBPNNRegressor(**SMALL).fit(mixture, total)
    with pytest.raises(ValueError, match=r"'gap' is .*intensive=True.* had .*scalar\(\)"):
        model.partial_fit(mixture, y.select(["gap"]))
    with pytest.raises(ValueError, match="y_val has the columns .*intensive=True"):
        model.fit(mixture, total, X_val=mixture, y_val=y.select(["gap"]))
