"""Layers after the first: hidden layers that all targets share, and a head for each target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import TargetKind
from ._environments import EnvironmentBatch
from ._layers import ElementLinear
from ._tensor_basis import TensorBasis

# type of FirstLayer.gather, which takes the rows of the atoms from a table
Gather = Callable[[Tensor, EnvironmentBatch], Tensor]


class Head(nn.Module):
    r"""Head of a target: from the features of the atoms to its values.

    .. math:: T_i^{b \mu p} = \sum_k w^{bp}_k(h_i) B_{ik}^{b \mu}

    for every block b, property p and component :math:`\mu`. The weights w are invariants, which are
    linear in the features or, with an MLP head, in another hidden layer. Cartesian targets are
    computed from their spherical blocks.

    Parameters
    ----------
    kind : TargetKind
        Kind of the target.
    widths : list of int
        Sizes of the features and hidden layers, without the last layer; a single size means a
        linear head.
    n_sets : int
        Number of sets of weights.
    bases : list of TensorBasis or None
        Basis of each block; None for invariants.
    generator : torch.Generator
        Source of the initial weights.
    has_output : bool
        Whether the head has a last layer. A linear head directly after the first layer has none,
        since the first layer takes its place.
    """

    def __init__(self, kind: TargetKind, widths, n_sets, bases, generator, has_output) -> None:
        super().__init__()
        self.per_atom = kind.per_atom
        self.n_properties = [block.n_properties for block in kind.blocks]
        self.bases = nn.ModuleList([nn.Identity() if basis is None else basis for basis in bases])
        sizes = [*widths, count_outputs(kind, bases)] if has_output else widths
        self.layers = nn.ModuleList(
            ElementLinear(n_sets, n_inputs, n_outputs, generator)
            for n_inputs, n_outputs in zip(sizes, sizes[1:])
        )
        is_cartesian = kind.cartesian_rank is not None
        transform = torch.tensor(kind.property_transform) if is_cartesian else None
        self.register_buffer("transform", transform, persistent=False)

    @property
    def weights(self) -> list[Tensor]:
        """Weights of the layers, with SiLU between them."""
        return [layer.weight for layer in self.layers]

    @property
    def n_weights(self) -> int:
        """Number of weights of the last layer, for a single property; 0 without such a layer."""
        if not self.weights:
            return 0
        n_sets, _, n_inputs = self.weights[-1].shape
        return n_sets * n_inputs * sum(_count_tensors(basis) for basis in self.bases)

    def last_features(self, features: Tensor) -> Tensor:
        """Return the last-layer features as a table."""
        for weight in self.weights[:-1]:
            features = F.silu(torch.bmm(features, weight.mT))
        return features

    def forward(self, features: Tensor, gather: Gather, batch: EnvironmentBatch) -> Tensor:
        """Return the flattened values per atom: (n_networks, n_atoms, size)."""
        table = self.last_features(features)
        if self.weights:
            table = torch.bmm(table, self.weights[-1].mT)
        invariants = gather(table, batch)
        if not any(isinstance(basis, TensorBasis) for basis in self.bases):
            return invariants
        blocks, first = [], 0
        for basis, n_properties in zip(self.bases, self.n_properties):
            size = n_properties * _count_tensors(basis)
            part = invariants[:, :, first : first + size].unflatten(2, (n_properties, -1))
            first += size
            if isinstance(basis, TensorBasis):
                part = torch.einsum("imk,nipk->nimp", basis(batch.tensors, batch), part)
            blocks.append(part.flatten(2))
        values = torch.cat(blocks, dim=2)
        if self.transform is None:
            return values
        per_property = values.unflatten(2, (-1, self.n_properties[0]))
        return torch.einsum("cs,nisp->nicp", self.transform, per_property).flatten(2)

    def rows(self, features: Tensor, gather: Gather, batch: EnvironmentBatch) -> Tensor:
        """Return what the last layer multiplies by its weights to get each component of a value.

        All properties of a component have the same row. With the tensors B and the last-layer
        features h, a row of a spherical block holds all products B h, and zeros for the other
        blocks.

        Returns
        -------
        Tensor of shape (n_atoms, n_components, n)
            The components are those of :attr:`TargetKind.rows`.
        """
        (h,) = gather(self.last_features(features), batch)
        parts = []
        for basis in self.bases:
            is_tensor = isinstance(basis, TensorBasis)
            B = basis(batch.tensors, batch) if is_tensor else h.new_ones(len(h), 1, 1)
            parts.append(torch.einsum("imk,if->imkf", B, h).flatten(2))
        rows = parts[0]
        if len(parts) > 1:
            sizes = torch.tensor([part.shape[1:] for part in parts]).sum(0).tolist()
            rows = h.new_zeros(len(h), *sizes)
            component = first = 0
            for part in parts:
                _, n_components, size = part.shape
                rows[:, component : component + n_components, first : first + size] = part
                component, first = component + n_components, first + size
        return rows if self.transform is None else torch.einsum("cs,isn->icn", self.transform, rows)


class Trunk(nn.Module):
    """Hidden layers after the first layer.

    Parameters
    ----------
    n_layers, width, n_sets : int
        Sizes.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(self, n_layers: int, width: int, n_sets: int, generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ElementLinear(n_sets, width, width, generator) for _ in range(n_layers)
        )

    @property
    def weights(self) -> list[Tensor]:
        """Weights of the layers, with SiLU before each layer and after the last."""
        return [layer.weight for layer in self.layers]

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the features, as a table (n_sets, n_rows, width)."""
        for weight in self.weights:
            hidden = torch.bmm(F.silu(hidden), weight.mT)
        return F.silu(hidden)


def _count_tensors(basis) -> int:
    """Return the number of invariants per value of a block."""
    return basis.n_tensors if isinstance(basis, TensorBasis) else 1


def count_outputs(kind: TargetKind, bases) -> int:
    """Return the total number of invariants of a target."""
    return sum(b.n_properties * _count_tensors(basis) for b, basis in zip(kind.blocks, bases))
