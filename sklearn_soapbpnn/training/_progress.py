"""What a fit shows while it runs: a table of errors, and on a terminal a bar."""

from __future__ import annotations

import statistics

from skorch.callbacks import Callback
from tqdm import tqdm


class Progress(Callback):
    """Print a line of errors every few epochs, with the time that is left.

    Parameters
    ----------
    interval : int
        Epochs between two lines; the first and the last are always printed.
    mae : bool
        Whether to show mean absolute errors beside the root mean square ones.
    sink : callable, default=print
        What a line is given to.
    """

    def __init__(self, interval=5, mae=False, sink=print):
        self.interval = interval
        self.mae = mae
        self.sink = sink

    def on_train_begin(self, net, **kwargs):
        self.started_, self.printed_ = False, None

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        epoch = net.history[-1]
        number, total = epoch["epoch"], net.max_epochs
        if number % self.interval and number not in (1, total):
            return
        seconds_left = (total - number) * statistics.mean(net.history[:, "dur"])
        self._print(epoch, dataset_valid, seconds_left)

    def on_train_end(self, net, y=None, **kwargs):
        # a fit that ended early ended with an epoch that may not have been printed
        last = net.history[-1] if net.history else {}
        if self.started_ and "dur" in last and last is not self.printed_:
            self._print(last, y, 0.0)

    def _print(self, epoch, dataset_valid, seconds_left):
        self.printed_ = epoch
        columns = self._columns(epoch, dataset_valid, seconds_left)
        if not self.started_:
            self.sink("".join(f"{name:>{_width(name)}}" for name in columns))
            self.started_ = True
        self.sink("".join(f"{value:>{_width(name)}}" for name, value in columns.items()))

    def _columns(self, epoch, dataset_valid, seconds_left):
        columns = {"epoch": epoch["epoch"], "train loss": f"{epoch['train_loss']:.4e}"}
        if dataset_valid is not None:
            columns["valid loss"] = f"{epoch['valid_loss']:.4e}"
            for name in dataset_valid.labelled:
                for kind in ("rmse", "mae")[: 1 + self.mae]:
                    columns[f"{name} {kind}"] = f"{epoch[f'valid_{name}_{kind}']:.4e}"
                    for key in epoch:
                        if key.startswith(f"valid_{name}[") and key.endswith(kind):
                            block = key.removeprefix("valid_").removesuffix(f"_{kind}")
                            columns[f"{block} {kind}"] = f"{epoch[key]:.4e}"
            columns["best"] = "*" if epoch["valid_metric_best"] else ""
        columns["seconds"] = f"{epoch['dur']:.2f}"
        columns["seconds left"] = f"{seconds_left:.0f}"
        return columns


def _width(name):
    return max(17, len(name) + 2)


class Bar(Callback):
    """Show how many batches are done, and the time that is left."""

    def on_train_begin(self, net, **kwargs):
        self.bar_ = None

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        if self.bar_ is not None:
            return
        # only now is it known whether the fit goes on from a checkpoint
        n_batches = -(-len(dataset_train) // net.batch_size)
        done, total = (n * n_batches for n in (len(net.history) - 1, net.max_epochs))
        self.bar_ = _Tqdm(total=total, initial=done, unit="batch", leave=False)

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            self.bar_.update()

    def on_train_end(self, net, **kwargs):
        if self.bar_ is not None:
            self.bar_.close()
        self.bar_ = None

    @staticmethod
    def write(line):
        """Print a line above the bar."""
        _Tqdm.write(line)


class _Tqdm(tqdm):
    # no thread that outlives the fit
    monitor_interval = 0
