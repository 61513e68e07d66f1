"""Checkpoints: the whole state of a fit, written at once or not at all."""

from __future__ import annotations

import zipfile

import torch
from skorch.callbacks import Callback
from skorch.history import History

from ..data import remove_parts, replace_file

FORMAT = 1
PARTS = {"seeds", "module", "optimizer", "schedule", "order", "best", "history"}


class Checkpoints(Callback):
    """Write the state of the fit every few epochs, and go on from one.

    A checkpoint holds everything that the epochs to come depend on: weights, optimiser, schedule,
    order of the batches, best epoch, history. So a fit that goes on from it ends with the same
    bits as one that was never interrupted. Of several processes the first writes.

    Parameters
    ----------
    path : Path
        The file; each checkpoint replaces the one before.
    interval : int
        Epochs between two of them; the last epoch has one as well.
    seeds : list of int
        Seeds of the fit, which are kept.
    state : dict, default=None
        What :func:`load_checkpoint` read, to go on from.
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
    """Return the state in a file, or None if there is no such file.

    Raises
    ------
    ValueError
        If the file is damaged or of another format.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged!r} is wrong")
        # tensors and plain values only: no code runs
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise ValueError(
            f"The checkpoint {str(path)!r} cannot be read: {reason}. Remove it to start afresh."
        ) from err
    if not isinstance(state, dict) or state.get("format") != FORMAT or not set(state) >= PARTS:
        raise ValueError(
            f"The checkpoint {str(path)!r} was written by another version of this library. Remove "
            "it to start afresh."
        )
    # the order of the batches is drawn on the CPU, whatever the device
    state["order"] = state["order"].cpu()
    return state


def _as_plain(value):
    """Turn what callbacks record as numpy scalars into numbers, which alone are read back."""
    return value.item() if hasattr(value, "item") else value
