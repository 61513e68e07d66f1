"""Real spherical harmonics as polynomials, in plain torch.

They need no compiled extension, whose builds for GPUs fit a single version of CUDA each.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ..data import real_clebsch_gordan


class SphericalHarmonics(nn.Module):
    r"""Real spherical harmonics :math:`Y_{lm}(\hat{\mathbf r})` and their gradients.

    On the unit sphere they equal the solid harmonics :math:`S_{lm}`, which are sums of the
    monomials :math:`x^a y^b z^c` with :math:`a + b + c = l`. Their derivatives are such sums too,
    so that a single matrix product gives everything. With :math:`\mathbf u = \mathbf r / r`,

    .. math::

        \nabla Y_{lm} = \frac{\nabla S_{lm}(\mathbf u) - l \, S_{lm}(\mathbf u) \, \mathbf u}{r}.

    Parameters
    ----------
    max_angular : int
        Highest degree l. The functions are ordered by l, then m.
    """

    def __init__(self, max_angular: int) -> None:
        super().__init__()
        self.max_angular = max_angular
        exponents, values, slopes = _list_coefficients(max_angular)
        degrees = [float(l) for l in range(max_angular + 1) for _ in range(2 * l + 1)]
        for name, array in {
            "exponents": exponents,
            "coefficients": np.hstack([values, *slopes]),
            "degrees": np.array(degrees),
        }.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, directions: Tensor) -> Tensor:
        """Evaluate at unit vectors of shape (n_pairs, 3): (n_pairs, n_angular)."""
        return self._monomials(directions) @ self.coefficients[:, : len(self.degrees)]

    def differentiate(self, directions: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values and the gradients, (n_pairs, 3, n_angular)."""
        products = (self._monomials(directions) @ self.coefficients).unflatten(1, (4, -1))
        value, slope = products[:, 0], products[:, 1:]
        along = (value * self.degrees)[:, None] * directions[:, :, None]
        return value, (slope - along) / distances[:, None, None]

    def _monomials(self, directions: Tensor) -> Tensor:
        """Evaluate the monomials, (n_pairs, n_monomials)."""
        powers = [torch.ones_like(directions)]
        for _ in range(self.max_angular):
            powers.append(powers[-1] * directions)
        powers = torch.stack(powers, dim=2)
        x, y, z = (powers[:, k].index_select(1, self.exponents[k]) for k in range(3))
        return x * y * z


@lru_cache(maxsize=32)
def _list_coefficients(max_angular: int):
    r"""Expand all solid harmonics up to a degree, and their derivatives, in monomials.

    .. math::

        S_0 = \frac{1}{\sqrt{4 \pi}}, \qquad
        S_l(\mathbf r) = \sqrt{\frac{4 \pi (2l+1)}{3 l}} \; S_{l-1}(\mathbf r) \otimes_l
        S_1(\mathbf r), \qquad S_1 = \sqrt{\frac{3}{4 \pi}} \, (y, z, x)

    Returns
    -------
    exponents : array of shape (3, n_monomials)
        Powers of x, y and z.
    values : array of shape (n_monomials, n_angular)
        Coefficients of the harmonics.
    slopes : list of three arrays of shape (n_monomials, n_angular)
        Coefficients of the derivatives with respect to x, y and z.
    """
    size = max_angular + 1
    # coefficients of a polynomial by the powers of x, y and z
    constant = np.zeros((1, size, size, size))
    constant[0, 0, 0, 0] = 1 / math.sqrt(4 * math.pi)
    harmonics = [constant]
    for l in range(1, size):
        products = np.stack([_multiply(harmonics[-1], axis) for axis in (1, 2, 0)], axis=1)
        coupled = np.einsum("mnxyz,mnp->pxyz", products, real_clebsch_gordan(l - 1, 1, l))
        harmonics.append(math.sqrt((2 * l + 1) / l) * coupled)
    harmonics = np.concatenate(harmonics)

    exponents = np.indices((size, size, size)).reshape(3, -1)
    exponents = exponents[:, exponents.sum(0) <= max_angular]
    values, *slopes = (
        np.ascontiguousarray(polynomials[:, *exponents].T)
        for polynomials in (harmonics, *(_differentiate(harmonics, axis) for axis in range(3)))
    )
    return exponents, values, slopes


def _multiply(polynomials, axis):
    """Multiply polynomials (n, a, b, c) by x, y or z."""
    return np.roll(polynomials, 1, axis + 1)


def _differentiate(polynomials, axis):
    """Differentiate polynomials (n, a, b, c) with respect to x, y or z."""
    shape = [1, 1, 1, 1]
    shape[axis + 1] = -1
    powers = np.arange(polynomials.shape[1]).reshape(shape)
    return np.roll(powers * polynomials, -1, axis + 1)
