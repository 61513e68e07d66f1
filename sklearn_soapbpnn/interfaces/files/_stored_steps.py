"""Conversion of Pipeline steps to the content of a model file, JSON and tensors, and back."""

import numpy as np
import torch
from ase import Atoms
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from ...data import N_NUMBERS
from ...preprocessing import (
    CompositionBaseline,
    SoapFeaturizer,
    TargetScaler,
    ZBLBaseline,
    check_fixed_weights,
    check_scales,
)
from ._values import check_entries, check_list, decode, decode_kinds, encode, encode_kinds

STEPS = {
    cls.__name__: cls for cls in (ZBLBaseline, CompositionBaseline, TargetScaler, SoapFeaturizer)
}
# paths on the machine of the fit: a file must not determine where another machine writes
NOT_STORED = ("checkpoint_dir", "memory")


class StoredTensors:
    """Tensors of a file, each of which must be taken exactly once.

    Parameters
    ----------
    arrays : dict of str to array
        The tensors.
    """

    def __init__(self, arrays):
        self._arrays = dict(arrays)

    def take(self, name, dtype="float64"):
        """Return a tensor; raise if it is missing, is not finite or has another dtype."""
        if name not in self._arrays:
            raise ValueError(f"the tensor {name!r} is missing")
        array = self._arrays.pop(name)
        if array.dtype != dtype or array.size == 0:
            found = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"the tensor {name!r} must be {dtype} and not empty, got {found}")
        if not np.isfinite(array).all():
            raise ValueError(f"the tensor {name!r} is not finite")
        # a copy is aligned and writeable
        return np.array(array)

    def take_all(self, prefix, dtype):
        """Return all tensors whose name starts with a prefix, by the rest of their name."""
        names = [name for name in self._arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.take(name, dtype) for name in names}

    def check_empty(self):
        """Raise if a tensor was not taken."""
        if self._arrays:
            raise ValueError(f"the tensors {sorted(self._arrays)[:5]} are not part of the model")


def dump_step(step, tensors, prefix):
    """Return a fitted step as JSON values; its arrays are added to ``tensors``, by name."""
    check_is_fitted(step)
    state = {"class": type(step).__name__, "parameters": dump_parameters(step)}
    if isinstance(step, TargetScaler):
        tensors |= {f"{prefix}scale.{name}": np.asarray(v) for name, v in step.scale_.items()}
        return {**state, "targets": list(step.scale_)}
    state["elements"] = step.elements_.tolist()
    if isinstance(step, CompositionBaseline):
        tensors |= {f"{prefix}coef.{name}": coef for name, coef in step.coef_.items()}
        state["kinds"] = encode_kinds(step.kinds_)
    return state


def load_step(cls, state, tensors, prefix):
    """Undo :func:`dump_step`, for a step of class ``cls``."""
    types = {"class": str, "parameters": dict}
    types |= {"targets": list} if cls is TargetScaler else {"elements": list}
    types |= {"kinds": dict} if cls is CompositionBaseline else {}
    check_entries(state, types, cls.__name__)
    if state["class"] != cls.__name__:
        raise ValueError(f"a {cls.__name__} was expected, got a {state['class']!r}")
    step = load_parameters(cls, state["parameters"])
    if cls is TargetScaler:
        check_scales(step.fixed_weights)
        names = check_list(state["targets"], (str,), "the targets of TargetScaler")
        step.scale_ = {name: load_scale(tensors, f"{prefix}scale.{name}") for name in names}
        return step
    elements = load_elements(state["elements"])
    if cls is not CompositionBaseline:
        return step.fit([Atoms(elements)])  # only the elements are fitted
    check_fixed_weights(step.fixed_weights)
    step.elements_, step.kinds_ = elements, decode_kinds(state["kinds"])
    step.coef_ = {}
    for name, kind in step.kinds_.items():
        coef = tensors.take(f"{prefix}coef.{name}")
        if coef.shape != (len(elements), *kind.shape):
            raise ValueError(f"the baseline of {name!r} has the shape {coef.shape}")
        step.coef_[name] = coef
    return step


def dump_parameters(estimator):
    """Return the parameters as JSON values; raise if one cannot be represented."""
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        if name in NOT_STORED:
            continue
        try:
            value = str(value) if isinstance(value, torch.device) else value
            parameters[name] = encode(value)
        except (TypeError, ValueError) as err:
            raise TypeError(
                f"{name} cannot be saved: {err}. Save after set_params({name}=None), which does "
                "not change predictions, or use joblib."
            ) from err
    return parameters


def load_parameters(cls, state):
    """Build an unfitted estimator; raise if a parameter is unknown or invalid."""
    known = set(cls().get_params(deep=False)) - set(NOT_STORED)
    unknown = sorted(set(state) - known)
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no parameters {unknown[:5]}; if a newer version has them, update "
            "sklearn_soapbpnn"
        )
    parameters = {name: decode(value) for name, value in state.items()}
    check_arguments(cls, parameters)
    for name in parameters.get("net_params") or ():
        if not name.startswith("optimizer__"):
            raise ValueError(f"net_params in a file may set the optimizer only, not {name!r}")
    return cls(**parameters)


def check_arguments(cls, arguments):
    """Raise if these values are not valid arguments of an estimator."""
    constraints = getattr(cls, "_parameter_constraints", {})
    for name, value in arguments.items():
        # scikit-learn accepts a bool as an integer
        takes_bool = any(rule in ("boolean", "verbose") for rule in constraints[name])
        if isinstance(value, bool) and not takes_bool:
            raise ValueError(f"{name} of {cls.__name__} must not be a bool, got {value}")
    validate_parameter_constraints(constraints, arguments, cls.__name__)


def load_elements(state):
    """Return atomic numbers; raise unless they are valid and in ascending order."""
    numbers = check_list(state, (int,), "elements")
    if not numbers or numbers != sorted(numbers) or not 0 <= numbers[0] <= numbers[-1] < N_NUMBERS:
        raise ValueError(f"elements must be atomic numbers in ascending order, got {numbers[:200]}")
    return np.array(numbers, dtype=np.int64)


def load_scale(tensors, name):
    """Return the scale of a target: a number, a row or a table; raise if it is not positive."""
    scale = tensors.take(name)
    if scale.ndim > 2 or (scale.ndim == 2 and len(scale) != N_NUMBERS) or not (scale > 0).all():
        raise ValueError(f"{name!r} is not a valid scale: a positive number, row or table")
    return scale if scale.ndim else float(scale)
