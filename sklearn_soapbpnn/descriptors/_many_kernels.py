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
def take_networks(arrays, row, group, order, scale, square, lanes, start):
    """Put a row of eight networks side by side, in this order and times a scale.

    The arrays have the shape (n_networks, n_rows, n_columns), and ``square`` is for 64 numbers.
    """
    n_networks, n_rows, n_columns = arrays.shape
    first = group * LANES
    for column in range(0, n_columns, LANES):
        n = min(LANES, n_columns - column)
        for lane in range(min(LANES, n_networks - first)):
            at = ((first + lane) * n_rows + row) * n_columns + column
            if n == LANES:
                store(square, lane * LANES, load(arrays, at))
            else:
                for k in range(n):
                    square[lane * LANES + k] = take(arrays, at + k)
        turn(square)
        for k in range(n):
            scaled = multiply(load(square, k * LANES), take(scale, column + k))
            store(lanes, start + order[column + k] * LANES, scaled)


@compile_loop
def give_networks(lanes, start, order, scale, square, arrays, row, group):
    """Take eight networks apart that stand side by side, and multiply them by a scale."""
    n_networks, n_rows, n_columns = arrays.shape
    first = group * LANES
    for column in range(0, n_columns, LANES):
        n = min(LANES, n_columns - column)
        for k in range(n):
            scaled = multiply(
                load(lanes, start + order[column + k] * LANES), take(scale, column + k)
            )
            store(square, k * LANES, scaled)
        turn(square)
        for lane in range(min(LANES, n_networks - first)):
            if n == LANES:
                at = ((first + lane) * n_rows + row) * n_columns + column
                store(arrays, at, load(square, lane * LANES))
            else:
                for k in range(n):
                    arrays[first + lane, row, column + k] = square[lane * LANES + k]


@compile_loop
def _pack(arrays, order, ones, square, packed):
    """Sort arrays (n_networks, n_rows, n_columns) in the way of the loops."""
    n_rows, n_groups, n_columns, _ = packed.shape
    for place in range(n_rows * n_groups):
        row, group, start = place // n_groups, place % n_groups, place * n_columns * LANES
        take_networks(arrays, row, group, order, ones, square, packed, start)


@compile_loop
def _unpack(packed, order, ones, square, arrays):
    """Undo :func:`_pack`."""
    n_rows, n_groups, n_columns, _ = packed.shape
    for place in range(n_rows * n_groups):
        row, group, start = place // n_groups, place % n_groups, place * n_columns * LANES
        give_networks(packed, start, order, ones, square, arrays, row, group)


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
    _, order = order_by_component(parameters)
    packed = allocate(np.empty, channels.shape, channels.dtype)
    _pack(np.ascontiguousarray(channels), order, *_make_workspace(packed), packed)
    contract_packed(parameters, vectors, rows, packed, forces)


def spread(parameters, vectors, rows, forces, channels):
    """Write the transpose of :func:`contract`; see there."""
    _, order = order_by_component(parameters)
    packed = allocate(np.zeros, channels.shape, channels.dtype)
    spread_packed(parameters, vectors, rows, forces, packed)
    _unpack(packed, order, *_make_workspace(packed), channels)


def contract_packed(parameters, vectors, rows, packed, forces):
    """Evaluate :func:`contract` for channels in the layout of the loops, see :func:`allocate`."""
    flat = forces.reshape(len(forces), 1, -1)
    result = allocate(np.empty, flat.shape, flat.dtype)
    _run(_contract, parameters, vectors, rows, packed, result)
    _unpack(result, np.arange(vectors.size), *_make_workspace(result), flat)


def spread_packed(parameters, vectors, rows, forces, packed):
    """Add the result of :func:`spread` to channels in the layout of the loops."""
    flat = np.ascontiguousarray(forces).reshape(len(forces), 1, -1)
    given = allocate(np.empty, flat.shape, flat.dtype)
    _pack(flat, np.arange(vectors.size), *_make_workspace(given), given)
    _run(_spread, parameters, vectors, rows, given, packed)


def allocate(make, shape, dtype):
    """Return memory for arrays (n_networks, n_rows, n_columns) in the layout of the loops."""
    n_networks, n_rows, n_columns = shape
    return make((n_rows, -(-n_networks // LANES), n_columns, LANES), dtype)


def _run(loop, parameters, vectors, rows, given, result):
    vectors, rows = map(np.ascontiguousarray, (vectors, rows))
    basis, (sizes, _) = load_basis(parameters, vectors.dtype), order_by_component(parameters)
    loop(vectors, rows, basis, sizes, make_workspace(basis), given, result)


def _make_workspace(packed):
    """Return ones for all columns, and memory for a square of numbers."""
    return np.ones(packed.shape[2], packed.dtype), np.zeros(LANES**2, packed.dtype)
