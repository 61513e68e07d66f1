"""Kinds of targets: the shape of a value, and how it transforms under rotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from operator import index

import numpy as np

from ._clebsch_gordan import real_clebsch_gordan


@dataclass(frozen=True)
class Block:
    r"""Spherical tensors of one order and parity.

    Under inversion they are multiplied by :math:`\sigma (-1)^\lambda`.

    Parameters
    ----------
    o3_lambda : int, default=0
        Order :math:`\lambda`; a tensor has :math:`2 \lambda + 1` components, in ascending m.
    o3_sigma : {1, -1}, default=1
        1 for proper tensors, -1 for pseudotensors.
    n_properties : int, default=1
        Number of tensors.
    """

    o3_lambda: int = 0
    o3_sigma: int = 1
    n_properties: int = 1

    @property
    def size(self):
        """Total number of components of all tensors of the block."""
        return (2 * self.o3_lambda + 1) * self.n_properties

    @property
    def is_scalar(self):
        """Whether the components are scalars, which rotation and inversion leave as they are."""
        return (self.o3_lambda, self.o3_sigma) == (0, 1)


@dataclass(frozen=True)
class TargetKind:
    """The shape of a value of a target, and how it transforms under rotations.

    Use :meth:`scalar`, :meth:`vector`, :meth:`tensor` or :meth:`spherical` to make one.

    Parameters
    ----------
    shape : tuple of int
        Shape of the value of one structure, or of one atom.
    per_atom : bool
        Whether there is one value per atom, rather than per structure.
    blocks : tuple of Block
        Spherical tensors that make up the value.
    cartesian_rank : int or None, default=None
        Rank of a Cartesian vector (1) or tensor (2); None for scalars and spherical tensors.
    per_volume : bool, default=False
        Whether the value is a sum over atoms divided by the volume of the cell, as for a stress.
    intensive : bool, default=False
        Whether the value of a structure is the mean over its atoms, as for a gap, rather than the
        sum. Then two copies of a structure have the same value. Cannot be combined with
        ``per_atom`` or ``per_volume``.
    unit : str, default=""
        Unit of the values, for information only; nothing is converted.

    Raises
    ------
    ValueError
        If ``intensive`` is combined with ``per_atom`` or ``per_volume``.

    Examples
    --------
    >>> from sklearn_soapbpnn import TargetKind
    >>> TargetKind.vector(unit="e Angstrom").shape
    (3,)
    >>> TargetKind.spherical([(0, 1), (2, 1)]).shape
    (6,)
    >>> TargetKind.scalar(per_atom=True)
    TargetKind.scalar(per_atom=True)
    >>> TargetKind.scalar(intensive=True, unit="eV")
    TargetKind.scalar(intensive=True, unit='eV')
    """

    shape: tuple[int, ...]
    per_atom: bool
    blocks: tuple[Block, ...]
    cartesian_rank: int | None = None
    per_volume: bool = False
    intensive: bool = False
    unit: str = field(default="", compare=False)

    def __post_init__(self):
        if self.intensive and self.per_atom:
            raise ValueError(
                "intensive=True is for per-structure targets, which are means over atoms, but "
                "per_atom=True declares a per-atom target. Leave out one of the two."
            )
        if self.intensive and self.per_volume:
            raise ValueError(
                "intensive=True is for means over atoms, but per_volume=True is for sums over "
                "atoms divided by the volume. Leave out one of the two."
            )

    @classmethod
    def scalar(
        cls,
        n_properties: int | None = None,
        *,
        per_atom: bool = False,
        intensive: bool = False,
        unit: str = "",
    ) -> TargetKind:
        """Return the kind of a scalar, i.e. a rotationally invariant value, or of several.

        Parameters
        ----------
        n_properties : int, default=None
            Number of scalars: values have the shape (n_properties,). None means a single number, of
            shape ().
        per_atom : bool, default=False
            Whether there is one value per atom.
        intensive : bool, default=False
            Whether the value of a structure is the mean over its atoms, which does not change when
            the structure is repeated, as for a gap, a bulk modulus or a melting point. By default
            it is the sum.
        unit : str, default=""
            Unit of the values, for information only.

        Returns
        -------
        TargetKind

        Raises
        ------
        ValueError
            If ``n_properties`` is not a positive integer or None, or ``intensive`` is combined with
            ``per_atom``.

        Examples
        --------
        >>> from sklearn_soapbpnn import TargetKind
        >>> TargetKind.scalar(20, unit="1/eV").shape
        (20,)
        """
        n = _check_properties(n_properties)
        shape = () if n_properties is None else (n,)
        return cls(shape, bool(per_atom), (Block(0, 1, n),), intensive=bool(intensive), unit=unit)

    @classmethod
    def vector(
        cls,
        n_properties: int | None = None,
        *,
        per_atom: bool = False,
        intensive: bool = False,
        unit: str = "",
    ) -> TargetKind:
        """Return the kind of a Cartesian vector, or of several.

        Parameters
        ----------
        n_properties : int, default=None
            Number of vectors: values have the shape (3, n_properties). None means a single vector,
            of shape (3,).
        per_atom : bool, default=False
            Whether there is one value per atom.
        intensive : bool, default=False
            Whether the value of a structure is the mean over its atoms; see :meth:`scalar`.
        unit : str, default=""
            Unit of the values, for information only.

        Returns
        -------
        TargetKind

        Raises
        ------
        ValueError
            If ``n_properties`` is not a positive integer or None, or ``intensive`` is combined with
            ``per_atom``.

        Examples
        --------
        >>> from sklearn_soapbpnn import TargetKind
        >>> TargetKind.vector(per_atom=True, unit="eV/Angstrom").shape
        (3,)
        """
        n = _check_properties(n_properties)
        shape = (3,) if n_properties is None else (3, n)
        blocks = (Block(1, 1, n),)
        return cls(shape, bool(per_atom), blocks, 1, intensive=bool(intensive), unit=unit)

    @classmethod
    def tensor(
        cls,
        n_properties: int | None = None,
        *,
        symmetric: bool = False,
        per_atom: bool = False,
        per_volume: bool = False,
        intensive: bool = False,
        unit: str = "",
    ) -> TargetKind:
        """Return the kind of a Cartesian 3x3 tensor, or of several.

        Parameters
        ----------
        n_properties : int, default=None
            Number of tensors: values have the shape (3, 3, n_properties). None means a single
            tensor, of shape (3, 3).
        symmetric : bool, default=False
            Whether the tensor is symmetric. Labels must then be symmetric up to noise, and
            predictions are exactly so.
        per_atom : bool, default=False
            Whether there is one value per atom.
        per_volume : bool, default=False
            Whether the value is a sum over atoms divided by the cell volume, as for a stress.
        intensive : bool, default=False
            Whether the value of a structure is the mean over its atoms; see :meth:`scalar`.
        unit : str, default=""
            Unit of the values, for information only.

        Returns
        -------
        TargetKind

        Raises
        ------
        ValueError
            If ``n_properties`` is not a positive integer or None, or ``intensive`` is combined with
            ``per_atom`` or ``per_volume``.

        Examples
        --------
        >>> from sklearn_soapbpnn import TargetKind
        >>> TargetKind.tensor(symmetric=True).size
        9
        """
        n = _check_properties(n_properties)
        shape = (3, 3) if n_properties is None else (3, 3, n)
        blocks = [Block(0, 1, n), Block(1, -1, n), Block(2, 1, n)]
        if symmetric:
            del blocks[1]
        return cls(shape, bool(per_atom), tuple(blocks), 2, bool(per_volume), bool(intensive), unit)

    @classmethod
    def spherical(
        cls,
        blocks: tuple[int, int] | Sequence[tuple[int, int]],
        n_properties: int | None = None,
        *,
        per_atom: bool = False,
        intensive: bool = False,
        unit: str = "",
    ) -> TargetKind:
        r"""Return the kind of one or several spherical tensors.

        Parameters
        ----------
        blocks : (o3_lambda, o3_sigma) or list of (o3_lambda, o3_sigma[, n_properties])
            Order and parity; see :class:`Block`. For a single pair, values have the shape
            (:math:`2 \lambda + 1`,), or (:math:`2 \lambda + 1`, n_properties) if ``n_properties``
            is given. For a list, values have one flat axis with the blocks one after the other,
            each ordered by m, then by property.
        n_properties : int, default=None
            Number of tensors; for a single pair only.
        per_atom : bool, default=False
            Whether there is one value per atom.
        intensive : bool, default=False
            Whether the value of a structure is the mean over its atoms; see :meth:`scalar`.
        unit : str, default=""
            Unit of the values, for information only.

        Returns
        -------
        TargetKind

        Raises
        ------
        ValueError
            If ``blocks`` is empty, is not of one of these forms, or names a pair twice; if
            ``n_properties`` is given with a list of blocks or is not a positive integer; or if
            ``intensive`` is combined with ``per_atom``.

        Examples
        --------
        >>> from sklearn_soapbpnn import TargetKind
        >>> TargetKind.spherical((2, 1)).shape
        (5,)
        >>> TargetKind.spherical([(0, 1), (2, 1)]).shape
        (6,)
        """
        if not np.iterable(blocks) or len(blocks) == 0:
            raise ValueError(
                f"blocks must hold at least one (o3_lambda, o3_sigma), got {blocks!r}."
            )
        single = not np.iterable(blocks[0])
        n = _check_properties(n_properties)
        if single and len(blocks) != 2:
            raise ValueError(
                f"A single block must be (o3_lambda, o3_sigma), got {blocks!r}. Pass n_properties, "
                "or a list of blocks."
            )
        if not single and n_properties is not None:
            raise ValueError(
                f"n_properties={n_properties!r} is for a single pair (o3_lambda, o3_sigma). In a "
                "list it goes into each block: (o3_lambda, o3_sigma, n)."
            )
        parsed = tuple(_check_block(b) for b in ([(*blocks, n)] if single else blocks))
        if len({(b.o3_lambda, b.o3_sigma) for b in parsed}) < len(parsed):
            raise ValueError(f"blocks={blocks!r} names a pair (o3_lambda, o3_sigma) twice.")
        if single:
            shape = (2 * parsed[0].o3_lambda + 1,) + (() if n_properties is None else (n,))
        else:
            shape = (sum(block.size for block in parsed),)
        return cls(shape, bool(per_atom), parsed, intensive=bool(intensive), unit=unit)

    @property
    def size(self) -> int:
        """Number of components of one value."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def is_scalar(self) -> bool:
        """Whether all components are scalars, which the network predicts directly."""
        return all(block.is_scalar for block in self.blocks)

    @property
    def is_symmetric(self) -> bool:
        """Whether it is a symmetric Cartesian tensor."""
        return self.cartesian_rank == 2 and all(block.o3_lambda != 1 for block in self.blocks)

    def with_unit(self, unit: str) -> TargetKind:
        """Return the same kind with another unit.

        Parameters
        ----------
        unit : str
            Unit of the values, for information only.

        Returns
        -------
        TargetKind

        Examples
        --------
        >>> from sklearn_soapbpnn import TargetKind
        >>> TargetKind.scalar(unit="eV").with_unit("kJ/mol")
        TargetKind.scalar(unit='kJ/mol')
        """
        return replace(self, unit=unit)

    @cached_property
    def property_transform(self):
        """Matrix (size / n, n_spherical / n) of :attr:`transform` for a single property.

        It exists for Cartesian kinds, all of whose blocks have the same number n of properties;
        those of a value are transformed in the same way.
        """
        parts = [_cartesian_basis(b.o3_lambda, self.cartesian_rank) for b in self.blocks]
        return _read_only(np.hstack(parts))

    @property
    def transform(self) -> np.ndarray:
        """Matrix (size, n_spherical) that turns spherical components into the flattened value.

        The spherical components are those of the blocks, one block after the other, each ordered by
        m, then by property. With many properties the matrix is large and has few entries, and it is
        built at each call.
        """
        if self.cartesian_rank is None:
            return np.eye(self.size)
        return np.kron(self.property_transform, np.eye(self.blocks[0].n_properties))

    @cached_property
    def invariant_components(self):
        """Components of the flattened value that each rotational invariant occupies.

        An array of shape (n_components, n_invariants): the diagonal of each Cartesian tensor, else
        the scalars themselves. A value whose components are the same for each invariant, and zero
        elsewhere, does not change under rotations.
        """
        if self.cartesian_rank == 2 and self.blocks[0].o3_lambda == 0:
            n = self.blocks[0].n_properties
            return _read_only(np.array([[0], [4], [8]]) * n + np.arange(n))
        components, first = [np.empty(0, int)], 0
        for block in self.blocks:
            if block.is_scalar:
                components.append(first + np.arange(block.n_properties))
            first += block.size
        return _read_only(np.concatenate(components)[None])

    @cached_property
    def scale_index(self):
        """Index of the scale of each component of the flattened value: array of shape (size,).

        Spherical tensors have one scale for each block and property, Cartesian tensors one for each
        property.
        """
        if self.cartesian_rank is not None:
            n = self.blocks[0].n_properties
            return _read_only(np.tile(np.arange(n), self.size // n))
        scales, first = [], 0
        for block in self.blocks:
            scales.append(np.tile(np.arange(block.n_properties), 2 * block.o3_lambda + 1) + first)
            first += block.n_properties
        return _read_only(np.concatenate(scales))

    @cached_property
    def rows(self):
        """Component and property of each entry of the flattened value: array of shape (2, size).

        Entries of the same component have different properties. A Cartesian value has the
        components of its shape, a spherical one those of each block, one block after the other.
        """
        if self.cartesian_rank is not None:
            n = self.blocks[0].n_properties
            return _read_only(np.array(np.divmod(np.arange(self.size), n)))
        parts, first = [], 0
        for block in self.blocks:
            component, place = np.divmod(np.arange(block.size), block.n_properties)
            parts.append([component + first, place])
            first += 2 * block.o3_lambda + 1
        return _read_only(np.concatenate(parts, axis=1))

    @property
    def n_scales(self) -> int:
        """Number of different scales."""
        return int(self.scale_index.max()) + 1

    @property
    def scale_names(self) -> list[str]:
        """Labels of the scales in tables, such as ``"l2+"``, ``"0"``, ``"l1-,3"``."""
        names = []
        for block in self.blocks if self.cartesian_rank is None else self.blocks[:1]:
            order = f"l{block.o3_lambda}{'+' if block.o3_sigma == 1 else '-'}"
            parts = [] if self.is_scalar or self.cartesian_rank is not None else [order]
            for k in range(block.n_properties):
                number = [str(k)] if block.n_properties > 1 else []
                names.append(",".join(parts + number))
        return names

    def __repr__(self):
        n = self.blocks[0].n_properties
        flags = ("per_atom", "per_volume", "intensive")
        options = [f"{name}=True" for name in flags if getattr(self, name)]
        options += [f"unit={self.unit!r}"] if self.unit else []
        if self.cartesian_rank is not None:
            name = {1: "vector", 2: "tensor"}[self.cartesian_rank]
            options = ["symmetric=True"] * self.is_symmetric + options
            first = [str(n)] * (len(self.shape) > self.cartesian_rank)
        elif self.is_scalar and len(self.shape) < 2:
            name, first = "scalar", [str(n)] * len(self.shape)
        elif len(self.blocks) == 1 and (n == 1 or len(self.shape) == 2):
            block = self.blocks[0]
            name = "spherical"
            first = [str((block.o3_lambda, block.o3_sigma)), *[str(n)] * (len(self.shape) - 1)]
        else:
            name = "spherical"
            first = [str([(b.o3_lambda, b.o3_sigma, b.n_properties) for b in self.blocks])]
        return f"TargetKind.{name}({', '.join(first + options)})"

    def __reduce__(self):
        # without cached properties, so that equal kinds have equal pickles, which joblib hashes
        return TargetKind, tuple(getattr(self, field.name) for field in fields(self))


def _check_properties(n_properties):
    if n_properties is None:
        return 1
    if not isinstance(n_properties, (int, np.integer)) or n_properties < 1:
        raise ValueError(f"n_properties must be a positive integer or None, got {n_properties!r}.")
    return int(n_properties)


def _check_block(block):
    try:
        o3_lambda, o3_sigma, *rest = (index(value) for value in block)
    except (TypeError, ValueError) as err:
        raise ValueError(
            f"A block must be (o3_lambda, o3_sigma) or (o3_lambda, o3_sigma, n), got {block!r}."
        ) from err
    if o3_lambda < 0 or o3_sigma not in (1, -1) or len(rest) > 1:
        raise ValueError(
            "A block must be (o3_lambda, o3_sigma) or (o3_lambda, o3_sigma, n) with o3_lambda >= 0 "
            f"and o3_sigma 1 or -1, got {tuple(block)!r}."
        )
    return Block(o3_lambda, o3_sigma, _check_properties(rest[0] if rest else 1))


def _read_only(values):
    values.flags.writeable = False
    return values


def _cartesian_basis(o3_lambda, rank):
    """Matrix (3 ** rank, 2 lambda + 1); components m = -1, 0, 1 of a vector are y, z, x."""
    axes = np.eye(3)[:, [1, 2, 0]]
    if rank == 1:
        return axes
    coefficients = real_clebsch_gordan(1, 1, o3_lambda)
    return np.einsum("im,jn,mnp->ijp", axes, axes, coefficients).reshape(9, -1)
