"""Train with one optimizer after the other, on the same data from the same initial weights.

Prints the errors on the test structures and the seconds of an epoch: medians over some seeds, each
of which sets initial weights, validation structures and the order of the batches. Without files,
the data sets that the library ships are used, four fifths of each for training. See README.md in
this folder.
"""

import argparse
import statistics
import sys
import warnings

import ase.io
import numpy as np
import torch
from skorch.callbacks import Callback

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.datasets import load_cuau, load_malonaldehyde

LABELS = {"energy": "energy", "forces": "forces"}
SHIPPED = {"malonaldehyde": load_malonaldehyde, "CuAu": load_cuau}
COLUMNS = ("E MAE", "E RMSE", "E RMSE/atom", "F MAE", "F RMSE", "s/epoch")


class Average(Callback):
    """Validate, and keep, a running mean of the weights (EMA)."""

    def __init__(self, decay):
        self.decay = decay

    def on_train_begin(self, net, **kwargs):
        self.means = [weight.detach().clone() for weight in net.module_.parameters()]
        self.is_swapped = False

    def on_batch_begin(self, net, training=None, **kwargs):
        if not training and not self.is_swapped:
            self._swap(net)

    @torch.no_grad()
    def on_batch_end(self, net, training=None, **kwargs):
        if training:
            torch._foreach_lerp_(self.means, [*net.module_.parameters()], 1 - self.decay)

    def on_epoch_end(self, net, **kwargs):
        # the best epoch is stored already
        if self.is_swapped:
            self._swap(net)

    @torch.no_grad()
    def _swap(self, net):
        for mean, weight in zip(self.means, net.module_.parameters()):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)
        self.is_swapped = not self.is_swapped


class Soap(torch.optim.Optimizer):
    """Adam in the eigenbasis of Shampoo's two matrices (Vyas et al., arXiv:2409.11321)."""

    largest, interval = 256, 10

    def __init__(self, params, lr, betas=(0.95, 0.95), eps=1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group)
        return loss

    def _step(self, weight, gradient, group):
        first, second = group["betas"]
        state = self.state[weight]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(weight)}
            state |= {"square": torch.zeros_like(weight), "covariances": {}, "bases": {}}
        sides = [k for k in (1, 2) if weight.ndim == 3 and 1 < weight.shape[k] <= self.largest]
        for k in sides:
            g = gradient if k == 1 else gradient.mT
            covariance = torch.bmm(g, g.mT)
            state["covariances"].setdefault(k, covariance.clone()).lerp_(covariance, 1 - second)
            if state["step"] % self.interval == 0:
                state["bases"][k] = torch.linalg.eigh(state["covariances"][k])[1]
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        rotated = _rotate(gradient, state["bases"])
        state["square"].lerp_(rotated.square(), 1 - second)
        mean = _rotate(state["mean"], state["bases"]) / (1 - first ** state["step"])
        square = state["square"] / (1 - second ** state["step"])
        step = mean / (square.sqrt() + group["eps"])
        weight.sub_(group["lr"] * _rotate(step, state["bases"], back=True))


def _rotate(X, bases, back=False):
    for k, Q in bases.items():
        Q = Q.mT if back else Q
        X = torch.bmm(Q.mT, X) if k == 1 else torch.bmm(X, Q)
    return X


def choose(optimizer, **options):
    options = {f"optimizer__{name}": value for name, value in options.items()}
    return {"net_params": {"optimizer": optimizer, **options}}


OPTIMIZERS = {
    "adam": lambda: {"optimizer": "adam"},
    "adam-average": lambda: {"optimizer": "adam", "callbacks": [Average(0.99)]},
    "adamw": lambda: choose(torch.optim.AdamW, weight_decay=0.1, fused=True),
    "muon": lambda: {"optimizer": "muon"},
    "muon-average": lambda: {"optimizer": "muon", "callbacks": [Average(0.99)]},
    "muon-no-decay": lambda: {"optimizer": "muon", "net_params": {"optimizer__weight_decay": 0.0}},
    "muon-rough": lambda: {"optimizer": "muon", "net_params": {"optimizer__smoothness": 0.0}},
    "muon-batches": lambda: {"optimizer": "muon", "batch_size": 32, "learning_rate": 2e-3},
    "soap": lambda: choose(Soap),
    # docs/recipes.md; their number of epochs is --epochs
    "molecules": lambda: {
        "layernorm": False,
        "radial_scale": 3.0,
        "num_neurons_per_layer": 128,
        "validation_fraction": 0.05,
    },
    "solids": lambda: {
        "layernorm": False,
        "radial_scale": 2.0,
        "loss": {"energy": {"weight": 3.0, "forces": {}}},
        "net_params": {"optimizer__smoothness": 3.0},
    },
}


def parse_arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", help="extended XYZ file to train on, with energy and forces")
    parser.add_argument("--test", help="extended XYZ file to compute the errors on")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=[*OPTIMIZERS])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if (arguments.train is None) != (arguments.test is None):
        parser.error("--train and --test belong together")
    return arguments


def read_data(arguments):
    """Return the structures to train on and to test with, by the name of the data."""
    if arguments.train is not None:
        files = arguments.train, arguments.test
        return {arguments.train: [ase.io.read(path, ":") for path in files]}
    data = {}
    for name, load in SHIPPED.items():
        frames = load().data
        order = np.random.default_rng(0).permutation(len(frames))
        n_test = len(frames) // 5
        data[name] = [frames[k] for k in order[n_test:]], [frames[k] for k in order[:n_test]]
    return data


def train(options, train, test, epochs, seed):
    """Return what the table shows of one fit: errors in meV and meV/Angstrom, and seconds."""
    model = SoapBPNNRegressor(num_epochs=epochs, random_state=seed, **options)
    model.fit(train, Targets.from_atoms(train, **LABELS))
    known = Targets.from_atoms(test, **LABELS)
    predicted = model.predict(test, targets=[*LABELS])
    energy = 1000 * (predicted["energy"] - known["energy"])
    forces = 1000 * (np.concatenate(predicted["forces"]) - np.concatenate(known["forces"]))
    errors = (energy, energy / [len(atoms) for atoms in test], forces)
    (e_mae, e_rmse), (_, per_atom), (f_mae, f_rmse) = (
        (np.abs(error).mean(), np.sqrt(np.mean(error**2))) for error in errors
    )
    return e_mae, e_rmse, per_atom, f_mae, f_rmse, np.median(model.history_[:, "dur"])


def print_table(title, rows):
    """Print medians, and their ratios to the first line."""
    print(f"\n{title}; meV, meV/Angstrom, seconds; in brackets in units of the first line")
    print("".join([f"{'':14}", *(f"{name:>17}" for name in COLUMNS)]))
    first = None
    for name, results in rows.items():
        medians = [statistics.median(values) for values in zip(*results)]
        first = first or medians
        cells = [f"{value:9.3g} ({value / one:4.2f})" for value, one in zip(medians, first)]
        print("".join([f"{name:14}", *(f"{cell:>17}" for cell in cells)]), flush=True)


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    # short fits may be no better than the baseline
    warnings.simplefilter("ignore")
    for data, (known, unknown) in read_data(arguments).items():
        rows = {name: [] for name in arguments.optimizers}
        for seed in range(arguments.seeds):
            for name in arguments.optimizers:
                options = OPTIMIZERS[name]()
                rows[name].append(train(options, known, unknown, arguments.epochs, seed))
                values = zip(COLUMNS, rows[name][-1])
                values = ", ".join(f"{column} {value:.4g}" for column, value in values)
                print(f"{data}, {name}, seed {seed}: {values}", file=sys.stderr, flush=True)
        lengths = f"{arguments.epochs} epochs, {arguments.seeds} seeds"
        print_table(f"{data}: {len(known)} structures, {lengths}", rows)


if __name__ == "__main__":
    main()
