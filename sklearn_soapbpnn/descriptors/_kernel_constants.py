"""Constants of a pair basis in the layout of the kernels.

The radial channels n of each degree are filled up with zeros to *blocks* of eight. A row of
channels is ordered by block, then m, then n, which thus runs fastest.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ._pair_basis import load_spline_table
from ._vectors import LANES

# numbers that precede the degrees in ``scales``, see load_basis
N_SCALES = 7


@lru_cache(maxsize=32)
def load_basis(parameters, dtype):
    """Return the constants of a pair basis, as the kernels take them.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters.
    dtype : numpy.dtype
        Precision.

    Returns
    -------
    table : array
        Coefficients of the splines, flattened from (interval, power of t, block, lane).
    degrees : array of shape (n_blocks,)
        Degree l of each block of eight radial channels.
    scales : array
        Spacing of the splines, cutoff radius and width, and numbers in this precision: a literal in
        a kernel would be a float64.
    coefficients : array
        Coefficients of the recursions for spherical harmonics, flattened from (l and m, term).
    place : array of shape (n_channels,)
        Place of each channel in a row of the kernels.
    """
    table, spacing, n_per_l = load_spline_table(parameters)
    degrees, place = _lay_out(n_per_l)
    scales = [spacing, parameters.cutoff_radius, parameters.cutoff_width, 0.0, 1.0, 0.5, math.pi]
    return (
        _pad_table(table.numpy(), n_per_l).astype(dtype),
        degrees,
        np.array([*scales, *range(len(n_per_l))], dtype),
        _list_coefficients(len(n_per_l)).astype(dtype),
        place,
    )


@lru_cache(maxsize=32)
def order_by_component(parameters):
    """Return the number of radial channels of each degree, and where (l, n, m) is in (l, m, n)."""
    _, _, n_per_l = load_spline_table(parameters)
    order, first = [], 0
    for l, n in enumerate(n_per_l):
        places = first + np.arange((2 * l + 1) * n).reshape(2 * l + 1, n)
        order.append(places.T.ravel())
        first += places.size
    return np.array(n_per_l), np.concatenate(order)


def _lay_out(n_per_l):
    """Return the degree of each block of eight radial channels, and the place of each channel."""
    degrees, places, n_vectors = [], [], 0
    for l, n in enumerate(n_per_l):
        m = np.arange(2 * l + 1)
        for first in range(0, n, LANES):
            lanes = np.arange(min(LANES, n - first))[:, None]
            places.append(((n_vectors + m) * LANES + lanes).ravel())
            degrees.append(l)
            n_vectors += len(m)
    return np.array(degrees), np.concatenate(places)


def _pad_table(table, n_per_l):
    """Fill up the radial channels of each degree with zeros to blocks of eight, and flatten."""
    table = table.reshape(len(table), 4, -1)
    degrees = np.split(table, np.cumsum(n_per_l)[:-1], axis=2)
    padding = (0, 0), (0, 0)
    padded = [np.pad(part, (*padding, (0, -part.shape[2] % LANES))) for part in degrees]
    return np.concatenate(padded, axis=2).ravel()


def _list_coefficients(n_degrees):
    """Return four coefficients of the recursions for each l and m, flattened."""

    def norm(l, m):
        ratio = math.factorial(l - m) / math.factorial(l + m)
        return (-1) ** m * math.sqrt((2 * l + 1) / (2 if m else 4) / math.pi * ratio)

    rows = []
    for l in range(n_degrees):
        for m in range(l):
            inner = m + 1 < l
            rows += [
                (2 * l - 1) / (l - m) * norm(l, m) / norm(l - 1, m),
                (1 - l - m) / (l - m) * norm(l, m) / norm(l - 2, m) if inner else 0.0,
                norm(l, m) / norm(l - 1, m + 1) if inner else 0.0,
                (l + m) * norm(l, m) / norm(l - 1, m),
            ]
        rows += [norm(l, l) * (-1) ** l * math.prod(range(1, 2 * l, 2)), 0.0, 0.0, 0.0]
    return np.array(rows)
