"""The factors of the pair basis, of a few pairs at a time, for compiled loops on the CPU.

Spherical harmonics are computed for eight pairs at a time, and radial functions for one pair after
the other and eight channels at a time.
"""

from __future__ import annotations

import math

import numpy as np

from ._kernel_constants import N_SCALES
from ._vectors import LANES, add_product, compile_loop, fill, load, multiply, store


@compile_loop
def evaluate_radial(distance, table, degrees, scales, value, slope):
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
def evaluate_pairs(vectors, start, basis, work):
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


def make_workspace(basis):
    """Return the arrays for what is known of eight pairs."""
    table, degrees, scales, coefficients, _ = basis
    n_degrees, n_blocks = len(scales) - N_SCALES, len(degrees)
    n_vectors = (3, 1, 2 * n_degrees + len(coefficients) // 4, 4 * n_degrees**2, n_blocks, n_blocks)
    return tuple(np.empty(LANES * n, table.dtype) for n in n_vectors)
