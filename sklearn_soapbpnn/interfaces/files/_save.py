"""Files of fitted models: safetensors with a JSON header, which run no code when they are read."""

import os
from pathlib import Path

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..._version import __version__
from ...data import replace_file
from ...training import FittedRegressor
from ._bytes import FORMAT, LARGEST_HEADER, header_size, pack, unpack
from ._stored_regressor import dump_regressor, load_regressor
from ._stored_steps import STEPS, StoredTensors, dump_step, load_step
from ._values import check_entries, check_list, encode

REGRESSOR = "SoapBPNNRegressor"
# classes of regressors that load_model makes, by the name in the file
_REGRESSORS = {}


def storable(cls):
    """Class decorator: what load_model makes of a stored regressor is of this class."""
    _REGRESSORS[REGRESSOR] = cls
    return cls


def save_model(model, path):
    """Write a fitted model to a file that needs no trust to be read.

    The file holds all that is needed to predict and to go on learning. It appears at once and
    complete, or not at all; what cannot be read back is not written.

    Parameters
    ----------
    model : SoapBPNNRegressor, or Pipeline
        Fitted; the steps of a Pipeline must be of this library. ``memory`` and ``checkpoint_dir``
        are places on this machine, and are not written.
    path : str or path
        Where to write; a file that is there is replaced.

    Raises
    ------
    TypeError
        If a step is of another class, or a parameter holds an object: ``callbacks``, classes in
        ``net_params``, a RandomState.
    ValueError
        If parameters that say what was learnt were changed after fit, or if weights are not
        finite.
    OSError
        If the file cannot be written.

    See Also
    --------
    load_model : Read the file.

    Notes
    -----
    The format is described in ``docs/files.md``.
    """
    if not isinstance(model, (FittedRegressor, Pipeline)):
        raise TypeError(
            f"model must be a fitted SoapBPNNRegressor or Pipeline, got {type(model).__name__}. "
            "Save the best_estimator_ of a search."
        )
    # a link stays one, and what it points to is replaced
    path = Path(os.path.realpath(Path(path)))
    if path.exists() and not path.is_file():
        raise OSError(f"path={str(path)!r} is there already, and is not a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no folder {str(path.parent)!r}.")
    tensors = {}
    state = _dump(model, tensors)
    content = pack({"version": __version__, "model": state}, tensors)
    last = model
    while isinstance(last, Pipeline):
        last = last.steps[-1][1]
    try:
        _rebuild(type(last), content)
    except ValueError as err:
        raise ValueError(f"The model cannot be saved: {str(err).rstrip('.')}.") from err
    replace_file(path, lambda file: file.write(content))


def load_model(path):
    """Read a model that :func:`save_model` wrote.

    Parameters
    ----------
    path : str or path
        The file. It may come from anywhere: nothing in it is run, and all of it is checked.

    Returns
    -------
    SoapBPNNRegressor or Pipeline
        Fitted, as it was saved. It is on its ``device`` where there is one, else on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the model needs torch-pme, which is not installed.
    ValueError
        If the file does not hold a model, is damaged, or was written by a newer version.
    """
    return read_model(path, _REGRESSORS[REGRESSOR])


def read_model(path, cls):
    """Read a model as :func:`load_model` does, with a regressor of class ``cls``."""
    path = Path(path)
    with path.open("rb") as file:
        content = file.read(8)
        content += file.read(min(header_size(content), LARGEST_HEADER))
        # any other file may be huge
        if FORMAT.encode() in content:
            content += file.read()
    try:
        return _rebuild(cls, content)
    except ValueError as err:
        message = str(err).rstrip(".")
        raise ValueError(f"path={str(path)!r} cannot be loaded: {message}.") from err


def _rebuild(cls, content):
    """Return the model that the bytes of a file stand for."""
    header, arrays = unpack(content)
    check_entries(header, {"version": str, "model": dict}, "the header")
    if header["model"].get("class") not in ("Pipeline", REGRESSOR):
        raise ValueError("it holds neither a SoapBPNNRegressor nor a Pipeline")
    tensors = StoredTensors(arrays)
    try:
        model = _load(cls, header["model"], tensors)
        tensors.check_empty()
    except ValueError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as err:
        # of values that only a forged file can hold
        raise ValueError(f"{type(err).__name__}: {err}") from err
    return model


def _dump(model, tensors, prefix=""):
    """Return a fitted estimator as JSON can hold it; its arrays go to ``tensors``, by name."""
    if type(model) is Pipeline:
        return _dump_pipeline(model, tensors, prefix)
    if isinstance(model, FittedRegressor):
        check_is_fitted(model)
        return dump_regressor(model, tensors, prefix)
    if type(model) not in STEPS.values():
        raise TypeError(
            f"{model!r} cannot be saved: a model file holds a SoapBPNNRegressor, or a Pipeline of "
            f"{[*STEPS, REGRESSOR]}. Save the best_estimator_ of a search."
        )
    return dump_step(model, tensors, prefix)


def _load(cls, state, tensors, prefix=""):
    """Undo :func:`_dump`; the regressor is of class ``cls``."""
    name = state.get("class") if isinstance(state, dict) else None
    if name == "Pipeline":
        return _load_pipeline(cls, state, tensors, prefix)
    if name == REGRESSOR:
        return load_regressor(cls, state, tensors, prefix)
    if name not in list(STEPS):
        raise ValueError(f"the class {name!r} is none of {[*STEPS, REGRESSOR]}")
    return load_step(STEPS[name], state, tensors, prefix)


def _dump_pipeline(model, tensors, prefix):
    steps = []
    for name, step in model.steps:
        if step not in (None, "passthrough"):
            step = _dump(step, tensors, f"{prefix}{name}.")
        steps.append([name, step])
    return {
        "class": "Pipeline",
        "steps": steps,
        "transform_input": encode(model.transform_input),
        "verbose": bool(model.verbose),
    }


def _load_pipeline(cls, state, tensors, prefix):
    types = {"class": str, "steps": list, "transform_input": (list, type(None)), "verbose": bool}
    check_entries(state, types, "a Pipeline")
    if any(not isinstance(step, list) or len(step) != 2 for step in state["steps"]):
        raise ValueError("the steps of a Pipeline must be names with a step each")
    names = check_list([name for name, _ in state["steps"]], (str,), "the names of steps")
    if not names or any("__" in name for name in names):
        raise ValueError(f"the steps of a Pipeline cannot be called {names}")
    steps = []
    for name, step in state["steps"]:
        if step not in (None, "passthrough"):
            step = _load(cls, step, tensors, f"{prefix}{name}.")
        steps.append((name, step))
    inputs = state["transform_input"]
    if inputs is not None:
        check_list(inputs, (str,), "transform_input")
    return Pipeline(steps, transform_input=inputs, verbose=state["verbose"])
