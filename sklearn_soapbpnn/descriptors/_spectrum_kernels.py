r"""The power spectrum and its derivatives as compiled loops for the CPU.

Batches of small matrix products take torch longer to prepare than to compute. All functions take
expansions by degree, see :class:`PowerSpectrum`: for each l a matrix with a row for each channel p
and a column for each m. Here m runs over rows, so that eight channels are processed at a time.

The packed spectrum has its rows p in turn, each with the columns :math:`q \ge p`. Vectors of eight
run over the end of a row; the next row overwrites what is too much.
"""

from __future__ import annotations

import numpy as np

from ._vectors import LANES, add_product, compile_loop, fill, load, store, take


@compile_loop
def _turn(expansion, first, size, n_m, columns):
    """Copy the matrix of one degree, with m before p; rows are a vector longer than needed."""
    width = size + LANES
    for p in range(size):
        for m in range(n_m):
            columns[m * width + p] = take(expansion, first + p * n_m + m)


@compile_loop
def _correlate(expansion, sizes, weight, columns, row, spectrum):
    """Write sum_m c_p c_q times the weight, packed."""
    zero = fill(weight[0] - weight[0])
    for atom in range(len(expansion)):
        first, here = atom * expansion.shape[1], 0
        for l in range(len(sizes)):
            size, n_m = sizes[l], 2 * l + 1
            width = size + LANES
            _turn(expansion, first, size, n_m, columns)
            for p in range(size):
                for q in range(p, size, LANES):
                    product = zero
                    for m in range(n_m):
                        c_q, c_p = load(columns, m * width + q), take(columns, m * width + p)
                        product = add_product(product, c_q, c_p)
                    store(row, here + q - p, product)
                here += size - p
            first += size * n_m
        for k in range(here):
            spectrum[atom, k] = row[k] * weight[k]


@compile_loop
def _correlate_both(gradient, expansion, sizes, weight, others, columns, row, spectrum):
    """Write sum_m (t_p c_q + c_p t_q) times the weight, packed."""
    zero = fill(weight[0] - weight[0])
    for atom in range(len(expansion)):
        first, here = atom * expansion.shape[1], 0
        for l in range(len(sizes)):
            size, n_m = sizes[l], 2 * l + 1
            width = size + LANES
            _turn(expansion, first, size, n_m, columns)
            _turn(gradient, first, size, n_m, others)
            for p in range(size):
                for q in range(p, size, LANES):
                    product = zero
                    for m in range(n_m):
                        c_q, c_p = load(columns, m * width + q), take(columns, m * width + p)
                        t_q, t_p = load(others, m * width + q), take(others, m * width + p)
                        product = add_product(add_product(product, c_q, t_p), t_q, c_p)
                    store(row, here + q - p, product)
                here += size - p
            first += size * n_m
        for k in range(here):
            spectrum[atom, k] = row[k] * weight[k]


@compile_loop
def _unpack(row, here, size, matrix):
    """Write the symmetric matrix of one degree, and return where the next one starts."""
    width = size + LANES
    for p in range(size):
        for q in range(p, size, LANES):
            store(matrix, p * width + q, load(row, here + q - p))
        for q in range(p + 1, size):
            matrix[q * width + p] = take(row, here + q - p)
        here += size - p
    return here


@compile_loop
def _multiply(spectrum, expansion, sizes, weight, matrix, columns, row, result):
    """Write G c for each degree, with G the symmetric matrix that is packed in the spectrum."""
    zero = fill(weight[0] - weight[0])
    for atom in range(len(expansion)):
        first, here = 0, 0
        for k in range(len(weight)):
            row[k] = spectrum[atom, k] * weight[k]
        for l in range(len(sizes)):
            size, n_m = sizes[l], 2 * l + 1
            width = size + LANES
            here = _unpack(row, here, size, matrix)
            start = atom * expansion.shape[1] + first
            for p in range(0, size, LANES):
                # sums of four m at a time do not wait for each other
                for a in range(0, n_m, 4):
                    b, c, d = min(a + 1, 2 * l), min(a + 2, 2 * l), min(a + 3, 2 * l)
                    sum_a, sum_b, sum_c, sum_d = zero, zero, zero, zero
                    for q in range(size):
                        g, at = load(matrix, q * width + p), start + q * n_m
                        sum_a = add_product(sum_a, g, take(expansion, at + a))
                        sum_b = add_product(sum_b, g, take(expansion, at + b))
                        sum_c = add_product(sum_c, g, take(expansion, at + c))
                        sum_d = add_product(sum_d, g, take(expansion, at + d))
                    store(columns, a * width + p, sum_a)
                    store(columns, b * width + p, sum_b)
                    store(columns, c * width + p, sum_c)
                    store(columns, d * width + p, sum_d)
            for p in range(size):
                for m in range(n_m):
                    result[start + p * n_m + m] = take(columns, m * width + p)
            first += size * n_m


def correlate(expansion, sizes, weight):
    """Return the packed power spectrum.

    Parameters
    ----------
    expansion : array of shape (n_atoms, n_elements * n_channels)
        The expansion, by degree.
    sizes : array of shape (n_degrees,)
        Number of channels p of each degree.
    weight : array of shape (n_features,)
        Weights of the entries.

    Returns
    -------
    array of shape (n_atoms, n_features)
    """
    spectrum = np.empty((len(expansion), len(weight)), expansion.dtype)
    columns, row = _make_columns(sizes, weight), np.empty(len(weight) + LANES, weight.dtype)
    _correlate(np.ascontiguousarray(expansion), sizes, weight, columns, row, spectrum)
    return spectrum


def correlate_both(gradient, expansion, sizes, weight):
    """Return the packed matrices t c' + c t', for t of the shape of c; see :func:`correlate`."""
    spectrum = np.empty((len(expansion), len(weight)), expansion.dtype)
    others, columns = _make_columns(sizes, weight), _make_columns(sizes, weight)
    row = np.empty(len(weight) + LANES, weight.dtype)
    gradient, expansion = np.ascontiguousarray(gradient), np.ascontiguousarray(expansion)
    _correlate_both(gradient, expansion, sizes, weight, others, columns, row, spectrum)
    return spectrum


def multiply(spectrum, expansion, sizes, weight):
    """Return G c, of the shape of c, for packed symmetric matrices G; see :func:`correlate`."""
    result = np.empty(expansion.shape, expansion.dtype)
    columns = _make_columns(sizes, weight)
    matrix = np.zeros(max(sizes) * (max(sizes) + LANES), weight.dtype)
    row = np.zeros(len(weight) + LANES, weight.dtype)
    spectrum, expansion = np.ascontiguousarray(spectrum), np.ascontiguousarray(expansion)
    _multiply(spectrum, expansion, sizes, weight, matrix, columns, row, result.reshape(-1))
    return result


def _make_columns(sizes, weight):
    """Return an array for the largest matrix."""
    rows = 2 * np.arange(len(sizes)) + 1
    return np.zeros(((sizes + LANES) * rows).max() + LANES, weight.dtype)
