"""Evaluation of a network on structures, in the user's units."""

from __future__ import annotations

import torch

from ..data import (
    has_derivatives,
    iterate_chunks,
    plan_batches,
    split_atoms,
    to_user_units,
    use_threads,
    usual_settings,
)
from ..nn import Environments
from ._devices import atoms_per_chunk
from ._outputs import FEATURES, LAST_LAYER, is_features

# number of atoms that are evaluated at a time on the CPU
ATOMS_PER_CHUNK = 2048


@usual_settings()
@torch.no_grad()
def evaluate(network, structures, names):
    """Evaluate a network in a single pass over structures with offset and scale attached.

    Of a committee this is the mean of its networks.

    Parameters
    ----------
    network : SoapBPNN
        The network.
    structures : Structures
        Structures, with or without features.
    names : collection of str
        Names of outputs, see :func:`list_outputs`.

    Returns
    -------
    dict of str to array or list of arrays
        At least these outputs, in float64 and in the user's units; per-atom values as lists, in the
        order of the atoms. Stress and virial are NaN if the cell has no volume.
    """
    features = [name for name in dict.fromkeys(names) if is_features(name)]
    predicts = any(not is_features(name) for name in names)
    derivatives = has_derivatives(names)
    size = max(1, atoms_per_chunk(network.device, ATOMS_PER_CHUNK) // network.n_networks)
    chunks = [
        _evaluate_chunk(network, structures[part], predicts, derivatives, features)
        for part in iterate_chunks(structures.n_atoms, size)
    ]
    values = {
        name: torch.cat([chunk[name] for chunk in chunks], dim=1).double().mean(0).cpu().numpy()
        for name in chunks[0]
    }
    results = to_user_units(structures, network.kinds, values) if predicts else {}
    return results | {name: split_atoms(values[name], structures) for name in features}


def _evaluate_chunk(network, structures, predicts, derivatives, features):
    """Return energies, forces, strain gradient, targets and features, in the order of the atoms.

    The first axis is that of the networks, whose features are side by side along the last.
    """
    with use_threads(structures.n_atoms.sum()):
        batch = _make_batch(network, structures, derivatives)
        outputs = network(batch, strain=derivatives) if predicts else None
        values = {name: _find_features(network, batch, name)[None] for name in features}
    if outputs is not None:
        values |= outputs.values
        per_atom = {"energies": outputs.energies, "forces": outputs.forces}
        values |= {name: value for name, value in per_atom.items() if value is not None}
    values = {name: _order_atoms(value, batch) for name, value in values.items()}
    if outputs is not None and outputs.strain_gradient is not None:
        values["strain_gradient"] = outputs.strain_gradient
    return values


def _make_batch(network, structures, derivatives):
    """Return structures as a single batch, with their descriptors."""
    environments = Environments(structures, network.recipe(), derivatives=derivatives)
    order = torch.arange(len(structures), device=environments.device)
    (index,) = plan_batches(environments.graph, order, [len(order)], len(network.elements))
    return environments.select(index)


def _find_features(network, batch, name):
    """Return the features of a batch that have this name."""
    return network.features(batch, None if name == FEATURES else name.removesuffix(LAST_LAYER))


def _order_atoms(values, batch):
    """Undo the sorting by element."""
    ordered = torch.empty_like(values)
    ordered[:, batch.index.atoms] = values
    return ordered
