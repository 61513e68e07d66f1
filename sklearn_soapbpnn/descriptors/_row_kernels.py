r"""Derivatives of all features of a layer with respect to the positions, for the CPU.

The first layer has the preactivations :math:`a_{ih}` of atom i, linear in its power spectrum, and
the features h are any function of them. One atom after the other is differentiated:

1. :math:`P_{nlm,h} = \partial a_{ih} / \partial c_{i,nlm}`, for each neighbour element;
2. for each of its neighbours j, :math:`S_{lm} = \sum_n P_{nlm} R_{nl}` and
   :math:`T_{lm} = \sum_n P_{nlm} R_{nl}'`, and from these the gradient
   :math:`\partial a_{ih} / \partial \mathbf r_{ij} = \sum_{lm} S_{lm} \nabla Y_{lm} + T_{lm} Y_{lm}
   \hat r`;
3. the gradient of the features, which is this one times the Jacobian of the features of atom i. It
   moves atom i one way and atom j the other.

P is a few hundred rows of all h, and would not fit into the cache for more than one atom. Pairs are
listed from both ends, and sorted by the first atom. The loops work on eight h at a time; where there
are fewer, the arrays are filled up with zeros.
"""

from __future__ import annotations

import numpy as np

from ._factor_kernels import evaluate_pairs, evaluate_radial, make_workspace
from ._kernel_constants import load_basis, order_by_component
from ._vectors import LANES, add_product, compile_loop, fill, load, multiply, store, take


@compile_loop
def _differentiate_spectrum(c, curvature, y, weight, start, sizes, n_blocks, slopes):
    r"""Write :math:`P = A c + y \otimes \kappa` of one atom, with a symmetric A of each h.

    ``slopes`` is ordered by group of eight h, neighbour element, l, m, n, and h; the weights, from
    ``start`` on, by group, l, channel p, channel q, and h.
    """
    n_groups, n_columns = len(y) // LANES, len(c) // n_blocks
    for group in range(n_groups):
        projection, first, channels = load(y, group * LANES), 0, group * n_blocks * n_columns
        for l in range(len(sizes)):
            n, n_m = sizes[l], 2 * l + 1
            size = n_blocks * n
            for p in range(size):
                here = channels + p // n * n_columns + p % n
                for m in range(n_m):
                    slope = multiply(projection, take(curvature, first + p * n_m + m))
                    for q in range(size):
                        a = load(weight, start + q * LANES)
                        slope = add_product(slope, a, take(c, first + q * n_m + m))
                    store(slopes, (here + m * n) * LANES, slope)
                start += size * LANES
            first += size * n_m
            channels += n_m * n


@compile_loop
def _contract(slopes, block, n_blocks, lane, basis, sizes, work, gradient):
    """Write the gradient of all h for one pair: by axis, and h."""
    directions, distances, _, angular, value, slope = work
    scales = basis[2]
    one, zero, n = scales[4], fill(scales[3]), len(angular) // 4
    width = len(gradient) // 3
    n_columns = len(slopes) // (n_blocks * width)
    inverse = one / distances[lane]
    for start in range(0, width, LANES):
        here = (start // LANES * n_blocks + block) * n_columns * LANES
        x, y, z, along, first = zero, zero, zero, zero, 0
        for l in range(len(sizes)):
            for k in range(l * l, (l + 1) * (l + 1)):
                s, t = zero, zero
                for i in range(first, first + sizes[l]):
                    d = load(slopes, here)
                    s = add_product(s, d, take(value, i))
                    t = add_product(t, d, take(slope, i))
                    here += LANES
                at = k * LANES + lane
                along = add_product(along, t, take(angular, at))
                x = add_product(x, s, take(angular, at + n))
                y = add_product(y, s, take(angular, at + 2 * n))
                z = add_product(z, s, take(angular, at + 3 * n))
            first += -(-sizes[l] // LANES) * LANES
        for part, axis in ((x, 0), (y, 1), (z, 2)):
            radial = multiply(along, directions[axis * LANES + lane])
            store(gradient, axis * width + start, add_product(radial, part, inverse))


@compile_loop
def _multiply_jacobian(jacobian, start, gradient, result):
    """Write the gradient of the features: by axis, and feature."""
    zero = fill(gradient[0] - gradient[0])
    width, n_features = len(gradient) // 3, len(result) // 3
    for feature in range(0, n_features, LANES):
        x, y, z, here = zero, zero, zero, start + feature
        for h in range(width):
            row = load(jacobian, here)
            x = add_product(x, row, take(gradient, h))
            y = add_product(y, row, take(gradient, width + h))
            z = add_product(z, row, take(gradient, 2 * width + h))
            here += n_features
        store(result, feature, x)
        store(result, n_features + feature, y)
        store(result, 2 * n_features + feature, z)


@compile_loop
def _add(rows, start, stride, vectors, first, n_features, factor):
    """Add three vectors of all features, times a factor, to rows that are a stride apart."""
    for axis in range(3):
        for k in range(0, n_features, LANES):
            here = start + axis * stride + k
            vector = load(vectors, first + axis * n_features + k)
            store(rows, here, add_product(load(rows, here), vector, factor))


@compile_loop
def _sum_rows(pairs, atoms, layer, basis, sizes, work, scratch, jacobian, forces, strain):
    """Add the derivatives of all features to the rows of both atoms of each pair."""
    vectors, centers, neighbors = pairs
    element, place, structure = atoms
    c, curvature, y, weight = layer
    table, degrees, scales, _, _ = basis
    distances, value, slope = work[1], work[4], work[5]
    slopes, gradient, result = scratch
    n_elements, one, n_features = len(weight), scales[4], len(result) // 3
    n_weights, all_weights = weight.shape[1], weight.reshape(-1)
    n_columns, last = n_elements * n_features, -1
    for start in range(0, len(vectors), LANES):
        for lane in range(evaluate_pairs(vectors, start, basis, work)):
            pair = start + lane
            i, j = centers[pair], neighbors[pair]
            if i != last:
                here = c[i], curvature[i], y[place[i]], all_weights, element[i] * n_weights
                _differentiate_spectrum(*here, sizes, n_elements, slopes)
                last = i
            evaluate_radial(distances[lane], table, degrees, scales, value, slope)
            _contract(slopes, element[j], n_elements, lane, basis, sizes, work, gradient)
            _multiply_jacobian(jacobian, place[i] * y.shape[1] * n_features, gradient, result)
            column = element[i] * n_features
            _add(forces, i * 3 * n_columns + column, n_columns, result, 0, n_features, one)
            _add(forces, j * 3 * n_columns + column, n_columns, result, 0, n_features, -one)
            if len(strain):
                for axis in range(3):
                    here = (structure[i] * 9 + axis) * n_columns + column
                    r = vectors[pair, axis]
                    _add(strain, here, 3 * n_columns, result, 0, n_features, r)


def sum_rows(parameters, pairs, atoms, layer, jacobian, n_structures):
    """Add up the derivatives of the features of all atoms.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters of the pair basis.
    pairs : tuple of array
        Vectors (n_pairs, 3) of all pairs, each of which is listed from both ends, and the atoms at
        their first and second ends (n_pairs,). The first ends are ascending.
    atoms : tuple of array of shape (n_atoms,)
        Element, row in the tables, and structure of each atom.
    layer : tuple of array
        Expansions c by degree, and curvatures kappa, (n_atoms, n_elements * n_channels); the
        preactivations y as a table (n_rows, n_hidden); and the weights A for the full power
        spectrum, (n_elements, n_hidden, n_full). All numbers have the same precision.
    jacobian : array of shape (n_rows, n_hidden, n_features)
        Derivatives of the features with respect to the preactivations, as a table.
    n_structures : int
        Number of structures whose strain gradient is needed: all or none.

    Returns
    -------
    forces : array of shape (n_atoms, 3, n_elements, n_features)
        With the sign of forces, for the weights of each element.
    strain : array of shape (n_structures, 3, 3, n_elements, n_features)
        Gradient times pair vector.
    """
    basis = load_basis(parameters, pairs[0].dtype)
    sizes, _ = order_by_component(parameters)
    c, curvature, y, weight = layer
    n_elements, n_features = len(weight), jacobian.shape[2]
    y, jacobian = _pad(y, 1), _pad(_pad(jacobian, 1), 2)
    shape = n_elements, jacobian.shape[2]
    forces = np.zeros((len(c), 3, *shape), c.dtype)
    strain = np.zeros((n_structures, 3, 3, *shape), c.dtype)
    scratch = [np.empty(n, c.dtype) for n in (y.shape[1] * c.shape[1], 3 * y.shape[1], 3 * shape[1])]
    arrays = tuple(map(np.ascontiguousarray, (c, curvature, y, _turn(weight))))
    sums = [array.reshape(-1) for array in (jacobian, forces, strain)]
    _sum_rows(pairs, atoms, arrays, basis, sizes, make_workspace(basis), tuple(scratch), *sums)
    return forces[..., :n_features], strain[..., :n_features]


def _turn(weight):
    """Return weights by element, group of eight h, entry of the spectrum, and h."""
    weight = _pad(weight, 1)
    groups = weight.reshape(len(weight), -1, LANES, weight.shape[2])
    return groups.swapaxes(2, 3).reshape(len(weight), -1)


def _pad(array, axis):
    """Fill up an axis with zeros to a multiple of eight."""
    missing = -array.shape[axis] % LANES
    if not missing:
        return array
    padding = [(0, 0)] * array.ndim
    padding[axis] = 0, missing
    return np.pad(array, padding)
