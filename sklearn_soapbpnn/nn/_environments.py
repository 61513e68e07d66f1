"""Atomic environments: the constants of the data that training and prediction run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import BatchIndex, build_graph
from ..descriptors import PairBasis, PairFactors, PowerSpectrum, expand_density, pairs_per_chunk
from ._layers import NoNorm, PackedLayerNorm

# atoms whose full power spectrum is held at once
ATOMS_PER_CHUNK = 4096


@dataclass
class EnvironmentBatch:
    """Environments of the atoms of one batch, sorted by element.

    Parameters
    ----------
    index : BatchIndex
        Where the atoms and pairs come from.
    spectrum : PowerSpectrum
        Layout of the features.
    norm : PackedLayerNorm or NoNorm
        How they are normalised.
    features : Tensor of shape (n_atoms, n_features)
        Standardised packed power spectrum x.
    slope : Tensor of shape (n_atoms, n_elements * n_channels), or None
        2 c / sigma, by degree; None when no forces are wanted.
    curvature : Tensor of shape (n_atoms, n_elements, n_channels), or None
        2 unpack(x) c / (n sigma); None without LayerNorm.
    parity : Tensor of shape (n_channels,)
        Sign of the pair basis under inversion.
    pair_vectors : Tensor of shape (n_pairs, 3)
        r_ij.
    pair_gradients : StoredPairGradients, FactoredPairGradients or None
        Gradients of the pair basis.
    """

    index: BatchIndex
    spectrum: PowerSpectrum
    norm: PackedLayerNorm | NoNorm
    features: Tensor
    slope: Tensor | None
    curvature: Tensor | None
    parity: Tensor | None
    pair_vectors: Tensor
    pair_gradients: StoredPairGradients | FactoredPairGradients | None

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
        Its basis, power spectrum and normalisation say what is needed.
    derivatives : bool
        Whether forces or stresses are wanted.
    memory : int, default=0
        Bytes that the pair gradients may take to be stored as they are, not as factors.
    """

    def __init__(self, structures, network, *, derivatives, memory=0):
        self.spectrum, self.norm, self.basis = network.spectrum, network.norm, network.basis
        like = network.spectrum.weight
        needs_pairs = derivatives or structures.features is None
        cutoff_radius = self.basis.cutoff_radius if needs_pairs else None
        graph = build_graph(structures, cutoff_radius, network.elements)
        self.graph = graph.to(like.device, like.dtype)
        factors = self.basis.factors(self.graph.pair_vectors) if derivatives else None
        if structures.features is None:
            n_elements = self.spectrum.n_elements
            expansion = expand_density(self.basis, self.graph, n_elements, factors)
        else:
            expansion = structures.features.expansion().to(like.device, like.dtype)
        constants = [
            _compute_constants(chunk, self.spectrum, network.norm, derivatives)
            for chunk in expansion.split(ATOMS_PER_CHUNK)
        ]
        self.features, self.slope, self.curvature = (
            None if parts[0] is None else torch.cat(parts) for parts in zip(*constants)
        )
        self.pair_gradients = self._keep_gradients(factors, memory) if derivatives else None

    def select(self, index: BatchIndex) -> EnvironmentBatch:
        """Gather the environments of one batch."""
        if self.pair_gradients is None:
            features = self.features.index_select(0, index.atoms)
            nothing = (None,) * 5
            return EnvironmentBatch(index, self.spectrum, self.norm, features, *nothing)
        return EnvironmentBatch(
            index,
            self.spectrum,
            self.norm,
            *(
                None if constants is None else constants.index_select(0, index.atoms)
                for constants in (self.features, self.slope, self.curvature)
            ),
            self.basis.parity,
            self.graph.pair_vectors.index_select(0, index.pairs),
            self.pair_gradients.select(index.pairs),
        )

    def _keep_gradients(self, factors, memory):
        size = 3 * self.basis.n_channels * len(factors) * factors.angular.element_size()
        if size > memory:
            return FactoredPairGradients(self.basis, factors)
        pieces = factors.split(pairs_per_chunk(factors.angular.device))
        pieces = [self.basis.gradient(piece) for piece in pieces]
        return StoredPairGradients(torch.cat(pieces))


def _compute_constants(expansion, spectrum, norm, derivatives):
    """Return features, slope and curvature of some atoms; see :class:`EnvironmentBatch`."""
    by_degree = spectrum.by_degree(expansion)
    features, sigma = norm.standardize(spectrum(by_degree))
    if not derivatives:
        return features, None, None
    slope = 2 * by_degree / sigma
    return features, slope, norm.curvature(features, slope, spectrum)
