"""Atomic environments: the constants of the data that training and prediction run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import BatchIndex, build_graph
from ..descriptors import PairBasis, PowerSpectrum, expand_density
from ._layers import NoNorm, PackedLayerNorm

# atoms whose full power spectrum is held at once
ATOMS_PER_CHUNK = 4096
# pairs whose basis gradient is recomputed at once: small enough for the processor's cache
PAIRS_PER_CHUNK = 2048


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
    pair_gradients : PairGradients
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
    pair_gradients: StoredPairGradients | RecomputedPairGradients | None

    def pair_chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield basis gradients of some pairs, and the rows that both directions add to."""
        start = 0
        for gradients in self.pair_gradients:
            stop = start + len(gradients)
            yield gradients, *self.index.channel_rows[:, start:stop]
            start = stop


class StoredPairGradients:
    """Gradients of the pair basis, kept for all pairs of the data.

    Parameters
    ----------
    gradients : Tensor of shape (n_pairs, 3, n_channels)
        The gradients.
    """

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients

    def select(self, pairs: Tensor) -> StoredPairGradients:
        """Return those of some pairs."""
        return StoredPairGradients(self.gradients.index_select(0, pairs))

    def __iter__(self) -> Iterator[Tensor]:
        yield self.gradients


class RecomputedPairGradients:
    """Gradients of the pair basis, computed whenever they are needed, a chunk at a time.

    Parameters
    ----------
    basis : PairBasis
        The basis.
    pair_vectors : Tensor of shape (n_pairs, 3)
        r_ij.
    """

    def __init__(self, basis: PairBasis, pair_vectors: Tensor) -> None:
        self.basis = basis
        self.pair_vectors = pair_vectors

    def select(self, pairs: Tensor) -> RecomputedPairGradients:
        """Return those of some pairs."""
        return RecomputedPairGradients(self.basis, self.pair_vectors.index_select(0, pairs))

    def __iter__(self) -> Iterator[Tensor]:
        for vectors in self.pair_vectors.split(PAIRS_PER_CHUNK):
            yield self.basis.with_gradient(vectors)[1]


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
        Bytes that the pair gradients may take to be stored rather than recomputed.
    """

    def __init__(self, structures, network, *, derivatives, memory=0):
        self.spectrum, self.norm, self.basis = network.spectrum, network.norm, network.basis
        like = network.spectrum.weight
        needs_pairs = derivatives or structures.features is None
        cutoff_radius = self.basis.cutoff_radius if needs_pairs else None
        graph = build_graph(structures, cutoff_radius, network.elements)
        self.graph = graph.to(like.device, like.dtype)
        if structures.features is None:
            basis = self.basis(self.graph.pair_vectors)
            n_elements = self.spectrum.n_elements
            expansion = expand_density(basis, self.basis.parity, self.graph, n_elements)
        else:
            expansion = structures.features.expansion().to(like.device, like.dtype)
        constants = [
            _compute_constants(chunk, self.spectrum, network.norm, derivatives)
            for chunk in expansion.split(ATOMS_PER_CHUNK)
        ]
        self.features, self.slope, self.curvature = (
            None if parts[0] is None else torch.cat(parts) for parts in zip(*constants)
        )
        self.pair_gradients = self._open_pair_gradients(memory) if derivatives else None

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

    def _open_pair_gradients(self, memory):
        vectors = self.graph.pair_vectors
        recomputed = RecomputedPairGradients(self.basis, vectors)
        if len(vectors) * 3 * self.basis.n_channels * vectors.element_size() > memory:
            return recomputed
        gradients, start = vectors.new_empty(len(vectors), 3, self.basis.n_channels), 0
        for chunk in recomputed:
            gradients[start : start + len(chunk)] = chunk
            start += len(chunk)
        return StoredPairGradients(gradients)


def _compute_constants(expansion, spectrum, norm, derivatives):
    """Return features, slope and curvature of some atoms; see :class:`EnvironmentBatch`."""
    by_degree = spectrum.by_degree(expansion)
    features, sigma = norm.standardize(spectrum(by_degree))
    if not derivatives:
        return features, None, None
    slope = 2 * by_degree / sigma
    return features, slope, norm.curvature(features, slope, spectrum)
