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

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from ..data import sum_by_structure
from ..nn import find_rows
from ._error_bars import ErrorBars, find_target, is_sum

# what is added to the diagonal of H, in units of its mean: it keeps directions finite in which
# there are no data, and is far below all others
RIDGE = 1e-10
# number of weights of a last layer up to which there are error bars: H is a square of this size
LARGEST_LAYER = 2048
# seed of the members: the same model always has the same ones
SEED = 0


@dataclass(frozen=True, kw_only=True)
class LastLayerPosterior(ErrorBars):
    r"""Error bars from what the training data say about the weights of the last layers.

    Parameters
    ----------
    hessians : dict of str to array of shape (n_weights, n_weights)
        H of each target that has error bars, in float64.
    scales
        :math:`\alpha`, see :class:`ErrorBars`.
    """

    hessians: dict[str, np.ndarray]

    @cached_property
    def whitening(self) -> dict[str, np.ndarray]:
        """Matrix K of each target for which :math:`K^T K` is the inverse of H with the ridge."""
        matrices = {}
        for name, H in self.hessians.items():
            ridge = RIDGE * np.trace(H) / len(H) + np.finfo(float).tiny
            lower = linalg.cholesky(H + ridge * np.eye(len(H)), lower=True)
            matrices[name] = linalg.solve_triangular(lower, np.eye(len(H)), lower=True)
        return matrices

    def supports(self, network, name):
        """Return whether an output comes from a last layer with error bars.

        Derivatives of the long-range part take another way, which has none.
        """
        is_long = network.long_range is not None and name in ("forces", "strain_gradient")
        return find_target(name) in self.hessians and not is_long

    def stds(self, network, batch, outputs, names):
        """Return the standard deviations of outputs for a batch, see :class:`ErrorBars`."""
        rows = self._find_rows(network, batch, names)
        stds = {}
        for name in names:
            kind, part = network.kinds.get(name), rows["energies" if name == "energy" else name]
            if name == "energy" or is_sum(network, name):
                part = sum_by_structure(part, batch.index)
            std = self.find_scale(name) * self._spread(find_target(name), part)
            stds[name] = _shape(name, std if kind is None else std[:, kind.rows[0].tolist()])
        return stds

    def members(self, network, batch, outputs, names, n_members):
        """Return outputs with weights drawn from their distribution, see :class:`ErrorBars`."""
        values = {**vars(outputs), **outputs.values}
        rows = self._find_rows(network, batch, names)
        members = {}
        for name in names:
            n_properties, places = 1, None
            if name in network.kinds and name != "energy":
                component, place = network.kinds[name].rows.tolist()
                n_properties, places = max(place) + 1, (component, place)
            draws = self.draw(network, find_target(name), n_properties, n_members)
            draws = self.find_common_scale(name, names) * draws.to(rows[name])
            change = torch.einsum("icn,mnp->micp", rows[name], draws)
            change = change[..., 0] if places is None else change[:, :, places[0], places[1]]
            members[name] = values[name] + change.reshape(n_members, *values[name].shape[1:])
        return members

    def _find_rows(self, network, batch, names):
        targets = {find_target(name) for name in names}
        targets = [name for name in network.kinds if name in targets]
        return find_rows(network, batch, targets, strain="strain_gradient" in names)

    def _spread(self, target: str, rows: Tensor) -> Tensor:
        """Return the root of :math:`g^T H^{-1} g` for rows of a target: (n, n_components)."""
        matrix = torch.from_numpy(self.whitening[target]).to(rows.device, rows.dtype)
        return (rows @ matrix.mT).square().sum(-1).sqrt()

    def draw(self, network, target, n_properties, n_members) -> Tensor:
        """Draw changes of the weights: (n_members, n_weights, n_properties), in float64."""
        matrix = self.whitening[target]
        rng = np.random.default_rng([SEED, list(network.kinds).index(target)])
        normal = rng.standard_normal((n_members, len(matrix), n_properties))
        changes = (normal.swapaxes(1, 2) @ matrix).swapaxes(1, 2)
        return torch.from_numpy(changes)


def _shape(name, values):
    """Return flattened values in the shape in which the network returns them."""
    if name in ("energy", "energies"):
        return values[:, 0]
    return values.unflatten(1, (3, 3)) if name == "strain_gradient" else values
