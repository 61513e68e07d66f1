r"""Muon: matrices take steps of equal size in all directions, and Adam moves everything else.

With G the gradient of a matrix of weights W and M its running mean [1]_,

.. math::

    M \leftarrow \mu M + (1 - \mu) G, \qquad
    W \leftarrow (1 - \lambda \eta) W - 20 \, \eta \sqrt{\frac{n_\text{out}}{n_\text{in}}} \;
        \mathrm{orth}\left(\mu M + (1 - \mu) G\right)

where :math:`\mathrm{orth}(U S V^T) = U V^T` and :math:`\lambda` is the weight decay. Adam scales
each number on its own; of a wide layer on a power spectrum, whose entries rise and fall together,
it then learns the few strong directions and hardly the many weak ones.

The root makes one rate right for all widths: :math:`\mathrm{orth}` has singular values of 1, so
that, for inputs of size 1 (root mean square), a step changes the outputs of a layer by at most
:math:`20 \eta` (root mean square), whatever the numbers of inputs and outputs [2]_. Adam changes
each weight by about :math:`\eta`. The factor of 20 is what lets both have the same
:math:`\eta`.

References
----------
.. [1] Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
   https://kellerjordan.github.io/posts/muon.
.. [2] Yang, Simon, Bernstein, "A spectral condition for feature learning" (2023),
   arXiv:2310.17813.
.. [3] Amsel, Persson, Musco, Gower, "The Polar Express: Optimal matrix sign methods and their
   application to the Muon algorithm" (2025), arXiv:2505.16932.
.. [4] Bartok, Kondor, Csanyi, "On representing chemical environments", Phys. Rev. B 87, 184115
   (2013), doi:10.1103/PhysRevB.87.184115.
.. [5] Wang and Aitchison, "How to set AdamW's weight decay as you scale model and dataset size"
   (2024), arXiv:2405.13698.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.adam import adam

# eta of matrices, in that of everything else
RATIO = 20.0
# exponent with which the weight decay shrinks a matrix during a training
LARGEST_DECAY = 2.5
# odd polynomials that, one after the other, take singular values between 0.003 and 1 to 0.8 to 1.2,
# the best of degree 5 in this order, see [3]
COEFFICIENTS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)


class Muon(torch.optim.Optimizer):
    r"""Muon for stacks of matrices, and Adam for all other weights.

    A weight of three axes, (n_sets, n_outputs, n_inputs), is a stack of matrices. One whose
    gradient is zero, since no atom of its element is in the batch, stays as it is: a step has the
    same size however small the mean of the gradients has become.

    Parameters
    ----------
    params : iterable
        Weights, or groups of them.
    lr : float, default=1e-3
        Learning rate of both, see above.
    momentum : float, default=0.95
        Share of the previous value in the running mean of the gradients of matrices.
    betas : tuple of float, default=(0.9, 0.999)
        The same for Adam, in the running means of the gradients and of their squares.
    eps : float, default=1e-8
        Size of a gradient that counts as zero.
    weight_decay : float, default=None
        Share of a matrix that a step of rate 1 takes away. None leaves the choice to
        :meth:`choose_decay`; without it there is no decay.
    smoothness : float, default=1
        Exponent :math:`\tau` of :meth:`weigh_inputs`.
    adam_ratio : float, default=1
        Learning rate of the weights that Adam moves, in units of ``lr``.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0.95,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=None,
        smoothness=1.0,
        adam_ratio=1.0,
    ) -> None:
        sizes = {"smoothness": smoothness, "adam_ratio": adam_ratio}
        for name, value in {
            **{"lr": lr, "eps": eps, **sizes},
            "weight_decay": 0.0 if weight_decay is None else weight_decay,
        }.items():
            if not value >= 0 or (name == "eps" and value == 0):
                raise ValueError(f"{name} must be {'>' if name == 'eps' else '>='} 0, got {value}")
        for value in (momentum, *betas):
            if not 0 <= value < 1:
                raise ValueError(f"momentum and betas must lie in [0, 1), got {value}")
        super().__init__(
            params,
            {
                **{"lr": lr, "momentum": momentum, "betas": betas, "eps": eps},
                **{"weight_decay": weight_decay, **sizes},
            },
        )
        self._input_scales = {}

    def choose_decay(self, n_steps):
        """Choose the weight decay for the length of a training, if it was not given.

        It is 1, but in a long training less: if there was no gradient, a matrix would shrink by a
        factor of exp(-2.5) at most. Weights then average over the same share of the training,
        however many steps it has [5]_.

        Parameters
        ----------
        n_steps : int
            Number of steps, in which the learning rate falls to zero along a cosine.
        """
        for group in self.param_groups:
            if group["weight_decay"] is None:
                total = group["initial_lr"] * n_steps / 2
                group["weight_decay"] = min(1.0, LARGEST_DECAY / total)

    def weigh_inputs(self, weight, roughness, size=1.0):
        r"""Let inputs of a stack of matrices count by their size and by how fast they oscillate.

        The steps are those for :math:`W' = W S^{-1}`, whose inputs are S x, with

        .. math:: S = \mathrm{diag}(s), \qquad s_k \propto e^{-\tau \rho_k}

        and a root mean square of S of 1 / ``size``: S x is of size 1. Smooth inputs move faster
        than those that oscillate, which would fit the noise of small data sets. For a power
        spectrum this is the metric of neighbours that are Gaussians [4]_ with a width of
        :math:`\sqrt{2 \tau} / k_\text{max}`: with the default descriptor and :math:`\tau = 1`,
        0.28 Angstrom.

        Parameters
        ----------
        weight : Parameter of shape (n_sets, n_outputs, n_inputs)
            One of the weights of the optimizer.
        roughness : Tensor of shape (n_inputs,)
            :math:`\rho`, see :meth:`PowerSpectrum.roughness`.
        size : Tensor or float, default=1
            Root mean square of the inputs.
        """
        for group in self.param_groups:
            if any(weight is other for other in group["params"]):
                scale = torch.exp(-group["smoothness"] * roughness)
                self._input_scales[weight] = scale / (scale.square().mean().sqrt() * size)

    @torch.no_grad()
    def step(self, closure=None):
        """Make a step, with the gradients that there are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [weight for weight in group["params"] if weight.grad is not None]
            self._step_stacks([weight for weight in moving if weight.ndim == 3], group)
            self._step_others([weight for weight in moving if weight.ndim != 3], group)
        return loss

    def _step_stacks(self, weights, group):
        if not weights:
            return
        sizes = [len(weight) for weight in weights]
        norms = [torch.linalg.vector_norm(w.grad, dim=(1, 2), keepdim=True) for w in weights]
        present = torch.cat(norms).sign_()
        shares = ((1 - group["momentum"]) * present).split(sizes)
        directions = []
        for weight, share in zip(weights, shares):
            state = self.state[weight]
            if not state:
                state["mean"] = torch.zeros_like(weight)
            state["mean"].lerp_(weight.grad, share)
            direction = weight.grad.lerp(state["mean"], group["momentum"])
            if weight in self._input_scales:
                direction.mul_(self._input_scales[weight])
            directions.append(direction)
        factors = inverse_roots(directions, group["eps"])
        for weight, X, Q, there in zip(weights, directions, factors, present.split(sizes)):
            if group["weight_decay"]:
                weight.mul_(1 - group["lr"] * group["weight_decay"] * there)
            _, n_outputs, n_inputs = weight.shape
            rate = RATIO * group["lr"] * math.sqrt(n_outputs / n_inputs)
            left, right = _in_order(Q * there, X)
            if weight in self._input_scales:
                right = right * self._input_scales[weight]
            weight.baddbmm_(left, right, alpha=-rate)

    def _step_others(self, weights, group):
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                state["mean"] = torch.zeros_like(weight)
                state["square"] = torch.zeros_like(weight)
        states = [self.state[weight] for weight in weights]
        adam(
            weights,
            [weight.grad for weight in weights],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            **{"amsgrad": False, "maximize": False, "fused": True, "weight_decay": 0.0},
            **{"lr": group["adam_ratio"] * group["lr"], "eps": group["eps"]},
            **dict(zip(("beta1", "beta2"), group["betas"])),
        )


def inverse_roots(stacks: list[Tensor], eps: float = 1e-8) -> list[Tensor]:
    r"""Return what multiplies matrices such that all their singular values are near 1.

    For a matrix X that is wider than high this is :math:`Q \approx (X X^T)^{-1/2}` for Q X, else
    :math:`(X^T X)^{-1/2}` for X Q. A Newton-Schulz step is
    :math:`X \leftarrow (a + b X X^T + c (X X^T)^2) X`. All polynomials of :math:`X X^T` commute, so
    the steps are made with this small matrix alone, those of all stacks with a smaller side of the
    same length at once.

    Parameters
    ----------
    stacks : list of Tensor of shape (n, n_rows, n_columns)
        Matrices X.
    eps : float, default=1e-8
        Smallest norm of a matrix that is brought to 1.

    Returns
    -------
    list of Tensor of shape (n, n_smaller, n_smaller)
    """
    by_size = {}
    for k, X in enumerate(stacks):
        by_size.setdefault(min(X.shape[1:]), []).append(k)
    roots = {}
    for size, places in by_size.items():
        some = [stacks[k] for k in places]
        if size == 1:
            norms = [torch.linalg.vector_norm(X, dim=(1, 2), keepdim=True) for X in some]
            roots |= zip(places, [norm.clamp_(min=eps).reciprocal_() for norm in norms])
        else:
            root = _inverse_root(torch.cat([_gram(X) for X in some]), eps)
            roots |= zip(places, root.split([len(X) for X in some]))
    return [roots[k] for k in range(len(stacks))]


def _in_order(Q: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two factors of an orthogonal matrix, which is Q X or X Q."""
    return (Q, X) if X.shape[1] <= X.shape[2] else (X, Q)


def _gram(X: Tensor) -> Tensor:
    """Return X X^T or X^T X, whichever is smaller."""
    X = X if X.shape[1] <= X.shape[2] else X.mT
    # MKL is slow with a matrix and its own transpose, slower than with a copy
    return torch.bmm(X, X.mT.contiguous())


def _inverse_root(A: Tensor, eps: float) -> Tensor:
    """Return about A^(-1/2), for matrices A that have no negative eigenvalues."""
    square = A.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_(min=eps**2)
    A = A / square
    Q = None
    for step, (a, b, c) in enumerate(COEFFICIENTS, 1):
        P = torch.baddbmm(A, A, A, beta=b, alpha=c)
        P.diagonal(dim1=1, dim2=2).add_(a)
        Q = P if Q is None else torch.bmm(P, Q)
        if step < len(COEFFICIENTS):
            A = torch.bmm(torch.bmm(P, A), P)
    return Q.mul_(square.rsqrt_())
