"""Learnt contractions of the channels of the density expansion to spherical tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._environments import EnvironmentBatch
from ._layers import ElementLinear


class ElementContraction(ElementLinear):
    r"""Contract the channels of the expansion, with weights for each pair of elements.

    .. math:: v_i^{m o} = \sum_{a n} W_{Z_i}^{o, a n} c_i^{a n m}

    Parameters
    ----------
    n_elements : int
        Number of elements a, each of which is a block of the expansion.
    n_radial : int
        Number of radial channels n.
    n_outputs : int
        Number of tensors o.
    generator : torch.Generator
        Source of the initial weights, uniform in :math:`\pm (\text{number of channels})^{-1/2}`.

    Attributes
    ----------
    weight : Parameter of shape (n_elements, n_outputs, n_elements * n_radial)
        W; n runs fastest.
    """

    def __init__(self, n_elements, n_radial, n_outputs, generator) -> None:
        super().__init__(n_elements, n_elements * n_radial, n_outputs, generator)

    def forward(self, c: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Contract c, (n_atoms, n_elements, n_radial, 2l+1), to (n_atoms, 2l+1, n_outputs).

        Only ``batch.index.element_counts`` is used: atoms are sorted by element.
        """
        channels = c.flatten(1, 2).mT  # (n_atoms, 2l+1, n_elements * n_radial)
        by_element = zip(channels.split(batch.index.element_counts), self.weight.unbind())
        return torch.cat([F.linear(x, weight) for x, weight in by_element if len(x)])


class PseudoSpeciesContraction(nn.Module):
    r"""Contract the channels of the expansion through a few learnt pseudo-species.

    .. math::

        v_i^{m o} = \sum_{b n} W^{o, b n} E_{Z_i}^{b n} \tilde c_i^{b n m}, \qquad
        \tilde c_i^{b n m} = \sum_a U_{a b} c_i^{a n m}

    The number of weights grows linearly with the number of elements, whereas in
    :class:`ElementContraction` it grows quadratically.

    Parameters
    ----------
    n_elements : int
        Number of elements.
    n_pseudo_species : int
        Number of pseudo-species b.
    n_radial : int
        Number of radial channels n.
    n_outputs : int
        Number of tensors o.
    generator : torch.Generator
        Source of the initial weights: U and E standard normal, W uniform in
        :math:`\pm (\text{number of channels})^{-1/2}`.

    Attributes
    ----------
    embedding : Parameter of shape (n_elements, n_pseudo_species)
        U, embedding of the neighbours.
    encoding : Parameter of shape (n_elements, n_pseudo_species * n_radial)
        E, encoding of the centre; n runs fastest.
    weight : Parameter of shape (n_outputs, n_pseudo_species * n_radial)
        W; n runs fastest.
    """

    def __init__(self, n_elements, n_pseudo_species, n_radial, n_outputs, generator) -> None:
        super().__init__()
        n_channels = n_pseudo_species * n_radial

        # in float64, so that the weights do not depend on the precision of the network
        def empty(*shape):
            return nn.Parameter(torch.empty(shape, dtype=torch.float64))

        self.embedding = empty(n_elements, n_pseudo_species)
        self.encoding = empty(n_elements, n_channels)
        self.weight = empty(n_outputs, n_channels)
        nn.init.normal_(self.embedding, generator=generator)
        nn.init.normal_(self.encoding, generator=generator)
        bound = n_channels**-0.5
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)

    def forward(self, c: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Contract c, (n_atoms, n_blocks, n_radial, 2l+1), to (n_atoms, 2l+1, n_outputs).

        The element of each block is ``batch.block_elements``, (n_atoms, n_blocks), and the element
        of each atom is ``batch.index.element``. A block of zeros may have any element.
        """
        u = F.embedding(batch.block_elements, self.embedding)
        pseudo = torch.einsum("iab,ianm->ibnm", u, c).flatten(1, 2)
        encoded = pseudo * F.embedding(batch.index.element, self.encoding)[:, :, None]
        return F.linear(encoded.mT, self.weight)
