r"""The linear map from the gradient of the density expansion to the gradient of the pairs.

With :math:`\mathbf g_i = \partial E / \partial c_i`, one block for each neighbour element,

.. math::

    \frac{\partial E}{\partial \mathbf r_{ij}} = \sum_{nlm} \left[ g_i^{Z_j} + (-1)^l g_j^{Z_i}
        \right]_{nlm} \nabla B_{nlm}(\mathbf r_{ij}).

It contains only constants of the data. Training on forces therefore needs this map and its
transpose, but never a second derivative of SOAP.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._environments import EnvironmentBatch


class _PairMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, batch):
        ctx.batch, ctx.shape = batch, gradient.shape[1:3]
        channels = gradient.flatten(1, 2)
        return batch.pair_gradients.contract(batch.index.channel_rows, channels)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, pair_forces):
        n_atoms, n_blocks = ctx.shape
        rows, pairs = ctx.batch.index.channel_rows, ctx.batch.pair_gradients
        channels = pairs.spread(rows, pair_forces, n_atoms * n_blocks)
        return channels.unflatten(1, ctx.shape), None


def map_pairs(gradient: Tensor, batch: EnvironmentBatch) -> Tensor:
    """Return dE/dr_ij for dE/dc, of each network.

    Parameters
    ----------
    gradient : Tensor of shape (n_networks, n_atoms, n_blocks, n_channels)
        Gradient of the expansion, with respect to which the result can be differentiated.
    batch : EnvironmentBatch
        Constants of the pairs.

    Returns
    -------
    Tensor of shape (n_networks, n_pairs, 3)
    """
    return _PairMap.apply(gradient, batch)
