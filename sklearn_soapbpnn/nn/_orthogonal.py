"""First layer with orthogonal species: separate channels and weights for each element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from ..descriptors import FusedPairs, PowerSpectrum
from ._environments import EnvironmentBatch
from ._first_layer import FirstLayer
from ._force_map import find_slope, map_forces
from ._force_rows import differentiate_by_atom
from ._layers import ElementLinear, NoNorm, PackedLayerNorm, map_features


@final
class OrthogonalLayer(FirstLayer):
    r"""From the environments to the first preactivations, one set of weights for each element.

    .. math:: a_i = A_{Z_i} x_i + b_{Z_i}

    with the standardised power spectrum x over all pairs of neighbour elements, see
    :class:`PackedLayerNorm`. The spectrum has no weights, so it is computed once.

    Parameters
    ----------
    n_elements : int
        Number of elements; centres and neighbours have the same.
    n_per_l : sequence of int
        Radial channels for each degree.
    n_outputs : int
        Number of preactivations.
    layernorm : bool
        Whether the features are normalised; if so, the layer has a bias.
    n_networks : int
        Number of networks.
    generator : torch.Generator
        Source of the initial weights.
    """

    own_elements = False

    def __init__(
        self,
        n_elements: int,
        n_per_l: Sequence[int],
        n_outputs: int,
        layernorm: bool,
        n_networks: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.constants = StandardizedSpectrum(n_per_l, n_elements, layernorm)
        self.layernorm = layernorm
        self.n_networks, self.n_sets = n_networks, n_elements * n_networks
        self.n_features = self.spectrum.n_features
        # the initial weights are scaled as for the full spectrum
        self.linear = ElementLinear(
            self.n_sets, self.n_features, n_outputs, generator, self.spectrum.n_full
        )
        # replaces the shift of LayerNorm: that shift times the weights of this layer
        bias = torch.zeros(self.n_sets, n_outputs, dtype=torch.float64)
        self.bias = nn.Parameter(bias) if layernorm else None

    @property
    def spectrum(self) -> PowerSpectrum:
        """Layout of the features."""
        return self.constants.spectrum

    @property
    def norm(self) -> PackedLayerNorm | NoNorm:
        """Normalisation of the features."""
        return self.constants.norm

    @property
    def roughness(self) -> Tensor:
        """How fast each feature oscillates, see :meth:`PowerSpectrum.roughness`."""
        return self.spectrum.roughness().index_select(0, self.spectrum.upper)

    def features(self, batch: EnvironmentBatch) -> Tensor:
        """Return the normalised features, of shape (n_atoms, n_features)."""
        return batch.constants["features"]

    def forward(self, batch: EnvironmentBatch) -> tuple[Tensor, Tensor]:
        """Return a, of shape (n_sets, n_rows, n_outputs), and A x, which the forces need."""
        index = batch.index
        projected = map_features(
            self.linear.weight, batch.constants["features"], index.element_counts, index.n_rows
        )
        hidden = projected if self.bias is None else projected + self.bias[:, None]
        return hidden, projected

    def differentiate(
        self, gradient: Tensor, projected: Tensor, columns: slice, batch: EnvironmentBatch
    ) -> Tensor:
        """Return dE/dr_ij, given dE/da of some columns as a table."""
        of_atoms = self._gather_gradient(gradient, projected, columns, batch)
        return map_forces(self.linear.weight[:, columns], *of_atoms, self, batch)

    def slope(
        self, gradient: Tensor, projected: Tensor, columns: slice, batch: EnvironmentBatch
    ) -> Tensor:
        """Return dE/dc of each network, given dE/da of some columns as a table."""
        of_atoms = self._gather_gradient(gradient, projected, columns, batch)
        weight = self.norm.project(self.linear.weight[:, columns])
        return find_slope(weight, *of_atoms, self, batch)

    def force_rows(
        self, jacobian: Tensor, projected: Tensor, columns: slice, batch: EnvironmentBatch, strain
    ) -> tuple[Tensor, Tensor]:
        """Return derivatives of sums of features; see :meth:`FirstLayer.force_rows`."""
        if isinstance(batch.pair_gradients, FusedPairs):
            return differentiate_by_atom(self, jacobian, projected, columns, batch, strain)
        return super().force_rows(jacobian, projected, columns, batch, strain)

    def gather(self, table: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Take the rows of the atoms from a table: (n_networks, n_atoms, n)."""
        rows = batch.index.rows_of_networks(self.n_networks)
        return table.flatten(0, 1).index_select(0, rows).unflatten(0, (self.n_networks, -1))

    def scatter(self, atoms: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Put rows of the atoms into a table, in which unused rows are zero."""
        rows = batch.index.rows_of_networks(self.n_networks)
        table = atoms.new_zeros(self.n_sets * batch.index.n_rows, atoms.shape[2])
        return table.index_copy(0, rows, atoms.flatten(0, 1)).unflatten(0, (self.n_sets, -1))

    def _gather_gradient(self, gradient, projected, columns, batch) -> tuple[Tensor, Tensor]:
        """Return v = dE/dy and v . y of the atoms, given dE/da of some columns as a table."""
        overlap = (gradient * projected[:, :, columns]).sum(2, keepdim=True)
        return self.gather(gradient, batch), self.gather(overlap, batch)[:, :, 0]


class StandardizedSpectrum(nn.Module):
    """Constants of :class:`OrthogonalLayer`: power spectra, and factors of their derivatives.

    Parameters
    ----------
    n_per_l : sequence of int
        Radial channels for each degree.
    n_elements : int
        Number of neighbour elements.
    layernorm : bool
        Whether the spectra are standardised.
    """

    def __init__(self, n_per_l: Sequence[int], n_elements: int, layernorm: bool) -> None:
        super().__init__()
        self.spectrum = PowerSpectrum(n_per_l, n_elements)
        ones, n_full = self.spectrum.weight, self.spectrum.n_full
        self.norm = PackedLayerNorm(ones, n_full) if layernorm else NoNorm()

    def forward(self, expansion: Tensor, derivatives: bool) -> dict[str, Tensor]:
        """Return the constants that follow from an expansion (n_atoms, n_elements, n_channels).

        They are ``features``, x; with derivatives also ``slope``, 2 c / sigma by degree.
        """
        by_degree = self.spectrum.by_degree(expansion)
        features, sigma = self.norm.standardize(self.spectrum(by_degree))
        constants = {"features": features}
        if derivatives:
            constants["slope"] = 2 * by_degree / sigma
        return constants
