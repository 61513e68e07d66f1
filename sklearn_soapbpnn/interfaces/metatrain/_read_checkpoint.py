"""Reading of metatrain checkpoints; the only module that needs metatrain itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from ...data import N_NUMBERS, TargetKind
from ...model import FittedModel, OwnSteps, Steps
from ...nn import SoapBPNN
from ...preprocessing import CompositionBaseline, TargetScaler
from ...training import check_degrees
from ._copy_weights import copy_weights
from ._option_targets import GRADIENTS, PREFIX, list_lost
from ._options import read_hypers


def read_checkpoint(path):
    """Read a checkpoint of metatrain.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    parameters : dict
        Arguments of a regressor with metatrain's hyperparameters.
    make_fitted : callable
        Returns the :class:`FittedModel` for the :class:`FitParameters` of that regressor.

    Raises
    ------
    ImportError
        If metatrain is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a checkpoint, is of another architecture, has no trained model yet, or
        if its model has an option without a counterpart.

    Warns
    -----
    UserWarning
        If training options have no counterpart and are left out.
    """
    model, checkpoint = _load_checkpoint(path)
    kinds = _read_kinds(model)
    lost = list_lost(checkpoint["train_hypers"].get("loss"), kinds)
    parameters, left_out = read_hypers(model.hypers, _upgrade_training(checkpoint), kinds)
    if left_out := dict.fromkeys([*lost, *left_out]):
        warnings.warn(
            "SoapBPNNRegressor has no counterpart of some training options of the checkpoint, "
            f"which are left out: {'; '.join(map(_shorten, left_out))}. Predictions do not depend "
            "on them; continued training may.",
            UserWarning,
            stacklevel=3,
        )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {**parameters, "dtype": dtype}, partial(_make_fitted, model, kinds)


def _load_checkpoint(path):
    """Return metatrain's model, and the checkpoint from which it was read."""
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
    except Exception as err:  # unpickling may raise any exception
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
            f"path={str(path)!r} holds no best epoch, since it was written before the first epoch "
            "was completed. Pass a later checkpoint of the training."
        )
    # metatrain's upgrades need a mapping
    if not isinstance(checkpoint.get("train_hypers"), Mapping):
        checkpoint["train_hypers"] = {}
    return model_from_checkpoint(checkpoint, context="export"), checkpoint


def _upgrade_training(checkpoint):
    """Return the training options of a checkpoint, after metatrain's upgrades, made in place."""
    from metatrain.soap_bpnn import __trainer__ as trainer

    if not checkpoint["train_hypers"]:
        return {}
    if checkpoint.get("trainer_ckpt_version") is None:
        checkpoint["trainer_ckpt_version"] = 1  # metatrain assumes the same
    while checkpoint["trainer_ckpt_version"] < trainer.__checkpoint_version__:
        try:
            trainer.upgrade_checkpoint(checkpoint)
        except Exception:  # upgrades of unusual options may raise any exception
            # metatrain refuses to continue training after some changes, e.g. of the learning-rate
            # schedule; further upgrades of the options are nevertheless possible
            checkpoint["trainer_ckpt_version"] += 1
    return checkpoint["train_hypers"]


def _make_fitted(model, kinds, parameters):
    """Return the FittedModel with metatrain's weights, as if it were the result of a fit."""
    steps = _make_steps(model, kinds, parameters)
    ours = {_strip_prefix(name): kind for name, kind in kinds.items()}
    check_degrees(ours, steps.parameters.max_angular)
    network = SoapBPNN(steps.elements, steps.parameters, ours, parameters.architecture, seed=0)
    copy_weights(model, network, kinds)
    network = network.to(parameters.torch_device).eval()
    targets = (*ours, *_read_derivatives(model))
    return FittedModel(steps, ours, targets, network, parameters.hyperparameters(ours))


def _make_steps(model, kinds, parameters):
    """Return the steps before the network, with the values of their counterparts in metatrain."""
    elements = np.sort(model.atomic_types)
    baseline = _read_baseline(model, elements, kinds)
    scaler = _read_scaler(model, elements, kinds)
    # metatrain's models always have a baseline and a scaler; one that is switched off and has no
    # effect is left out, since it would otherwise be fitted to targets that are added later
    if not parameters.remove_composition_contribution and not _differ(baseline.coef_, 0.0):
        baseline = None
    if not parameters.scale_targets and not _differ(scaler.scale_, 1.0):
        scaler = None
    own, atoms = parameters.make_steps(), [Atoms(elements)]
    own = OwnSteps(own.zbl and own.zbl.fit(atoms), baseline, scaler, own.featurizer.fit(atoms))
    return Steps(elements, parameters.soap, own)


def _shorten(text, width=100):
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _differ(arrays, value):
    return any(np.any(array != value) for array in arrays.values())


def _strip_prefix(name):
    """Return the name of a metatrain target without the prefix of non-standard targets."""
    return name.removeprefix(PREFIX)


def _read_kinds(model) -> dict[str, TargetKind]:
    """Return the kind of each target, by metatrain's names."""
    return {name: _read_kind(name, info) for name, info in model.dataset_info.targets.items()}


def _read_derivatives(model) -> list[str]:
    """Return the derivatives of the energy on which the model was trained."""
    energy = model.dataset_info.targets.get("energy")
    gradients = () if energy is None else energy.gradients
    return [ours for theirs, ours in GRADIENTS.items() if theirs in gradients]


def _read_baseline(model, elements, kinds) -> CompositionBaseline:
    """Return a fitted baseline with metatrain's composition weights."""
    composition = model.additive_models[0].model
    order = np.argsort(model.atomic_types)
    baseline = CompositionBaseline()
    baseline.elements_, baseline.kinds_, baseline.coef_ = elements, {}, {}
    for name, weights in composition.weights.items():
        kind = kinds[name]
        blocks = [block.values.numpy().reshape(len(order), -1) for block in weights.blocks()]
        values = np.zeros((len(order), kind.size))
        # metatrain has baselines of spherical tensors only, where each invariant is one component
        values[:, kind.invariant_components[0]] = np.hstack(blocks)[order]
        ours = _strip_prefix(name)
        baseline.kinds_[ours] = kind
        baseline.coef_[ours] = values.reshape(len(order), *kind.shape)
    return baseline


def _read_scaler(model, elements, kinds) -> TargetScaler:
    """Return a fitted scaler with metatrain's scales."""
    order = np.argsort(model.atomic_types)
    scaler = TargetScaler()
    scaler.scale_ = {}
    for name, kind in kinds.items():
        blocks = model.scaler.model.scales[name].blocks()
        scales = np.hstack([block.values.double().numpy() for block in blocks])
        if kind.per_atom:
            table = np.ones((N_NUMBERS, kind.n_scales))
            table[elements] = scales[order]
            scales = table
        else:
            scales = float(scales[0, 0]) if kind.n_scales == 1 else scales[0]
        scaler.scale_[_strip_prefix(name)] = scales
    return scaler


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
