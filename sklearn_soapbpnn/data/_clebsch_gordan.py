"""Clebsch-Gordan coefficients of real spherical harmonics."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import wigners


@lru_cache(maxsize=256)
def real_clebsch_gordan(l1: int, l2: int, l: int) -> np.ndarray:
    r"""Coefficients that couple two real spherical tensors to a third, components m ascending.

    .. math:: T^{l m} = \sum_{m_1 m_2} C_{m_1 m_2 m} A^{l_1 m_1} B^{l_2 m_2}

    With U_l from complex to real spherical harmonics, :math:`C = U_{l_1}^* U_{l_2}^* U_l`
    applied to the coefficients of the complex ones. The result is real if :math:`l_1 + l_2 + l` is
    even and imaginary if it is odd; the factor i is dropped.

    Returns
    -------
    array of shape (2 l1 + 1, 2 l2 + 1, 2 l + 1)
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
    """Unitary matrix from complex (Condon-Shortley phase) to real spherical harmonics."""
    matrix = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    matrix[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1) ** m
        matrix[l + m, [l + m, l - m]] = np.array([sign, 1]) / np.sqrt(2)
        matrix[l - m, [l + m, l - m]] = np.array([-1j * sign, 1j]) / np.sqrt(2)
    return matrix
