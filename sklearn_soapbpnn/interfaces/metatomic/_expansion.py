"""Density expansion and ZBL repulsion for TorchScript, differentiable by autograd.

What this package computes with hand-written derivatives and compiled loops is repeated here in
plain torch, so that an engine needs no other library to run it.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from ...descriptors import PairBasis
from ...potentials import COEFFICIENTS, COULOMB, find_decay_rates, match_cutoff


class Expansion(nn.Module):
    r"""Sums of the pair basis over neighbours, :math:`c^{nlm} = \sum_j R_{nl} f_c Y_{lm}`.

    Spherical harmonics are polynomials of x, y and z, and on the unit sphere
    :math:`z^2 = 1 - x^2 - y^2`. That leaves :math:`x^a y^b` and :math:`x^a y^b z`, as many as there
    are harmonics.

    Parameters
    ----------
    basis : PairBasis
        Its splines and spherical harmonics are used.
    """

    def __init__(self, basis: PairBasis) -> None:
        super().__init__()
        self.n_per_l = list(basis.n_per_l)
        self.m_per_l = [2 * l + 1 for l in range(len(self.n_per_l))]
        self.max_angular = len(self.n_per_l) - 1
        self.n_radial, self.n_angular = sum(self.n_per_l), sum(self.m_per_l)
        self.spacing, self.last_interval = basis.spacing, len(basis.table) - 1
        self.cutoff_radius, self.cutoff_width = basis.cutoff_radius, basis.cutoff_width
        even, odd = _reduce_polynomials(basis.angular)
        for name, buffer in {"table": basis.table, "even": even, "odd": odd}.items():
            self.register_buffer(name, buffer.to(basis.table).clone())

    def forward(
        self, vectors: Tensor, row: Tensor, block: Tensor, n_rows: int, n_blocks: int
    ) -> list[Tensor]:
        """Sum over the neighbours of each atom and block.

        The neighbours of an atom are rows of one matrix, filled up with vectors beyond the cutoff.
        The sums are then matrix products, and the product of radial and angular factors is never
        formed.

        Parameters
        ----------
        vectors : Tensor of shape (n_pairs, 3)
            Vectors to the neighbours.
        row, block : Tensor of shape (n_pairs,)
            To which sum each vector belongs.
        n_rows, n_blocks : int
            Number of sums.

        Returns
        -------
        list of Tensor of shape (n_rows, n_blocks, n_radial, 2l + 1)
        """
        order = torch.argsort(row)
        row = row[order]
        counts = row.new_zeros(n_rows).index_add(0, row, torch.ones_like(row))
        width = int(counts.max()) if n_rows > 0 else 0
        first = counts.cumsum(0) - counts
        place = row * width + torch.arange(len(row), device=row.device) - first[row]
        outside = torch.full_like(vectors[:1], self.cutoff_radius)
        table = outside.expand(n_rows * width, 3).index_copy(0, place, vectors[order])
        own = vectors.new_zeros(n_rows * width, n_blocks)
        own[place, block[order]] = 1.0

        distances = torch.linalg.vector_norm(table, dim=1)
        radial = self._radial(distances)[:, None, :] * own[:, :, None]
        radial = radial.view(n_rows, width, n_blocks, self.n_radial)
        angular = self._angular(table / distances[:, None])
        angular = angular.view(self.n_angular, n_rows, width).permute(1, 2, 0)
        expansion: list[Tensor] = []
        for r, y in zip(radial.split(self.n_per_l, 3), angular.split(self.m_per_l, 2)):
            c = torch.bmm(r.flatten(2).transpose(1, 2), y)
            expansion.append(c.unflatten(1, [n_blocks, r.shape[3]]))
        return expansion

    def _radial(self, distances: Tensor) -> Tensor:
        """Evaluate the splines times the cutoff function: (n_pairs, n_radial)."""
        place = distances / self.spacing
        interval = place.detach().floor().clamp(max=self.last_interval)
        t = (place - interval)[:, None]
        p, m, a, b = self.table[interval.long()].chunk(4, dim=1)
        value = torch.addcmul(p, t, torch.addcmul(m, t, torch.addcmul(a, t, b)))
        phase = (distances - self.cutoff_radius) / self.cutoff_width + 1
        weight = 0.5 * (1 + torch.cos(math.pi * phase.clamp(0.0, 1.0)))
        return value * weight[:, None]

    def _angular(self, directions: Tensor) -> Tensor:
        """Evaluate the spherical harmonics: (n_angular, n_pairs)."""
        x, y, z = directions.unbind(1)
        level = torch.ones_like(x)[None]
        levels = [level]
        for _ in range(self.max_angular):
            level = torch.cat([level * x, level[-1:] * y])
            levels.append(level)
        below = torch.cat(levels[:-1]) if self.max_angular > 0 else level[:0]
        return self.even @ torch.cat(levels) + self.odd @ (below * z)


def _reduce_polynomials(harmonics):
    """Return the coefficients of harmonics in x^a y^b and x^a y^b z: two (n_angular, n_monomials).

    The monomials are ordered by a + b, then b.
    """
    n_monomials, n_angular = harmonics.coefficients.shape[0], (harmonics.max_angular + 1) ** 2
    coefficients = harmonics.coefficients[:, :n_angular].double().cpu().numpy()
    tables = np.zeros((2, n_angular, n_monomials))
    for (a, b, c), own in zip(harmonics.exponents.T.tolist(), coefficients):
        half, parity = divmod(c, 2)
        for i in range(half + 1):
            for j in range(half + 1 - i):
                factor = (-1) ** (i + j) * math.comb(half, i) * math.comb(half - i, j)
                degree = a + b + 2 * (i + j)
                place = degree * (degree + 1) // 2 + b + 2 * j
                tables[parity, :, place] += factor * own
    n = harmonics.max_angular + 1
    even, odd = tables[0, :, : n * (n + 1) // 2], tables[1, :, : n * (n - 1) // 2]
    return torch.from_numpy(even), torch.from_numpy(odd)


class Repulsion(nn.Module):
    """ZBL energies of pairs, see :func:`~sklearn_soapbpnn.potentials.compute_zbl`.

    Parameters
    ----------
    elements : array of shape (n_elements,)
        Atomic numbers.
    scale : float
        What the energies are divided by, in eV.
    like : Tensor
        Tensor of the same precision and device.
    """

    def __init__(self, elements, scale: float, like: Tensor) -> None:
        super().__init__()
        z_i, z_j = (z.ravel() for z in np.meshgrid(elements, elements, indexing="ij"))
        cutoff, a, b, c = match_cutoff(z_i, z_j)
        self.n_elements, self.largest_cutoff = len(elements), float(cutoff.max())
        # of each pair of elements
        for name, array in {
            "charges": COULOMB * z_i * z_j / scale,
            "rates": find_decay_rates(z_i, z_j),
            "coefficients": COEFFICIENTS,
            "cutoff": cutoff,
            "polynomial": np.stack([a / 3, b / 4, c], axis=1) / scale,
        }.items():
            self.register_buffer(name, torch.from_numpy(array).to(like))

    def forward(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, element: Tensor
    ) -> Tensor:
        """Return the energies of the atoms, half of that of each pair: (n_atoms,)."""
        kind = element[centers] * self.n_elements + element[neighbors]
        distances = torch.linalg.vector_norm(vectors.detach(), dim=1)
        inside = torch.nonzero(distances < self.cutoff[kind])[:, 0]
        kind, centers, neighbors = kind[inside], centers[inside], neighbors[inside]
        r = torch.linalg.vector_norm(vectors[inside], dim=1)
        screening = torch.exp(-self.rates[kind] * r[:, None]) @ self.coefficients
        a, b, c = self.polynomial[kind].unbind(1)
        half = (self.charges[kind] * screening / r + a * r**3 + b * r**4 + c) / 2
        energies = half.new_zeros(len(element))
        return energies.index_add(0, centers, half).index_add(0, neighbors, half)
