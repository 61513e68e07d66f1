"""Evaluation of a network on structures, in the user's units."""

from __future__ import annotations

import numpy as np
import torch

from ..data import (
    expand_scale,
    flatten_offset,
    iterate_chunks,
    plan_batches,
    use_threads,
    usual_settings,
)
from ._environments import Environments

# atoms that are evaluated at once
ATOMS_PER_CHUNK = 2048


@usual_settings()
def evaluate(network, structures, derivatives) -> dict:
    """Evaluate the network on structures that carry offset and scale, with or without features.

    Returns
    -------
    dict of str to array or list of arrays
        In float64 and the user's units, per-atom values as lists in the order of the atoms: every
        target of the network; with an energy also ``energies``, what each atom adds to it, and,
        with derivatives, ``forces``, ``virial`` and ``stress``; the last two are NaN where the
        cell has no volume.
    """
    chunks = [
        _evaluate_chunk(network, structures[part], derivatives)
        for part in iterate_chunks(structures.n_atoms, ATOMS_PER_CHUNK)
    ]
    raw = {
        name: torch.cat([chunk[name] for chunk in chunks]).cpu().double().numpy()
        for name in chunks[0]
    }
    results = {}
    for name, kind in network.kinds.items():
        if name == "energy":
            results |= _finish_energy(raw, structures)
        else:
            results[name] = _finish_target(raw[name], structures, name, kind)
    return results


@usual_settings()
@torch.no_grad()
def evaluate_features(network, structures, target=None) -> list[np.ndarray]:
    """Return the features of all atoms, or those before the last layer of a target.

    Returns
    -------
    list of arrays of shape (n_atoms, n_features)
    """
    parts = []
    for part in iterate_chunks(structures.n_atoms, ATOMS_PER_CHUNK):
        with use_threads(structures.n_atoms[part].sum()):
            batch = _make_batch(network, structures[part], derivatives=False)
            parts.append(_order_atoms(network.features(batch, target), batch))
    return _split(torch.cat(parts).cpu().double().numpy(), structures)


def check_volumes(structures, names):
    """Raise if a stress or virial is wanted, but no structure has a cell."""
    if not structures.volumes.any():
        raise ValueError(
            f"X holds no cell of finite volume, so there is no {' or '.join(names)}. Leave these "
            "targets out, or set cells."
        )


def _make_batch(network, structures, derivatives):
    environments = Environments(structures, network.recipe(), derivatives=derivatives)
    order = torch.arange(len(structures), device=environments.device)
    (index,) = plan_batches(environments.graph, order, [len(order)], len(network.elements))
    return environments.select(index)


@torch.no_grad()
def _evaluate_chunk(network, structures, derivatives):
    """Return energies, forces, strain gradient and targets, in the order of the atoms."""
    with use_threads(structures.n_atoms.sum()):
        batch = _make_batch(network, structures, derivatives)
        outputs = network(batch, strain=derivatives)
    raw = {name: _order_atoms(values, batch) for name, values in outputs.values.items()}
    if outputs.energies is not None:
        raw["energies"] = _order_atoms(outputs.energies, batch)
    if outputs.forces is not None:
        raw["forces"] = _order_atoms(outputs.forces, batch)
        raw["strain_gradient"] = outputs.strain_gradient
    return raw


def _order_atoms(values, batch):
    """Undo the sorting by element."""
    ordered = torch.empty_like(values)
    ordered[batch.index.atoms] = values
    return ordered


def _finish_energy(raw, structures):
    """Scale the energy and its derivatives, and add the offsets."""
    scale = structures.scale.get("energy", 1.0)
    offset = structures.offset
    energies = scale * raw["energies"]
    energy = _sum_atoms(energies, structures) + offset.get("energy", 0.0)
    if "energies" in offset:
        energies = energies + np.concatenate(offset["energies"])
    # an offset of the structure alone is shared out equally
    rest = (energy - _sum_atoms(energies, structures)) / structures.n_atoms
    energies = energies + np.repeat(rest, structures.n_atoms)
    results = {"energy": energy, "energies": _split(energies, structures)}
    if "forces" in raw:
        forces = scale * raw["forces"]
        if "forces" in offset:
            forces = forces + np.concatenate(offset["forces"])
        volumes = _nan_volumes(structures)[:, None, None]
        virial = offset.get("virial", 0.0) - scale * raw["strain_gradient"]
        results["forces"] = _split(forces, structures)
        results["virial"] = np.where(volumes > 0, virial, np.nan)
        results["stress"] = -virial / volumes
    return results


def _finish_target(values, structures, name, kind):
    """Sum or average what the atoms give, scale it, and add the offset."""
    scale = expand_scale(structures, name, kind)
    offset = flatten_offset(structures, name, kind)
    if kind.per_atom:
        values = (scale * values + offset).reshape(-1, *kind.shape)
        return _split(values, structures)
    values = scale * _sum_atoms(values, structures)
    if kind.intensive:
        values = values / structures.n_atoms[:, None]
    elif kind.per_volume:
        values = values / _nan_volumes(structures)[:, None]
    return (values + offset).reshape(-1, *kind.shape)


def _sum_atoms(values, structures):
    return np.add.reduceat(values, np.cumsum(structures.n_atoms) - structures.n_atoms)


def _split(values, structures):
    return np.split(values, np.cumsum(structures.n_atoms)[:-1])


def _nan_volumes(structures):
    """Volumes of the cells, NaN where there is none."""
    return np.where(structures.volumes > 0, structures.volumes, np.nan)
