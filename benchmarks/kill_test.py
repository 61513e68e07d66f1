"""Kill fits at random moments, resume from their checkpoints, and compare the weights bit by bit.

Each fit runs in a separate process, writes a checkpoint after every epoch, and is killed with
SIGKILL, alternately at a random moment and while a checkpoint is being written. Every checkpoint
that it leaves must be readable, and the resumed fit must end with bitwise the same weights as an
uninterrupted one. Exits with status 1 otherwise.
"""

import argparse
import random
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from skorch.callbacks import Callback

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.training import load_checkpoint

PATIENCE = 60  # seconds that a fit may take to start


class CountEpochs(Callback):
    """Write a byte to a file after every epoch, so that other processes can follow the fit."""

    def __init__(self, path):
        self.path = path

    def on_train_begin(self, net, **kwargs):
        self.path.touch()

    def on_epoch_end(self, net, **kwargs):
        with self.path.open("ab", buffering=0) as file:
            file.write(b".")


def fit(folder, arguments, resume=False):
    """Fit energies and forces; the network is wide, so that writing a checkpoint takes a while."""
    torch.set_num_threads(1)
    X, y = load_malonaldehyde(return_X_y=True)
    X, y = X[: arguments.structures], y[: arguments.structures]
    model = SoapBPNNRegressor(
        max_angular=2,
        num_neurons_per_layer=arguments.width,
        num_epochs=arguments.epochs,
        random_state=0,
        checkpoint_dir=folder,
        checkpoint_interval=1,
        callbacks=[CountEpochs(folder / "epochs")],
    )
    return model.fit(X, y, resume=resume)


def kill(folder, arguments, choose):
    """Start a fit, kill it, and return a description of the moment and the epochs completed."""
    process = CONTEXT.Process(target=fit, args=(folder, arguments))
    process.start()
    epochs = folder / "epochs"
    wait_for(process, epochs.exists)
    after = choose.randrange(arguments.epochs)
    wait_for(process, lambda: epochs.stat().st_size >= after)
    if choose.writing:
        wait_for(process, lambda: any(folder.glob("*.part")), pause=0.0)
        # at any point between the first byte and the last
        time.sleep(choose.uniform(0.0, choose.seconds_to_write))
        moment = f"writing {after + 1}"
    else:
        seconds = choose.uniform(0.0, arguments.seconds / arguments.epochs)
        time.sleep(seconds)
        moment = f"{1000 * seconds:.0f} ms after {after}"
    process.kill()
    process.join()
    if process.exitcode > 0:
        raise RuntimeError(f"A fit failed with exit code {process.exitcode}.")
    return moment + ", over" * (process.exitcode == 0), epochs.stat().st_size


def wait_for(process, condition, pause=0.001):
    """Wait until a condition holds or the process has ended."""
    start = time.monotonic()
    while process.is_alive() and not condition():
        if time.monotonic() - start > PATIENCE:
            process.kill()
            raise TimeoutError(f"A fit did nothing for {PATIENCE} s.")
        time.sleep(pause)


def read(folder):
    """Return the number of epochs in the checkpoint of a killed fit, or None without a checkpoint.

    Raises ValueError if it cannot be read.
    """
    found = [load_checkpoint(path, "cpu") for path in folder.glob("*.checkpoint")]
    return len(found[0]["history"]) if found else None


def outcome(model):
    """Return everything that must not depend on whether the fit was killed."""
    weights = {
        name: tensor.numpy().tobytes() for name, tensor in model.module_.state_dict().items()
    }
    history = [{k: v for k, v in epoch.items() if k != "dur"} for epoch in model.history_]
    return weights, history


class Chooser(random.Random):
    """Choose a moment; ``writing`` says whether the next one is while a checkpoint is written."""

    writing = False
    seconds_to_write = 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--width", type=int, default=256, help="neurons per layer")
    parser.add_argument("--structures", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None, help="seed of the random moments")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    choose = Chooser(seed)
    with tempfile.TemporaryDirectory() as parent:
        parent = Path(parent)
        folder = parent / "reference"
        folder.mkdir()
        fit(folder, arguments)  # the first fit of a process is slow
        start = time.perf_counter()
        model = fit(folder, arguments)
        arguments.seconds = time.perf_counter() - start
        expected = outcome(model)
        (path,) = folder.glob("*.checkpoint")
        state = load_checkpoint(path, "cpu")
        start = time.perf_counter()
        torch.save(state, parent / "again")
        choose.seconds_to_write = time.perf_counter() - start
        size = path.stat().st_size / 1024**2
        print(
            f"{arguments.epochs} epochs in {arguments.seconds:.1f} s with checkpoints of "
            f"{size:.1f} MiB; seed {seed}"
        )
        print(
            f"{'moment':>24}{'epochs done':>13}{'resumed from':>14}{'.part left':>12}{'equal':>7}"
        )
        all_equal = True
        for k in range(arguments.kills):
            folder = parent / str(k)
            folder.mkdir()
            choose.writing = bool(k % 2)
            moment, done = kill(folder, arguments, choose)
            found = read(folder)
            left = len(list(folder.glob("*.part")))
            model = fit(folder, arguments, resume=True)
            weights, history = outcome(model)
            equal = (weights, history) == expected and not any(folder.glob("*.part"))
            all_equal &= equal
            resumed = "start" if found is None else found
            print(f"{moment:>24}{done:>13}{resumed:>14}{left:>12}{'yes' if equal else 'NO':>7}")
            sys.stdout.flush()
    print("all equal" if all_equal else "NOT all equal")
    return 0 if all_equal else 1


# a server that has already imported the library forks one process for each fit
CONTEXT = get_context("forkserver")

if __name__ == "__main__":
    CONTEXT.set_forkserver_preload(["sklearn_soapbpnn", "sklearn_soapbpnn.datasets"])
    sys.exit(main())
