"""How good the error bars are: of one network, and of a committee of five independent fits.

    python benchmarks/error_bars.py train.xyz test.xyz

All fits have the same training and validation structures, and other initial weights and batches.
The committee's error bars are the standard deviations over its members, calibrated in the same way:
errors on the validation structures have a mean squared z-score of 1.

Printed per target: root mean square error, negative log-likelihood, mean squared z-score,
miscalibration area, and the rank correlation of errors and error bars, over the test structures.
"""

import argparse
import time

import ase.io
import numpy as np
import torch
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.metrics import summarize_errors, summarize_uncertainty

NAMES = ("energy", "forces")


def read(path):
    """Return structures and their labels."""
    frames = ase.io.read(path, ":")
    return frames, Targets.from_atoms(frames, energy="energy", forces="forces")


def join(predictions):
    """Return the mean and the standard deviation of predictions."""
    columns = {name: [prediction[name] for prediction in predictions] for name in NAMES}
    energies = np.array(columns["energy"])
    forces = [np.array(parts) for parts in zip(*columns["forces"])]
    mean = Targets(energy=energies.mean(0), forces=[part.mean(0) for part in forces])
    spread = {"energy": energies.std(0, ddof=1), "forces": [part.std(0, ddof=1) for part in forces]}
    return mean, spread


def calibrate(y, mean, spread):
    """Return the factor of each error bar that makes the mean squared z-score 1."""
    factors = {}
    for name in NAMES:
        label, value, std = (
            np.concatenate([np.ravel(v) for v in c[name]]) for c in (y, mean, spread)
        )
        factors[name] = np.sqrt(np.mean(((label - value) / std) ** 2))
    return factors


def scale(spread, factors):
    """Return error bars times their factors."""
    forces = [factors["forces"] * part for part in spread["forces"]]
    return Targets(energy=factors["energy"] * spread["energy"], forces=forces)


def report(title, X, y, prediction, std):
    """Print a line for each target."""
    errors, quality = (
        summarize_errors(X, y, prediction),
        summarize_uncertainty(X, y, prediction, std),
    )
    for name in NAMES:
        values = quality[name]
        print(
            f"{title:24s} {name:7s} rmse {1000 * errors[name]['rmse']:8.2f}  "
            + "  ".join(f"{metric} {value:.3f}" for metric, value in values.items()),
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--fits", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    X, y = read(options.train)
    X_test, y_test = read(options.test)
    train, val = train_test_split(np.arange(len(X)), test_size=0.1, random_state=0)
    X_val = [X[k] for k in val]
    validation, test = [], []
    for seed in range(options.fits):
        start = time.perf_counter()
        model = SoapBPNNRegressor(num_epochs=options.epochs, random_state=seed)
        model.fit([X[k] for k in train], y[train], X_val=X_val, y_val=y[val])
        prediction, std = model.predict(X_test, targets=NAMES, return_std=True)
        report(
            f"seed {seed} ({time.perf_counter() - start:.0f} s)", X_test, y_test, prediction, std
        )
        validation.append(model.predict(X_val, targets=NAMES))
        test.append(prediction)
    factors = calibrate(y[val], *join(validation))
    mean, spread = join(test)
    report(f"committee of {options.fits}", X_test, y_test, mean, scale(spread, factors))


if __name__ == "__main__":
    main()
