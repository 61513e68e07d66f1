r"""The encoded power spectrum of pseudo-species, and the derivatives of what a layer makes of it.

With the mixed expansion c, the encoding e of the central element, the number n of features, and
weights A whose rows have zero mean,

.. math::

    x = e \, c c^T - \mathrm{mean}, \qquad \sigma^2 = |x|^2 / n + \epsilon, \qquad
    y = A x / \sigma .

For v, the gradient of the energy with respect to y,

.. math::

    \frac{\partial E}{\partial c} = (M + M^T) c, \qquad M = e \, g, \qquad
    g = A^T v / \sigma - \kappa x, \quad \kappa = \frac{v \cdot y}{n \sigma^2} .

Training on forces differentiates :math:`t \cdot \partial E / \partial c`, which is
:math:`v \cdot \dot y` with the derivative :math:`\dot y` of y along t. Autograd would go through
all steps of the first derivative instead; a whole step of training then takes 1.4 times as long.

Without normalisation no mean is subtracted, :math:`\sigma = 1`, and 1 / n is replaced by 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, from_numpy

from ..descriptors import PowerSpectrum, load_kernels
from ._layers import EPS


@dataclass(frozen=True)
class Layout:
    """What is the same for all steps of a batch.

    Parameters
    ----------
    spectrum : PowerSpectrum
        Order of the channels and features.
    counts : list of int
        Number of atoms of each element; the atoms are sorted by element.
    normalize : bool
        Whether the features are normalised.
    """

    spectrum: PowerSpectrum
    counts: list[int]
    normalize: bool

    @property
    def share(self) -> float:
        """1 / n, or 0 without normalisation."""
        return 1 / self.spectrum.n_full if self.normalize else 0.0

    def multiply(self, c: Tensor, d: Tensor | None = None) -> Tensor:
        """Return c c', or c d' + d c', of mixed expansions by degree: (n_atoms, n_features)."""
        products = []
        left = self.spectrum.blocks(c)
        for a, b in zip(left, left if d is None else self.spectrum.blocks(d)):
            if d is not None:
                a, b = torch.cat([a, b], dim=2), torch.cat([b, a], dim=2)
            products.append(torch.bmm(a, b.mT).flatten(1))
        return torch.cat(products, dim=1)

    def encode(self, encoding: Tensor, c: Tensor, d: Tensor | None = None) -> tuple:
        """Return what :meth:`multiply` gives, and e times this, without its mean if normalised."""
        if (call := _find_loops("encode", c)) is not None:
            return call(c, d, encoding, *self._sizes, self.share)
        products = self.multiply(c, d)
        features = self._scale(products, encoding)
        if self.normalize:
            features.sub_(features.mean(1, keepdim=True))
        return products, features

    def apply(self, gradient: Tensor, encoding: Tensor, c: Tensor) -> Tensor:
        """Return (M + M') c for matrices M = e g, which are flattened like features."""
        if (call := _find_loops("apply", c)) is not None:
            return call(gradient, encoding, c, *self._sizes)
        results = []
        sizes = [size**2 for size in self.spectrum.rows_per_l]
        matrices = self._scale(gradient, encoding).split(sizes, dim=1)
        for m, block in zip(matrices, self.spectrum.blocks(c)):
            m = m.view(len(m), block.shape[1], block.shape[1])
            results.append(torch.bmm(m, block).baddbmm_(m.mT, block).flatten(1))
        return torch.cat(results, dim=1)

    def sum_products(self, first: Tensor, second: Tensor) -> Tensor:
        """Sum the product of features over the atoms of each element: (n_elements, n_features)."""
        if (call := _find_loops("sum_products", first)) is not None:
            return call(first, second, self._sizes[0])
        products = (first * second).split(self.counts)
        return torch.stack([rows.sum(0) for rows in products])

    @property
    def _sizes(self):
        return np.array(self.counts), np.array(self.spectrum.rows_per_l)

    def _scale(self, features, encoding):
        """Multiply the features of each atom by the encoding of its element."""
        scaled = torch.empty_like(features)
        for rows, place, e in zip(features.split(self.counts), scaled.split(self.counts), encoding):
            torch.mul(rows, e, out=place)
        return scaled

    def differentiate(self, gradient: Tensor, weight: Tensor, features: Tensor, scales):
        """Return g and kappa, for v / sigma, and y and 1 / sigma as ``scales``."""
        projected, inverse = scales
        kappa = (gradient * projected).sum(1, keepdim=True).mul_(inverse * self.share)
        return torch.mm(gradient, weight).addcmul_(features, kappa, value=-1), kappa


def _find_loops(name, like):
    """Return a compiled function of tensors; None on a GPU, and without numba."""
    kernels = load_kernels("_encoded_kernels") if like.device.type == "cpu" else None
    return None if kernels is None else partial(_run, getattr(kernels, name))


def _run(function, *arguments):
    result = function(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
    return from_numpy(result) if isinstance(result, np.ndarray) else tuple(map(from_numpy, result))


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mixed, encoding, weight, layout):
        products, features = layout.encode(encoding, mixed)
        inverse = mixed.new_ones(len(mixed), 1)
        if layout.normalize:
            square = torch.linalg.vector_norm(features, dim=1, keepdim=True).square()
            inverse = (square * layout.share + EPS).rsqrt()
        projected = torch.mm(features, weight.T).mul_(inverse)
        ctx.save_for_backward(mixed, encoding, weight, projected, inverse, products, features)
        ctx.layout = layout
        ctx.mark_non_differentiable(inverse)
        ctx.set_materialize_grads(False)
        return projected, inverse, features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, _, other):
        mixed, encoding, weight, projected, inverse, products, features = ctx.saved_tensors
        layout = ctx.layout
        scaled = gradient * inverse
        slope, _ = layout.differentiate(scaled, weight, features, (projected, inverse))
        weight_gradient = torch.mm(scaled.T, features)
        if other is not None:
            slope += other
        encoding_gradient = layout.sum_products(products, slope)
        mixed_gradient = layout.apply(slope, encoding, mixed)
        return mixed_gradient, encoding_gradient, weight_gradient, None


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, features, weight, mixed, encoding, projected, inverse, layout):
        scaled = gradient * inverse
        slope, kappa = layout.differentiate(scaled, weight, features, (projected, inverse))
        ctx.save_for_backward(
            *(gradient, features, weight, mixed, encoding, projected, inverse, scaled, slope, kappa)
        )
        ctx.layout = layout
        return layout.apply(slope, encoding, mixed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, tangent):
        gradient, features, weight, mixed, encoding, projected, inverse, scaled, slope, kappa = (
            ctx.saved_tensors
        )
        layout = ctx.layout
        products, moved = layout.encode(encoding, mixed, tangent)
        encoding_gradient = layout.sum_products(products, slope)
        mixed_gradient = layout.apply(slope, encoding, tangent)
        over = inverse.square() * layout.share
        # d log sigma along t
        stretch = (moved * features).sum(1, keepdim=True) * over
        lost = projected * stretch
        change = torch.mm(moved, weight.T).mul_(inverse).sub_(lost)
        weight_gradient = torch.mm(scaled.T, moved).addmm_((scaled * stretch).T, features, alpha=-1)
        rest = (gradient * (change - lost)).sum(1, keepdim=True) * over
        features_gradient = moved.mul_(-kappa).addcmul_(slope, stretch, value=-1)
        features_gradient.addcmul_(features, rest, value=-1)
        return (
            *(change, features_gradient, weight_gradient, mixed_gradient, encoding_gradient),
            *(None, None, None),
        )


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, scale, shift):
        ctx.save_for_backward(weight, scale, shift)
        mean = (weight @ scale)[:, None] / weight.shape[1]
        return torch.addcmul(-mean, weight, scale), weight @ shift

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, bias):
        # the rows of the gradient have zero mean, as x has
        weight, scale, shift = ctx.saved_tensors
        return (
            (gradient * scale).addcmul_(bias[:, None], shift),
            (gradient * weight).sum(0),
            torch.mv(weight.T, bias),
        )


def fold_norm(weight: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return A and the bias for W of shape (n_outputs, n_features), and LayerNorm's parameters.

    They are :math:`W \gamma` without the mean of each row, which centred features do not see, and
    :math:`W \beta`.
    """
    return _Fold.apply(weight, scale, shift)


def project(mixed: Tensor, encoding: Tensor, weight: Tensor, layout: Layout) -> tuple:
    r"""Return y, :math:`1 / \sigma` and x, which is only for :func:`find_slope`.

    Parameters
    ----------
    mixed : Tensor
        c, by degree as in :meth:`PowerSpectrum.by_degree`.
    encoding : Tensor of shape (n_elements, n_features)
        e.
    weight : Tensor of shape (n_outputs, n_features)
        A, whose rows have zero mean if the features are normalised.
    layout : Layout
        Sizes, and the elements of the atoms.

    Returns
    -------
    Tensor of shape (n_atoms, n_outputs)
    Tensor of shape (n_atoms, 1)
    Tensor of shape (n_atoms, n_features)
    """
    return _Projection.apply(mixed, encoding, weight, layout)


def find_slope(gradient, features, weight, mixed, encoding, projected, inverse, layout) -> Tensor:
    """Return dE/dc by degree for v = dE/dy; the other arguments belong to :func:`project`.

    Of ``weight`` and ``projected`` there may be some outputs only, those of v.
    """
    projected = projected.detach()
    return _Slope.apply(gradient, features, weight, mixed, encoding, projected, inverse, layout)
