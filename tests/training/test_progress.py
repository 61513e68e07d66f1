"""What a fit shows while it runs; the numbers in its table are tested with the history."""

import io
import re
import sys
import threading

import numpy as np
import pytest
from ase.build import molecule
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, TargetKind, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.model import _evaluate
from sklearn_soapbpnn.training import _progress

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
    return [line.split()[:-1] for line in table.splitlines()]


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


# --- the table -----------------------------------------------------------------------------------


@pytest.fixture
def crystals(shipped_alloys):
    """Labels of the usual targets, and of one more."""
    X, y = shipped_alloys
    X, y = X[:10], y[:10]
    spread = [atoms.positions.T @ atoms.positions for atoms in X]
    columns = {name: y[name] for name in y.names}
    return X, Targets(**columns, polarizability=spread)


def test_the_usual_targets_fit_into_a_terminal(crystals, capsys):
    SoapBPNNRegressor(**{**MODEL, "max_angular": 2}, num_epochs=2, verbose=1).fit(*crystals)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == 80
    assert lines[-6:-2] == [
        " epoch     train     valid    energy    forces     stress polarizability seconds",
        " *best      loss      loss      rmse      rmse       rmse           rmse    left",
        "                             eV/atom       eV/        eV/",
        "                                      Angstrom Angstrom^3",
    ]
    assert re.fullmatch(r" {4}1\*( \d\.\d{3}e[+-]\d\d){4} {2}\S+ {6}\S+ {7}\d", lines[-2])


def test_many_columns_go_on_in_the_next_line(crystals, capsys, read_table, monkeypatch):
    X, y = crystals
    columns = {name: y[name] for name in y.names}
    kinds = {"gaps": TargetKind.scalar(2, unit="eV")}
    y = Targets(kinds=kinds, **columns, non_conservative_forces=y["forces"], gaps=np.eye(10)[:, :2])
    model = SoapBPNNRegressor(**{**MODEL, "max_angular": 2}, num_epochs=2, verbose=1, log_mae=True)
    model.set_params(log_separate_blocks=True).fit(X, y)
    broken = capsys.readouterr().out
    monkeypatch.setattr(_progress, "WIDTH", 1000)
    model.fit(X, y)
    (*_, row) = read_table(capsys.readouterr().out)
    assert {"gaps rmse eV", "gaps[1] mae eV", "non_conservative_forces mae eV/Angstrom"} < set(row)

    lines = broken.splitlines()
    assert max(map(len, lines)) <= 80
    (second,) = (k for k, line in enumerate(lines) if re.match(r" +2[* ]", line))
    assert len(lines[second:]) > 1
    assert all(line.startswith(" " * 7) for line in lines[second + 1 :])
    # the same columns in the same order, and no title is lost
    assert [value for line in lines[second:] for value in line.split()][:-1] == [*row.values()][:-1]
    titles = " ".join(lines[:second])
    assert titles.count("rmse") == titles.count("mae") == 8


@pytest.mark.parametrize(
    ("unit", "options", "shown"),
    [
        ("eV", {}, "eV/atom"),
        ("kcal/mol", {}, "kcal/mol/atom"),
        ("", {}, "per atom"),
        ("eV", {"per_structure_targets": ["energy"]}, "eV"),
        ("", {"per_structure_targets": ["energy"]}, ""),
    ],
)
def test_unit_of_energies(data, capsys, read_table, unit, options, shown):
    X, energies = data
    y = Targets(kinds={"energy": TargetKind.scalar(unit=unit)}, energy=energies)
    SoapBPNNRegressor(**MODEL, **options, num_epochs=1, verbose=1).fit(X, y)
    (row,) = read_table(capsys.readouterr().out)
    assert list(row)[-2] == f"energy rmse {shown}".strip()


@pytest.mark.parametrize(
    ("unit", "shown"), [("eV", "eV/Angstrom^3"), ("Hartree", "Hartree/volume"), ("", "")]
)
def test_unit_of_stress_that_is_learnt_from_virials(crystals, capsys, read_table, unit, shown):
    """The errors are those of the stress."""
    X, y = crystals
    kinds = {"virial": TargetKind.tensor(symmetric=True, unit=unit)}
    y = Targets(kinds=kinds, energy=y["energy"], virial=y["stress"])
    SoapBPNNRegressor(**MODEL, num_epochs=1, verbose=1).fit(X, y)
    (row,) = read_table(capsys.readouterr().out)
    assert list(row)[-2] == f"stress rmse {shown}".strip()


# --- which fit it is -----------------------------------------------------------------------------


def read_first_lines(capsys):
    return capsys.readouterr().out.partition("\nData: ")[0]


def test_parameters_that_tell_fits_apart(data, capsys):
    X, y = data
    model = SoapBPNNRegressor(max_radial=1, num_epochs=1, verbose=1, log_interval=3)
    model.fit(X, y)
    assert read_first_lines(capsys) == "Fit of 18 structures: max_radial=1, num_epochs=1"
    model.fit(X[:14], y[:14], X_val=X[14:], y_val=y[14:])
    title = "Fit of 14 structures, 4 more for validation: max_radial=1, num_epochs=1"
    assert read_first_lines(capsys) == title
    loss = {"energy": {"type": "huber", "delta": 0.25}}
    model.set_params(num_neurons_per_layer=8, loss=loss, random_state=0).fit(X, y)
    lines = read_first_lines(capsys).splitlines()
    assert lines[0].startswith("Fit of 18 structures: max_radial=1, num_neurons_per_layer=8")
    assert all(line.startswith("    ") for line in lines[1:])
    assert "'type': 'huber'" in " ".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_fit_of_defaults(data, capsys):
    X, y = data
    model = SoapBPNNRegressor(verbose=1, callbacks=[Kill()])
    with pytest.raises(Killed):
        model.fit(X[:2], y[:2])
    assert read_first_lines(capsys) == "Fit of 2 structures"


def test_descriptors_of_a_pipeline_are_named(data, capsys):
    """What X carries is what is learnt from, whatever the regressor's own parameters say."""
    network = SoapBPNNRegressor(num_neurons_per_layer=4, num_epochs=1, verbose=1)
    make_pipeline(SoapFeaturizer(cutoff_radius=4.0, max_radial=1, max_angular=1), network).fit(
        *data
    )
    assert read_first_lines(capsys) == (
        "Fit of 18 structures: cutoff_radius=4.0, max_radial=1, max_angular=1,\n"
        "    num_neurons_per_layer=4, num_epochs=1"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_are_shown_at_once(data, monkeypatch, terminal):
    """Also in a pipe, which is not flushed at the end of a line."""
    raw, shown = io.BytesIO(), []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            shown.append(raw.getvalue().decode().splitlines()[-1].split()[0].rstrip("*"))

    if terminal:
        Terminal(monkeypatch)
    model = SoapBPNNRegressor(**MODEL, num_epochs=3, log_interval=1, verbose=1, callbacks=[Look()])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw))
        model.fit(*data)
    assert shown == ["1", "2", "3"]


# --- predictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"return_std": True}, {"n_samples": 2}], ids=str)
def test_bar_of_a_prediction(data, monkeypatch, options):
    """Only those who ask for it, on a terminal, and have to wait see one."""
    X, y = data
    model = SoapBPNNRegressor(**MODEL, num_epochs=1).fit(X, y)
    terminal = Terminal(monkeypatch)
    monkeypatch.setattr(_progress, "PATIENCE", 0)
    model.predict(X, **options)
    assert terminal.getvalue() == ""
    model.set_params(verbose=1).predict(X, **options)
    n_atoms = sum(len(atoms) for atoms in X)
    assert read_counts(terminal)[0] == (0, n_atoms)
    assert terminal.getvalue().endswith("\r")  # nothing remains of it
    terminal.truncate(0)
    monkeypatch.setattr(_progress, "PATIENCE", 60)
    model.predict(X, **options)
    assert not read_counts(terminal)


def test_all_atoms_are_counted(data, monkeypatch):
    X, y = data
    fitted = SoapBPNNRegressor(**MODEL, num_epochs=1).fit(X, y).fitted_
    X = as_structures(X)
    monkeypatch.setattr(_evaluate, "ATOMS_PER_CHUNK", 10)
    monkeypatch.setattr(_evaluate, "ATOMS_PER_CHUNK_OF_ROWS", 10)
    counts = []
    fitted.predict(X, ["energy"], report=counts.append)
    assert sum(counts) == X.n_atoms.sum()
    assert len(counts) > 5
    fitted.predict_stds(X, ["energy"], report=counts.append)
    fitted.predict_members(X, ["energy"], 2, report=counts.append)
    assert sum(counts) == 3 * X.n_atoms.sum()
    # parts of structures are counted as well
    monkeypatch.setattr(_evaluate, "ATOMS_PER_CHUNK", 3)
    monkeypatch.setattr(_evaluate, "ATOMS_PER_PART", 3)
    counts.clear()
    fitted.predict(X, ["energy"], report=counts.append)
    assert sum(counts) == X.n_atoms.sum()
    assert max(counts) <= 3
