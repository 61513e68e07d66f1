r"""Error bars from the last layer.

Every output is linear in the weights w of a last layer, y = g . w, with the rows g of
:func:`~sklearn_soapbpnn.nn.find_rows`. Given the other layers, the weights are then known as in a
linear regression [1]_: with the labels of a target and of its derivatives, and the mean square
:math:`s_t^2` of their training errors,

.. math:: H = \sum_t \frac{1}{s_t^2} \sum_k g_{tk} g_{tk}^T

the covariance of the weights is proportional to :math:`H^{-1}`, and the variance of an output is

.. math:: \sigma^2 = \alpha_t^2 \; g^T H^{-1} g.

The number :math:`\alpha` makes the error bars as large as the errors of structures that were not
trained on: its square is the mean of :math:`(y - \hat y)^2 / g^T H^{-1} g`, for energies, forces
and stress separately. If errors are normally distributed, this is the value of greatest likelihood.

References
----------
.. [1] Bigi, Chong, Ceriotti, Grasselli, "A prediction rigidity formalism for low-cost uncertainties
   in trained neural networks", Mach. Learn.: Sci. Technol. 5, 045018 (2024),
   doi:10.1088/2632-2153/ad805f.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from ..data import LEARNT_DERIVATIVES, sum_by_structure
from ..nn import SoapBPNN, find_rows

# what is added to the diagonal of H, in units of its mean: it keeps directions finite in which
# there are no data, and is far below all others
RIDGE = 1e-10
# number of weights of a last layer up to which there are error bars: H is a square of this size
LARGEST_LAYER = 2048
# seed of the members: the same model always has the same ones
SEED = 0
# labels whose scale an output of the energy takes: the first that there is
LABELS = {
    "energy": ("energy", "forces", "stress"),
    "energies": ("energy", "forces", "stress"),
    "forces": ("forces", "stress", "energy"),
    "strain_gradient": ("stress", "forces", "energy"),
}


@dataclass(frozen=True)
class LastLayerPosterior:
    r"""What the training data say about the weights of the last layers.

    Parameters
    ----------
    hessians : dict of str to array of shape (n_weights, n_weights)
        H of each target that has error bars, in float64.
    scales : dict of str to float
        :math:`\alpha` of each target, and of ``"forces"`` and ``"stress"``, as far as there were
        labels for it that were not trained on.
    """

    hessians: dict[str, np.ndarray]
    scales: dict[str, float] = field(default_factory=dict)

    @cached_property
    def whitening(self) -> dict[str, np.ndarray]:
        """Matrix K of each target for which :math:`K^T K` is the inverse of H with the ridge."""
        matrices = {}
        for name, H in self.hessians.items():
            ridge = RIDGE * np.trace(H) / len(H) + np.finfo(float).tiny
            lower = linalg.cholesky(H + ridge * np.eye(len(H)), lower=True)
            matrices[name] = linalg.solve_triangular(lower, np.eye(len(H)), lower=True)
        return matrices

    def variances(self, target: str, rows: Tensor) -> Tensor:
        """Return :math:`g^T H^{-1} g` for rows of a target: (..., n_weights) to (...)."""
        matrix = torch.from_numpy(self.whitening[target]).to(rows.device, rows.dtype)
        return (rows @ matrix.mT).square().sum(-1)

    def find_scale(self, names) -> float | None:
        """Return the scale of the first of some names that has one."""
        return next((self.scales[name] for name in names if name in self.scales), None)

    def covers(self, name: str) -> bool:
        """Return whether an output of the network has error bars."""
        target = find_target(name)
        return target in self.hessians and self.find_scale(LABELS.get(name, [name])) is not None

    def stds(self, network: SoapBPNN, batch, outputs, names) -> dict[str, Tensor]:
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
            targets; the shapes are those of the outputs.
        """
        rows = self._find_rows(network, batch, names)
        stds = {}
        for name in names:
            kind, part = network.kinds.get(name), rows["energies" if name == "energy" else name]
            if kind is not None and not kind.per_atom:
                part = sum_by_structure(part, batch.index)
            scale = self.find_scale(LABELS.get(name, [name]))
            std = scale * self.variances(find_target(name), part).sqrt()
            stds[name] = _shape(name, std if kind is None else std[:, kind.rows[0].tolist()])
        return stds

    def members(self, network: SoapBPNN, batch, outputs, names, n_members) -> dict[str, Tensor]:
        """Return outputs for a batch with weights drawn from their distribution.

        Forces and stresses of a member are the derivatives of its energy: all three have the scale
        of the forces, if derivatives are among the outputs, else of the energy.

        Parameters
        ----------
        network, batch, outputs
            See :meth:`stds`.
        names : collection of str
            Names of outputs: targets, ``energies``, ``forces`` and ``strain_gradient``.
        n_members : int
            Number of members. The first ones are the same for every number.

        Returns
        -------
        dict of str to Tensor
            What the network returns by the same names, with an axis of the members in front.
        """
        values = {**vars(outputs), **outputs.values}
        rows = self._find_rows(network, batch, names)
        members = {}
        for name in names:
            target = find_target(name)
            n_properties, places = 1, None
            if name in network.kinds and name != "energy":
                component, place = network.kinds[name].rows.tolist()
                n_properties, places = max(place) + 1, (component, place)
            source = "forces" if target == "energy" and "forces" in names else name
            scale = self.find_scale(LABELS.get(source, [source]))
            draws = scale * self._draw(network, target, n_properties, n_members, rows[name])
            change = torch.einsum("icn,mnp->micp", rows[name], draws)
            change = change[..., 0] if places is None else change[:, :, places[0], places[1]]
            members[name] = values[name] + change.reshape(n_members, *values[name].shape)
        return members

    def _find_rows(self, network, batch, names):
        targets = {find_target(name) for name in names}
        targets = [name for name in network.kinds if name in targets]
        return find_rows(network, batch, targets, strain="strain_gradient" in names)

    def _draw(self, network, target, n_properties, n_members, like):
        """Draw changes of the weights, of shape (n_members, n_weights, n_properties)."""
        matrix = self.whitening[target]
        rng = np.random.default_rng([SEED, list(network.kinds).index(target)])
        normal = rng.standard_normal((n_members, len(matrix), n_properties))
        changes = torch.from_numpy(np.einsum("kn,mkp->mnp", matrix, normal))
        return changes.to(like.device, like.dtype)


def find_target(name: str) -> str:
    """Return the target from whose last layer an output comes."""
    return "energy" if name in (*LABELS, *LEARNT_DERIVATIVES) else name


def _shape(name, values):
    """Return flattened values in the shape in which the network returns them."""
    if name in ("energy", "energies"):
        return values[:, 0]
    return values.unflatten(1, (3, 3)) if name == "strain_gradient" else values
