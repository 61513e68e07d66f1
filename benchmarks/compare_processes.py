"""Train in one process and in several processes that share every batch, and compare the losses.

The processes are started by torchrun and communicate through gloo (nccl on GPUs). The data are the
Cu-Au alloys of the package with energies, forces and stress; ten epochs. Prints the largest
relative difference of any training loss, validation loss or error, and the median time per epoch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.datasets import load_cuau


def fit(path, arguments):
    """Fit in this process, alone or as one of several; the first one writes the history."""
    torch.set_num_threads(1)
    X, y = load_cuau(return_X_y=True)
    model = SoapBPNNRegressor(
        num_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        distributed=arguments.processes > 1,
        random_state=0,
    ).fit(X, y)
    names = [name for name in model.history_[-1] if name.startswith(("train_", "valid_"))]
    history = {name: [float(value) for value in model.history_[:, name]] for name in names}
    history["dur"] = model.history_[:, "dur"]
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    path.write_text(json.dumps(history))


def measure(n_processes, dtype, arguments, folder):
    """Return the history of a fit in ``n_processes`` processes."""
    path = Path(folder) / f"{n_processes}.json"
    script = [__file__, "--fit", str(path), "--processes", str(n_processes), "--dtype", dtype]
    script += ["--epochs", str(arguments.epochs), "--batch-size", str(arguments.batch_size)]
    launch = [sys.executable]
    if n_processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc-per-node={n_processes}"]
    subprocess.run([*launch, *script], check=True, capture_output=True)
    return json.loads(path.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=7)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        fit(arguments.fit, arguments)
        return
    print(f"{'':10}{'processes':>10}{'s/epoch':>10}{'largest relative difference':>30}")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float64"):
            alone = None
            for n_processes in (1, arguments.processes):
                history = measure(n_processes, dtype, arguments, folder)
                seconds = statistics.median(history.pop("dur"))
                alone = alone or history
                values, expected = (np.array([*h.values()]) for h in (history, alone))
                difference = np.abs(values - expected) / np.maximum(np.abs(expected), 1e-12)
                line = f"{dtype:10}{n_processes:10}{seconds:10.3f}"
                line += f"{difference.max():30.1e}" if n_processes > 1 else ""
                print(line, flush=True)


if __name__ == "__main__":
    main()
