r"""The power spectrum and its derivatives as compiled loops for the CPU.

Batches of small matrix products take torch longer to prepare than to compute. All functions take
expansions by degree, see :class:`PowerSpectrum`: for each l a matrix with a row for each channel p
and a column for each m.

Vectors of eight run over the end of a row; the next row overwrites what is too much.
"""

from __future__ import annotations

import math

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
    r"""Write sum_m c_p c_q times the weight, packed: for each p in turn, the :math:`q \ge p`."""
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
    for atom in range(len(gradient)):
        first, here = 0, 0
        c = atom % len(expansion) * expansion.shape[1]
        t = atom * expansion.shape[1]
        for l in range(len(sizes)):
            size, n_m = sizes[l], 2 * l + 1
            width = size + LANES
            _turn(expansion, c + first, size, n_m, columns)
            _turn(gradient, t + first, size, n_m, others)
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
def _multiply(spectrum, expansion, sizes, weight, row, entries, result):
    """Write G c for each degree, with G the symmetric matrix that is packed in the spectrum.

    Here vectors run over m, so c need not be turned, nor G be unpacked.
    """
    zero, one = fill(weight[0] - weight[0]), weight[0] / weight[0]
    n_entries = expansion.shape[1]
    for atom in range(len(spectrum)):
        for k in range(len(weight)):
            row[k] = spectrum[atom, k] * weight[k]
        for k in range(n_entries):
            entries[k] = expansion[atom % len(expansion), k]
        first, corner = 0, 0
        for l in range(len(sizes)):
            size, n_m, diagonal = sizes[l], 2 * l + 1, corner
            for p in range(size):
                for m in range(0, n_m, LANES):
                    before, after, at = zero, zero, corner + p
                    for q in range(p):
                        c = load(entries, first + q * n_m + m)
                        before = add_product(before, c, take(row, at))
                        at += size - q - 1
                    for q in range(p, size):
                        c = load(entries, first + q * n_m + m)
                        after = add_product(after, c, take(row, diagonal + q - p))
                    here = atom * n_entries + first + p * n_m + m
                    store(result, here, add_product(after, before, one))
                diagonal += size - p
            first, corner = first + size * n_m, diagonal


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
    """Return the packed matrices t c' + c t', for one or several t for each c, in turn.

    See :func:`correlate`.
    """
    spectrum = np.empty((len(gradient), len(weight)), expansion.dtype)
    others, columns = _make_columns(sizes, weight), _make_columns(sizes, weight)
    row = np.empty(len(weight) + LANES, weight.dtype)
    gradient, expansion = np.ascontiguousarray(gradient), np.ascontiguousarray(expansion)
    _correlate_both(gradient, expansion, sizes, weight, others, columns, row, spectrum)
    return spectrum


def multiply(spectrum, expansion, sizes, weight):
    """Return G c, for one or several packed symmetric matrices G for each c, in turn.

    See :func:`correlate`.
    """
    spectrum, expansion = np.ascontiguousarray(spectrum), np.ascontiguousarray(expansion)
    row, entries = np.empty_like(weight), np.zeros(expansion.shape[1] + LANES, weight.dtype)
    shape = len(spectrum), expansion.shape[1]
    result = np.empty(math.prod(shape) + LANES, expansion.dtype)
    _multiply(spectrum, expansion, sizes, weight, row, entries, result)
    return result[:-LANES].reshape(shape)


def _make_columns(sizes, weight):
    """Return an array for the largest matrix."""
    rows = 2 * np.arange(len(sizes)) + 1
    return np.zeros(((sizes + LANES) * rows).max() + LANES, weight.dtype)
