"""Checks of user input, whose errors name the structure, the value and the remedy."""

from mmap import mmap
from os import PathLike

import numpy as np
from ase import Atom, Atoms
from ase.data import chemical_symbols
from ase.db.core import Database

# array types that can be used as they are; others may be masked or have units
PLAIN = (np.ndarray, np.memmap)
# number of rows of a table that is indexed by atomic number
N_NUMBERS = len(chemical_symbols)
# larger coordinates are mistakes: float64 would not resolve interatomic distances there
LARGEST = 1e9


def symbols(numbers):
    """Return the chemical symbols of atomic numbers, for error messages."""
    return [chemical_symbols[int(number)] for number in numbers]


def iterate_atoms(X, name="X"):
    """Yield the :class:`ase.Atoms` of ``X`` one by one, after checking their geometry.

    Only one structure is held at a time, so that X may be a sequence that reads them from a file.

    Parameters
    ----------
    X : sequence of ase.Atoms
        The structures.
    name : str, default="X"
        Name of X in error messages.

    Yields
    ------
    ase.Atoms

    Raises
    ------
    TypeError
        If ``X`` is not a sequence of :class:`ase.Atoms`, for example a single Atoms, a data frame
        or an ASE database.
    ValueError
        If ``X`` is empty, or a structure has no atoms, atomic numbers outside the periodic table,
        NaN, infinite or huge positions or cell vectors, or periodic directions that span no volume,
        or was pickled by an incompatible version of ASE.
    """
    if isinstance(X, Atoms):
        raise TypeError(
            f"{name} must be a sequence of ase.Atoms, got a single Atoms. Pass [atoms], or read "
            "all structures of a file: ase.io.read(path, index=':')."
        )
    if hasattr(X, "columns"):
        raise TypeError(
            f"{name} must be a sequence of ase.Atoms, got a data frame. A transformer with "
            "set_output(transform='pandas') returns pooled features only; use the default output "
            "before a step that needs structures."
        )
    if isinstance(X, Database):
        raise TypeError(
            f"{name} must be a sequence of ase.Atoms, got an ASE database. Open it as a sequence: "
            "sklearn_soapbpnn.open_frames(path)."
        )
    if isinstance(X, str | PathLike):
        raise TypeError(
            f"{name} must be a sequence of ase.Atoms, got the path of a file. Read it: "
            "ase.io.read(path, index=':'), or sklearn_soapbpnn.open_frames(path) if it is large."
        )
    index, entries = -1, _iterate(X, name)
    for index, atoms in enumerate(entries):
        if not isinstance(atoms, Atoms):
            raise TypeError(_describe_other(f"{name}[{index}]", name, atoms))
        try:
            _check_geometry(f"{name}[{index}]", atoms)
        except AttributeError as err:
            raise ValueError(
                f"{name}[{index}] is incomplete ({err}), probably because another version of ASE "
                "pickled it. Read it from its original file, or rebuild it: Atoms(numbers, "
                "positions, cell=cell, pbc=pbc)."
            ) from err
        yield atoms
    if index < 0:
        once = " An iterator can be read only once: pass a list." if entries is X else ""
        raise ValueError(f"{name} holds no structures. Pass at least one ase.Atoms.{once}")


def _describe_other(entry, name, value):
    """Return the error message for an entry that is not Atoms."""
    first = value.flat[0] if isinstance(value, np.ndarray) and value.size else value
    if isinstance(first, Atom):
        return (
            f"{entry} holds single atoms (ase.Atom), not a structure. NumPy and BaggingRegressor "
            "convert structures of the same size to an array of their atoms: pass a list of "
            "ase.Atoms, not an array. For a committee use SoapBPNNRegressor(n_networks=...), or "
            "VotingRegressor."
        )
    return (
        f"{name} must be a sequence of ase.Atoms, but {entry} has the type {type(value).__name__}. "
        "Pass a list of Atoms."
    )


def _iterate(X, name):
    if not hasattr(X, "__iter__") and hasattr(X, "__getitem__") and hasattr(X, "__len__"):
        # a torch Dataset may not raise IndexError at its end
        return (X[index] for index in range(len(X)))
    try:
        return iter(X)
    except TypeError as err:
        raise TypeError(
            f"{name} must be a sequence of ase.Atoms, got {type(X).__name__}. Pass a list of Atoms."
        ) from err


def _check_geometry(name, atoms):
    if len(atoms) == 0:
        raise ValueError(f"{name} has no atoms. Remove it.")
    check_numbers(name, atoms.numbers)
    for what, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name}.{what} contains NaN or infinity: {values[~np.isfinite(values)][0]}. "
                "Remove or repair the structure."
            )
        largest = np.abs(values).max()
        if largest > LARGEST:
            raise ValueError(
                f"{name}.{what} contains {largest:.1e}, more than {LARGEST:.0e}. Remove or repair "
                "the structure."
            )
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) == 0:
        return
    lengths = np.linalg.norm(periodic, axis=1)
    volume = np.sqrt(max(np.linalg.det(periodic @ periodic.T), 0.0))
    if lengths.min() == 0 or volume <= 1e-8 * np.prod(lengths):
        raise ValueError(
            f"{name} is periodic along {atoms.pbc.tolist()}, but its cell spans no volume "
            f"there: {atoms.cell.array.tolist()}. Set a cell, or pbc=False."
        )


def check_numbers(name, numbers):
    """Raise if atomic numbers are outside the periodic table; 0 is the dummy atom X of ASE."""
    outside = (numbers < 0) | (numbers >= N_NUMBERS)
    if outside.any():
        raise ValueError(
            f"{name} contains the atomic numbers {np.unique(numbers[outside]).tolist()}, but the "
            f"allowed range is 0 to {N_NUMBERS - 1}. Give artificial atoms, such as beads, the "
            "number of an element that does not occur, or repair the structure."
        )


def check_elements(
    structures, elements, name="X", what="fit", remedy="Refit with structures that contain them"
):
    """Raise if structures contain an element that is not among ``elements``."""
    unseen = np.setdiff1d(structures.elements, elements)
    if len(unseen) == 0:
        return
    first = next(
        index
        for index, numbers in zip(structures.indices, structures.numbers)
        if np.isin(numbers, unseen).any()
    )
    raise ValueError(
        f"{name} contains elements {symbols(unseen)} absent from {what}, which saw "
        f"{symbols(elements)}. {remedy}, or remove all structures with these elements, such as "
        f"{name}[{first}]."
    )


def find_elements(estimator, structures):
    """Return the elements of a fit: with ``warm_start`` those of the previous fit."""
    if not (estimator.warm_start and hasattr(estimator, "elements_")):
        return structures.elements
    remedy = "Fit with warm_start=False"
    check_elements(structures, estimator.elements_, what="the previous fit", remedy=remedy)
    return estimator.elements_


def freeze(values, dtype):
    """Return a read-only array; an array that is read-only already is not copied.

    Raises
    ------
    TypeError, ValueError
        If the values are not an array of real numbers.
    """
    if not (type(values) in PLAIN and values.dtype == dtype and _is_frozen(values)):
        values = np.array(as_real(values), dtype=dtype)
        values.flags.writeable = False
    return values


def as_real(values):
    """Return numbers as an array; masked entries become NaN, and complex numbers are refused."""
    if isinstance(values, np.ma.MaskedArray):
        values = values.astype(np.float64).filled(np.nan)
    # np.array(values, dtype) would request a copy, which torch tensors do not support
    values = np.asarray(values)
    if values.dtype.kind == "c":
        raise TypeError(f"it is complex, e.g. {values.flat[0]}, where real numbers are expected")
    return values


def _is_frozen(values):
    """Return whether an array and all arrays that it is a view of are read-only."""
    while isinstance(values, np.ndarray):
        if values.flags.writeable:
            return False
        values = values.base
    return values is None or isinstance(values, (bytes, mmap))


def as_position(key, length):
    """Return an index into a sequence of the given length as an int or an array of positions.

    ``(index, Ellipsis)`` is accepted too, because scikit-learn uses ``x[indices, ...]`` for every
    object that has a shape.
    """
    if isinstance(key, tuple):
        if len(key) != 2 or key[1] is not Ellipsis:
            raise IndexError(f"one index is allowed along the structures, got {key!r}")
        key = key[0]
    if isinstance(key, slice):
        return np.arange(length)[key]
    key = np.asarray(key)
    if key.shape == (0,) and key.dtype != bool:
        key = key.astype(int)
    if key.ndim > 1 or (key.ndim == 0 and key.dtype.kind not in "iu"):
        raise IndexError(
            f"structures are indexed by an integer, a slice, an array of integers or a mask, "
            f"got {key!r}"
        )
    if key.ndim == 0:
        if not -length <= key < length:
            raise IndexError(f"index {key} is out of range for {length} structures")
        return int(key)
    if key.dtype == bool and len(key) != length:
        raise IndexError(f"the mask has {len(key)} entries, but there are {length} structures")
    return np.arange(length)[key]
