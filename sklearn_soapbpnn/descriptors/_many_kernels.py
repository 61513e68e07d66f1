r"""Sums over pairs for several networks at once, as compiled loops for the CPU.

The factors of a pair are the same for all networks, and are computed once. The loops work on eight
*networks* at a time, and sum over n first: for :math:`S = \sum_n d_n R_n` and
:math:`T = \sum_n d_n R_n'` of each l and m, the gradient is :math:`S \nabla Y + T Y \hat r`.

A row of channels is ordered by group of eight networks, l, m, n, and network, which runs fastest.
Lanes without a network contain anything, since no lane affects another.
"""

from __future__ import annotations

import numpy as np

from ._factor_kernels import evaluate_pairs, evaluate_radial, make_workspace
from ._kernel_constants import load_basis, order_by_component
from ._vectors import LANES, add_product, compile_loop, fill, load, multiply, store, take, turn


@compile_loop
def _pack(arrays, order, square, packed):
    """Sort arrays (n_networks, n_rows, n_columns) in the way of the loops."""
    n_networks, n_rows, n_columns = arrays.shape
    n_groups = packed.shape[1]
    for place in range(n_rows * n_groups):
        row, first, here = place // n_groups, place % n_groups * LANES, place * n_columns * LANES
        n_lanes = min(LANES, n_networks - first)
        for column in range(0, n_columns, LANES):
            n, start = min(LANES, n_columns - column), (first * n_rows + row) * n_columns + column
            for lane in range(n_lanes):
                at = start + lane * n_rows * n_columns
                if n == LANES:
                    store(square, lane * LANES, load(arrays, at))
                else:
                    for k in range(n):
                        square[lane * LANES + k] = take(arrays, at + k)
            turn(square)
            for k in range(n):
                store(packed, here + order[column + k] * LANES, load(square, k * LANES))


@compile_loop
def _unpack(packed, order, square, arrays):
    """Undo :func:`_pack`."""
    n_networks, n_rows, n_columns = arrays.shape
    n_groups = packed.shape[1]
    for place in range(n_rows * n_groups):
        row, first, here = place // n_groups, place % n_groups * LANES, place * n_columns * LANES
        n_lanes = min(LANES, n_networks - first)
        for column in range(0, n_columns, LANES):
            n = min(LANES, n_columns - column)
            for k in range(n):
                store(square, k * LANES, load(packed, here + order[column + k] * LANES))
            turn(square)
            for lane in range(n_lanes):
                if n == LANES:
                    at = ((first + lane) * n_rows + row) * n_columns + column
                    store(arrays, at, load(square, lane * LANES))
                else:
                    for k in range(n):
                        arrays[first + lane, row, column + k] = square[lane * LANES + k]


@compile_loop
def _contract(vectors, rows, basis, sizes, work, packed, forces):
    """Write the sum over channels, as seen from both ends of each pair, times the gradient."""
    table, degrees, scales, _, _ = basis
    directions, distances, _, angular, value, slope = work
    one, zero, n = scales[4], fill(scales[3]), len(angular) // 4
    _, n_groups, n_channels, _ = packed.shape
    for start in range(0, len(vectors), LANES):
        for lane in range(evaluate_pairs(vectors, start, basis, work)):
            evaluate_radial(distances[lane], table, degrees, scales, value, slope)
            inverse = one / distances[lane]
            for group in range(n_groups):
                forward, backward = rows[0, start + lane], rows[1, start + lane]
                forward = (forward * n_groups + group) * n_channels * LANES
                backward = (backward * n_groups + group) * n_channels * LANES
                x, y, z, along, first = zero, zero, zero, zero, 0
                for l in range(len(sizes)):
                    parity = one if l % 2 == 0 else -one
                    for k in range(l * l, (l + 1) * (l + 1)):
                        s, t = zero, zero
                        for i in range(first, first + sizes[l]):
                            d = add_product(load(packed, forward), load(packed, backward), parity)
                            s = add_product(s, d, take(value, i))
                            t = add_product(t, d, take(slope, i))
                            forward += LANES
                            backward += LANES
                        at = k * LANES + lane
                        along = add_product(along, t, take(angular, at))
                        x = add_product(x, s, take(angular, at + n))
                        y = add_product(y, s, take(angular, at + 2 * n))
                        z = add_product(z, s, take(angular, at + 3 * n))
                    first += -(-sizes[l] // LANES) * LANES
                here = (group * len(vectors) + start + lane) * 3 * LANES
                for part, axis in ((x, 0), (y, 1), (z, 2)):
                    radial = multiply(along, directions[axis * LANES + lane])
                    store(forces, here + axis * LANES, add_product(radial, part, inverse))


@compile_loop
def _spread(vectors, rows, basis, sizes, work, forces, packed):
    """Add the transpose of :func:`_contract`."""
    table, degrees, scales, _, _ = basis
    directions, distances, _, angular, value, slope = work
    one, n = scales[4], len(angular) // 4
    _, n_groups, n_channels, _ = packed.shape
    for start in range(0, len(vectors), LANES):
        for lane in range(evaluate_pairs(vectors, start, basis, work)):
            evaluate_radial(distances[lane], table, degrees, scales, value, slope)
            inverse = one / distances[lane]
            for group in range(n_groups):
                forward, backward = rows[0, start + lane], rows[1, start + lane]
                forward = (forward * n_groups + group) * n_channels * LANES
                backward = (backward * n_groups + group) * n_channels * LANES
                here, first = (group * len(vectors) + start + lane) * 3 * LANES, 0
                x, y = load(forces, here), load(forces, here + LANES)
                z = load(forces, here + 2 * LANES)
                along = multiply(x, directions[lane])
                along = add_product(along, y, directions[LANES + lane])
                along = add_product(along, z, directions[2 * LANES + lane])
                x, y, z = multiply(x, inverse), multiply(y, inverse), multiply(z, inverse)
                for l in range(len(sizes)):
                    parity = one if l % 2 == 0 else -one
                    for k in range(l * l, (l + 1) * (l + 1)):
                        at = k * LANES + lane
                        t = multiply(along, take(angular, at))
                        s = multiply(x, take(angular, at + n))
                        s = add_product(s, y, take(angular, at + 2 * n))
                        s = add_product(s, z, take(angular, at + 3 * n))
                        for i in range(first, first + sizes[l]):
                            product = add_product(multiply(s, take(value, i)), t, take(slope, i))
                            old = load(packed, forward)
                            store(packed, forward, add_product(old, product, one))
                            old = load(packed, backward)
                            store(packed, backward, add_product(old, product, parity))
                            forward += LANES
                            backward += LANES
                    first += -(-sizes[l] // LANES) * LANES


def contract(parameters, vectors, rows, channels, forces):
    """Write the sum over channels, as seen from both ends of each pair, times the gradient.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters of the pair basis.
    vectors : array of shape (n_pairs, 3)
        Pair vectors; all arrays of numbers have one precision.
    rows : array of shape (2, n_pairs)
        Rows of the two directions of each pair.
    channels : array of shape (n_networks, n_rows, n_channels)
        Channels, an argument.
    forces : array of shape (n_networks, n_pairs, 3)
        The result.
    """
    _call(_contract, parameters, vectors, rows, channels, forces.reshape(len(forces), 1, -1))


def spread(parameters, vectors, rows, forces, channels):
    """Write the transpose of :func:`contract`; see there."""
    _call(_spread, parameters, vectors, rows, forces.reshape(len(forces), 1, -1), channels)


def _call(loop, parameters, vectors, rows, given, result):
    """Run a loop over pairs with arrays of shape (n_networks, n_rows, n_columns)."""
    vectors, rows, given = map(np.ascontiguousarray, (vectors, rows, given))
    basis, square = load_basis(parameters, vectors.dtype), np.zeros(LANES**2, vectors.dtype)
    sizes, order = order_by_component(parameters)
    axes = np.arange(vectors.size)
    packed, unpacked = (order, axes) if loop is _contract else (axes, order)
    source, target = _allocate(np.empty, given), _allocate(np.zeros, result)
    _pack(given, packed, square, source)
    loop(vectors, rows, basis, sizes, make_workspace(basis), source, target)
    _unpack(target, unpacked, square, result)


def _allocate(make, arrays):
    """Return memory for arrays (n_networks, n_rows, n_columns) in the layout of the loops."""
    n_networks, n_rows, n_columns = arrays.shape
    return make((n_rows, -(-n_networks // LANES), n_columns, LANES), arrays.dtype)
