r"""The linear map from the network's gradient to the forces of pairs, and its transpose.

With orthogonal species the descriptor has no weights. The energy is :math:`\sum_i \epsilon(y_i)`
with :math:`y_i = A x_i` and x the standardised packed spectrum, so that with :math:`v_i =
\partial \epsilon / \partial y_i` the forces are linear in v:

.. math::

    \frac{\partial E}{\partial c_i} = \frac{2}{\sigma_i} \mathrm{unpack} \left(
        A_\perp^T v_i - \frac{v_i \cdot y_i}{n} x_i \right) c_i

where :math:`A_\perp` is A without its component along the vector of ones, which LayerNorm removes.
The derivatives with respect to the pair vectors follow as in :func:`map_pairs`. A single operator
does both steps, so the result of the first need not be stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._environments import EnvironmentBatch
from ._pair_map import contract_pairs, spread_pairs

if TYPE_CHECKING:
    from ._orthogonal import OrthogonalLayer


class _ForceMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, gradient, overlap, layer, batch):
        weight = layer.norm.project(weight)
        ctx.save_for_backward(weight, gradient)
        ctx.layer, ctx.batch = layer, batch
        slope = find_slope(weight, gradient, overlap, layer, batch)
        return contract_pairs(slope[None], batch)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, pair_forces):
        weight, gradient = ctx.saved_tensors
        batch, norm, spectrum = ctx.batch, ctx.layer.norm, ctx.layer.spectrum
        by_element = spread_pairs(pair_forces[None], spectrum.n_elements, batch)[0]
        by_degree = spectrum.by_degree(by_element)
        packed = spectrum.multiply_transposed(by_degree, batch.constants["slope"])
        counts = batch.index.element_counts
        weight_gradient = torch.empty_like(weight)
        parts = zip(gradient.split(counts), packed.split(counts))
        for element, (v, g) in enumerate(parts):
            torch.mm(v.T, g, out=weight_gradient[element])
        return (
            norm.project(weight_gradient),
            _multiply_by_element(packed, weight.transpose(1, 2), counts),
            norm.overlap_gradient(packed, batch.constants["features"]),
            None,
            None,
        )


def map_forces(
    weight: Tensor,
    gradient: Tensor,
    overlap: Tensor,
    layer: OrthogonalLayer,
    batch: EnvironmentBatch,
) -> Tensor:
    r"""Return :math:`\partial E / \partial r_{ij}` for every pair.

    Parameters
    ----------
    weight : Tensor of shape (n_elements, n_outputs, n_features)
        A, the weights of the first layer for the standardised features.
    gradient : Tensor of shape (n_atoms, n_outputs)
        v, the gradient of the energy with respect to y = A x.
    overlap : Tensor of shape (n_atoms,)
        :math:`v \cdot y`.
    layer : OrthogonalLayer
        Layout and normalisation of the features.
    batch : EnvironmentBatch
        Constants of the atoms and pairs.

    Returns
    -------
    Tensor of shape (n_pairs, 3)
    """
    return _ForceMap.apply(weight, gradient, overlap, layer, batch)


def find_slope(weight, gradient, overlap, layer, batch) -> Tensor:
    r"""Return :math:`\partial E / \partial c_i`, of shape (n_atoms, n_blocks, n_channels).

    Parameters
    ----------
    weight : Tensor of shape (n_elements, n_outputs, n_features)
        :math:`A_\perp`.
    gradient, overlap, layer, batch
        See :func:`map_forces`.
    """
    spectrum, constants = layer.spectrum, batch.constants
    packed = _multiply_by_element(gradient, weight, batch.index.element_counts)
    packed = layer.norm.add_curvature(packed, overlap, constants["features"])
    return spectrum.by_element(spectrum.multiply(packed, constants["slope"]))


def _multiply_by_element(x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
    """Multiply rows x, sorted by element, by the matrix of their element from the right."""
    result = x.new_empty(len(x), weight.shape[2])
    parts = zip(x.split(counts), result.split(counts))
    for element, (rows, out) in enumerate(parts):
        torch.mm(rows, weight[element], out=out)
    return result
