"""Parts of a structure: some of its atoms are centres, and the others only their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase.geometry import wrap_positions
from torch import Tensor

from ._graphs import Graph


@dataclass
class Part:
    """Graph of some atoms of a structure, whose energies depend on the others as well.

    A pair is listed once and adds to both of its atoms. Neighbours that are no centres are
    therefore replaced by one atom for each element, behind the centres, whose environment is left
    empty: everything that follows is quadratic in it, so it adds nothing to the forces.

    Parameters
    ----------
    graph : Graph
        The centres, then one atom for each element of the structure, and the pairs between them.
    atoms : Tensor of shape (n_centers,)
        The centres in the whole structure.
    ends : Tensor of shape (2, n_pairs)
        The two atoms of each pair in the whole structure.
    n_atoms : int
        Number of atoms of the whole structure.
    """

    graph: Graph
    atoms: Tensor
    ends: Tensor
    n_atoms: int

    def sum_forces(self, pair_forces: Tensor) -> Tensor:
        """Return the forces on all atoms of the structure, (n_networks, n_atoms, 3).

        Those of the pairs have the shape (n_networks, n_pairs, 3).
        """
        forces = pair_forces.new_zeros(len(pair_forces), self.n_atoms, 3)
        i, j = self.ends.to(pair_forces.device)
        # one component at a time: for rows of three numbers index_add takes seven times as long
        for total, values in zip(forces, pair_forces):
            for axis, pull in enumerate(values.T):
                total[:, axis] = torch.bincount(i, pull, self.n_atoms)
                total[:, axis] -= torch.bincount(j, pull, self.n_atoms)
        return forces


def cut_part(graph: Graph, atoms: Tensor) -> Part:
    """Cut a part from the graph of one structure.

    Parameters
    ----------
    graph : Graph
        The whole structure; its blocks are the elements.
    atoms : Tensor of shape (n_centers,)
        The centres.
    """
    n_centers, outside = len(atoms), torch.unique(graph.element)
    place = n_centers + torch.searchsorted(outside, graph.element)
    place[atoms] = torch.arange(n_centers)
    centers, neighbors = place[graph.centers], place[graph.neighbors]
    pairs = ((centers < n_centers) | (neighbors < n_centers)).nonzero()[:, 0]
    element = torch.cat([graph.element[atoms], outside])
    part = Graph(
        element=element,
        block=element,
        n_blocks=graph.n_blocks,
        atom_counts=torch.tensor([len(element)]),
        pair_counts=torch.tensor([len(pairs)]),
        centers=centers[pairs],
        neighbors=neighbors[pairs],
        pair_vectors=graph.pair_vectors[pairs],
        n_outside=len(outside),
    )
    ends = torch.stack([graph.centers[pairs], graph.neighbors[pairs]])
    return Part(part, atoms, ends, graph.n_atoms)


def divide_atoms(positions, cell, pbc, size: int) -> list[Tensor]:
    """Divide atoms into compact groups, so that few pairs belong to two of them.

    Parameters
    ----------
    positions : array of shape (n_atoms, 3)
        Positions.
    cell : array of shape (3, 3)
        Cell vectors as rows.
    pbc : array of shape (3,)
        Whether each direction is periodic.
    size : int
        Largest number of atoms of a group.

    Returns
    -------
    list of Tensor
        Indices of the atoms of each group; a single empty group if there are no atoms.
    """
    n_groups = max(1, -(-len(positions) // size))
    if n_groups > 1:
        positions = wrap_positions(positions, cell * pbc[:, None], pbc, eps=0)
    return [
        torch.from_numpy(group) for group in _halve(np.arange(len(positions)), positions, n_groups)
    ]


def _halve(atoms, positions, n_groups):
    """Cut atoms across the longest side of their box, again and again."""
    if n_groups == 1:
        return [atoms]
    n_left = n_groups // 2
    n_atoms = len(atoms) * n_left // n_groups
    box = positions[atoms]
    order = np.argpartition(box[:, np.ptp(box, axis=0).argmax()], n_atoms)
    left, right = np.sort(atoms[order[:n_atoms]]), np.sort(atoms[order[n_atoms:]])
    return [*_halve(left, positions, n_left), *_halve(right, positions, n_groups - n_left)]
