"""First layer with orthogonal species: its features are constants of the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..descriptors import PowerSpectrum
from ._force_map import map_forces
from ._layers import ElementLinear, NoNorm, PackedLayerNorm, map_features


class OrthogonalLayer(nn.Module):
    r"""From the environments to the first preactivations, one set of weights for each element.

    .. math:: a_i = A_{Z_i} x_i + b_{Z_i}

    with x the standardised power spectrum over all pairs of neighbour elements, see
    :class:`PackedLayerNorm`. It has no weights, so it is computed once.

    Parameters
    ----------
    n_elements : int
        Number of elements, of centres as of neighbours.
    n_per_l : sequence of int
        Radial channels for each degree.
    n_outputs : int
        Number of preactivations.
    layernorm : bool
        Whether the features are normalised, which gives the layer its bias.
    generator : torch.Generator
        Source of the initial weights.
    """

    own_elements = False  # blocks of the expansion are all elements

    def __init__(self, n_elements, n_per_l, n_outputs, layernorm, generator) -> None:
        super().__init__()
        self.n_networks = n_elements
        self.spectrum = PowerSpectrum(n_per_l, n_elements)
        n_features, n_full = self.spectrum.n_features, self.spectrum.n_full
        self.norm = PackedLayerNorm(self.spectrum.weight, n_full) if layernorm else NoNorm()
        # starts as if it saw the full spectrum
        self.linear = ElementLinear(n_elements, n_features, n_outputs, generator, n_full)
        # what the shift of LayerNorm's affine part becomes behind this layer
        bias = torch.zeros(n_elements, n_outputs, dtype=torch.float64)
        self.bias = nn.Parameter(bias) if layernorm else None

    @property
    def n_features(self) -> int:
        """Size of the features."""
        return self.spectrum.n_features

    def constants(self, expansion: Tensor, derivatives: bool) -> dict[str, Tensor]:
        """Return what the layer needs of an expansion (n_atoms, n_elements, n_channels).

        ``features`` x; with derivatives also ``slope``, 2 c / sigma by degree, and, if it
        normalises, ``curvature``, 2 unpack(x) c / (n sigma).
        """
        by_degree = self.spectrum.by_degree(expansion)
        features, sigma = self.norm.standardize(self.spectrum(by_degree))
        constants = {"features": features}
        if derivatives:
            constants["slope"] = 2 * by_degree / sigma
            curvature = self.norm.curvature(features, constants["slope"], self.spectrum)
            if curvature is not None:
                constants["curvature"] = curvature
        return constants

    def forward(self, batch) -> tuple[Tensor, Tensor]:
        """Return a, of shape (n_elements, n_rows, n_outputs), and A x, which the forces need."""
        index = batch.index
        projected = map_features(
            self.linear.weight, batch.constants["features"], index.element_counts, index.n_rows
        )
        hidden = projected if self.bias is None else projected + self.bias[:, None]
        return hidden, projected

    def gather(self, table: Tensor, batch) -> Tensor:
        """Take the rows of the atoms from a table: (n_atoms, n)."""
        return table.flatten(0, 1).index_select(0, batch.index.rows)

    def scatter(self, atoms: Tensor, batch) -> Tensor:
        """Put rows of the atoms into a table, zero where an element has fewer."""
        index = batch.index
        table = atoms.new_zeros(self.n_networks * index.n_rows, atoms.shape[1])
        return table.index_copy(0, index.rows, atoms).unflatten(0, (self.n_networks, -1))

    def features(self, batch) -> Tensor:
        """Return the normalised features, of shape (n_atoms, n_features)."""
        return batch.constants["features"]

    def differentiate(self, gradient: Tensor, projected: Tensor, columns: slice, batch) -> Tensor:
        """Return dE/dr_ij, given dE/da of some columns as a table."""
        overlap = (gradient * projected[:, :, columns]).sum(2)
        return map_forces(
            self.linear.weight[:, columns],
            self.gather(gradient, batch),
            self.gather(overlap[:, :, None], batch)[:, 0],
            self,
            batch,
        )
