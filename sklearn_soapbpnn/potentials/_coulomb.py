"""Coulomb potential of charges, without the contribution of neighbours within the cutoff."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._long_range import LongRangeParameters, import_torchpme, separate_slabs


@dataclass
class Geometry:
    r"""Geometry of the structures of one batch, with the atoms in any order.

    Parameters
    ----------
    positions : Tensor of shape (n_atoms, 3)
        Positions.
    cells : Tensor of shape (n_structures, 3, 3)
        Cell vectors as rows.
    pbc : list of tuple of bool
        Periodic directions of each structure.
    structure_of_atom : Tensor of shape (n_atoms,)
        Structure of each atom.
    centers, neighbors : Tensor of shape (n_pairs,)
        Atoms i and j of the pairs within the cutoff, each pair once.
    pair_vectors : Tensor of shape (n_pairs, 3)
        :math:`\mathbf r_{ij}`.
    """

    positions: Tensor
    cells: Tensor
    pbc: list[tuple[bool, bool, bool]]
    structure_of_atom: Tensor
    centers: Tensor
    neighbors: Tensor
    pair_vectors: Tensor


@dataclass(frozen=True)
class CoulombSum:
    r"""Potential of the charges beyond the cutoff.

    .. math:: V_i = \frac 1 2 \sum_j q_j \, v(r_{ij})

    The sum runs over all other atoms and their periodic images. Neighbours within the cutoff radius
    :math:`r_c` are excluded smoothly: :math:`v(r) = (1 - f_c(r)) / r` with
    :math:`f_c(r) = (1 + \cos(\pi r / r_c)) / 2` for :math:`r < r_c`. In periodic structures
    :math:`1/r` is replaced by the potential of Gaussians,
    :math:`\operatorname{erf}(r / \sqrt 2 \sigma) / r`, which is summed over waves [1]_.

    Parameters
    ----------
    parameters : LongRangeParameters
        Hyperparameters of the sums.
    cutoff_radius : float
        Cutoff radius :math:`r_c` of the pairs.

    See Also
    --------
    check_long_range : Raise for structures whose sums are not available.

    Notes
    -----
    The net charge of a periodic structure is cancelled by a uniform background.

    Slabs are summed as stacks of slabs, whose interaction is then subtracted [2]_. The cell vector
    of the direction that is not periodic has no meaning and is ignored. The distance of the slabs
    follows from their thickness and lateral size, in steps of a factor of two, so that it does not
    change when the atoms move.

    The cost is :math:`O(n^2)` for structures without periodic directions and for the sum over waves
    (``use_ewald``), and :math:`O(n \log n)` for the mesh.

    Cells and pairs enter through periodic structures only. In a batch without periodic structures
    they have no gradient (see ``materialize_grads`` of :func:`torch.autograd.grad`).

    References
    ----------
    .. [1] P. Loche et al., Fast and flexible long-range models for atomistic machine learning,
       arXiv:2412.03281 (2024).
    .. [2] I.-C. Yeh and M. L. Berkowitz, Ewald summation for systems with slab geometry,
       J. Chem. Phys. 111, 3155 (1999), :doi:`10.1063/1.479595`; with a net charge, V. Ballenegger,
       A. Arnold and J. J. Cerda, J. Chem. Phys. 131, 094107 (2009), :doi:`10.1063/1.3216473`.
    """

    parameters: LongRangeParameters
    cutoff_radius: float

    def __call__(self, charges: Tensor, geometry: Geometry, use_ewald: bool) -> Tensor:
        """Return the potential V of charges, both (n_atoms, n_channels).

        With ``use_ewald`` the sum runs over wave vectors, otherwise over a mesh.
        """
        counts, atoms = _group(geometry.structure_of_atom, len(geometry.pbc))
        periodic = torch.tensor([any(pbc) for pbc in geometry.pbc], device=counts.device)
        potential = self._sum_pairs(charges, geometry.positions, counts, atoms, ~periodic)
        if not any(map(any, geometry.pbc)):
            return potential
        waves = self._sum_waves(charges, geometry, counts, atoms, use_ewald)
        return potential.index_add(0, atoms[periodic.repeat_interleave(counts)], waves)

    def _sum_pairs(self, charges, positions, counts, atoms, isolated) -> Tensor:
        """Sum over all pairs of the structures that are not periodic, in a single call."""
        torchpme = import_torchpme()
        potential = torchpme.CoulombPotential(exclusion_radius=self.cutoff_radius)
        ends = atoms[_pair_all(counts, isolated)]
        distances = (positions[ends[:, 1]] - positions[ends[:, 0]]).norm(dim=1)
        no_cell = positions.new_zeros(3, 3)
        return torchpme.Calculator(potential)(charges, no_cell, positions, ends, distances)

    def _sum_waves(self, charges, geometry, counts, atoms, use_ewald) -> Tensor:
        """Sum over waves and neighbours, for the atoms of each periodic structure in turn."""
        calculator = self._build_calculator(use_ewald)
        place = torch.empty_like(atoms)
        place[atoms] = torch.arange(len(atoms), device=atoms.device)
        place -= (counts.cumsum(0) - counts)[geometry.structure_of_atom]
        pair_counts, pairs = _group(geometry.structure_of_atom[geometry.centers], len(counts))
        ends = place[torch.stack([geometry.centers, geometry.neighbors], 1)[pairs]]
        distances = geometry.pair_vectors[pairs].norm(dim=1)

        n_atoms, n_pairs = counts.tolist(), pair_counts.tolist()
        of_atoms = charges[atoms].split(n_atoms), geometry.positions[atoms].split(n_atoms)
        of_pairs = ends.split(n_pairs), distances.split(n_pairs)
        potentials = []
        for pbc, cell, q, r, ij, d in zip(geometry.pbc, geometry.cells, *of_atoms, *of_pairs):
            if not any(pbc):
                continue
            if sum(pbc) == 2:
                r, cell = self._stack_slab(r, cell, pbc)
            periodic = torch.tensor([True, True, sum(pbc) == 3], device=r.device)
            potentials.append(calculator(q, cell, r, ij, d, periodic=periodic))
        return torch.cat(potentials)

    def _build_calculator(self, use_ewald):
        torchpme = import_torchpme()
        parameters = self.parameters
        spacing = float(parameters.kspace_resolution)
        potential = torchpme.CoulombPotential(float(parameters.smearing), self.cutoff_radius)
        if use_ewald:
            return torchpme.EwaldCalculator(potential, lr_wavelength=spacing)
        from ._p3m import MeshCalculator

        return MeshCalculator(potential, spacing, parameters.interpolation_nodes)

    def _stack_slab(self, positions, cell, pbc) -> tuple[Tensor, Tensor]:
        """Rotate the normal of a slab to z, as torch-pme expects it, and add vacuum along z."""
        a, b = cell[[k for k in range(3) if pbc[k]]]
        x = a / a.norm()
        normal = torch.linalg.cross(a, b)
        z = normal / normal.norm()
        axes = torch.stack([x, torch.linalg.cross(z, x), z])
        positions = positions @ axes.T
        # the potential does not depend on the origin, but rounding errors and the mesh do
        height = positions[:, 2] - positions[:, 2].mean()
        positions = torch.cat([positions[:, :2], height[:, None]], dim=1)

        size = max(float(a.detach().norm()), float(b.detach().norm()))
        thickness = float((height.max() - height.min()).detach())
        distance = separate_slabs(thickness, size, self.parameters)
        c = cell.new_tensor([0.0, 0.0, distance])
        return positions, torch.stack([axes @ a, axes @ b, c])


def _group(labels: Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    """Return the count of each label, and indices that sort the labels."""
    return torch.bincount(labels, minlength=n_labels), torch.argsort(labels, stable=True)


def _pair_all(counts: Tensor, selected: Tensor) -> Tensor:
    """Return all pairs within the selected groups of consecutive items: (n_pairs, 2)."""
    item = torch.arange(int(counts.sum()), device=counts.device)
    last = (counts.cumsum(0) - 1).repeat_interleave(counts)
    n_later = (last - item) * selected.repeat_interleave(counts)
    first = item.repeat_interleave(n_later)
    start = (n_later.cumsum(0) - n_later).repeat_interleave(n_later)
    second = first + 1 + torch.arange(len(first), device=counts.device) - start
    return torch.stack([first, second], dim=1)
