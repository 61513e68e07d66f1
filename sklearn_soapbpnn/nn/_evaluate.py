"""Evaluation of a network on structures, in the user's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data import iterate_chunks, plan_batches
from ._environments import Environments

# atoms that are evaluated at once
ATOMS_PER_CHUNK = 2048


@dataclass
class Prediction:
    """Predictions in float64 and the user's units, per-atom ones in the order of the atoms.

    Parameters
    ----------
    energy : array of shape (n_structures,)
        With the offset.
    energies : list of arrays of shape (n_atoms,)
        Without it.
    forces : list of arrays of shape (n_atoms, 3), or None
        Forces.
    virial : array of shape (n_structures, 3, 3), or None
        Minus the stress times the volume; NaN where the cell has no volume.
    volumes : array of shape (n_structures,)
        Volumes of the cells; NaN where there is none.
    """

    energy: np.ndarray
    energies: list[np.ndarray]
    forces: list[np.ndarray] | None
    virial: np.ndarray | None
    volumes: np.ndarray

    @property
    def stress(self):
        """Stress, tensile positive, array of shape (n_structures, 3, 3)."""
        return -self.virial / self.volumes[:, None, None]


def evaluate(network, structures, derivatives) -> Prediction:
    """Evaluate the network on structures that carry offset and scale, with or without features."""
    chunks = [
        _evaluate_chunk(network, structures[part], derivatives)
        for part in iterate_chunks(structures.n_atoms, ATOMS_PER_CHUNK)
    ]
    scale = structures.scale.get("energy", 1.0)
    energies, forces, gradient = (
        None if parts[0] is None else scale * torch.cat(parts).cpu().double().numpy()
        for parts in zip(*chunks)
    )
    ends = np.cumsum(structures.n_atoms)[:-1]
    starts = np.concatenate([[0], ends])
    volumes = np.where(structures.volumes > 0, structures.volumes, np.nan)
    return Prediction(
        np.add.reduceat(energies, starts) + structures.offset.get("energy", 0.0),
        np.split(energies, ends),
        None if forces is None else np.split(forces, ends),
        None if gradient is None else np.where(volumes[:, None, None] > 0, -gradient, np.nan),
        volumes,
    )


def check_volumes(structures):
    """Raise if no structure has a cell, so that there is no stress at all."""
    if not structures.volumes.any():
        raise ValueError(
            "X holds no cell of finite volume, so there is no stress or virial. Leave these "
            "targets out, or set cells."
        )


@torch.no_grad()
def _evaluate_chunk(network, structures, derivatives):
    environments = Environments(structures, network, derivatives=derivatives)
    order = torch.arange(len(structures), device=environments.features.device)
    (index,) = plan_batches(environments.graph, order, len(order), len(network.elements))
    outputs = network(environments.select(index), strain=derivatives)
    energies = torch.empty_like(outputs.energies)
    energies[index.atoms] = outputs.energies
    if not derivatives:
        return energies, None, None
    forces = torch.empty_like(outputs.forces)
    forces[index.atoms] = outputs.forces
    return energies, forces, outputs.strain_gradient
