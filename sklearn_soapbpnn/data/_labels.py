"""Labels that files and calculators attach to Atoms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from ._checks import as_real
from ._spelling import sort_by_similarity, suggest

# entries of arrays that are no labels
GEOMETRY = ("numbers", "positions")


def attach_labels(atoms, labels, kinds):
    """Return a copy of a structure with labels, from which :func:`read_label` reads them again.

    Labels without any known component are left out.
    """
    atoms = atoms.copy()
    results = {}
    for name, value in labels.items():
        # not twice, in case the structure comes with labels of this name
        atoms.info.pop(name, None)
        if name not in GEOMETRY:
            atoms.arrays.pop(name, None)
        if np.isnan(value).all():
            continue
        if kinds[name].per_atom and value.ndim > 2:
            value = value.reshape(len(value), -1)  # files have rows of numbers, not of matrices
        # labels are read-only, those of atoms are not
        value = value.copy() if np.ndim(value) else float(value)
        if name in all_properties:
            results[name] = full_3x3_to_voigt_6_stress(value) if name == "stress" else value
        elif name in GEOMETRY:
            raise ValueError(f"Atoms store their {name} in arrays, so no label can be there.")
        elif kinds[name].per_atom:
            atoms.arrays[name] = value
        else:
            atoms.info[name] = value
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def read_label(index, atoms, name, key, kind, missing):
    """Return the label of a structure, or NaN if it has none and ``missing`` is "nan"."""
    results = {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    if key in results and _is_stale(atoms):
        raise ValueError(
            f"The calculator of structure {index} holds the results of another geometry. Give each "
            "structure its own SinglePointCalculator, or store labels in info and arrays."
        )
    for source in (results, atoms.info, *_list_row_values(atoms.info), atoms.arrays):
        if source.get(key) is not None:
            return _reshape_label(index, source[key], len(atoms), name, key, kind)
    if missing == "nan":
        return np.full((len(atoms),) * kind.per_atom + kind.shape, np.nan)
    info = [entry for source in (atoms.info, *_list_row_values(atoms.info)) for entry in source]
    lost = " For key-value pairs of an ASE database, which ase.io.read leaves out, use open_frames."
    there = (results, info, atoms.arrays)
    results, info, arrays = (sort_by_similarity(key, keys) for keys in there)
    raise KeyError(
        f"Structure {index} has no label {key!r} for target {name!r}."
        f"{suggest(key, [*results, *info, *arrays])} Its results hold {results}, its info {info}, "
        f"its arrays {arrays}. Pass missing='nan' if some structures are not labelled."
        f"{'' if info else lost}"
    )


def warn_of_key(atoms, name, key):
    """Warn that no structure has a key, if the last of them has a similar one."""
    results = {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    there = (results, atoms.info, *_list_row_values(atoms.info), atoms.arrays)
    hint = suggest(key, [entry for source in there for entry in source])
    if hint:
        message = f"No structure has a label {key!r}, so target {name!r} is not labelled at all."
        warnings.warn(message + hint, UserWarning, stacklevel=3)


def _list_row_values(info):
    """Return the mappings that ASE stores in info with add_additional_information=True."""
    found = [info.get(name) for name in ("data", "key_value_pairs")]
    return [values for values in found if isinstance(values, Mapping)]


def _is_stale(atoms):
    """Return whether the calculator was last used for another geometry, e.g. if it is shared."""
    if not hasattr(atoms.calc, "check_state"):
        return False
    changes = atoms.calc.check_state(atoms)
    return bool({"positions", "numbers", "cell", "pbc"} & set(changes))


def _reshape_label(index, values, n_atoms, name, key, kind):
    """Convert labels that a file format has flattened or stored in Voigt order."""
    try:
        values = as_real(values).astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as err:
        raise ValueError(
            f"{key!r} of structure {index} is not an array of numbers, as needed for target "
            f"{name!r}: {err}."
        ) from err
    rows = (n_atoms,) * kind.per_atom
    if kind.is_symmetric and kind.shape == (3, 3) and values.shape == (*rows, 6):
        values = voigt_6_to_full_3x3_stress(values)
    shape = rows + kind.shape
    # any other shape of the same size is refused, since it may be transposed
    flat = [(n_atoms * kind.size,), (*rows, kind.size)] if kind.per_atom else [(kind.size,)]
    squeezed = [n for n in values.shape if n > 1] == [n for n in shape if n > 1]
    if values.shape in flat or (squeezed and values.size == np.prod(shape, dtype=int)):
        values = values.reshape(shape)
    if values.shape != shape:
        expected = ("n_atoms",) * kind.per_atom + kind.shape
        raise ValueError(
            f"{key!r} of structure {index} has shape {format_shape(values.shape)}, but target "
            f"{name!r} needs {format_shape(expected)}"
            f"{f', n_atoms={n_atoms}' if kind.per_atom else ''}."
        )
    return values


def format_shape(shape):
    """Format a shape for error messages; its entries may be names."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
