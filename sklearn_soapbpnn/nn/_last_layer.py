r"""What the last layer of a target multiplies by its weights, for values and for derivatives.

Every output of the network is linear in the weights w of a last layer. For energies, and for forces
and stress as derivatives of them,

.. math::

    \epsilon_i = w_{Z_i} \cdot h_i, \qquad
    \mathbf f_j = - \sum_i w_{Z_i} \cdot \frac{\partial h_i}{\partial \mathbf r_j}

with the last-layer features h. The factors of w are called *rows* here, since they are rows of the
matrix of a linear regression: each has a column for every weight of the last layers of all
elements. Error bars are made from them. The derivatives of all features at once take the way of the
forces, with several right-hand sides.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ._environments import EnvironmentBatch
from ._soap_bpnn import SoapBPNN


@torch.no_grad()
def find_rows(
    network: SoapBPNN, batch: EnvironmentBatch, names: Collection[str], strain: bool = False
) -> dict[str, Tensor]:
    """Return the rows of the last layers of some targets.

    Parameters
    ----------
    network : SoapBPNN
        A single network, each of whose targets ``names`` has a last layer.
    batch : EnvironmentBatch
        The batch. With pair gradients there are also the rows of the forces, if the energy is one
        of the targets and the network has no long-range part.
    names : collection of str
        Targets.
    strain : bool, default=False
        Whether there are also the rows of the strain gradient.

    Returns
    -------
    dict of str to Tensor of shape (n, n_components, n_weights)
        By the names that :func:`~sklearn_soapbpnn.data.to_user_units` takes: ``energies`` with one
        component and ``forces`` with three, per atom; ``strain_gradient`` with nine, per structure;
        and every other target with the components of :attr:`TargetKind.rows`, per atom.
    """
    hidden, context = network.first(batch)
    inputs = network.head_inputs(hidden, batch)
    owner = _find_owners(network, batch)
    rows = {}
    for name in names:
        parts = network.head(name).rows(inputs[name], network.first.gather, batch)
        rows["energies" if name == "energy" else name] = _separate(parts, owner, network)
    has_forces = batch.pair_gradients is not None and network.long_range is None
    if has_forces and "energy" in names:
        slopes = _find_slopes(network, hidden, context, batch)
        rows |= _differentiate(network, slopes, owner, batch, strain)
    return rows


def _find_owners(network, batch) -> Tensor:
    """Return the index of the set of weights that each atom uses."""
    element = batch.index.element
    return element if network.first.n_sets > 1 else torch.zeros_like(element)


def _separate(parts: Tensor, owner: Tensor, network: SoapBPNN) -> Tensor:
    """Give each set of weights columns of its own; those of an atom are zero for all but one."""
    n_atoms, n_components, size = parts.shape
    rows = parts.new_zeros(n_atoms, n_components, network.first.n_sets, size)
    rows[torch.arange(n_atoms, device=owner.device), :, owner] = parts
    return rows.flatten(2)


def _find_slopes(network, hidden, context, batch) -> Tensor:
    """Return dh/dc, of shape (n_features, n_atoms, n_blocks, n_channels)."""
    columns = network.columns["energy"]
    gradients = _differentiate_features(hidden[:, :, columns], network.layers("energy")[:-1])
    return torch.cat([network.first.slope(g, context, columns, batch) for g in gradients])


def _differentiate_features(hidden: Tensor, weights: list[Tensor]) -> Tensor:
    """Return dh/da for all features, of shape (n_features, n_sets, n_rows, n_hidden)."""
    slopes, a = [], hidden
    for weight in [*weights, None]:
        sigmoid = torch.sigmoid(a)
        silu = a * sigmoid
        slopes.append(sigmoid * (1 + a - silu))
        a = silu if weight is None else torch.bmm(silu, weight.mT)
    gradient = torch.diag_embed(slopes.pop())
    for weight, slope in zip(reversed(weights), reversed(slopes)):
        product = torch.bmm(gradient.flatten(1, 2), weight)
        gradient = product.unflatten(1, gradient.shape[1:3]) * slope[:, :, None]
    return gradient.permute(2, 0, 1, 3).contiguous()


def _differentiate(network, slopes, owner, batch, strain) -> dict[str, Tensor]:
    """Return the rows of the forces, and on request of the strain gradient."""
    n_features, n_atoms, n_blocks, _ = slopes.shape
    index, n_sets = batch.index, network.first.n_sets
    forces = slopes.new_zeros(n_sets, n_features, n_atoms, 3)
    gradient = slopes.new_zeros(n_sets, n_features, len(index), 3, 3)
    channels = slopes.flatten(1, 2)
    # what a pair does not see of atoms with other weights is a row of zeros
    channels = torch.cat([channels, torch.zeros_like(channels[:, :1])], dim=1)
    ends = torch.stack([index.centers, index.neighbors])
    for k in range(n_sets):
        own = owner[ends] == k
        pairs = torch.nonzero(own.any(0))[:, 0]
        rows = torch.where(own, index.channel_rows, n_atoms * n_blocks).index_select(1, pairs)
        some = batch.pair_gradients.select(pairs)
        vectors = some.contract(rows, channels)
        centers, neighbors = ends.index_select(1, pairs)
        forces[k].index_add_(1, centers, vectors).index_add_(1, neighbors, vectors, alpha=-1)
        if strain:
            outer = vectors[..., None] * batch.pair_vectors.index_select(0, pairs)[:, None]
            gradient[k].index_add_(1, index.structure_of_atom[centers], outer)
    rows = {"forces": forces.permute(2, 3, 0, 1).flatten(2)}
    if strain:
        gradient = (gradient + gradient.mT) / 2
        rows["strain_gradient"] = gradient.permute(2, 3, 4, 0, 1).flatten(3).flatten(1, 2)
    return rows
