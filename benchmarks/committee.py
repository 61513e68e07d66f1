"""How long a committee of networks trains, in units of the time of a single one.

    python benchmarks/committee.py train.xyz
    python benchmarks/committee.py train.xyz --quality test.xyz --epochs 100

Fits of committees of several sizes alternate, on energies and forces. Printed are the seconds of an
epoch, medians over all epochs but the first of all repeats, and their ratio to those of a single
network. With --quality also the errors of a committee, and of each of its networks.
"""

import argparse
import statistics
from dataclasses import replace

import ase.io
import torch
from sklearn.base import clone

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.metrics import summarize_errors
from sklearn_soapbpnn.nn import SoapBPNN
from sklearn_soapbpnn.training import read_parameters

NAMES = ("energy", "forces")


def read(path):
    """Return structures and their labels."""
    frames = ase.io.read(path, ":")
    return frames, Targets.from_atoms(frames, energy="energy", forces="forces")


def measure_times(X, y, options):
    """Print the time of an epoch for each number of networks."""
    seconds = {n: [] for n in options.networks}
    for repeat in range(options.repeats):
        for n, found in seconds.items():
            model = SoapBPNNRegressor(
                n_networks=n, num_epochs=options.epochs, random_state=repeat
            ).fit(X, y)
            found += model.history_[1:, "dur"]
    single = statistics.median(seconds[min(seconds)])
    for n, found in seconds.items():
        median = statistics.median(found)
        print(f"{n:3d} networks  {median:8.3f} s/epoch  {median / single:5.2f} times the first")


def take_network(model, k):
    """Return a model with one of the networks of a committee, which share no weights."""
    fitted, single = model.fitted_, clone(model).set_params(n_networks=1)
    architecture = read_parameters(single).architecture
    network = SoapBPNN(model.elements_, fitted.steps.parameters, model.kinds_, architecture, 0)
    weights = model.module_.state_dict()
    network.load_state_dict({name: w[k :: model.n_networks] for name, w in weights.items()})
    return single.set_fitted(replace(fitted, network=network.eval()))


def compare_errors(X, y, options):
    """Print the test errors of a committee and of its networks."""
    n = max(options.networks)
    model = SoapBPNNRegressor(n_networks=n, num_epochs=options.epochs, random_state=0).fit(X, y)
    X_test, y_test = read(options.quality)
    models = {f"network {k}": take_network(model, k) for k in range(n)}
    for title, each in {**models, f"committee of {n}": model}.items():
        errors = summarize_errors(X_test, y_test, each.predict(X_test, targets=NAMES))
        rmse = "  ".join(f"{name} {1000 * errors[name]['rmse']:8.2f}" for name in NAMES)
        print(f"{title:16s} rmse, in thousandths: {rmse}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("train")
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quality", metavar="test.xyz")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    X, y = read(options.train)
    if options.quality:
        compare_errors(X, y, options)
    else:
        measure_times(X, y, options)


if __name__ == "__main__":
    main()
