"""Fitted regressors as what a model file holds, JSON and tensors, and back."""

import copy
import math
from dataclasses import asdict

import numpy as np
import torch
from ase import Atoms
from sklearn.utils.validation import check_is_fitted
from torch.overrides import TorchFunctionMode

from .._checks import check_degrees, check_parameters, describe_model, resolve_device
from .._featurizer import SoapFeaturizer
from .._fit import make_net
from .._steps import Steps
from ..data import LEARNT_DERIVATIVES, Targets, usual_settings
from ..nn import SoapBPNN
from ..preprocessing import CompositionBaseline, TargetScaler, ZBLBaseline
from ._file_steps import (
    dump_parameters,
    dump_step,
    load_elements,
    load_parameters,
    load_scale,
    load_step,
)
from ._file_values import check_entries, check_list, decode, decode_kinds, encode, encode_kinds

# steps that a regressor fits for itself, and what X then does not carry
OWN_STEPS = {
    "zbl_": (ZBLBaseline, None),
    "baseline_": (CompositionBaseline, "offset"),
    "scaler_": (TargetScaler, "scale"),
    "featurizer_": (SoapFeaturizer, "features"),
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
}
# bytes that the constants of all heads may take, which grow with the square of a target's size
HEAD_MEMORY = 2**28


def dump_regressor(model, tensors, prefix):
    """Return a fitted regressor as JSON can hold it; its arrays go to ``tensors``, by name."""
    check_is_fitted(model, "net_")
    now = describe_model(model, model.kinds_)
    changed = [name for name, value in model._fixed.items() if repr(now[name]) != repr(value)]
    if changed:
        raise ValueError(
            f"{changed} were changed after fit, so they no longer say what was learnt. Set them "
            "back, or fit again."
        )
    steps = {name: getattr(model, name) for name in OWN_STEPS}
    for name, step in steps.items():
        if step is not None:
            steps[name] = dump_step(step, tensors, f"{prefix}{name}.")
    weights = model.module_.state_dict()
    tensors |= {f"{prefix}module.{name}": value.cpu().numpy() for name, value in weights.items()}
    scales = model._steps.scales.items()
    tensors |= {f"{prefix}carried.scale.{name}": np.asarray(scale) for name, scale in scales}
    return {
        "class": "SoapBPNNRegressor",
        "parameters": dump_parameters(model),
        "elements": model.elements_.tolist(),
        "descriptor": asdict(model._steps.parameters),
        "kinds": encode_kinds(model.kinds_),
        "targets": list(model.targets_),
        "carried": {what: sorted(names) for what, names in model._steps.carried.items()},
        "steps": steps,
        "history": [
            {name: encode(value) for name, value in epoch.items() if name != "batches"}
            for epoch in model.history_
        ],
    }


def load_regressor(cls, state, tensors, prefix):
    """Undo :func:`dump_regressor`, for a regressor of class ``cls``."""
    check_entries(state, REGRESSOR_ENTRIES, "SoapBPNNRegressor")
    model = load_parameters(cls, state["parameters"])
    model._steps = _load_own_steps(state, tensors, prefix)
    model.kinds_ = decode_kinds(state["kinds"])
    model.targets_ = tuple(check_list(state["targets"], (str,), "targets"))
    weights = tensors.take_all(f"{prefix}module.", model.dtype)
    _check_sizes(model, weights)
    check_degrees(model.kinds_, model._steps.parameters.max_angular)
    losses = check_parameters(_on_this_machine(model), _make_targets(model), has_validation=True)
    if model.baseline_ is not None and not model.baseline_.kinds_.items() <= model.kinds_.items():
        raise ValueError("baseline_ has other targets")
    history = _load_history(state["history"])
    model.net_ = _load_net(model, losses, weights)
    model.history_.extend(history)
    model._fixed = describe_model(model, model.kinds_)
    model.n_features_in_ = model.module_.first.n_features
    return model


def _load_history(state):
    if not all(isinstance(epoch, dict) for epoch in state):
        raise ValueError("the history must hold a dict for each epoch")
    return [
        {"batches": [], **{name: decode(value) for name, value in epoch.items()}} for epoch in state
    ]


def _load_own_steps(state, tensors, prefix):
    """Return what came before the network: the steps that the regressor fitted for itself."""
    elements = load_elements(state["elements"])
    parameters = _load_descriptor(state["descriptor"], elements)
    check_entries(state["steps"], dict.fromkeys(OWN_STEPS, (dict, type(None))), "steps")
    carried = {what: check_list(n, (str,), "carried") for what, n in state["carried"].items()}
    steps = {}
    for name, (step_class, attached) in OWN_STEPS.items():
        step = state["steps"][name]
        if step is not None:
            step = load_step(step_class, step, tensors, f"{prefix}{name}.")
            if attached in carried:
                raise ValueError(f"X carries the {attached}, so there is no {name}")
            if not np.array_equal(getattr(step, "elements_", elements), elements):
                raise ValueError(f"{name} has other elements")
        steps[name.removesuffix("_")] = step
    if set(carried) - {attached for _, attached in OWN_STEPS.values()}:
        raise ValueError(f"X cannot carry {carried}")
    featurizer = steps["featurizer"]
    if featurizer is None and "features" not in carried:
        raise ValueError("there is no descriptor")
    if featurizer is not None:
        if featurizer._soap_parameters() != parameters:
            raise ValueError("there are two descriptors")
        featurizer.set_output(transform="default")
    names = carried.get("scale", [])
    scales = {name: load_scale(tensors, f"{prefix}carried.scale.{name}") for name in names}
    carried = {what: frozenset(names) for what, names in carried.items()}
    return Steps(elements, parameters, carried, scales, **steps)


def _load_net(model, losses, weights):
    """Build the network, but only where the file holds all of its weights."""
    net = make_net(_on_this_machine(model), losses, 0, 0)
    with torch.device("meta"), _KeepNumbers():
        expected = SoapBPNN(**net.get_params_for("module")).state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else "belongs to nothing"
        raise ValueError(f"the weight {name!r} {problem}")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            shapes = f"the shape {weights[name].shape}, not {tuple(tensor.shape)}"
            raise ValueError(f"the weight {name!r} has {shapes}")
    with usual_settings():
        net.initialize()
    net.module_.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    net.module_.eval()
    return net


class _KeepNumbers(TorchFunctionMode):
    """On the device "meta" tensors have no memory, but those made of numbers are to keep them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.tensor:
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


def _on_this_machine(model):
    """Return a shallow copy whose device there is: the CPU stands in for one that is not here."""
    model = copy.copy(model)
    try:
        model.device = resolve_device(model.device)
    except ValueError as err:
        try:
            torch.device(model.device)
        except RuntimeError:
            raise err from None  # it is no device anywhere
        model.device = "cpu"
    return model


def _make_targets(model):
    """Return the targets of a model, of no structures."""
    learnt = [name for name in model.targets_ if name not in LEARNT_DERIVATIVES]
    derived = [name for name in model.targets_ if name in LEARNT_DERIVATIVES]
    # energies may be known by their derivatives alone
    outputs = {*learnt, "energy"} if derived else {*learnt}
    if outputs != {*model.kinds_} or len({*learnt}) < len(learnt) or "energies" in learnt:
        raise ValueError(f"targets {model.targets_} cannot be of {list(model.kinds_)}")
    kinds = model.kinds_.items()
    columns = {n: [] if kind.per_atom else np.zeros((0, *kind.shape)) for n, kind in kinds}
    empty = {"forces": []} | dict.fromkeys(("stress", "virial"), np.zeros((0, 3, 3)))
    columns |= {name: empty[name] for name in derived}
    return Targets(kinds=model.kinds_, **columns)


def _check_sizes(model, weights):
    """Refuse what would take much more memory or time to build than the file is large."""
    first = weights.get("first.linear.weight", np.zeros(0))
    n_features = first.shape[-1] if first.ndim == 3 else 0
    parameters = model._steps.parameters
    is_packed = model.species_encoding == "orthogonal"
    n_blocks = len(model.elements_) if is_packed else model.n_pseudo_species
    # zeros of spherical Bessel functions interlace: two degrees higher, at most one channel fewer
    channels = [parameters.max_radial + 1 - (l + 1) // 2 for l in range(parameters.max_angular + 1)]
    sizes = [n_blocks * max(n, 1) for n in channels]
    if sum(n * (n + 1) // 2 if is_packed else n * n for n in sizes) > n_features:
        raise ValueError(f"{parameters} has more features than there are weights")
    if model.num_hidden_layers > len(weights):
        raise ValueError(f"num_hidden_layers={model.num_hidden_layers}, but the weights are fewer")
    width = model.num_neurons_per_layer
    charges = weights.get("long_range.charges.weight", np.zeros(0))
    if model.long_range and charges.shape != (width, width):
        raise ValueError(f"num_neurons_per_layer={width}, but there are {charges.shape} charges")
    # some kilobytes of Python, matrices of size x size, and Clebsch-Gordan coefficients
    memory = sum(
        2**13
        + 8 * math.prod(kind.shape) ** 2
        + sum(2 * (2 * b.o3_lambda + 1) ** 4 for b in kind.blocks)
        for kind in model.kinds_.values()
    )
    if memory > HEAD_MEMORY:
        raise ValueError(f"{len(model.kinds_)} targets would take {memory} bytes")


def _load_descriptor(state, elements):
    types = {"cutoff_radius": float, "cutoff_width": float, "max_radial": int, "max_angular": int}
    check_entries(state, types, "the descriptor")
    featurizer = SoapFeaturizer(**state)
    featurizer._validate_params()
    return featurizer.fit([Atoms(elements)])._soap_parameters()
