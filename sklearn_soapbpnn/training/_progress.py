"""What a fit shows while it runs: a table of errors, and on a terminal a bar."""

from __future__ import annotations

import re
import statistics
from itertools import zip_longest
from typing import NamedTuple

from skorch.callbacks import Callback
from tqdm import tqdm

# columns of a terminal
WIDTH = 80
# characters after which the title of a column goes on in its next line
TITLE_WIDTH = 10


def write(text):
    """Print text at once, also into a pipe or a file."""
    print(text, flush=True)


class Progress(Callback):
    """Print a line of errors every few epochs, with the time that is left.

    Each column is titled by the target, the kind of error and its unit. Columns that do not fit
    into the width of a terminal go on in a second line, indented, as their titles do.

    Parameters
    ----------
    interval : int
        Epochs between two lines; the first and the last are always printed.
    mae : bool
        Whether to show mean absolute errors beside the root mean square ones.
    sink : callable, default=write
        What lines are given to.
    """

    def __init__(self, interval=5, mae=False, sink=write):
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
        groups = _fit_into_lines(self._columns(epoch, dataset_valid, seconds_left))
        lines = []
        if not self.started_:
            for group in groups:
                titles = zip_longest(*(column.title for column in group), fillvalue="")
                lines += [_align(group, row) for row in titles]
        lines += [_align(group, [column.value for column in group]) for group in groups]
        self.sink("\n".join(lines))
        self.started_ = True

    def _columns(self, epoch, dataset_valid, seconds_left):
        columns = [
            _Column(["epoch"], f"{epoch['epoch']:6}"),
            _Column(["train", "loss"], f"{epoch['train_loss']:9.3e}"),
        ]
        if dataset_valid is not None:
            star = "*" if epoch["valid_metric_best"] else " "
            columns[0] = _Column(["epoch", "*best"], f"{epoch['epoch']:5}{star}")
            columns.append(_Column(["valid", "loss"], f"{epoch['valid_loss']:9.3e}"))
            for name in dataset_valid.labelled:
                unit = dataset_valid.units[name]
                for kind in ("rmse", "mae")[: 1 + self.mae]:
                    for key in _find_errors(epoch, name, kind):
                        block = key.removeprefix("valid_").removesuffix(f"_{kind}")
                        title = [*_wrap(block), kind, *_wrap(unit)]
                        columns.append(_Column(title, f"{epoch[key]:9.3e}"))
        return [*columns, _Column(["seconds", "left"], f"{seconds_left:7.0f}")]


class _Column(NamedTuple):
    """Lines of the title of a column, and its value."""

    title: list[str]
    value: str

    @property
    def width(self):
        return max(len(text) for text in (*self.title, self.value))


def _find_errors(epoch, name, kind):
    """Names in the history of the error of a target, and of those of its blocks."""
    blocks = [key for key in epoch if key.startswith(f"valid_{name}[") and key.endswith(kind)]
    return [f"valid_{name}_{kind}", *blocks]


def _wrap(text):
    """Break text after spaces, slashes and underscores, where it gets long."""
    lines = [""]
    for part in re.split(r"(?<=[ /_])", text):
        if lines[-1] and len(f"{lines[-1]}{part}".rstrip()) > TITLE_WIDTH:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines if line]


def _fit_into_lines(columns):
    """Return groups of columns, one for each line; all but the first are indented."""
    indent = _Column([], " " * columns[0].width)
    groups, free = [[]], WIDTH
    for column in columns:
        if column.width > free:
            groups.append([indent])
            free = WIDTH - indent.width - 1
        groups[-1].append(column)
        free -= column.width + 1
    return groups


def _align(group, texts):
    cells = (f"{text:>{column.width}}" for column, text in zip(group, texts))
    return " ".join(cells).rstrip()


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
        with _Tqdm.external_write_mode():
            write(line)


class _Tqdm(tqdm):
    # no thread that outlives the fit
    monitor_interval = 0
