"""The arguments ``fixed_weights``: weights of elements, and scales, instead of fitted ones."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from ase.data import atomic_numbers

from ..data import DERIVED_TARGETS, suggest
from ._base import has_baseline


def check_fixed_weights(weights, name="fixed_weights", kinds=None):
    """Return fixed weights as ``{target: {Z: number} or number}``.

    Parameters
    ----------
    weights : mapping or None
        Weights as given by the user. Elements without a target belong to the energy.
    name : str
        Name of the argument in error messages.
    kinds : dict of str to TargetKind, default=None
        Kinds of the columns of y. If given, each target must be one of the columns and have a
        baseline.
    """
    checked = _parse_weights(weights, name)
    if kinds is None:
        return checked
    known = [
        target
        for target, kind in kinds.items()
        if target not in DERIVED_TARGETS and has_baseline(kind)
    ]
    for target in checked:
        if target not in known:
            raise ValueError(
                f"{name} names {target!r}, which is neither a chemical element nor a target of y "
                f"with a composition baseline; these are {known}. Elements without a target belong "
                f"to 'energy'.{suggest(target, known)}"
            )
    return checked


def _parse_weights(weights, name):
    weights = weights or {}
    elements = [
        key
        for key, value in weights.items()
        if not isinstance(key, str) or (key in atomic_numbers and not isinstance(value, Mapping))
    ]
    if elements and len(elements) < len(weights):
        others = [key for key in weights if key not in elements]
        raise ValueError(
            f"{name} mixes the elements {elements} with {others}, which are not chemical elements. "
            "Pass {element: number}, or {target: {element: number}}."
        )
    if elements:
        return {"energy": _parse_elements(weights, name, _check_weight)}
    checked = {}
    for target, value in weights.items():
        entry = f"{name}[{target!r}]"
        if isinstance(value, Mapping):
            checked[target] = _parse_elements(value, entry, _check_weight)
        else:
            checked[target] = _check_weight(value, entry)
    return checked


def _check_weight(weight, name):
    if not isinstance(weight, Real) or not np.isfinite(weight):
        raise ValueError(f"{name} must be a finite number, got {weight!r}.")
    return float(weight)


def check_scales(scales, name="fixed_weights", kinds=None):
    """Return fixed scales as ``{target: number, array or {Z: number}}``; raise if one is invalid.

    Parameters
    ----------
    scales : mapping or None
        Scales as given by the user; they must be positive.
    name : str
        Name of the argument in error messages.
    kinds : dict of str to TargetKind, default=None
        Kinds of the columns of y. If given, each target must be one of the columns and its scales
        must match its kind.
    """
    checked = _parse_scales(scales, name)
    if kinds is None:
        return checked
    known = [target for target in kinds if target not in DERIVED_TARGETS]
    for target, scale in checked.items():
        if target not in known:
            hint = suggest(target, known)
            raise ValueError(f"{name} names {target!r}; the scaled targets are {known}.{hint}")
        _check_layout(scale, kinds[target], f"{name}[{target!r}]")
    return checked


def _parse_scales(scales, name):
    checked = {}
    for target, scale in (scales or {}).items():
        entry = f"{name}[{target!r}]"
        if isinstance(scale, Mapping):
            checked[target] = _parse_elements(scale, entry, _check_scale)
        elif isinstance(scale, (list, tuple, np.ndarray)) and np.ndim(scale) == 1:
            checked[target] = np.array(
                [_check_scale(value, f"{entry}[{k}]") for k, value in enumerate(scale)]
            )
        else:
            checked[target] = _check_scale(scale, entry)
    return checked


def _check_scale(scale, name):
    if not isinstance(scale, Real) or not 0 < scale < np.inf:
        raise ValueError(f"{name} must be a positive number, got {scale!r}.")
    return float(scale)


def _check_layout(scale, kind, name):
    """Raise if a fixed scale does not match the kind of its target."""
    if isinstance(scale, Mapping) and not kind.per_atom:
        raise ValueError(
            f"{name} gives scales of elements, but the target has one value per structure. Pass a "
            "number."
        )
    if isinstance(scale, np.ndarray) and len(scale) != kind.n_scales:
        raise ValueError(
            f"{name} has {len(scale)} numbers, but the target has {kind.n_scales} scales. Pass one "
            "number per scale, or a single number for all."
        )


def _parse_elements(values, name, check):
    """Return checked values by atomic number, from values by symbol or atomic number."""
    return {
        _as_atomic_number(element, name): check(value, f"{name}[{element!r}]")
        for element, value in values.items()
    }


def _as_atomic_number(element, name):
    """Return the atomic number of an element; ``name`` is its argument in error messages."""
    number = atomic_numbers.get(element, element)
    if not isinstance(number, Integral) or number not in atomic_numbers.values():
        raise ValueError(f"{name} names {element!r}, which is not a chemical element.")
    return int(number)
