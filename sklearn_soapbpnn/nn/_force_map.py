r"""The linear map from the network's gradient to the forces of pairs, and its transpose.

With orthogonal species the descriptor has no weights. The energy is :math:`\sum_i \epsilon(y_i)`
with :math:`y_i = A x_i` and x the standardised packed spectrum, so that with :math:`v_i =
\partial \epsilon / \partial y_i` everything behind v is linear:

.. math::

    \frac{\partial E}{\partial c_i} = \frac{2}{\sigma_i} \left[ \mathrm{unpack}(A_\perp^T v_i)
        - \frac{v_i \cdot y_i}{n} \mathrm{unpack}(x_i) \right] c_i, \qquad
    \frac{\partial E}{\partial r_{ij}} = \sum_{nlm} \left[
        \frac{\partial E}{\partial c_i^{Z_j}} + (-1)^l \frac{\partial E}{\partial c_j^{Z_i}}
        \right]_{nlm} \nabla B_{nlm}(r_{ij}).

where :math:`A_\perp` is A without its component along the vector of ones, which LayerNorm takes
away. Training on forces needs the transpose of this map, and never a second derivative of SOAP.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _ForceMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, gradient, overlap, batch):
        weight = batch.norm.project(weight)
        ctx.save_for_backward(weight, gradient)
        ctx.batch = batch
        spectrum = batch.spectrum
        packed = _multiply_by_element(gradient, weight, batch.index.element_counts)
        matrices = spectrum.unpack(packed)
        slopes = spectrum.blocks(batch.slope)
        by_element = spectrum.by_element([torch.bmm(g, c) for g, c in zip(matrices, slopes)])
        if batch.curvature is not None:
            by_element.addcmul_(overlap[:, None, None], batch.curvature, value=-1)
        rows = by_element.flatten(0, 1)
        return torch.cat(
            [
                piece.contract(_combine(rows, forward, backward, batch.parity))
                for piece, forward, backward in batch.pair_pieces()
            ]
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, pair_forces):
        weight, gradient = ctx.saved_tensors
        batch, spectrum = ctx.batch, ctx.batch.spectrum
        n_elements, n_channels = spectrum.n_elements, len(batch.parity)
        rows = batch.slope.new_zeros(len(gradient) * n_elements, n_channels)
        start = 0
        for piece, forward, backward in batch.pair_pieces():
            channels = piece.spread(pair_forces[start : start + len(piece)])
            rows.index_add_(0, forward, channels)
            rows.index_add_(0, backward, channels.mul_(batch.parity))
            start += len(piece)
        by_element = rows.view(-1, n_elements, n_channels)
        overlap = None
        if batch.curvature is not None:
            overlap = -(by_element * batch.curvature).sum((1, 2))
        blocks = spectrum.blocks(spectrum.by_degree(by_element))
        slopes = spectrum.blocks(batch.slope)
        packed = spectrum.pack([torch.bmm(t, c.transpose(1, 2)) for t, c in zip(blocks, slopes)])
        counts = batch.index.element_counts
        weight_gradient = torch.empty_like(weight)
        parts = zip(gradient.split(counts), packed.split(counts))
        for element, (v, g) in enumerate(parts):
            torch.mm(v.T, g, out=weight_gradient[element])
        return (
            batch.norm.project(weight_gradient),
            _multiply_by_element(packed, weight.transpose(1, 2), counts),
            overlap,
            None,
        )


def _combine(rows, forward, backward, parity):
    """Add dE/dc as seen from both ends of each pair."""
    channels = rows.index_select(0, forward)
    return channels.addcmul_(rows.index_select(0, backward), parity)


def map_forces(weight: Tensor, gradient: Tensor, overlap: Tensor, batch) -> Tensor:
    r"""Return :math:`\partial E / \partial r_{ij}` of every pair, linear in the network's gradient.

    Parameters
    ----------
    weight : Tensor of shape (n_elements, n_outputs, n_features)
        A, the first layer behind the standardised features.
    gradient : Tensor of shape (n_atoms, n_outputs)
        v, the gradient of the energy with respect to y = A x.
    overlap : Tensor of shape (n_atoms,)
        :math:`v \cdot y`.
    batch : EnvironmentBatch
        Constants of the atoms and pairs.

    Returns
    -------
    Tensor of shape (n_pairs, 3)
    """
    return _ForceMap.apply(weight, gradient, overlap, batch)


def _multiply_by_element(x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
    """Multiply rows x, sorted by element, by the matrix of their element from the right."""
    result = x.new_empty(len(x), weight.shape[2])
    parts = zip(x.split(counts), result.split(counts))
    for element, (rows, out) in enumerate(parts):
        torch.mm(rows, weight[element], out=out)
    return result
