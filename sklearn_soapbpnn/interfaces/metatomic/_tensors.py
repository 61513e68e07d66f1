"""Bases of spherical tensors for TorchScript, differentiable by autograd."""

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TensorBasis(nn.Module):
    """Spherical tensors of a block of a target from invariants.

    Parameters
    ----------
    basis : Module
        A :class:`~sklearn_soapbpnn.nn._tensor_basis.TensorBasis`; any other module for invariants.
    n_properties : int
        Number of tensors.
    """

    def __init__(self, basis: nn.Module, n_properties: int) -> None:
        super().__init__()
        self.is_tensor = hasattr(basis, "n_tensors")
        self.n_properties = n_properties
        self.n_tensors = basis.n_tensors if self.is_tensor else 1
        self.n_invariants = n_properties * self.n_tensors
        self.o3_lambda = basis.o3_lambda if self.is_tensor else 0
        contractions = {"vectors": None, "tensors": None, "pseudoscalar": None}
        for name in contractions if self.is_tensor else ():
            module = getattr(basis, name)
            contractions[name] = None if module is None else _make_contraction(module)
        self.vectors = contractions["vectors"]
        self.tensors = contractions["tensors"]
        self.pseudoscalar = contractions["pseudoscalar"]
        self.products = None
        if self.vectors is not None:
            self.products = _trace(basis.products, next(basis.vectors.parameters()))

    def forward(
        self,
        invariants: Tensor,
        expansion: list[Tensor],
        element: Tensor,
        blocks: Tensor,
        counts: list[int],
    ) -> Tensor:
        """Return the flattened tensors, (n_networks, n_atoms, n)."""
        if not self.is_tensor:
            return invariants
        weights = invariants.unflatten(2, [self.n_properties, self.n_tensors])
        basis = self._evaluate(expansion, element, blocks, counts)
        return torch.einsum("imk,nipk->nimp", basis, weights).flatten(2)

    def _evaluate(
        self, expansion: list[Tensor], element: Tensor, blocks: Tensor, counts: list[int]
    ) -> Tensor:
        """Return the basis, (n_atoms, 2l+1, n_tensors)."""
        basis = torch.ones_like(expansion[0][:, :1, :1, 0])
        if self.vectors is not None and self.products is not None:
            basis = self.products(self.vectors(expansion[1], element, blocks, counts))
        if self.tensors is not None:
            c = expansion[self.o3_lambda]
            basis = torch.cat([basis, self.tensors(c, element, blocks, counts)], dim=2)
        if self.pseudoscalar is not None:
            v1, v2, v3 = self.pseudoscalar(expansion[1], element, blocks, counts).unbind(2)
            product = (torch.linalg.cross(v1, v2) * v3).sum(1) / -math.sqrt(6)
            basis = basis * product[:, None, None]
        return basis


class _ElementContraction(nn.Module):
    """Contraction of channels with weights for each pair of elements."""

    def __init__(self, contraction: nn.Module) -> None:
        super().__init__()
        self.register_buffer("weight", contraction.weight.detach().clone())

    def forward(self, c: Tensor, element: Tensor, blocks: Tensor, counts: list[int]) -> Tensor:
        """Contract c, (n_atoms, n_blocks, n_radial, 2l+1), to (n_atoms, 2l+1, n_outputs)."""
        parts: list[Tensor] = []
        for k, x in enumerate(c.flatten(1, 2).transpose(1, 2).split(counts)):
            parts.append(F.linear(x, self.weight[k]))
        return torch.cat(parts)


class _PseudoSpeciesContraction(nn.Module):
    """Contraction of channels through pseudo-species."""

    def __init__(self, contraction: nn.Module) -> None:
        super().__init__()
        for name in ("embedding", "encoding", "weight"):
            self.register_buffer(name, getattr(contraction, name).detach().clone())

    def forward(self, c: Tensor, element: Tensor, blocks: Tensor, counts: list[int]) -> Tensor:
        """Contract c, (n_atoms, n_blocks, n_radial, 2l+1), to (n_atoms, 2l+1, n_outputs)."""
        pseudo = torch.einsum("ab,ianm->ibnm", self.embedding[blocks], c).flatten(1, 2)
        encoded = pseudo * self.encoding[element][:, :, None]
        return F.linear(encoded.transpose(1, 2), self.weight)


def _trace(products, like: Tensor):
    """Record the products of three vectors; they are plain torch, without branches."""
    with warnings.catch_warnings():
        # sizes that depend on the degrees only are constants
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(products, like.new_ones(2, 3, 3))


def _make_contraction(contraction):
    has_pseudo_species = hasattr(contraction, "embedding")
    return (_PseudoSpeciesContraction if has_pseudo_species else _ElementContraction)(contraction)
