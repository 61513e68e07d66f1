r"""Sums over pairs as compiled loops for the CPU, in which nothing is stored per pair.

With torch, each factor of the pair basis is a tensor with a row per pair, and most of the time goes
into moving them. Here the factors of a few pairs are computed, used and forgotten: spherical
harmonics for eight pairs at a time, and the rest for one pair after the other and eight radial
channels at a time.

This module is imported only if it is used, since the import of numba takes a while.
"""

from __future__ import annotations

import numpy as np

from ._factor_kernels import evaluate_pairs, evaluate_radial, make_workspace
from ._kernel_constants import load_basis
from ._vectors import LANES, add_product, compile_loop, fill, load, multiply, store, take, total


@compile_loop
def _pack(channels, place, packed):
    """Sort rows of channels in the way of the kernels."""
    for row in range(len(channels)):
        for k in range(len(place)):
            packed[row, place[k]] = channels[row, k]


@compile_loop
def _unpack(packed, place, channels):
    for row in range(len(channels)):
        for k in range(len(place)):
            channels[row, k] = packed[row, place[k]]


@compile_loop
def _expand(vectors, rows, basis, work, packed):
    """Add the pair basis to both directions of each pair."""
    table, degrees, scales, _, _ = basis
    _, distances, _, angular, value, slope = work
    width, one = packed.shape[1], scales[4]
    for start in range(0, len(vectors), LANES):
        for lane in range(evaluate_pairs(vectors, start, basis, work)):
            evaluate_radial(distances[lane], table, degrees, scales, value, slope)
            forward, backward = rows[0, start + lane] * width, rows[1, start + lane] * width
            for block in range(len(degrees)):
                l = degrees[block]
                r = load(value, block * LANES)
                parity = one if l % 2 == 0 else -one
                for k in range(l * l, (l + 1) * (l + 1)):
                    product = multiply(r, take(angular, k * LANES + lane))
                    store(packed, forward, add_product(load(packed, forward), product, one))
                    store(packed, backward, add_product(load(packed, backward), product, parity))
                    forward += LANES
                    backward += LANES


@compile_loop
def _contract(vectors, rows, basis, work, packed, forces):
    """Write the sum over channels, as seen from both ends of each pair, times the gradient."""
    table, degrees, scales, _, _ = basis
    directions, distances, _, angular, value, slope = work
    width, one, n = packed.shape[1], scales[4], len(angular) // 4
    zero = fill(scales[3])
    for start in range(0, len(vectors), LANES):
        for lane in range(evaluate_pairs(vectors, start, basis, work)):
            evaluate_radial(distances[lane], table, degrees, scales, value, slope)
            forward, backward = rows[0, start + lane] * width, rows[1, start + lane] * width
            x, y, z, along = zero, zero, zero, zero
            for block in range(len(degrees)):
                l = degrees[block]
                parity = one if l % 2 == 0 else -one
                x_l, y_l, z_l, s_l = zero, zero, zero, zero
                for k in range(l * l, (l + 1) * (l + 1)):
                    d = add_product(load(packed, forward), load(packed, backward), parity)
                    at = k * LANES + lane
                    s_l = add_product(s_l, d, take(angular, at))
                    x_l = add_product(x_l, d, take(angular, at + n))
                    y_l = add_product(y_l, d, take(angular, at + 2 * n))
                    z_l = add_product(z_l, d, take(angular, at + 3 * n))
                    forward += LANES
                    backward += LANES
                r = load(value, block * LANES)
                x, y, z = add_product(x, r, x_l), add_product(y, r, y_l), add_product(z, r, z_l)
                along = add_product(along, load(slope, block * LANES), s_l)
            radial, inverse = total(along), one / distances[lane]
            forces[start + lane, 0] = total(x) * inverse + radial * directions[lane]
            forces[start + lane, 1] = total(y) * inverse + radial * directions[LANES + lane]
            forces[start + lane, 2] = total(z) * inverse + radial * directions[2 * LANES + lane]


@compile_loop
def _spread(vectors, rows, basis, work, forces, packed):
    """Add the transpose of :func:`_contract`."""
    table, degrees, scales, _, _ = basis
    directions, distances, _, angular, value, slope = work
    width, one, n = packed.shape[1], scales[4], len(angular) // 4
    for start in range(0, len(vectors), LANES):
        for lane in range(evaluate_pairs(vectors, start, basis, work)):
            evaluate_radial(distances[lane], table, degrees, scales, value, slope)
            forward, backward = rows[0, start + lane] * width, rows[1, start + lane] * width
            x, y, z = forces[start + lane, 0], forces[start + lane, 1], forces[start + lane, 2]
            along = x * directions[lane] + y * directions[LANES + lane]
            along += z * directions[2 * LANES + lane]
            x, y, z = x / distances[lane], y / distances[lane], z / distances[lane]
            for block in range(len(degrees)):
                l = degrees[block]
                r, q = load(value, block * LANES), multiply(load(slope, block * LANES), along)
                parity = one if l % 2 == 0 else -one
                for k in range(l * l, (l + 1) * (l + 1)):
                    at = k * LANES + lane
                    across = x * take(angular, at + n) + y * take(angular, at + 2 * n)
                    across += z * take(angular, at + 3 * n)
                    product = add_product(multiply(r, across), q, take(angular, at))
                    store(packed, forward, add_product(load(packed, forward), product, one))
                    store(packed, backward, add_product(load(packed, backward), product, parity))
                    forward += LANES
                    backward += LANES


def expand(parameters, vectors, rows, channels):
    """Write the sum of the pair basis over both directions of each pair.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters of the pair basis.
    vectors : array of shape (n_pairs, 3)
        Pair vectors; channels and forces have their precision.
    rows : array of shape (2, n_pairs)
        Rows to which the two directions of each pair are added.
    channels : array of shape (n_rows, n_channels)
        The result.
    """
    basis = load_basis(parameters, vectors.dtype)
    packed = _make_rows(basis, len(channels))
    _expand(*map(np.ascontiguousarray, (vectors, rows)), basis, make_workspace(basis), packed)
    _unpack(packed, basis[4], channels)


def contract(parameters, vectors, rows, channels, forces):
    """Write the sum over channels, as seen from both ends of each pair, times the gradient.

    Parameters
    ----------
    parameters, vectors, rows, channels
        See :func:`expand`; ``channels`` is an argument here.
    forces : array of shape (n_pairs, 3)
        The result.
    """
    basis = load_basis(parameters, vectors.dtype)
    packed = _make_rows(basis, len(channels))
    vectors, rows, channels = map(np.ascontiguousarray, (vectors, rows, channels))
    _pack(channels, basis[4], packed)
    _contract(vectors, rows, basis, make_workspace(basis), packed, forces)


def spread(parameters, vectors, rows, forces, channels):
    """Write the transpose of :func:`contract`; see there."""
    basis = load_basis(parameters, vectors.dtype)
    packed = _make_rows(basis, len(channels))
    vectors, rows, forces = map(np.ascontiguousarray, (vectors, rows, forces))
    _spread(vectors, rows, basis, make_workspace(basis), forces, packed)
    _unpack(packed, basis[4], channels)


def _make_rows(basis, n_rows):
    """Return zeros for rows of channels in the layout of the kernels."""
    n_vectors = int((2 * basis[1] + 1).sum())
    return np.zeros((n_rows, LANES * n_vectors), basis[0].dtype)
