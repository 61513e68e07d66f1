r"""Forces from the gradients of power spectra, for several networks at once, as compiled loops.

They are :meth:`PowerSpectrum.multiply` and the sum over pairs in one, and the transpose. What is
between them stays in the layout of the sums over pairs, see :mod:`._many_kernels`, in which eight
networks stand side by side. The expansions, which all networks have in common, are the other factor
of each product.
"""

from __future__ import annotations

import numpy as np

from ._kernel_constants import order_by_component
from ._many_kernels import allocate, contract_packed, give_networks, spread_packed, take_networks
from ._vectors import LANES, add_product, compile_loop, fill, load, store, take

# networks side by side, in each of so many columns or rows
WIDE = 4


@compile_loop
def _multiply(spectra, expansion, sizes, weight, order, square, lanes, c, packed):
    """Write G c for each degree, with the symmetric matrices G that the spectra hold, packed."""
    n_atoms, n_entries = expansion.shape
    _, n_groups, n_channels, _ = packed.shape
    n_elements, zero = len(packed) // n_atoms, fill(weight[0] - weight[0])
    for atom in range(n_atoms):
        for k in range(n_entries):
            c[k] = expansion[atom, k]
        for group in range(n_groups):
            take_networks(spectra, atom, group, order, weight, square, lanes, 0)
            first, corner, below = 0, 0, 0
            for l in range(len(sizes)):
                n_radial, n_m = sizes[l], 2 * l + 1
                size, diagonal = n_elements * n_radial, corner
                for p in range(size):
                    row = atom * n_elements + p // n_radial
                    here = (row * n_groups + group) * n_channels + below + p % n_radial
                    for m in range(0, n_m, WIDE):
                        one, two, three, four, at = zero, zero, zero, zero, corner + p
                        for q in range(size):
                            if q >= p:
                                at = diagonal + q - p
                            g, place = load(lanes, at * LANES), first + q * n_m + m
                            one = add_product(one, g, take(c, place))
                            two = add_product(two, g, take(c, place + 1))
                            three = add_product(three, g, take(c, place + 2))
                            four = add_product(four, g, take(c, place + 3))
                            at += size - q - 1
                        store(packed, (here + m * n_radial) * LANES, one)
                        if m + 1 < n_m:
                            store(packed, (here + (m + 1) * n_radial) * LANES, two)
                        if m + 2 < n_m:
                            store(packed, (here + (m + 2) * n_radial) * LANES, three)
                        if m + 3 < n_m:
                            store(packed, (here + (m + 3) * n_radial) * LANES, four)
                    diagonal += size - p
                first, corner, below = first + size * n_m, diagonal, below + n_radial * n_m


@compile_loop
def _sort_rows(packed, atom, group, sizes, n_elements, t):
    """Order the channels of an atom as an expansion by degree, with eight networks side by side."""
    _, n_groups, n_channels, _ = packed.shape
    below, here = 0, 0
    for l in range(len(sizes)):
        for element in range(n_elements):
            row = ((atom * n_elements + element) * n_groups + group) * n_channels + below
            for n in range(sizes[l]):
                for m in range(2 * l + 1):
                    store(t, here, load(packed, (row + m * sizes[l] + n) * LANES))
                    here += LANES
        below += sizes[l] * (2 * l + 1)


@compile_loop
def _correlate(packed, expansion, sizes, weight, order, square, lanes, c, t, spectra):
    """Write the transpose of :func:`_multiply`: t c' + c t', packed."""
    n_atoms, n_entries = expansion.shape
    n_groups = packed.shape[1]
    n_elements, zero = len(packed) // n_atoms, fill(weight[0] - weight[0])
    for atom in range(n_atoms):
        for k in range(n_entries):
            c[k] = expansion[atom, k]
        for group in range(n_groups):
            _sort_rows(packed, atom, group, sizes, n_elements, t)
            first, here = 0, 0
            for l in range(len(sizes)):
                size, n_m = n_elements * sizes[l], 2 * l + 1
                for p in range(size):
                    for q in range(p, size, WIDE):
                        one, two, three, four = zero, zero, zero, zero
                        at = first + q * n_m
                        for m in range(first + p * n_m, first + (p + 1) * n_m):
                            t_p, c_p = load(t, m * LANES), take(c, m)
                            one = add_product(one, t_p, take(c, at))
                            one = add_product(one, load(t, at * LANES), c_p)
                            two = add_product(two, t_p, take(c, at + n_m))
                            two = add_product(two, load(t, (at + n_m) * LANES), c_p)
                            three = add_product(three, t_p, take(c, at + 2 * n_m))
                            three = add_product(three, load(t, (at + 2 * n_m) * LANES), c_p)
                            four = add_product(four, t_p, take(c, at + 3 * n_m))
                            four = add_product(four, load(t, (at + 3 * n_m) * LANES), c_p)
                            at += 1
                        # what is too much is overwritten by the next row
                        store(lanes, here * LANES, one)
                        store(lanes, (here + 1) * LANES, two)
                        store(lanes, (here + 2) * LANES, three)
                        store(lanes, (here + 3) * LANES, four)
                        here += min(WIDE, size - q)
                first += size * n_m
            give_networks(lanes, 0, order, weight, square, spectra, atom, group)


def contract(parameters, vectors, rows, spectra, expansion, weight, forces):
    """Write the forces of pairs that belong to gradients with respect to power spectra.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters of the pair basis.
    vectors : array of shape (n_pairs, 3)
        Pair vectors; all arrays of numbers have one precision.
    rows : array of shape (2, n_pairs)
        Rows (atom, element) of the two directions of each pair.
    spectra : array of shape (n_networks, n_atoms, n_features)
        Gradients, packed.
    expansion : array of shape (n_atoms, n_elements * n_channels)
        The expansion, by degree.
    weight : array of shape (n_features,)
        Factors of the entries of the spectra.
    forces : array of shape (n_networks, n_pairs, 3)
        The result.
    """
    sizes, packed = _prepare(parameters, spectra, expansion)
    arrays = map(np.ascontiguousarray, (spectra, expansion))
    _multiply(*arrays, sizes, weight, *_make_workspace(sizes, expansion, weight)[:4], packed)
    contract_packed(parameters, vectors, rows, packed, forces)


def spread(parameters, vectors, rows, forces, expansion, weight, spectra):
    """Write the transpose of :func:`contract`; see there."""
    sizes, packed = _prepare(parameters, spectra, expansion)
    spread_packed(parameters, vectors, rows, forces, packed)
    work = _make_workspace(sizes, expansion, weight)
    _correlate(packed, np.ascontiguousarray(expansion), sizes, weight, *work, spectra)


def _prepare(parameters, spectra, expansion):
    """Return the number of radial channels of each degree, and zeros for rows of channels."""
    sizes, order = order_by_component(parameters)
    n_rows = expansion.size // len(order)
    return sizes, allocate(np.zeros, (len(spectra), n_rows, len(order)), expansion.dtype)


def _make_workspace(sizes, expansion, weight):
    """Return arrays for what is known of one atom and eight networks, with some room at the end."""
    n_entries = expansion.shape[1] + WIDE * (2 * len(sizes) - 1)
    lengths = LANES**2, LANES * (len(weight) + WIDE), n_entries, LANES * n_entries
    return np.arange(len(weight)), *(np.zeros(n, expansion.dtype) for n in lengths)
