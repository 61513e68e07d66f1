r"""Derivatives of all features of the atoms with respect to the positions, for the CPU.

The preactivations :math:`a_{ih}` of atom i are linear in its power spectrum, and its features are
functions of them. One atom after the other is differentiated:

1. :math:`P_{nlm} = \partial a_{ih} / \partial c_{i,nlm}` for each neighbour element, and all h;
2. for each neighbour j, :math:`S_{lm} = \sum_n P_{nlm} R_{nl}` and :math:`T_{lm} = \sum_n P_{nlm}
   R_{nl}'`, from which follows :math:`\partial a_{ih} / \partial \mathbf r_{ij} = \sum_{lm} (S_{lm}
   \nabla Y_{lm} + T_{lm} Y_{lm} \hat{\mathbf r}_{ij})`;
3. the gradients of the features, which are these times the Jacobian of the features of atom i. They
   are added to the row of atom i, and subtracted from that of atom j.

P takes a hundred kilobytes for an atom, so it stays in the cache, but would not for all atoms. Each
pair is listed from both ends. The loops work on wide vectors of h; arrays are filled up with zeros
to such vectors. Two neighbours of the same element share what is loaded of P.
"""

from __future__ import annotations

import numpy as np
import torch

from ._factor_kernels import evaluate_pairs, evaluate_radial, make_workspace
from ._kernel_constants import load_basis, order_by_component
from ._vectors import (
    LANES,
    WIDE,
    add_product,
    compile_loop,
    fill_wide,
    load_wide,
    multiply,
    store,
    take,
)


@compile_loop
def _differentiate_spectrum(c, curvature, y, weight, start, n_elements, sizes, slopes):
    r"""Write :math:`P = A c + y \kappa` of an atom, with a symmetric matrix A for each h.

    P is ordered by group of h, neighbour element, l, m, n, and h. The weights, from ``start`` on,
    are ordered by group of h, l, channel p, channel q, and h.
    """
    n_groups, n_columns = len(y) // WIDE, len(c) // n_elements
    for group in range(n_groups):
        factor, first, channels = load_wide(y, group * WIDE), 0, group * len(c)
        for l in range(len(sizes)):
            n, n_m = sizes[l], 2 * l + 1
            size = n_elements * n
            for p in range(size):
                here, at = channels + p // n * n_columns + p % n, first + p * n_m
                slope = multiply(factor, take(curvature, at))
                for q in range(size):
                    a = load_wide(weight, start + q * WIDE)
                    slope = add_product(slope, a, take(c, first + q * n_m))
                store(slopes, here * WIDE, slope)
                # the other m two by two, since both need the same numbers of A
                for m in range(1, n_m, 2):
                    slope = multiply(factor, take(curvature, at + m))
                    other = multiply(factor, take(curvature, at + m + 1))
                    for q in range(size):
                        a = load_wide(weight, start + q * WIDE)
                        slope = add_product(slope, a, take(c, first + q * n_m + m))
                        other = add_product(other, a, take(c, first + q * n_m + m + 1))
                    store(slopes, (here + m * n) * WIDE, slope)
                    store(slopes, (here + m * n + n) * WIDE, other)
                start += size * WIDE
            first += size * n_m
            channels += n_m * n


@compile_loop
def _add_component(sums, s, t, angular, at):
    """Add S and T of one l and m to the sums over l and m: along x, y, z, and the pair."""
    x, y, z, along = sums
    n = len(angular) // 4
    return (
        add_product(x, s, take(angular, at + n)),
        add_product(y, s, take(angular, at + 2 * n)),
        add_product(z, s, take(angular, at + 3 * n)),
        add_product(along, t, take(angular, at)),
    )


@compile_loop
def _store_gradient(sums, lane, work, gradient, start, width):
    """Write the gradient of some h for one pair."""
    directions, distances = work[0], work[1]
    distance, along = distances[lane], sums[3]
    inverse = distance / (distance * distance)  # the literal 1 would be a float64
    for axis in range(3):
        radial = multiply(along, directions[axis * LANES + lane])
        store(gradient, start + axis * width, add_product(radial, sums[axis], inverse))


@compile_loop
def _contract(slopes, first_column, n_columns, lanes, sizes, work, radial, gradients):
    """Write the gradients of all h for two pairs with the same P: by axis, and h."""
    angular, (values, rises), (lane, twin) = work[3], radial, lanes
    n_radial, width = len(values) // LANES, len(gradients[0]) // 3
    zero, step = fill_wide(values[0] - values[0]), (twin - lane) * n_radial
    for start in range(0, width, WIDE):
        here, first = (start // WIDE * n_columns + first_column) * WIDE, lane * n_radial
        sums = others = zero, zero, zero, zero
        for l in range(len(sizes)):
            for k in range(l * l, (l + 1) * (l + 1)):
                s, t, other_s, other_t = zero, zero, zero, zero
                for i in range(first, first + sizes[l]):
                    p = load_wide(slopes, here)
                    s = add_product(s, p, take(values, i))
                    t = add_product(t, p, take(rises, i))
                    other_s = add_product(other_s, p, take(values, i + step))
                    other_t = add_product(other_t, p, take(rises, i + step))
                    here += WIDE
                sums = _add_component(sums, s, t, angular, k * LANES + lane)
                others = _add_component(others, other_s, other_t, angular, k * LANES + twin)
            first += -(-sizes[l] // LANES) * LANES
        _store_gradient(sums, lane, work, gradients[0], start, width)
        _store_gradient(others, twin, work, gradients[1], start, width)


@compile_loop
def _multiply_jacobian(jacobian, start, gradient, result):
    """Write the gradient of the features, from that of all h: by axis, and feature."""
    zero = fill_wide(gradient[0] - gradient[0])
    width, n_features = len(gradient) // 3, len(result) // 3
    for feature in range(0, n_features, WIDE):
        x, y, z, here = zero, zero, zero, start + feature
        for h in range(width):
            row = load_wide(jacobian, here)
            x = add_product(x, row, take(gradient, h))
            y = add_product(y, row, take(gradient, width + h))
            z = add_product(z, row, take(gradient, 2 * width + h))
            here += n_features
        store(result, feature, x)
        store(result, n_features + feature, y)
        store(result, 2 * n_features + feature, z)


@compile_loop
def _add(rows, start, stride, vectors, factor):
    """Add three vectors of all features, times a factor, to rows that are a stride apart."""
    n_features = len(vectors) // 3
    for axis in range(3):
        for k in range(0, n_features, WIDE):
            here, vector = start + axis * stride + k, load_wide(vectors, axis * n_features + k)
            store(rows, here, add_product(load_wide(rows, here), vector, factor))


@compile_loop
def _add_pair(vectors, pair, ends, place, one, jacobian, gradient, result, forces, strain):
    """Add the gradient of one pair to the rows of its atoms, and of its structure."""
    (i, j), (row, structure, first, stride) = ends, place
    n_hidden, n_features = len(gradient) // 3, len(result) // 3
    _multiply_jacobian(jacobian, row * n_hidden * n_features, gradient, result)
    _add(forces, i * 3 * stride + first, stride, result, one)
    _add(forces, j * 3 * stride + first, stride, result, -one)
    if len(strain):
        for axis in range(3):
            here = (structure * 9 + axis) * stride + first
            _add(strain, here, 3 * stride, result, vectors[pair, axis])


@compile_loop
def _sum_rows(pairs, atoms, layer, basis, sizes, work, scratch, jacobian, forces, strain):
    """Add the derivatives of all features to the rows of both atoms of each pair."""
    vectors, centers, neighbors = pairs
    element, row, structure = atoms
    c, curvature, y, weight = layer
    table, degrees, scales, _, _ = basis
    slopes, gradients, result, radial = scratch
    n_elements, n_radial, n_features = len(weight), LANES * len(degrees), len(result) // 3
    n_columns, n_weights, all_weights = c.shape[1], weight.shape[1], weight.reshape(-1)
    one, stride, last = scales[4], n_elements * n_features, -1
    for start in range(0, len(vectors), LANES):
        count = evaluate_pairs(vectors, start, basis, work)
        for lane in range(count):
            value, slope = radial[0][lane * n_radial :], radial[1][lane * n_radial :]
            evaluate_radial(work[1][lane], table, degrees, scales, value, slope)
        lane = 0
        while lane < count:
            i, j = centers[start + lane], neighbors[start + lane]
            if i != last:
                here = c[i], curvature[i], y[row[i]], all_weights, element[i] * n_weights
                _differentiate_spectrum(*here, n_elements, sizes, slopes)
                last = i
            block = element[j] * (n_columns // n_elements)
            twin = min(lane + 1, count - 1)
            k = neighbors[start + twin]
            if centers[start + twin] != i or element[k] != element[j]:
                twin = lane
            lanes, place = (lane, twin), (row[i], structure[i], element[i] * n_features, stride)
            _contract(slopes, block, n_columns, lanes, sizes, work, radial, gradients)
            ends, pair = (i, j), start + lane
            _add_pair(
                vectors, pair, ends, place, one, jacobian, gradients[0], result, forces, strain
            )
            if twin > lane:
                ends, pair = (i, k), start + twin
                _add_pair(
                    vectors, pair, ends, place, one, jacobian, gradients[1], result, forces, strain
                )
            lane = twin + 1


def sum_rows(parameters, pairs, atoms, layer, jacobian, n_structures):
    r"""Add up the derivatives of the features of all atoms.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters of the pair basis.
    pairs : tuple of array
        Vectors (n_pairs, 3) of all pairs, each of which is listed from both ends, and the atoms at
        their first and second ends, (n_pairs,). They are sorted by the first end, and should be by
        the element of the second as well.
    atoms : tuple of array of shape (n_atoms,)
        Element, row in the tables, and structure of each atom.
    layer : tuple of array
        Expansions c by degree, and :math:`\kappa` of the same shape (n_atoms, n_elements *
        n_channels); y as a table (n_rows, n_hidden); and the weights A for the full power spectrum,
        (n_elements, n_hidden, n_full). All numbers have the same precision.
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
    basis, (sizes, _) = load_basis(parameters, pairs[0].dtype), order_by_component(parameters)
    c, curvature, y, weight = layer
    n_features = jacobian.shape[2]
    y, jacobian = _pad(y, 1), _pad(_pad(jacobian, 1), 2)
    width, shape = y.shape[1], (len(weight), jacobian.shape[2])
    forces = np.zeros((len(c), 3, *shape), c.dtype)
    strain = np.zeros((n_structures, 3, 3, *shape), c.dtype)
    n_radial = LANES**2 * len(basis[1])

    def make(length):
        return _align(np.zeros(length, c.dtype))

    gradients, radial = (make(3 * width), make(3 * width)), (make(n_radial), make(n_radial))
    scratch = make(width * c.shape[1]), gradients, make(3 * shape[1]), radial
    arrays = *map(np.ascontiguousarray, (c, curvature, y)), _align(_turn(weight))
    sums = [array.reshape(-1) for array in (jacobian, forces, strain)]
    _sum_rows(pairs, atoms, arrays, basis, sizes, make_workspace(basis), scratch, *sums)
    return forces[..., :n_features], strain[..., :n_features]


def _turn(weight):
    """Return weights by element, group of h, entry of the spectrum, and h."""
    weight = _pad(weight, 1)
    groups = weight.reshape(len(weight), -1, WIDE, weight.shape[2])
    return groups.swapaxes(2, 3).reshape(len(weight), -1)


def _pad(array, axis):
    """Fill up an axis with zeros to wide vectors."""
    missing = -array.shape[axis] % WIDE
    if not missing:
        return array
    padding = [(0, 0)] * array.ndim
    padding[axis] = 0, missing
    return np.pad(array, padding)


def _align(array):
    """Return a copy that begins at a line of the cache, as all of torch's arrays do."""
    return torch.from_numpy(array).clone().numpy()
