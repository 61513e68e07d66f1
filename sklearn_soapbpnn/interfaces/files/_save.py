"""Writing and reading files of fitted models: safetensors with a JSON header."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..._version import __version__
from ...data import FilePath, replace_file
from ...training import FittedRegressor
from ._bytes import FORMAT, LARGEST_HEADER, header_size, pack, unpack
from ._stored_regressor import dump_regressor, load_regressor
from ._stored_steps import STEPS, StoredTensors, dump_step, load_step
from ._values import check_entries, check_list, encode

REGRESSOR = "SoapBPNNRegressor"
# class of the regressors that load_model builds, by its name in the file
_REGRESSORS: dict[str, type] = {}


def storable(cls):
    """Class decorator: load_model builds stored regressors as instances of this class."""
    _REGRESSORS[REGRESSOR] = cls
    return cls


def save_model(model: Any, path: FilePath) -> None:
    """Write a fitted model to a file; reading such a file runs no code.

    The file contains everything that is needed to predict and to continue training. It is written
    atomically, and only after a test that it can be read back.

    Parameters
    ----------
    model : SoapBPNNRegressor or Pipeline
        Fitted model. All steps of a Pipeline must be estimators of this library. The parameters
        ``memory`` and ``checkpoint_dir`` are not stored, since they are paths on this machine.
    path : str or path
        The file; an existing one is replaced.

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    TypeError
        If a step is of another class, or a parameter contains an object that cannot be stored:
        ``callbacks``, classes in ``net_params``, a RandomState.
    ValueError
        If parameters that belong to the weights were changed after fit, or if weights are not
        finite.
    OSError
        If the file cannot be written.

    See Also
    --------
    load_model : Read the file.

    Notes
    -----
    The format is described in ``docs/files.md``.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.interfaces import load_model, save_model
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = make_pipeline(
    ...     CompositionBaseline(), SoapBPNNRegressor(max_angular=1, num_epochs=1)
    ... ).fit(X[:20], y[:20])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     save_model(model, path)
    ...     loaded = load_model(path)
    >>> bool((loaded.predict(X[20:22]) == model.predict(X[20:22])).all())
    True
    """
    if not isinstance(model, (FittedRegressor, Pipeline)):
        raise TypeError(
            f"model must be a fitted SoapBPNNRegressor or Pipeline, got {type(model).__name__}. "
            "Save the best_estimator_ of a search."
        )
    # if the path is a symbolic link, the file to which it points is replaced
    path = Path(os.path.realpath(Path(path)))
    if path.exists() and not path.is_file():
        raise OSError(f"path={str(path)!r} already exists, and is not a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no folder {str(path.parent)!r}.")
    tensors: dict[str, Any] = {}
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


def load_model(path: FilePath) -> Any:
    """Read a model that was written by :func:`save_model`.

    Parameters
    ----------
    path : str or path
        The file. It need not come from a trusted source: nothing in it is run, and everything is
        checked.

    Returns
    -------
    SoapBPNNRegressor or Pipeline
        The fitted model. It is on its ``device`` if this machine has it, otherwise on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the model needs torch-pme, which is not installed.
    ValueError
        If the file is damaged, is not a model file, or was written by a newer version.

    Examples
    --------
    See :func:`save_model`.
    """
    return read_model(path, _REGRESSORS[REGRESSOR])


def read_model(path, cls):
    """Read a model as :func:`load_model` does, with a regressor of class ``cls``."""
    path = Path(path)
    with path.open("rb") as file:
        content = file.read(8)
        content += file.read(min(header_size(content), LARGEST_HEADER))
        # other files are not read completely, since they may be huge
        if FORMAT.encode() in content:
            content += file.read()
    try:
        return _rebuild(cls, content)
    except ValueError as err:
        message = str(err).rstrip(".")
        raise ValueError(f"path={str(path)!r} cannot be loaded: {message}.") from err


def _rebuild(cls, content):
    """Return the model that the bytes of a file represent."""
    header, arrays = unpack(content)
    check_entries(header, {"version": str, "model": dict}, "the header")
    if header["model"].get("class") not in ("Pipeline", REGRESSOR):
        raise ValueError("it contains neither a SoapBPNNRegressor nor a Pipeline")
    tensors = StoredTensors(arrays)
    try:
        model = _load(cls, header["model"], tensors)
        tensors.check_empty()
    except ValueError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as err:
        # caused by values that occur only in a forged file
        raise ValueError(f"{type(err).__name__}: {err}") from err
    return model


def _dump(model, tensors, prefix=""):
    """Return a fitted estimator as JSON values; its arrays are added to ``tensors``, by name."""
    if type(model) is Pipeline:
        return _dump_pipeline(model, tensors, prefix)
    if isinstance(model, FittedRegressor):
        check_is_fitted(model)
        return dump_regressor(model, tensors, prefix)
    if type(model) not in STEPS.values():
        raise TypeError(
            f"{model!r} cannot be saved: a model file holds a SoapBPNNRegressor or a Pipeline of "
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
        raise ValueError(f"the class {name!r} is not one of {[*STEPS, REGRESSOR]}")
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
        raise ValueError("the steps of a Pipeline must be pairs of a name and a step")
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
