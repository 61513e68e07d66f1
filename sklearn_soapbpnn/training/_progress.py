"""Output of fits while they run: a table of errors; on a terminal, and of predictions, a bar."""

from __future__ import annotations

import re
import statistics
import sys
from contextlib import contextmanager
from itertools import zip_longest
from typing import NamedTuple

from skorch.callbacks import Callback
from tqdm import tqdm

# seconds after which a prediction shows a progress bar
PATIENCE = 1.0
# width of a terminal in characters
WIDTH = 80
# width in characters beyond which a column title is wrapped
TITLE_WIDTH = 10


def write(text):
    """Print text and flush it, so that it appears at once in a pipe or a file, too."""
    print(text, flush=True)


class Progress(Callback):
    """Print a line of losses and errors every few epochs, with the remaining time.

    The title of each column gives the target, the metric and the unit. Columns that do not fit into
    the width of a terminal are printed in a second, indented line, and so are their titles.

    Parameters
    ----------
    interval : int, default=5
        Number of epochs between two lines; the first and the last epoch are always printed.
    mae : bool, default=False
        Whether to print mean absolute errors as well as root mean square errors.
    sink : callable, default=write
        Function that is called with each line.
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
        # if the fit ended early, its last epoch may not have been printed
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
    """A column: the lines of its title, and its value."""

    title: list[str]
    value: str

    @property
    def width(self):
        return max(len(text) for text in (*self.title, self.value))


def _find_errors(epoch, name, kind):
    """Return the history keys of the error of a target and of its blocks."""
    blocks = [key for key in epoch if key.startswith(f"valid_{name}[") and key.endswith(kind)]
    return [f"valid_{name}_{kind}", *blocks]


def _wrap(text):
    """Wrap long text after spaces, slashes and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[ /_])", text):
        if lines[-1] and len(f"{lines[-1]}{part}".rstrip()) > TITLE_WIDTH:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines if line]


def _fit_into_lines(columns):
    """Group the columns into lines; all lines but the first are indented."""
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
    """Show the number of completed batches and the remaining time."""

    def on_train_begin(self, net, **kwargs):
        self.bar_ = None

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        if self.bar_ is not None:
            return
        # not in on_train_begin: only now is it known whether the fit resumes from a checkpoint
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
        """Print a line above the progress bar."""
        with _Tqdm.external_write_mode():
            write(line)


@contextmanager
def show_atoms(n_atoms, verbose):
    """Yield a function that counts evaluated atoms for a progress bar; None if nobody sees one."""
    if not (verbose and is_terminal()):
        yield None
        return
    with _Tqdm(total=int(n_atoms), unit="atom", leave=False, delay=PATIENCE) as bar:
        yield bar.update


def is_terminal():
    """Return whether somebody sees a progress bar."""
    return sys.stderr is not None and sys.stderr.isatty()


class _Tqdm(tqdm):
    # no monitoring thread, which would outlive the fit
    monitor_interval = 0
