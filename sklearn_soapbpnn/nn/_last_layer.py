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
from torch.nn import functional as F

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
        rows |= _differentiate(network, hidden, context, batch, strain)
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


def _differentiate(network, hidden, context, batch, strain) -> dict[str, Tensor]:
    """Return the rows of the forces, and on request of the strain gradient."""
    columns = network.columns["energy"]
    jacobian = _find_jacobian(hidden[:, :, columns], network.layers("energy")[:-1])
    forces, gradient = network.first.force_rows(jacobian, context, columns, batch, strain)
    rows = {"forces": forces.flatten(2)}
    if strain:
        gradient = (gradient + gradient.transpose(1, 2)) / 2
        rows["strain_gradient"] = gradient.flatten(3).flatten(1, 2)
    return rows


def _find_jacobian(hidden: Tensor, weights: list[Tensor]) -> Tensor:
    """Return dh/da for all features, of shape (n_sets, n_rows, n_hidden, n_features)."""
    slope, a = _differentiate_silu(hidden), hidden
    if not weights:
        return torch.diag_embed(slope)
    jacobian = None
    for weight in weights:
        a = torch.bmm(F.silu(a), weight.mT)
        if jacobian is None:
            jacobian = slope[..., None] * weight.mT[:, None]
        else:
            jacobian = torch.bmm(jacobian.flatten(1, 2), weight.mT).unflatten(1, hidden.shape[1:])
        jacobian *= _differentiate_silu(a)[:, :, None]
    return jacobian


def _differentiate_silu(a: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(a)
    return sigmoid * (1 + a - a * sigmoid)
