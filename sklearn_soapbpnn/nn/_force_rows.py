r"""Derivatives of all last-layer features with respect to the positions.

The derivative of each feature of atom i takes the way of the forces: from the preactivations to the
expansion :math:`c_i`, and from there to the pairs. Torch takes these steps one after the other, for
all atoms. On the CPU a compiled loop takes them for one atom after the other, so that only their
result is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, from_numpy

from ..descriptors import load_kernels
from ._environments import EnvironmentBatch

if TYPE_CHECKING:
    from ._first_layer import FirstLayer
    from ._orthogonal import OrthogonalLayer


def differentiate_at_once(
    layer: FirstLayer,
    jacobian: Tensor,
    context: Any,
    columns: slice,
    batch: EnvironmentBatch,
    strain: bool,
) -> tuple[Tensor, Tensor]:
    """Evaluate :meth:`FirstLayer.force_rows` with torch, for any first layer."""
    index, n_sets = batch.index, layer.n_sets
    slopes = [layer.slope(gradient, context, columns, batch) for gradient in jacobian.unbind(3)]
    n_features, (_, n_atoms, n_blocks, _) = len(slopes), slopes[0].shape
    # what a pair does not see of atoms with other weights is a row of zeros
    slopes = [slope.flatten(1, 2) for slope in slopes]
    channels = slopes[0].new_zeros(n_features, n_atoms * n_blocks + 1, slopes[0].shape[2])
    torch.cat(slopes, out=channels[:, :-1])
    forces = channels.new_zeros(n_sets, n_features, n_atoms, 3)
    gradient = channels.new_zeros(n_sets, n_features, len(index) if strain else 0, 3, 3)
    owner = index.element if n_sets > 1 else torch.zeros_like(index.element)
    ends = torch.stack([index.centers, index.neighbors])
    for k in range(n_sets):
        own = owner[ends] == k
        pairs = torch.nonzero(own.any(0))[:, 0]
        rows = torch.where(own, index.channel_rows, n_atoms * n_blocks).index_select(1, pairs)
        vectors = batch.pair_gradients.select(pairs).contract(rows, channels)
        centers, neighbors = ends.index_select(1, pairs)
        forces[k].index_add_(1, centers, vectors).index_add_(1, neighbors, vectors, alpha=-1)
        if strain:
            outer = vectors[..., None] * batch.pair_vectors.index_select(0, pairs)[:, None]
            gradient[k].index_add_(1, index.structure_of_atom[centers], outer)
    return forces.permute(2, 3, 0, 1), gradient.permute(2, 3, 4, 0, 1)


def differentiate_by_atom(
    layer: OrthogonalLayer,
    jacobian: Tensor,
    projected: Tensor,
    columns: slice,
    batch: EnvironmentBatch,
    strain: bool,
) -> tuple[Tensor, Tensor]:
    """Evaluate :meth:`FirstLayer.force_rows` on the CPU with numba, one atom after the other."""
    index, spectrum, slope = batch.index, layer.spectrum, batch.constants["slope"]
    features = batch.constants["features"]
    ones = features.new_ones(len(features))
    curvature = layer.norm.add_curvature(torch.zeros_like(features), ones, features)
    weight = layer.norm.project(layer.linear.weight[:, columns])
    full = torch.cat([G.flatten(1) for G in spectrum.unpack(weight.flatten(0, 1))], dim=1)
    arrays = (
        slope,
        spectrum.multiply(curvature, slope),
        projected[:, :, columns].flatten(0, 1),
        full.unflatten(0, weight.shape[:2]),
    )
    sums = load_kernels("_row_kernels").sum_rows(
        batch.pair_gradients.basis.hyperparameters,
        _list_pairs(batch),
        tuple(t.numpy() for t in (index.element, index.rows, index.structure_of_atom)),
        tuple(tensor.numpy() for tensor in arrays),
        jacobian.flatten(0, 1).numpy(),
        len(index) if strain else 0,
    )
    forces, gradient = map(from_numpy, sums)
    return forces, gradient


def _list_pairs(batch):
    """Return vectors and both ends of all pairs, seen from both ends.

    They are sorted by the first end, and by the element of the second.
    """
    index, vectors = batch.index, batch.pair_vectors
    first = torch.cat([index.centers, index.neighbors])
    second = torch.cat([index.neighbors, index.centers])
    # atoms are sorted by element already
    order = (first * len(index.atoms) + second).argsort()
    vectors = torch.cat([vectors, -vectors])
    return tuple(tensor.index_select(0, order).numpy() for tensor in (vectors, first, second))
