"""Pair basis: the contribution of one neighbour to the density expansion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import get_type_hints

import numpy as np
import torch
from spex.cutoff.shifted_cosine import shifted_cosine
from spex.radial import LaplacianEigenstates
from torch import Tensor, nn

from ..data import usual_settings
from ._channels import count_channels
from ._harmonics import SphericalHarmonics


@dataclass(frozen=True)
class SoapParameters:
    """Hyperparameters of the SOAP descriptor.

    Parameters
    ----------
    cutoff_radius : float, default=5.0
        Distance beyond which neighbours are ignored, in the unit of the positions.
    cutoff_width : float, default=0.5
        Width of the range below the cutoff radius in which the weight of a neighbour falls smoothly
        to zero, in the same unit.
    max_radial : int, default=7
        Index of the highest radial channel at l = 0, inclusive; higher l have fewer channels.
    max_angular : int, default=6
        Highest degree l of the spherical harmonics, inclusive.
    radial_scale : float, default=inf
        Distance :math:`r_0` beyond which neighbours count less: they have the weight
        :math:`1 / (1 + (r / r_0)^4)` [1]_, in the same unit. Infinity means the weight 1.

    Raises
    ------
    ValueError
        If ``cutoff_width`` exceeds ``cutoff_radius``.

    References
    ----------
    .. [1] Willatt, Musil, Ceriotti, "Feature optimization for atomistic machine learning yields a
       data-driven construction of the periodic table of the elements", Phys. Chem. Chem. Phys. 20,
       29661 (2018), doi:10.1039/C8CP05921G.
    """

    cutoff_radius: float = 5.0
    cutoff_width: float = 0.5
    max_radial: int = 7
    max_angular: int = 6
    radial_scale: float = math.inf

    def __post_init__(self) -> None:
        if self.cutoff_width > self.cutoff_radius:
            raise ValueError(
                f"cutoff_width={self.cutoff_width} must not exceed "
                f"cutoff_radius={self.cutoff_radius}."
            )


# types of the hyperparameters by name; the estimators have arguments of the same names
SOAP_TYPES = get_type_hints(SoapParameters)
SOAP_PARAMETERS = tuple(SOAP_TYPES)


def read_soap_parameters(estimator) -> SoapParameters:
    """Return the hyperparameters that an estimator has as attributes of the same names."""
    return SoapParameters(**{n: type_(getattr(estimator, n)) for n, type_ in SOAP_TYPES.items()})


@dataclass
class PairFactors:
    r"""Radial and angular factors, from which the pair basis and its gradient follow.

    They take a third of the memory of the gradient.

    Parameters
    ----------
    radial : Tensor of shape (n_pairs, 2, n_radial)
        :math:`R_{nl} f_c` and its derivative.
    angular : Tensor of shape (n_pairs, n_angular)
        :math:`Y_{lm}`.
    angular_gradient : Tensor of shape (n_pairs, 3, n_angular)
        :math:`\nabla Y_{lm}`.
    direction : Tensor of shape (n_pairs, 3)
        :math:`\hat{\mathbf r}`.
    """

    radial: Tensor
    angular: Tensor
    angular_gradient: Tensor
    direction: Tensor

    def __len__(self) -> int:
        return len(self.angular)

    def select(self, pairs: Tensor) -> PairFactors:
        """Return the factors of some pairs."""
        return PairFactors(*(factor.index_select(0, pairs) for factor in vars(self).values()))

    def split(self, size: int) -> list[PairFactors]:
        """Split into pieces of ``size`` pairs."""
        parts = (factor.split(size) for factor in vars(self).values())
        return [PairFactors(*part) for part in zip(*parts)]

    @classmethod
    def join(cls, pieces: list[PairFactors]) -> PairFactors:
        """Undo :meth:`split`."""
        factors = zip(*(vars(piece).values() for piece in pieces))
        return cls(*(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in factors))


class PairBasis(nn.Module):
    r"""Basis functions :math:`B_{nlm}(\mathbf r) = R_{nl}(r) f_c(r) Y_{lm}(\hat{\mathbf r})`.

    Laplacian eigenstates [1]_ as splines of torch-spex, real spherical harmonics, and a
    shifted-cosine cutoff. The basis contains the states whose eigenvalue is at most the eigenvalue
    of n = ``max_radial``, l = 0.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters.

    Attributes
    ----------
    hyperparameters : SoapParameters
        The hyperparameters.
    n_per_l : tuple of int
        Number of radial channels for each degree l.
    n_channels : int
        Number of basis functions, which are ordered by l, then n, then m.
    parity : Tensor of shape (n_channels,)
        :math:`(-1)^l`, by which a function is multiplied under inversion of :math:`\mathbf r`.

    References
    ----------
    .. [1] Bigi, Huguenin-Dumittan, Ceriotti, Manolopoulos, "A smooth basis for atomistic machine
       learning", J. Chem. Phys. 157, 234101 (2022), doi:10.1063/5.0124363.
    """

    def __init__(self, parameters: SoapParameters) -> None:
        super().__init__()
        table, self.spacing, self.n_per_l = load_spline_table(parameters)
        self.hyperparameters = parameters
        self.cutoff_radius = parameters.cutoff_radius
        self.cutoff_width = parameters.cutoff_width
        self.angular = SphericalHarmonics(parameters.max_angular)
        sizes = count_channels(self.n_per_l)
        degrees = [l for l, size in enumerate(sizes) for _ in range(size)]
        radial, angular = _channel_factors(self.n_per_l)
        self.n_channels = len(degrees)
        for name, buffer in {
            "table": table,
            "parity": (-1.0) ** torch.tensor(degrees),
            "radial_index": radial,
            "angular_index": angular,
        }.items():
            self.register_buffer(name, buffer, persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the basis."""
        return self.table.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the basis."""
        return self.table.dtype

    def forward(self, pair_vectors: Tensor) -> Tensor:
        """Evaluate the basis at vectors of shape (n_pairs, 3): (n_pairs, n_channels)."""
        distances = pair_vectors.norm(dim=1)
        radial, _ = self._radial(distances)
        return self._multiply(radial, self.angular(pair_vectors / distances[:, None]))

    def factors(self, pair_vectors: Tensor) -> PairFactors:
        """Evaluate the factors of the basis and of its gradient."""
        pieces = pair_vectors.split(pairs_per_chunk(pair_vectors.device))
        return PairFactors.join([self._factors(vectors) for vectors in pieces])

    def _factors(self, pair_vectors: Tensor) -> PairFactors:
        distances = pair_vectors.norm(dim=1)
        direction = pair_vectors / distances[:, None]
        angular, angular_gradient = self.angular.differentiate(direction, distances)
        radial = torch.stack(self._radial(distances), dim=1)
        return PairFactors(radial, angular, angular_gradient, direction)

    def values(self, factors: PairFactors) -> Tensor:
        """Return the basis, (n_pairs, n_channels)."""
        return self._multiply(factors.radial[:, 0], factors.angular)

    def gradient(self, factors: PairFactors) -> Tensor:
        """Return the gradient of the basis, (n_pairs, 3, n_channels)."""
        radial, slope = factors.radial.index_select(2, self.radial_index).unbind(1)
        slope = slope * factors.angular.index_select(1, self.angular_index)
        gradient = factors.angular_gradient.index_select(2, self.angular_index)
        gradient *= radial[:, None]
        return gradient.addcmul_(factors.direction[:, :, None], slope[:, None])

    def contract(self, factors: PairFactors, channels: Tensor) -> Tensor:
        r"""Return :math:`\sum_{nlm} d_{nlm} \nabla B_{nlm}` for d of shape (n_pairs, n_channels).

        The sum over n comes first, so that the gradient is never formed. The shape is (n_pairs, 3).
        """
        sizes = count_channels(self.n_per_l)
        blocks = zip(factors.radial.split(self.n_per_l, dim=2), channels.split(sizes, dim=1))
        summed = torch.cat([torch.bmm(r, d.unflatten(1, (r.shape[2], -1))) for r, d in blocks], 2)
        value, slope = summed.unbind(1)  # (n_pairs, n_angular)
        along = (slope * factors.angular).sum(1, keepdim=True)
        across = (factors.angular_gradient * value[:, None]).sum(2)
        return across.addcmul_(factors.direction, along)

    def spread(self, factors: PairFactors, vectors: Tensor) -> Tensor:
        """Return the transpose of :meth:`contract`: vectors (n_pairs, 3) times the gradient."""
        across = torch.bmm(vectors[:, None], factors.angular_gradient)[:, 0]
        along = factors.angular * (vectors * factors.direction).sum(1, keepdim=True)
        radial, slope = factors.radial.unbind(1)
        return self._multiply(radial, across).add_(self._multiply(slope, along))

    def _multiply(self, radial: Tensor, angular: Tensor) -> Tensor:
        """Multiply factors of shape (n_pairs, n_radial) and (n_pairs, n_angular) by channel."""
        product = radial.index_select(1, self.radial_index)
        return product.mul_(angular.index_select(1, self.angular_index))

    def _radial(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the splines times the cutoff, and the derivative: (n_pairs, n_radial) each."""
        place = distances.clamp(max=self.cutoff_radius) / self.spacing
        interval = place.floor()
        t = (place - interval)[:, None]
        p, m, a, b = self.table.index_select(0, interval.long()).chunk(4, dim=1)
        value = torch.addcmul(p, t, torch.addcmul(m, t, torch.addcmul(a, t, b)))
        slope = (m + t * (2 * a + 3 * t * b)) / self.spacing
        weight, weight_slope = self._cutoff(distances)
        return value * weight, (slope * weight).addcmul_(value, weight_slope)

    def _cutoff(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the cutoff function of torch-spex and its derivative."""
        weight = shifted_cosine(self.cutoff_radius, self.cutoff_width)(distances)
        phase = (distances - self.cutoff_radius) / self.cutoff_width + 1
        inside = (phase > 0) & (phase < 1)
        slope = torch.sin(math.pi * phase) * (-0.5 * math.pi / self.cutoff_width)
        return weight[:, None], torch.where(inside, slope, 0.0)[:, None]


def pairs_per_chunk(device: torch.device) -> int:
    """Return the number of pairs to process at a time, to fit a CPU's cache or to fill a GPU."""
    return 1024 if device.type == "cpu" else 2**18


@lru_cache(maxsize=32)
@usual_settings()
def load_spline_table(parameters: SoapParameters):
    r"""Build torch-spex's radial splines in float64, regardless of torch's default dtype.

    Each row contains the coefficients of the cubic Hermite polynomial of one interval,
    :math:`p + m t + a t^2 + b t^3`. The last row is zero, for distances beyond the cutoff.
    """
    basis = LaplacianEigenstates(
        parameters.cutoff_radius,
        max_angular=parameters.max_angular,
        max_radial=parameters.max_radial,
    )
    n_knots = len(basis.spliner.spline_values) - 1
    knots, spacing = np.linspace(0.0, parameters.cutoff_radius, n_knots, retstep=True)
    values, derivatives = basis.get_spliner_inputs(parameters.cutoff_radius, normalize=True)
    # the weight of distant neighbours is a factor of the splines
    distances = np.maximum(knots, spacing)[:, None]
    weight = 1 / (1 + (knots[:, None] / parameters.radial_scale) ** 4)
    slope = -4 * weight * (1 - weight) / distances
    p = values(knots) * weight
    m = (derivatives(knots) * weight + values(knots) * slope) * spacing
    a = 3 * (p[1:] - p[:-1]) - 2 * m[:-1] - m[1:]
    b = 2 * (p[:-1] - p[1:]) + m[:-1] + m[1:]
    table = np.pad(np.hstack([p[:-1], m[:-1], a, b]), ((0, 1), (0, 0)))
    return torch.from_numpy(table), float(spacing), tuple(basis.n_per_l)


def _channel_factors(n_per_l):
    """Return the indices of the radial and the angular factor of each channel (l, n, m)."""
    radial, angular, first_radial = [], [], 0
    for l, n in enumerate(n_per_l):
        m = 2 * l + 1
        radial.append(torch.arange(n).repeat_interleave(m) + first_radial)
        angular.append(torch.arange(m).repeat(n) + l * l)
        first_radial += n
    return torch.cat(radial), torch.cat(angular)


def count_radial_channels(parameters: SoapParameters) -> tuple[int, ...]:
    """Return the number of radial channels for each degree l."""
    return load_spline_table(parameters)[2]
