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

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..descriptors import contract_spectra, spread_spectra
from ._environments import EnvironmentBatch

if TYPE_CHECKING:
    from ._orthogonal import OrthogonalLayer


class _ForceMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, gradient, overlap, layer, batch):
        weight = layer.norm.project(weight)
        ctx.save_for_backward(weight, gradient)
        ctx.layer, ctx.batch = layer, batch
        packed = _find_packed(weight, gradient, overlap, layer, batch)
        arguments = batch.index.channel_rows, packed, batch.constants["slope"]
        return contract_spectra(layer.spectrum, batch.pair_gradients, *arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, pair_forces):
        weight, gradient = ctx.saved_tensors
        batch, norm = ctx.batch, ctx.layer.norm
        arguments = batch.index.channel_rows, pair_forces, batch.constants["slope"]
        packed = spread_spectra(ctx.layer.spectrum, batch.pair_gradients, *arguments)
        counts = batch.index.element_counts
        weight_gradient = torch.empty_like(weight)
        parts = _split_sets(counts, gradient, packed)
        for (v, g), out in zip(parts, weight_gradient):
            torch.mm(v.T, g, out=out)
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
    weight : Tensor of shape (n_elements * n_networks, n_outputs, n_features)
        A, the weights of the first layer for the standardised features.
    gradient : Tensor of shape (n_networks, n_atoms, n_outputs)
        v, the gradient of the energy with respect to y = A x.
    overlap : Tensor of shape (n_networks, n_atoms)
        :math:`v \cdot y`.
    layer : OrthogonalLayer
        Layout and normalisation of the features.
    batch : EnvironmentBatch
        Constants of the atoms and pairs.

    Returns
    -------
    Tensor of shape (n_networks, n_pairs, 3)
    """
    return _ForceMap.apply(weight, gradient, overlap, layer, batch)


def find_slope(weight, gradient, overlap, layer, batch) -> Tensor:
    r"""Return :math:`\partial E / \partial c_i`.

    Parameters
    ----------
    weight : Tensor of shape (n_elements * n_networks, n_outputs, n_features)
        :math:`A_\perp`.
    gradient, overlap, layer, batch
        See :func:`map_forces`.

    Returns
    -------
    Tensor of shape (n_networks, n_atoms, n_blocks, n_channels)
    """
    packed = _find_packed(weight, gradient, overlap, layer, batch).flatten(0, 1)
    by_degree = layer.spectrum.multiply(packed, batch.constants["slope"])
    return layer.spectrum.by_element(by_degree).unflatten(0, gradient.shape[:2])


def _find_packed(weight, gradient, overlap, layer, batch) -> Tensor:
    """Return the gradient with respect to the spectra, (n_networks, n_atoms, n_features)."""
    packed = _multiply_by_element(gradient, weight, batch.index.element_counts)
    return layer.norm.add_curvature(packed, overlap, batch.constants["features"])


def _multiply_by_element(x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
    """Multiply rows x, sorted by element, by the matrix of their element from the right."""
    result = x.new_empty(*x.shape[:2], weight.shape[2])
    for (rows, out), matrix in zip(_split_sets(counts, x, result), weight):
        torch.mm(rows, matrix, out=out)
    return result


def _split_sets(counts: list[int], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows of tensors (n_networks, n_atoms, n) that belong to each set of weights."""
    for parts in zip(*(tensor.split(counts, dim=1) for tensor in tensors)):
        yield from zip(*parts)
