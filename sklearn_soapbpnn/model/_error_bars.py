"""Error bars of fitted models: what those of a single network and of a committee have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from ..data import LEARNT_DERIVATIVES
from ..nn import EnvironmentBatch, Outputs, SoapBPNN

# labels whose scale an output of the energy takes: the first for which there is one
LABELS = {
    "energy": ("energy", "forces", "stress"),
    "energies": ("energy", "forces", "stress"),
    "forces": ("forces", "stress", "energy"),
    "strain_gradient": ("stress", "forces", "energy"),
}


@dataclass(frozen=True, kw_only=True)
class ErrorBars(ABC):
    """Standard deviations of the outputs of a network, and members of an ensemble.

    The raw spread of an output is multiplied by the scale of its target, which makes error bars as
    large as errors for structures that were not trained on.

    Parameters
    ----------
    scales : dict of str to float
        Scale of each target, and of ``"forces"`` and ``"stress"``, as far as there were labels that
        were not trained on.
    """

    scales: dict[str, float] = field(default_factory=dict)

    @abstractmethod
    def supports(self, network: SoapBPNN, name: str) -> bool:
        """Return whether an output of the network has a spread."""

    @abstractmethod
    def stds(
        self, network: SoapBPNN, batch: EnvironmentBatch, outputs: Outputs, names
    ) -> dict[str, Tensor]:
        """Return the standard deviations of outputs for a batch, in units of the scale.

        Parameters
        ----------
        network : SoapBPNN
            The network.
        batch : EnvironmentBatch
            The batch, with pair gradients if derivatives of the energy are among the outputs.
        outputs : Outputs
            What the network predicts for the batch.
        names : collection of str
            Names of outputs: targets, ``energies``, ``forces`` and ``strain_gradient``.

        Returns
        -------
        dict of str to Tensor
            Per structure, or per atom as in the batch for ``energies``, ``forces`` and per-atom
            targets; the shapes are those of the outputs of one network.
        """

    @abstractmethod
    def members(
        self, network: SoapBPNN, batch: EnvironmentBatch, outputs: Outputs, names, n_members: int
    ) -> dict[str, Tensor]:
        """Return outputs of the members of an ensemble for a batch.

        Forces and stresses of a member are the derivatives of its energy: all three have the scale
        of the forces, if derivatives are among the outputs, else of the energy.

        Parameters
        ----------
        network, batch, outputs, names
            See :meth:`stds`.
        n_members : int
            Number of members. The first ones are the same for every number.

        Returns
        -------
        dict of str to Tensor
            What the network returns by the same names, with an axis of the members in front.
        """

    def find_scale(self, name: str) -> float | None:
        """Return the scale of an output; None if there is none."""
        names = LABELS.get(name, [name])
        return next((self.scales[name] for name in names if name in self.scales), None)

    def find_common_scale(self, name: str, names) -> float:
        """Return the scale of an output of the members, which is the same for derivatives."""
        return self.find_scale("forces" if name in LABELS and "forces" in names else name)

    def covers(self, network: SoapBPNN, name: str) -> bool:
        """Return whether an output of the network has error bars."""
        return self.supports(network, name) and self.find_scale(name) is not None


def find_target(name: str) -> str:
    """Return the target from whose last layer an output comes."""
    return "energy" if name in (*LABELS, *LEARNT_DERIVATIVES) else name


def is_sum(network: SoapBPNN, name: str) -> bool:
    """Return whether an output of a network is given per atom, to be summed over structures."""
    return name in network.kinds and name != "energy" and not network.kinds[name].per_atom
