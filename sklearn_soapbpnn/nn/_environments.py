"""Atomic environments: constants of the data, from which training and prediction start."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.geometry import complete_cell
from torch import Tensor, nn

from ..data import BatchIndex, Graph, Structures, build_graph, plan_all
from ..descriptors import (
    FactoredPairs,
    FusedPairs,
    PairBasis,
    StoredPairs,
    expand_density,
    sum_pairs,
    take_degree,
)
from ..potentials import Geometry

# number of atoms whose full power spectra are in memory at a time
ATOMS_PER_CHUNK = 4096


@dataclass
class EnvironmentBatch:
    """Environments of the atoms of one batch, sorted by element.

    Parameters
    ----------
    index : BatchIndex
        Indices of the atoms and pairs of the batch.
    constants : dict of str to Tensor
        Constants that the first layer computes from the expansions, one row per atom.
    tensors : dict of int to Tensor
        Expansions of the degrees from which tensors are built, by degree l: (n_atoms, n_blocks,
        n_radial, 2l + 1).
    block_elements : Tensor of shape (n_atoms, n_blocks), or None
        Index of the element of each block of an expansion; None if the blocks are the elements.
    pair_vectors : Tensor of shape (n_pairs, 3), or None
        r_ij; None if pairs are not needed.
    pair_gradients : FusedPairs, FactoredPairs, StoredPairs or None
        Computes sums over the pairs with the gradient of the basis; None if forces are not needed.
    geometry : Geometry or None
        Input of the long-range part; None without one.
    """

    index: BatchIndex
    constants: dict[str, Tensor]
    tensors: dict[int, Tensor]
    block_elements: Tensor | None
    pair_vectors: Tensor | None
    pair_gradients: FusedPairs | FactoredPairs | StoredPairs | None
    geometry: Geometry | None


@dataclass(frozen=True)
class EnvironmentRecipe:
    """Everything that is needed to compute the environments for a network.

    It contains no weights of the network, so sending it to other processes is cheap.

    Parameters
    ----------
    elements : tuple of int
        Atomic numbers of the network, in ascending order.
    basis : PairBasis
        Pair basis of the expansions.
    constants : Module
        Computes the constants of the first layer from an expansion, see :class:`FirstLayer`.
    own_elements : bool
        Whether expansions contain only the elements of each structure, see :class:`FirstLayer`.
    degrees : tuple of int
        Degrees of the expansions from which tensors are built.
    needs_places : bool
        Whether positions and cells are needed, for interactions beyond the cutoff.
    """

    elements: tuple[int, ...]
    basis: PairBasis
    constants: nn.Module
    own_elements: bool
    degrees: tuple[int, ...]
    needs_places: bool

    def cpu(self) -> EnvironmentRecipe:
        """Return a copy on the CPU."""
        basis, constants = (deepcopy(module).cpu() for module in (self.basis, self.constants))
        return replace(self, basis=basis, constants=constants)


class Environments:
    """Environments of all atoms of a graph, on the device of the recipe.

    Parameters
    ----------
    graph : Graph
        Atoms and pairs, on any device and in any precision; its blocks are the elements.
    recipe : EnvironmentRecipe
        What to compute, see :meth:`SoapBPNN.recipe`.
    derivatives : bool
        Whether forces or stresses are needed.
    memory : int, default=0
        Size in bytes up to which the gradients of the pair basis are stored in full, where sums
        over pairs are left to torch.
    expansion : Tensor of shape (n_atoms, n_blocks, n_channels), default=None
        Density expansions, if they are known already; the graph then needs pairs only for
        derivatives. The blocks are those of the recipe.
    places : Places, default=None
        Positions and cells; None if the recipe does not need them.
    """

    def __init__(
        self,
        graph: Graph,
        recipe: EnvironmentRecipe,
        *,
        derivatives: bool,
        memory: int = 0,
        expansion: Tensor | None = None,
        places: Places | None = None,
    ) -> None:
        self.basis, self.places, self.n_elements = recipe.basis, places, len(recipe.elements)
        graph = graph.to(self.basis.device, self.basis.dtype)
        self.graph = graph.with_own_blocks(self.n_elements) if recipe.own_elements else graph
        pairs = sum_pairs(self.basis, self.graph.pair_vectors, derivatives)
        if expansion is None:
            expansion = expand_density(self.basis, self.graph, pairs)
        self.constants = _compute_constants(expansion, recipe.constants, derivatives)
        self.tensors = {l: take_degree(expansion, l, self.basis.n_per_l) for l in recipe.degrees}
        self.pair_gradients = pairs.keep(memory) if derivatives else None

    @property
    def device(self) -> torch.device:
        """Device of the environments."""
        return self.graph.element.device

    def select(self, index: BatchIndex) -> EnvironmentBatch:
        """Gather the environments of one batch."""
        pairs, gradients = index.pairs, self.pair_gradients
        needs_pairs = gradients is not None or self.places is not None
        vectors = self.graph.pair_vectors.index_select(0, pairs) if needs_pairs else None
        return self._join(index, vectors, None if gradients is None else gradients.select(pairs))

    def select_all(self) -> EnvironmentBatch:
        """Gather all environments in one batch, whose pairs are those of the graph."""
        index = plan_all(self.graph, self.n_elements)
        return self._join(index, self.graph.pair_vectors, self.pair_gradients)

    def _join(self, index, pair_vectors, pair_gradients):
        """Return the batch with these pairs."""
        atoms, blocks = index.atoms, self.graph.block_elements
        return EnvironmentBatch(
            index,
            {name: values.index_select(0, atoms) for name, values in self.constants.items()},
            {l: values.index_select(0, atoms) for l, values in self.tensors.items()},
            None if blocks is None else blocks.index_select(0, atoms),
            pair_vectors,
            pair_gradients,
            None if self.places is None else self.places.select(index, pair_vectors),
        )

    def move_to(self, basis: PairBasis) -> None:
        """Move everything to the device of ``basis``, in place, and use this basis from then on."""
        self.basis, device = basis, basis.device
        self.graph = self.graph.to(device, basis.dtype)
        self.constants = {name: t.to(device) for name, t in self.constants.items()}
        self.tensors = {l: t.to(device) for l, t in self.tensors.items()}
        if self.pair_gradients is not None:
            self.pair_gradients = self.pair_gradients.to(basis)
        if self.places is not None:
            self.places.move_to(device)


class Places:
    """Positions and cells, which long-range interactions need in addition to the pairs.

    Parameters
    ----------
    structures : Structures
        Structures.
    like : PairBasis
        Basis whose device and precision are used.
    """

    def __init__(self, structures: Structures, like: PairBasis) -> None:
        def to_tensor(arrays):
            return torch.from_numpy(arrays).to(like.device, like.dtype)

        near = map(_bring_near, structures.positions, structures.cells, structures.pbc)
        self.positions = to_tensor(np.concatenate(list(near)))
        self.cells = to_tensor(np.stack(structures.cells))
        self.pbc = [tuple(bool(periodic) for periodic in pbc) for pbc in structures.pbc]

    def move_to(self, device: torch.device) -> None:
        """Move to a device, in place."""
        self.positions, self.cells = self.positions.to(device), self.cells.to(device)

    def select(self, index: BatchIndex, pair_vectors: Tensor) -> Geometry:
        """Gather positions and cells of one batch."""
        return Geometry(
            positions=self.positions.index_select(0, index.atoms),
            cells=self.cells.index_select(0, index.structures),
            pbc=[self.pbc[k] for k in index.structures.tolist()],
            structure_of_atom=index.structure_of_atom,
            centers=index.centers,
            neighbors=index.neighbors,
            pair_vectors=pair_vectors,
        )


def compute_environments(
    structures: Structures, recipe: EnvironmentRecipe, *, derivatives: bool, memory: int = 0
) -> Environments:
    """Compute the environments of all atoms of structures, with or without features.

    The other parameters are those of :class:`Environments`.
    """
    basis, features = recipe.basis, structures.features
    needs_pairs = derivatives or recipe.needs_places or features is None
    graph = build_graph(structures, basis.cutoff_radius if needs_pairs else None, recipe.elements)
    expansion = None
    if features is not None:
        expansion = features.own_expansion() if recipe.own_elements else features.expansion()
        expansion = expansion.to(basis.device, basis.dtype)
    places = Places(structures, basis) if recipe.needs_places else None
    options = {"derivatives": derivatives, "memory": memory}
    return Environments(graph, recipe, **options, expansion=expansion, places=places)


def _compute_constants(expansion, compute, derivatives):
    """Return the constants of the first layer, without keeping all full spectra in memory."""
    chunks = [compute(chunk, derivatives) for chunk in expansion.split(ATOMS_PER_CHUNK)]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _bring_near(positions, cell, pbc):
    """Move a structure by whole cell vectors to where rounding errors are small.

    A molecule, which needs no mesh, moves by whole units of length. Slabs keep their height, since
    the mesh is fixed in space.
    """
    cell = complete_cell(cell * pbc[:, None])
    steps = np.floor(np.linalg.solve(cell.T, positions.mean(0)))
    if pbc.any():
        steps[~pbc] = 0
    return positions - steps @ cell
