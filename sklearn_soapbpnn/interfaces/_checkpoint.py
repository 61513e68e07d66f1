"""Reading of metatrain checkpoints; this needs metatrain itself, nothing else here does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from .._steps import Steps, make_featurizer
from ..data import TargetKind
from ..preprocessing import CompositionBaseline, TargetScaler, ZBLBaseline
from ._option_targets import list_lost
from ._options import read_hypers

N_PSEUDO_SPECIES = 4  # metatrain's


def load_checkpoint(path):
    """Return metatrain's model, and the checkpoint that it was read from.

    Raises
    ------
    ImportError
        If metatrain is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds another architecture, no trained model, or is not a checkpoint at all.
    """
    try:
        from metatrain.utils.io import is_exported_file, model_from_checkpoint
    except ImportError as err:
        raise ImportError(
            "Reading a metatrain checkpoint needs metatrain. Install it with "
            "`pip install sklearn_soapbpnn[bench]`."
        ) from err
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r} does not exist.")
    try:
        exported = is_exported_file(path)
        checkpoint = None if exported else torch.load(path, map_location="cpu", weights_only=False)
    except Exception as err:  # whatever unpickling may raise
        raise ValueError(
            f"path={str(path)!r} cannot be read. Pass a checkpoint (.ckpt) of metatrain."
        ) from err
    if exported:
        raise ValueError(
            f"path={str(path)!r} holds an exported model. Pass the checkpoint (.ckpt) that "
            "metatrain writes next to it."
        )
    name = checkpoint.get("architecture_name") if isinstance(checkpoint, dict) else None
    if name != "soap_bpnn":
        raise ValueError(
            f"path={str(path)!r} holds the architecture {name!r}; only checkpoints (.ckpt) of "
            "metatrain's 'soap_bpnn' can be read."
        )
    if checkpoint.get("best_model_state_dict") is None:
        raise ValueError(
            f"path={str(path)!r} holds no best epoch: it was written before the first was over. "
            "Pass a later checkpoint of the training."
        )
    # metatrain's upgrades want a mapping
    if not isinstance(checkpoint.get("train_hypers"), Mapping):
        checkpoint["train_hypers"] = {}
    return model_from_checkpoint(checkpoint, context="export"), checkpoint


def upgrade_training(checkpoint):
    """Return the training options of a checkpoint, upgraded in place as far as metatrain can."""
    from metatrain.soap_bpnn import __trainer__ as trainer

    if not checkpoint["train_hypers"]:
        return {}
    if checkpoint.get("trainer_ckpt_version") is None:
        checkpoint["trainer_ckpt_version"] = 1  # as metatrain has it
    while checkpoint["trainer_ckpt_version"] < trainer.__checkpoint_version__:
        try:
            trainer.upgrade_checkpoint(checkpoint)
        except Exception:  # whatever upgrades of odd options raise
            # metatrain refuses to go on training after some changes, that of the schedule of the
            # learning rate for one; the options can be upgraded further all the same
            checkpoint["trainer_ckpt_version"] += 1
    return checkpoint["train_hypers"]


def restore(cls, path):
    """Return an estimator of class ``cls`` that is fitted as a checkpoint says."""
    model, checkpoint = load_checkpoint(path)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    kinds = read_kinds(model)
    lost = list_lost(checkpoint["train_hypers"].get("loss"), kinds)
    parameters, left_out = read_hypers(model.hypers, upgrade_training(checkpoint), kinds)
    if left_out := dict.fromkeys([*lost, *left_out]):
        warnings.warn(
            "The checkpoint was trained with options that SoapBPNNRegressor has no counterpart of, "
            f"and they are left out: {'; '.join(map(_shorten, left_out))}. Predictions do not "
            "depend on them; a fit that goes on from here may.",
            UserWarning,
            stacklevel=3,
        )
    estimator = cls(**parameters, dtype=dtype)
    elements = np.sort(model.atomic_types)
    targets = {strip_prefix(name): kind for name, kind in kinds.items()}
    featurizer = make_featurizer(estimator).fit([Atoms(elements)])
    baseline = read_baseline(model, elements, kinds)
    scaler = read_scaler(model, elements, kinds)
    # metatrain's models always have both; one that does nothing would be fitted to later targets
    if not estimator.remove_composition_contribution and not _differ(baseline.coef_, 0.0):
        baseline = None
    if not estimator.scale_targets and not _differ(scaler.scale_, 1.0):
        scaler = None
    steps = Steps(
        elements,
        featurizer._soap_parameters(),
        zbl=ZBLBaseline().fit([Atoms(elements)]) if estimator.zbl else None,
        baseline=baseline,
        scaler=scaler,
        featurizer=featurizer,
    )
    estimator._restore(steps, targets, (*targets, *read_derivatives(model)))
    copy_weights(model, estimator.module_, kinds)
    return estimator


def _shorten(text, width=100):
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _differ(arrays, value):
    return any(np.any(array != value) for array in arrays.values())


def strip_prefix(name):
    """Return the name of a metatrain target without the prefix of what is not standard."""
    return name.removeprefix("mtt::")


def read_kinds(model) -> dict[str, TargetKind]:
    """Return the kind of each target, by metatrain's names."""
    return {name: _read_kind(name, info) for name, info in model.dataset_info.targets.items()}


def read_derivatives(model) -> list[str]:
    """Return which derivatives of the energy were learnt."""
    energy = model.dataset_info.targets.get("energy")
    gradients = () if energy is None else energy.gradients
    names = {"positions": "forces", "strain": "stress"}
    return [ours for theirs, ours in names.items() if theirs in gradients]


def read_baseline(model, elements, kinds) -> CompositionBaseline:
    """Return a fitted baseline with metatrain's composition weights."""
    composition = model.additive_models[0].model
    order = np.argsort(model.atomic_types)
    baseline = CompositionBaseline()
    baseline.elements_, baseline.kinds_, baseline.coef_ = elements, {}, {}
    for name, weights in composition.weights.items():
        kind = kinds[name]
        blocks = [block.values.numpy().reshape(len(order), -1) for block in weights.blocks()]
        values = np.hstack(blocks)[order] @ kind.invariants.T
        ours = strip_prefix(name)
        baseline.kinds_[ours] = kind
        baseline.coef_[ours] = values.reshape(len(order), *kind.shape)
    return baseline


def read_scaler(model, elements, kinds) -> TargetScaler:
    """Return a fitted scaler with metatrain's scales."""
    order = np.argsort(model.atomic_types)
    scaler = TargetScaler()
    scaler.scale_ = {}
    for name, kind in kinds.items():
        blocks = model.scaler.model.scales[name].blocks()
        scales = np.hstack([block.values.double().numpy() for block in blocks])
        if kind.per_atom:
            table = np.ones((119, kind.n_scales))
            table[elements] = scales[order]
            scales = table
        else:
            scales = float(scales[0, 0]) if kind.n_scales == 1 else scales[0]
        scaler.scale_[strip_prefix(name)] = scales
    return scaler


@torch.no_grad()
def copy_weights(model, network, kinds):
    """Fill our network with the weights of metatrain's model."""
    copy = _CopyOrthogonal(model) if model.legacy else _CopyAlchemical(model)
    copy.first_layer(network, kinds)
    for k, layer in enumerate(network.trunk.layers if network.trunk is not None else ()):
        _fill(layer.weight, copy.trunk_weight(k + 1))
    for (name, kind), head in zip(kinds.items(), network.heads):
        # without hidden layers the weights of linear heads are the first layer
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
    """Weights of a model with one network for each element."""

    def __init__(self, model):
        self.model, self.order = model, np.argsort(model.atomic_types)
        self.n_blocks = len(model.atomic_types)

    def trunk_weight(self, k):
        """Weights of hidden layer k: (n_elements, n_outputs, n_inputs)."""
        return self._stack(self.model.bpnn.module_list, 2 * k)

    def first_layer(self, network, kinds):
        """LayerNorm's affine part goes into the weights and the bias of the layer."""
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
        """Weights of a head, the last of all its blocks joined."""
        head = self.model.heads[name]
        hidden = [self._stack(head.module_list, 0)] if hasattr(head, "module_list") else []
        last = [self._stack(layer.module_map.module_list) for layer in self._last(name, kind)]
        return [*hidden, torch.cat(last, dim=1)]

    def contraction(self, ours, theirs):
        """Weights of a contraction of the expansion."""
        linear = getattr(theirs, "contraction", None) or theirs.spex_contraction
        weight = self._stack(linear.module_map.module_list)
        _fill(ours.weight, _reorder_channels(weight, self.n_blocks, self.order))

    def _last(self, name, kind):
        return _choose_blocks(list(self.model.last_layers[name].values()), kind)

    def _stack(self, modules, index=None):
        chosen = [modules[int(k)] for k in self.order]
        return torch.stack([(m if index is None else m[index]).weight for m in chosen])


class _CopyAlchemical(_CopyOrthogonal):
    """Weights of a model with pseudo-species and one network."""

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


def _read_kind(name, info):
    options = {"per_atom": info.sample_kind == "atom", "unit": info.unit}
    blocks = list(info.layout.items())
    n = [len(block.properties) for _, block in blocks]
    single = None if n[0] == 1 else n[0]
    if info.is_scalar:
        total = sum(n)
        return TargetKind.scalar(None if total == 1 else total, **options)
    if info.is_cartesian:
        if len(blocks[0][1].components) == 1:
            return TargetKind.vector(single, **options)
        stress = "non_conservative_stress" in name
        return TargetKind.tensor(single, symmetric=stress, per_volume=stress, **options)
    orders = [(int(key["o3_lambda"]), int(key["o3_sigma"])) for key, _ in blocks]
    if len(blocks) == 1:
        return TargetKind.spherical(orders[0], single, **options)
    return TargetKind.spherical([(*o, k) for o, k in zip(orders, n)], **options)


def _choose_blocks(parts, kind):
    """Leave out the antisymmetric block that metatrain symmetrises away."""
    if kind.cartesian_rank == 2 and len(kind.blocks) == 2:
        return [parts[0], parts[2]]
    return parts


def _find_bases(model, name, kind):
    """Metatrain's basis of each of our blocks; None for invariants."""
    bases = _choose_blocks(list(model.basis_calculators[name].values()), kind)
    orders = [(block.o3_lambda, block.o3_sigma) for block in kind.blocks]
    return [None if order == (0, 1) else basis for order, basis in zip(orders, bases)]


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
            f"The checkpoint holds weights of shape {tuple(values.shape)} where "
            f"{tuple(parameter.shape)} were expected; it was written by another version of "
            "metatrain."
        )
    parameter.copy_(values)
