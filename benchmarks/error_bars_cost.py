"""What error bars cost, in units of what they are added to.

    python benchmarks/error_bars_cost.py TRAIN.xyz [--epochs 3] [--repeats 7]

A model is trained on energies and forces of the file for some epochs. Printed are the time of the
error bars at the end of the fit, in epochs; that of predictions with standard deviations, in units
of predictions without; and that of 64 members, in units of 64 predictions. Predictions are repeated
in alternation, and the times are medians of processor time per atom, in one thread.
"""

import argparse
import time
import warnings
from unittest import mock

import ase.io
import numpy as np
import torch

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.training import _fit

N_MEMBERS = 64


def fit(frames, epochs):
    """Return a model, and the times of an epoch and of the error bars."""
    times = []

    def measure(*args, **kwargs):
        start = time.perf_counter()
        error_bars = unmeasured(*args, **kwargs)
        times.append(time.perf_counter() - start)
        return error_bars

    unmeasured = _fit.fit_error_bars
    y = Targets.from_atoms(frames, energy="energy", forces="forces")
    with mock.patch.object(_fit, "fit_error_bars", measure):
        model = SoapBPNNRegressor(num_epochs=epochs, random_state=0).fit(frames, y)
    return model, np.median(model.net_.history[:, "dur"]), times[-1]


def measure_in_turn(calls, repeats):
    """Return the median time of each call."""
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            times[name].append(time.thread_time() - start)
    return {name: np.median(list_of_times[1:]) for name, list_of_times in times.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("train", help="extended XYZ file with energies and forces")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--atoms", type=int, default=2000, help="atoms that are predicted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that few epochs are too few

    frames = ase.io.read(options.train, ":")
    fit(frames, 1)  # compiles
    model, epoch, bars = fit(frames, options.epochs)
    print(f"error bars of a fit: {bars:.2f} s, {bars / epoch:.2f} epochs of {epoch:.2f} s")
    n = np.searchsorted(np.cumsum([len(atoms) for atoms in frames]), options.atoms)
    some = frames[: max(1, n)]
    n_atoms = sum(len(atoms) for atoms in some)

    for names in (["energy"], ["energy", "forces"]):
        calls = {
            "alone": lambda names=names: model.predict(some, targets=names),
            "std": lambda names=names: model.predict(some, targets=names, return_std=True),
            "members": lambda names=names: model.predict(some, targets=names, n_samples=N_MEMBERS),
        }
        times = measure_in_turn(calls, options.repeats)
        alone, std, members = times.values()
        print(
            f"{' and '.join(names)}: {alone / n_atoms * 1e6:.1f} us an atom; "
            f"with standard deviations {std / n_atoms * 1e6:.1f} us, {std / alone:.2f} times; "
            f"{N_MEMBERS} members {members / n_atoms * 1e6:.1f} us, "
            f"{members / alone / N_MEMBERS:.3f} of as many predictions"
        )


if __name__ == "__main__":
    main()
