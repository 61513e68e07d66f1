r"""Perceptrons after the first layer, with the gradient of the energy and second derivatives.

With the preactivations a_0 (the output of the first layer), weights W_k and SiLU f,

.. math:: a_{k+1} = W_k f(a_k), \qquad \epsilon = a_K, \qquad
          g_K = 1, \quad u_k = W_k^T g_{k+1}, \quad g_k = u_k f'(a_k)

so that :math:`g_0 = \partial \epsilon / \partial a_0`. Training on forces differentiates
:math:`g_0` as well. Autograd could do this in some hundred small operations; the hand-written
derivative takes a third of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, differentiate, depth, *weights):
        a, layers = hidden, []
        for weight in weights:
            sigmoid = torch.sigmoid(a)
            silu = a * sigmoid
            slope = (1 + a - silu).mul_(sigmoid)
            layers.append([a, sigmoid, silu, slope])
            a = torch.bmm(silu, weight.mT)
        ctx.save_for_backward(*weights)
        ctx.layers, ctx.sweep, ctx.depth = layers, [], depth
        # a copy, since an output that is stored in its own node would never be freed
        features = None if depth is None else layers[depth][2].clone()
        if not differentiate:
            return a[:, :, 0], None, features
        gradient = torch.ones_like(a)
        for weight, layer in zip(reversed(weights), reversed(layers)):
            u = torch.bmm(gradient, weight)
            ctx.sweep.insert(0, (gradient, u))
            gradient = u * layer[3]
        return a[:, :, 0], gradient, features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, energies, gradient, features):
        weights = ctx.saved_tensors
        weight_gradients, slopes = [torch.zeros_like(weight) for weight in weights], []
        for k, (g, u) in enumerate(ctx.sweep):
            slopes.append(gradient * u)
            u = gradient * ctx.layers[k][3]
            torch.bmm(g.mT, u, out=weight_gradients[k])
            gradient = torch.bmm(u, weights[k].mT)
        a_gradient = energies[:, :, None]
        for k in reversed(range(len(weights))):
            a, sigmoid, silu, slope = ctx.layers[k]
            weight_gradients[k].baddbmm_(a_gradient.mT, silu)
            a_gradient = torch.bmm(a_gradient, weights[k])
            if k == ctx.depth:
                a_gradient += features
            a_gradient *= slope
            if slopes:
                # f'' = s (1 - s) (2 + a - 2 f)
                curvature = (sigmoid - sigmoid * sigmoid).mul_((a - 2 * silu).add_(2))
                a_gradient.addcmul_(slopes[k], curvature)
        return a_gradient, None, None, *weight_gradients


def run_perceptron(
    hidden: Tensor, weights: list[Tensor], differentiate: bool, depth: int | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the energy of each row and its gradient with respect to ``hidden``.

    Parameters
    ----------
    hidden : Tensor of shape (n_sets, n_rows, n)
        Output of the first layer; rows of one set share their weights.
    weights : list of Tensor of shape (n_sets, n_outputs, n_inputs)
        Weights of the following layers, the last with one output; SiLU comes before each.
    differentiate : bool
        Whether to compute the gradient; otherwise it is None.
    depth : int, default=None
        Layer whose activations :math:`f(a_k)` are returned as well, for the other heads.

    Returns
    -------
    Tensor of shape (n_sets, n_rows), Tensor of shape (n_sets, n_rows, n), Tensor or None
    """
    return _Perceptron.apply(hidden, differentiate, depth, *weights)
