"""Whether error bars tell structures of another temperature from those of the training.

    python benchmarks/hot_structures.py [train_300K.xyz test_300K.xyz]

A model is trained on a molecule at 300 K: the shipped malonaldehyde, or that of a file. Structures
at 300 K that it has not seen are to be told from hot ones: those of the data set at 600 K, or, with
files, those of molecular dynamics with the model itself at 600 K, from the test structures on.
Printed is the area under the ROC curve for three scores of a structure.
"""

import argparse

import ase.io
import numpy as np
import torch
from ase import units
from ase.md.langevin import Langevin
from sklearn.metrics import roc_auc_score

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.datasets import load_malonaldehyde


def score(model, frames):
    """Return three scores of each structure, by their names."""
    _, std = model.predict(frames, targets=["energy", "forces"], return_std=True)
    per_atom = [np.sqrt((forces**2).mean(1)) for forces in std["forces"]]
    return {
        "std of the energy": std["energy"],
        "mean std of the forces": np.array([forces.mean() for forces in per_atom]),
        "largest std of a force": np.array([forces.max() for forces in per_atom]),
    }


def heat(model, frames, temperature, n_steps=400):
    """Return frames after molecular dynamics of the model at a temperature."""
    rng, hot = np.random.default_rng(0), []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = model.calculator()
        spread = np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
        atoms.set_momenta(spread * rng.normal(size=(len(atoms), 3)))
        options = {"temperature_K": temperature, "friction": 0.02 / units.fs, "fixcm": False}
        Langevin(atoms, 0.5 * units.fs, rng=rng, **options).run(n_steps)
        hot.append(atoms.copy())
    return hot


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="training and test structures at 300 K")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.files:
        train, test = (ase.io.read(path, ":") for path in options.files)
        y, test = Targets.from_atoms(train, energy="energy", forces="forces"), test[::10]
        hot = None
    else:
        X, y = load_malonaldehyde(return_X_y=True)
        order = np.random.default_rng(0).permutation(300)
        train, test, hot = [X[k] for k in order[:230]], [X[k] for k in order[230:]], X[300:]
        y = y[order[:230]]
    for seed in range(options.seeds):
        model = SoapBPNNRegressor(num_epochs=options.epochs, random_state=seed).fit(train, y)
        others = heat(model, test, 600) if hot is None else hot
        scores = [score(model, frames) for frames in (test, others)]
        is_hot = np.repeat([0, 1], [len(test), len(others)])
        for name in scores[0]:
            values = np.concatenate([part[name] for part in scores])
            print(f"seed {seed}  {name:24s} AUC {roc_auc_score(is_hot, values):.3f}", flush=True)


if __name__ == "__main__":
    main()
