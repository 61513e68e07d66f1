"""Structures: what flows through a Pipeline."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from ase import Atoms

from ._checks import as_position, check_atoms, freeze


class Structures:
    """Immutable sequence of atomic structures and what earlier steps attached to them.

    A Pipeline hands X from step to step and never touches y. What a step learns about the targets
    therefore travels on X: :class:`~sklearn_soapbpnn.CompositionBaseline` attaches an offset,
    :class:`~sklearn_soapbpnn.TargetScaler` a scale, :class:`~sklearn_soapbpnn.SoapFeaturizer` the
    features, and the regressor at the end learns ``(y - offset) / scale``. Slicing keeps all of it,
    so that :func:`~sklearn.model_selection.train_test_split` and cross-validation work.

    Parameters
    ----------
    numbers : sequence of arrays of shape (n_atoms,)
        Atomic numbers of each structure.
    positions : sequence of arrays of shape (n_atoms, 3)
        Positions, in the unit of the cutoff radius (Angstrom for ASE's data).
    cells : sequence of arrays of shape (3, 3)
        Cell vectors as rows.
    pbc : sequence of arrays of shape (3,)
        Periodic directions.
    indices : array of shape (n_structures,), default=None
        What messages call the structures: their positions in the X that the user passed.
    offset : mapping of str to array of shape (n_structures,), default=None
        Baseline of each target, to be subtracted before learning.
    scale : mapping of str to float, default=None
        Scale of each target, to be divided out before learning.
    features : SoapFeatures, default=None
        Per-atom descriptors.

    See Also
    --------
    as_structures : Build one from a sequence of :class:`ase.Atoms`.

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
        numbers,
        positions,
        cells,
        pbc,
        *,
        indices=None,
        offset=None,
        scale=None,
        features=None,
    ):
        self.numbers = tuple(freeze(values, np.int64) for values in numbers)
        self.positions = tuple(freeze(values, np.float64) for values in positions)
        self.cells = tuple(freeze(values, np.float64) for values in cells)
        self.pbc = tuple(freeze(values, bool) for values in pbc)
        self.indices = np.arange(len(self.numbers)) if indices is None else np.asarray(indices)
        offset = {name: freeze(values, np.float64) for name, values in (offset or {}).items()}
        self.offset = MappingProxyType(offset)
        self.scale = MappingProxyType(dict(scale or {}))
        self.features = features

    @property
    def n_atoms(self):
        """Number of atoms of each structure, array of shape (n_structures,)."""
        return np.array([len(numbers) for numbers in self.numbers], dtype=np.int64)

    @property
    def elements(self):
        """Sorted atomic numbers that occur, array of shape (n_elements,)."""
        return np.unique(np.concatenate(self.numbers))

    @property
    def volumes(self):
        """Volume of each cell, array of shape (n_structures,); zero where there is none."""
        return np.abs(np.linalg.det(np.stack(self.cells)))

    @property
    def shape(self):
        """(n_structures,), or (n_structures, n_features) once features are attached."""
        if self.features is None:
            return (len(self),)
        return (len(self), self.features.n_features)

    def with_offset(self, name, offset):
        """Return a copy with an offset of one target, added to what is there already."""
        offset = np.asarray(offset, dtype=np.float64)
        if offset.shape != (len(self),):
            raise ValueError(
                f"offset must have shape ({len(self)},), one value for each structure, got "
                f"{offset.shape}."
            )
        total = self.offset.get(name, 0.0) + offset
        return self._replace(offset={**self.offset, name: total})

    def with_scale(self, name, scale):
        """Return a copy with the scale of one target."""
        return self._replace(scale={**self.scale, name: float(scale)})

    def with_features(self, features):
        """Return a copy with per-atom features."""
        return self._replace(features=features)

    def per_atom(self):
        """Return the features of all atoms, array of shape (n_atoms, n_features)."""
        return self._require_features().per_atom()

    def __len__(self):
        return len(self.numbers)

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key):
        key = as_position(key, len(self))
        if isinstance(key, int):
            return Atoms(
                self.numbers[key], self.positions[key], cell=self.cells[key], pbc=self.pbc[key]
            )
        return Structures(
            *([values[i] for i in key] for values in self._geometry()),
            indices=self.indices[key],
            offset={name: values[key] for name, values in self.offset.items()},
            scale=self.scale,
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
        # mappings that cannot be written to cannot be pickled, and pickled arrays can be written to
        attached = {"offset": dict(self.offset), "scale": dict(self.scale)}
        state = {**attached, "features": self.features, "indices": self.indices}
        return _rebuild, (self._geometry(), state)

    def _geometry(self):
        return self.numbers, self.positions, self.cells, self.pbc

    def _replace(self, **attached):
        current = {"offset": self.offset, "scale": self.scale, "features": self.features}
        current["indices"] = self.indices
        return Structures(*self._geometry(), **{**current, **attached})

    def _require_features(self):
        if self.features is None:
            raise ValueError(
                "These structures carry no features, so they are no array. Put a SoapFeaturizer "
                "in front of the step that needs numbers."
            )
        return self.features


def as_structures(X, name="X"):
    """Return ``X`` as :class:`Structures`; Structures are returned as they are.

    Parameters
    ----------
    X : sequence of ase.Atoms, or Structures
        The structures; they are copied, and later changes to them are not seen.
    name : str, default="X"
        What messages call it.

    Returns
    -------
    Structures

    Raises
    ------
    TypeError, ValueError
        See :func:`check_atoms`.
    """
    if isinstance(X, Structures):
        if len(X) == 0:
            raise ValueError(f"{name} holds no structures. Pass at least one.")
        return X
    frames = check_atoms(X, name)
    return Structures(
        [atoms.numbers for atoms in frames],
        [atoms.positions for atoms in frames],
        [atoms.cell.array for atoms in frames],
        [atoms.pbc for atoms in frames],
    )


def _rebuild(geometry, state):
    return Structures(*geometry, **state)
