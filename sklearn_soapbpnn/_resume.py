"""Which checkpoint belongs to which fit."""

from pathlib import Path

import joblib

from ._checks import resolve_device
from .training import load_checkpoint

# they change what is shown and stored, or where it runs, but not what is learnt
IRRELEVANT = {
    *("verbose", "log_interval", "log_mae", "log_separate_blocks", "callbacks", "warm_start"),
    *("checkpoint_dir", "checkpoint_interval", "device", "num_workers"),
    *("distributed", "distributed_port"),
}


def name_checkpoint(model, X, y, sample_weight, validation, groups, weights):
    """Return the path of the checkpoint of a fit: named after its data and parameters.

    So the candidates and folds of a search do not meet in one folder, and a fit never goes on from
    that of other data.
    """
    parameters = {k: v for k, v in model.get_params(deep=False).items() if k not in IRRELEVANT}
    if not isinstance(model.random_state, int):
        # what it draws is in the checkpoint
        parameters["random_state"] = None
    data = [_describe(X, y), None if validation is None else _describe(*validation)]
    weights = None if weights is None else [tensor.cpu().numpy() for tensor in weights.values()]
    key = joblib.hash([sorted(parameters.items()), data, sample_weight, groups, weights])
    return Path(model.checkpoint_dir) / f"{key}.checkpoint"


def find_state(model, path):
    """Return the state to go on from, or None to start afresh."""
    state = load_checkpoint(path, resolve_device(model.device))
    if model.verbose and state is None:
        print(f"There is no checkpoint of this fit in {path.parent}; starting afresh.")
    elif model.verbose:
        print(f"Going on after epoch {len(state['history'])} of {path}.")
    return state


def _describe(X, y):
    """Arrays that tell structures and labels apart."""
    geometry = [X.numbers, X.positions, X.cells, X.pbc]
    attached = [dict(X.offset), dict(X.scale)]
    parameters = None if X.features is None else X.features.parameters
    return [geometry, attached, repr(parameters), [(name, y[name]) for name in y.names]]
