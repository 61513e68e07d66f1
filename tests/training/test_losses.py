import pytest
import torch

from sklearn_soapbpnn.training._dataset import TargetLabels
from sklearn_soapbpnn.training._losses import TargetLoss, TotalLoss, parse_loss

PREDICTION = torch.tensor([[1.0, 2.0, 5.0]])
LABEL = torch.tensor([0.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (TargetLoss("mse"), 10 / 3),
        (TargetLoss("mae"), 4 / 3),
        (TargetLoss("huber", delta=2.0), (0.5 + 2.0 * (3.0 - 1.0)) / 3),
        (TargetLoss("mse", reduction="sum"), 10.0),
        (TargetLoss("mse", weight=0.5), 5 / 3),
    ],
)
def test_values(loss, expected):
    torch.testing.assert_close(loss(PREDICTION, LABEL, None), torch.tensor(expected))
    ones = torch.ones(3)
    torch.testing.assert_close(loss(PREDICTION, LABEL, ones), torch.tensor(expected))


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.0, 3.0])])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_each_network_has_its_own_loss(weight, reduction):
    loss = TargetLoss(reduction=reduction)
    predictions = torch.cat([PREDICTION, 2 * PREDICTION, -PREDICTION])
    each = sum(loss(own[None], LABEL, weight) for own in predictions)
    torch.testing.assert_close(loss(predictions, LABEL, weight), each)


def test_the_mean_is_over_what_is_labelled():
    label = torch.tensor([0.0, 7.0, 2.0])
    weight = torch.tensor([1.0, 0.0, 3.0])
    prediction = PREDICTION.clone().requires_grad_()
    loss = TargetLoss("mse")(prediction, label, weight)
    torch.testing.assert_close(loss, torch.tensor((1 * 1.0 + 3 * 9.0) / 2))
    loss.backward()
    assert prediction.grad[0, 1] == 0


def test_a_batch_without_labels_has_no_loss():
    assert TargetLoss()(PREDICTION, LABEL, torch.zeros(3)) == 0


def test_total_is_the_sum():
    total = TotalLoss({"energy": TargetLoss(), "forces": TargetLoss("mae", weight=2.0)})
    one = torch.ones(())
    labels = {name: TargetLabels(LABEL, None, one, one, False) for name in ("energy", "forces")}
    predictions = {"energy": PREDICTION, "forces": PREDICTION}
    torch.testing.assert_close(total(predictions, labels), torch.tensor(10 / 3 + 2 * 4 / 3))


def test_parse():
    names = ("energy", "forces", "stress")
    assert set(parse_loss("mae", names).values()) == {TargetLoss("mae")}
    specification = {"type": "huber", "delta": 0.2, "weight": 3.0, "forces": {"weight": 10.0}}
    specification["stress"] = "mse"
    assert parse_loss({"energy": specification}, names) == {
        "energy": TargetLoss("huber", weight=3.0, delta=0.2),
        "forces": TargetLoss("huber", weight=10.0, delta=0.2),
        "stress": TargetLoss("mse", delta=0.2),
    }
    assert parse_loss({}, names)["energy"] == TargetLoss()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "l2"}, "type must be one of .*'huber'.*got 'l2'"),
        ({"reduction": "max"}, "reduction must be one of .*got 'max'"),
        ({"weight": -1.0}, "weight must be finite, >= 0, got -1.0"),
        ({"delta": float("nan")}, "delta must be finite, >= 0, got nan"),
        ({"delta": 0.0}, "delta must be positive, got 0.0"),
    ],
)
def test_no_other_loss_is_taken_for_a_known_one(options, message):
    """Whoever makes it; the regressor says of which target as well."""
    with pytest.raises(ValueError, match=f"^{message}"):
        TargetLoss(**options)
    with pytest.raises(ValueError, match=f"^loss of 'energy': {message}"):
        parse_loss({"energy": options}, ["energy"])
