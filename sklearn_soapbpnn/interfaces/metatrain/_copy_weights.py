"""Copying the weights of a metatrain model to our network, which has another layout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._options import N_PSEUDO_SPECIES


@torch.no_grad()
def copy_weights(model, network, kinds):
    """Copy the weights of metatrain's model to our network."""
    copy = _CopyOrthogonal(model) if model.legacy else _CopyAlchemical(model)
    copy.first_layer(network, kinds)
    for k, layer in enumerate(network.trunk.layers if network.trunk is not None else ()):
        _fill(layer.weight, copy.trunk_weight(k + 1))
    for (name, kind), head in zip(kinds.items(), network.heads):
        # without hidden layers the weights of linear heads are those of the first layer
        if len(head.layers):
            for layer, weight in zip(head.layers, copy.head_weights(name, kind)):
                _fill(layer.weight, weight)
        for basis, theirs in zip(head.bases, _find_bases(model, name, kind)):
            if theirs is not None:
                _copy_basis(copy, basis, theirs)
    if network.long_range is not None:
        featurizer = model.long_range_featurizer
        network.long_range.charges.load_state_dict(featurizer.charges_map.state_dict())
        network.long_range.out.load_state_dict(featurizer.out_projection.state_dict())


class _CopyOrthogonal:
    """Copy the weights of a model with one network per element."""

    def __init__(self, model):
        self.model, self.order = model, np.argsort(model.atomic_types)
        self.n_blocks = len(model.atomic_types)

    def trunk_weight(self, k):
        """Return the weights of hidden layer k: (n_elements, n_outputs, n_inputs)."""
        return self._stack(self.model.bpnn.module_list, 2 * k)

    def first_layer(self, network, kinds):
        """Copy the first layer; its weights and bias include the affine part of LayerNorm."""
        first = network.first
        weight = self.trunk_weight(0)
        if first.bias is not None:
            norms = [self.model.layernorm.module_list[k] for k in self.order]
            _fill(first.bias, torch.stack([w @ n.bias for w, n in zip(weight, norms)]))
            weight = weight * torch.stack([norm.weight for norm in norms])[:, None]
        spectrum = first.spectrum
        blocks = _reorder_spectrum(
            weight.flatten(0, 1), spectrum.n_per_l, self.n_blocks, self.order
        )
        packed = spectrum.pack([block.to(spectrum.weight.dtype) for block in blocks])
        _fill(first.linear.weight, packed.view_as(first.linear.weight))

    def head_weights(self, name, kind):
        """Return the weights of the layers of a head; the last layers of its blocks are joined."""
        head = self.model.heads[name]
        hidden = [self._stack(head.module_list, 0)] if hasattr(head, "module_list") else []
        last = [self._stack(layer.module_map.module_list) for layer in self._last(name, kind)]
        return [*hidden, torch.cat(last, dim=1)]

    def contraction(self, ours, theirs):
        """Copy the weights of a contraction of the expansion."""
        linear = getattr(theirs, "contraction", None) or theirs.spex_contraction
        weight = self._stack(linear.module_map.module_list)
        _fill(ours.weight, _reorder_channels(weight, self.n_blocks, self.order))

    def _last(self, name, kind):
        return _choose_blocks(list(self.model.last_layers[name].values()), kind)

    def _stack(self, modules, index=None):
        chosen = [modules[int(k)] for k in self.order]
        return torch.stack([(m if index is None else m[index]).weight for m in chosen])


class _CopyAlchemical(_CopyOrthogonal):
    """Copy the weights of a model with pseudo-species and a single network."""

    def __init__(self, model):
        super().__init__(model)
        self.n_blocks, self.pseudo = N_PSEUDO_SPECIES, np.arange(N_PSEUDO_SPECIES)

    def trunk_weight(self, k):
        return self.model.bpnn_for_tensors[2 * k].weight[None]

    def first_layer(self, network, kinds):
        first, n_per_l = network.first, network.first.spectrum.n_per_l
        theirs = self.model
        species = theirs.soap_calculator.calculator.species
        _fill(first.embedding, species.embedding.weight[self.order])

        def reorder(values):
            blocks = _reorder_spectrum(values, n_per_l, self.n_blocks, self.pseudo)
            return torch.cat([block.flatten(1) for block in blocks], dim=1)

        _fill(first.encoding, reorder(theirs.center_encoding.weight)[self.order])
        if isinstance(first.norm, torch.nn.LayerNorm):
            _fill(first.norm.weight, reorder(theirs.layernorm_for_tensors.weight[None])[0])
            _fill(first.norm.bias, reorder(theirs.layernorm_for_tensors.bias[None])[0])
        if network.trunk is not None:
            weight = self.trunk_weight(0)
        else:
            weight = torch.cat([self.head_weights(*item)[-1] for item in kinds.items()], dim=1)
        _fill(first.linear.weight, reorder(weight[0])[None])

    def head_weights(self, name, kind):
        last = [layer.module_map.module_list[0].weight for layer in self._last(name, kind)]
        return [torch.cat(last)[None]]

    def contraction(self, ours, theirs):
        calculator = getattr(theirs, "soap_calculator", None) or theirs.spex_calculator
        tensors = getattr(theirs, "contraction_for_tensors", None)
        weight = (tensors or theirs.spex_contraction_for_tensors).weight
        _fill(ours.embedding, calculator.species.embedding.weight[self.order])
        encoding = theirs.center_encoding.weight[self.order]
        _fill(ours.encoding, _reorder_channels(encoding, self.n_blocks, self.pseudo))
        _fill(ours.weight, _reorder_channels(weight, self.n_blocks, self.pseudo))


def _choose_blocks(parts, kind):
    """Leave out the antisymmetric block, which metatrain removes by symmetrising the result."""
    if kind.cartesian_rank == 2 and len(kind.blocks) == 2:
        return [parts[0], parts[2]]
    return parts


def _find_bases(model, name, kind):
    """Return metatrain's basis for each of our blocks; None for invariants."""
    bases = _choose_blocks(list(model.basis_calculators[name].values()), kind)
    return [None if block.is_scalar else basis for block, basis in zip(kind.blocks, bases)]


def _copy_basis(copy, ours, theirs):
    if ours.vectors is not None:
        copy.contraction(ours.vectors, theirs.vector_basis)
    if ours.pseudoscalar is not None:
        copy.contraction(ours.pseudoscalar, theirs.vector_basis_pseudotensor)
    if ours.tensors is not None:
        copy.contraction(ours.tensors, theirs.lambda_basis_module)


def _reorder_spectrum(weight: Tensor, n_per_l, n_blocks, order) -> list[Tensor]:
    """Turn rows over (n a n' a') for each l into matrices over (a n), (a' n')."""
    sizes = [(n_blocks * n) ** 2 for n in n_per_l]
    matrices = []
    for part, n in zip(weight.split(sizes, dim=1), n_per_l):
        part = part.reshape(-1, n, n_blocks, n, n_blocks)[:, :, order][:, :, :, :, order]
        matrices.append(part.permute(0, 2, 1, 4, 3).reshape(-1, n_blocks * n, n_blocks * n))
    return matrices


def _reorder_channels(weight: Tensor, n_blocks, order) -> Tensor:
    """Turn the last axis over (n a) into one over (a n)."""
    return weight.unflatten(-1, (-1, n_blocks))[..., order].mT.flatten(-2)


def _fill(parameter, values):
    if parameter.shape != values.shape:
        raise ValueError(
            f"The checkpoint has weights of shape {tuple(values.shape)}, but the shape "
            f"{tuple(parameter.shape)} was expected. It was written by another version of "
            "metatrain."
        )
    parameter.copy_(values)
