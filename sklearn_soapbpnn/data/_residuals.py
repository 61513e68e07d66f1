"""What an offset leaves of the labels that derive from the energy."""

from __future__ import annotations

import numpy as np


def subtract_forces(structures, targets):
    """Return the forces less their offset, NaN where there is no label: array (n_atoms, 3)."""
    forces = np.concatenate(targets["forces"])
    if "forces" in structures.offset:
        forces = forces - np.concatenate(structures.offset["forces"])
    return forces


def subtract_strain_gradient(structures, targets):
    r"""Return :math:`\partial E / \partial \epsilon` less its offset, from stress or virial.

    That is the stress times the volume, array (n_structures, 3, 3); NaN where there is no label, or
    no cell of finite volume, whatever the label says.
    """
    volumes = np.where(structures.volumes > 0, structures.volumes, np.nan)[:, None, None]
    if "stress" in targets:
        gradient = targets["stress"] * volumes
    else:
        gradient = np.where(volumes > 0, -targets["virial"], np.nan)
    return gradient + structures.offset.get("virial", 0.0)
