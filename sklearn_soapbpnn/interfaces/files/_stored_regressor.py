"""Conversion of fitted regressors to the content of a model file, JSON and tensors, and back."""

import math

import numpy as np
import torch

from ...data import DERIVED_TARGETS, LEARNT_DERIVATIVES, check_kind, usual_settings
from ...descriptors import (
    SOAP_TYPES,
    SoapParameters,
    count_features,
    count_radial_channels,
    read_soap_parameters,
)
from ...model import (
    CommitteeSpread,
    FittedModel,
    LastLayerPosterior,
    OwnSteps,
    Steps,
    find_device,
    find_target,
)
from ...nn import SoapBPNN
from ...preprocessing import CompositionBaseline, SoapFeaturizer, TargetScaler, ZBLBaseline
from ...training import check_degrees, read_parameters
from ._stored_steps import (
    check_arguments,
    dump_parameters,
    dump_step,
    load_elements,
    load_parameters,
    load_scale,
    load_step,
)
from ._values import check_entries, check_list, decode, decode_kinds, encode, encode_kinds

# steps that a regressor may fit itself, and the data that X then does not have attached
OWN_STEPS = {
    "zbl": (ZBLBaseline, None),
    "baseline": (CompositionBaseline, "offset"),
    "scaler": (TargetScaler, "scale"),
    "featurizer": (SoapFeaturizer, "features"),
}
REGRESSOR_ENTRIES = {
    "class": str,
    "parameters": dict,
    "elements": list,
    "descriptor": dict,
    "kinds": dict,
    "targets": list,
    "carried": dict,
    "steps": dict,
    "history": list,
    "error_bars": (dict, type(None)),
}
# largest size in bytes of the constants of all heads; it grows with the square of a target's size
HEAD_MEMORY = 2**28


def dump_regressor(model, tensors, prefix):
    """Return a fitted regressor as JSON values; its arrays are added to ``tensors``, by name."""
    fitted, steps = model.fitted_, model.fitted_.steps
    changed = list(read_parameters(model).find_changed(fitted))
    if changed:
        raise ValueError(
            f"{changed} were changed after fit, so they no longer belong to the fitted weights. "
            "Set them back, or fit again."
        )
    own = {}
    for name in OWN_STEPS:
        step = getattr(steps.own, name)
        own[f"{name}_"] = step and dump_step(step, tensors, f"{prefix}{name}_.")
    weights = fitted.network.state_dict()
    tensors |= {f"{prefix}module.{name}": value.cpu().numpy() for name, value in weights.items()}
    if isinstance(fitted.error_bars, LastLayerPosterior):
        hessians = fitted.error_bars.hessians.items()
        tensors |= {f"{prefix}hessian.{name}": H for name, H in hessians}
    scales = steps.scales.items()
    tensors |= {f"{prefix}carried.scale.{name}": np.asarray(scale) for name, scale in scales}
    return {
        "class": "SoapBPNNRegressor",
        "parameters": dump_parameters(model),
        "elements": steps.elements.tolist(),
        "descriptor": {name: encode(value) for name, value in vars(steps.parameters).items()},
        "kinds": encode_kinds(fitted.kinds),
        "targets": list(fitted.targets),
        "carried": {what: sorted(names) for what, names in steps.carried.items()},
        "steps": own,
        "history": [
            {name: encode(value) for name, value in epoch.items() if name != "batches"}
            for epoch in model.history_
        ],
        "error_bars": fitted.error_bars and dict(fitted.error_bars.scales),
    }


def load_regressor(cls, state, tensors, prefix):
    """Undo :func:`dump_regressor`, for a regressor of class ``cls``."""
    # older files have no error bars
    state = {"error_bars": None} | state
    check_entries(state, REGRESSOR_ENTRIES, "SoapBPNNRegressor")
    model = load_parameters(cls, state["parameters"])
    parameters = read_parameters(model)
    steps = _load_own_steps(state, tensors, prefix)
    kinds = decode_kinds(state["kinds"])
    targets = tuple(check_list(state["targets"], (str,), "targets"))
    _check_targets(targets, kinds, steps)
    weights = tensors.take_all(f"{prefix}module.", model.dtype)
    network = _load_network(steps, kinds, parameters.architecture, weights)
    network.to(find_device(parameters.device))
    hyperparameters = parameters.hyperparameters(kinds)
    error_bars = _load_error_bars(state["error_bars"], network, tensors, f"{prefix}hessian.")
    fitted = FittedModel(steps, kinds, targets, network, hyperparameters, error_bars)
    return model.set_fitted(fitted, _load_history(state["history"]))


def _load_error_bars(scales, network, tensors, prefix):
    """Return the error bars, after checking that they belong to the network."""
    if scales is None:
        return None
    check_entries(scales, dict.fromkeys(scales, float), "error bars")
    known = {*network.kinds, *("forces", "stress") * ("energy" in network.kinds)}
    if not {*scales} <= known or not all(0 < scale < math.inf for scale in scales.values()):
        raise ValueError(f"error bars cannot have the scales {scales}")
    if network.n_networks > 1:
        return CommitteeSpread(scales=dict(scales))
    hessians = tensors.take_all(prefix, "float64")
    for name, H in hessians.items():
        if name not in network.kinds or H.shape != (network.head(name).n_weights,) * 2:
            raise ValueError(f"the error bars of {name!r} are not those of this network")
    missing = {find_target(name) for name in scales} - hessians.keys()
    if missing:
        raise ValueError(f"the error bars of {sorted(missing)} are missing")
    error_bars = LastLayerPosterior(hessians=hessians, scales=dict(scales))
    error_bars.whitening  # noqa: B018 - raises if a matrix is not positive
    return error_bars


def _load_history(state):
    if not all(isinstance(epoch, dict) for epoch in state):
        raise ValueError("the history must contain one dict per epoch")
    return [
        {"batches": [], **{name: decode(value) for name, value in epoch.items()}} for epoch in state
    ]


def _load_own_steps(state, tensors, prefix):
    """Return the steps before the network, including those that the regressor fitted itself."""
    elements = load_elements(state["elements"])
    soap = _load_descriptor(state["descriptor"])
    names = [f"{name}_" for name in OWN_STEPS]
    check_entries(state["steps"], dict.fromkeys(names, (dict, type(None))), "steps")
    carried = {what: check_list(n, (str,), "carried") for what, n in state["carried"].items()}
    own = {}
    for name, (step_class, attached) in OWN_STEPS.items():
        step = state["steps"][f"{name}_"]
        if step is not None:
            step = load_step(step_class, step, tensors, f"{prefix}{name}_.")
            if attached in carried:
                raise ValueError(f"X carries the {attached}, so there cannot be a {name}")
            if not np.array_equal(getattr(step, "elements_", elements), elements):
                raise ValueError(f"{name} has other elements")
        own[name] = step
    if set(carried) - {attached for _, attached in OWN_STEPS.values()}:
        raise ValueError(f"X cannot carry {carried}")
    own = OwnSteps(**own)
    if own.featurizer is None and "features" not in carried:
        raise ValueError("the descriptor is missing")
    if own.featurizer is not None:
        if read_soap_parameters(own.featurizer) != soap:
            raise ValueError("the descriptor of the model is not the descriptor of its featurizer")
        own.featurizer.set_output(transform="default")
    names = carried.get("scale", [])
    scales = {name: load_scale(tensors, f"{prefix}carried.scale.{name}") for name in names}
    carried = {what: frozenset(names) for what, names in carried.items()}
    return Steps(elements, soap, own, carried, scales)


def _load_descriptor(state):
    # files do not contain parameters that were added after they were written; their defaults keep
    # the descriptor as it was
    state = vars(SoapParameters()) | {name: decode(value) for name, value in state.items()}
    check_entries(state, SOAP_TYPES, "the descriptor")
    check_arguments(SoapFeaturizer, state)
    return SoapParameters(**state)


def _check_targets(targets, kinds, steps):
    """Raise if the columns of y do not match the targets, or if the targets need much memory."""
    learnt = [name for name in targets if name not in LEARNT_DERIVATIVES]
    # Python objects of some kilobytes, a few indices of components, and Clebsch-Gordan coefficients
    memory = sum(
        2**13
        + 32 * math.prod(kind.shape)
        + sum(2 * (2 * b.o3_lambda + 1) ** 4 for b in kind.blocks)
        for kind in kinds.values()
    )
    if memory > HEAD_MEMORY:
        raise ValueError(f"{len(kinds)} targets would take {memory} bytes")
    for name, kind in kinds.items():
        check_kind(name, kind)
    # energies may be learnt from their derivatives alone
    outputs = {*learnt} if len(learnt) == len(targets) else {*learnt, "energy"}
    if outputs != {*kinds} or {*learnt} & {*DERIVED_TARGETS}:
        raise ValueError(f"targets {targets} do not match the kinds {list(kinds)}")
    check_degrees(kinds, steps.parameters.max_angular)
    baseline = steps.own.baseline
    if baseline is not None and not baseline.kinds_.items() <= kinds.items():
        raise ValueError("the baseline has other targets")


def _load_network(steps, kinds, architecture, weights):
    """Build the network, after checking that the file contains enough weights for it."""
    _check_sizes(steps, kinds, architecture, weights)
    with usual_settings():
        network = SoapBPNN(steps.elements, steps.parameters, kinds, architecture, seed=0)
    expected = network.state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else "is not part of the model"
        raise ValueError(f"the weight {name!r} {problem}")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            shapes = f"the shape {weights[name].shape}, not {tuple(tensor.shape)}"
            raise ValueError(f"the weight {name!r} has {shapes}")
    network.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    return network.eval()


def _check_sizes(steps, kinds, architecture, weights):
    """Raise if the network would need much more memory than the size of the file."""
    found = sum(w.size for w in weights.values())
    n_layers = architecture.num_hidden_layers
    if n_layers > len(weights):
        raise ValueError(f"{n_layers} hidden layers need more weights than the {found} in the file")
    width, n_pseudo_species = architecture.num_neurons_per_layer, architecture.n_pseudo_species
    n_per_l = count_radial_channels(steps.parameters)
    if n_pseudo_species is None:
        n_sets = architecture.n_networks * len(steps.elements)
        n_features = sum(count_features(n_per_l, len(steps.elements)))
    else:
        n_sets = architecture.n_networks
        n_features = sum((n_pseudo_species * n) ** 2 for n in n_per_l)
    n_mlp = sum(architecture.has_mlp(name) for name in kinds)
    # layers between features and neurons, and from neurons to neurons
    n_first = width if n_layers else n_mlp * width
    n_square = n_layers - 1 + n_mlp if n_layers else 0
    n_square = n_square * n_sets + (3 if architecture.long_range else 0)
    needed = n_sets * n_first * n_features + n_square * width**2
    if max(needed, n_features) > found:
        raise ValueError(
            f"{steps.parameters}, {architecture} need {needed} weights, but the file has {found}"
        )
