"""Targets: named labels, per structure or per atom."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ._array_functions import apply_function, check_alike
from ._checks import as_position, as_real, freeze, iterate_atoms
from ._kinds import TargetKind
from ._known_kinds import KNOWN_KINDS, LEARNT_DERIVATIVES, find_kind
from ._labels import attach_labels, format_shape, read_label, warn_of_key
from ._spelling import suggest
from ._symmetry import check_symmetric
from ._types import Frames, Values

if TYPE_CHECKING:
    from ._structures import Structures


class Targets:
    """Named labels of structures, which scikit-learn's cross-validation can slice.

    Each column holds one value per structure (``energy``, ``dipole``) or per atom (``forces``,
    ``charges``), of the shape given by its kind. NaN means *not labelled*, for whole values or for
    single components; such entries are ignored in losses and errors.

    Indexing by a column name returns the column: an array, or for per-atom targets a list of
    arrays. Any other index (slice, array of indices, mask) selects structures in all columns, and a
    single integer returns a dict of the values of one structure. :meth:`concatenate` and
    ``np.concatenate`` join all columns.

    ``np.asarray(targets)``, which scikit-learn's scorers use, is the energy; without a column
    ``energy``, it is the first column with one number per structure; otherwise the only
    per-structure column, with its components in one flat axis.

    Parameters
    ----------
    kinds : mapping of str to TargetKind, default=None
        Kinds of the columns whose names are not listed below, or another kind or unit for a listed
        one. For ``energy``, ``forces``, ``stress``, ``virial`` and ``energies`` only the unit may
        be changed.
    **columns : array-like or list of array-like
        The labels, at least one column. The following names have a predefined kind:

        - ``energy``: (n_structures,), in eV
        - ``forces``: list of (n_atoms, 3) arrays, in eV/Angstrom
        - ``stress``: (n_structures, 3, 3), in eV/Angstrom^3, tensile stress positive as in ASE
        - ``virial``: (n_structures, 3, 3), in eV, minus the stress times the volume
        - ``energies``: list of (n_atoms,) arrays, in eV
        - ``dipole``: (n_structures, 3), in e Angstrom
        - ``polarizability``: (n_structures, 3, 3), symmetric
        - ``charges``: list of (n_atoms,) arrays, in e
        - ``non_conservative_forces``: list of (n_atoms, 3) arrays, in eV/Angstrom
        - ``non_conservative_stress``: (n_structures, 3, 3), in eV/Angstrom^3

        Any other name needs a kind in ``kinds``. Other units may be used if they are consistent.

    Attributes
    ----------
    names : tuple of str
        Names of the columns, in the order in which they were given.
    kinds : dict of str to TargetKind
        Kinds of the columns.
    units : dict of str to str
        Units of the columns, for information only.

    Raises
    ------
    TypeError
        If a kind is not a :class:`TargetKind`.
    ValueError
        If there are no columns, their lengths differ, a name has no kind, a kind changes the
        meaning of a predefined name, values are not numbers, are infinite or have the wrong shape,
        or labels of a symmetric tensor are far from symmetric.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_soapbpnn import TargetKind, Targets
    >>> y = Targets(energy=[-1.0, -2.0], forces=[np.zeros((3, 3)), np.zeros((5, 3))])
    >>> y
    Targets(2 structures: energy, forces)
    >>> np.asarray(y[[1]])
    array([-2.])
    >>> y["forces"][1].shape
    (5, 3)
    >>> kinds = {"gap": TargetKind.scalar(intensive=True, unit="eV")}
    >>> y = Targets(kinds=kinds, gap=[1.5, 0.3])
    >>> y.units
    {'gap': 'eV'}
    """

    def __init__(self, *, kinds: Mapping[str, TargetKind] | None = None, **columns: Values) -> None:
        if not columns:
            raise ValueError("Targets needs at least one column, e.g. Targets(energy=energies).")
        self.kinds = {name: find_kind(name, kinds or {}) for name in columns}
        self._columns = {
            name: _check_column(name, values, self.kinds[name]) for name, values in columns.items()
        }
        for name, values in self._columns.items():
            check_symmetric(name, values, self.kinds[name])
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"The columns of Targets differ in length: {lengths}.")

    @classmethod
    def from_atoms(
        cls,
        frames: Sequence[Atoms],
        *,
        kinds: Mapping[str, TargetKind] | None = None,
        missing: str = "raise",
        **keys: str,
    ) -> Targets:
        """Read labels from calculator results, ``info`` and ``arrays``, searched in this order.

        Labels that a file format has flattened, or has stored in Voigt order (xx, yy, zz, yz, xz,
        xy; symmetric 3x3 tensors only), are converted to the shape of their kind. Key-value pairs
        and data of an ASE database are found in ``info`` if the structures were read by
        :func:`open_frames` or ``get_atoms(add_additional_information=True)``; ``ase.io.read``
        discards them.

        Parameters
        ----------
        frames : sequence of ase.Atoms
            Structures with labels, e.g. from :func:`ase.io.read`.
        kinds : mapping of str to TargetKind, default=None
            Kinds of the columns; see :class:`Targets`.
        missing : {"raise", "nan"}, default="raise"
            What to do if a structure lacks a key: raise an error, or mark it as not labelled.
        **keys : str
            For each column, the key to read it from, e.g. ``energy="energy"``.

        Returns
        -------
        Targets

        Raises
        ------
        KeyError
            If a structure lacks a key and ``missing="raise"``; the message lists the keys that it
            has.
        TypeError
            If ``frames`` is not a sequence of :class:`ase.Atoms`, or a kind is not a
            :class:`TargetKind`.
        ValueError
            If a label has the wrong shape or is not a number, a calculator holds results of another
            geometry, ``missing`` is invalid, or for the reasons listed for :class:`Targets`.

        Warns
        -----
        UserWarning
            If no structure has a key, but a similar one, with ``missing="nan"``.

        Examples
        --------
        >>> from ase import Atoms
        >>> from sklearn_soapbpnn import Targets
        >>> Targets.from_atoms([Atoms("H", info={"e": -1.0})], energy="e")["energy"]
        array([-1.])
        """
        if missing not in ("raise", "nan"):
            raise ValueError(f"missing must be 'raise' or 'nan', got {missing!r}.")
        found = {name: find_kind(name, kinds or {}) for name in keys}
        columns: dict[str, Any] = {name: [] for name in keys}
        # structures may be read from a file, so iterate over them only once
        for index, atoms in enumerate(iterate_atoms(frames)):
            for name, key in keys.items():
                label = read_label(index, atoms, name, key, found[name], missing)
                columns[name].append(label)
        for name, labels in columns.items():
            if missing == "nan" and all(np.isnan(label).all() for label in labels):
                warn_of_key(atoms, name, keys[name])
        return cls(kinds=kinds, **columns)

    @classmethod
    def concatenate(cls, parts: Sequence[Targets]) -> Targets:
        """Join several Targets into one, along the structures.

        Parameters
        ----------
        parts : sequence of Targets
            At least one. All must have the same columns, with the same kinds and units.

        Returns
        -------
        Targets
            The columns are in the order of the first part.

        Raises
        ------
        TypeError
            If a part is not :class:`Targets`.
        ValueError
            If there are no parts, or their columns, kinds or units differ.

        Examples
        --------
        >>> from sklearn_soapbpnn import Targets
        >>> Targets.concatenate([Targets(energy=[-1.0]), Targets(energy=[-2.0])])["energy"]
        array([-1., -2.])
        """
        parts = check_alike(parts, Targets)
        columns: dict[str, Any] = {}
        for name, kind in parts[0].kinds.items():
            values = [part._columns[name] for part in parts]
            columns[name] = [*chain(*values)] if kind.per_atom else np.concatenate(values)
        return cls._trusted(columns, parts[0].kinds)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    def keys(self) -> KeysView[str]:
        """Return the names of the columns, as a dict does, so that ``dict(y)`` is one.

        Returns
        -------
        KeysView of str

        Examples
        --------
        >>> from sklearn_soapbpnn import Targets
        >>> list(Targets(energy=[-1.0], dipole=[[0.0, 0.0, 0.4]]).keys())
        ['energy', 'dipole']
        """
        return self._columns.keys()

    @property
    def units(self) -> dict[str, str]:
        """Units of the columns, as a dict; empty strings for kinds without a unit."""
        return {name: kind.unit for name, kind in self.kinds.items()}

    @property
    def shape(self) -> tuple[int]:
        """Shape along the structures: (n_structures,)."""
        return (len(self),)

    def labelled(self, name: str) -> np.ndarray | list[np.ndarray]:
        """Return which entries of a column have a label.

        Parameters
        ----------
        name : str
            Name of the column.

        Returns
        -------
        array of bool, or list of arrays of bool if the column is per atom
            False where the label is NaN, in the shape of the column.

        Raises
        ------
        KeyError
            If there is no such column.

        Examples
        --------
        >>> from sklearn_soapbpnn import Targets
        >>> Targets(energy=[-1.0, float("nan")]).labelled("energy")
        array([ True, False])
        """
        column = self[name]
        if self.kinds[name].per_atom:
            return [~np.isnan(values) for values in column]
        return ~np.isnan(column)

    def flatten(self, name: str) -> np.ndarray:
        """Return a column as a 2-D array.

        Parameters
        ----------
        name : str
            Name of the column.

        Returns
        -------
        array of shape (n_structures, size), or (n_atoms, size) if the column is per atom
            One row per structure, or per atom of all structures, with the ``size`` components of
            each value in one flat axis.

        Raises
        ------
        KeyError
            If there is no such column.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_soapbpnn import Targets
        >>> Targets(forces=[np.zeros((3, 3)), np.zeros((5, 3))]).flatten("forces").shape
        (8, 3)
        """
        column = self[name]
        if self.kinds[name].per_atom:
            column = np.concatenate(column)
        return column.reshape(len(column), self.kinds[name].size)

    def to_atoms(self, X: Frames) -> list[Atoms]:
        """Return copies of structures with these labels, e.g. predictions, for ``ase.io.write``.

        What ASE's calculators compute, such as energy and forces, are results of a
        SinglePointCalculator; other labels are entries of ``info``, or of ``arrays`` if they are
        per atom, under the name of the column. :meth:`from_atoms` reads all of them, also from an
        extended XYZ file; ASE's trajectories leave out ``arrays``. Labels that are missing
        altogether are left out.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            The structures that the labels belong to. Labels of the same names that they hold are
            replaced; results of their calculators are not copied.

        Returns
        -------
        list of ase.Atoms

        Raises
        ------
        TypeError
            If X is not a sequence of :class:`ase.Atoms`.
        ValueError
            If the numbers of structures or atoms differ.

        Examples
        --------
        >>> from ase.build import molecule
        >>> from sklearn_soapbpnn import Targets
        >>> (atoms,) = Targets(energy=[-1.0]).to_atoms([molecule("H2O")])
        >>> atoms.get_potential_energy()
        -1.0
        """
        frames = list(iterate_atoms(X))
        if len(frames) != len(self):
            raise ValueError(f"X has {len(frames)} structures, but there are {len(self)} labels.")
        for name in self.names:
            _check_rows(self, name, range(len(self)), [len(atoms) for atoms in frames])
        return [attach_labels(atoms, self[i], self.kinds) for i, atoms in enumerate(frames)]

    def select(self, names: Iterable[str]) -> Targets:
        """Return Targets with some of the columns.

        Parameters
        ----------
        names : sequence of str
            Names of the columns to keep, in this order.

        Returns
        -------
        Targets

        Raises
        ------
        KeyError
            If there is no such column.

        Examples
        --------
        >>> from sklearn_soapbpnn import Targets
        >>> Targets(energy=[-1.0], dipole=[[0.0, 0.0, 0.4]]).select(["dipole"])
        Targets(1 structures: dipole)
        """
        columns = {name: self[name] for name in names}
        return self._trusted(columns, {name: self.kinds[name] for name in names})

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __contains__(self, name):
        return name in self._columns

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self._columns:
                hint = suggest(key, self.names)
                raise KeyError(f"Targets has no column {key!r}; it has {list(self.names)}.{hint}")
            column = self._columns[key]
            return list(column) if self.kinds[key].per_atom else column
        key = as_position(key, len(self))
        if isinstance(key, int):
            return {name: column[key] for name, column in self._columns.items()}
        columns = {
            name: [column[i] for i in key] if self.kinds[name].per_atom else column[key]
            for name, column in self._columns.items()
        }
        return self._trusted(columns, self.kinds)

    @property
    def array_name(self) -> str | None:
        """Name of the column that ``np.asarray(targets)`` returns; None if there is none."""
        if "energy" in self.kinds:
            return "energy"  # as predict does
        per_structure = [name for name, kind in self.kinds.items() if not kind.per_atom]
        scalars = [name for name in per_structure if self.kinds[name].shape == ()]
        return next(iter(scalars or per_structure[: len(per_structure) == 1]), None)

    def __array__(self, dtype=None, copy=None):
        name = self.array_name
        if name is None:
            raise ValueError(
                f"Targets with the columns {list(self.names)} has no scalar column and not exactly "
                "one per-structure column, so it is not an array. Score a single target with "
                "metrics.make_target_scorer."
            )
        column = self._columns[name]
        if self.kinds[name].shape != ():
            column = self.flatten(name)
        return np.array(column, dtype=dtype, copy=copy)

    def __array_function__(self, function, types, args, kwargs):
        return apply_function(function, self, args, kwargs)

    def __add__(self, other):
        if isinstance(other, Targets):
            raise TypeError(
                "Targets are not joined or added by +. Join them with Targets.concatenate([a, b]); "
                "add their values with np.asarray(a) + np.asarray(b)."
            )
        return NotImplemented

    def __repr__(self):
        return f"Targets({len(self)} structures: {', '.join(self.names)})"

    @classmethod
    def _trusted(cls, columns, kinds):
        """Build Targets from columns that have already been checked."""
        targets = cls.__new__(cls)
        targets.kinds = dict(kinds)
        targets._columns = columns
        return targets


def as_targets(y: Any, structures: Structures, name: str = "y", X_name: str = "X") -> Targets:
    """Return ``y`` as :class:`Targets` that match ``structures``.

    If there are forces, stress or virial but no energies, an unlabelled energy column is added.

    Parameters
    ----------
    y : array of shape (n_structures,), or Targets
        Labels; an array is taken as energies.
    structures : Structures
        The structures that the labels belong to.
    name, X_name : str
        Names of the labels and structures in error messages.

    Returns
    -------
    Targets

    Raises
    ------
    ValueError
        If y is None, the lengths differ, a per-atom column does not match the numbers of atoms, or
        an array of energies is not 1-D or contains NaN or infinity.
    """
    if y is None:
        raise ValueError(f"{name} is missing: pass an array of energies or Targets.")
    if not isinstance(y, Targets):
        y = Targets(energy=_check_energies(y, name))
    if len(y) != len(structures):
        raise ValueError(
            f"{X_name} has {len(structures)} structures, but {name} has {len(y)} labels."
        )
    for column in y.names:
        _check_rows(y, column, structures.indices, structures.n_atoms)
    if "energy" not in y and {*LEARNT_DERIVATIVES} & {*y.names}:
        unknown = {"energy": np.full(len(y), np.nan)}
        kinds = {"energy": KNOWN_KINDS["energy"], **y.kinds}
        y = Targets._trusted({**unknown, **y._columns}, kinds)
    return y


def list_labelled(y: Targets) -> list[str]:
    """Return the names of the columns with at least one label."""
    return [name for name in y.names if np.any(np.concatenate(y.labelled(name), axis=None))]


def check_labelled(y: Targets, name: str = "y") -> None:
    """Raise if a target has no label at all, so that nothing can be fitted to it.

    The energy needs none if there are labels of its derivatives. ``name`` is the name of the labels
    in error messages.
    """
    labelled = list_labelled(y)
    for column in y.names:
        is_optional = column == "energy" and {*LEARNT_DERIVATIVES} & {*labelled}
        if column not in labelled and not is_optional:
            raise ValueError(
                f"Target {column!r} has no label at all (every value is NaN). Leave it out of "
                f"{name}."
            )


def _check_energies(y, name):
    if isinstance(y, Mapping):
        raise ValueError(
            f"{name} must be one energy for each structure, or Targets, got a "
            f"{type(y).__name__}. Pass Targets(**{name}), whose columns are lists or arrays."
        )
    try:
        energy = as_real(y).astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as err:
        raise ValueError(
            f"{name} must be one energy for each structure, or Targets; it is not an array of "
            f"numbers: {err}."
        ) from err
    if energy.ndim != 1:
        raise ValueError(
            f"{name} must be one energy for each structure, got an array of shape {energy.shape}. "
            f"Pass np.ravel({name}) for a single column, or Targets for anything else."
        )
    if not np.isfinite(energy).all():
        index = np.flatnonzero(~np.isfinite(energy))[0]
        value = "NaN" if np.isnan(energy[index]) else energy[index]
        raise ValueError(
            f"{name}[{index}] is {value}. Remove the structure, or pass "
            f"Targets(energy={name}), where NaN means not labelled."
        )
    return energy


def _check_rows(y, name, indices, n_atoms):
    if not y.kinds[name].per_atom:
        return
    for index, values, n in zip(indices, y[name], n_atoms):
        if len(values) != n:
            raise ValueError(
                f"Target {name!r} of structure {index} has {len(values)} rows, but the structure "
                f"has {n} atoms."
            )


def _check_column(name, values, kind):
    if not kind.per_atom:
        return _check_values(name, values, (None, *kind.shape))
    if not np.iterable(values):
        raise ValueError(
            f"Target {name} must be a list of arrays, one for each structure, got {values!r}."
        )
    return [
        _check_values(f"{name}[{i}]", entry, (None, *kind.shape)) for i, entry in enumerate(values)
    ]


def _check_values(name, values, shape):
    try:
        values = freeze(values, np.float64)
    except (TypeError, ValueError, RuntimeError) as err:
        raise ValueError(f"Target {name} is not an array of numbers: {err}.") from err
    expected = ("n", *shape[1:])
    if values.ndim != len(shape) or values.shape[1:] != shape[1:]:
        is_voigt = shape[1:] == (3, 3) and values.shape[1:] == (6,)
        way_out = " Convert each from Voigt order: ase.stress.voigt_6_to_full_3x3_stress."
        raise ValueError(
            f"Target {name} must have shape {format_shape(expected)}, got "
            f"{format_shape(values.shape)}.{way_out if is_voigt else ''}"
        )
    if np.isinf(values).any():
        index = int(np.argwhere(np.isinf(values))[0][0])
        raise ValueError(
            f"Target {name} contains infinity at index {index}. Use NaN for missing labels."
        )
    return values
