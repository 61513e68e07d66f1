"""Atomic environments: the constants of the data that training and prediction run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import BatchIndex, build_graph, number_own_elements
from ..descriptors import PairBasis, PairFactors, expand_density, pairs_per_chunk, take_degree
from ..potentials import Geometry

# atoms whose full power spectrum is held at once
ATOMS_PER_CHUNK = 4096


@dataclass
class EnvironmentBatch:
    """Environments of the atoms of one batch, sorted by element.

    Parameters
    ----------
    index : BatchIndex
        Where the atoms and pairs come from.
    constants : dict of str to Tensor
        What the first layer made of the expansions, one row for each atom.
    tensors : dict of int to Tensor
        Expansions of the degrees that tensors are built from, by degree l: (n_atoms, n_blocks,
        n_radial, 2l + 1).
    block_elements : Tensor of shape (n_atoms, n_blocks), or None
        Which element each block of an expansion belongs to; None where block and element are one.
    parity : Tensor of shape (n_channels,)
        Sign of the pair basis under inversion.
    pair_vectors : Tensor of shape (n_pairs, 3), or None
        r_ij; None when no pairs are wanted.
    pair_gradients : StoredPairGradients, FactoredPairGradients or None
        Gradients of the pair basis; None when no forces are wanted.
    geometry : Geometry or None
        What the long-range part needs.
    """

    index: BatchIndex
    constants: dict[str, Tensor]
    tensors: dict[int, Tensor]
    block_elements: Tensor | None
    parity: Tensor
    pair_vectors: Tensor | None
    pair_gradients: StoredPairGradients | FactoredPairGradients | None
    geometry: Geometry | None

    def pair_pieces(self) -> Iterator[tuple]:
        """Yield the gradients of some pairs, and the rows that both directions add to."""
        start = 0
        for piece in self.pair_gradients.split():
            stop = start + len(piece)
            yield piece, *self.index.channel_rows[:, start:stop]
            start = stop


class StoredPairGradients:
    """Gradients of the pair basis, kept as they are: fastest while they fit the cache.

    Parameters
    ----------
    gradients : Tensor of shape (n_pairs, 3, n_channels)
        The gradients.
    """

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients

    def __len__(self) -> int:
        return len(self.gradients)

    def select(self, pairs: Tensor) -> StoredPairGradients:
        """Return those of some pairs."""
        return StoredPairGradients(self.gradients.index_select(0, pairs))

    def split(self) -> list[StoredPairGradients]:
        """Return pieces that are worked on at once."""
        return [self]

    def to(self, device, basis: PairBasis) -> StoredPairGradients:
        """Return a copy on a device."""
        return StoredPairGradients(self.gradients.to(device))

    def contract(self, channels: Tensor) -> Tensor:
        """Sum over the channels: (n_pairs, n_channels) to (n_pairs, 3)."""
        return (self.gradients * channels[:, None]).sum(2)

    def spread(self, vectors: Tensor) -> Tensor:
        """Transpose of :meth:`contract`: (n_pairs, 3) to (n_pairs, n_channels)."""
        return torch.bmm(vectors[:, None], self.gradients)[:, 0]


class FactoredPairGradients:
    """Gradients of the pair basis as their factors: a third of the size, and of the traffic.

    Parameters
    ----------
    basis : PairBasis
        The basis.
    factors : PairFactors
        Its factors.
    """

    def __init__(self, basis: PairBasis, factors: PairFactors) -> None:
        self.basis, self.factors = basis, factors

    def __len__(self) -> int:
        return len(self.factors)

    def select(self, pairs: Tensor) -> FactoredPairGradients:
        """Return those of some pairs."""
        return FactoredPairGradients(self.basis, self.factors.select(pairs))

    def split(self) -> list[FactoredPairGradients]:
        """Return pieces that are worked on at once."""
        pieces = self.factors.split(pairs_per_chunk(self.factors.angular.device))
        return [FactoredPairGradients(self.basis, piece) for piece in pieces]

    def to(self, device, basis: PairBasis) -> FactoredPairGradients:
        """Return a copy on a device, where ``basis`` is."""
        factors = PairFactors(*(factor.to(device) for factor in vars(self.factors).values()))
        return FactoredPairGradients(basis, factors)

    def contract(self, channels: Tensor) -> Tensor:
        """Sum over the channels: (n_pairs, n_channels) to (n_pairs, 3)."""
        return self.basis.contract(self.factors, channels)

    def spread(self, vectors: Tensor) -> Tensor:
        """Transpose of :meth:`contract`: (n_pairs, 3) to (n_pairs, n_channels)."""
        return self.basis.spread(self.factors, vectors)


class Environments:
    """Environments of all atoms of some structures, on the device.

    Parameters
    ----------
    structures : Structures
        Structures, with or without features.
    network : SoapBPNN
        Says what is needed.
    derivatives : bool
        Whether forces or stresses are wanted.
    memory : int, default=0
        Bytes that the pair gradients may take to be stored as they are, not as factors.
    """

    def __init__(self, structures, network, *, derivatives, memory=0):
        self.basis = network.basis
        device, dtype = self.basis.device, self.basis.dtype
        needs_pairs = derivatives or network.long_range is not None or structures.features is None
        cutoff_radius = self.basis.cutoff_radius if needs_pairs else None
        graph = build_graph(structures, cutoff_radius, network.elements)
        self.block_elements = None
        if network.first.own_elements:
            graph.block, block_elements = number_own_elements(structures, network.elements)
            graph.n_blocks = block_elements.shape[1]
            self.block_elements = block_elements.to(device)
        self.graph = graph.to(device, dtype)
        factors = self.basis.factors(self.graph.pair_vectors) if derivatives else None
        if structures.features is None:
            expansion = expand_density(self.basis, self.graph, factors)
        else:
            features = structures.features
            own = network.first.own_elements
            expansion = features.own_expansion() if own else features.expansion()
            expansion = expansion.to(device, dtype)
        self.constants = _compute_constants(expansion, network.first, derivatives)
        self.tensors = {l: take_degree(expansion, l, self.basis.n_per_l) for l in network.degrees}
        self.pair_gradients = self._keep_gradients(factors, memory) if derivatives else None
        self.places = Places(structures, device, dtype) if network.long_range is not None else None

    @property
    def device(self):
        """Where the environments are."""
        return self.graph.element.device

    def select(self, index: BatchIndex) -> EnvironmentBatch:
        """Gather the environments of one batch."""
        atoms, pairs = index.atoms, index.pairs
        needs_pairs = self.pair_gradients is not None or self.places is not None
        vectors = self.graph.pair_vectors.index_select(0, pairs) if needs_pairs else None
        return EnvironmentBatch(
            index,
            {name: values.index_select(0, atoms) for name, values in self.constants.items()},
            {l: values.index_select(0, atoms) for l, values in self.tensors.items()},
            None if self.block_elements is None else self.block_elements.index_select(0, atoms),
            self.basis.parity,
            vectors,
            None if self.pair_gradients is None else self.pair_gradients.select(pairs),
            None if self.places is None else self.places.select(index, vectors),
        )

    def to(self, device, basis):
        """Move everything to a device, where ``basis`` is, in place."""
        self.basis = basis
        self.graph = self.graph.to(device, basis.dtype)
        self.constants = {name: t.to(device) for name, t in self.constants.items()}
        self.tensors = {l: t.to(device) for l, t in self.tensors.items()}
        if self.block_elements is not None:
            self.block_elements = self.block_elements.to(device)
        if self.pair_gradients is not None:
            self.pair_gradients = self.pair_gradients.to(device, basis)
        if self.places is not None:
            self.places.to(device)

    def _keep_gradients(self, factors, memory):
        size = 3 * self.basis.n_channels * len(factors) * factors.angular.element_size()
        if size > memory:
            return FactoredPairGradients(self.basis, factors)
        pieces = factors.split(pairs_per_chunk(factors.angular.device))
        pieces = [self.basis.gradient(piece) for piece in pieces]
        return StoredPairGradients(torch.cat(pieces))


class Places:
    """Positions and cells, which long-range interactions see beyond the pairs.

    Parameters
    ----------
    structures : Structures
        Structures.
    device : torch.device
        Where they are wanted.
    dtype : torch.dtype
        Their precision.
    """

    def __init__(self, structures, device, dtype):
        def to_tensor(arrays):
            return torch.from_numpy(arrays).to(device, dtype)

        self.positions = to_tensor(np.concatenate(structures.positions))
        self.cells = to_tensor(np.stack(structures.cells))
        self.pbc = [tuple(bool(periodic) for periodic in pbc) for pbc in structures.pbc]

    def to(self, device):
        """Move to a device, in place."""
        self.positions, self.cells = self.positions.to(device), self.cells.to(device)

    def select(self, index: BatchIndex, pair_vectors: Tensor) -> Geometry:
        """Gather those of one batch."""
        return Geometry(
            positions=self.positions.index_select(0, index.atoms),
            cells=self.cells.index_select(0, index.structures),
            pbc=[self.pbc[k] for k in index.structures.tolist()],
            structure_of_atom=index.structure_of_atom,
            centers=index.centers,
            neighbors=index.neighbors,
            pair_vectors=pair_vectors,
        )


def _compute_constants(expansion, layer, derivatives):
    """Return the constants of the first layer, without holding all full spectra at once."""
    chunks = [layer.constants(chunk, derivatives) for chunk in expansion.split(ATOMS_PER_CHUNK)]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
