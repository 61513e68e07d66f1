"""Model files: exact round trips, and files that are damaged or forged."""

import math
import os
import pickle
import subprocess
import sys
from copy import deepcopy

import joblib
import numpy as np
import pytest
import torch
from ase.build import molecule
from numpy.testing import assert_array_equal
from safetensors.numpy import load, save
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from skorch.callbacks import EarlyStopping

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.descriptors._store import _process_store
from sklearn_soapbpnn.interfaces import load_model, save_model
from sklearn_soapbpnn.interfaces.files import _bytes as file_bytes
from sklearn_soapbpnn.interfaces.files import _stored_regressor, _values
from sklearn_soapbpnn.training import SoapBPNNNet

SOAP = {"cutoff_radius": 3.0, "max_radial": 2, "max_angular": 2}
NETWORK = {"num_neurons_per_layer": 4, "num_epochs": 1, "batch_size": 4, "random_state": 0}
KINDS = {
    "energy": TargetKind.scalar(unit="kJ/mol"),
    "gaps": TargetKind.scalar(2, intensive=True),
    "dipole": TargetKind.vector(unit="e Angstrom"),
    "dipoles": TargetKind.vector(2, per_atom=True),
    "tensors": TargetKind.tensor(2, per_atom=True),
    "polarizability": TargetKind.tensor(symmetric=True),
    "charges": TargetKind.scalar(per_atom=True),
    "several": TargetKind.spherical([(0, 1, 2), (1, -1), (2, 1)]),
    "quadrupoles": TargetKind.spherical((2, 1), 3, intensive=True),
    "one": TargetKind.spherical((0, 1), 1),
    "non_conservative_stress": TargetKind.tensor(symmetric=True, per_volume=True),
}
DERIVED = {"forces": (3,), "stress": (3, 3)}
LINEAR = dict.fromkeys(KINDS, "linear")
# what the network and the steps before it can be
OPTIONS = {
    "plain": {},
    "no hidden layer": {"num_hidden_layers": 0},
    "linear model": {"num_hidden_layers": 0, "heads": LINEAR, "add_lambda_basis": False},
    "linear heads": {"num_hidden_layers": 1, "heads": LINEAR, "layernorm": False},
    "alchemical": {"species_encoding": "alchemical", "n_pseudo_species": 2},
    "alchemical, bare": {
        **{"species_encoding": "alchemical", "n_pseudo_species": 1, "layernorm": False},
        **{"num_hidden_layers": 0, "num_neurons_per_layer": 1},
    },
    "committee": {"n_networks": 3},
    "alchemical committee": {"species_encoding": "alchemical", "n_networks": 2},
    "long range": {"long_range": True},
    "alchemical, long range": {
        **{"species_encoding": "alchemical", "long_range": True, "use_ewald": True},
        **{"smearing": 1.2, "interpolation_nodes": 4, "heads": {"energy": "linear"}},
    },
    "zbl": {"zbl": True},
    "float64": {"dtype": "float64"},
    "no steps": {"scale_targets": False, "remove_composition_contribution": False},
    "losses": {
        **{"loss": {"energy": {"type": "huber", "forces": {"weight": 0.1}}, "dipole": "mae"}},
        **{"per_structure_targets": ["dipole"], "log_separate_blocks": True},
    },
    "optimizer": {"net_params": {"optimizer__betas": (0.8, 0.99)}, "device": "cpu"},
}
FIXED = {
    "fixed_composition_weights": {"energy": {"H": -13.6, 8: np.float64(-2000.1)}, "gaps": 1},
    "fixed_scaling_weights": {"energy": 0.1, "gaps": np.array([0.1, 0.3]), "charges": {8: 2}},
}


def draw(frames, names):
    """Labels without any meaning."""
    rng = np.random.default_rng(0)
    kinds = {name: KINDS[name] for name in names if name in KINDS}
    columns = {}
    for name in names:
        shape = kinds[name].shape if name in kinds else DERIVED[name]
        per_atom = name == "forces" or (name in kinds and kinds[name].per_atom)
        columns[name] = [rng.normal(size=(len(x),) * per_atom + shape) for x in frames]
        if name in ("polarizability", "non_conservative_stress", "stress"):
            columns[name] = [tensor + tensor.T for tensor in columns[name]]
    return Targets(kinds=kinds, **columns)


@pytest.fixture(scope="module")
def X():
    frames = [molecule(name) for name in ("H2O", "CO", "CH4", "C2H2", "H2CO", "O2", "CH3OH", "H2")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
        if seed % 2:
            atoms.set_cell([[4.0, 0.0, 0.0], [1.5, 4.2, 0.0], [-0.8, 0.9, 4.5]])
            atoms.pbc = [True, True, seed != 3]
    return frames


@pytest.fixture(scope="module")
def y(X):
    return draw(X, [*KINDS, *DERIVED])


def make_regressor(**parameters):
    return SoapBPNNRegressor(**{**SOAP, **NETWORK, **parameters})


def make_pipeline(parameters):
    """Return the Pipeline that does what a regressor with these parameters does."""
    rest = dict(parameters)
    fixed = rest.pop("fixed_composition_weights", None), rest.pop("fixed_scaling_weights", None)
    steps = [
        ("zbl", ZBLBaseline() if rest.pop("zbl", False) else "passthrough"),
        ("baseline", CompositionBaseline(fixed[0])),
        ("scaler", TargetScaler(fixed[1], rest.get("per_structure_targets", ()))),
        ("soap", SoapFeaturizer(**SOAP, dtype=rest.get("dtype", "float32"))),
        ("bpnn", SoapBPNNRegressor(**{**NETWORK, **rest})),
    ]
    return Pipeline(steps)


@pytest.fixture(scope="module")
def bare(X, y):
    return make_regressor().fit(X, y)


@pytest.fixture(scope="module")
def pipeline(X, y):
    return make_pipeline({"zbl": True}).fit(X, y)


@pytest.fixture(scope="module")
def small(X):
    """A model of the energy, whose file is small."""
    return make_regressor(max_radial=1, max_angular=0).fit(X, draw(X, ["energy"]))


@pytest.fixture(scope="module")
def content(small, tmp_path_factory):
    """The bytes of the small model's file."""
    path = tmp_path_factory.mktemp("small") / "model"
    save_model(small, path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def pass_through(model, path):
    save_model(model, path)
    _process_store.clear()
    return load_model(path)


def list_names(regressor):
    derived = ["energies", "forces", "stress", "virial"]
    return [*regressor.kinds_, *derived, "features", "dipole_last_layer_features"]


def assert_same_predictions(model, other, X, names):
    mine, theirs = (m.predict(X, targets=names) for m in (model, other))
    for name in names:
        assert_array_equal(mine.flatten(name), theirs.flatten(name), err_msg=name)


def list_parameters(model):
    """Parameters that are no steps; their text tells types apart as well."""
    parameters = model.get_params()
    return repr({k: v for k, v in parameters.items() if not hasattr(v, "fit") and k != "steps"})


def select(X, rank):
    return [atoms for atoms in X if atoms.cell.rank == rank]


def forge(path, change, tensors=None):
    """Write a file anew, with another header but a checksum that fits."""
    header, arrays = file_bytes.unpack(path.read_bytes())
    change(header["model"])
    path.write_bytes(file_bytes.pack(header, {**arrays, **(tensors or {})}))


# what is saved


PIPELINES = ["alchemical, long range", "zbl"]


@pytest.mark.parametrize(
    ("option", "pipe"),
    [*((option, False) for option in OPTIONS), *((option, True) for option in PIPELINES)],
    ids=[*OPTIONS, *(f"{option}, pipeline" for option in PIPELINES)],
)
def test_round_trip(option, pipe, X, y, path):
    make = make_pipeline if pipe else lambda parameters: make_regressor(**parameters)
    model = make(OPTIONS[option]).fit(X, y)
    loaded = pass_through(model, path)
    assert type(loaded) is type(model)
    assert list_parameters(loaded) == list_parameters(model)
    last, last_loaded = (m[-1] if pipe else m for m in (model, loaded))
    assert_same_predictions(loaded, model, select(X, 3), list_names(last))
    per_volume = {"stress", "virial", "non_conservative_stress"}
    names = [name for name in list_names(last) if name not in per_volume]
    assert_same_predictions(loaded, model, select(X, 0), names)
    assert list(last_loaded.history_) == list(last.history_)
    assert [repr(kind) for kind in last_loaded.kinds_.items()] == [
        repr(kind) for kind in last.kinds_.items()
    ]
    assert last_loaded.targets_ == last.targets_
    assert last_loaded.n_features_in_ == last.n_features_in_


@pytest.mark.parametrize("pipe", [False, True], ids=["bare", "pipeline"])
def test_going_on(pipe, X, y, path):
    """A warm start goes on from a file as it does from memory, and a clone starts afresh."""
    model = make_pipeline({"zbl": True}) if pipe else make_regressor()
    model.fit(X, y)
    loaded = pass_through(model, path)
    names = ["energy", "forces", "several"]
    assert_same_predictions(clone(loaded).fit(X, y), clone(model).fit(X, y), X, names)
    key = "bpnn__warm_start" if pipe else "warm_start"
    models = [deepcopy(m).set_params(**{key: True}).fit(X, y) for m in (loaded, model)]
    assert_same_predictions(*models, X, names)
    before, after = (m.predict(X, targets="several")["several"] for m in (model, models[0]))
    assert np.abs(before - after).max() > 0
    if not pipe:
        more = Targets(kinds={"new": TargetKind.scalar(2)}, new=np.ones((len(X), 2)))
        models = [deepcopy(m).partial_fit(X, more) for m in (loaded, model)]
        assert_same_predictions(*models, X, [*names, "new"])
        assert_same_predictions(pass_through(models[0], path), models[1], X, [*names, "new"])


def test_a_loaded_model_can_be_saved(bare, X, path):
    save_model(bare, path)
    first = path.read_bytes()
    again = pass_through(load_model(path), path)
    for mine, theirs in zip(file_bytes.unpack(first), file_bytes.unpack(path.read_bytes())):
        np.testing.assert_equal(mine, theirs)
    assert_same_predictions(again, joblib_copy(again, path), X, ["energy", "forces"])
    calculators = [m.calculator() for m in (again, bare)]
    assert_array_equal(*(c.get_forces(X[0]) for c in calculators))


def joblib_copy(model, path):
    joblib.dump(model, path.with_suffix(".joblib"))
    return joblib.load(path.with_suffix(".joblib"))


@pytest.mark.parametrize("pipe", [False, True], ids=["bare", "pipeline"])
def test_fixed_weights(pipe, X, y, path):
    model = make_pipeline(FIXED) if pipe else make_regressor(**FIXED)
    loaded = pass_through(model.fit(X, y), path)
    assert_same_predictions(loaded, model, X, ["energy", "gaps", "charges"])
    key = "baseline__fixed_weights" if pipe else "fixed_composition_weights"
    weights = loaded.get_params()[key]
    assert weights == FIXED["fixed_composition_weights"]
    assert [type(element) for element in weights["energy"]] == [str, int]
    assert_same_predictions(clone(loaded).fit(X, y), model, X, ["energy", "gaps", "charges"])


def test_numpy_scalars(X, y, path):
    model = make_regressor(
        cutoff_radius=np.float32(3.3),
        max_radial=np.int64(2),
        layernorm=np.bool_(False),
        learning_rate=np.float64(1e-3),
        dtype=np.str_("float64"),
        random_state=np.int32(3),
        per_structure_targets=np.array(["dipole"]),
    ).fit(X, y)
    loaded = pass_through(model, path)
    assert_same_predictions(loaded, model, X, ["energy", "forces"])
    types = {name: type(value) for name, value in loaded.get_params().items()}
    assert types["cutoff_radius"] is types["learning_rate"] is float
    assert types["max_radial"] is types["random_state"] is int
    assert types["layernorm"] is bool
    assert types["dtype"] is str
    assert types["per_structure_targets"] is list


def test_numbers_keep_every_bit(small, path):
    model = deepcopy(small).set_params(learning_rate=0.1 + 0.2, validation_fraction=5e-324)
    loaded = pass_through(model, path)
    assert loaded.learning_rate == 0.1 + 0.2
    assert loaded.validation_fraction == 5e-324


def test_history_that_is_not_finite(small, path):
    model = deepcopy(small)
    epoch = {"batches": [], "epoch": 3, "train_loss": np.nan, "valid_loss": -np.inf, "a": None}
    model.history_.append({**epoch, "text": "a\n\u00e9\U0001f600", "flag": np.bool_(True)})
    last = pass_through(model, path).history_[-1]
    assert math.isnan(last["train_loss"])
    assert last["valid_loss"] == -math.inf
    assert last["a"] is None
    assert last["text"] == "a\n\u00e9\U0001f600"
    assert last["flag"] is True


def test_names_of_any_kind(X, path):
    names = ["\u00e9\U0001f600", 'a"\\.b', "module.first", "", "coef.energy", "0" * 64]
    kinds = {name: TargetKind.scalar() for name in names}
    y = Targets(kinds=kinds, **{name: np.arange(len(X)) + 0.5 for name in names})
    steps = [*make_pipeline({}).steps[1:-1], (names[0], make_regressor(**NETWORK))]
    model = Pipeline(steps).fit(X, y)
    assert_same_predictions(pass_through(model, path), model, X, names)


def test_passthrough_and_nested_pipelines(X, y, path):
    (_, zbl), *rest = make_pipeline({"zbl": True}).steps
    model = Pipeline([("first", Pipeline([("zbl", zbl), rest[0]])), ("off", None), *rest[1:]])
    loaded = pass_through(model.fit(X, y), path)
    assert_same_predictions(loaded, model, X, ["energy", "forces", "several"])
    assert loaded.named_steps["off"] is None


def test_places_are_not_saved(X, y, path, tmp_path):
    model = make_pipeline({}).set_params(
        soap__memory=tmp_path / "features", bpnn__checkpoint_dir=tmp_path / "checkpoints"
    )
    loaded = pass_through(model.fit(X, y), path)
    assert str(tmp_path).encode() not in path.read_bytes()
    assert loaded["soap"].memory is loaded["bpnn"].checkpoint_dir is loaded.memory is None
    assert_same_predictions(loaded, model, X, ["energy"])


class Regressor(SoapBPNNRegressor):
    """One with a method more."""


def test_subclass(X, y, path):
    save_model(Regressor(**SOAP, **NETWORK).fit(X, y), path)
    assert type(Regressor.load(path)) is Regressor


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_device_that_is_not_here(device, small, X, path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = deepcopy(small)
    model.device = device
    loaded = pass_through(model, path)
    assert loaded.device == device
    assert next(loaded.module_.parameters()).device.type == "cpu"
    assert_array_equal(loaded.predict(X), small.predict(X))
    pass_through(loaded, path)
    with pytest.raises(ValueError, match="cannot be used"):
        loaded.set_params(warm_start=True).fit(X, draw(X, ["energy"]))
    loaded.set_params(device="auto").fit(X, draw(X, ["energy"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_that_is_here(X, y, path):
    model = make_regressor(device="cuda").fit(X, y)
    loaded = pass_through(model, path)
    assert next(loaded.module_.parameters()).device.type == "cuda"


def test_without_torchpme(X, y, path, monkeypatch):
    save_model(make_regressor(long_range=True).fit(X, y), path)
    monkeypatch.setitem(sys.modules, "torchpme", None)
    with pytest.raises(ImportError, match="long-range"):
        load_model(path)


def test_nothing_is_unpickled(bare, pipeline, X, path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled or run")

    for model in (bare, pipeline):
        save_model(model, path)
        with monkeypatch.context() as patch:
            for owner, name in [
                *((pickle, name) for name in ("Unpickler", "load", "loads")),
                *((torch, "load"), (joblib, "load"), (os, "system"), (subprocess, "Popen")),
                *(("builtins", "eval"), ("builtins", "exec")),
            ]:
                target = f"{owner}.{name}" if isinstance(owner, str) else f"{owner.__name__}.{name}"
                patch.setattr(target, refuse)
            loaded = load_model(path)
        assert_same_predictions(loaded, model, X, ["energy", "forces"])


# what cannot be saved


@pytest.mark.parametrize(
    "parameters",
    [
        {"random_state": np.random.RandomState(0)},
        {"callbacks": [EarlyStopping()]},
        {"net_params": {"optimizer": torch.optim.AdamW}},
        {"loss": {"energy": {"weight": 1j}}},
        {"random_state": 2**70},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_objects_are_refused(parameters, small, path):
    (name,) = parameters
    with pytest.raises(TypeError, match=rf"^{name} cannot be saved: .*set_params\({name}=None\)"):
        save_model(deepcopy(small).set_params(**parameters), path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_neurons_per_layer": 5}, "'num_neurons_per_layer'. were changed after fit"),
        ({"smearing": 2.0}, "'smearing'. were changed after fit"),
        ({"batch_size": 0}, "'batch_size' parameter .* must be an int"),
        ({"device": "nowhere"}, "nowhere"),
        ({"net_params": {"iterator_train__shuffle": True}}, "iterator_train__shuffle"),
        ({"num_epochs": True}, "num_epochs .* must not be a bool"),
    ],
)
def test_parameters_that_do_not_fit(parameters, message, small, path):
    with pytest.raises(ValueError, match=message):
        save_model(deepcopy(small).set_params(**parameters), path)
    assert not path.exists()


def test_weights_that_are_not_finite(small, path):
    model = deepcopy(small)
    with torch.no_grad():
        model.module_.first.bias[0, 0] = torch.inf
    with pytest.raises(ValueError, match="'module.first.bias' is not finite"):
        save_model(model, path)
    assert not path.exists()


def test_other_models_are_refused(bare, X, y, path):
    for model in (Ridge(), TargetScaler().fit(X, y), GridSearchCV(bare, {}), None):
        with pytest.raises(TypeError, match=r"must be a fitted SoapBPNNRegressor or Pipeline"):
            save_model(model, path)
    steps = make_pipeline({}).fit(X, y).steps
    for step in (Ridge(), GridSearchCV(bare, {}), type("Own", (TargetScaler,), {})()):
        with pytest.raises(TypeError, match="cannot be saved: a model file holds"):
            save_model(Pipeline([*steps[:-1], ("last", step)]), path)
    for model in (make_regressor(), make_pipeline({})):
        with pytest.raises(NotFittedError):
            save_model(model, path)
    assert not path.exists()


# how it is written


def test_what_is_there_is_replaced_or_kept(small, path, monkeypatch):
    path.write_text("before")
    path.chmod(0o640)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_model(small, path)
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]
    assert save_model(small, str(path)) is None
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]
    load_model(str(path))


def test_links_and_folders(small, X, tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    for _ in range(2):  # a link to nothing, then to the file
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        save_model(small, link)
        assert link.is_symlink()
        assert not target.is_symlink()
        assert_array_equal(load_model(link).predict(X), small.predict(X))
    with pytest.raises(OSError, match="is not a file"):
        save_model(small, tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        save_model(small, tmp_path / "nowhere" / "model")
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere")
    with pytest.raises(OSError, match="folder"):
        load_model(tmp_path / "folder")
    for model_path in (None, 3, b"model"):
        with pytest.raises(TypeError):
            save_model(small, model_path)


# files that are damaged


def check_refused(path, content, message=None):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"path={str(path)!r} cannot be loaded: ")


def test_damage_never_loads(small, path, monkeypatch):
    """A few of each sort; benchmarks/corrupt_files.py tries thousands."""
    save_model(small, path)
    monkeypatch.setattr(SoapBPNNNet, "initialize", lambda net: pytest.fail("it was built"))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    positions = [*range(64), *rng.integers(len(content), size=100).tolist()]
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= int(rng.integers(1, 256))
        check_refused(path, flipped)
    for length in [*range(16), *rng.integers(len(content), size=20).tolist(), len(content) - 1]:
        check_refused(path, content[:length])
    for extra in (b"\0", b" ", b"}", content, rng.bytes(100)):
        check_refused(path, content + extra)
        check_refused(path, extra + content)
    for _ in range(20):
        start, stop = sorted(rng.integers(len(content), size=2).tolist())
        parts = content[:start], content[start:stop], content[stop:]
        check_refused(path, parts[0] + parts[2] if start < stop else content[1:])
        other = rng.bytes(stop - start) or b"!"
        check_refused(path, parts[0] + other + parts[2])


def test_every_character_of_the_checksum(small, path):
    save_model(small, path)
    content = path.read_bytes()
    place = content.index(b'"checksum":"') + 12
    for position in range(place, place + 64):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        check_refused(path, flipped)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (b"PK\x03\x04 a zip archive", "an archive, as export and torch.save write them"),
        (pickle.dumps({"a": 1}), "not a safetensors file"),
        (b"\xff" * 100, "not a safetensors file"),
        (b"\0" * 100, "not a safetensors file"),
        ((10).to_bytes(8, "little") + b"[" * 10, "Expecting"),
        ((2).to_bytes(8, "little") + b"{}", "not a file of the format 'sklearn_soapbpnn'"),
        ((2).to_bytes(8, "little") + b"[]", "not a file of the format"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "nested too deeply"),
        (save({"a": np.zeros(3)}), "not a file of the format"),
        (save({"a": np.zeros(3)}, {"format": "pt"}), "not a file of the format"),
        (
            save({}, {"format": "sklearn_soapbpnn", "format_version": "2"}),
            "Update sklearn_soapbpnn",
        ),
        (save({}, {"format": "sklearn_soapbpnn"}), "Update sklearn_soapbpnn"),
        (save({}, {"format": "sklearn_soapbpnn", "format_version": "1"}), "metadata must have"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_other_files(content, message, path):
    check_refused(path, content, message)


def test_a_header_beyond_the_limit(small, path, monkeypatch):
    monkeypatch.setattr(file_bytes, "LARGEST_HEADER", 1000)
    with pytest.raises(ValueError, match="header of .* bytes is beyond the limit of 1000"):
        save_model(small, path)
    assert not path.exists()


def test_repeated_keys(small, path):
    save_model(small, path)
    content = path.read_bytes()
    size = file_bytes.header_size(content)
    header, data = content[8 : 8 + size], content[8 + size :]
    for old, new in [
        (b'{"__metadata__":', b'{"__metadata__":{},"__metadata__":'),
        (b'\\"elements\\":', b'\\"elements\\":[1],\\"elements\\":'),
    ]:
        assert old in header
        twice = header.replace(old, new, 1)
        twice += b" " * (-len(twice) % 8)
        forged = file_bytes.seal(len(twice).to_bytes(8, "little") + twice + data)
        check_refused(path, forged, "occurs twice")


# files that are forged: their checksum fits


def set_entry(*keys):
    """Return a function that sets an entry of nested dicts and lists."""
    *inner, last, value = keys

    def change(state):
        for key in inner:
            state = state[key]
        state[last] = value

    return change


def set_parameter(name, value):
    return set_entry("parameters", name, value)


def set_descriptor(**entries):
    def change(state):
        state["descriptor"] |= entries
        state["steps"]["featurizer_"]["parameters"] |= entries

    return change


def set_kind(**entries):
    def change(state):
        state["kinds"]["energy"] |= entries

    return change


BASELINE, SCALER = ("steps", "baseline_"), ("steps", "scaler_")
FORGED = {
    "class of the system": (set_entry("class", "os.system"), "neither a SoapBPNNRegressor nor"),
    "class of no model": (set_entry("class", "TargetScaler"), "neither a SoapBPNNRegressor nor"),
    "entry too many": (set_entry("more", 1), "must have the entries"),
    "entry missing": (lambda state: state.pop("kinds"), "must have the entries"),
    "unknown parameter": (set_parameter("shell", "rm"), r"no parameters \['shell'\]"),
    "place to write": (set_parameter("checkpoint_dir", "/tmp"), "no parameters"),
    "int for bool": (set_parameter("layernorm", 1), "'layernorm' parameter"),
    "bool for int": (set_parameter("num_hidden_layers", True), "must not be a bool"),
    "bool for float": (set_parameter("learning_rate", True), "must not be a bool"),
    "float for int": (set_parameter("batch_size", 8.0), "'batch_size' parameter"),
    "text for int": (set_parameter("batch_size", "8"), "'batch_size' parameter"),
    "negative": (set_parameter("learning_rate", -1.0), "'learning_rate' parameter"),
    "not finite": (set_parameter("cutoff_radius", {"float": "inf"}), "'cutoff_radius' parameter"),
    "nan": (set_parameter("learning_rate", {"float": "nan"}), "'learning_rate' parameter"),
    "unknown tag": (set_parameter("loss", {"object": "x"}), "is not an encoded value"),
    "two tags": (set_parameter("loss", {"dict": [], "tuple": []}), "is not an encoded value"),
    "no tag": (set_parameter("heads", {}), "is not an encoded value"),
    "bad float": (set_parameter("smearing", {"float": [1]}), "is not an encoded value"),
    "bad dict": (set_parameter("heads", {"dict": [["a"]]}), "is not a pair of a key"),
    "bad key": (set_parameter("heads", {"dict": [[None, "mlp"]]}), "is not a pair of a key"),
    "key twice": (set_parameter("heads", {"dict": [["a", 1], ["a", 1]]}), "occurs twice"),
    "list for dict": (set_parameter("heads", ["energy"]), "'heads' parameter"),
    "head": (set_parameter("heads", {"dict": [["energy", "huge"]]}), "heads"),
    "negative number": (set_parameter("num_workers", -1), "'num_workers' parameter"),
    "module": (set_parameter("net_params", {"dict": [["module", "os"]]}), "the optimizer only"),
    "optimizer": (set_parameter("net_params", {"dict": [["optimizer__a", 1]]}), "optimizer__a|'a'"),
    "callbacks": (set_parameter("callbacks", ["print"]), "print|callback"),
    "device": (set_parameter("device", "nowhere"), "nowhere"),
    "dtype": (set_parameter("dtype", "float64"), "must be float64 .* got float32"),
    "long range without charges": (
        set_parameter("long_range", True),
        "but the file has",
    ),
    "alchemical": (set_parameter("species_encoding", "alchemical"), "more features|the weight"),
    "layernorm": (set_parameter("layernorm", False), "'first.bias' is not part of"),
    "layers": (set_parameter("num_hidden_layers", 3), "but the file has"),
    "width": (set_parameter("num_neurons_per_layer", 5), "but the file has"),
    "many layers": (set_parameter("num_hidden_layers", 10**9), "need more weights than"),
    "absurd width": (
        set_parameter("num_neurons_per_layer", 10**12),
        "but the file has",
    ),
    "wide": (set_parameter("num_neurons_per_layer", 10**6), "but the file has"),
    "wide charges": (
        lambda s: s["parameters"].update(long_range=True, num_neurons_per_layer=10**6),
        "but the file has",
    ),
    "pseudo-species": (
        lambda s: s["parameters"].update(species_encoding="alchemical", n_pseudo_species=10**9),
        "but the file has",
    ),
    "max_radial beyond": (set_entry("descriptor", "max_radial", 10**9), "'max_radial' parameter"),
    "max_radial": (set_descriptor(max_radial=49), "but the file has"),
    "max_angular": (set_descriptor(max_angular=25), "but the file has"),
    "cutoff as int": (set_entry("descriptor", "cutoff_radius", 3), "must be float"),
    "other cutoff": (set_entry("descriptor", "cutoff_radius", 3.5), "not the descriptor of"),
    "wide cutoff": (set_entry("descriptor", "cutoff_width", 50.0), "must not exceed"),
    "tiny cutoff": (set_descriptor(cutoff_radius=1e-300, cutoff_width=1e-301), "ZeroDivision"),
    "huge cutoff": (set_descriptor(cutoff_radius=1e300), "OverflowError"),
    "no elements": (set_entry("elements", []), "elements must be"),
    "element twice": (set_entry("elements", [1, 1, 8]), "twice"),
    "unsorted": (set_entry("elements", [8, 6, 1]), "ascending"),
    "element beyond": (set_entry("elements", [1, 6, 10**6]), "elements must be"),
    "element as text": (set_entry("elements", ["H", "C", "O"]), "list of int"),
    "element as bool": (set_entry("elements", [True, 6, 8]), "list of int"),
    "other elements": (set_entry("elements", [1, 6, 9]), "other elements"),
    "no targets": (set_entry("targets", []), "targets"),
    "other targets": (set_entry("targets", ["dipole"]), "do not match the kinds"),
    "targets twice": (set_entry("targets", ["energy", "energy"]), "twice"),
    "energies": (set_entry("targets", ["energy", "energies"]), "do not match the kinds"),
    "kind of the energy": (set_kind(shape=[3], blocks=[[0, 1, 3]]), "energy"),
    "kind of nothing": (set_kind(shape=[2]), "kind of .* is invalid"),
    "kind of no shape": (set_kind(shape=[-1]), "kind|n_properties"),
    "kind of bools": (set_kind(shape=[True]), "integers"),
    "kind of high rank": (set_kind(cartesian_rank=7), "kind of .* is invalid"),
    "kind of no blocks": (set_kind(blocks=[], shape=[1]), "blocks"),
    "intensive energy": (set_kind(intensive=True), "its intensive must be False"),
    "intensive atoms": (
        set_kind(intensive=True, per_atom=True),
        "intensive=True is for per",
    ),
    "intensive stress": (
        set_kind(intensive=True, per_volume=True, shape=[3, 3], cartesian_rank=2),
        "intensive=True is for means",
    ),
    "kind of no intensity": (set_kind(intensive=0), "intensive of .* must be bool"),
    "kind without an entry": (
        lambda state: state["kinds"]["energy"].pop("intensive"),
        "the kind of 'energy' must have the entries",
    ),
    "intensive baseline": (
        set_entry(*BASELINE, "kinds", "energy", "intensive", True),
        "the baseline has other targets",
    ),
    "kind of unknown unit": (set_kind(unit=None), "unit of the kind of 'energy' must be str"),
    "name of a target": (
        lambda s: s["kinds"].update(kinds=s["kinds"].pop("energy")),
        "do not match the kinds",
    ),
    "carried": (set_entry("carried", {"shell": []}), "X cannot carry"),
    "carried and own": (set_entry("carried", {"offset": []}), "X carries the offset"),
    "no descriptor": (set_entry("steps", "featurizer_", None), "the descriptor is missing"),
    "step in another's place": (
        set_entry(*SCALER, "class", "ZBLBaseline"),
        "was expected",
    ),
    "other step": (set_entry("steps", "zbl_", {}), "must have the entries"),
    "no baseline": (set_entry(*BASELINE, "kinds", {}), "are not part of"),
    "baseline of others": (set_entry(*BASELINE, "elements", [1, 6]), "has the shape"),
    "scale of others": (set_entry(*SCALER, "targets", ["dipole"]), "'scaler_.scale.dipole' is mis"),
    "scale of error bars": (set_entry("error_bars", {"energy": -1.0}), "cannot have the scales"),
    "error bars of dipoles": (set_entry("error_bars", {"dipole": 1.0}), "cannot have the scales"),
    "error bars of text": (set_entry("error_bars", {"energy": "1"}), "must be float"),
    "history of text": (set_entry("history", ["epoch"]), "one dict per epoch"),
    "history that runs": (
        set_entry("history", [{"epoch": {"eval": "1"}}]),
        "is not an encoded value",
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("what", FORGED)
def test_forged_header(what, content, path, monkeypatch):
    change, message = FORGED[what]
    path.write_bytes(content)
    forge(path, change)
    if what not in ("optimizer", "callbacks", "no baseline"):
        monkeypatch.setattr(SoapBPNNNet, "initialize", lambda net: pytest.fail("it was built"))
    check_refused(path, path.read_bytes(), message)


TENSORS = {
    "missing": ({"module.first.bias": None}, "'first.bias' is missing"),
    "one too many": ({"module.more": np.zeros(3, np.float32)}, "'more' is not part of"),
    "one of nothing": ({"more": np.zeros(3, np.float32)}, "are not part of"),
    "shape": ({"module.first.bias": np.zeros((3, 5), np.float32)}, "has the shape"),
    "transposed": ({"module.first.bias": np.zeros((4, 3), np.float32)}, "has the shape"),
    "dtype": ({"module.first.bias": np.zeros((3, 4))}, "must be float32 .* got float64"),
    "half": ({"module.first.bias": np.zeros((3, 4), np.float16)}, "must be float32 or float64"),
    "integers": ({"module.first.bias": np.zeros((3, 4), np.int64)}, "must be float32 or float64"),
    "nan": ({"module.first.bias": np.full((3, 4), np.nan, np.float32)}, "is not finite"),
    "no numbers": (
        {"module.first.bias": np.zeros((0, 10**9), np.float32)},
        "be float32 and not empty",
    ),
    "number": (
        {"module.first.linear.weight": np.zeros((), np.float32)},
        "but the file has",
    ),
    "scale of zero": ({"scaler_.scale.energy": np.array(0.0)}, "is not a valid scale"),
    "negative scale": ({"scaler_.scale.energy": np.array(-1.0)}, "is not a valid scale"),
    "infinite scale": ({"scaler_.scale.energy": np.array(np.inf)}, "is not finite"),
    "table of scales": ({"scaler_.scale.energy": np.ones((7, 1))}, "is not a valid scale"),
    "no scale": ({"scaler_.scale.energy": None}, "'scaler_.scale.energy' is missing"),
    "baseline": ({"baseline_.coef.energy": np.ones((3, 2))}, "has the shape"),
    "error bars of others": ({"hessian.energy": np.eye(5)}, "not those of this network"),
    "error bars of nothing": ({"hessian.gap": np.eye(12)}, "not those of this network"),
    "no error bars": ({"hessian.energy": None}, r"error bars of \['energy'\] are missing"),
    "negative variances": ({"hessian.energy": -np.eye(12)}, "not positive definite"),
}


@pytest.mark.parametrize("what", TENSORS)
def test_forged_tensors(what, content, path):
    tensors, message = TENSORS[what]
    header, arrays = file_bytes.unpack(content)
    arrays = {name: array for name, array in {**arrays, **tensors}.items() if array is not None}
    check_refused(path, file_bytes.pack(header, arrays), message)


def test_a_file_from_before_a_parameter_of_the_descriptor(small, X, path):
    """A parameter that was added after the file was written has its default."""
    save_model(small, path)
    assert small.cutoff_width == SoapBPNNRegressor().cutoff_width

    def remove(state):
        steps = state["steps"]["featurizer_"]
        for entries in (state["parameters"], state["descriptor"], steps["parameters"]):
            del entries["cutoff_width"]

    forge(path, remove)
    assert np.array_equal(load_model(path).predict(X), small.predict(X))


def test_forged_pipeline(pipeline, path):
    save_model(pipeline, path)
    content = path.read_bytes()
    for change, message in [
        (set_entry("steps", []), "cannot be called"),
        (set_entry("steps", [1]), "pairs of a name and a step"),
        (set_entry("steps", 0, 0, "bpnn"), "twice"),
        (set_entry("steps", 0, 0, "a__b"), "cannot be called"),
        (set_entry("steps", 0, 0, 3), "list of str"),
        (set_entry("steps", 0, 1, "shell"), "the class None"),
        (set_entry("steps", 0, 1, "class", ["x"]), "the class"),
        (set_entry("steps", 0, 1, "class", "Ridge"), "the class 'Ridge' is not one of"),
        (set_entry("memory", "/tmp"), "must have the entries"),
        (set_entry("steps", 3, 1, "parameters", "memory", "/tmp"), "no parameters"),
        (set_entry("steps", 3, 1, "parameters", "pooling", "max"), "'pooling' parameter"),
        (set_entry("steps", 1, 1, "parameters", "fixed_weights", {"dict": [["H", "x"]]}), "finite"),
        (set_entry("transform_input", [1]), "list of str"),
        (set_entry("verbose", 1), "must be bool"),
    ]:
        path.write_bytes(content)
        forge(path, change)
        check_refused(path, path.read_bytes(), message)

    def nest(state):
        for _ in range(250):
            state["steps"] = [["a", {**state, "steps": state["steps"]}]]

    path.write_bytes(content)
    forge(path, nest)
    check_refused(path, path.read_bytes())


@pytest.mark.parametrize(
    "kind",
    [
        {"shape": [3, 2**62], "blocks": [[1, 1, 2**62]], "cartesian_rank": 1},
        {"shape": [10**7], "blocks": [[0, 1, 10**7]], "cartesian_rank": None},
        {"shape": [3, 3, 10**6], "blocks": [[0, 1, 10**6], [2, 1, 10**6]], "cartesian_rank": 2},
    ],
    ids=["overflow", "scalars", "tensors"],
)
def test_absurd_targets(kind, small, path):
    """A small file cannot make large arrays."""
    save_model(small, path)
    kind = {**dict.fromkeys(("per_atom", "per_volume", "intensive"), False), "unit": "", **kind}

    def change(state):
        state["kinds"]["more"] = kind
        state["targets"].append("more")

    forge(path, change)
    check_refused(path, path.read_bytes(), "2 targets would take")


def test_many_properties(path):
    """Nothing grows with the square of their number."""
    X = [molecule(name) for name in ("H2O", "CH4", "NH3", "H2O2")]
    values = np.random.default_rng(0).normal(size=(len(X), 3, 4000))
    kinds = {"p": TargetKind.vector(4000)}
    options = {"max_radial": 2, "max_angular": 1, "num_epochs": 1, "random_state": 0}
    model = SoapBPNNRegressor(**options).fit(X, Targets(p=values, kinds=kinds))
    save_model(model, path)
    again = SoapBPNNRegressor.load(path).predict(X, targets=["p"])["p"]
    np.testing.assert_array_equal(again, model.predict(X, targets=["p"])["p"])


def test_tensor_of_high_degree(small, path):
    save_model(small, path)

    def change(state):
        state["kinds"]["l"] = {
            **{"shape": [51], "blocks": [[25, 1, 1]], "cartesian_rank": None},
            **{"per_atom": False, "per_volume": False, "intensive": False, "unit": ""},
        }
        state["targets"].append("l")

    forge(path, change)
    check_refused(path, path.read_bytes(), "max_angular=0")


def list_leaves(state, path=()):
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from list_leaves(value, (*path, key))


VALUES = [
    *(None, True, -1, 0, 1, 3, 10**9, 2**62, -0.5, 1e-300, 1e300, "", "cuda", "energy", "\ud800"),
    *([], {}, [[]], [1], ["energy"], {"float": "nan"}, {"tuple": []}, {"dict": [["a", 1]]}),
]


@pytest.mark.filterwarnings("ignore")  # of what such numbers do in splines
@pytest.mark.parametrize("pipe", [False, True], ids=["bare", "pipeline"])
def test_forged_at_random(pipe, small, X, path):
    """Whatever one entry is changed to, the file loads or is refused: nothing else happens."""
    model = make_pipeline({"zbl": True}).fit(X, draw(X, ["energy"])) if pipe else small
    save_model(model, path)
    header, tensors = file_bytes.unpack(path.read_bytes())
    leaves = list(list_leaves(header))
    rng = np.random.default_rng(int(pipe))
    n_loaded, start = 0, f"path={str(path)!r} cannot be loaded: "
    for _ in range(50):
        forged = deepcopy(header)
        keys, value = leaves[rng.integers(len(leaves))], VALUES[rng.integers(len(VALUES))]
        set_entry(*keys, deepcopy(value))(forged)
        path.write_bytes(file_bytes.pack(forged, tensors))
        try:
            load_model(path)
            n_loaded += 1
        except ValueError as err:
            message = str(err)
        else:
            message = start
        assert message.startswith(start), (keys, value)
    assert 0 < n_loaded < 25


# values


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -(2**62), 0.1, -0.0, 5e-324, 1.7976931348623157e308, "", "\U0001f600"),
        *((), (1, (2.0,)), [], [[None]], {}, {1: 2, "1": (3,)}, {"dict": {"tuple": [1]}}),
        *(math.inf, -math.inf),
    ],
    ids=repr,
)
def test_values(value):
    text = _values.write_json(_values.encode(value))
    read = _values.decode(_values.read_json(text))
    assert repr(read) == repr(value)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "1e999", "9223372036854775808", "1" * 5000, '{"a":1,"a":1}', "{"]
)
def test_json_that_is_refused(text):
    with pytest.raises(ValueError, match="finite|64 bits|twice|Expecting"):
        _values.read_json(text)


@pytest.mark.parametrize("value", [object(), {1.5: 2}, {(1,): 2}, np.longdouble(1), 1j, {1}])
def test_values_that_are_refused(value):
    with pytest.raises((TypeError, ValueError)):
        _values.decode(_values.encode(value))


def test_constants():
    assert load(file_bytes.pack({}, {"a": np.float64(1.0)}))["a"].shape == ()
    assert _stored_regressor.HEAD_MEMORY >= 8 * 4096**2
