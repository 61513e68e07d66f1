r"""Sums over pairs as compiled loops for the CPU, in which nothing is stored per pair.

With torch, each factor of the pair basis is a tensor with a row per pair, and most of the time goes
into moving them. Here the factors of a few pairs are computed, used and forgotten: spherical
harmonics for eight pairs at a time, and the rest for one pair after the other and eight radial
channels at a time.

This module is imported only if it is used, since the import of numba takes a while.
"""

from __future__ import annotations

import math

import numpy as np

from ._kernel_constants import N_SCALES, load_basis
from ._vectors import LANES, add_product, compile_loop, fill, load, multiply, store, take, total

__all__ = ["contract", "expand", "load_basis", "spread"]


@compile_loop
def _evaluate_radial(distance, table, degrees, scales, value, slope):
    """Write the radial factors of a pair: R f, and d(R f)/dr - l R f / r."""
    spacing, radius, width = scales[0], scales[1], scales[2]
    zero, one, half, pi = scales[3], scales[4], scales[5], scales[6]
    stride = LANES * len(degrees)
    last = len(table) // (4 * stride) - 1
    interval, t = last, distance - distance  # zero or NaN, times zero
    if distance < radius:
        place = distance / spacing
        interval = min(int(place), last)
        t = place - np.floor(place)
    weight, weight_slope = one, zero
    phase = (distance - (radius - width)) / width
    if phase > zero:
        weight = half * (one + math.cos(pi * phase))
        weight_slope = -half * pi * math.sin(pi * phase) / width
    for block in range(len(degrees)):
        start = interval * 4 * stride + block * LANES
        p, m = load(table, start), load(table, start + stride)
        a, b = load(table, start + 2 * stride), load(table, start + 3 * stride)
        spline = add_product(p, add_product(m, add_product(a, b, t), t), t)
        rise = add_product(m, add_product(add_product(a, a, one), b, t + t + t), t)
        scaled = multiply(spline, weight)
        change = add_product(multiply(rise, weight / spacing), spline, weight_slope)
        store(value, block * LANES, scaled)
        degree = scales[N_SCALES + degrees[block]]
        store(slope, block * LANES, add_product(change, scaled, -degree / distance))


@compile_loop
def _evaluate_harmonics(directions, coefficients, scales, scratch, angular):
    """Write solid harmonics of eight unit vectors and their gradients, after sphericart [1]_.

    Its :math:`Q_l^m` are normalised here, and multiplied by the real or the imaginary part of
    :math:`(x + i y)^m`.

    .. [1] Bigi, Fraux, Browning, Ceriotti, "Fast evaluation of spherical harmonics with
       sphericart", J. Chem. Phys. 159, 064802 (2023), doi:10.1063/5.0156307.
    """
    x, y, z = load(directions, 0), load(directions, LANES), load(directions, 2 * LANES)
    n_degrees, n = len(scales) - N_SCALES, len(angular) // 4
    minus, first_q = -scales[4], 2 * LANES * n_degrees
    zero, real, imaginary = fill(scales[3]), fill(scales[4]), fill(scales[3])
    for m in range(n_degrees):
        store(scratch, 2 * m * LANES, real)
        store(scratch, (2 * m + 1) * LANES, imaginary)
        rotated = add_product(multiply(x, real), multiply(y, imaginary), minus)
        real, imaginary = rotated, add_product(multiply(x, imaginary), y, real)
    for l in range(n_degrees):
        for m in range(l + 1):
            index = l * (l + 1) // 2 + m
            here, factors = first_q + index * LANES, 4 * index
            below = here - l * LANES  # degree l - 1, same m
            if m == l:
                q, dz, dr = fill(coefficients[factors]), zero, zero
            else:
                q = multiply(multiply(load(scratch, below), z), coefficients[factors])
                dz = multiply(load(scratch, below), coefficients[factors + 3])
                dr = zero
            if m + 1 < l:
                q = add_product(
                    q, load(scratch, below - (l - 1) * LANES), coefficients[factors + 1]
                )
                dr = multiply(load(scratch, below + LANES), coefficients[factors + 2])
            store(scratch, here, q)
            previous = 2 * max(m - 1, 0) * LANES
            slope = multiply(q, scales[N_SCALES + m])  # of the m-th power
            real_slope = multiply(slope, load(scratch, previous))
            imaginary_slope = multiply(slope, load(scratch, previous + LANES))
            # for m = 0 both parts go to the same place, and the real one stays
            part, k = load(scratch, (2 * m + 1) * LANES), (l * (l + 1) - m) * LANES
            store(angular, k, multiply(q, part))
            store(angular, k + n, add_product(imaginary_slope, multiply(dr, part), x))
            store(angular, k + 2 * n, add_product(real_slope, multiply(dr, part), y))
            store(angular, k + 3 * n, multiply(dz, part))
            part, k = load(scratch, 2 * m * LANES), (l * (l + 1) + m) * LANES
            store(angular, k, multiply(q, part))
            store(angular, k + n, add_product(real_slope, multiply(dr, part), x))
            y_slope = add_product(multiply(multiply(dr, part), y), imaginary_slope, minus)
            store(angular, k + 2 * n, y_slope)
            store(angular, k + 3 * n, multiply(dz, part))


@compile_loop
def _evaluate_pairs(vectors, start, basis, work):
    """Write the direction, distance and angular factors of eight pairs; return their number."""
    _, _, scales, coefficients, _ = basis
    directions, distances, scratch, angular, _, _ = work
    count = min(LANES, len(vectors) - start)
    for lane in range(LANES):
        pair = start + min(lane, count - 1)
        x, y, z = vectors[pair, 0], vectors[pair, 1], vectors[pair, 2]
        distance = math.sqrt(x * x + y * y + z * z)
        distances[lane] = distance
        directions[lane] = x / distance
        directions[LANES + lane] = y / distance
        directions[2 * LANES + lane] = z / distance
    _evaluate_harmonics(directions, coefficients, scales, scratch, angular)
    return count


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
        for lane in range(_evaluate_pairs(vectors, start, basis, work)):
            _evaluate_radial(distances[lane], table, degrees, scales, value, slope)
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
        for lane in range(_evaluate_pairs(vectors, start, basis, work)):
            _evaluate_radial(distances[lane], table, degrees, scales, value, slope)
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
        for lane in range(_evaluate_pairs(vectors, start, basis, work)):
            _evaluate_radial(distances[lane], table, degrees, scales, value, slope)
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


def expand(basis, vectors, rows, channels):
    """Write the sum of the pair basis over both directions of each pair.

    Parameters
    ----------
    basis : tuple of arrays
        See :func:`load_basis`; vectors, channels and forces have its precision.
    vectors : array of shape (n_pairs, 3)
        Pair vectors.
    rows : array of shape (2, n_pairs)
        Rows to which the two directions of each pair are added.
    channels : array of shape (n_rows, n_channels)
        The result.
    """
    packed = _make_rows(basis, len(channels))
    _expand(*map(np.ascontiguousarray, (vectors, rows)), basis, _make_workspace(basis), packed)
    _unpack(packed, basis[4], channels)


def contract(basis, vectors, rows, channels, forces):
    """Write the sum over channels, as seen from both ends of each pair, times the gradient.

    Parameters
    ----------
    basis, vectors, rows, channels
        See :func:`expand`; ``channels`` is an argument here.
    forces : array of shape (n_pairs, 3)
        The result.
    """
    packed = _make_rows(basis, len(channels))
    vectors, rows, channels = map(np.ascontiguousarray, (vectors, rows, channels))
    _pack(channels, basis[4], packed)
    _contract(vectors, rows, basis, _make_workspace(basis), packed, forces)


def spread(basis, vectors, rows, forces, channels):
    """Write the transpose of :func:`contract`; see there."""
    packed = _make_rows(basis, len(channels))
    vectors, rows, forces = map(np.ascontiguousarray, (vectors, rows, forces))
    _spread(vectors, rows, basis, _make_workspace(basis), forces, packed)
    _unpack(packed, basis[4], channels)


def _make_rows(basis, n_rows):
    """Return zeros for rows of channels in the layout of the kernels."""
    n_vectors = int((2 * basis[1] + 1).sum())
    return np.zeros((n_rows, LANES * n_vectors), basis[0].dtype)


def _make_workspace(basis):
    """Return the arrays for what is known of eight pairs."""
    table, degrees, scales, coefficients, _ = basis
    n_degrees, n_blocks = len(scales) - N_SCALES, len(degrees)
    n_vectors = (3, 1, 2 * n_degrees + len(coefficients) // 4, 4 * n_degrees**2, n_blocks, n_blocks)
    return tuple(np.empty(LANES * n, table.dtype) for n in n_vectors)
