"""Values in model files: JSON from which exactly the same parameters can be restored."""

import json
import math
from collections.abc import Mapping

import numpy as np

from ...data import TargetKind

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
LARGEST_INT = 2**63 - 1
KIND_ENTRIES = {
    "shape": list,
    "per_atom": bool,
    "blocks": list,
    "cartesian_rank": (int, type(None)),
    "per_volume": bool,
    "intensive": bool,
    "unit": str,
}


def write_json(value):
    """Return JSON text."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def read_json(text):
    """Return the value of JSON text.

    Raises
    ------
    ValueError
        If the text is not JSON, repeats a key, is nested too deeply, or contains a number that is
        not finite or does not fit into 64 bits.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_make_dict,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=_parse_float,
        )
    except RecursionError as err:
        raise ValueError("its JSON is nested too deeply") from err


def encode(value):
    """Return a value in a form that JSON can represent and :func:`decode` restores.

    Tuples are restored as tuples, and numbers as keys of dicts as numbers. NumPy scalars and arrays
    become numbers and lists.

    Raises
    ------
    TypeError
        If the value is or contains an object of another type.
    ValueError
        If it contains an integer beyond 64 bits.
    """
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return _parse_int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, tuple):
        return {"tuple": [encode(entry) for entry in value]}
    if isinstance(value, list):
        return [encode(entry) for entry in value]
    if isinstance(value, Mapping):
        return {"dict": [[encode(key), encode(entry)] for key, entry in value.items()]}
    raise TypeError(f"{value!r} is not a number, text, list, tuple or dict")


def decode(value):
    """Undo :func:`encode`."""
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items() if len(value) == 1 else (("", None),)
    if tag == "float" and content in list(NOT_FINITE):
        return NOT_FINITE[content]
    if tag == "tuple" and isinstance(content, list):
        return tuple(decode(content))
    if tag == "dict" and isinstance(content, list):
        return _make_dict(_check_item(item) for item in content)
    raise ValueError(f"{_shorten(value)} is not an encoded value")


def check_entries(state, types, what):
    """Return a JSON object; raise unless it has exactly these entries, of exactly these types."""
    if not isinstance(state, dict) or set(state) != set(types):
        raise ValueError(f"{what} must have the entries {list(types)}, got {_shorten(state)}")
    for name, allowed in types.items():
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        # not isinstance, which accepts a bool as an int
        if type(state[name]) not in allowed:
            names = " or ".join(kind.__name__ for kind in allowed)
            raise ValueError(f"{name} of {what} must be {names}, got {_shorten(state[name])}")
    return state


def check_list(values, types, what):
    """Return a list; raise unless its entries are different and of exactly these types."""
    if not isinstance(values, list) or any(type(value) not in types for value in values):
        names = " or ".join(kind.__name__ for kind in types)
        raise ValueError(f"{what} must be a list of {names}, got {_shorten(values)}")
    if len(set(values)) < len(values):
        raise ValueError(f"{what} has an entry twice: {_shorten(values)}")
    return values


def encode_kinds(kinds):
    """Return the kinds of targets, by name, as JSON values."""
    return {name: _encode_kind(kind) for name, kind in kinds.items()}


def decode_kinds(state):
    """Undo :func:`encode_kinds`."""
    return {name: _decode_kind(name, entries) for name, entries in state.items()}


def _encode_kind(kind):
    return {
        "shape": list(kind.shape),
        "per_atom": kind.per_atom,
        "blocks": [[block.o3_lambda, block.o3_sigma, block.n_properties] for block in kind.blocks],
        "cartesian_rank": kind.cartesian_rank,
        "per_volume": kind.per_volume,
        "intensive": kind.intensive,
        "unit": kind.unit,
    }


def _decode_kind(name, state):
    """Build a kind through its public constructors, and compare it with the file."""
    what = f"the kind of {name!r}"
    check_entries(state, KIND_ENTRIES, what)
    shape, rank = state["shape"], state["cartesian_rank"]
    for numbers in (shape, *state["blocks"]):
        if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
            raise ValueError(f"{what} must contain integers, got {_shorten(numbers)}")
    options = {name: state[name] for name in ("per_atom", "intensive", "unit")}
    n_axes = {None: 1, 1: 1, 2: 2}.get(rank)
    n_properties = shape[-1] if n_axes is not None and len(shape) > n_axes else None
    if rank == 1:
        kind = TargetKind.vector(n_properties, **options)
    elif rank == 2:
        options |= {"symmetric": len(state["blocks"]) == 2, "per_volume": state["per_volume"]}
        kind = TargetKind.tensor(n_properties, **options)
    elif shape == []:
        kind = TargetKind.scalar(**options)
    elif n_properties is not None:
        kind = TargetKind.spherical(tuple(state["blocks"][0][:2]), n_properties, **options)
    else:
        kind = TargetKind.spherical([tuple(block) for block in state["blocks"]], **options)
    if _encode_kind(kind) != state:
        raise ValueError(f"{what} is invalid: {_shorten(state)}")
    return kind


def _make_dict(items):
    result = {}
    for key, value in items:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result


def _check_item(item):
    if not isinstance(item, list) or len(item) != 2 or type(item[0]) not in (str, int):
        raise ValueError(
            f"{_shorten(item)} is not a pair of a key, a text or an integer, and its value"
        )
    return item[0], decode(item[1])


def _parse_int(text):
    if isinstance(text, str) and len(text) > len(str(LARGEST_INT)) + 1:
        raise ValueError(f"{_shorten(text)} does not fit into 64 bits")
    number = int(text)
    if abs(number) > LARGEST_INT:
        raise ValueError(f"{number} does not fit into 64 bits")
    return number


def _parse_float(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _shorten(value, length=200):
    """Return the repr of a value from a file, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."
