"""The progress bar of a terminal; the table is tested with the errors that it shows."""

import io
import re
import sys
import threading

import numpy as np
import pytest
from ase.build import molecule
from skorch.callbacks import Callback

from sklearn_soapbpnn import SoapBPNNRegressor

MODEL = {"max_radial": 1, "max_angular": 1, "num_neurons_per_layer": 4, "random_state": 0}


class Terminal(io.StringIO):
    """Takes the place of stderr; not in a fixture, after which pytest sets its own again."""

    def __init__(self, monkeypatch):
        super().__init__()
        monkeypatch.setattr(sys, "stderr", self)

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def data():
    frames = [molecule(name) for name in ("H2O", "CH4", "NH3", "CO2", "C2H6", "HF")] * 3
    return frames, np.linspace(-1.0, 1.0, len(frames))


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends a fit as an error does, after its third epoch."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) > 3:
            raise Killed


def read_counts(terminal):
    """Every state of the bar that was shown: batches done and in all."""
    found = re.findall(r"(\d+)/(\d+) \[", terminal.getvalue())
    return [(int(done), int(total)) for done, total in found]


def mask_seconds(table):
    return [line.split()[:-2] for line in table.splitlines()]


def test_bar_of_a_terminal(data, monkeypatch, capsys):
    terminal = Terminal(monkeypatch)
    before = threading.active_count()
    model = SoapBPNNRegressor(**MODEL, num_epochs=6, batch_size=5, verbose=1).fit(*data)
    assert threading.active_count() == before
    # 16 structures are trained on: four batches in each of six epochs
    counts = read_counts(terminal)
    assert counts[0] == (0, 24)
    assert all(done <= 24 and total == 24 for done, total in counts)
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    # it is gone at the end, and the table is what it is elsewhere
    assert terminal.getvalue().endswith("\r")
    shown = capsys.readouterr().out
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    other = SoapBPNNRegressor(**MODEL, num_epochs=6, batch_size=5, verbose=1).fit(*data)
    assert mask_seconds(shown) == mask_seconds(capsys.readouterr().out)
    assert sys.stderr.getvalue() == ""
    assert np.array_equal(model.predict(data[0]), other.predict(data[0]))


def test_no_bar_unless_verbose(data, monkeypatch):
    terminal = Terminal(monkeypatch)
    SoapBPNNRegressor(**MODEL, num_epochs=2).fit(*data)
    assert terminal.getvalue() == ""


def test_bar_of_a_fit_that_goes_on(data, monkeypatch, tmp_path):
    terminal = Terminal(monkeypatch)
    model = SoapBPNNRegressor(
        **MODEL, num_epochs=4, batch_size=16, checkpoint_dir=tmp_path, checkpoint_interval=3
    )

    with pytest.raises(Killed):
        model.set_params(callbacks=[Kill()]).fit(*data)
    model.set_params(callbacks=None, verbose=1).fit(*data, resume=True)
    assert read_counts(terminal)[0] == (3, 4)


def test_bar_of_a_fit_that_failed(data, monkeypatch):
    """It is gone although the traceback, and all that it leads to, is still there."""
    terminal = Terminal(monkeypatch)
    with pytest.raises(Killed) as info:
        SoapBPNNRegressor(**MODEL, num_epochs=6, verbose=1, callbacks=[Kill()]).fit(*data)
    assert info.tb is not None
    first = terminal.getvalue()
    SoapBPNNRegressor(**MODEL, num_epochs=1, verbose=1).fit(*data)
    # not one line below another
    assert "\n" not in terminal.getvalue().removeprefix(first)


def test_without_standard_streams(data, monkeypatch):
    """As under pythonw."""
    monkeypatch.setattr(sys, "stderr", None)
    SoapBPNNRegressor(**MODEL, num_epochs=1, verbose=1).fit(*data)
