"""Error bars of the energy for TorchScript."""

import numpy as np
import torch
from torch import Tensor, nn

from ...model import CommitteeSpread, FittedModel

# number of members of the ensemble of a single network
N_MEMBERS = 32


class LastLayerBars(nn.Module):
    """Error bars from the last layer, see :class:`~sklearn_soapbpnn.model.LastLayerPosterior`.

    Parameters
    ----------
    fitted : FittedModel
        Model of a single network, whose energies have error bars.
    """

    def __init__(self, fitted: FittedModel) -> None:
        super().__init__()
        network, bars = fitted.network, fitted.error_bars
        self.n_sets, self.n_members = network.first.n_sets, N_MEMBERS
        scale = bars.find_scale("energy")
        whitening = scale * bars.whitening["energy"]  # (n_weights, n_sets * n_features)
        draws = scale * bars.draw(network, "energy", 1, N_MEMBERS)[:, :, 0]
        blocks = np.hsplit(whitening, self.n_sets)
        # |K h| = |R h| with the triangular factor R of each block, which has fewer rows
        small = np.stack([np.linalg.qr(block, mode="r").T for block in blocks])
        for name, tensor in {
            "whitening": torch.from_numpy(whitening.T.copy()),
            "of_atoms": torch.from_numpy(small),
            "changes": draws.T.unflatten(0, (self.n_sets, -1)),
        }.items():
            self.register_buffer(name, tensor.to(network.device, network.dtype).contiguous())

    def std_of_atoms(self, energies: Tensor, rows: Tensor, element: Tensor) -> Tensor:
        """Return the standard deviations of the energies of atoms, (n_atoms,)."""
        return torch.linalg.vector_norm(self._multiply(rows[0], self.of_atoms, element), dim=1)

    def std_of_sums(
        self, energies: Tensor, rows: Tensor, element: Tensor, owner: Tensor, n: int
    ) -> Tensor:
        """Return the standard deviations of sums over atoms, (n,)."""
        h = rows[0]
        place = owner * self.n_sets + (element if self.n_sets > 1 else torch.zeros_like(element))
        sums = h.new_zeros(n * self.n_sets, h.shape[1]).index_add(0, place, h)
        return torch.linalg.vector_norm(sums.view(n, -1) @ self.whitening, dim=1)

    def members(self, energies: Tensor, rows: Tensor, element: Tensor) -> Tensor:
        """Return the energies of atoms of each member, (n_atoms, n_members)."""
        return energies.mean(0)[:, None] + self._multiply(rows[0], self.changes, element)

    def _multiply(self, rows: Tensor, matrices: Tensor, element: Tensor) -> Tensor:
        """Multiply the rows of the atoms by the matrix of their set of weights."""
        if self.n_sets == 1:
            return rows @ matrices[0]
        results = rows.new_zeros(len(rows), matrices.shape[2])
        for k in range(self.n_sets):
            own = torch.nonzero(element == k)[:, 0]
            results = results.index_copy(0, own, rows[own] @ matrices[k])
        return results


class CommitteeBars(nn.Module):
    """Error bars from a committee, see :class:`~sklearn_soapbpnn.model.CommitteeSpread`.

    Parameters
    ----------
    fitted : FittedModel
        Model of several networks, whose energies have error bars.
    """

    def __init__(self, fitted: FittedModel) -> None:
        super().__init__()
        self.n_members = fitted.network.n_networks
        self.scale = float(fitted.error_bars.find_scale("energy"))

    def std_of_atoms(self, energies: Tensor, rows: Tensor, element: Tensor) -> Tensor:
        """Return the standard deviations of the energies of atoms, (n_atoms,)."""
        return self.scale * energies.std(0)

    def std_of_sums(
        self, energies: Tensor, rows: Tensor, element: Tensor, owner: Tensor, n: int
    ) -> Tensor:
        """Return the standard deviations of sums over atoms, (n,)."""
        sums = energies.new_zeros(len(energies), n).index_add(1, owner, energies)
        return self.scale * sums.std(0)

    def members(self, energies: Tensor, rows: Tensor, element: Tensor) -> Tensor:
        """Return the energies of atoms of each member, (n_atoms, n_members)."""
        mean = energies.mean(0)
        return (mean + self.scale * (energies - mean)).transpose(0, 1)


def make_error_bars(fitted: FittedModel) -> nn.Module:
    """Return the error bars of the energy of a model that has them."""
    is_committee = isinstance(fitted.error_bars, CommitteeSpread)
    return CommitteeBars(fitted) if is_committee else LastLayerBars(fitted)
