"""Layers with one set of weights for each element."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# what normalisation adds to variances, as torch.nn.LayerNorm does
EPS = 1e-5


class ElementLinear(nn.Module):
    r"""Bias-free linear maps :math:`y = W_{Z_i} x`, one for each element and network.

    The initial weights are uniform in :math:`\pm n_\text{scale}^{-1/2}`; for ``n_scale = n_inputs``
    this is the distribution of :class:`torch.nn.Linear`. They are drawn in float64, so that they do
    not depend on the precision of the network.

    Parameters
    ----------
    n_sets, n_inputs, n_outputs : int
        Number of maps, and their sizes.
    generator : torch.Generator
        Source of the initial weights.
    n_scale : int, default=None
        Number of inputs by which the initial weights are scaled; None means ``n_inputs``.
    """

    def __init__(self, n_sets, n_inputs, n_outputs, generator, n_scale=None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_sets, n_outputs, n_inputs, dtype=torch.float64))
        bound = (n_scale or n_inputs) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)


class PackedLayerNorm(nn.Module):
    r"""LayerNorm of the full power spectrum without affine part, evaluated on the packed spectrum.

    With the packed features u, the packed vector of ones :math:`\omega` and the full length n,

    .. math::

        \mu = \omega \cdot u / n, \quad \sigma^2 = |u - \mu \omega|^2 / n + \epsilon, \quad
        x = (u - \mu \omega) / \sigma

    are constants of the data. The affine part :math:`\gamma x + \beta` that usually follows, with
    separate parameters per element, is not lost: before a layer W of the same element it is
    equivalent to the weight :math:`W \gamma` and the bias :math:`W \beta`, which that layer learns
    directly.

    Parameters
    ----------
    weight : Tensor of shape (n_features,)
        :math:`\omega`.
    n_full : int
        n.
    """

    def __init__(self, weight: Tensor, n_full: int) -> None:
        super().__init__()
        self.n_full = n_full
        self.register_buffer("ones", weight.clone(), persistent=False)

    def standardize(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and sigma, of shape (n_atoms, 1)."""
        mean = (features @ self.ones)[:, None] / self.n_full
        centred = features - mean * self.ones
        sigma = (centred.square().sum(1, keepdim=True) / self.n_full + EPS).sqrt()
        return centred / sigma, sigma

    def add_curvature(self, gradient: Tensor, overlap: Tensor, features: Tensor) -> Tensor:
        """Subtract (v . y / n) x from A' v, in place, for the gradient of sigma."""
        return gradient.addcmul_(overlap[..., None], features, value=-1 / self.n_full)

    def overlap_gradient(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Apply the transpose of :meth:`add_curvature` with respect to v . y, for each row."""
        return (gradient * features).sum(-1) / -self.n_full

    def project(self, weight: Tensor) -> Tensor:
        r"""Return :math:`A (1 - \omega \omega^T / n)`, for the gradient of the mean."""
        mean = (weight @ self.ones)[:, :, None]
        return torch.addcmul(weight, mean, self.ones / self.n_full, value=-1)


class NoNorm(nn.Module):
    """No normalisation, with the interface of :class:`PackedLayerNorm`."""

    def standardize(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and a scale of 1."""
        return features, features.new_ones(len(features), 1)

    def add_curvature(self, gradient: Tensor, overlap: Tensor, features: Tensor) -> Tensor:
        """Return the gradient unchanged, since the scale is constant."""
        return gradient

    def overlap_gradient(self, gradient: Tensor, features: Tensor) -> None:
        """Return None: nothing depends on v . y."""

    def project(self, weight: Tensor) -> Tensor:
        """Return the weights unchanged."""
        return weight


class _FeatureMap(torch.autograd.Function):
    """Linear map of constant features, per element; gradients of the features are not computed."""

    @staticmethod
    def forward(ctx, weight, features, counts, n_rows):
        n_elements, n_networks = len(counts), len(weight) // len(counts)
        wide = weight.view(n_elements, -1, weight.shape[2])  # the networks of an element together
        table = features.new_zeros(n_elements, n_rows, wide.shape[1])
        for element, x in enumerate(features.split(counts)):
            torch.mm(x, wide[element].T, out=table[element, : len(x)])
        ctx.save_for_backward(features)
        ctx.counts, ctx.shape = counts, weight.shape
        return table.unflatten(2, (n_networks, -1)).transpose(1, 2).flatten(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (features,) = ctx.saved_tensors
        gradient = gradient.unflatten(0, (len(ctx.counts), -1)).transpose(1, 2).flatten(2)
        weight_gradient = features.new_empty(len(ctx.counts), gradient.shape[2], ctx.shape[2])
        for element, x in enumerate(features.split(ctx.counts)):
            torch.mm(gradient[element, : len(x)].T, x, out=weight_gradient[element])
        return weight_gradient.view(ctx.shape), None, None, None


def map_features(weight: Tensor, features: Tensor, counts: list[int], n_rows: int) -> Tensor:
    """Multiply features, sorted by element, by the weights of their element.

    Parameters
    ----------
    weight : Tensor of shape (n_elements * n_networks, n_outputs, n_features)
        Weights.
    features : Tensor of shape (n_atoms, n_features)
        Constants; the atoms are sorted by element.
    counts : list of int
        Number of atoms of each element.
    n_rows : int
        Rows of the result per element: the largest of ``counts``.

    Returns
    -------
    Tensor of shape (n_elements * n_networks, n_rows, n_outputs)
        The unused rows of elements with fewer atoms are zero.
    """
    return _FeatureMap.apply(weight, features, counts, n_rows)
