"""Loss functions of the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from torch import Tensor, nn
from torch.nn import functional as F

from ..data import LEARNT_DERIVATIVES, suggest

FUNCTIONS = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
TYPES = tuple(FUNCTIONS)
REDUCTIONS = ("mean", "sum")
# what losses act on: that of a virial is the one of the stress
DERIVATIVES = tuple(name for name in LEARNT_DERIVATIVES if name != "virial")


@dataclass(frozen=True)
class TargetLoss:
    """Loss of one target.

    Parameters
    ----------
    type : {"mse", "mae", "huber"}, default="mse"
        Function of the error: squared, absolute, or Huber.
    weight : float, default=1.0
        Factor in the total loss.
    reduction : {"mean", "sum"}, default="mean"
        Whether the losses of a batch are averaged or summed.
    delta : float, default=1.0
        Error above which ``huber`` becomes linear, in units of the scale.

    Raises
    ------
    ValueError
        If ``type`` or ``reduction`` is unknown, ``weight`` is negative or not finite, or ``delta``
        is not positive and finite.
    """

    type: str = "mse"
    weight: float = 1.0
    reduction: str = "mean"
    delta: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("type", TYPES), ("reduction", REDUCTIONS)):
            value = getattr(self, name)
            if value not in allowed:
                hint = suggest(value, allowed)
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}.{hint}")
        for name in ("weight", "delta"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be finite, >= 0, got {value!r}.")
        if self.delta == 0:
            raise ValueError(f"delta must be positive, got {self.delta!r}.")

    def __call__(
        self,
        prediction: Tensor,
        label: Tensor,
        weight: Tensor | None,
        n_labelled: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        prediction : Tensor of shape (n_networks, ...)
            What each network predicts, divided by the scale.
        label : Tensor of shape (...)
            Labels, divided by the scale; they must be finite, also where they are missing.
        weight : Tensor or None
            Weight of each entry, zero where there is no label; None means one for all.
        n_labelled : Tensor, default=None
            Number of labels in the whole batch, if these are only the share of one process.

        Returns
        -------
        Tensor
            A scalar, the sum over the networks, so that each trains as if it were alone. The mean
            divides by the number of labels, not by the sum of the weights, because in small batches
            the weights would otherwise have little effect.
        """
        label = label.expand_as(prediction)
        if weight is None and n_labelled is None:
            times = len(prediction) if self.reduction == "mean" else 1
            return self.weight * times * self._function(prediction, label, self.reduction)
        losses = self._function(prediction, label, "none")
        total = self.weight * (losses if weight is None else losses * weight).sum()
        if self.reduction == "sum":
            return total
        if n_labelled is None:
            n_labelled = (weight > 0).sum()
        return total / n_labelled.clamp(min=1)

    def _function(self, prediction, label, reduction):
        options = {"delta": self.delta} if self.type == "huber" else {}
        return FUNCTIONS[self.type](prediction, label, reduction=reduction, **options)


class TotalLoss(nn.Module):
    """Weighted sum of the losses of the targets.

    Parameters
    ----------
    losses : dict of str to TargetLoss
        Loss of each target.
    """

    def __init__(self, losses: dict[str, TargetLoss]) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, predictions: dict[str, Tensor], labels: dict) -> Tensor:
        """Return the sum of the losses over the targets and the networks."""
        total = 0.0
        for name, part in labels.items():
            prediction, loss = predictions[name], self.losses[name]
            total = total + loss(prediction, part.values, part.weight, part.n_labelled)
        return total


def parse_loss(loss, names) -> dict[str, TargetLoss]:
    """Return the loss of each target from the ``loss`` argument of the regressor.

    Parameters
    ----------
    loss : str or dict
        One name (``"mse"``, ``"mae"`` or ``"huber"``) for all targets, or a dict
        ``{target: name or specification}``. A specification is a dict with any of ``type``,
        ``weight``, ``reduction`` and ``delta``. The specification of the energy may also contain
        ``forces`` and ``stress``, each a name or a specification; entries that these omit are taken
        from the energy, except for the weight, which is 1. Targets that are not named use
        ``"mse"``.
    names : iterable of str
        Targets that are learnt.

    Returns
    -------
    dict of str to TargetLoss

    Raises
    ------
    ValueError
        If ``loss`` names a target that is not learnt, or contains an unknown or invalid entry.
    """
    names = [name for name in names if name not in DERIVATIVES]
    if isinstance(loss, str):
        loss = dict.fromkeys(names, loss)
    unknown = sorted(set(loss) - set(names), key=str)
    if unknown:
        hint = suggest(unknown[0], names)
        if unknown[0] in DERIVATIVES and "energy" in names:
            entry = {"energy": {unknown[0]: {"weight": 10.0}}}
            hint = f" It belongs to the energy, e.g. loss={entry}."
        raise ValueError(f"loss names the targets {unknown}; it may name {names}.{hint}")
    losses = {}
    for name in names:
        entry = _as_specification(name, loss.get(name, "mse"))
        derivatives = {}
        if name == "energy":
            derivatives = {derived: entry.pop(derived, {}) for derived in DERIVATIVES}
        losses[name] = _make_loss(name, entry)
        shared = {key: value for key, value in entry.items() if key != "weight"}
        for derived, part in derivatives.items():
            losses[derived] = _make_loss(derived, {**shared, **_as_specification(derived, part)})
    return losses


def _as_specification(name, entry):
    if isinstance(entry, str):
        return {"type": entry}
    if not isinstance(entry, dict):
        raise ValueError(f"loss of {name!r} must be a name or a dict, got {entry!r}.")
    return dict(entry)


def _make_loss(name, entry):
    known = TargetLoss.__dataclass_fields__
    for key in entry:
        if key not in known:
            allowed = [*known, *DERIVATIVES] if name == "energy" else list(known)
            raise ValueError(
                f"loss of {name!r} has the unknown entry {key!r}; known: {allowed}."
                f"{suggest(key, allowed)}"
            )
    try:
        return TargetLoss(**entry)
    except ValueError as err:
        raise ValueError(f"loss of {name!r}: {err}") from None
