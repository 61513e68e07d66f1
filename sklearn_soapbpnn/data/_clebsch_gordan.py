"""Clebsch-Gordan coefficients of real spherical harmonics."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import wigners


@lru_cache(maxsize=256)
def real_clebsch_gordan(l1: int, l2: int, l: int) -> np.ndarray:
    r"""Return the coefficients that couple two real spherical tensors to a third.

    .. math:: T^{l m} = \sum_{m_1 m_2} C_{m_1 m_2 m} A^{l_1 m_1} B^{l_2 m_2}

    They are obtained from the coefficients for complex spherical harmonics by applying
    :math:`U_{l_1}^* U_{l_2}^* U_l`, where :math:`U_l` turns complex into real spherical harmonics.
    The result is real if :math:`l_1 + l_2 + l` is even and imaginary if it is odd; the factor i is
    dropped.

    Parameters
    ----------
    l1, l2, l : int
        Orders of the two tensors and of their product.

    Returns
    -------
    array of shape (2 l1 + 1, 2 l2 + 1, 2 l + 1)
        Read-only; components in ascending m.
    """
    coefficients = np.einsum(
        "am,bn,cp,mnp->abc",
        _complex_to_real(l1).conj(),
        _complex_to_real(l2).conj(),
        _complex_to_real(l),
        wigners.clebsch_gordan_array(l1, l2, l),
    )
    part = coefficients.real if (l1 + l2 + l) % 2 == 0 else coefficients.imag
    part.flags.writeable = False
    return part


def _complex_to_real(l):
    """Return the unitary matrix from complex (Condon-Shortley) to real spherical harmonics."""
    matrix = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    matrix[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1) ** m
        matrix[l + m, [l + m, l - m]] = np.array([sign, 1]) / np.sqrt(2)
        matrix[l - m, [l + m, l - m]] = np.array([-1j * sign, 1j]) / np.sqrt(2)
    return matrix
