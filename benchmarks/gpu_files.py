"""Train on a GPU, and predict the same with the model's files in a process that has none."""

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.datasets import load_malonaldehyde

NAMES = ["energy", "forces"]
LARGEST = 1e-5  # difference of predictions, relative to the largest of them


def parse_arguments():
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--predict", metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


def predict(model):
    """Return the predictions for some structures, in rows."""
    X, _ = load_malonaldehyde(return_X_y=True)
    prediction = model.predict(X[:20], targets=NAMES)
    return {name: prediction.flatten(name) for name in NAMES}


def compare(folder):
    """Predict with the files of another process, and compare with what it predicted."""
    expected = np.load(Path(folder, "expected.npz"))
    pickled = pickle.loads(Path(folder, "model.pickle").read_bytes())
    loaded = SoapBPNNRegressor.load(Path(folder, "model.safetensors"))
    worst = 0.0
    for how, model in {"loaded": loaded, "unpickled": pickled}.items():
        for name, rows in predict(model).items():
            difference = np.abs(rows - expected[name]).max() / np.abs(expected[name]).max()
            print(f"{how} on {model.module_.device}, {name}: largest difference {difference:.1e}")
            worst = max(worst, difference)
    return worst < LARGEST


def main():
    """Train on the device; compare in another process."""
    arguments = parse_arguments()
    if arguments.predict:
        sys.exit(0 if compare(arguments.predict) else f"differences above {LARGEST}")
    X, y = load_malonaldehyde(return_X_y=True)
    model = SoapBPNNRegressor(num_epochs=10, device=arguments.device, random_state=0)
    model.fit(X[:100], y[:100])
    print(f"trained on {model.module_.device}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "expected.npz"), **predict(model))
        model.save(Path(folder, "model.safetensors"))
        Path(folder, "model.pickle").write_bytes(pickle.dumps(model))
        command = [sys.executable, str(Path(__file__).resolve()), "--predict", folder]
        done = subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
