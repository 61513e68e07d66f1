"""Identification of a fit by its data and parameters, and of the checkpoint that belongs to it."""

import os
import reprlib
import textwrap
from numbers import Integral

import joblib

from ..descriptors import SOAP_PARAMETERS
from ._checkpoints import load_checkpoint

# arguments that do not affect the result, only output, storage and where the fit runs
IRRELEVANT = {
    *("verbose", "log_interval", "log_mae", "log_separate_blocks", "callbacks", "warm_start"),
    *("checkpoint_dir", "checkpoint_interval", "device", "num_workers", "memory_limit"),
    *("distributed", "distributed_port"),
}


def describe_fit(parameters, data):
    """Return everything on which the result of a fit depends, by the names of the arguments."""
    inputs = {k: v for k, v in parameters.arguments.items() if k not in IRRELEVANT}
    if not isinstance(parameters.random_state, Integral):
        # the seeds that it gives are in the checkpoint
        inputs["random_state"] = None
    X_val, y_val = data.validation or (None, None)
    weights = data.weights
    weights = weights and [w.cpu().numpy() for w in weights.values()]
    return {
        **inputs,
        "X": _describe_structures(data.X),
        "y": _describe_labels(data.y),
        "X_val": X_val and _describe_structures(X_val),
        "y_val": y_val and _describe_labels(y_val),
        "sample_weight": data.sample_weight,
        "groups": data.groups,
        "fit to go on from": weights,
    }


def title_fit(parameters, data):
    """Return the title of a fit for printing: number of structures and parameters.

    Only parameters that differ from their defaults are listed. The parameters of the descriptor are
    those of the features of X, if it has features attached.
    """
    soap = parameters.find_soap(data.X)
    values = {**parameters.arguments, **{name: getattr(soap, name) for name in SOAP_PARAMETERS}}
    named = [
        f"{name}={reprlib.repr(values[name])}"
        for name, default in parameters.defaults.items()
        if name not in IRRELEVANT and repr(values[name]) != repr(default)
    ]
    title = f"Fit of {len(data.X)} structures"
    if data.validation is not None:
        title += f", {len(data.validation[0])} more for validation"
    if named:
        title += f": {', '.join(named)}"
    return textwrap.fill(title, 80, subsequent_indent="    ", break_on_hyphens=False)


def name_checkpoint(folder, inputs):
    """Return the path of the checkpoint of a fit, with a name derived from data and parameters.

    The candidates and folds of a search can therefore share a folder, and a fit never resumes from
    the checkpoint of another fit.

    Raises
    ------
    ValueError
        If a value cannot be hashed, so that another process could not recognise it.
    """
    hashes = {}
    for name, value in inputs.items():
        try:
            hashes[name] = joblib.hash(value)
        except Exception as err:  # pickling may raise any exception
            raise ValueError(
                f"{name}={value!r} cannot be recognised by a fit that resumes from a checkpoint: "
                f"{err}. Use classes and functions that can be imported, or checkpoint_dir=None."
            ) from err
    return folder / f"{joblib.hash(hashes)}.checkpoint"


def check_folder(folder):
    """Create the folder of the checkpoints; raise if it is not writable."""
    probe = folder / f"{os.getpid()}.part"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise ValueError(
            f"checkpoint_dir={str(folder)!r} cannot be written to: {err}. Choose another folder."
        ) from err


def find_state(path, device, verbose):
    """Return the state to resume from, or None to start from scratch."""
    state = load_checkpoint(path, device)
    if verbose and state is None:
        message = f"There is no checkpoint of this fit in {path.parent}; starting from scratch."
        print(message, flush=True)
    elif verbose:
        print(f"Resuming after epoch {len(state['history'])} from {path}.", flush=True)
    return state


def _describe_structures(X):
    """Return everything in structures that affects a fit, for hashing."""
    geometry = [X.numbers, X.positions, X.cells, X.pbc]
    attached = [dict(X.offset), dict(X.scale)]
    features = X.features
    described = features and [repr(features.parameters), features.elements, str(features.dtype)]
    return [geometry, attached, described]


def _describe_labels(y):
    """Return everything in labels that affects a fit, for hashing."""
    return [(name, repr(y.kinds[name]), y[name]) for name in y.names]
