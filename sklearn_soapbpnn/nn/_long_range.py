"""Long-range features, computed from the potential of learnt charges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..potentials import CoulombSum, Geometry, LongRangeParameters, import_torchpme


class LongRange(nn.Module):
    r"""Features that describe atoms beyond the cutoff, from the potential of learnt charges.

    .. math:: q_i = W h_i + b, \qquad f_i = f(V_i)

    There is one charge per feature and atom. V is the potential of these charges without the
    contribution of the neighbours within the cutoff, which the short-range features describe; see
    :class:`~sklearn_soapbpnn.potentials.CoulombSum`. f is a perceptron with one hidden layer.

    Parameters
    ----------
    parameters : LongRangeParameters
        Hyperparameters of the sums.
    cutoff_radius : float
        Cutoff radius of the pairs.
    n_features : int
        Number of features of the input and of the output.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        parameters: LongRangeParameters,
        cutoff_radius: float,
        n_features: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        import_torchpme()  # raises here rather than in the first batch
        self.coulomb = CoulombSum(parameters, float(cutoff_radius))
        self.charges = _build_linear(n_features, generator)
        self.out = nn.Sequential(
            _build_linear(n_features, generator), nn.SiLU(), _build_linear(n_features, generator)
        )

    def forward(self, features: Tensor, geometry: Geometry) -> Tensor:
        """Return the long-range features, (n_atoms, n_features), to be added to the others."""
        return self.out(self.compute_potential(self.charges(features), geometry))

    def compute_potential(self, charges: Tensor, geometry: Geometry) -> Tensor:
        """Return the potential V of charges, both (n_atoms, n_channels)."""
        use_ewald = self.coulomb.parameters.use_ewald and self.training
        return self.coulomb(charges, geometry, use_ewald)


def _build_linear(n_features, generator) -> nn.Linear:
    """Build a layer with the initial weights of nn.Linear, drawn in float64."""
    linear = nn.utils.skip_init(nn.Linear, n_features, n_features, dtype=torch.float64)
    bound = n_features**-0.5
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
    return linear
