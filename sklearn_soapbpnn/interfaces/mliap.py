"""Models in the file of an object that ``pair_style mliap unified`` of LAMMPS loads.

LAMMPS hands over the pairs of its own atoms with others and takes back energies of these atoms and
forces between pairs. Python has to be able to import this library there.
"""

from __future__ import annotations

import pickle

import numpy as np
import torch
from ase.data import covalent_radii

from ..data import Graph, Structures, cut_part, usual_settings
from ..model import run_steps
from ..nn import Environments
from ..potentials import evaluate_repulsion
from .lammps import SoapBPNNPair

__all__ = ["SoapBPNNUnified"]


class SoapBPNNUnified:
    """A fitted model with the methods and attributes of LAMMPS's ``MLIAPUnified``.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, search with ``best_estimator_``, or path
        Fitted model, or the file of one.
    elements : sequence of str
        Chemical symbols of elements that the model has learnt. ``pair_coeff`` assigns them to the
        atom types.

    Attributes
    ----------
    element_types : list of str
        These symbols.
    rcutfac : float
        Half of the largest distance of interacting atoms, as LAMMPS has it, in Angstrom.
    ndescriptors, nparams : int
        Sizes of arrays of LAMMPS that are not used.
    interface : object
        LAMMPS's own.

    Raises
    ------
    TypeError, ValueError
        See :class:`SoapBPNNPair`.

    Examples
    --------
    ::

        SoapBPNNUnified("alloy.safetensors", ["Cu", "Au"]).save("alloy.pkl")

    and in the input script of LAMMPS, where the types are Au and Cu::

        pair_style mliap unified alloy.pkl 0
        pair_coeff * * Au Cu
    """

    def __init__(self, model, elements):
        pair = SoapBPNNPair(model, elements)
        self.element_types, self.rcutfac = pair.elements, pair.cutoff / 2
        self.ndescriptors = self.nparams = 1
        self.interface = None
        self._fitted, self._numbers = pair.potential.fitted, pair.numbers
        self._repels = pair.potential.repels
        self._scale, self._baseline = _measure_atoms(pair)

    def save(self, path):
        """Write the file for LAMMPS, a pickle; its name must not end in .pt.

        Parameters
        ----------
        path : str or path
            The file, usually ``*.pkl``. LAMMPS reads ``*.pt`` with :func:`torch.load`, which
            refuses objects by default.
        """
        with open(path, "wb") as file:
            pickle.dump(self, file)

    def compute_descriptors(self, data):
        """Do nothing, as the descriptors are computed with the forces."""

    def compute_gradients(self, data):
        """Do nothing, as the gradients are computed with the forces."""

    def compute_forces(self, data):
        """Compute energies of LAMMPS's own atoms and the forces of their pairs.

        Parameters
        ----------
        data : MLIAPData
            LAMMPS's data: ``nlistatoms`` own atoms ``iatoms`` of ``ntotal``, whose elements are
            ``elems``, and ``npairs`` pairs of them with others, ``pair_i``, ``pair_j`` and ``rij``.
            ``eatoms``, ``energy`` and the pair forces are set.
        """
        if data.nlistatoms == 0:
            return
        atoms, elements = (_to_cpu(values).long() for values in (data.iatoms, data.elems))
        atoms, elements = atoms[: data.nlistatoms], elements[: data.ntotal]
        i, j, vectors = _read_pairs(data)
        energies, pair_forces = self._evaluate(atoms, elements, i, j, vectors)
        if self._repels:
            self._add_repulsion(energies, pair_forces, atoms, elements, i, j, vectors)
        _write(data, energies + self._baseline[elements[atoms]], pair_forces)

    @usual_settings()
    @torch.no_grad()
    def _evaluate(self, atoms, elements, i, j, vectors):
        """Return the energies of atoms, and the derivatives of their sum by the pair vectors."""
        network = self._fitted.network
        own = torch.zeros(len(elements), dtype=torch.bool)
        own[atoms] = True
        # pairs of two own atoms are listed from both ends
        listed_once = ~own[j] | (i < j)
        near = vectors.norm(dim=1) < self._fitted.steps.parameters.cutoff_radius
        pairs = (listed_once & near).nonzero()[:, 0]
        element = torch.searchsorted(torch.tensor(network.elements), self._to_numbers(elements))
        graph = Graph(
            element=element,
            block=element,
            n_blocks=len(network.elements),
            atom_counts=torch.tensor([len(element)]),
            pair_counts=torch.tensor([len(pairs)]),
            centers=i[pairs],
            neighbors=j[pairs],
            pair_vectors=vectors[pairs],
        )
        part = cut_part(graph, atoms)
        batch = Environments(part.graph, network.recipe(), derivatives=True).select_all()
        outputs = network(batch)
        energies = vectors.new_empty(len(part.graph.element))
        energies[batch.index.atoms.cpu()] = _mean(outputs.energies)
        pair_forces = torch.zeros_like(vectors)
        pair_forces[pairs] = self._scale * _mean(outputs.pair_forces)
        return self._scale * energies[: len(atoms)], pair_forces

    def _add_repulsion(self, energies, pair_forces, atoms, elements, i, j, vectors):
        """Add the ZBL repulsion to the energies and pair forces, half to each end of a pair."""
        numbers, distances = self._to_numbers(elements).numpy(), vectors.norm(dim=1).numpy()
        z_i, z_j = numbers[i], numbers[j]
        (near,) = np.nonzero(distances < covalent_radii[z_i] + covalent_radii[z_j])
        distances = distances[near]
        energy, slope = evaluate_repulsion(z_i[near], z_j[near], distances)
        place = torch.zeros(len(elements), dtype=torch.long)
        place[atoms] = torch.arange(len(atoms))
        energies.index_add_(0, place[i[near]], torch.from_numpy(energy / 2))
        pair_forces[near] += torch.from_numpy(slope / distances / 2)[:, None] * vectors[near]

    def _to_numbers(self, elements):
        """Return the atomic numbers of LAMMPS's elements."""
        return torch.from_numpy(self._numbers)[elements]


def _measure_atoms(pair):
    """Return the scale of the energy, and the baseline of single atoms of each element."""
    numbers = pair.numbers[:, None]
    n = len(numbers)
    single = Structures(numbers, np.zeros((n, 1, 3)), np.zeros((n, 3, 3)), np.zeros((n, 3), bool))
    X = run_steps(pair.potential.steps, single)
    X = pair.potential.fitted.steps.prepare(X, featurized=False)
    baseline = X.offset.get("energies", np.zeros((n, 1)))
    return float(X.scale.get("energy", 1.0)), torch.from_numpy(np.concatenate(baseline))


def _read_pairs(data):
    """Return i, j and the vectors between them."""
    if data.npairs == 0:
        none = torch.zeros(0, dtype=torch.long)
        return none, none, torch.zeros(0, 3, dtype=torch.float64)
    i, j, vectors = (_to_cpu(values) for values in (data.pair_i, data.pair_j, data.rij))
    return i.long(), j.long(), vectors.double()


def _to_cpu(values):
    """Return an array of LAMMPS, which may be on a GPU, as a tensor."""
    return torch.as_tensor(values).cpu()


def _mean(values):
    """Return the mean over the networks of a committee, in float64."""
    return values.mean(0).cpu().double()


def _write(data, energies, pair_forces):
    """Hand results to LAMMPS, where Kokkos has arrays of its own and takes tensors."""
    data.energy = energies.sum().item()
    if hasattr(data, "update_pair_forces_gpu"):
        target = torch.as_tensor(data.eatoms)
        target.copy_(energies)
        if data.npairs:
            data.update_pair_forces_gpu(pair_forces.to(target.device))
        return
    data.eatoms = energies.numpy()
    if data.npairs:
        data.update_pair_forces(pair_forces.numpy())
