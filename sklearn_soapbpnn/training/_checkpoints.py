"""Checkpoints: the complete state of a fit, written atomically."""

from __future__ import annotations

import zipfile

import torch
from skorch.callbacks import Callback
from skorch.history import History

from ..data import remove_parts, replace_file

FORMAT = 1
PARTS = {"seeds", "module", "optimizer", "schedule", "order", "best", "history"}


class Checkpoints(Callback):
    """Write the state of the fit every few epochs, and resume from such a state.

    A checkpoint contains everything on which later epochs depend: weights, optimizer, schedule,
    order of the batches, best epoch, history. A resumed fit therefore ends with bitwise the same
    result as an uninterrupted one. In a distributed fit only the first process writes.

    Parameters
    ----------
    path : Path
        The file; each checkpoint replaces the previous one.
    interval : int
        Number of epochs between two checkpoints; the last epoch always gets one.
    seeds : list of int
        Seeds of the fit, which are stored in the checkpoint.
    state : dict, default=None
        State to resume from, as returned by :func:`load_checkpoint`.
    """

    def __init__(self, path, interval, seeds, state=None):
        self.path = path
        self.interval = interval
        self.seeds = seeds
        self.state = state

    def on_train_begin(self, net, **kwargs):
        if net.processes.rank == 0:
            remove_parts(self.path)
        if self.state is not None:
            self._restore(net)
            self.state = None

    def on_epoch_end(self, net, **kwargs):
        epoch = net.history[-1]["epoch"]
        if net.processes.rank:
            return
        if epoch % self.interval == 0 or net.ends_after(epoch):
            state = self._collect(net)
            replace_file(self.path, lambda file: torch.save(state, file))

    def _collect(self, net):
        best = net.best_epoch_
        return {
            "format": FORMAT,
            "seeds": self.seeds,
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "schedule": net.schedule_.state_dict(),
            "order": net.order_.get_state(),
            "best": dict(vars(best)),
            "history": [
                {key: _as_plain(value) for key, value in epoch.items()} for epoch in net.history
            ],
        }

    def _restore(self, net):
        state = self.state
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        net.schedule_.load_state_dict(state["schedule"])
        net.order_.set_state(state["order"])
        vars(net.best_epoch_).update(state["best"])
        net.history_ = History(state["history"])


def load_checkpoint(path, device):
    """Return the state stored in a checkpoint, or None if there is no such file.

    Parameters
    ----------
    path : Path
        The file.
    device : str or torch.device
        Device for the tensors.

    Returns
    -------
    dict or None

    Raises
    ------
    ValueError
        If the file is damaged or was written by another version of this library.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged!r} is wrong")
        # loads only tensors and plain values, and runs no code
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise ValueError(
            f"The checkpoint {str(path)!r} cannot be read: {reason}. Remove it to start "
            "from scratch."
        ) from err
    if not isinstance(state, dict) or state.get("format") != FORMAT or not set(state) >= PARTS:
        raise ValueError(
            f"The checkpoint {str(path)!r} was written by another version of this library. Remove "
            "it to start from scratch."
        )
    # the generator of the batch order is always on the CPU
    state["order"] = state["order"].cpu()
    return state


def _as_plain(value):
    """Turn NumPy scalars into Python numbers, since load_checkpoint accepts only these."""
    return value.item() if hasattr(value, "item") else value
