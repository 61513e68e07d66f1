"""Offsets and scales that earlier steps of a Pipeline attach to structures."""

from __future__ import annotations

import numpy as np

from ._checks import N_NUMBERS, freeze


def expand_scale(structures, name, kind):
    """Return the scale of every component of a target; ones if the structures carry no scale.

    Parameters
    ----------
    structures : Structures
        Structures.
    name : str
        Name of the target.
    kind : TargetKind
        Kind of the target.

    Returns
    -------
    array of shape (kind.size,), or (n_atoms, kind.size) if the kind is per atom
        In float64; broadcasts with the flattened values.

    Raises
    ------
    ValueError
        If the shape of the scale does not match the kind.
    """
    scale = np.asarray(structures.scale.get(name, 1.0), dtype=np.float64)
    if scale.ndim > 1 + kind.per_atom or (scale.ndim and scale.shape[-1] != kind.n_scales):
        raise ValueError(
            f"The scale of {name!r} that the structures carry has shape {scale.shape}, which does "
            f"not fit {kind!r} with {kind.n_scales} scales. Predict through the Pipeline that the "
            "model was fitted in."
        )
    if not kind.per_atom:
        return np.broadcast_to(scale, kind.n_scales)[kind.scale_index]
    numbers = np.concatenate(structures.numbers)
    rows = scale[numbers] if scale.ndim == 2 else scale
    return np.broadcast_to(rows, (len(numbers), kind.n_scales))[:, kind.scale_index]


def flatten_offset(structures, name, kind):
    """Return the offset of a target as a 2-D array; zeros if the structures carry no offset.

    Parameters
    ----------
    structures : Structures
        Structures.
    name : str
        Name of the target.
    kind : TargetKind
        Kind of the target.

    Returns
    -------
    array of shape (n_structures, kind.size), or (n_atoms, kind.size) if the kind is per atom
        In float64.

    Raises
    ------
    ValueError
        If the shape of the offset does not match the kind.
    """
    n_rows = structures.n_atoms.sum() if kind.per_atom else len(structures)
    offset = structures.offset.get(name)
    if offset is None:
        return np.zeros((n_rows, kind.size))
    found = find_value_shape(offset)
    if found != (kind.per_atom, kind.shape):
        raise ValueError(
            f"The offset of {name!r} that the structures carry holds {describe_shape(found)}, "
            f"which does not fit {kind!r}. Predict through the Pipeline that the model was fitted "
            "in."
        )
    values = np.concatenate(offset) if kind.per_atom else offset
    return values.reshape(n_rows, kind.size)


def freeze_offset(values):
    """Freeze an offset: an array if it is per structure, a tuple of arrays if it is per atom."""
    if isinstance(values, (list, tuple)) and all(
        isinstance(entry, np.ndarray) and entry.ndim for entry in values
    ):
        return tuple(freeze(entry, np.float64) for entry in values)
    return freeze(values, np.float64)


def freeze_scale(name, scale):
    if np.ndim(scale) == 0:
        scale = float(scale)
    else:
        scale = freeze(scale, np.float64)
        if scale.ndim > 2 or (scale.ndim == 2 and len(scale) != N_NUMBERS):
            raise ValueError(
                f"The scale of {name!r} must be a number, an array (n_scales,), or a table "
                f"({N_NUMBERS}, n_scales) indexed by atomic number, got shape {scale.shape}."
            )
    if not np.all((np.asarray(scale) > 0) & np.isfinite(scale)):
        raise ValueError(f"The scale of {name!r} must be positive and finite, got {scale!r}.")
    return scale


def find_value_shape(offset):
    """Return whether an offset is per atom, and the shape of one value."""
    if not isinstance(offset, tuple):
        return False, offset.shape[1:]
    shapes = {values.shape[1:] for values in offset}
    if len(shapes) > 1:
        raise ValueError(
            f"The arrays of an offset must have values of one shape, got {sorted(shapes)}."
        )
    return True, shapes.pop() if shapes else ()


def describe_shape(value_shape):
    per_atom, shape = value_shape
    return f"values of shape {shape} for each {'atom' if per_atom else 'structure'}"
