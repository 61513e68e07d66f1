"""Long-range features: charges that are learnt, and the potential that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

# what P3M can spread a charge over; with 1 the potential jumps as the atoms move
INTERPOLATION_NODES = (2, 3, 4, 5)
# vacuum between a slab and its images: in lengths of its longer cell vector, whose slowest wave
# has decayed to exp(-3 pi) = 1e-4 there, and at least this many widths of the Gaussians
SLAB_VACUUM = 1.5
SLAB_VACUUM_SMEARINGS = 6.0


@dataclass(frozen=True)
class LongRangeParameters:
    """Hyperparameters of the long-range features.

    Parameters
    ----------
    use_ewald : bool, default=False
        Sum over wave vectors in training, where structures are small, rather than on a mesh.
        Predictions always use the mesh.
    smearing : float, default=1.4
        Width of the Gaussians that split the sums into neighbours and waves, in the unit of the
        positions. A smaller one needs a finer mesh, a larger one a larger cutoff radius.
    kspace_resolution : float, default=1.33
        Distance that the waves resolve, in the unit of the positions; smaller is more accurate and
        slower.
    interpolation_nodes : int, default=5
        Mesh points that a charge is spread over along each direction, 2 to 5. Forces are continuous
        with 3 or more.
    """

    use_ewald: bool = False
    smearing: float = 1.4
    kspace_resolution: float = 1.33
    interpolation_nodes: int = 5

    def __post_init__(self) -> None:
        for name in ("smearing", "kspace_resolution"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be a length greater than zero; its "
                    f"default is {getattr(LongRangeParameters, name)}."
                )
        if self.interpolation_nodes not in INTERPOLATION_NODES:
            raise ValueError(
                f"interpolation_nodes={self.interpolation_nodes!r} must be one of "
                f"{list(INTERPOLATION_NODES)}."
            )


@dataclass
class Geometry:
    r"""Where the atoms of one batch stand, in any order.

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


class LongRange(nn.Module):
    r"""Features that see beyond the cutoff, from the potential of charges that are learnt.

    .. math::

        q_i = W h_i + b, \qquad V_i = \frac 1 2 \sum_j q_j \, v(r_{ij}), \qquad f_i = f(V_i)

    Every feature has a charge; the sum runs over all other atoms and their periodic images, f is a
    perceptron of one hidden layer. Neighbours are left out smoothly, since the short-range features
    describe them: :math:`v(r) = (1 - f_c(r)) / r` with :math:`f_c(r) = (1 + \cos(\pi r / r_c)) / 2`
    up to the cutoff radius :math:`r_c`. In periodic structures :math:`1/r` is that of Gaussians,
    :math:`\operatorname{erf}(r / \sqrt 2 \sigma) / r`, and summed over waves [1]_.

    Parameters
    ----------
    parameters : LongRangeParameters
        How to sum.
    cutoff_radius : float
        :math:`r_c`, that of the pairs.
    n_features : int
        Number of features, in and out.
    generator : torch.Generator
        Source of the initial weights.

    See Also
    --------
    check_long_range : Refuse structures whose sums are not known.

    Notes
    -----
    The net charge of a periodic structure is cancelled by a uniform background.

    Slabs are summed as stacks of slabs, of which the interaction is then subtracted [2]_. The cell
    vector of the direction that is not periodic has no meaning and is not looked at: the distance
    of the slabs follows from their thickness and lateral size, in steps of a factor of two, so that
    it stays as it is when the atoms move.

    A structure without periodic directions costs :math:`O(n^2)`, on the mesh :math:`O(n \log n)`,
    and the sum over waves (``use_ewald``) :math:`O(n^2)`.

    Cells and pairs enter through periodic structures only: of a batch without any, they have no
    gradient (``materialize_grads`` of :func:`torch.autograd.grad`).

    References
    ----------
    .. [1] P. Loche et al., Fast and flexible long-range models for atomistic machine learning,
       arXiv:2412.03281 (2024).
    .. [2] I.-C. Yeh and M. L. Berkowitz, Ewald summation for systems with slab geometry,
       J. Chem. Phys. 111, 3155 (1999), :doi:`10.1063/1.479595`; with a net charge, V. Ballenegger,
       A. Arnold and J. J. Cerda, J. Chem. Phys. 131, 094107 (2009), :doi:`10.1063/1.3216473`.
    """

    def __init__(self, parameters, cutoff_radius, n_features, generator) -> None:
        super().__init__()
        self.parameters = parameters
        self.cutoff_radius = float(cutoff_radius)
        import_torchpme()  # complain now, not in the first batch
        self.charges = _build_linear(n_features, generator)
        self.out = nn.Sequential(
            _build_linear(n_features, generator), nn.SiLU(), _build_linear(n_features, generator)
        )

    def forward(self, features: Tensor, geometry: Geometry) -> Tensor:
        """Return the long-range features, (n_atoms, n_features), to be added to the others."""
        return self.out(self.compute_potential(self.charges(features), geometry))

    def compute_potential(self, charges: Tensor, geometry: Geometry) -> Tensor:
        """Return the potential V of charges, both (n_atoms, n_channels)."""
        counts, atoms = _group(geometry.structure_of_atom, len(geometry.pbc))
        periodic = torch.tensor([any(pbc) for pbc in geometry.pbc], device=counts.device)
        potential = self._sum_pairs(charges, geometry.positions, counts, atoms, ~periodic)
        if not any(map(any, geometry.pbc)):
            return potential
        waves = self._sum_waves(charges, geometry, counts, atoms)
        return potential.index_add(0, atoms[periodic.repeat_interleave(counts)], waves)

    def _sum_pairs(self, charges, positions, counts, atoms, isolated) -> Tensor:
        """Sum over all pairs of the structures that are not periodic, at once."""
        torchpme = import_torchpme()
        potential = torchpme.CoulombPotential(exclusion_radius=self.cutoff_radius)
        ends = atoms[_pair_all(counts, isolated)]
        distances = (positions[ends[:, 1]] - positions[ends[:, 0]]).norm(dim=1)
        no_cell = positions.new_zeros(3, 3)
        return torchpme.Calculator(potential)(charges, no_cell, positions, ends, distances)

    def _sum_waves(self, charges, geometry, counts, atoms) -> Tensor:
        """Sum over waves and neighbours of each periodic structure, their atoms in a row."""
        calculator = self._build_calculator()
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

    def _build_calculator(self):
        """Build what sums over waves; it holds no weights, and is not to be stored with them."""
        torchpme = import_torchpme()
        parameters = self.parameters
        spacing = float(parameters.kspace_resolution)
        potential = torchpme.CoulombPotential(float(parameters.smearing), self.cutoff_radius)
        if parameters.use_ewald and self.training:
            return torchpme.EwaldCalculator(potential, lr_wavelength=spacing)
        from ._p3m import MeshCalculator

        return MeshCalculator(potential, spacing, parameters.interpolation_nodes)

    def _stack_slab(self, positions, cell, pbc) -> tuple[Tensor, Tensor]:
        """Turn the normal of a slab to z, where torch-pme expects it, and give it vacuum there."""
        a, b = cell[[k for k in range(3) if pbc[k]]]
        x = a / a.norm()
        normal = torch.linalg.cross(a, b)
        z = normal / normal.norm()
        axes = torch.stack([x, torch.linalg.cross(z, x), z])
        positions = positions @ axes.T
        # the potential does not change with the origin, but rounding and the mesh do
        height = positions[:, 2] - positions[:, 2].mean()
        positions = torch.cat([positions[:, :2], height[:, None]], dim=1)

        size = max(float(a.detach().norm()), float(b.detach().norm()))
        thickness = float((height.max() - height.min()).detach())
        distance = _separate_slabs(thickness, size, self.parameters)
        c = cell.new_tensor([0.0, 0.0, distance])
        return positions, torch.stack([axes @ a, axes @ b, c])


def check_long_range(structures, parameters, most_points, name="X"):
    """Raise if long-range sums over one of the structures are not known, or too large.

    Parameters
    ----------
    structures : Structures
        Structures to check.
    parameters : LongRangeParameters
        What sets the mesh.
    most_points : float
        Points that a mesh may have.
    name : str, default="X"
        What messages call the structures.

    Raises
    ------
    ValueError
        If a structure is periodic along one direction only, or its cell needs a larger mesh.
    """
    geometry = structures.indices, structures.positions, structures.cells, structures.pbc
    for index, positions, cell, pbc in zip(*geometry):
        if sum(pbc) == 1:
            raise ValueError(
                f"{name}[{index}] is periodic along one direction (pbc={pbc.tolist()}), for which "
                "torch-pme has no long-range sum. Set pbc=False for a finite piece of it, make the "
                "cell periodic in all directions with vacuum around the wire, or set "
                "long_range=False."
            )
        n_points = _count_mesh_points(positions, cell, pbc, parameters)
        if n_points > most_points:
            raise ValueError(
                f"{name}[{index}] needs a mesh of {n_points:.0e} points for its long-range sum, "
                f"more than there is memory for: its cell is {cell.tolist()}. Shrink the cell to "
                "what the vacuum needs, set pbc=False, or raise "
                f"kspace_resolution={parameters.kspace_resolution}."
            )


def _count_mesh_points(positions, cell, pbc, parameters):
    """Count the points of the mesh that the waves are summed on; there is none without a cell."""
    lengths = np.linalg.norm(cell[pbc], axis=1)
    if sum(pbc) == 2:
        normal = np.cross(*cell[pbc])
        thickness = np.ptp(positions @ normal) / np.linalg.norm(normal)
        lengths = [*lengths, _separate_slabs(thickness, max(lengths), parameters)]
    # as torch-pme does
    points = np.log2(2 * np.asarray(lengths) / parameters.kspace_resolution + 1)
    return np.prod(2.0 ** np.ceil(points)) if sum(pbc) > 1 else 0.0


def _separate_slabs(thickness, size, parameters):
    """Return the distance of a slab to its next image, with cell vectors of up to ``size``."""
    vacuum = max(SLAB_VACUUM * size, SLAB_VACUUM_SMEARINGS * parameters.smearing)
    spacing = parameters.kspace_resolution
    # one less than a power of two fills torch-pme's mesh, which has a power of two of points
    return spacing * (2 ** math.ceil(math.log2((thickness + vacuum) / spacing + 1)) - 1)


def import_torchpme():
    try:
        import torchpme
    except ImportError as err:
        raise ImportError(
            "Long-range features need torch-pme: pip install sklearn_soapbpnn[long-range]"
        ) from err
    return torchpme


def _build_linear(n_features, generator) -> nn.Linear:
    """Build a layer with the initial weights of nn.Linear, drawn in float64."""
    linear = nn.utils.skip_init(nn.Linear, n_features, n_features, dtype=torch.float64)
    bound = n_features**-0.5
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
    return linear


def _group(labels: Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    """Count each label; the second result puts equal ones together."""
    return torch.bincount(labels, minlength=n_labels), torch.argsort(labels, stable=True)


def _pair_all(counts: Tensor, selected: Tensor) -> Tensor:
    """All pairs within the selected groups of consecutive items, each once: (n_pairs, 2)."""
    item = torch.arange(int(counts.sum()), device=counts.device)
    last = (counts.cumsum(0) - 1).repeat_interleave(counts)
    n_later = (last - item) * selected.repeat_interleave(counts)
    first = item.repeat_interleave(n_later)
    start = (n_later.cumsum(0) - n_later).repeat_interleave(n_later)
    second = first + 1 + torch.arange(len(first), device=counts.device) - start
    return torch.stack([first, second], dim=1)
