r"""Equivariant basis, from which the invariants of an atom make a spherical tensor.

A tensor of order :math:`\lambda` is :math:`T_i^\mu = \sum_k w_k(h_i) B_{ik}^\mu`. The basis B
consists of products of three learnt vectors :math:`v_1, v_2, v_3` per atom. With the
Clebsch-Gordan product :math:`A \otimes_l B` of degree l and the solid harmonics
:math:`S_l(v) = |v|^l Y_l(\hat v)`, it is

.. math::

    \lambda = 1:& \quad v_1, \; v_2, \; v_3 \\
    \lambda = 2:& \quad S_2(v_1), \; S_2(v_2), \;
        v_1 \otimes_2 v_2, \; v_1 \otimes_2 v_3, \; v_2 \otimes_2 v_3 \\
    \lambda > 2:& \quad S_l(v_1) \otimes_\lambda S_{\lambda - l}(v_2), \quad
        [S_l(v_1) \otimes_{\lambda - 1} S_{\lambda - 1 - l}(v_2)] \otimes_\lambda v_3

where l runs from 0 until a degree would be negative. These are :math:`2 \lambda + 1` tensors, which
are linearly independent if the vectors are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..data import real_clebsch_gordan
from ._environments import EnvironmentBatch


class TensorBasis(nn.Module):
    r"""Basis :math:`B_{ik}^\mu` of the spherical tensors of one order and parity.

    It consists of the tensors of the formula at the top of this module and, on request and for
    :math:`\lambda > 1`, of as many contractions of the expansion of degree :math:`\lambda`. For
    pseudotensors all are multiplied by the pseudoscalar
    :math:`(v'_1 \otimes_1 v'_2) \otimes_0 v'_3` of three separate vectors, which changes sign under
    inversion.

    Parameters
    ----------
    o3_lambda : int
        Order :math:`\lambda`.
    o3_sigma : {1, -1}
        Parity: under inversion a tensor is multiplied by :math:`\sigma (-1)^\lambda`.
    make_contraction : callable
        ``make_contraction(l, n_outputs)`` returns a contraction of the expansion of degree l to
        ``n_outputs`` tensors of that degree, such as
        :class:`~sklearn_soapbpnn.nn._contractions.ElementContraction`.
    add_lambda_basis : bool
        Whether to add the contractions of degree :math:`\lambda`.

    Attributes
    ----------
    degrees : tuple of int
        Degrees of the expansion that are needed.
    n_tensors : int
        Number of tensors of the basis.
    vectors, tensors, pseudoscalar : Module or None
        The contractions to :math:`v`, to tensors of degree :math:`\lambda`, and to :math:`v'`.
    """

    def __init__(
        self,
        o3_lambda: int,
        o3_sigma: int,
        make_contraction: Callable[[int, int], nn.Module],
        add_lambda_basis: bool,
    ) -> None:
        super().__init__()
        add_tensors = add_lambda_basis and o3_lambda > 1
        self.o3_lambda = o3_lambda
        self.n_tensors = (2 * o3_lambda + 1) * (2 if add_tensors else 1)
        self.vectors = make_contraction(1, 3) if o3_lambda > 0 else None
        self.tensors = make_contraction(o3_lambda, 2 * o3_lambda + 1) if add_tensors else None
        self.pseudoscalar = make_contraction(1, 3) if o3_sigma == -1 else None
        self.products = _make_products(o3_lambda)
        needs_vectors = self.vectors is not None or self.pseudoscalar is not None
        self.degrees = (1,) * needs_vectors + (o3_lambda,) * add_tensors

    def forward(self, expansion: dict[int, Tensor], batch: EnvironmentBatch) -> Tensor:
        r"""Evaluate the basis of each atom.

        Parameters
        ----------
        expansion : dict of int to Tensor of shape (n_atoms, n_blocks, n_radial, 2l+1)
            Density expansion for each of ``degrees``, with the atoms sorted by element.
        batch : EnvironmentBatch
            Passed on to the contractions.

        Returns
        -------
        Tensor of shape (n_atoms, 2 * o3_lambda + 1, n_tensors)
        """
        if self.vectors is None:
            basis = self.products(batch.index.element)
        else:
            basis = self.products(self.vectors(expansion[1], batch))
        if self.tensors is not None:
            tensors = self.tensors(expansion[self.o3_lambda], batch)
            basis = torch.cat([basis, tensors], dim=2)
        if self.pseudoscalar is not None:
            basis = basis * _triple_product(self.pseudoscalar(expansion[1], batch))
        return basis


def _make_products(o3_lambda):
    """Build the map from three vectors, (n_atoms, 3, 3), to the products of one degree."""
    if o3_lambda == 0:
        return _Ones()
    if o3_lambda == 1:
        return nn.Identity()
    return _SecondDegree() if o3_lambda == 2 else _HigherDegree(o3_lambda)


class _Ones(nn.Module):
    """The single basis scalar of each atom, given any tensor with one row per atom."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(1, 1, 1, dtype=torch.float64), persistent=False)

    def forward(self, atoms: Tensor) -> Tensor:
        return self.one.expand(len(atoms), 1, 1)


class _SecondDegree(nn.Module):
    r"""The five products of degree 2 of three vectors; :math:`S_2(v)` is a product, too."""

    def __init__(self) -> None:
        super().__init__()
        coefficients = torch.tensor(real_clebsch_gordan(1, 1, 2))
        # S_2(v) = k_2 S_1(v) x v, see _HigherDegree
        scale = torch.ones(5, dtype=torch.float64)
        scale[:2] = math.sqrt(15 / (8 * math.pi))
        self.register_buffer("coefficients", coefficients, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        v1, v2, v3 = vectors.unbind(2)
        a = torch.stack([v1, v2, v1, v1, v2], dim=2) * self.scale
        b = torch.stack([v1, v2, v2, v3, v3], dim=2)
        return torch.einsum("imk,ink,mnp->ipk", a, b, self.coefficients)


class _HigherDegree(nn.Module):
    r"""The :math:`2 \lambda + 1` products of three vectors of degree :math:`\lambda > 2`.

    Solid harmonics are products of a vector with itself:

    .. math::

        S_0 = \frac{1}{\sqrt{4 \pi}}, \qquad S_1(v) = \sqrt{\frac{3}{4 \pi}} \, v, \qquad
        S_l(v) = \sqrt{\frac{2l+1}{l}} \; S_{l-1}(v) \otimes_l v.

    The coefficients follow from m = 0 along v = z, with :math:`\langle l{-}1 \, 0; 1 \, 0 | l \, 0
    \rangle^2 = l / (2l-1)` and :math:`S_{l0}(\hat z)^2 = (2l+1) / 4 \pi`. sphericart computes the
    same functions, but its forward-mode derivatives are zero, without a warning.
    """

    def __init__(self, o3_lambda: int) -> None:
        super().__init__()
        self.o3_lambda = o3_lambda
        needed = {(l - 1, 1, l) for l in range(2, o3_lambda + 1)}
        for total in (o3_lambda, o3_lambda - 1):
            needed |= {(l, total - l, total) for l in range(total + 1)}
        for degrees in sorted(needed):
            coefficients = torch.tensor(real_clebsch_gordan(*degrees))
            self.register_buffer(_name(*degrees), coefficients, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        harmonics = self._solid_harmonics(vectors[:, :, :2])
        highest = self._pairs(harmonics, self.o3_lambda)
        lower = self._pairs(harmonics, self.o3_lambda - 1)
        v3 = vectors[:, :, 2:].expand(-1, -1, self.o3_lambda)
        return torch.cat([highest, self._couple(lower, v3, self.o3_lambda)], dim=2)

    def _solid_harmonics(self, vectors: Tensor) -> list[Tensor]:
        """Return S_l of vectors of shape (n_atoms, 3, k): (n_atoms, 2l+1, k) for each l."""
        zeroth = torch.full_like(vectors[:, :1], 1 / math.sqrt(4 * math.pi))
        harmonics = [zeroth, math.sqrt(3 / (4 * math.pi)) * vectors]
        for l in range(2, self.o3_lambda + 1):
            product = self._couple(harmonics[-1], vectors, l)
            harmonics.append(math.sqrt((2 * l + 1) / l) * product)
        return harmonics

    def _pairs(self, harmonics: list[Tensor], degree: int) -> Tensor:
        """Couple S_l(v1) with S_{degree - l}(v2), for each l from 0 to ``degree``."""
        pairs = [
            self._couple(harmonics[l][:, :, :1], harmonics[degree - l][:, :, 1:], degree)
            for l in range(degree + 1)
        ]
        return torch.cat(pairs, dim=2)

    def _couple(self, a: Tensor, b: Tensor, degree: int) -> Tensor:
        """Return Clebsch-Gordan products of tensors (n_atoms, 2l+1, k), one for each k."""
        coefficients = self.get_buffer(_name(a.shape[1] // 2, b.shape[1] // 2, degree))
        return torch.einsum("imk,ink,mnp->ipk", a, b, coefficients)


def _name(l1: int, l2: int, l: int) -> str:
    return f"coefficients_{l1}_{l2}_{l}"


def _triple_product(vectors: Tensor) -> Tensor:
    r"""Return the pseudoscalar :math:`(v_1 \otimes_1 v_2) \otimes_0 v_3`, of shape (n_atoms, 1, 1).

    It is :math:`-(v_1 \times v_2) \cdot v_3 / \sqrt 6`, and (y, z, x) is as right-handed as
    (x, y, z).
    """
    v1, v2, v3 = vectors.unbind(2)
    product = (torch.linalg.cross(v1, v2) * v3).sum(1)
    return (product / -math.sqrt(6))[:, None, None]
