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
        ctx.batch, ctx.n_blocks = batch, gradient.shape[1]
        return contract_pairs(gradient, batch)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, pair_forces):
        return spread_pairs(pair_forces, ctx.n_blocks, ctx.batch), None


def map_pairs(gradient: Tensor, batch: EnvironmentBatch) -> Tensor:
    """Return dE/dr_ij, of shape (n_pairs, 3), for dE/dc of shape (n_atoms, n_blocks, n_channels).

    Parameters
    ----------
    gradient : Tensor of shape (n_atoms, n_blocks, n_channels)
        Gradient of the expansion, with respect to which the result can be differentiated.
    batch : EnvironmentBatch
        Constants of the pairs.
    """
    return _PairMap.apply(gradient, batch)


def contract_pairs(gradient: Tensor, batch: EnvironmentBatch) -> Tensor:
    """Evaluate :func:`map_pairs`, without a graph for autograd."""
    rows = gradient.flatten(0, 1)
    return torch.cat(
        [
            piece.contract(_combine(rows, forward, backward, batch.parity))
            for piece, forward, backward in batch.pair_pieces()
        ]
    )


def spread_pairs(pair_forces: Tensor, n_blocks: int, batch: EnvironmentBatch) -> Tensor:
    """Evaluate the transpose of :func:`map_pairs`: (n_atoms, n_blocks, n_channels)."""
    n_atoms, n_channels = len(batch.index.atoms), len(batch.parity)
    rows = pair_forces.new_zeros(n_atoms * n_blocks, n_channels)
    start = 0
    for piece, forward, backward in batch.pair_pieces():
        channels = piece.spread(pair_forces[start : start + len(piece)])
        rows.index_add_(0, forward, channels)
        rows.index_add_(0, backward, channels.mul_(batch.parity))
        start += len(piece)
    return rows.view(n_atoms, n_blocks, n_channels)


def _combine(rows, forward, backward, parity):
    """Add dE/dc as seen from both ends of each pair."""
    channels = rows.index_select(0, forward)
    return channels.addcmul_(rows.index_select(0, backward), parity)
