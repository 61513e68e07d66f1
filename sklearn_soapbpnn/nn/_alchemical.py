"""First layer with pseudo-species: the size of its features does not grow with the elements."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..descriptors import PowerSpectrum
from ._layers import ElementLinear
from ._pair_map import map_pairs


class AlchemicalLayer(nn.Module):
    r"""From the environments to the first preactivations, with learned pseudo-species.

    .. math::

        \tilde c_i^{b} = \sum_a U_{ab} c_i^a, \qquad
        a_i = W [\gamma \, \mathrm{norm}(e_{Z_i} \tilde p_i) + \beta]

    Neighbour elements a are embedded in a few pseudo-species b [1]_, the power spectrum
    :math:`\tilde p` of these is multiplied by an embedding e of the centre, and one network serves
    all elements. U acts on the density expansion, which is a constant of the data, so that the
    stored pair basis serves here as well.

    Parameters
    ----------
    n_elements : int
        Number of elements.
    n_pseudo_species : int
        Number of pseudo-species.
    n_per_l, n_outputs, layernorm, generator
        See :class:`OrthogonalLayer`.

    References
    ----------
    .. [1] Willatt, Musil, Ceriotti, "Feature optimization for atomistic machine learning yields a
       data-driven construction of the periodic table of the elements", Phys. Chem. Chem. Phys. 20,
       29661 (2018), doi:10.1039/C8CP05921G.
    """

    own_elements = True  # blocks of the expansion are the elements of an atom's own structure
    n_networks = 1

    def __init__(
        self, n_elements, n_pseudo_species, n_per_l, n_outputs, layernorm, generator
    ) -> None:
        super().__init__()
        self.spectrum = PowerSpectrum(n_per_l, n_pseudo_species)
        n_features = self.spectrum.n_full
        self.n_features = n_features

        def draw(*shape):
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.embedding = draw(n_elements, n_pseudo_species)
        self.encoding = draw(n_elements, n_features)
        self.norm = nn.LayerNorm(n_features, dtype=torch.float64) if layernorm else nn.Identity()
        self.linear = ElementLinear(1, n_features, n_outputs, generator)

    def constants(self, expansion: Tensor, derivatives: bool) -> dict[str, Tensor]:
        """Return what the layer needs of an expansion: itself."""
        return {"expansion": expansion}

    def features(self, batch) -> Tensor:
        """Return the normalised features, of shape (n_atoms, n_features)."""
        return self._features(batch.constants["expansion"], batch)

    def _features(self, expansion: Tensor, batch) -> Tensor:
        embedding = F.embedding(batch.block_elements, self.embedding)
        mixed = self.spectrum.by_degree(torch.bmm(embedding.mT, expansion))
        gram = [torch.bmm(c, c.mT).flatten(1) for c in self.spectrum.blocks(mixed)]
        return self.norm(torch.cat(gram, dim=1) * F.embedding(batch.index.element, self.encoding))

    def forward(self, batch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return a, of shape (1, n_atoms, n_outputs), and what the forces need of it."""
        expansion = batch.constants["expansion"]
        derivatives = batch.pair_gradients is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() or derivatives):
            if derivatives:
                expansion = expansion.detach().requires_grad_()
            hidden = (self._features(expansion, batch) @ self.linear.weight[0].T)[None]
        return hidden, (hidden, expansion)

    def gather(self, table: Tensor, batch) -> Tensor:
        """Take the rows of the atoms from a table: (n_atoms, n)."""
        return table[0]

    def scatter(self, atoms: Tensor, batch) -> Tensor:
        """Put rows of the atoms into a table."""
        return atoms[None]

    def differentiate(self, gradient: Tensor, context, columns: slice, batch) -> Tensor:
        """Return dE/dr_ij, given dE/da of some columns as a table."""
        hidden, expansion = context
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            part = hidden[:, :, columns]
        (slope,) = torch.autograd.grad(part, expansion, gradient, create_graph=create_graph)
        return map_pairs(slope, batch)
