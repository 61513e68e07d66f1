"""What a fresh interpreter makes of files that this one wrote."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import joblib
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.interfaces import save_model

SOAP = {"cutoff_radius": 4.0, "max_radial": 2, "max_angular": 2}
NETWORK = {"num_neurons_per_layer": 4, "num_epochs": 1, "random_state": 0}
NAMES = ["energy", "energies", "forces", "stress"]
SCRIPT = """
import sys, tempfile
from pathlib import Path
import joblib
from sklearn_soapbpnn import open_frames
from sklearn_soapbpnn.interfaces import load_model

folder, names = Path(sys.argv[1]), sys.argv[2:]
frames = open_frames(folder / "frames.xyz.gz")
predictions = {}
for path in folder.glob("*.joblib"):
    model = joblib.load(path)
    predictions[path.name] = model.predict(frames)
    named = getattr(model, "best_estimator_", model).predict(frames, targets=names)
    predictions[path.name + " named"] = [named.flatten(name) for name in names]
for path in folder.glob("*.model"):
    named = load_model(path).predict(frames, targets=names)
    predictions[path.name + " named"] = [named.flatten(name) for name in names]
joblib.dump(predictions, folder / "predictions")
print(*Path(tempfile.gettempdir()).iterdir())
"""


def make_pipeline():
    steps = [ZBLBaseline(), CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SOAP)]
    names = ["zbl", "baseline", "scaler", "soap"]
    return Pipeline([*zip(names, steps), ("bpnn", SoapBPNNRegressor(**NETWORK))])


@pytest.fixture(scope="module")
def models(crystals):
    width = {"bpnn__num_neurons_per_layer": [4, 8]}
    models = {
        "estimator": SoapBPNNRegressor(**SOAP, **NETWORK),
        "pipeline": make_pipeline(),
        "search": GridSearchCV(make_pipeline(), width, cv=2),
    }
    return {name: model.fit(*crystals) for name, model in models.items()}


@pytest.fixture(scope="module")
def fresh(models, crystals, tmp_path_factory):
    """The structures, predictions of a process that has read all files, what it has printed."""
    folder = tmp_path_factory.mktemp("fresh")
    ase.io.write(folder / "frames.xyz", crystals[0])
    (folder / "frames.xyz.gz").write_bytes(gzip.compress((folder / "frames.xyz").read_bytes()))
    for name, model in models.items():
        joblib.dump(model, folder / f"{name}.joblib")
    for name in ("estimator", "pipeline"):
        save_model(models[name], folder / f"{name}.model")
    (folder / "tmp").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-c", SCRIPT, str(folder), *NAMES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames = ase.io.read(folder / "frames.xyz", ":")
    return frames, joblib.load(folder / "predictions"), done.stdout.strip()


def test_predictions(models, fresh):
    X, found, _ = fresh
    files = [*(f"{name}.joblib" for name in models), "estimator.model", "pipeline.model"]
    assert found.keys() == {*(f"{name} named" for name in files), *files[:3]}
    for name in files:
        model = models[name.split(".")[0]]
        if name.endswith("joblib"):
            assert_array_equal(found[name], model.predict(X), err_msg=name)
        expected = getattr(model, "best_estimator_", model).predict(X, targets=NAMES)
        for target, values in zip(NAMES, found[f"{name} named"], strict=True):
            assert_array_equal(values, expected.flatten(target), err_msg=f"{name} {target}")


def test_temporary_files_go_with_the_process(fresh):
    unpacked = Path(fresh[2])
    assert unpacked.parent.name == "tmp"
    assert not unpacked.exists()
