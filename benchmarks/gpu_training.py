"""Seconds per epoch and peak memory of training on a GPU, ours and metatrain's.

Each fit is a process of its own, with default hyperparameters, on energies and forces of the data
sets that ship with the package. Their structures are repeated, slightly rattled: labels then mean
little, but the time of an epoch does not depend on them.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

DATA = {"molecules": "load_malonaldehyde", "alloys": "load_cuau"}
WARM_UP = 2  # epochs that are not timed
ROW = "{:>10}{:>7}{:>11}{:>12}{:>10}{:>10}{:>10}"


def parse_arguments():
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--structures", type=int, default=1024, help="of each data set")
    parser.add_argument("--validation", type=int, default=64, help="structures for validation")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512, 8])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--species", default="orthogonal", choices=["orthogonal", "alchemical"])
    parser.add_argument("--optimizer", default="adam", choices=["adam", "muon"], help="ours")
    parser.add_argument("--skip-metatrain", action="store_true")
    return parser.parse_args()


def write_structures(name, n_structures, path, seed):
    """Write labelled structures of a data set, as often as needed."""
    from sklearn_soapbpnn import datasets

    X, y = getattr(datasets, DATA[name])(return_X_y=True)
    energies, forces = y["energy"], y["forces"]
    rng, frames = np.random.default_rng(seed), []
    for k in rng.permutation(np.arange(n_structures) % len(X)):
        atoms = X[k].copy()
        atoms.positions += rng.normal(scale=0.005, size=(len(atoms), 3))
        labels = {"energy": float(energies[k]), "forces": np.asarray(forces[k])}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return len(np.concatenate([atoms.numbers for atoms in frames])) / n_structures


def run_ours(job):
    """Return the seconds of each epoch and of the whole fit."""
    from sklearn_soapbpnn import SoapBPNNRegressor, Targets

    frames = {part: ase.io.read(job[part], ":") for part in ("train", "val")}
    start = time.perf_counter()
    names = {"energy": "energy", "forces": "forces"}
    labels = {part: Targets.from_atoms(frames[part], **names) for part in frames}
    model = SoapBPNNRegressor(
        num_epochs=job["epochs"],
        batch_size=job["batch_size"],
        device=job["device"],
        species_encoding=job["species"],
        optimizer=job["optimizer"],
        random_state=0,
    )
    model.fit(frames["train"], labels["train"], X_val=frames["val"], y_val=labels["val"])
    return model.history_[:, "dur"], time.perf_counter() - start


def run_metatrain(job):
    """Return the same of metatrain; the first epoch is unknown."""
    from compare_metatrain import train_metatrain

    return train_metatrain(job)


def work(which, path):
    """Run the job that a file describes, and write its times and the peak memory to another."""
    import torch

    job = json.loads(Path(path).read_text())
    epochs, fit = {"metatrain": run_metatrain, "ours": run_ours}[which](job)
    on_gpu = torch.cuda.is_available()
    memory = torch.cuda.max_memory_allocated() if on_gpu else 0
    epochs = [float(seconds) for seconds in epochs]
    result = {"epochs": epochs, "fit": float(fit), "memory": memory}
    Path("result.json").write_text(json.dumps(result))


def launch(which, job, folder):
    """Run a job in another process; return its result, or None if it failed."""
    run = Path(tempfile.mkdtemp(dir=folder))
    (run / "job.json").write_text(json.dumps(job))
    command = [sys.executable, str(Path(__file__).resolve()), "--work", which, "job.json"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=run, **output)
    if done.returncode:
        print(f"{which} failed:\n{done.stdout[-2000:]}", flush=True)
        return None
    return json.loads((run / "result.json").read_text())


def report(which, name, job, result, n_structures):
    """Print a line of the table."""
    epoch = np.median(result["epochs"][WARM_UP:])
    n_steps = -(-n_structures // job["batch_size"])
    # what a fit does before the first epoch; metatrain's first epoch is in it
    before = result["fit"] - np.nansum(result["epochs"])
    cells = name, job["batch_size"], which, f"{epoch:.4f}", f"{1000 * epoch / n_steps:.2f}"
    print(ROW.format(*cells, f"{before:.1f}", f"{result['memory'] / 2**20:.0f}"), flush=True)


def main():
    """Train on both data sets with each size of the batches, ours before metatrain's."""
    arguments = parse_arguments()
    job = {key: getattr(arguments, key) for key in ("device", "epochs", "species", "optimizer")}
    job |= {"forces": True, "seed": 0}
    programs = ["ours"]
    if importlib.util.find_spec("metatrain") is None:
        print("metatrain is not installed")
    elif not arguments.skip_metatrain:
        programs.append("metatrain")
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in DATA:
            files[name] = {
                part: str(Path(folder, f"{name}-{part}.xyz")) for part in ("train", "val")
            }
            mean = write_structures(name, arguments.structures, files[name]["train"], 0)
            write_structures(name, arguments.validation, files[name]["val"], 1)
            print(f"{arguments.structures} {name} of {mean:.1f} atoms to train on")
        titles = "batch", "", "s/epoch", "ms/step", "before s", "peak MiB"
        print(f"{arguments.device}, {arguments.species}, ours with {arguments.optimizer}")
        print(ROW.format("", *titles))
        for which in programs:
            for size in arguments.batches:
                for name in DATA:
                    one = {**job, **files[name], "batch_size": size}
                    result = launch(which, one, folder)
                    if result is not None:
                        report(which, name, one, result, arguments.structures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:4])
    else:
        main()
