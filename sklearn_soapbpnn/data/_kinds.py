"""Kinds of targets: what one value looks like, and how it transforms."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from operator import index

import numpy as np

from ._clebsch_gordan import real_clebsch_gordan


@dataclass(frozen=True)
class Block:
    r"""Spherical tensors of one order and parity.

    Under inversion they take the sign :math:`\sigma (-1)^\lambda`.

    Parameters
    ----------
    o3_lambda : int, default=0
        Order :math:`\lambda`; a tensor has :math:`2 \lambda + 1` components, m ascending.
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
        """Number of components of all properties."""
        return (2 * self.o3_lambda + 1) * self.n_properties


@dataclass(frozen=True)
class TargetKind:
    """What one value of a target looks like, and how it transforms under rotations.

    Made by :meth:`scalar`, :meth:`vector`, :meth:`tensor` and :meth:`spherical`.

    Parameters
    ----------
    shape : tuple of int
        Shape of the value of one structure, or of one atom.
    per_atom : bool
        Whether there is one value for each atom.
    blocks : tuple of Block
        Spherical tensors that the value consists of.
    cartesian_rank : int or None
        Rank of a Cartesian tensor; None for scalars and spherical tensors.
    per_volume : bool
        Whether the value times the volume of the cell is what atoms contribute to, as for a stress.
    intensive : bool
        Whether the value of a structure is the mean over its atoms, as for a gap, not their sum:
        two copies of a structure have the same value. Not for values of atoms or per volume.
    unit : str
        Unit, for the reader.

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
                "intensive=True is for one value of a structure, but per_atom=True is one for each "
                "atom, of which no mean is taken. Leave out one of the two."
            )
        if self.intensive and self.per_volume:
            raise ValueError(
                "intensive=True takes the mean over atoms, but per_volume=True divides their sum "
                "by the volume, which does not grow with the structure either. Leave out one of "
                "the two."
            )

    @classmethod
    def scalar(cls, n_properties=None, *, per_atom=False, intensive=False, unit=""):
        """Return the kind of an invariant, or of ``n_properties`` of them in one array.

        Parameters
        ----------
        n_properties : int, default=None
            None is a single number without an axis: shape ().
        per_atom : bool, default=False
            Whether there is one value for each atom.
        intensive : bool, default=False
            Whether the value of a structure is the mean over its atoms: it does not change when the
            structure is repeated, as that of a gap, a bulk modulus, a melting point. Else it is
            their sum.
        unit : str, default=""
            Unit.
        """
        n = _check_properties(n_properties)
        shape = () if n_properties is None else (n,)
        return cls(shape, bool(per_atom), (Block(0, 1, n),), intensive=bool(intensive), unit=unit)

    @classmethod
    def vector(cls, n_properties=None, *, per_atom=False, intensive=False, unit=""):
        """Return the kind of a Cartesian vector, shape (3,) or (3, n_properties)."""
        n = _check_properties(n_properties)
        shape = (3,) if n_properties is None else (3, n)
        blocks = (Block(1, 1, n),)
        return cls(shape, bool(per_atom), blocks, 1, intensive=bool(intensive), unit=unit)

    @classmethod
    def tensor(
        cls,
        n_properties=None,
        *,
        symmetric=False,
        per_atom=False,
        per_volume=False,
        intensive=False,
        unit="",
    ):
        """Return the kind of a Cartesian 3x3 tensor, shape (3, 3) or (3, 3, n_properties).

        Parameters
        ----------
        n_properties : int, default=None
            None is a single tensor without a further axis.
        symmetric : bool, default=False
            Whether the antisymmetric part is zero by construction.
        per_atom, intensive, unit
            See :meth:`scalar`.
        per_volume : bool, default=False
            Whether the value times the volume of the cell is what atoms contribute to.
        """
        n = _check_properties(n_properties)
        shape = (3, 3) if n_properties is None else (3, 3, n)
        blocks = [Block(0, 1, n), Block(1, -1, n), Block(2, 1, n)]
        if symmetric:
            del blocks[1]
        return cls(shape, bool(per_atom), tuple(blocks), 2, bool(per_volume), bool(intensive), unit)

    @classmethod
    def spherical(cls, blocks, n_properties=None, *, per_atom=False, intensive=False, unit=""):
        r"""Return the kind of one or several spherical tensors.

        Parameters
        ----------
        blocks : (o3_lambda, o3_sigma) or list of (o3_lambda, o3_sigma[, n_properties])
            Order and parity; see :class:`Block`. A single pair gives the shape
            (:math:`2 \lambda + 1`,), or with ``n_properties`` (:math:`2 \lambda + 1`,
            n_properties). A list gives one flat axis: the blocks one after the other, each ordered
            by m, then by property.
        n_properties : int, default=None
            Number of tensors; for a single pair only.
        per_atom, intensive, unit
            See :meth:`scalar`.
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
    def size(self):
        """Number of components of a value."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def is_scalar(self):
        """Whether all components are invariants that the network gives directly."""
        return all(block.o3_lambda == 0 and block.o3_sigma == 1 for block in self.blocks)

    @property
    def is_symmetric(self):
        """Whether it is a Cartesian tensor whose antisymmetric part is zero by construction."""
        return self.cartesian_rank == 2 and len(self.blocks) == 2

    def with_unit(self, unit):
        """Return the same kind with another unit."""
        return replace(self, unit=unit)

    @cached_property
    def transform(self):
        """Matrix (size, n_spherical) from the components of the blocks to the flat value.

        The blocks stand one after the other, each ordered by m, then by property.
        """
        if self.cartesian_rank is None:
            return _read_only(np.eye(self.size))
        parts = [_cartesian_basis(b.o3_lambda, self.cartesian_rank) for b in self.blocks]
        n = self.blocks[0].n_properties
        return _read_only(np.hstack([np.kron(part, np.eye(n)) for part in parts]))

    @cached_property
    def invariants(self):
        """Matrix (size, n_invariants) whose columns are the values that no rotation changes."""
        invariant = [
            np.full(block.size, block.o3_lambda == 0 and block.o3_sigma == 1)
            for block in self.blocks
        ]
        return _read_only(self.transform[:, np.concatenate(invariant)])

    @cached_property
    def scale_index(self):
        """For each component of the flat value, which scale is its own: array (size,).

        Spherical tensors have one for each block and property, Cartesian ones for each property.
        """
        if self.cartesian_rank is not None:
            n = self.blocks[0].n_properties
            return _read_only(np.tile(np.arange(n), self.size // n))
        scales, first = [], 0
        for block in self.blocks:
            scales.append(np.tile(np.arange(block.n_properties), 2 * block.o3_lambda + 1) + first)
            first += block.n_properties
        return _read_only(np.concatenate(scales))

    @property
    def n_scales(self):
        """Number of different scales."""
        return int(self.scale_index.max()) + 1

    @property
    def scale_names(self):
        """What tells the scales apart in tables: ``"l2+"``, ``"0"``, ``"l1-,3"``."""
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
        # without what is cached: equal kinds have equal pickles, by which joblib caches
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
    """Matrix (3 ** rank, 2 lambda + 1): the components m = -1, 0, 1 of a vector are y, z, x."""
    axes = np.eye(3)[:, [1, 2, 0]]
    if rank == 1:
        return axes
    coefficients = real_clebsch_gordan(1, 1, o3_lambda)
    return np.einsum("im,jn,mnp->ijp", axes, axes, coefficients).reshape(9, -1)


KNOWN_KINDS = {
    "energy": TargetKind.scalar(unit="eV"),
    "forces": TargetKind.vector(per_atom=True, unit="eV/Angstrom"),
    "stress": TargetKind.tensor(symmetric=True, per_volume=True, unit="eV/Angstrom^3"),
    "virial": TargetKind.tensor(symmetric=True, unit="eV"),
    "energies": TargetKind.scalar(per_atom=True, unit="eV"),
    "dipole": TargetKind.vector(unit="e Angstrom"),
    "polarizability": TargetKind.tensor(symmetric=True),
    "charges": TargetKind.scalar(per_atom=True, unit="e"),
    "non_conservative_forces": TargetKind.vector(per_atom=True, unit="eV/Angstrom"),
    "non_conservative_stress": TargetKind.tensor(
        symmetric=True, per_volume=True, unit="eV/Angstrom^3"
    ),
}

# their kinds are fixed but for the unit: energies and what follows from them by derivatives
ENERGY_KINDS = {
    name: KNOWN_KINDS[name] for name in ("energy", "forces", "stress", "virial", "energies")
}
# derivatives of the energy, and what it gives: such columns have no baseline, scale or head
LEARNT_DERIVATIVES = ("forces", "stress", "virial")
DERIVED_TARGETS = (*LEARNT_DERIVATIVES, "energies")


def has_derivatives(names):
    """Whether a derivative of the energy is among some names of targets."""
    return any(name in LEARNT_DERIVATIVES for name in names)
