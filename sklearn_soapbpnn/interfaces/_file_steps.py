"""Pipeline steps as what a model file holds, JSON and tensors, and back."""

import numpy as np
import torch
from ase import Atoms
from sklearn.utils.validation import check_is_fitted

from .._featurizer import SoapFeaturizer
from ..data import N_NUMBERS
from ..preprocessing import (
    CompositionBaseline,
    TargetScaler,
    ZBLBaseline,
    check_fixed_weights,
    check_scales,
)
from ._file_values import check_entries, check_list, decode, decode_kinds, encode, encode_kinds

STEPS = {
    cls.__name__: cls for cls in (ZBLBaseline, CompositionBaseline, TargetScaler, SoapFeaturizer)
}
# places on the machine of the fit: a file must not say where to write on another one
NOT_STORED = ("checkpoint_dir", "memory")


class StoredTensors:
    """Tensors of a file, each to be taken once.

    Parameters
    ----------
    arrays : dict of str to array
        The tensors.
    """

    def __init__(self, arrays):
        self._arrays = dict(arrays)

    def take(self, name, dtype="float64"):
        """Return one that must be there, of this dtype and finite."""
        if name not in self._arrays:
            raise ValueError(f"the tensor {name!r} is missing")
        array = self._arrays.pop(name)
        if array.dtype != dtype or array.size == 0:
            found = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"the tensor {name!r} must hold {dtype}, got {found}")
        if not np.isfinite(array).all():
            raise ValueError(f"the tensor {name!r} is not finite")
        # a copy that is aligned, and can be written to
        return np.array(array)

    def take_all(self, prefix, dtype):
        """Return all whose name starts with a prefix, by the rest of their name."""
        names = [name for name in self._arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.take(name, dtype) for name in names}

    def check_empty(self):
        """Raise if something is left."""
        if self._arrays:
            raise ValueError(f"the tensors {sorted(self._arrays)[:5]} belong to nothing")


def dump_step(step, tensors, prefix):
    """Return a fitted step as JSON can hold it; its arrays go to ``tensors``, by name."""
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
        raise ValueError(f"there is a {state['class']!r} in the place of a {cls.__name__}")
    step = load_parameters(cls, state["parameters"])
    if cls is TargetScaler:
        check_scales(step.fixed_weights)
        names = check_list(state["targets"], (str,), "the targets of TargetScaler")
        step.scale_ = {name: load_scale(tensors, f"{prefix}scale.{name}") for name in names}
        return step
    elements = load_elements(state["elements"])
    if cls is not CompositionBaseline:
        return step.fit([Atoms(elements)])  # elements are all that it learns
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
    """Return the parameters as JSON can hold them; raise if it cannot."""
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
    """Build an unfitted estimator, with valid parameters."""
    known = set(cls().get_params(deep=False)) - set(NOT_STORED)
    unknown = sorted(set(state) - known)
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no parameters {unknown[:5]}; if they are new, update "
            "sklearn_soapbpnn"
        )
    parameters = {name: decode(value) for name, value in state.items()}
    if "optimizer" in known:
        # files of versions that had no other
        parameters.setdefault("optimizer", "adam")
    constraints = getattr(cls, "_parameter_constraints", {})
    for name, value in parameters.items():
        # a bool is an integer to scikit-learn
        takes_bool = any(rule in ("boolean", "verbose") for rule in constraints[name])
        if isinstance(value, bool) and not takes_bool:
            raise ValueError(f"{name} of {cls.__name__} must be no bool, got {value}")
    estimator = cls(**parameters)
    if constraints:
        estimator._validate_params()
    for name in parameters.get("net_params") or ():
        if not name.startswith("optimizer__"):
            raise ValueError(f"net_params in a file may set the optimizer only, not {name!r}")
    return estimator


def load_elements(state):
    """Return atomic numbers that can be those of a fit."""
    numbers = check_list(state, (int,), "elements")
    if not numbers or numbers != sorted(numbers) or not 0 <= numbers[0] <= numbers[-1] < N_NUMBERS:
        raise ValueError(f"elements must be atomic numbers, ascending, got {numbers[:200]}")
    return np.array(numbers, dtype=np.int64)


def load_scale(tensors, name):
    """Return one scale: positive, a number, a row, or a table."""
    scale = tensors.take(name)
    if scale.ndim > 2 or (scale.ndim == 2 and len(scale) != N_NUMBERS) or not (scale > 0).all():
        raise ValueError(f"{name!r} is no scale: positive, a number, a row, or a table")
    return scale if scale.ndim else float(scale)
