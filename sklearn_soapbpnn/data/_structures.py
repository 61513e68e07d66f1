"""Structures: the X that is passed between the steps of a Pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ._attached import describe_shape, find_value_shape, freeze_offset, freeze_scale
from ._checks import N_NUMBERS, as_position, check_numbers, freeze, iterate_atoms
from ._types import Frames, Values


class Structures:
    """Immutable sequence of atomic structures with data attached by earlier pipeline steps.

    A Pipeline passes X from step to step and never transforms y. Each step therefore attaches what
    it has learnt about the targets to X: :class:`~sklearn_soapbpnn.CompositionBaseline` attaches an
    offset, :class:`~sklearn_soapbpnn.TargetScaler` a scale, and
    :class:`~sklearn_soapbpnn.SoapFeaturizer` the features. The regressor at the end learns
    ``(y - offset) / scale``.

    An integer index returns an :class:`ase.Atoms`. A slice, an array of indices or a mask returns
    Structures and keeps the attached data, so that
    :func:`~sklearn.model_selection.train_test_split` and cross-validation work.
    ``np.asarray(structures)`` is the pooled power spectrum once features are attached.

    Parameters
    ----------
    numbers : sequence of arrays of shape (n_atoms,)
        Atomic numbers of each structure.
    positions : sequence of arrays of shape (n_atoms, 3)
        Positions, in the unit of the cutoff radius (Angstrom for ASE's data).
    cells : sequence of arrays of shape (3, 3)
        Cell vectors as rows, in the unit of the positions.
    pbc : sequence of arrays of shape (3,)
        Whether each direction is periodic.
    indices : array of shape (n_structures,), default=None
        Positions of the structures in the X that the user passed, for error messages.
    offset : mapping of str to array or tuple of arrays, default=None
        Baseline of each target, in the unit of the target, which is subtracted before training: an
        array of shape (n_structures, ...), or for a per-atom target a tuple of arrays of shape
        (n_atoms, ...).
    scale : mapping of str to float or array, default=None
        Scale of each target, in the unit of the target, by which labels are divided before
        training: one number; an array of shape (n_scales,), see :attr:`TargetKind.scale_index`; or
        for a per-atom target a table of shape (119, n_scales) indexed by atomic number.
    features : SoapFeatures, default=None
        Per-atom descriptors.

    Raises
    ------
    ValueError
        If an atomic number is outside the periodic table, or a scale has the wrong shape or is not
        positive and finite.

    See Also
    --------
    as_structures : Make Structures from a sequence of :class:`ase.Atoms`.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn.data import as_structures
    >>> structures = as_structures([molecule("H2O"), molecule("CH4"), molecule("H2")])
    >>> structures[[0, 2]]
    Structures(2 structures, 5 atoms, H O)
    >>> structures[1].get_chemical_formula()
    'CH4'
    """

    def __init__(
        self,
        numbers: Sequence[ArrayLike],
        positions: Sequence[ArrayLike],
        cells: Sequence[ArrayLike],
        pbc: Sequence[ArrayLike],
        *,
        indices: ArrayLike | None = None,
        offset: Mapping[str, Any] | None = None,
        scale: Mapping[str, Any] | None = None,
        features: Any = None,
    ) -> None:
        self.numbers = tuple(freeze(values, np.int64) for values in numbers)
        self.positions = tuple(freeze(values, np.float64) for values in positions)
        self.cells = tuple(freeze(values, np.float64) for values in cells)
        self.pbc = tuple(freeze(values, bool) for values in pbc)
        self.indices = np.arange(len(self.numbers)) if indices is None else np.asarray(indices)
        self._check_numbers()
        offset = {name: freeze_offset(values) for name, values in (offset or {}).items()}
        self.offset = MappingProxyType(offset)
        scale = {name: freeze_scale(name, values) for name, values in (scale or {}).items()}
        self.scale = MappingProxyType(scale)
        self.features = features

    @property
    def n_atoms(self) -> np.ndarray:
        """Number of atoms of each structure: array of shape (n_structures,)."""
        return np.array([len(numbers) for numbers in self.numbers], dtype=np.int64)

    @property
    def elements(self) -> np.ndarray:
        """Atomic numbers that occur, in ascending order: array of shape (n_elements,)."""
        return np.unique(np.concatenate(self.numbers))

    @property
    def volumes(self) -> np.ndarray:
        """Volume of each cell: array of shape (n_structures,); zero without a cell."""
        return np.abs(np.linalg.det(np.stack(self.cells)))

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_structures,), or (n_structures, n_features) once features are attached."""
        if self.features is None:
            return (len(self),)
        return (len(self), self.features.n_features)

    def with_offset(self, name: str, offset: Values) -> Structures:
        """Return a copy with an offset for one target, added to any offset that it has already.

        Parameters
        ----------
        name : str
            Name of the target.
        offset : array of shape (n_structures, ...), or list of arrays of shape (n_atoms, ...)
            Values per structure, or, as a list or tuple of arrays, per atom; in the unit of the
            target.

        Returns
        -------
        Structures

        Raises
        ------
        ValueError
            If the offset does not match the number of structures or atoms, or the shape of the
            present offset.

        Examples
        --------
        >>> from ase.build import molecule
        >>> from sklearn_soapbpnn.data import as_structures
        >>> structures = as_structures([molecule("H2")]).with_offset("energy", [-2.0])
        >>> structures.with_offset("energy", [-3.0]).offset["energy"]
        array([-5.])
        """
        offset = freeze_offset(offset)
        self._check_offset(name, offset)
        before = self.offset.get(name)
        if before is None:
            total = offset
        elif isinstance(offset, tuple):
            total = tuple(old + new for old, new in zip(before, offset))
        else:
            total = before + offset
        total = freeze_offset(total)
        return self._replace(offset=MappingProxyType({**self.offset, name: total}))

    def with_scale(self, name: str, scale: ArrayLike) -> Structures:
        """Return a copy with the scale of one target, which replaces its present scale.

        Parameters
        ----------
        name : str
            Name of the target.
        scale : float, array of shape (n_scales,), or array of shape (119, n_scales)
            See :class:`Structures`; in the unit of the target.

        Returns
        -------
        Structures

        Raises
        ------
        ValueError
            If the scale has another shape, or is not positive and finite.
        """
        scale = freeze_scale(name, scale)
        return self._replace(scale=MappingProxyType({**self.scale, name: scale}))

    def with_features(self, features: Any) -> Structures:
        """Return a copy with per-atom features.

        Parameters
        ----------
        features : SoapFeatures or None
            Features of the atoms of these structures; None removes them.

        Returns
        -------
        Structures
        """
        return self._replace(features=features)

    def per_atom(self) -> np.ndarray:
        """Return the features of all atoms.

        Returns
        -------
        array of shape (n_atoms, n_features)
            The power spectra, one row per atom of all structures.

        Raises
        ------
        ValueError
            If no features are attached.
        """
        return self._require_features().per_atom()

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Atoms]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        key = as_position(key, len(self))
        if isinstance(key, int):
            return Atoms(
                self.numbers[key], self.positions[key], cell=self.cells[key], pbc=self.pbc[key]
            )
        offset = {
            name: freeze_offset(tuple(v[i] for i in key) if isinstance(v, tuple) else v[key])
            for name, v in self.offset.items()
        }
        names = ("numbers", "positions", "cells", "pbc")
        geometry = (tuple(values[i] for i in key) for values in self._geometry())
        return self._replace(
            **dict(zip(names, geometry)),
            indices=self.indices[key],
            offset=MappingProxyType(offset),
            features=None if self.features is None else self.features[key],
        )

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._require_features().pooled(), dtype=dtype)

    def __repr__(self):
        elements = Atoms(self.elements).symbols if len(self) else ()
        attached = "".join(
            f", {name}" for name in ("offset", "scale", "features") if getattr(self, name)
        )
        return (
            f"Structures({len(self)} structures, {self.n_atoms.sum()} atoms, "
            f"{' '.join(elements)}{attached})"
        )

    def __reduce__(self):
        # read-only mappings cannot be pickled, and arrays are writeable again after unpickling
        attached = {"offset": dict(self.offset), "scale": dict(self.scale)}
        state = {**attached, "features": self.features, "indices": self.indices}
        return _rebuild, (self._geometry(), state)

    def _check_numbers(self):
        numbers = np.concatenate(self.numbers) if self.numbers else np.zeros(1)
        # all atoms at once, because this runs every time that Structures are sliced
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < N_NUMBERS:
            for index, values in zip(self.indices, self.numbers):
                check_numbers(f"Structure {index}", values)

    def _check_offset(self, name, offset):
        """Raise if an offset does not match the structures, or the offset that is there already."""
        if isinstance(offset, tuple):
            rows, expected = [len(values) for values in offset], self.n_atoms.tolist()
            if rows != expected:
                raise ValueError(
                    f"The offset of {name!r} has arrays of {rows} rows, but the structures have "
                    f"{expected} atoms. Pass one row for each atom, or a single array with one "
                    "value for each structure."
                )
        elif offset.shape[:1] != (len(self),):
            raise ValueError(
                f"The offset of {name!r} must have shape ({len(self)}, ...), one value for each "
                f"structure, got {offset.shape}. For a per-atom target pass a list of arrays."
            )
        shapes = {find_value_shape(values) for values in (offset, self.offset.get(name, offset))}
        if len(shapes) > 1:
            raise ValueError(
                f"The offset of {name!r} cannot be added to the present offset: one holds "
                f"{' and the other '.join(sorted(map(describe_shape, shapes)))}."
            )

    def _geometry(self):
        return self.numbers, self.positions, self.cells, self.pbc

    def _replace(self, **attributes):
        """Return a copy with other attributes, which are frozen and checked already."""
        copied = object.__new__(Structures)
        vars(copied).update(vars(self), **attributes)
        return copied

    def _require_features(self):
        if self.features is None:
            raise ValueError(
                "These structures carry no features, so they are not an array. Put a "
                "SoapFeaturizer before the step that needs an array; to join structures, join "
                "lists of Atoms."
            )
        return self.features


def as_structures(X: Frames, name: str = "X") -> Structures:
    """Return ``X`` as :class:`Structures`; Structures are returned unchanged.

    Parameters
    ----------
    X : sequence of ase.Atoms, or Structures
        The structures. Atoms are copied, so later changes to them have no effect.
    name : str, default="X"
        Name of X in error messages.

    Returns
    -------
    Structures

    Raises
    ------
    TypeError, ValueError
        See :func:`iterate_atoms`.
    """
    if isinstance(X, Structures):
        if len(X) == 0:
            raise ValueError(f"{name} holds no structures. Pass at least one.")
        return X
    geometry = [
        (
            freeze(atoms.numbers, np.int64),
            freeze(atoms.positions, np.float64),
            freeze(atoms.cell.array, np.float64),
            freeze(atoms.pbc, bool),
        )
        for atoms in iterate_atoms(X, name)
    ]
    return Structures(*zip(*geometry))


def _rebuild(geometry, state):
    return Structures(*geometry, **state)
