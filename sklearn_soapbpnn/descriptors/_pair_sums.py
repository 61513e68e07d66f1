r"""Sums over neighbour pairs: the density expansion, and forces from its gradient.

Each pair adds to two rows of channels, one per direction: what atom i sees of the element of j, and
what j sees of the element of i, with the sign :math:`(-1)^l`. All classes here have the methods

- ``expand(rows, n_rows)``: the sum of the pair basis in each row;
- ``contract(rows, channels)``: :math:`\sum_{nlm} d_{nlm} \nabla B_{nlm}` of each pair, where d is
  the sum of its two rows of ``channels``, with the sign;
- ``spread(rows, vectors, n_rows)``: the transpose of ``contract``.

The last two do so for several networks: channels have the shape (n_networks, n_rows, n_channels),
and vectors (n_networks, n_pairs, 3).

On CPUs these are compiled loops. GPUs, and CPUs without numba, use operations of torch on factors
of the pair basis, which are computed once; or on its gradients, if these are small.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ._load_kernels import load_kernels
from ._pair_basis import PairBasis, PairFactors, pairs_per_chunk


def sum_pairs(basis: PairBasis, vectors: Tensor, derivatives: bool) -> FusedPairs | FactoredPairs:
    """Return what computes sums over pairs on the device of their vectors.

    Parameters
    ----------
    basis : PairBasis
        The basis.
    vectors : Tensor of shape (n_pairs, 3)
        r_ij.
    derivatives : bool
        Whether ``contract`` and ``spread`` are needed.
    """
    if has_loops(vectors.device):
        return FusedPairs(basis, vectors)
    return FactoredPairs(basis, vectors, basis.factors(vectors) if derivatives else None)


def has_loops(device: torch.device) -> bool:
    """Return whether sums over pairs are compiled loops on a device, which store no factors."""
    return device.type == "cpu" and load_kernels("_pair_kernels") is not None


@final
class FusedPairs:
    """Sums over pairs in compiled loops, straight from the pair vectors.

    Parameters
    ----------
    basis : PairBasis
        The basis.
    vectors : Tensor of shape (n_pairs, 3)
        r_ij.
    """

    def __init__(self, basis: PairBasis, vectors: Tensor) -> None:
        self.basis, self.vectors = basis, vectors

    def select(self, pairs: Tensor) -> FusedPairs:
        """Return some of the pairs."""
        return FusedPairs(self.basis, self.vectors.index_select(0, pairs))

    def to(self, basis: PairBasis) -> FusedPairs | FactoredPairs:
        """Return these pairs on the device of ``basis``, which is their basis."""
        return sum_pairs(basis, self.vectors.to(basis.device), derivatives=True)

    def keep(self, memory: int) -> FusedPairs:
        """Return these pairs: nothing is gained from storing more."""
        return self

    def expand(self, rows: Tensor, n_rows: int) -> Tensor:
        """Sum the pair basis over both directions: (n_rows, n_channels)."""
        channels = self.vectors.new_empty(n_rows, self.basis.n_channels)
        self._call("expand", rows, channels)
        return channels

    def contract(self, rows: Tensor, channels: Tensor) -> Tensor:
        """Sum channels times the gradient of the basis: (n_networks, n_pairs, 3)."""
        forces = self.vectors.new_empty(len(channels), *self.vectors.shape)
        self._call_for_each("contract", rows, channels, forces)
        return forces

    def spread(self, rows: Tensor, vectors: Tensor, n_rows: int) -> Tensor:
        """Apply the transpose of :meth:`contract`: (n_networks, n_rows, n_channels)."""
        channels = self.vectors.new_empty(len(vectors), n_rows, self.basis.n_channels)
        self._call_for_each("spread", rows, vectors, channels)
        return channels

    def contract_spectra(
        self, rows: Tensor, gradient: Tensor, expansion: Tensor, weight: Tensor
    ) -> Tensor:
        """Contract the channels that gradients (n_networks, n_atoms, n_features) belong to.

        See :func:`~sklearn_soapbpnn.descriptors.contract_spectra`.
        """
        forces = self.vectors.new_empty(len(gradient), *self.vectors.shape)
        tensors = rows, gradient, expansion, weight, forces
        self._call("contract", *tensors, module="_committee_kernels")
        return forces

    def spread_spectra(
        self, rows: Tensor, vectors: Tensor, expansion: Tensor, weight: Tensor
    ) -> Tensor:
        """Apply the transpose of :meth:`contract_spectra`: (n_networks, n_atoms, n_features)."""
        gradient = self.vectors.new_empty(len(vectors), len(expansion), len(weight))
        tensors = rows, vectors, expansion, weight, gradient
        self._call("spread", *tensors, module="_committee_kernels")
        return gradient

    def _call_for_each(self, name, rows, given, result):
        """Call the kernel for one network, or that for many."""
        if len(given) == 1:
            self._call(name, rows, given[0], result[0])
        else:
            self._call(name, rows, given, result, module="_many_kernels")

    def _call(self, name, *tensors, module="_pair_kernels"):
        """Call a kernel, which writes its result to the last of the tensors."""
        arrays = [tensor.numpy() for tensor in (self.vectors, *tensors)]
        getattr(load_kernels(module), name)(self.basis.hyperparameters, *arrays)


@final
class FactoredPairs:
    """Sums over pairs with torch, in chunks, from the factors of the pair basis.

    Parameters
    ----------
    basis : PairBasis
        The basis.
    vectors : Tensor of shape (n_pairs, 3)
        r_ij.
    factors : PairFactors, default=None
        The factors; None if only :meth:`expand` is needed.
    """

    def __init__(self, basis: PairBasis, vectors: Tensor, factors: PairFactors | None) -> None:
        self.basis, self.vectors, self.factors = basis, vectors, factors
        self._size = pairs_per_chunk(vectors.device)

    def select(self, pairs: Tensor) -> FactoredPairs:
        """Return some of the pairs."""
        vectors, factors = self.vectors.index_select(0, pairs), self.factors.select(pairs)
        return FactoredPairs(self.basis, vectors, factors)

    def to(self, basis: PairBasis) -> FusedPairs | FactoredPairs:
        """Return these pairs on the device of ``basis``, which is their basis."""
        return sum_pairs(basis, self.vectors.to(basis.device), derivatives=True)

    def keep(self, memory: int) -> FactoredPairs | StoredPairs:
        """Return these pairs with gradients that are stored in full, if the size permits."""
        n_bytes = 3 * self.basis.n_channels * self.vectors[:, 0].nbytes
        if n_bytes > memory:
            return self
        pieces = [self.basis.gradient(piece) for piece in self.factors.split(self._size)]
        return StoredPairs(self.basis, torch.cat(pieces))

    def expand(self, rows: Tensor, n_rows: int) -> Tensor:
        """Sum the pair basis over both directions: (n_rows, n_channels)."""
        result = self.vectors.new_zeros(n_rows, self.basis.n_channels)
        pieces = self.vectors if self.factors is None else self.factors
        evaluate = self.basis if self.factors is None else self.basis.values
        for piece, ends in zip(pieces.split(self._size), rows.split(self._size, dim=1)):
            _scatter(result, evaluate(piece), ends, self.basis.parity)
        return result

    def contract(self, rows: Tensor, channels: Tensor) -> Tensor:
        """Sum channels times the gradient of the basis: (n_networks, n_pairs, 3)."""
        parity, forces = self.basis.parity, []
        for piece, ends in zip(self.factors.split(self._size), rows.split(self._size, dim=1)):
            ds = (_gather(own, ends, parity) for own in channels)
            forces.append(torch.stack([self.basis.contract(piece, d) for d in ds]))
        return torch.cat(forces, dim=1)

    def spread(self, rows: Tensor, vectors: Tensor, n_rows: int) -> Tensor:
        """Apply the transpose of :meth:`contract`: (n_networks, n_rows, n_channels)."""
        result = vectors.new_zeros(len(vectors), n_rows, self.basis.n_channels)
        pieces = self.factors.split(self._size), rows.split(self._size, dim=1)
        for piece, ends, part in zip(*pieces, vectors.split(self._size, dim=1)):
            for channels, own in zip(result, part):
                _scatter(channels, self.basis.spread(piece, own), ends, self.basis.parity)
        return result


@final
class StoredPairs:
    """Sums over pairs with torch, from the gradient of the pair basis; expansions exist already.

    Parameters
    ----------
    basis : PairBasis
        The basis.
    gradients : Tensor of shape (n_pairs, 3, n_channels)
        The gradient of the basis.
    """

    def __init__(self, basis: PairBasis, gradients: Tensor) -> None:
        self.basis, self.gradients = basis, gradients

    def select(self, pairs: Tensor) -> StoredPairs:
        """Return some of the pairs."""
        return StoredPairs(self.basis, self.gradients.index_select(0, pairs))

    def contract(self, rows: Tensor, channels: Tensor) -> Tensor:
        """Sum channels times the gradient of the basis: (n_networks, n_pairs, 3)."""
        ds = (_gather(own, rows, self.basis.parity) for own in channels)
        return torch.stack([(self.gradients * d[:, None]).sum(2) for d in ds])

    def spread(self, rows: Tensor, vectors: Tensor, n_rows: int) -> Tensor:
        """Apply the transpose of :meth:`contract`: (n_networks, n_rows, n_channels)."""
        result = vectors.new_zeros(len(vectors), n_rows, self.basis.n_channels)
        for channels, own in zip(result, vectors):
            values = torch.bmm(own[:, None], self.gradients)[:, 0]
            _scatter(channels, values, rows, self.basis.parity)
        return result


def _gather(channels, rows, parity):
    """Add the two rows of channels of each pair: (n_pairs, n_channels)."""
    return channels.index_select(0, rows[0]).addcmul_(channels.index_select(0, rows[1]), parity)


def _scatter(channels, values, rows, parity):
    """Add values to the two rows of each pair, in place; the values are overwritten."""
    channels.index_add_(0, rows[0], values)
    channels.index_add_(0, rows[1], values.mul_(parity))
