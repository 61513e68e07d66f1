"""Power spectrum: rotational invariants of the density expansion."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, from_numpy, nn

from ._channels import count_channels
from ._load_kernels import load_kernels


class PowerSpectrum(nn.Module):
    r"""Invariants :math:`p_{pq}^l = \sum_m c_p^{lm} c_q^{lm}`, packed to :math:`p \le q`.

    p and q run over (neighbour element, radial channel). The spectrum is symmetric under their
    exchange, so each pair is stored once. Off-diagonal entries are multiplied by :math:`\sqrt 2`,
    so that inner products are the same as for the full tensor. As in metatrain, the prefactor
    :math:`(2l+1)^{-1/2}` of the SOAP kernel [1]_ is omitted.

    Parameters
    ----------
    n_per_l : sequence of int
        Number of radial channels for each degree l.
    n_elements : int
        Number of neighbour elements.

    Attributes
    ----------
    n_features : int
        Size of the packed spectrum.
    n_full : int
        Size of the full spectrum, which contains both orders of each pair.
    weight : Tensor of shape (n_features,)
        The packed vector of ones: 1 on the diagonal, :math:`\sqrt 2` elsewhere.

    References
    ----------
    .. [1] Bartok, Kondor, Csanyi, "On representing chemical environments", Phys. Rev. B 87, 184115
       (2013), eq. 31, doi:10.1103/PhysRevB.87.184115.
    """

    def __init__(self, n_per_l, n_elements: int) -> None:
        super().__init__()
        self.n_per_l, self.n_elements = tuple(n_per_l), n_elements
        self.channels_per_l = count_channels(self.n_per_l)
        self.rows_per_l = [n_elements * n for n in self.n_per_l]
        upper, lower, packed, first_full, first_packed = [], [], [], 0, 0
        for size in self.rows_per_l:
            p, q = torch.triu_indices(size, size)
            place = torch.empty(size, size, dtype=torch.long)
            place[p, q] = place[q, p] = torch.arange(len(p)) + first_packed
            upper.append(p * size + q + first_full)
            lower.append(q * size + p + first_full)
            packed.append(place.flatten())
            first_full, first_packed = first_full + size**2, first_packed + len(p)
        upper, lower = torch.cat(upper), torch.cat(lower)
        weight = torch.where(upper == lower, 1.0, 2.0).double().sqrt()
        for name, buffer in {
            "upper": upper,
            "lower": lower,
            "packed": torch.cat(packed),
            "weight": weight,
            "inverse_weight": 1 / weight,
            "half_weight": weight / 2,
        }.items():
            self.register_buffer(name, buffer, persistent=False)
        self.n_features, self.n_full = len(upper), len(self.packed)

    def forward(self, expansion: Tensor) -> Tensor:
        """Contract :meth:`by_degree` expansions of shape (n_atoms, ...): (n_atoms, n_features)."""
        if (kernels := self._find_kernels(expansion)) is not None:
            return from_numpy(kernels.correlate(expansion.numpy(), *self._arrays("weight")))
        gram = [torch.bmm(c, c.transpose(1, 2)).flatten(1) for c in self.blocks(expansion)]
        return torch.cat(gram, dim=1).index_select(1, self.upper) * self.weight

    def roughness(self) -> Tensor:
        r"""Return how fast each entry of the full spectrum oscillates in space: (n_full,).

        This is :math:`(k_p^2 + k_q^2) / k_\text{max}^2` with the wave numbers of the radial
        channels, :math:`k_{nl} \approx \pi (n + 1 + l/2) / r_c`.
        """
        entries = []
        for l, n in enumerate(self.n_per_l):
            wave = (torch.arange(n, dtype=self.weight.dtype) + 1 + l / 2) / self.n_per_l[0]
            square = wave.square().repeat(self.n_elements)
            entries.append((square[:, None] + square).flatten())
        return torch.cat(entries).to(self.weight.device)

    def by_degree(self, expansion: Tensor) -> Tensor:
        """Order an expansion (n_atoms, n_elements, n_channels) by degree, flattened per atom.

        All channels of a degree are then contiguous, regardless of their element, so that batched
        matrix products need no copies.
        """
        if self.n_elements == 1:
            return expansion.flatten(1)
        blocks = expansion.split(self.channels_per_l, dim=2)
        return torch.cat([block.flatten(1) for block in blocks], dim=1)

    def by_element(self, expansion: Tensor) -> Tensor:
        """Undo :meth:`by_degree`: (n_atoms, n_elements, n_channels)."""
        if self.n_elements == 1:
            return expansion[:, None]
        n_atoms, blocks = len(expansion), zip(self.blocks(expansion), self.channels_per_l)
        return torch.cat([b.reshape(n_atoms, self.n_elements, n) for b, n in blocks], dim=2)

    def blocks(self, expansion: Tensor) -> list[Tensor]:
        """View :meth:`by_degree` expansions as (n_atoms, n_elements * n_l, 2l + 1) for each l."""
        sizes = [self.n_elements * channels for channels in self.channels_per_l]
        return [
            block.view(len(expansion), self.rows_per_l[l], 2 * l + 1)
            for l, block in enumerate(expansion.split(sizes, dim=1))
        ]

    def multiply(self, gradient: Tensor, expansion: Tensor) -> Tensor:
        """Return G_l c_l by degree, with the matrices that :meth:`unpack` gives.

        There may be several matrices for each c: those of all atoms, then as many again, and so on.
        """
        if (kernels := self._find_kernels(expansion)) is not None:
            arrays = gradient.numpy(), expansion.numpy()
            return from_numpy(kernels.multiply(*arrays, *self._arrays("inverse_weight")))
        expansion = _repeat(expansion, gradient)
        products = zip(self.unpack(gradient), self.blocks(expansion))
        return torch.cat([torch.bmm(g, c).flatten(1) for g, c in products], dim=1)

    def multiply_transposed(self, gradient: Tensor, expansion: Tensor) -> Tensor:
        """Apply the transpose of :meth:`multiply` for this c: (n_atoms, n_features)."""
        if (kernels := self._find_kernels(expansion)) is not None:
            arrays = gradient.numpy(), expansion.numpy()
            return from_numpy(kernels.correlate_both(*arrays, *self._arrays("half_weight")))
        pairs = zip(self.blocks(gradient), self.blocks(_repeat(expansion, gradient)))
        return self.pack([torch.bmm(t, c.transpose(1, 2)) for t, c in pairs])

    def unpack(self, gradient: Tensor) -> list[Tensor]:
        """Return symmetric matrices G_l with p . g = sum_l tr(c_l' G_l c_l), for packed g."""
        full = (gradient * self.inverse_weight).index_select(1, self.packed)
        # the weight sqrt 2 of a pair is shared by its two entries: 1 / sqrt 2 each
        blocks = full.split([size**2 for size in self.rows_per_l], dim=1)
        return [b.view(len(full), size, size) for b, size in zip(blocks, self.rows_per_l)]

    def pack(self, matrices: list[Tensor]) -> Tensor:
        """Apply the transpose of :meth:`unpack` to matrices that need not be symmetric."""
        full = torch.cat([matrix.flatten(1) for matrix in matrices], dim=1)
        both = full.index_select(1, self.upper).add_(full.index_select(1, self.lower))
        # the diagonal occurs in both terms: 1/2 there, 1 / sqrt 2 elsewhere
        return both.mul_(self.half_weight)

    def _find_kernels(self, expansion):
        """Return the compiled loops; None on a GPU, without numba, and where autograd is needed."""
        if expansion.device.type != "cpu" or expansion.requires_grad:
            return None
        return load_kernels("_spectrum_kernels")

    def _arrays(self, weight):
        return np.array(self.rows_per_l), self.get_buffer(weight).numpy()


def _repeat(expansion: Tensor, gradient: Tensor) -> Tensor:
    """Return the expansions of all atoms as often as there are gradients of them."""
    n = len(gradient) // max(1, len(expansion))
    return expansion if n == 1 else expansion.repeat(n, 1)
