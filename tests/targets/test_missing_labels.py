"""Entries that are NaN act as if they were not there, for every kind of target."""

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold, cross_val_score

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.metrics import make_target_scorer, summarize_errors
from sklearn_soapbpnn.training import TotalLoss, TrainingData, parse_loss

KINDS = {
    "energy": TargetKind.scalar(),
    "dipole": TargetKind.vector(),
    "polarizability": TargetKind.tensor(symmetric=True),
    "gaps": TargetKind.scalar(2, intensive=True),
    "charges": TargetKind.scalar(2, per_atom=True),
    "several": TargetKind.spherical([(0, 1, 2), (2, 1)], per_atom=True),
}
DERIVED = {
    "forces": TargetKind.vector(per_atom=True),
    "stress": TargetKind.tensor(symmetric=True, per_volume=True),
}
SMALL = {"max_radial": 3, "max_angular": 2, "num_neurons_per_layer": 8, "random_state": 0}


@pytest.fixture
def labels(mixture, draw):
    complete = draw(mixture, {**KINDS, **DERIVED})
    return {name: [np.array(part) for part in complete[name]] for name in complete.names}


@pytest.fixture
def model(mixture, labels):
    """A float64 model of everything whose weights are as they were drawn."""
    shared = {**SMALL, "dtype": "float64", "num_epochs": 1, "learning_rate": 1e-9}
    return SoapBPNNRegressor(**shared).fit(mixture, Targets(kinds=KINDS, **labels))


def find_gradient(model, X, labels, names=None, loss="mse"):
    """Loss and its gradient by all weights, over one batch of all structures."""
    y = Targets(kinds=KINDS, **{name: labels[name] for name in names or labels})
    network = model.module_
    losses = TotalLoss(parse_loss(loss, KINDS))
    data = TrainingData(model.fitted_.steps.prepare(as_structures(X)), y, network)
    (batch,) = data.batches(torch.arange(len(X), device=data.device), [len(X)])
    network.zero_grad()
    value = losses(batch.predictions(network), batch.labels)
    value.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return float(value.detach()), torch.cat([g.flatten() for g in gradients])


def assert_same_gradient(first, second):
    torch.testing.assert_close(first[0], second[0], rtol=1e-10, atol=0)
    atol = 1e-10 * float(second[1].abs().max())
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=atol)


def take(labels, kept):
    return {name: [parts[index] for index in kept] for name, parts in labels.items()}


def forget(parts, kept):
    """Mark all but some structures as not labelled."""
    return [np.where(i in kept, part, np.nan) for i, part in enumerate(parts)]


KEPT = [0, 2, 5, 6, 8]


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_structures_without_any_label_have_no_gradient(model, mixture, labels, loss):
    """As if the data set did not hold them."""
    some = {name: forget(parts, KEPT) for name, parts in labels.items()}
    expected = find_gradient(model, [mixture[i] for i in KEPT], take(labels, KEPT), loss=loss)
    assert expected[1].abs().max() > 0
    assert_same_gradient(find_gradient(model, mixture, some, loss=loss), expected)


@pytest.mark.parametrize("target", [*KINDS, *DERIVED])
def test_structures_labelled_for_some_targets_only(model, mixture, labels, target):
    """The loss is that of two data sets: the target's structures, and all of them for the rest."""
    some = {**labels, target: forget(labels[target], KEPT)}
    alone = find_gradient(model, [mixture[i] for i in KEPT], take(labels, KEPT), [target])
    rest = find_gradient(model, mixture, labels, [name for name in labels if name != target])
    assert alone[1].abs().max() > 0
    expected = alone[0] + rest[0], alone[1] + rest[1]
    assert_same_gradient(find_gradient(model, mixture, some), expected)


@pytest.mark.parametrize("target", [*KINDS, *DERIVED])
def test_single_components_that_are_missing(model, mixture, labels, target):
    """As if they were predicted exactly already; the mean is over what is labelled."""
    rng = np.random.default_rng(0)
    known = [rng.random(part.shape) < 0.6 for part in labels[target]]
    if target in ("polarizability", "stress"):
        known = [there & there.T for there in known]  # else what is exact is not symmetric
    predicted = model.predict(mixture, targets=[target])[target]
    missing = [np.where(there, part, np.nan) for there, part in zip(known, labels[target])]
    exact = [np.where(there, *pair) for there, *pair in zip(known, labels[target], predicted)]
    total = {"reduction": "sum"}
    loss = {"energy": {"forces": total, "stress": total, **total}, target: total}
    loss = {name: part for name, part in loss.items() if name in KINDS}
    expected = find_gradient(model, mixture, {target: exact}, loss=loss)
    assert expected[1].abs().max() > 0
    assert_same_gradient(find_gradient(model, mixture, {target: missing}, loss=loss), expected)
    count = sum(np.isfinite(a * b).sum() for a, b in zip(missing, predicted))
    mean = expected[0] / count, expected[1] / count
    assert_same_gradient(find_gradient(model, mixture, {target: missing}), mean)


@pytest.mark.parametrize("target", [*KINDS, *DERIVED])
def test_batch_without_a_label_of_a_target(model, mixture, labels, target):
    first = [mixture[i] for i in range(4)]
    some = {**take(labels, range(4)), target: forget(labels[target][:4], [])}
    rest = find_gradient(model, first, some, [name for name in labels if name != target])
    assert_same_gradient(find_gradient(model, first, some), rest)


@pytest.mark.parametrize("species_encoding", ["orthogonal", "alchemical"])
def test_fit_does_not_see_structures_without_labels(mixture, labels, species_encoding):
    some = {name: forget(parts, KEPT) for name, parts in labels.items()}
    shared = {**SMALL, "species_encoding": species_encoding, "dtype": "float64", "batch_size": 9}
    shared |= {"num_epochs": 3, "validation_fraction": 0}
    few = [mixture[i] for i in KEPT]
    expected = SoapBPNNRegressor(**shared).fit(few, Targets(kinds=KINDS, **take(labels, KEPT)))
    model = SoapBPNNRegressor(**shared).fit(mixture, Targets(kinds=KINDS, **some))
    names = [*KINDS, *DERIVED]
    prediction, wanted = (m.predict(mixture, targets=names) for m in (model, expected))
    for name in names:
        rows = wanted.flatten(name)
        np.testing.assert_allclose(prediction.flatten(name), rows, rtol=1e-7, atol=1e-9)


def test_structures_each_of_which_has_one_target(mixture, labels):
    """With one structure in a batch, most targets have no label in it."""
    names = list(labels)
    some = {
        name: forget(parts, [i for i in range(len(mixture)) if i % len(names) == k or i > 6])
        for k, (name, parts) in enumerate(labels.items())
    }
    y = Targets(kinds=KINDS, **some)
    model = SoapBPNNRegressor(**SMALL, num_epochs=2, batch_size=1, validation_fraction=0)
    model.fit(mixture, y)
    before = SoapBPNNRegressor(**SMALL, num_epochs=1, batch_size=1, validation_fraction=0)
    before.set_params(learning_rate=1e-12).fit(mixture, y)
    assert np.isfinite(model.history_[:, "train_loss"]).all()
    first, second = (m.predict(mixture, targets=names) for m in (model, before))
    for name in names:
        a, b = first.flatten(name), second.flatten(name)
        there = np.isfinite(a)
        assert there.all() or name == "stress"
        assert np.abs(a - b)[there].max() > 1e-5, name


@pytest.fixture
def partly_labelled(malonaldehyde):
    """Dipoles and forces of some structures, none of which is among the last twenty."""
    X, y = malonaldehyde
    columns = {"dipole": list(y["dipole"]), "forces": y["forces"]}
    some = {name: forget(parts, [0, 5, 20, 25]) for name, parts in columns.items()}
    return X, Targets(energy=y["energy"], **some)


@pytest.mark.parametrize("scoring", [None, "energy", "energy per atom"])
def test_folds_without_a_label_of_another_target_are_scored(partly_labelled, scoring):
    X, y = partly_labelled
    model = SoapBPNNRegressor(**SMALL, num_epochs=1)
    scoring = scoring and make_target_scorer(scoring)
    scores = cross_val_score(model, X, y, cv=KFold(3), scoring=scoring, error_score="raise")
    assert np.isfinite(scores).all()
    model.fit(X, y)
    complete = summarize_errors(X, y, model.predict(X, targets=y.names))
    last = summarize_errors(X[40:], y[40:], model.predict(X[40:], targets=y.names))
    assert set(complete) == {*y.names, "energy per atom"}
    assert set(last) == {"energy", "energy per atom"}
    assert model.score(X[40:], y[40:]) == model.score(X[40:], y["energy"][40:])


def test_validation_structures_without_a_label_of_a_target(partly_labelled):
    """The target does not pick the epoch, and has no error bars."""
    X, y = partly_labelled
    model = SoapBPNNRegressor(**SMALL, num_epochs=3)
    model.fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:])
    assert not {"valid_dipole_rmse", "valid_forces_rmse"} & set(model.history_[-1])
    errors = model.history_[:, ("valid_metric", "valid_energy_rmse")]
    np.testing.assert_allclose(*np.transpose(errors))
    model.predict(X[:2], targets=["energy"], return_std=True)
    with pytest.raises(ValueError, match="'dipole' has no error bars"):
        model.predict(X[:2], targets=["dipole"], return_std=True)


def test_molecules_validate_a_fit_to_the_stress_of_crystals(mixture, labels):
    """They need no cell, since they have no stress."""
    names = ("energy", "stress")
    y = Targets(**{name: labels[name] for name in names})
    molecules = Targets(energy=labels["energy"][:6], stress=np.full((6, 3, 3), np.nan))
    model = SoapBPNNRegressor(**SMALL, num_epochs=1)
    model.fit(mixture, y, X_val=mixture[:6], y_val=molecules)
    assert "valid_stress_rmse" not in model.history_[-1]
    with pytest.raises(ValueError, match="'stress' of y_val: .* has a cell of finite volume"):
        model.fit(mixture, y, X_val=mixture[:6], y_val=y[:6])


def test_validation_structures_need_some_label(partly_labelled):
    X, y = partly_labelled
    nothing = Targets(energy=[np.nan], dipole=[[np.nan] * 3], forces=[np.full((9, 3), np.nan)])
    with pytest.raises(ValueError, match="y_val has no label at all"):
        SoapBPNNRegressor(**SMALL).fit(X[:40], y[:40], X_val=X[40:41], y_val=nothing)


@pytest.mark.parametrize("how", ["label", "weight"])
def test_a_warning_says_if_nothing_is_left_to_train_on(malonaldehyde, how):
    """The only structure with a label, or with a weight, is held out."""
    X, y = malonaldehyde
    one = np.arange(10) == 3
    dipole, weight = y["dipole"][:10], None
    if how == "label":
        dipole = np.where(one[:, None], dipole, np.nan)
    else:
        weight = 1.0 * one
    labels = Targets(energy=y["energy"][:10], dipole=dipole)
    untrained = r"All structures with a label of \['dipole'\]"
    if how == "weight":
        untrained = r"All structures with a label of \['energy', 'dipole'\], and a weight, are held"
    warned = []
    for seed in range(20):
        model = SoapBPNNRegressor(**{**SMALL, "random_state": seed}, num_epochs=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X[:10], labels, sample_weight=weight)
        assert all(re.match(untrained, str(entry.message)) for entry in caught)
        held_out = how == "weight" or "valid_dipole_rmse" in model.history_[-1]
        assert not caught or held_out
        warned.append(len(caught))
        if caught:
            with pytest.raises(ValueError, match="no label of it was left to train on"):
                model.predict(X[:1], targets=["dipole"], return_std=True)
    assert set(warned) == {0, 1}


@pytest.mark.parametrize("names", [("energy", "forces"), ("forces", "energy")], ids=str)
def test_energies_and_forces_train_each_other(malonaldehyde, names):
    """So the only label of one of them may be held out."""
    X, y = malonaldehyde
    first, second = (list(y[name][:10]) for name in names)
    labels = Targets(**{names[0]: first, names[1]: forget(second, [3])})
    held_out = set()
    for seed in range(20):
        model = SoapBPNNRegressor(**{**SMALL, "random_state": seed}, num_epochs=1)
        model.fit(X[:10], labels)
        held_out.add(f"valid_{names[1]}_rmse" in model.history_[-1])
    assert held_out == {False, True}
