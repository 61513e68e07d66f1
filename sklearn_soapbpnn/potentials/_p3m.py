"""Particle-mesh summation for torch-pme, which must be installed to import this module."""

from __future__ import annotations

import torch
from torch import Tensor
from torchpme import Calculator
from torchpme.lib import MeshInterpolator, generate_kvectors_for_mesh, get_ns_mesh


class MeshCalculator(Calculator):
    r"""P3M summation that is correct for skewed cells and twice differentiable.

    Charges are spread over a mesh by B-splines. The potential of their Gaussians on the mesh is
    computed with the influence function

    .. math::

        G(k) = \frac{4 \pi}{k^2} e^{-\sigma^2 k^2 / 2}
        \prod_{\alpha=1}^3 \operatorname{sinc}^{-2p} \left( \pi n_\alpha / N_\alpha \right)

    for the wave vector with the integer frequencies :math:`n` on a mesh of :math:`N_1 N_2 N_3`
    points. It compensates for the smoothing by spreading and interpolation with p nodes ([1]_,
    Eqs. 18 and 31).

    Instead of :math:`2 \pi n_\alpha / N_\alpha`, torch-pme's ``P3MCalculator`` uses the Cartesian
    components of the wave vector times the spacing of the mesh along the cell vectors. This is the
    same if the cell vectors are parallel to x, y and z. For other cells it causes errors of 1e-3
    that depend on the orientation of the structure. Its second derivatives with respect to the
    cell, which are needed to learn stresses, are NaN.

    Parameters
    ----------
    potential : torchpme.Potential
        Pair potential.
    mesh_spacing : float
        Twice the largest distance of mesh points; the number of points is a power of two.
    interpolation_nodes : int
        Number p of mesh points over which a charge is spread along each direction.

    References
    ----------
    .. [1] M. Deserno and C. Holm, How to mesh up Ewald sums. I, J. Chem. Phys. 109, 7678 (1998),
       :doi:`10.1063/1.477414`.
    """

    def __init__(self, potential, mesh_spacing: float, interpolation_nodes: int) -> None:
        super().__init__(potential, full_neighbor_list=False)
        self.mesh_spacing = mesh_spacing
        self.interpolation_nodes = interpolation_nodes

    def _compute_kspace(
        self, charges, cell, positions, periodic=None, kvectors=None, node_mask=None
    ) -> Tensor:
        """Return the potential of the Gaussians, halved as in torch-pme's calculators."""
        sizes = get_ns_mesh(cell.detach(), self.mesh_spacing)
        mesh = MeshInterpolator(cell, sizes, self.interpolation_nodes, method="P3M")
        mesh.compute_weights(positions)
        nx, ny, nz = shape = sizes.tolist()
        # the p^3 mesh points of every atom, all channels at once
        points = ((mesh.x_indices * ny + mesh.y_indices) * nz + mesh.z_indices).flatten()
        x, y, z = mesh.interpolation_weights.unbind(-1)
        weights = x[mesh.x_shifts] * y[mesh.y_shifts] * z[mesh.z_shifts]  # (p^3, n_atoms)

        spread = (weights[:, :, None] * charges).flatten(0, 1)
        density = charges.new_zeros(nx * ny * nz, charges.shape[1]).index_add(0, points, spread)
        density = torch.fft.rfftn(density.view(*shape, -1), dim=(0, 1, 2))
        field = density * self._compute_influence(cell, sizes)[..., None]
        field = torch.fft.irfftn(field, s=shape, dim=(0, 1, 2), norm="forward").flatten(0, 2)
        field = field.index_select(0, points).view(*weights.shape, -1)
        # the second derivative of det follows torch's default dtype
        volume = torch.linalg.cross(cell[0], cell[1]).dot(cell[2]).abs()
        potential = torch.einsum("pi,pic->ic", weights, field) / volume

        potential = potential - charges * self.potential.self_contribution()
        background = 2 * self.potential.background_correction() / volume
        potential = potential - background * charges.sum(0)
        return (potential + self.potential.pbc_correction(periodic, positions, cell, charges)) / 2

    def _compute_influence(self, cell, sizes) -> Tensor:
        """Return G(k), (n_x, n_y, n_z // 2 + 1), from the square of k, which is smooth at k = 0."""
        k_squared = generate_kvectors_for_mesh(cell, sizes).square().sum(-1)
        nx, ny, nz = sizes.tolist()
        like = {"dtype": cell.dtype, "device": cell.device}
        x = torch.fft.fftfreq(nx, **like).sinc()
        y = torch.fft.fftfreq(ny, **like).sinc()
        z = torch.fft.rfftfreq(nz, **like).sinc()
        smoothing = x[:, None, None] * y[:, None] * z
        return self.potential.lr_from_k_sq(k_squared) / smoothing ** (2 * self.interpolation_nodes)
