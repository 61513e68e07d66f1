"""Choose the structures to label next by several rules, and compare with random ones.

Prints the errors on test structures against the number of labels, medians over some seeds, each of
which draws pool and test structures, the first random choice, and the initial weights. After each
batch a new model is trained on all labelled structures, with the same number of steps whatever
their number is. The last column is the smallest number of labels with which the median error of a
rule is that of all the random structures. See README.md in this folder.
"""

import argparse
import statistics
import sys
import warnings

import ase.io
import numpy as np
import torch
from ase.calculators.emt import EMT

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, Targets
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.datasets.scripts._write import label
from sklearn_soapbpnn.datasets.scripts.make_cuau_emt import ORDERS, VACANCY_EVERY, build
from sklearn_soapbpnn.metrics import PER_ATOM, summarize_errors
from sklearn_soapbpnn.selection import select_batch, select_farthest, select_uncertain

SOAP = {"max_radial": 5, "max_angular": 4}
LABELS = {"energy": "energy", "forces": "forces"}
# name of an error: target, metric
ERRORS = {
    "energy RMSE": (PER_ATOM, "rmse"),
    "forces RMSE": ("forces", "rmse"),
    "forces MAE": ("forces", "mae"),
}


def make_alloys():
    """Return more of the alloys that the package ships, labelled by EMT."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(500):
        vacancy = k % VACANCY_EVERY == VACANCY_EVERY - 1
        atoms = build(ORDERS[k % len(ORDERS)], vacancy, rng)
        label(atoms, EMT(), ["energy", "forces"])
        frames.append(atoms)
    return frames


# name of the data: structures, number of test structures
DATA = {
    "malonaldehyde": (lambda: load_malonaldehyde().data, 150),
    "alloys": (make_alloys, 200),
}


def choose_random(model, pool, labelled, n, rng):
    return rng.permutation(len(pool))[:n]


def choose_farthest(model, pool, labelled, n, rng):
    featurizer = SoapFeaturizer(**SOAP).fit([*pool, *labelled])
    return select_farthest(featurizer, pool, n, labelled=labelled or None)


def choose_uncertain(model, pool, labelled, n, rng):
    return select_uncertain(model, pool, n)


def choose_batch(model, pool, labelled, n, rng):
    return select_batch(model, pool, n)


# all but random choices start with the structures that are farthest from each other
RULES = {
    "random": (choose_random, choose_random),
    "uncertain": (choose_farthest, choose_uncertain),
    "farthest": (choose_farthest, choose_farthest),
    "batch": (choose_farthest, choose_batch),
}


def parse_arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=[*DATA])
    parser.add_argument("--file", help="extended XYZ file to use instead, with energy and forces")
    parser.add_argument("--n-test", type=int, default=200, help="test structures of the file")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=[*RULES])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", type=int, default=30, help="structures before the first batch")
    parser.add_argument("--batch", type=int, default=30, help="structures of a batch")
    parser.add_argument("--random", type=int, default=150, help="number of random structures")
    parser.add_argument("--most", type=int, default=90, help="number of chosen structures")
    parser.add_argument("--visits", type=int, default=3000, help="epochs times structures of a fit")
    return parser.parse_args()


def train(frames, test, visits, seed):
    """Return a model of labelled structures, and its errors in meV and meV/Angstrom."""
    num_epochs = max(1, round(visits / len(frames)))
    model = SoapBPNNRegressor(**SOAP, num_epochs=num_epochs, random_state=seed)
    model.fit(frames, Targets.from_atoms(frames, **LABELS))
    known, predicted = Targets.from_atoms(test, **LABELS), model.predict(test, targets=[*LABELS])
    errors = summarize_errors(test, known, predicted)
    return model, [1000 * errors[target][metric] for target, metric in ERRORS.values()]


def learn(rules, pool, test, arguments, seed):
    """Return the errors of each rule, by the number of labels."""

    def fit(chosen):
        return train([pool[k] for k in chosen], test, arguments.visits, seed)

    curves, starts = {}, {}
    for rule in rules:
        first, choose = RULES[rule]
        rng = np.random.default_rng(seed)
        if first not in starts:
            chosen = first(None, pool, [], arguments.start, rng).tolist()
            starts[first] = chosen, *fit(chosen)
        chosen, model, errors = starts[first]
        curves[rule] = {arguments.start: errors}
        most = arguments.random if rule == "random" else arguments.most
        for n in range(arguments.start + arguments.batch, most + 1, arguments.batch):
            rest = np.setdiff1d(np.arange(len(pool)), chosen)
            parts = [pool[k] for k in rest], [pool[k] for k in chosen]
            chosen = [*chosen, *rest[choose(model, *parts, arguments.batch, rng)].tolist()]
            model, curves[rule][n] = fit(chosen)
    return curves


def print_table(title, curves, arguments):
    """Print medians over the seeds for each rule and number of labels, and the numbers needed."""
    for k, name in enumerate(ERRORS):
        unit = "meV" if "energy" in name else "meV/Angstrom"
        numbers = range(arguments.start, arguments.random + 1, arguments.batch)
        reached = f"as {arguments.random} random"
        print(f"\n{title}: {name}{' per atom' if unit == 'meV' else ''}, {unit}")
        print("".join([f"{'labels':14}", *(f"{n:>8}" for n in numbers), f"{reached:>18}"]))
        goal = None
        for rule, results in curves.items():
            medians = {n: statistics.median(curve[n][k] for curve in results) for n in results[0]}
            goal = medians[max(medians)] if goal is None else goal
            needed = next((n for n, error in medians.items() if error <= goal), None)
            cells = [f"{medians[n]:8.4g}" if n in medians else f"{'':8}" for n in numbers]
            needed = f"> {arguments.most}" if needed is None else needed
            print("".join([f"{rule:14}", *cells, f"{needed:>18}"]), flush=True)


def main():
    arguments = parse_arguments()
    # the numbers needed are those of the goal that random choices set
    arguments.rules = ["random", *(rule for rule in arguments.rules if rule != "random")]
    torch.set_num_threads(1)
    # short fits may be no better than the baseline
    warnings.simplefilter("ignore")
    data = {name: DATA[name] for name in arguments.data}
    if arguments.file is not None:
        data = {arguments.file: (lambda: ase.io.read(arguments.file, ":"), arguments.n_test)}
    for name, (load, n_test) in data.items():
        frames = load()
        curves = {rule: [] for rule in arguments.rules}
        for seed in range(arguments.seeds):
            order = np.random.default_rng(seed).permutation(len(frames))
            test, pool = ([frames[k] for k in part] for part in np.split(order, [n_test]))
            for rule, curve in learn(arguments.rules, pool, test, arguments, seed).items():
                curves[rule].append(curve)
                errors = {n: [float(f"{error:.3g}") for error in row] for n, row in curve.items()}
                print(f"{name}, seed {seed}, {rule}: {errors}", file=sys.stderr, flush=True)
        title = f"{name}, {arguments.seeds} seeds, {len(frames) - n_test} structures in the pool"
        print_table(title, curves, arguments)


if __name__ == "__main__":
    main()
