"""A fit that was killed goes on from its checkpoint, and ends as if nothing had happened."""

import os
import pickle
import re
import shutil
import signal
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
)
from sklearn_soapbpnn.data import as_structures

SMALL = {"max_radial": 2, "max_angular": 1, "num_neurons_per_layer": 4, "random_state": 0}
FIT = {**SMALL, "num_epochs": 6, "checkpoint_interval": 2, "learning_rate": 1e-2}
KINDS = {
    "dipole": TargetKind.vector(),
    "shielding": TargetKind.tensor(per_atom=True),
    "quadrupole": TargetKind.spherical([(0, 1), (1, 1)]),
    "gaps": TargetKind.scalar(2, intensive=True),
}


class PowerCutError(Exception):
    """What ends a fit at once, with no chance to tidy up."""


class PowerCut(Callback):
    """End the fit in the middle of an epoch."""

    def __init__(self, epoch, error=PowerCutError):
        self.epoch = epoch
        self.error = error

    def on_batch_end(self, net, **kwargs):
        if net.history[-1]["epoch"] == self.epoch:
            raise self.error


class CountEpochs(Callback):
    """Count the epochs of all fits, also of clones."""

    count = 0
    power_cut_at = None

    def on_epoch_begin(self, net, **kwargs):
        CountEpochs.count += 1
        if CountEpochs.count == CountEpochs.power_cut_at:
            raise PowerCutError


class KeepCopy(Callback):
    """Copy the checkpoint away when an epoch begins, as if the fit were killed there."""

    def __init__(self, folder, epoch):
        self.folder = folder
        self.epoch = epoch

    def on_epoch_begin(self, net, **kwargs):
        if net.history[-1]["epoch"] == self.epoch:
            (path,) = self.folder.glob("*.checkpoint")
            self.copy_ = path, path.read_bytes()


@pytest.fixture(scope="module")
def molecules(shipped_molecules):
    X, y = shipped_molecules
    return X[:60:5], y[:60:5]


@pytest.fixture(scope="module")
def energies(molecules):
    X, y = molecules
    return X, Targets(energy=y["energy"])


@pytest.fixture(scope="module")
def whole(energies):
    """A fit that nobody interrupted; tests only read it."""
    return SoapBPNNRegressor(**FIT).fit(*energies)


@pytest.fixture(scope="module")
def cut_off(energies, tmp_path_factory):
    """The folder that a fit of the energies leaves that was killed in its fourth epoch."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(PowerCutError):
        SoapBPNNRegressor(**FIT, checkpoint_dir=folder, callbacks=[PowerCut(4)]).fit(*energies)
    return folder


def read_bits(model):
    """Everything of a fit that has to be the same to the bit."""
    weights = {name: value.numpy().tobytes() for name, value in model.module_.state_dict().items()}
    history = [{k: v for k, v in epoch.items() if k != "dur"} for epoch in model.history_]
    return weights, history


def assert_same(model, other):
    weights, history = read_bits(model)
    other_weights, other_history = read_bits(other)
    assert history == other_history
    assert weights == other_weights


def find_checkpoint(folder):
    (path,) = folder.glob("*.checkpoint")
    return path


def count_epochs(path):
    return len(torch.load(path, weights_only=True)["history"])


def resume_after_power_cut(folder, X, y, fit_params=None, **options):
    """Fit in three lives; return the model."""
    fit_params = fit_params or {}
    options = {**FIT, "checkpoint_dir": folder, **options}
    for epoch, left in ((4, 2), (6, 4)):
        model = SoapBPNNRegressor(**options, callbacks=[PowerCut(epoch)])
        with pytest.raises(PowerCutError):
            model.fit(X, y, **fit_params, resume=True)
        assert count_epochs(find_checkpoint(folder)) == left
        assert not hasattr(model, "net_")
    return SoapBPNNRegressor(**options).fit(X, y, **fit_params, resume=True)


# --- the same bits -------------------------------------------------------------------------------

BIT_CASES = {
    "defaults": {},
    "float64": {"dtype": "float64"},
    "warm-up": {"warmup_fraction": 0.5},
    "alchemical": {"species_encoding": "alchemical", "n_pseudo_species": 2},
    "committee": {"n_networks": 3},
    "no hidden layers": {"num_hidden_layers": 0},
    "no layernorm": {"layernorm": False},
    "alchemical, no layernorm": {"species_encoding": "alchemical", "layernorm": False},
    "zbl": {"zbl": True},
    "no validation": {"validation_fraction": 0},
    "best by the loss": {"best_model_metric": "loss", "loss": "huber"},
    "momentum": {"net_params": {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9}},
    "AdamW": {"net_params": {"optimizer": torch.optim.AdamW}},
    "L-BFGS": {"net_params": {"optimizer": torch.optim.LBFGS}},
    "odd batches": {"batch_size": 7},
    "larger than memory": {"memory_limit": 1, "num_workers": 0},
}


@pytest.mark.parametrize("options", list(BIT_CASES.values()), ids=list(BIT_CASES))
def test_energies(tmp_path, energies, options):
    X, y = energies
    model = resume_after_power_cut(tmp_path, X, y, **options)
    assert_same(model, SoapBPNNRegressor(**{**FIT, **options}).fit(X, y))


def test_batches_that_another_process_makes_ahead(tmp_path, energies):
    X, y = energies
    options = {**FIT, "memory_limit": 1, "num_workers": 0}
    folder = {"checkpoint_dir": tmp_path}
    with pytest.raises(PowerCutError):
        SoapBPNNRegressor(**options, **folder, callbacks=[PowerCut(4)]).fit(X, y)
    model = SoapBPNNRegressor(**{**options, "num_workers": 1}, **folder).fit(X, y, resume=True)
    assert model.net_.history[-1]["epoch"] == 6
    assert_same(model, SoapBPNNRegressor(**options).fit(X, y))


@pytest.mark.parametrize("options", [{}, {"species_encoding": "alchemical"}], ids=str)
def test_energies_and_forces(tmp_path, molecules, options):
    X, y = molecules
    model = resume_after_power_cut(tmp_path, X, y, **options)
    whole = SoapBPNNRegressor(**FIT, **options).fit(X, y)
    assert_same(model, whole)
    first, second = (m.predict(X[:3], targets=["energy", "forces"]) for m in (model, whole))
    assert np.array_equal(first["energy"], second["energy"])
    assert np.array_equal(np.concatenate(first["forces"]), np.concatenate(second["forces"]))


@pytest.mark.parametrize("options", [{}, {"long_range": True}], ids=str)
def test_many_targets(tmp_path, crystals, options):
    X, y = crystals
    rng = np.random.default_rng(0)
    labels = {}
    for name, kind in KINDS.items():
        rows = [rng.normal(size=(len(atoms), *kind.shape)) for atoms in X]
        labels[name] = rows if kind.per_atom else np.stack([row.sum(0) for row in rows])
    labels["dipole"][::2] = np.nan
    y = Targets(kinds=KINDS, **{name: y[name] for name in y.names}, **labels)
    options = {"max_angular": 2, "batch_size": 3, **options}
    model = resume_after_power_cut(tmp_path, X, y, **options)
    assert_same(model, SoapBPNNRegressor(**{**FIT, **options}).fit(X, y))


@pytest.mark.parametrize("case", ["sample_weight", "X_val", "groups"])
def test_what_fit_takes_besides(tmp_path, energies, case):
    X, y = energies
    fit_params = {
        "sample_weight": {"sample_weight": np.linspace(0, 1, len(X))},
        "groups": {"groups": np.arange(len(X)) % 4},
        "X_val": {"X_val": X[:5], "y_val": y[:5]},
    }[case]
    model = resume_after_power_cut(tmp_path, X, y, fit_params)
    assert_same(model, SoapBPNNRegressor(**FIT).fit(X, y, **fit_params))


def test_early_stopping_stops_at_the_same_epoch(tmp_path, shipped_molecules):
    X, y = shipped_molecules[0][:100:5], shipped_molecules[1][:100:5].select(["energy"])
    options = {"num_epochs": 40, "early_stopping": True, "n_iter_no_change": 4}
    model = resume_after_power_cut(tmp_path, X, y, **options)
    whole = SoapBPNNRegressor(**{**FIT, **options}).fit(X, y)
    assert 6 < len(whole.history_) < 40
    assert_same(model, whole)


@pytest.mark.parametrize(
    "draw", [lambda: None, lambda: np.random.RandomState(3)], ids=["None", "RandomState"]
)
def test_seeds_that_nobody_knows_come_from_the_checkpoint(tmp_path, energies, draw):
    X, y = energies
    options = {**FIT, "checkpoint_dir": tmp_path}
    keep = KeepCopy(tmp_path, epoch=4)
    whole = SoapBPNNRegressor(**{**options, "random_state": draw()}, callbacks=[keep]).fit(X, y)
    path, content = keep.copy_
    path.write_bytes(content)
    assert count_epochs(path) == 2
    state = draw()
    if state is not None:
        state.uniform(size=7)  # whatever it would draw now
    model = SoapBPNNRegressor(**{**options, "random_state": state}).fit(X, y, resume=True)
    assert_same(model, whole)


def test_a_seed_that_is_known_is_not_mixed_up_with_others(tmp_path, energies):
    X, y = energies
    for seed in (0, 1, None):
        SoapBPNNRegressor(**{**FIT, "random_state": seed}, checkpoint_dir=tmp_path).fit(X, y)
    for seed in (0, 1):
        options = {**FIT, "random_state": seed}
        model = SoapBPNNRegressor(**options, checkpoint_dir=tmp_path).fit(X, y, resume=True)
        assert_same(model, SoapBPNNRegressor(**options).fit(X, y))


def test_seeds_of_numpy_are_not_mixed_up(tmp_path, energies):
    X, y = energies
    for seed in np.arange(2):
        options = {**FIT, "random_state": seed}
        model = SoapBPNNRegressor(**options, checkpoint_dir=tmp_path).fit(X, y, resume=True)
        assert_same(model, SoapBPNNRegressor(**options).fit(X, y))


def make_pipeline(**options):
    return Pipeline(
        [
            ("baseline", CompositionBaseline()),
            ("scaler", TargetScaler()),
            ("soap", SoapFeaturizer(max_radial=2, max_angular=1)),
            ("bpnn", SoapBPNNRegressor(**{**FIT, **options})),
        ]
    )


def test_pipeline(tmp_path, molecules):
    X, y = molecules
    with pytest.raises(PowerCutError):
        make_pipeline(checkpoint_dir=tmp_path, callbacks=[PowerCut(4)]).fit(X, y)
    pipe = make_pipeline(checkpoint_dir=tmp_path, callbacks=[CountEpochs()])
    CountEpochs.count, CountEpochs.power_cut_at = 0, None
    pipe.fit(X, y, bpnn__resume=True)
    assert CountEpochs.count == 4
    assert_same(pipe["bpnn"], make_pipeline().fit(X, y)["bpnn"])


@pytest.mark.parametrize("make", [SoapBPNNRegressor, make_pipeline], ids=["alone", "pipeline"])
def test_a_search_goes_on_where_it_was_killed(tmp_path, energies, make):
    """Candidates and folds share one folder; those that were done are not done again."""
    X, y = energies
    step = "" if make is SoapBPNNRegressor else "bpnn__"
    grid = {f"{step}num_neurons_per_layer": [3, 5]}

    def search(**options):
        model = make(**{**FIT, **options})
        return GridSearchCV(model, grid, cv=2, error_score="raise")

    options = {"checkpoint_dir": tmp_path, "callbacks": [CountEpochs()]}
    # two fits of six epochs, and three of the third one: that one has a checkpoint of two
    CountEpochs.count, CountEpochs.power_cut_at = 0, 16
    with pytest.raises(PowerCutError):
        search(**options).fit(X, y)
    assert len(list(tmp_path.iterdir())) == 3
    CountEpochs.count, CountEpochs.power_cut_at = 0, None
    again = search(**options).fit(X, y, **{f"{step}resume": True})
    assert CountEpochs.count == 4 + 6 + 6
    assert len(list(tmp_path.iterdir())) == 5
    whole = search().fit(X, y)
    for key in ("mean_test_score", "split0_test_score", "split1_test_score"):
        assert np.array_equal(again.cv_results_[key], whole.cv_results_[key])
    assert np.array_equal(again.predict(X), whole.predict(X))


# --- fits that are over --------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, 4, 25])
def test_a_finished_fit_returns_at_once(tmp_path, energies, interval):
    X, y = energies
    options = {**FIT, "checkpoint_dir": tmp_path, "checkpoint_interval": interval}
    whole = SoapBPNNRegressor(**options).fit(X, y)
    assert count_epochs(find_checkpoint(tmp_path)) == 6
    content = find_checkpoint(tmp_path).read_bytes()
    model = SoapBPNNRegressor(**options, callbacks=[PowerCut(epoch) for epoch in range(9)])
    model.fit(X, y, resume=True)
    assert_same(model, whole)
    assert np.array_equal(model.predict(X), whole.predict(X))
    assert find_checkpoint(tmp_path).read_bytes() == content


@pytest.mark.parametrize("interval", [1, 5])
def test_a_fit_that_stopped_early_returns_at_once(tmp_path, energies, interval):
    X, y = energies
    options = {**FIT, "num_epochs": 40, "early_stopping": True, "n_iter_no_change": 2}
    options.update(checkpoint_dir=tmp_path, checkpoint_interval=interval)
    whole = SoapBPNNRegressor(**options).fit(X, y)
    assert len(whole.history_) < 40
    CountEpochs.count, CountEpochs.power_cut_at = 0, None
    for _ in range(2):
        model = SoapBPNNRegressor(**options, callbacks=[CountEpochs()]).fit(X, y, resume=True)
        assert_same(model, whole)
    assert CountEpochs.count == 0


def test_without_resume_a_fit_starts_afresh(tmp_path, energies):
    X, y = energies
    options = {**FIT, "checkpoint_dir": tmp_path}
    whole = SoapBPNNRegressor(**options).fit(X, y)
    model = SoapBPNNRegressor(**options, callbacks=[CountEpochs()])
    CountEpochs.count, CountEpochs.power_cut_at = 0, None
    assert_same(model.fit(X, y), whole)
    assert CountEpochs.count == 6


def test_a_model_can_be_fitted_again_and_again(tmp_path, energies):
    """What one fit went on from is not what the next one does."""
    X, y = energies
    model = resume_after_power_cut(tmp_path, X, y)
    first = read_bits(model)
    assert read_bits(model.fit(X, y, resume=True)) == first
    assert read_bits(model.fit(X, y)) == first
    pickle.dumps(model)
    assert read_bits(pickle.loads(pickle.dumps(model))) == first


def test_files(tmp_path, energies):
    """One file for a fit, in a folder that is made; what a killed fit left is tidied up."""
    X, y = energies
    folder = tmp_path / "new" / "folder"
    options = {**FIT, "checkpoint_dir": str(folder)}
    SoapBPNNRegressor(**options).fit(X, y)
    path = find_checkpoint(folder)
    for name in (f"{path.stem}.1.part", "another.1.part"):
        (folder / name).write_bytes(b"the beginning of a checkp")
    SoapBPNNRegressor(**options).fit(X, y, resume=True)
    assert sorted(p.name for p in folder.iterdir()) == sorted([path.name, "another.1.part"])


def test_no_folder_no_files(tmp_path, energies, monkeypatch):
    X, y = energies
    monkeypatch.chdir(tmp_path)
    SoapBPNNRegressor(**{**FIT, "checkpoint_interval": 1}).fit(X, y)
    assert not list(tmp_path.iterdir())


def test_checkpoints_change_nothing(tmp_path, molecules):
    X, y = molecules
    with_them = SoapBPNNRegressor(**FIT, checkpoint_dir=tmp_path).fit(X, y)
    assert_same(with_them, SoapBPNNRegressor(**FIT).fit(X, y))


# --- which fit a checkpoint is of ----------------------------------------------------------------


def count_files(folder):
    return len(list(folder.glob("*.checkpoint")))


@pytest.mark.parametrize(
    "other",
    [
        {"verbose": 1},
        {"log_interval": 3},
        {"log_mae": True},
        {"log_separate_blocks": True},
        {"checkpoint_interval": 3},
        {"warm_start": True},
        {"callbacks": [CountEpochs()]},
        {"num_workers": 0},
        {"memory_limit": 1e12},
        {"distributed_port": 40000},
        {"device": "cpu"},
        {"device": torch.device("cpu")},
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_parameters_that_do_not_matter(tmp_path, energies, whole, cut_off, other, capsys):
    CountEpochs.power_cut_at = None
    folder = shutil.copytree(cut_off, tmp_path / "copy")
    options = {**FIT, "checkpoint_dir": str(folder), "verbose": 1, **other}
    model = SoapBPNNRegressor(**options).fit(*energies, resume=True)
    assert "Resuming after epoch 2 from" in capsys.readouterr().out
    assert count_files(folder) == 1
    assert read_bits(model)[0] == read_bits(whole)[0]


def test_ways_of_writing_the_same_data(tmp_path, energies):
    X, y = energies
    model = SoapBPNNRegressor(**{**FIT, "num_epochs": 1}, checkpoint_dir=tmp_path)
    labelled = [atoms.copy() for atoms in X]
    for atoms in labelled:
        atoms.info["comment"] = "nothing of this is learnt from"
    for frames in (X, as_structures(X), labelled):
        for labels in (y, y["energy"], list(y["energy"])):
            model.fit(frames, labels)
    model.fit(X, y, sample_weight=np.ones(len(X)))
    model.fit(X, y, sample_weight=[1] * len(X))
    assert count_files(tmp_path) == 2


OTHER_PARAMETERS = [
    *({"cutoff_radius": 4.0}, {"cutoff_width": 0.4}, {"max_radial": 3}, {"max_angular": 2}),
    {"radial_scale": 3.0},
    *({"num_hidden_layers": 1}, {"num_neurons_per_layer": 5}, {"layernorm": False}),
    *({"add_lambda_basis": False}, {"heads": {"energy": "linear"}}, {"zbl": True}),
    *({"species_encoding": "alchemical"}, {"n_pseudo_species": 3}, {"batch_size": 4}),
    {"n_networks": 2},
    *({"num_epochs": 2}, {"warmup_fraction": 0.5}, {"learning_rate": 2e-2}),
    *({"scale_targets": False}, {"fixed_scaling_weights": {"energy": 0.1}}),
    *({"remove_composition_contribution": False}, {"fixed_composition_weights": {"H": 1.0}}),
    *({"per_structure_targets": ["energy"]}, {"best_model_metric": "loss"}, {"loss": "mae"}),
    *({"dtype": "float64"}, {"random_state": 1}, {"validation_fraction": 0.2}),
    *({"early_stopping": True}, {"n_iter_no_change": 3}),
    *({"net_params": {"optimizer": torch.optim.AdamW}}, {"optimizer": "adam"}),
]


def test_parameters_that_matter(tmp_path, energies, capsys):
    """With any other value there is no checkpoint to go on from, and that is said."""
    X, y = energies
    options = {**FIT, "num_epochs": 1, "checkpoint_dir": tmp_path, "verbose": 1}
    SoapBPNNRegressor(**options).fit(X, y)
    for n_files, other in enumerate(OTHER_PARAMETERS, start=2):
        SoapBPNNRegressor(**{**options, **other}).fit(X, y, resume=True)
        assert "There is no checkpoint of this fit in" in capsys.readouterr().out, other
        assert count_files(tmp_path) == n_files, other


def test_every_parameter_is_known_to_matter_or_not():
    matter = {name for other in OTHER_PARAMETERS for name in other}
    do_not = {"verbose", "log_interval", "log_mae", "log_separate_blocks", "checkpoint_interval"}
    do_not |= {"warm_start", "callbacks", "device", "checkpoint_dir"}
    # how much fits into memory, and how many work on it
    do_not |= {"num_workers", "memory_limit", "distributed", "distributed_port"}
    long_range = {"long_range", "use_ewald", "smearing", "kspace_resolution"}
    long_range |= {"interpolation_nodes"}
    names = set(SoapBPNNRegressor().get_params())
    assert names - matter - do_not - long_range == set()
    assert not matter & do_not


def test_a_parameter_that_no_other_process_knows(tmp_path, energies):
    options = {
        "net_params": {"optimizer": lambda *args, **kwargs: torch.optim.SGD(*args, **kwargs)}
    }
    model = SoapBPNNRegressor(**FIT, **options, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"net_params=.*lambda.*cannot be recognised.*imported"):
        model.fit(*energies)
    assert count_files(tmp_path) == 0


def test_data_that_matter(tmp_path, energies, capsys):
    X, y = energies
    model = SoapBPNNRegressor(**{**FIT, "num_epochs": 1}, checkpoint_dir=tmp_path, verbose=1)
    model.fit(X, y)
    reduced = CompositionBaseline().fit(X, y).transform(X)
    moved, in_cell, periodic = ([atoms.copy() for atoms in X] for _ in range(3))
    moved[3].positions[2, 1] += 1e-9
    in_cell[3].cell[:] = np.eye(3) * 30.0
    for atoms in periodic:
        atoms.cell[:] = np.eye(3) * 30.0
        atoms.pbc = True
    labels = y["energy"].copy()
    labels[5] = np.nextafter(labels[5], 0)
    part = labels.copy()
    part[5] = np.nan
    half = len(X) // 2
    other = [
        ((moved, y), {}),
        ((in_cell, y), {}),
        ((periodic, y), {}),
        ((X[::-1], y[::-1]), {}),
        ((X[:-1], y[:-1]), {}),
        ((X, Targets(energy=labels)), {}),
        ((X, Targets(energy=part)), {}),
        ((X, Targets(kinds={"total": TargetKind.scalar()}, total=y["energy"])), {}),
        ((X, y), {"sample_weight": np.arange(len(X))}),
        ((X, y), {"groups": np.arange(len(X)) % 2}),
        ((X, y), {"groups": np.arange(len(X)) % 3}),
        ((X[:half], y[:half]), {"X_val": X[half:], "y_val": y[half:]}),
        ((X[:half], y[:half]), {"X_val": moved[:half], "y_val": y[:half]}),
        ((X[:half], y[:half]), {"X_val": X[:half], "y_val": Targets(energy=labels)[:half]}),
        ((reduced, y), {}),
        ((TargetScaler().fit(reduced, y).transform(reduced), y), {}),
        ((TargetScaler({"energy": 3.0}).fit(reduced, y).transform(reduced), y), {}),
    ]
    for n_files, (data, fit_params) in enumerate(other, start=2):
        model.fit(*data, **fit_params, resume=True)
        assert "There is no checkpoint of this fit in" in capsys.readouterr().out, n_files
        assert count_files(tmp_path) == n_files


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TargetKind.vector(), TargetKind.scalar(3)),
        (TargetKind.tensor(), TargetKind.tensor(per_volume=True)),
        (TargetKind.tensor(), TargetKind.tensor(symmetric=True)),
        (TargetKind.scalar(2), TargetKind.scalar(2, intensive=True)),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else None,
)
def test_kinds_matter(tmp_path, crystals, first, second):
    X, _ = crystals
    values = np.random.default_rng(0).normal(size=(len(X), *first.shape))
    values = values + np.swapaxes(values, 1, -1)
    for kind in (first, second):
        options = {**FIT, "max_angular": 2, "num_epochs": 1}
        y = Targets(kinds={"label": kind}, label=values)
        model = SoapBPNNRegressor(**options, checkpoint_dir=tmp_path).fit(X, y, resume=True)
        assert_same(model, SoapBPNNRegressor(**options).fit(X, y))


@pytest.mark.parametrize("case", ["elements", "dtype"])
def test_features_matter(tmp_path, energies, case):
    X, y = energies
    soap = {"max_radial": 2, "max_angular": 1}
    more = [*X, X[0].copy()]
    more[-1].numbers[0] = 17
    first, second = {
        "elements": (SoapFeaturizer(**soap).fit(X), SoapFeaturizer(**soap).fit(more)),
        "dtype": (
            SoapFeaturizer(**soap).fit(X),
            SoapFeaturizer(**soap, dtype="float64").fit(X),
        ),
    }[case]
    for featurizer in (first, second):
        data = featurizer.transform(X)
        model = SoapBPNNRegressor(**FIT, checkpoint_dir=tmp_path).fit(data, y, resume=True)
        assert_same(model, SoapBPNNRegressor(**FIT).fit(data, y))


def test_a_warm_start_is_not_the_first_fit(tmp_path, energies):
    X, y = energies
    options = {**FIT, "warm_start": True}
    model = SoapBPNNRegressor(**options, checkpoint_dir=tmp_path).fit(X, y)
    model.fit(X, y, resume=True)
    assert count_files(tmp_path) == 2
    assert_same(model, SoapBPNNRegressor(**options).fit(X, y).fit(X, y))


# --- damaged files -------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, energies):
    """Path and content of a good checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    SoapBPNNRegressor(**FIT, checkpoint_dir=folder).fit(*energies)
    path = find_checkpoint(folder)
    return path, path.read_bytes()


def assert_refused(checkpoint, energies, message):
    path, content = checkpoint
    damaged = path.read_bytes()
    model = SoapBPNNRegressor(**FIT, checkpoint_dir=path.parent)
    with pytest.raises(ValueError, match=f"The checkpoint '{re.escape(str(path))}' {message}"):
        model.fit(*energies, resume=True)
    assert path.read_bytes() == damaged
    assert not hasattr(model, "net_")
    # removing it is the way out
    path.unlink()
    model.fit(*energies, resume=True)
    assert count_epochs(path) == 6


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 1.0])
def test_a_file_that_was_cut_off(checkpoint, energies, share):
    path, content = checkpoint
    path.write_bytes(content[: int(share * (len(content) - 1))])
    assert_refused(checkpoint, energies, "cannot be read.*Remove it to start from scratch")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_bit(checkpoint, energies, place):
    path, content = checkpoint
    # of a record: the padding between records is not read
    with zipfile.ZipFile(path) as archive:
        records = [info for info in archive.infolist() if info.file_size]
    record = records[int(place * len(records))]
    lengths = struct.unpack_from("<HH", content, record.header_offset + 26)
    content = bytearray(content)
    content[record.header_offset + 30 + sum(lengths) + record.file_size // 2] ^= 1
    path.write_bytes(content)
    assert_refused(checkpoint, energies, "cannot be read.*Remove it to start from scratch")


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_a_bomb(checkpoint, energies, write, tmp_path):
    path, _ = checkpoint
    bomb = {"format": 1, "seeds": Bomb(tmp_path / "exploded")}
    if write == "torch":
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    assert_refused(checkpoint, energies, "cannot be read")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [{"format": 99}, {"epochs": 3}, [1, 2], 5], ids=str)
def test_another_format(checkpoint, energies, content):
    path, _ = checkpoint
    torch.save(content, path)
    assert_refused(checkpoint, energies, "was written by another version.*Remove it to start")


@pytest.mark.parametrize("key", ["seeds", "module", "optimizer", "order", "best", "history"])
def test_a_part_that_is_missing(checkpoint, energies, key):
    path, content = checkpoint
    path.write_bytes(content)
    state = torch.load(path, weights_only=True)
    del state[key]
    torch.save(state, path)
    assert_refused(checkpoint, energies, "")


def test_resume_without_a_folder(energies):
    with pytest.raises(ValueError, match="resume=True needs checkpoint_dir"):
        SoapBPNNRegressor(**FIT).fit(*energies, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_written_to(tmp_path, energies, resume):
    """Before the first epoch, not after the first ``checkpoint_interval`` of them."""
    (tmp_path / "file").write_text("no folder")
    model = SoapBPNNRegressor(**FIT, checkpoint_dir=tmp_path / "file", callbacks=[CountEpochs()])
    CountEpochs.count, CountEpochs.power_cut_at = 0, None
    with pytest.raises((OSError, ValueError), match="checkpoint_dir"):
        model.fit(*energies, resume=resume)
    assert CountEpochs.count == 0


# --- with other callbacks ------------------------------------------------------------------------


class Record(Callback):
    """Record a number of ours in the history."""

    def __init__(self, number):
        self.number = number

    def on_epoch_end(self, net, **kwargs):
        net.history.record("ours", self.number)


@pytest.mark.parametrize(
    "number",
    [
        3,
        "text",
        pytest.param(np.float64(3.0)),
    ],
    ids=None,
)
def test_what_callbacks_record_is_kept(tmp_path, energies, number):
    X, y = energies
    options = {**FIT, "checkpoint_dir": tmp_path}
    with pytest.raises(PowerCutError):
        SoapBPNNRegressor(**options, callbacks=[Record(number), PowerCut(6)]).fit(X, y)
    model = SoapBPNNRegressor(**options, callbacks=[Record(number)]).fit(X, y, resume=True)
    assert [epoch.get("ours") for epoch in model.history_][:3] == [number] * 3


def test_what_callbacks_record_of_the_last_epoch_is_kept(tmp_path, energies):
    X, y = energies
    options = {**FIT, "checkpoint_dir": tmp_path, "callbacks": [Record(3)]}
    SoapBPNNRegressor(**options).fit(X, y)
    model = SoapBPNNRegressor(**options).fit(X, y, resume=True)
    assert model.history_[:, "ours"] == [3] * 6


# --- Ctrl-C --------------------------------------------------------------------------------------


class CtrlC(Callback):
    """Send SIGINT to this process at a moment of an epoch, and keep the weights of all before."""

    def __init__(self, epoch, moment):
        self.epoch = epoch
        self.moment = moment

    def initialize(self):
        self.weights_ = []
        return self

    def _press(self, net, moment):
        if (net.history[-1]["epoch"], moment) == (self.epoch, self.moment):
            signal.raise_signal(signal.SIGINT)

    def on_epoch_begin(self, net, **kwargs):
        self._press(net, "begin")

    def on_batch_end(self, net, training=True, **kwargs):
        self._press(net, "training" if training else "validation")

    def on_epoch_end(self, net, **kwargs):
        weights = net.module_.state_dict()
        self.weights_.append({name: value.numpy().tobytes() for name, value in weights.items()})
        self._press(net, "end")


def interrupt(folder, X, y, epoch, moment, **options):
    """Return the model and the number of epochs that the warning names."""
    ctrl_c = CtrlC(epoch, moment)
    options = {**FIT, "checkpoint_interval": 1, "checkpoint_dir": folder, **options}
    model = SoapBPNNRegressor(**options, callbacks=[ctrl_c])
    with pytest.warns(ConvergenceWarning, match="interrupted after") as caught:
        model.fit(X, y)
    message = str(caught[0].message)
    assert f"of {model.num_epochs} epochs; the best epoch so far is kept" in message
    return model, ctrl_c, int(re.search(r"after (\d+) of", message)[1])


@pytest.mark.parametrize(
    "moment",
    [
        "training",
        "validation",
    ],
)
def test_ctrl_c(tmp_path, energies, moment):
    """The best epoch so far is kept, and the next fit goes on from the last checkpoint."""
    X, y = energies
    # the learning rate is so high that the best epoch is not the last
    options = {"learning_rate": 0.1, "num_epochs": 8}
    model, ctrl_c, done = interrupt(tmp_path, X, y, 5, moment, **options)
    assert done in (4, 5)
    whole = SoapBPNNRegressor(**{**FIT, **options}).fit(X, y)
    known = [epoch["valid_metric"] for epoch in whole.history_][: len(ctrl_c.weights_)]
    best = int(np.argmin(known))
    assert read_bits(model)[0] == ctrl_c.weights_[best]
    assert np.isfinite(model.predict(X)).all()
    assert count_epochs(find_checkpoint(tmp_path)) == 4
    again = {**FIT, **options, "checkpoint_dir": tmp_path}
    assert_same(SoapBPNNRegressor(**again).fit(X, y, resume=True), whole)


@pytest.mark.parametrize("moment", ["training", "validation", "begin"])
def test_ctrl_c_before_anything_was_learnt(tmp_path, energies, moment):
    """There is no model, and what the estimator knew before is still there."""
    X, y = energies
    model = SoapBPNNRegressor(**FIT, callbacks=[CtrlC(1, moment)], checkpoint_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert not list(tmp_path.iterdir())
    model.set_params(callbacks=None).fit(X, y)
    before = model.predict(X)
    with pytest.raises(KeyboardInterrupt):
        model.set_params(callbacks=[CtrlC(1, moment)]).partial_fit(X, y)
    assert np.array_equal(model.predict(X), before)


def test_ctrl_c_after_going_on(tmp_path, energies):
    """What was learnt before the checkpoint counts."""
    X, y = energies
    options = {**FIT, "checkpoint_dir": tmp_path}
    with pytest.raises(PowerCutError):
        SoapBPNNRegressor(**options, callbacks=[PowerCut(4)]).fit(X, y)
    model = SoapBPNNRegressor(**options, callbacks=[CtrlC(3, "training")])
    with pytest.warns(ConvergenceWarning, match="interrupted after 2 of 6 epochs"):
        model.fit(X, y, resume=True)
    assert_same(
        SoapBPNNRegressor(**options).fit(X, y, resume=True), SoapBPNNRegressor(**FIT).fit(X, y)
    )


def test_history_after_ctrl_c_has_whole_epochs(tmp_path, energies):
    model, _, done = interrupt(tmp_path, *energies, 5, "training")
    assert len(model.history_[:, "valid_loss"]) == len(model.history_) == done


def test_the_warning_points_to_the_call_of_fit(tmp_path, energies):
    model = SoapBPNNRegressor(**FIT, callbacks=[CtrlC(5, "training")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*energies)
    assert caught[0].filename == __file__


class Tell(Callback):
    """Say through a pipe which epochs are done, and wait for the answer of one of them."""

    def __init__(self, pipe, wait_after):
        self.pipe = pipe
        self.wait_after = wait_after

    def on_epoch_end(self, net, **kwargs):
        epoch = net.history[-1]["epoch"]
        self.pipe.send(epoch)
        if epoch == self.wait_after:
            time.sleep(60)


def fit_in_process(pipe, data, options, wait_after=None):
    """Fit, and send the epochs that are done and the warnings."""
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SoapBPNNRegressor(**options, callbacks=[Tell(pipe, wait_after)]).fit(*data)
    pipe.send([str(entry.message) for entry in caught])


def start_fit(server, data, options, wait_after=None):
    """Return a process that fits, and the pipe that it tells its epochs through."""
    here, there = server.Pipe()
    process = server.Process(target=fit_in_process, args=(there, data, options, wait_after))
    process.start()
    there.close()
    return process, here


def test_sigint_of_a_process(server, tmp_path, energies):
    options = {**FIT, "num_epochs": 20, "checkpoint_interval": 1}
    folder = {"checkpoint_dir": tmp_path}
    process, pipe = start_fit(server, energies, {**options, **folder}, wait_after=5)
    assert [pipe.recv() for _ in range(5)] == [1, 2, 3, 4, 5]
    os.kill(process.pid, signal.SIGINT)
    assert any("interrupted after" in message for message in pipe.recv())
    process.join()
    assert process.exitcode == 0
    done = count_epochs(find_checkpoint(tmp_path))
    assert done in (4, 5)
    assert not list(tmp_path.glob("*.part"))
    model = SoapBPNNRegressor(**options, **folder, callbacks=[CountEpochs()])
    CountEpochs.count, CountEpochs.power_cut_at = 0, None
    model.fit(*energies, resume=True)
    assert CountEpochs.count == 20 - done
    assert_same(model, SoapBPNNRegressor(**options).fit(*energies))


# --- SIGKILL -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["epoch", "writing"])
def test_fits_that_are_killed(server, tmp_path, energies, moment):
    """In an epoch, and while a checkpoint is written; benchmarks/kill_test.py does it for hours."""
    options, wait_after = {**FIT, "checkpoint_interval": 1}, 3
    if moment == "writing":
        options["num_neurons_per_layer"], wait_after = 256, None  # that takes a while
    folder = {"checkpoint_dir": tmp_path}
    process, pipe = start_fit(server, energies, {**options, **folder}, wait_after)
    assert [pipe.recv() for _ in range(wait_after or 1)][0] == 1
    while moment == "writing" and process.is_alive() and not any(tmp_path.glob("*.part")):
        pass
    process.kill()
    process.join()
    if moment == "epoch":
        assert process.exitcode == -signal.SIGKILL
        assert count_epochs(find_checkpoint(tmp_path)) == 2
    model = SoapBPNNRegressor(**options, checkpoint_dir=tmp_path).fit(*energies, resume=True)
    assert_same(model, SoapBPNNRegressor(**options).fit(*energies))
    assert len(list(tmp_path.iterdir())) == 1
