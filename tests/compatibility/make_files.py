"""Write the files that test_old_files.py reads: run once, by the version that they stand for.

    python tests/compatibility/make_files.py

The files in the folder were written by commit 6ecfb20, before a fit returned a FittedModel. It had
no argument ``optimizer``, and trained with Adam.
"""

import pickle
import shutil
import tempfile
from pathlib import Path

from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetScaler,
)
from sklearn_soapbpnn.datasets import load_malonaldehyde

FILES = Path(__file__).parent / "files"
# float64 and few steps, so that rounding on another machine stays small
SMALL = {
    "num_neurons_per_layer": 4,
    "num_epochs": 4,
    "batch_size": 4,
    "dtype": "float64",
    "device": "cpu",
    "random_state": 0,
    "optimizer": "adam",
}
DESCRIPTOR = {"cutoff_radius": 3.0, "max_radial": 2, "max_angular": 1}
COLUMNS = ["energy", "energies", "forces"]


def load_data():
    """Return twelve structures with energies and forces."""
    X, y = load_malonaldehyde(return_X_y=True)
    return X[:12], y[:12]


def make_regressor(**options):
    """Return the regressor of the files, to be fitted."""
    return SoapBPNNRegressor(**SMALL, **DESCRIPTOR, **options)


def make_pipeline():
    """Return the Pipeline of the files, to be fitted."""
    return Pipeline(
        [
            ("composition", CompositionBaseline()),
            ("scale", TargetScaler()),
            ("soap", SoapFeaturizer(**DESCRIPTOR, dtype="float64")),
            ("network", SoapBPNNRegressor(**SMALL)),
        ]
    )


def _main():
    from sklearn_soapbpnn.interfaces import save_model

    FILES.mkdir(exist_ok=True)
    X, y = load_data()
    regressor, pipeline = make_regressor().fit(X, y), make_pipeline().fit(X, y)
    save_model(regressor, FILES / "regressor.safetensors")
    save_model(pipeline, FILES / "pipeline.safetensors")
    predictions = {
        "regressor": regressor.predict(X, targets=COLUMNS),
        "pipeline": pipeline.predict(X, targets=COLUMNS),
    }
    (FILES / "predictions.pickle").write_bytes(pickle.dumps(predictions))
    with tempfile.TemporaryDirectory() as folder:
        _fit_interrupted(folder, X, y)
        (checkpoint,) = Path(folder).iterdir()
        shutil.copy(checkpoint, FILES / "after_two_epochs.checkpoint")


def _fit_interrupted(folder, X, y):
    """Break off after two of four epochs, as a killed process does."""
    from skorch.callbacks import Callback

    class Kill(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                raise SystemExit

    model = make_regressor(checkpoint_dir=folder, checkpoint_interval=2, callbacks=[Kill()])
    try:
        model.fit(X, y)
    except SystemExit:
        return
    raise RuntimeError("the fit was not broken off")


if __name__ == "__main__":
    _main()
