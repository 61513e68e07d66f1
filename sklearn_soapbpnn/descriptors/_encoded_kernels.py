r"""The encoded power spectrum of pseudo-species and its derivatives as compiled loops for the CPU.

Batches of small matrix products take torch longer to prepare than to compute. All functions take
expansions by degree, see :class:`PowerSpectrum`, of atoms that are sorted by element. The matrices
of a spectrum are full, because the encoding e of the central element is not symmetric.

Four vectors of eight run over the end of a row; the next row overwrites what is too much.
"""

from __future__ import annotations

import numpy as np

from ._vectors import LANES, add_product, compile_loop, fill, load, store, take

WIDE = 4 * LANES


@compile_loop
def _multiply(a, start, n_rows, b, first, n_columns, n_terms, result, here):
    """Write A' B, for A of shape (n_terms, n_rows) and B of shape (n_terms, n_columns).

    The matrices begin at some index of each array; their rows follow one another.
    """
    zero = fill(b[0] - b[0])
    for p in range(n_rows):
        for q in range(0, n_columns, WIDE):
            one, two, three, four = zero, zero, zero, zero
            for k in range(n_terms):
                factor, at = take(a, start + k * n_rows + p), first + k * n_columns + q
                one = add_product(one, load(b, at), factor)
                two = add_product(two, load(b, at + LANES), factor)
                three = add_product(three, load(b, at + 2 * LANES), factor)
                four = add_product(four, load(b, at + 3 * LANES), factor)
            store(result, here + q, one)
            store(result, here + q + LANES, two)
            store(result, here + q + 2 * LANES, three)
            store(result, here + q + 3 * LANES, four)
        here += n_columns


@compile_loop
def _turn(matrix, n_rows, n_columns, result):
    """Write the transpose of a matrix; both are flat."""
    rows = matrix[: n_rows * n_columns].reshape((n_rows, n_columns))
    columns = result[: n_rows * n_columns].reshape((n_columns, n_rows))
    for p in range(n_rows):
        for m in range(n_columns):
            columns[m, p] = rows[p, m]


@compile_loop
def _correlate(c, d, sizes, left, right, products):
    """Write c c' of an atom; or c d' + d c', as the product of (c, d) and (d, c)."""
    first, here = 0, 0
    for l in range(len(sizes)):
        size, n_m = sizes[l], 2 * l + 1
        n, n_terms = size * n_m, n_m
        _turn(c[first:], size, n_m, left)
        if d is not None:
            _turn(d[first:], size, n_m, left[n:])
            for k in range(n):
                right[k], right[n + k] = left[n + k], left[k]
            n_terms = 2 * n_m
        _multiply(right, 0, size, left, 0, size, n_terms, products, here)
        first, here = first + n, here + size * size


@compile_loop
def _encode(c, d, encoding, counts, share, sizes, left, right, row, products, features):
    """Write the products of all atoms, and these times e without a share of their sum."""
    atom, n = 0, encoding.shape[1]
    for element in range(len(counts)):
        for _ in range(counts[element]):
            _correlate(c[atom], None if d is None else d[atom], sizes, left, right, row)
            mean = row[0] - row[0]
            for k in range(n):
                products[atom, k] = row[k]
                features[atom, k] = row[k] * encoding[element, k]
                mean += row[k] * encoding[element, k]
            mean *= share
            for k in range(n):
                features[atom, k] -= mean
            atom += 1


@compile_loop
def _apply(gradient, encoding, c, counts, sizes, matrix, columns, result):
    """Write (M + M') c; the symmetric matrix of one degree at a time is in memory."""
    atom = 0
    for element in range(len(counts)):
        for _ in range(counts[element]):
            first, here = 0, 0
            for l in range(len(sizes)):
                size, n_m = sizes[l], 2 * l + 1
                end = here + size * size
                g, e = gradient[atom, here:end], encoding[element, here:end]
                for k in range(size * size):
                    matrix[k] = g[k] * e[k]
                both = matrix[: size * size].reshape((size, size))
                for p in range(size):
                    for q in range(p):
                        both[p, q] += both[q, p]
                        both[q, p] = both[p, q]
                    both[p, p] += both[p, p]
                block = c[atom, first:]
                _multiply(block, 0, n_m, matrix, 0, size, size, columns, 0)
                _turn(columns, n_m, size, result[atom, first:])
                first, here = first + size * n_m, end
            atom += 1


@compile_loop
def _sum_products(a, b, counts, sums):
    """Add the products of all atoms to the sums of their elements."""
    atom = 0
    for element in range(len(counts)):
        for _ in range(counts[element]):
            for k in range(a.shape[1]):
                sums[element, k] += a[atom, k] * b[atom, k]
            atom += 1


def encode(c, d, encoding, counts, sizes, share):
    r"""Return c c', or c d' + d c', and this times e without a share of its sum.

    Parameters
    ----------
    c : array of shape (n_atoms, n_pseudo_species * n_channels)
        The expansion, by degree.
    d : array of the shape of c, or None
        Another expansion.
    encoding : array of shape (n_elements, n_features)
        e.
    counts : array of shape (n_elements,)
        Number of atoms of each element.
    sizes : array of shape (n_degrees,)
        Number of channels p of each degree.
    share : float
        :math:`1 / n` if the mean is to be subtracted, or 0.

    Returns
    -------
    array of shape (n_atoms, n_features)
    array of shape (n_atoms, n_features)
    """
    c, d = np.ascontiguousarray(c), None if d is None else np.ascontiguousarray(d)
    products = np.empty((len(c), encoding.shape[1]), c.dtype)
    features = np.empty_like(products)
    left = _make_matrices(sizes, c.dtype)
    right = left if d is None else np.empty_like(left)
    row = np.zeros(encoding.shape[1] + WIDE, c.dtype)
    share = c.dtype.type(share)
    _encode(c, d, encoding, counts, share, sizes, left, right, row, products, features)
    return products, features


def apply(gradient, encoding, c, counts, sizes):
    """Return (M + M') c for M = e g, with g of shape (n_atoms, n_features); see :func:`encode`."""
    gradient, c = np.ascontiguousarray(gradient), np.ascontiguousarray(c)
    matrix = np.zeros(sizes.max() ** 2 + WIDE, c.dtype)
    columns, result = _make_matrices(sizes, c.dtype), np.empty_like(c)
    _apply(gradient, encoding, c, counts, sizes, matrix, columns, result)
    return result


def sum_products(a, b, counts):
    """Return the sum of a b over the atoms of each element: (n_elements, n_features)."""
    sums = np.zeros((len(counts), a.shape[1]), a.dtype)
    _sum_products(np.ascontiguousarray(a), np.ascontiguousarray(b), counts, sums)
    return sums


def _make_matrices(sizes, dtype):
    """Return an array for two expansions of any degree."""
    rows = 2 * (2 * np.arange(len(sizes)) + 1)
    return np.zeros((sizes * rows).max() + WIDE, dtype)
