"""Every form of ``loss`` and ``per_structure_targets``, against values worked out by hand."""

import numpy as np
import pytest
import torch

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.training import TargetLoss, TotalLoss, parse_loss
from sklearn_soapbpnn.training._dataset import TargetLabels

KINDS = {
    "energy": TargetKind.scalar(),
    "dipole": TargetKind.vector(),
    "charges": TargetKind.scalar(per_atom=True),
    "pressure": TargetKind.tensor(symmetric=True, per_volume=True),
    "several": TargetKind.spherical([(0, 1, 2), (2, 1)]),
    "gap": TargetKind.scalar(intensive=True),
    "quadrupole": TargetKind.spherical((2, 1), intensive=True),
}
DERIVED = {
    "forces": TargetKind.vector(per_atom=True),
    "stress": TargetKind.tensor(symmetric=True, per_volume=True),
}
NAMES = [*KINDS, *DERIVED]
# weights stay as they are drawn, and the loss of the one batch is that of all structures
STILL = {
    "max_radial": 2,
    "max_angular": 2,
    "num_neurons_per_layer": 6,
    "dtype": "float64",
    "num_epochs": 1,
    "learning_rate": 1e-12,
    "batch_size": 100,
    "validation_fraction": 0,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def frames(mixture):
    return [mixture[k] for k in (4, 5, 7, 8)]


@pytest.fixture(scope="module")
def y(frames, draw):
    y = draw(frames, {**KINDS, **DERIVED})
    columns = {name: y[name] for name in y.names}
    for name in ("stress", "pressure"):
        symmetric = np.array(y[name]) + np.array(y[name]).swapaxes(1, 2)
        no_cell = [atoms.cell.rank < 3 for atoms in frames]
        symmetric[no_cell] = np.nan
        columns[name] = symmetric
    return Targets(kinds=KINDS, **columns)


def scaled_errors(model, X, y, per_structure=()):
    """What losses act on: errors in units of the scale, of sums per atom, of a stress times V."""
    prediction = model.predict(X, targets=list(y.names))
    n_atoms = np.array([len(atoms) for atoms in X])
    volumes = np.array([atoms.get_volume() if atoms.cell.rank == 3 else np.nan for atoms in X])
    numbers = np.concatenate([atoms.numbers for atoms in X])
    scales, errors = model.scaler_.scale_, {}
    for name in y.names:
        error = prediction.flatten(name) - y.flatten(name)
        if name in ("energy", *DERIVED):
            scale = scales["energy"]
        elif name == "charges":
            scale = scales[name][numbers]
        elif name == "several":
            # two scalars of a scale of their own, five components of one tensor
            scale = scales[name][[0, 1, 2, 2, 2, 2, 2]]
        else:
            scale = scales[name]
        error = error / scale
        if name in ("stress", "pressure"):
            error = error * volumes[:, None]
        kind = prediction.kinds[name]
        if not (kind.per_atom or kind.intensive or name in per_structure):
            error = error / n_atoms[:, None]
        errors[name] = error[np.isfinite(error)]
    return errors


def evaluate(errors, type, weight=1.0, reduction="mean", delta=1.0):
    """The loss of one target."""
    size = np.abs(errors)
    values = {
        "mse": size**2,
        "mae": size,
        "huber": np.where(size < delta, size**2 / 2, delta * (size - delta / 2)),
    }[type]
    return weight * (values.sum() if reduction == "sum" else values.mean())


# the loss argument, and what it means for the targets that are not "mse"
CASES = {
    "default": ("mse", {}),
    "empty": ({}, {}),
    "mae": ("mae", {name: {"type": "mae"} for name in NAMES}),
    "huber": ("huber", {name: {"type": "huber"} for name in NAMES}),
    "one by name": ({"dipole": "mae"}, {"dipole": {"type": "mae"}}),
    "energy by name": (
        {"energy": "mae"},
        {name: {"type": "mae"} for name in ("energy", "forces", "stress")},
    ),
    "specification": (
        {"several": {"type": "huber", "weight": 3.0, "delta": 0.2, "reduction": "sum"}},
        {"several": {"type": "huber", "weight": 3.0, "delta": 0.2, "reduction": "sum"}},
    ),
    "sum": ({"charges": {"reduction": "sum"}}, {"charges": {"type": "mse", "reduction": "sum"}}),
    "forces by name": ({"energy": {"forces": "mae"}}, {"forces": {"type": "mae"}}),
    "derivatives follow the energy, but not in weight": (
        {"energy": {"type": "huber", "delta": 0.3, "weight": 7.0, "reduction": "sum"}},
        {
            "energy": {"type": "huber", "delta": 0.3, "weight": 7.0, "reduction": "sum"},
            "forces": {"type": "huber", "delta": 0.3, "reduction": "sum"},
            "stress": {"type": "huber", "delta": 0.3, "reduction": "sum"},
        },
    ),
    "nested": (
        {
            "energy": {
                "type": "mae",
                "weight": 0.5,
                "forces": {"type": "huber", "delta": 0.1, "weight": 10.0},
                "stress": {"type": "mse", "weight": 0.0},
            },
            "pressure": {"weight": 1e-3},
            "charges": "huber",
        },
        {
            "energy": {"type": "mae", "weight": 0.5},
            "forces": {"type": "huber", "delta": 0.1, "weight": 10.0},
            "stress": {"type": "mse", "weight": 0.0},
            "pressure": {"type": "mse", "weight": 1e-3},
            "charges": {"type": "huber"},
        },
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_form_of_the_loss(frames, y, case):
    loss, meaning = CASES[case]
    model = SoapBPNNRegressor(**STILL, loss=loss).fit(frames, y)
    errors = scaled_errors(model, frames, y)
    parts = {name: evaluate(errors[name], **meaning.get(name, {"type": "mse"})) for name in NAMES}
    np.testing.assert_allclose(model.history_[-1, "train_loss"], sum(parts.values()), rtol=1e-6)


@pytest.mark.parametrize("target", [*KINDS, *DERIVED])
def test_per_structure_targets(frames, y, target):
    """Loss and scale are of the structure, not of an average over its atoms."""
    names = list(dict.fromkeys(["energy", target]))
    y = Targets(kinds=KINDS, **{name: y[name] for name in names})
    model = SoapBPNNRegressor(**STILL, per_structure_targets=[target]).fit(frames, y)
    errors = scaled_errors(model, frames, y, [target])
    expected = sum(evaluate(errors[name], "mse") for name in names)
    np.testing.assert_allclose(model.history_[-1, "train_loss"], expected, rtol=1e-6)
    plain = SoapBPNNRegressor(**STILL).fit(frames, y)
    same = np.isclose(expected, plain.history_[-1, "train_loss"], rtol=1e-6)
    is_no_sum = y.kinds[target].per_atom or y.kinds[target].intensive
    assert same == is_no_sum
    # derivatives have the scale of the energy
    scales = [m.scaler_.scale_.get(target, 0.0) for m in (model, plain)]
    assert np.array_equal(*scales) == (is_no_sum or target == "stress")
    if target in DERIVED:
        return  # they have a part in the scale, see the tests of TargetScaler
    residual = y["energy"] - model.baseline_.predict(frames)
    n_atoms = 1 if target == "energy" else np.array([len(atoms) for atoms in frames])
    scale = np.sqrt(np.mean((residual / n_atoms) ** 2))
    np.testing.assert_allclose(model.scaler_.scale_["energy"], scale)


def test_virial_per_structure_is_stress_per_structure(frames, y):
    crystals = [atoms for atoms in frames if atoms.cell.rank == 3]
    y = y[[atoms.cell.rank == 3 for atoms in frames]]
    volumes = np.array([atoms.get_volume() for atoms in crystals])[:, None, None]
    losses = [
        SoapBPNNRegressor(**STILL, per_structure_targets=[name])
        .fit(crystals, Targets(energy=y["energy"], **{name: values}))
        .history_[-1, "train_loss"]
        for name, values in (("stress", y["stress"]), ("virial", -y["stress"] * volumes))
    ]
    np.testing.assert_allclose(*losses)


LEARNING = {**STILL, "learning_rate": 1e-2, "num_epochs": 2}
LEARNING |= {"fixed_scaling_weights": dict.fromkeys(KINDS, 1.0)}
LEARNING |= {"remove_composition_contribution": False}


@pytest.fixture(scope="module")
def full(frames, y):
    """A model that learnt from all labels."""
    return SoapBPNNRegressor(**LEARNING).fit(frames, y)


@pytest.mark.parametrize("target", [*KINDS, *DERIVED])
def test_weight_of_zero_removes_the_influence_of_a_target(frames, y, full, draw, target):
    """Its labels may be anything."""
    zero = {"weight": 0.0}
    loss = {"energy": {target: zero}} if target in DERIVED else {target: zero}
    other = draw(frames, {target: y.kinds[target]}, seed=1)[target]
    others = Targets(kinds=KINDS, **{**{name: y[name] for name in y.names}, target: other})
    zero_weight, wrong = (
        SoapBPNNRegressor(**LEARNING, loss=loss).fit(frames, labels) for labels in (y, others)
    )
    full_wrong = SoapBPNNRegressor(**LEARNING).fit(frames, others)
    names = [name for name in y.names if name != target]
    for first, second, same in ((zero_weight, wrong, True), (full, full_wrong, False)):
        rows = [
            np.concatenate([m.predict(frames, targets=names).flatten(n).ravel() for n in names])
            for m in (first, second)
        ]
        assert np.allclose(*rows, rtol=1e-9, atol=1e-12, equal_nan=True) == same


def make_labels(values, weight=None):
    one = torch.ones(())
    return TargetLabels(
        torch.tensor(values), None if weight is None else torch.tensor(weight), one, one, True
    )


def test_total_loss_of_small_cases():
    predictions = {
        "energy": torch.tensor([[1.0, 2.0]]),
        "dipole": torch.tensor([[[1.0, 0.0, 3.0], [0.0, 0.0, -4.0]]]),
    }
    labels = {
        "energy": make_labels([0.0, 4.0]),
        "dipole": make_labels(
            [[0.0, 0.0, 0.0], [0.0, 9.0, 0.0]], [[1.0, 1.0, 1.0], [1.0, 0.0, 2.0]]
        ),
    }
    cases = [
        # energy: errors 1 and -2; dipole: 1, 0, 3, 0 and -4 of weight 2, five of them labelled
        (TargetLoss(), TargetLoss(), 2.5 + 42 / 5),
        (TargetLoss("mae"), TargetLoss("mae", weight=2.0), 1.5 + 2 * 12 / 5),
        (TargetLoss(reduction="sum"), TargetLoss("mae", reduction="sum"), 5 + 12),
        (TargetLoss("huber"), TargetLoss("huber", delta=2.0), 1.0 + (0.5 + 4.0 + 2 * 6.0) / 5),
        (TargetLoss(weight=0.0), TargetLoss(weight=0.0), 0.0),
    ]
    for energy, dipole, expected in cases:
        total = TotalLoss({"energy": energy, "dipole": dipole})(predictions, labels)
        np.testing.assert_allclose(float(total), expected, rtol=1e-6)


def test_parse_loss_of_many_targets():
    names = ["dipole", "energy", "charges"]
    losses = parse_loss({"energy": {"forces": {"weight": 2.0}}, "charges": "mae"}, names)
    assert losses == {
        "dipole": TargetLoss(),
        "energy": TargetLoss(),
        "forces": TargetLoss(weight=2.0),
        "stress": TargetLoss(),
        "charges": TargetLoss("mae"),
    }
    assert set(parse_loss("huber", ["dipole"])) == {"dipole"}
    with pytest.raises(ValueError, match="'gap'"):
        parse_loss({"gap": "mse"}, names)
    with pytest.raises(ValueError, match="forces"):
        parse_loss({"dipole": {"forces": "mse"}}, names)
