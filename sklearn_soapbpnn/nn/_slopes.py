"""Derivatives of the energy after the first layer, and forces and stress computed from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data import repeat_index
from ..potentials import Geometry
from ._environments import EnvironmentBatch


@dataclass
class Slopes:
    """Gradient of the energy of a batch, without the derivatives through the first layer.

    Parameters
    ----------
    hidden : Tensor of shape (n_sets, n_rows, n)
        Gradient with respect to the first preactivations, as a table.
    pair_vectors, positions, cells : Tensor or None
        Gradients with respect to the inputs of the long-range part, see :class:`Geometry`; None if
        it does not depend on them.
    """

    hidden: Tensor
    pair_vectors: Tensor | None = None
    positions: Tensor | None = None
    cells: Tensor | None = None


def require_slopes(hidden: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """Return inputs of the long-range part with respect to which autograd can differentiate."""
    if not hidden.requires_grad:
        hidden = hidden.detach().requires_grad_()
    names = ("positions", "cells", "pair_vectors")
    leaves = {name: getattr(geometry, name).detach().requires_grad_() for name in names}
    return hidden, replace(geometry, **leaves)


def find_slopes(total: Tensor, hidden: Tensor, geometry: Geometry, create_graph: bool) -> Slopes:
    """Differentiate the total energy of a batch with respect to these inputs."""
    inputs = [hidden, geometry.pair_vectors, geometry.positions, geometry.cells]
    slopes = torch.autograd.grad(
        total, inputs, create_graph=create_graph, retain_graph=create_graph, allow_unused=True
    )
    return Slopes(*slopes)


def sum_forces(batch: EnvironmentBatch, pair_forces: Tensor, slopes: Slopes) -> Tensor:
    r"""Return :math:`-\partial E / \partial r_i`; each pair contributes to both of its atoms.

    The shapes are (n_networks, n_pairs, 3) and (n_networks, n_atoms, 3).
    """
    index, n_networks, n_atoms = batch.index, len(pair_forces), len(batch.index.atoms)
    forces = pair_forces.new_zeros(n_networks * n_atoms, 3)
    for ends, sign in ((index.centers, 1), (index.neighbors, -1)):
        rows = repeat_index(ends, n_atoms, n_networks)
        forces = forces.index_add(0, rows, pair_forces.flatten(0, 1), alpha=sign)
    forces = forces.unflatten(0, (n_networks, n_atoms))
    return forces if slopes.positions is None else forces - slopes.positions


def sum_by_index(values: Tensor, index: Tensor, n_rows: int) -> Tensor:
    """Sum rows (n_networks, n, ...) that have the same index: (n_networks, n_rows, ...)."""
    n_networks = len(values)
    total = values.new_zeros(n_networks * n_rows, *values.shape[2:])
    total = total.index_add(0, repeat_index(index, n_rows, n_networks), values.flatten(0, 1))
    return total.unflatten(0, (n_networks, n_rows))


def sum_virial(batch: EnvironmentBatch, pair_forces: Tensor, slopes: Slopes) -> Tensor:
    r"""Return :math:`\partial E / \partial \epsilon`, :math:`\sum_{ij} f_{ij} \otimes r_{ij}`.

    The result is symmetrised; its shape is (n_networks, n_structures, 3, 3).
    """
    index = batch.index
    if len(index) == 1:
        total = (pair_forces.mT @ batch.pair_vectors)[:, None]
    else:
        outer = pair_forces[:, :, :, None] * batch.pair_vectors[:, None, :]
        total = sum_by_index(outer, index.structure_of_atom[index.centers], len(index))
    if slopes.positions is not None:
        outer = slopes.positions[:, :, None] * batch.geometry.positions[:, None, :]
        total = total + sum_by_index(outer[None], index.structure_of_atom, len(index))
    if slopes.cells is not None:
        total = total + torch.einsum("ska,skb->sab", slopes.cells, batch.geometry.cells)
    return (total + total.mT) / 2
