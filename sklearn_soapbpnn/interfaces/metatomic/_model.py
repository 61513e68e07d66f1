"""A fitted model for TorchScript: all outputs, in the user's units."""

import torch
from torch import Tensor, nn

from ...data import TargetKind
from ...model import FittedModel
from ._error_bars import make_error_bars
from ._expansion import Repulsion
from ._network import Network


class Target(nn.Module):
    """Values of a target in the user's units, from what the network gives.

    Parameters
    ----------
    name : str
        Name of the target.
    kind : TargetKind
        Its kind.
    scale, offset : Tensor of shape (n_elements, kind.size)
        Scale of an atom of each element, and its share of the composition baseline.
    """

    def __init__(self, name: str, kind: TargetKind, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.name = name
        self.per_volume, self.is_intensive = kind.per_volume, kind.intensive
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, values: Tensor, element: Tensor) -> Tensor:
        """Return the values of atoms, (n_atoms, size), in float64, since baselines are large."""
        return self.scale[element] * values.double() + self.offset[element]

    def divide(self, sums: Tensor, sizes: Tensor, volumes: Tensor) -> Tensor:
        """Divide sums over the atoms of structures by what the kind is given per."""
        if self.is_intensive:
            return sums / sizes[:, None]
        if self.per_volume:
            # without a cell there is no such value
            return sums / torch.where(volumes > 0, volumes, torch.nan)[:, None]
        return sums


class ExportedModel(nn.Module):
    """A fitted model in plain torch.

    Parameters
    ----------
    fitted : FittedModel
        The model, without a long-range part.
    tables : dict of str to pair of tensors
        ``scale`` and ``offset`` of each :class:`Target`.
    has_zbl : bool
        Whether the repulsion of nuclei is added to the energy.
    """

    def __init__(self, fitted: FittedModel, tables, has_zbl: bool) -> None:
        super().__init__()
        network = fitted.network
        self.dtype = network.dtype
        self.network = Network(network)
        self.targets = nn.ModuleList(
            Target(name, kind, *tables[name]) for name, kind in network.kinds.items()
        )
        self.n_features = self.network.n_features
        self.repulsion, self.error_bars, self.n_members = None, None, 0
        if has_zbl and "energy" in network.kinds:
            # in the unit of the network's energies
            scale, like = float(tables["energy"][0][0, 0]), network.basis.table
            self.repulsion = Repulsion(network.elements, scale, like)
        if fitted.covers("energy"):
            self.error_bars = make_error_bars(fitted)
            self.n_members = self.error_bars.n_members

    def forward(
        self,
        vectors: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        element: Tensor,
        structure: Tensor,
        volumes: Tensor,
        selected: Tensor | None,
        wanted: dict[str, bool],
    ) -> dict[str, Tensor]:
        """Evaluate structures, whose atoms are numbered one structure after the other.

        Parameters
        ----------
        vectors : Tensor of shape (n_pairs, 3)
            r_ij; each pair occurs once.
        centers, neighbors : Tensor of shape (n_pairs,)
            i and j.
        element, structure : Tensor of shape (n_atoms,)
            Index of the element of each atom, and of its structure.
        volumes : Tensor of shape (n_structures,)
            Volumes of the cells; zero without one.
        selected : Tensor of shape (n_selected,), or None
            Atoms to which values belong; the others are neighbours only. None means all atoms.
        wanted : dict of str to bool
            Outputs by name: whether values of structures are wanted, rather than of atoms.

        Returns
        -------
        dict of str to Tensor of shape (n_structures, n) or (n_selected, n)
        """
        atoms = torch.arange(len(element), device=element.device) if selected is None else selected
        owner, own, n = structure[atoms], element[atoms], len(volumes)
        names = list(wanted.keys())
        if "energy_uncertainty" in wanted or "energy_ensemble" in wanted:
            names = names + ["energy", "energy_rows"]
        found = self.network(vectors, centers, neighbors, element, atoms, names)
        if self.repulsion is not None and "energy" in found:
            repulsion = self.repulsion(vectors, centers, neighbors, element)
            found["energy"] = found["energy"] + repulsion[atoms, None]

        results: dict[str, Tensor] = {}
        for target in self.targets:
            if target.name in wanted:
                results[target.name] = target(found[target.name].mean(0), own)
            if self.error_bars is not None and target.name == "energy" and "energy_rows" in found:
                energies, rows = found["energy"][:, :, 0], found["energy_rows"]
                if "energy_ensemble" in wanted:
                    members = self.error_bars.members(energies, rows, own)
                    results["energy_ensemble"] = target(members, own)
                if "energy_uncertainty" in wanted:
                    std = self.error_bars.std_of_atoms(energies, rows, own)
                    if wanted["energy_uncertainty"]:
                        std = self.error_bars.std_of_sums(energies, rows, own, owner, n)
                    results["energy_uncertainty"] = target.scale[0] * std[:, None]
        if "features" in wanted:
            results["features"] = found["features"][0]
        return self._sum(results, owner, structure, volumes, wanted)

    def _sum(
        self,
        results: dict[str, Tensor],
        owner: Tensor,
        structure: Tensor,
        volumes: Tensor,
        wanted: dict[str, bool],
    ) -> dict[str, Tensor]:
        """Sum values of atoms over their structures, where this is wanted."""
        ones = torch.ones_like(structure, dtype=volumes.dtype)
        sizes = torch.zeros_like(volumes).index_add(0, structure, ones)
        for name, values in results.items():
            if wanted[name] and name != "energy_uncertainty":
                values = values.new_zeros(len(volumes), values.shape[1]).index_add(0, owner, values)
            results[name] = values
        for target in self.targets:
            if target.name in wanted and wanted[target.name]:
                results[target.name] = target.divide(results[target.name], sizes, volumes)
        for name, values in results.items():
            results[name] = values.to(self.dtype)
        return results
