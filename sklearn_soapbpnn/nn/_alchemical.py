"""First layer with pseudo-species; the number of its features does not depend on the elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..descriptors import PowerSpectrum
from ._encoded_spectrum import Layout, find_slope, fold_norm, project
from ._environments import EnvironmentBatch
from ._first_layer import FirstLayer
from ._layers import ElementLinear
from ._pair_map import map_pairs


@dataclass(frozen=True)
class _Context:
    """What the forces need: the steps of the forward pass."""

    layout: Layout
    embedding: Tensor
    mixed: Tensor
    features: Tensor
    inverse: Tensor
    weight: Tensor
    projected: Tensor


@final
class AlchemicalLayer(FirstLayer):
    r"""From the environments to the first preactivations, with learnt pseudo-species.

    .. math::

        \tilde c_i^{b} = \sum_a U_{ab} c_i^a, \qquad
        a_i = W [\gamma \, \mathrm{norm}(e_{Z_i} \tilde p_i) + \beta]

    Neighbour elements a are embedded in a few pseudo-species b [1]_. The power spectrum
    :math:`\tilde p` of these is multiplied by an embedding e of the centre, and all elements share
    one network. U acts on the density expansion, which is a constant of the data, so the stored
    pair basis can be used here as well. The networks of a committee share everything but W.
    Derivatives are written by hand.

    Parameters
    ----------
    n_elements : int
        Number of elements.
    n_pseudo_species : int
        Number of pseudo-species.
    n_per_l, n_outputs, layernorm, n_networks, generator
        See :class:`OrthogonalLayer`.

    References
    ----------
    .. [1] Willatt, Musil, Ceriotti, "Feature optimization for atomistic machine learning yields a
       data-driven construction of the periodic table of the elements", Phys. Chem. Chem. Phys. 20,
       29661 (2018), doi:10.1039/C8CP05921G.
    """

    own_elements = True

    def __init__(
        self,
        n_elements: int,
        n_pseudo_species: int,
        n_per_l: Sequence[int],
        n_outputs: int,
        layernorm: bool,
        n_networks: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.constants = WholeExpansion()
        self.layernorm = layernorm
        self.n_networks = self.n_sets = n_networks
        self.spectrum = PowerSpectrum(n_per_l, n_pseudo_species)
        self.n_features = n_features = self.spectrum.n_full
        self.embedding = _draw_normal((n_elements, n_pseudo_species), generator)
        self.encoding = _draw_normal((n_elements, n_features), generator)
        self.norm = nn.LayerNorm(n_features, dtype=torch.float64) if layernorm else nn.Identity()
        self.linear = ElementLinear(n_networks, n_features, n_outputs, generator)

    @property
    def roughness(self) -> Tensor:
        """How fast each feature oscillates, see :meth:`PowerSpectrum.roughness`."""
        return self.spectrum.roughness()

    def features(self, batch: EnvironmentBatch) -> Tensor:
        """Return the normalised features, of shape (n_atoms, n_features)."""
        layout, (_, mixed) = self._layout(batch), self._mix(batch)
        encoding = F.embedding(batch.index.element, self.encoding)
        return self.norm(layout.multiply(mixed) * encoding)

    def forward(self, batch: EnvironmentBatch) -> tuple[Tensor, _Context]:
        """Return a, of shape (n_networks, n_atoms, n_outputs), and what the forces need."""
        layout = self._layout(batch)
        embedding, mixed = self._mix(batch)
        weight, bias = self.linear.weight.flatten(0, 1), None
        if layout.normalize:
            weight, bias = fold_norm(weight, self.norm.weight, self.norm.bias)
        projected, inverse, features = project(mixed, self.encoding, weight, layout)
        hidden = self._separate(projected if bias is None else projected + bias)
        projected = self._separate(projected)
        weight = weight.unflatten(0, (self.n_networks, -1))
        return hidden, _Context(layout, embedding, mixed, features, inverse, weight, projected)

    def differentiate(
        self, gradient: Tensor, context: _Context, columns: slice, batch: EnvironmentBatch
    ) -> Tensor:
        """Return dE/dr_ij, given dE/da of some columns as a table."""
        return map_pairs(self.slope(gradient, context, columns, batch), batch)

    def slope(
        self, gradient: Tensor, context: _Context, columns: slice, batch: EnvironmentBatch
    ) -> Tensor:
        """Return dE/dc of each network, given dE/da of some columns as a table."""
        shared = context.mixed, self.encoding
        slopes = [
            find_slope(
                *(own, context.features, weight[columns], *shared),
                *(projected[:, columns], context.inverse, context.layout),
            )
            for own, weight, projected in zip(gradient, context.weight, context.projected)
        ]
        by_element = self.spectrum.by_element(torch.cat(slopes))
        return torch.matmul(context.embedding, by_element.unflatten(0, (self.n_networks, -1)))

    def gather(self, table: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Take the rows of the atoms from a table: (n_networks, n_atoms, n)."""
        return table

    def scatter(self, atoms: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Put rows of the atoms into a table."""
        return atoms

    def _separate(self, outputs) -> Tensor:
        """Separate what the networks make of the atoms, (n_atoms, n_networks * n_outputs)."""
        return outputs.unflatten(1, (self.n_networks, -1)).transpose(0, 1).contiguous()

    def _layout(self, batch) -> Layout:
        return Layout(self.spectrum, batch.index.element_counts, self.layernorm)

    def _mix(self, batch) -> tuple[Tensor, Tensor]:
        """Return the embedding of each block, and the expansion by pseudo-species and degree."""
        embedding = F.embedding(batch.block_elements, self.embedding)
        mixed = torch.bmm(embedding.mT, batch.constants["expansion"])
        return embedding, self.spectrum.by_degree(mixed)


class WholeExpansion(nn.Module):
    """Constants of :class:`AlchemicalLayer`: the expansion itself, on which its weights act."""

    def forward(self, expansion: Tensor, derivatives: bool) -> dict[str, Tensor]:
        """Return the expansion (n_atoms, n_blocks, n_channels) unchanged."""
        return {"expansion": expansion}


def _draw_normal(shape, generator) -> nn.Parameter:
    """Draw weights in float64, so that they do not depend on the precision of the network."""
    return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
