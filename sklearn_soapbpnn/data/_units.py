r"""Between the user's units and the network's, in both directions.

The network gives sums over atoms of a residual in units of the scale,

.. math:: x = (y - \text{offset}) / \text{scale},

and, for what is given per volume, that of the value times the volume. Without a cell there is no
volume, hence no stress: such values are NaN, whatever a label says.
"""

from __future__ import annotations

import numpy as np

from ._attached import expand_scale, flatten_offset


def find_volumes(structures):
    """Return the volumes of the cells, NaN where there is none: array (n_structures,)."""
    return np.where(structures.volumes > 0, structures.volumes, np.nan)


def subtract_offset(structures, targets, name):
    """Return the labels of a target less their offset, as rows: NaN where there is no label.

    Not for derivatives of the energy, which have functions of their own.
    """
    return targets.flatten(name) - flatten_offset(structures, name, targets.kinds[name])


def subtract_forces(structures, targets):
    """Return the forces less their offset, NaN where there is no label: array (n_atoms, 3)."""
    forces = np.concatenate(targets["forces"])
    if "forces" in structures.offset:
        forces = forces - np.concatenate(structures.offset["forces"])
    return forces


def subtract_strain_gradient(structures, targets):
    r"""Return :math:`\partial E / \partial \epsilon` less its offset, from stress or virial.

    That is the stress times the volume, array (n_structures, 3, 3); NaN where there is no label, or
    no cell of finite volume.
    """
    volumes = find_volumes(structures)[:, None, None]
    if "stress" in targets:
        gradient = targets["stress"] * volumes
    else:
        gradient = np.where(volumes > 0, -targets["virial"], np.nan)
    return gradient + structures.offset.get("virial", 0.0)


def to_network_units(structures, targets, name, divisor):
    """Return labels as a loss compares them with the network.

    Parameters
    ----------
    structures : Structures
        With offset and scale.
    targets : Targets
        Labels in the user's units.
    name : str
        One of the targets; "stress" also stands for labels that are virials.
    divisor : array of shape (n_structures,) or ()
        What the loss divides sums over atoms by: the number of atoms, or 1.

    Returns
    -------
    labels : array of shape (n_rows, ...)
        Divided by the divisor; NaN where there is none.
    divisor : array
        What the network's sums are to be divided by, of a shape that broadcasts with them.
    unit : array
        What turns errors of the labels back into the user's units; for the energy per atom.
    """
    if name in _LABELS:
        return _LABELS[name](structures, targets, divisor)
    return _scale_target(structures, targets, name, divisor)


def _scale_energy(structures, targets, divisor):
    scale = structures.scale.get("energy", 1.0)
    residual = targets["energy"] - structures.offset.get("energy", 0.0)
    return residual / scale / divisor, divisor, np.float64(scale)


def _scale_forces(structures, targets, divisor):
    scale = structures.scale.get("energy", 1.0)
    return subtract_forces(structures, targets) / scale, divisor, np.float64(scale)


def _scale_stress(structures, targets, divisor):
    scale = structures.scale.get("energy", 1.0)
    residual = subtract_strain_gradient(structures, targets)
    volumes = np.nan_to_num(find_volumes(structures), nan=1.0)[:, None, None]
    divisor = _as_rows(divisor, 3)
    return residual / scale / divisor, divisor, scale * divisor / volumes


def _scale_target(structures, targets, name, divisor):
    kind = targets.kinds[name]
    residual = subtract_offset(structures, targets, name)
    scale = expand_scale(structures, name, kind)
    if kind.per_atom:
        return residual / scale, divisor, scale
    if kind.intensive:
        # the label is a mean already, so that only the network's sum is divided
        labels = residual / scale
        return labels, structures.n_atoms[:, None], np.broadcast_to(scale, labels.shape)
    divisor = _as_rows(divisor, 2)
    volumes = (find_volumes(structures) if kind.per_volume else np.ones(1))[:, None]
    unit = scale * divisor / np.nan_to_num(volumes, nan=1.0)
    labels = residual * volumes / scale / divisor
    return labels, divisor, np.broadcast_to(unit, labels.shape)


_LABELS = {"energy": _scale_energy, "forces": _scale_forces, "stress": _scale_stress}


def to_user_units(structures, kinds, values):
    """Return predictions from what the network gives.

    Parameters
    ----------
    structures : Structures
        With offset and scale.
    kinds : dict of str to TargetKind
        Targets of the network.
    values : dict of str to array
        In units of the scale: ``energies`` of shape (n_atoms,), ``forces`` (n_atoms, 3),
        ``strain_gradient`` (n_structures, 3, 3), and every other target (n_atoms, kind.size).

    Returns
    -------
    dict of str to array or list of arrays
        In the user's units, per-atom values as lists: every target; with an energy also
        ``energies``, and with forces ``forces``, ``virial`` and ``stress``.
    """
    results = {}
    for name, kind in kinds.items():
        if name == "energy":
            results |= _finish_energy(structures, values)
        else:
            results[name] = _finish_target(structures, values[name], name, kind)
    return results


def to_user_part(structures, values, n_centers):
    """Return predictions for the first atoms of one structure; see :func:`to_user_units`.

    Parameters
    ----------
    structures : Structures
        One structure with scale, and with the offset of these atoms.
    values : dict of str to array
        ``energies`` of shape (n_centers,), ``forces`` (n_atoms, 3), ``strain_gradient`` (1, 3, 3).
    n_centers : int
        Number of these atoms.

    Returns
    -------
    dict of str to array
        ``energies`` of shape (n_centers,), ``forces`` (n_atoms, 3) and ``virial`` (3, 3); the last
        also without a cell.

    Raises
    ------
    ValueError
        If there is an offset that belongs to the whole structure.
    """
    scale, offset = structures.scale.get("energy", 1.0), structures.offset
    energies = offset["energies"][0] if "energies" in offset else np.zeros(structures.n_atoms)
    if not np.isclose(offset.get("energy", 0.0), energies.sum(), rtol=1e-9, atol=1e-9).all():
        raise ValueError(
            "X carries an offset of the energy of the whole structure, of which no part belongs to "
            "some of its atoms. Attach an offset of 'energies', too, one value for each atom."
        )
    forces, gradient = scale * values["forces"], scale * values["strain_gradient"][0]
    return {
        "energies": scale * values["energies"] + energies[:n_centers],
        "forces": forces + offset["forces"][0] if "forces" in offset else forces,
        "virial": offset["virial"][0] - gradient if "virial" in offset else -gradient,
    }


def to_user_stds(structures, kinds, stds):
    """Return standard deviations in the user's units from those in units of the scale.

    Parameters
    ----------
    structures, kinds
        See :func:`to_user_units`.
    stds : dict of str to array
        ``energy`` of shape (n_structures,), ``energies`` (n_atoms,), ``forces`` (n_atoms, 3),
        ``strain_gradient`` (n_structures, 3, 3), and other targets (n_structures, kind.size) or, if
        the kind is per atom, (n_atoms, kind.size).

    Returns
    -------
    dict of str to array or list of arrays
        By the names of outputs, per-atom values as lists.
    """
    results = {}
    for name, std in stds.items():
        if name in ("energy", "energies", "forces", "strain_gradient"):
            std = structures.scale.get("energy", 1.0) * std
        if name == "strain_gradient":
            volumes = find_volumes(structures)[:, None, None]
            results["virial"] = np.where(volumes > 0, std, np.nan)
            results["stress"] = std / volumes
        elif name == "energy":
            results[name] = std
        elif name in ("energies", "forces"):
            results[name] = split_atoms(std, structures)
        else:
            results[name] = _scale_stds(structures, std, name, kinds[name])
    return results


def _scale_stds(structures, std, name, kind):
    std = expand_scale(structures, name, kind) * std
    if kind.per_atom:
        return split_atoms(std.reshape(-1, *kind.shape), structures)
    return _divide(std, structures, kind).reshape(-1, *kind.shape)


def _divide(values, structures, kind):
    """Divide sums over the atoms of structures by what their kind is given per."""
    if kind.intensive:
        return values / structures.n_atoms[:, None]
    return values / find_volumes(structures)[:, None] if kind.per_volume else values


def _finish_energy(structures, values):
    """Scale the energy and its derivatives, and add the offsets."""
    scale = structures.scale.get("energy", 1.0)
    offset = structures.offset
    energies = scale * values["energies"]
    energy = _sum_atoms(energies, structures) + offset.get("energy", 0.0)
    if "energies" in offset:
        energies = energies + np.concatenate(offset["energies"])
    # an offset of the structure alone is shared out equally
    rest = (energy - _sum_atoms(energies, structures)) / structures.n_atoms
    energies = energies + np.repeat(rest, structures.n_atoms)
    results = {"energy": energy, "energies": split_atoms(energies, structures)}
    if "forces" in values:
        forces = scale * values["forces"]
        if "forces" in offset:
            forces = forces + np.concatenate(offset["forces"])
        volumes = find_volumes(structures)[:, None, None]
        virial = offset.get("virial", 0.0) - scale * values["strain_gradient"]
        results["forces"] = split_atoms(forces, structures)
        results["virial"] = np.where(volumes > 0, virial, np.nan)
        results["stress"] = -virial / volumes
    return results


def _finish_target(structures, values, name, kind):
    """Sum or average what the atoms give, scale it, and add the offset."""
    scale = expand_scale(structures, name, kind)
    offset = flatten_offset(structures, name, kind)
    if kind.per_atom:
        values = (scale * values + offset).reshape(-1, *kind.shape)
        return split_atoms(values, structures)
    values = _divide(scale * _sum_atoms(values, structures), structures, kind)
    return (values + offset).reshape(-1, *kind.shape)


def _sum_atoms(values, structures):
    """Sum rows of atoms over each structure."""
    return np.add.reduceat(values, np.cumsum(structures.n_atoms) - structures.n_atoms)


def split_atoms(values, structures):
    """Cut rows of atoms into a list, one array for each structure."""
    return np.split(values, np.cumsum(structures.n_atoms)[:-1])


def _as_rows(divisor, ndim):
    """Give an array trailing axes; a number stays one."""
    return divisor if divisor.ndim == 0 else divisor.reshape(-1, *[1] * (ndim - 1))
