"""Train metatrain's ``soap_bpnn`` and ``SoapBPNNRegressor`` on the same data, side by side.

Each trains in a separate process, with its default hyperparameters, on the same split and with the
same number of epochs (unless ``--our-epochs`` is given), threads and frames per batch. The table
shows the seconds per epoch (training and validation), their ratio, the seconds of the whole fit,
and the errors on the test file. README.md in this folder describes what exactly is timed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

PARTS = ("train", "val", "test")
PACKAGES = {"metatrain": "metatrain", "ours": "sklearn_soapbpnn"}
JOB = ("epochs", "our_epochs", "batch_size", "device", "species", "optimizer")
WARM_UP = 2  # epochs excluded from the median


def parse_arguments():
    """Return the checked command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="extended XYZ file (.xyz or .xyz.gz) to train on")
    parser.add_argument("test", help="extended XYZ file to compute the errors on")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--our-epochs", type=int, help="epochs of ours, if not the same")
    parser.add_argument("--optimizer", choices=["muon", "adam"], default="muon", help="of ours")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, in turn")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--validation-fraction", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and the first run")
    parser.add_argument("--device", default="cpu")
    encodings = ["orthogonal", "alchemical"]
    parser.add_argument("--species", choices=encodings, default=encodings[0])
    choices = ["energy", "energy+forces"]
    parser.add_argument("--targets", nargs="+", choices=choices, default=choices)
    parser.add_argument("--skip-metatrain", action="store_true", help="time ours alone")
    parser.add_argument("--metatrain-python", default=sys.executable, metavar="PATH")
    arguments = parser.parse_args()
    if arguments.our_epochs is None:
        arguments.our_epochs = arguments.epochs
    if min(arguments.epochs, arguments.our_epochs) <= WARM_UP:
        parser.error(f"--epochs must be above {WARM_UP}, the epochs that are not timed")
    program = shutil.which(arguments.metatrain_python) or arguments.metatrain_python
    arguments.metatrain_python = os.path.abspath(program)
    return arguments


def read_labelled(path):
    """Return the frames of a file, with geometry, energy and forces only."""
    frames = []
    for atoms in ase.io.read(path, ":"):
        cell = atoms.cell if atoms.pbc.any() else None
        clean = ase.Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=atoms.pbc)
        results = {} if atoms.calc is None else atoms.calc.results
        labels = {key: results[key] for key in ("energy", "forces") if key in results}
        clean.calc = SinglePointCalculator(clean, **labels)
        frames.append(clean)
    return frames


def split_files(arguments, folder):
    """Write train.xyz, val.xyz and test.xyz, return the frames of each."""
    frames = read_labelled(arguments.train)
    order = np.random.default_rng(arguments.seed).permutation(len(frames))
    number = max(1, round(arguments.validation_fraction * len(frames)))
    parts = {
        "train": [frames[i] for i in order[number:]],
        "val": [frames[i] for i in order[:number]],
        "test": read_labelled(arguments.test),
    }
    for name, frames in parts.items():
        ase.io.write(folder / f"{name}.xyz", frames, format="extxyz")
    return parts


def metatrain_options(job):
    """Return metatrain's options: its defaults, except for the command-line arguments."""

    def dataset(name):
        energy = {"key": "energy", "unit": "eV", "stress": False, "virial": False}
        energy["forces"] = {"key": "forces"} if job["forces"] else False
        systems = {"read_from": job[name], "length_unit": "angstrom"}
        return {"systems": systems, "targets": {"energy": energy}}

    training = {"num_epochs": job["epochs"], "batch_size": job["batch_size"]}
    return {
        "seed": job["seed"],
        "device": job["device"],
        "architecture": {
            "name": "soap_bpnn",
            "model": {"legacy": job["species"] == "orthogonal"},
            "training": training,
        },
        "training_set": dataset("train"),
        "validation_set": dataset("val"),
        "final_eval": False,
    }


def train_metatrain(job):
    """Run ``mtt train`` in this process and return the seconds of each epoch and of the fit.

    metatrain's log has whole seconds only, and logging every epoch would make its epochs 5 to 9 %
    longer. So the clock is read where the trainer picks the best model, once per epoch.
    """
    import metatrain.soap_bpnn.trainer as module
    from metatrain.__main__ import main

    marks, fit = [], []
    select, train = module.get_selected_metric, module.Trainer.train

    def marked_select(*args, **kwargs):
        marks.append(time.perf_counter())
        return select(*args, **kwargs)

    def timed_train(*args, **kwargs):
        start = time.perf_counter()
        train(*args, **kwargs)
        fit.append(time.perf_counter() - start)

    module.get_selected_metric, module.Trainer.train = marked_select, timed_train
    Path("options.yaml").write_text(json.dumps(metatrain_options(job)))  # JSON is YAML
    sys.argv = ["mtt", "train", "options.yaml"]
    try:
        main()
    except SystemExit:  # of the export, which follows the training, and is not needed
        if not fit:
            raise
    return np.diff(marks, prepend=np.nan), fit[0]  # the first is unknown: it includes start-up


def predict_metatrain(job):
    """Return energies and forces of metatrain's best model on the test file.

    The checkpoint is evaluated in float64. The exported TorchScript model is not used, because its
    forces differed from those of the trained model (metatrain 2026.4.1 with torch 2.13).
    """
    import torch
    from metatrain.utils.data.readers.ase import read_systems
    from metatrain.utils.evaluate_model import evaluate_model
    from metatrain.utils.io import load_model
    from metatrain.utils.neighbor_lists import (
        get_requested_neighbor_lists,
        get_system_with_neighbor_lists,
    )

    model = load_model("model.ckpt").to(torch.float64).eval()
    requested = get_requested_neighbor_lists(model)
    target = {"energy": model.dataset_info.targets["energy"]}
    systems = [get_system_with_neighbor_lists(s, requested) for s in read_systems(job["test"])]
    energies, forces = [], []
    for system in systems:
        block = evaluate_model(model, [system], target, is_training=False)["energy"].block()
        energies.append(block.values.item())
        if job["forces"]:
            forces.append(-block.gradient("positions").values.detach().numpy()[..., 0])
    return energies, forces


def run_metatrain(job):
    """Return seconds per epoch and of the fit, energies and forces of metatrain."""
    return *train_metatrain(job), *predict_metatrain(job)


def run_ours(job):
    """Return seconds per epoch and of the fit, energies and forces of our model."""
    from sklearn_soapbpnn import SoapBPNNRegressor, Targets

    names = ["energy", "forces"] if job["forces"] else ["energy"]
    frames = {part: ase.io.read(job[part], ":") for part in PARTS}
    start = time.perf_counter()
    labels = {p: Targets.from_atoms(frames[p], **dict(zip(names, names))) for p in PARTS[:2]}
    model = SoapBPNNRegressor(
        num_epochs=job["our_epochs"],
        optimizer=job["optimizer"],
        batch_size=job["batch_size"],
        random_state=job["seed"],
        device=job["device"],
        species_encoding=job["species"],
    )
    model.fit(frames["train"], labels["train"], X_val=frames["val"], y_val=labels["val"])
    fit = time.perf_counter() - start
    predicted = model.predict(frames["test"], targets=names)
    forces = predicted["forces"] if job["forces"] else []
    return model.history_[:, "dur"], fit, predicted["energy"], forces


def work(name, path):
    """Run the job described in a file and write its results to the same folder."""
    import torch

    job = json.loads(Path(path).read_text())
    run = {"metatrain": run_metatrain, "ours": run_ours}[name]
    epochs, fit, energy, forces = run(job)
    forces = np.concatenate([np.empty((0, 3)), *forces])
    package = import_module(PACKAGES[name])
    versions = f"{package.__name__} {package.__version__} (torch {torch.__version__})"
    result = {"epochs": epochs, "fit": fit, "energy": energy, "forces": forces}
    np.savez("result.npz", versions=versions, **result)


def launch(name, job, arguments, folder):
    """Run one job in a separate process and return its results."""
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    python = arguments.metatrain_python if name == "metatrain" else sys.executable
    command = [python, str(Path(__file__).resolve()), "--work", name, "job.json"]
    threads = {key: str(arguments.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=folder, env=os.environ | threads, **output)
    if done.returncode:
        raise SystemExit(f"{done.stdout[-3000:]}\n{name} failed; the end of its output is above")
    with np.load(folder / "result.npz") as result:
        return dict(result)


def summarise(result, frames):
    """Return the table entries of one run: seconds, then errors in meV and meV/Angstrom."""
    sizes = np.array([len(atoms) for atoms in frames])
    error = result["energy"].ravel() - [atoms.get_potential_energy() for atoms in frames]
    errors = {"E": error, "E/atom": error / sizes}
    if len(result["forces"]):
        errors["F"] = result["forces"] - np.concatenate([atoms.get_forces() for atoms in frames])
    seconds = result["epochs"][WARM_UP:]
    row = {"s/epoch": np.median(seconds), "fastest": seconds.min(), "fit s": float(result["fit"])}
    for key, value in errors.items():
        row[f"{key} MAE"] = 1000 * np.abs(value).mean()
        row[f"{key} RMSE"] = 1000 * np.sqrt(np.mean(value**2))
    return row


def busy(threads):
    """Return a warning if other processes compete for the cores, otherwise an empty string."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"  (load average {load:.1f}: the times are not reliable)" * (load > threads + 0.3)


def compare(target, arguments, files, frames, folder):
    """Run both models in turn and return the summaries and versions of each."""
    names = ["ours"] if arguments.skip_metatrain else ["metatrain", "ours"]
    rows, versions = {name: [] for name in names}, {}
    for repeat in range(arguments.repeats):
        job = {key: getattr(arguments, key) for key in JOB}
        job |= files | {"forces": target == "energy+forces", "seed": arguments.seed + repeat}
        for name in names:
            result = launch(name, job, arguments, folder / f"{target}-{name}-{repeat}")
            rows[name].append(summarise(result, frames))
            versions[name] = str(result["versions"])
            note = f"{target}, {name}, run {repeat}: {rows[name][-1]['s/epoch']:.3g} s/epoch"
            print(note + busy(arguments.threads), file=sys.stderr)
    return rows, versions


def spread(values, ranged):
    """Return the median of the values, with their range if there are several."""
    median, low, high = (
        f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
        for value in (np.median(values), min(values), max(values))
    )
    return f"{median} [{low}, {high}]" if ranged and len(values) > 1 else median


def print_table(target, rows):
    """Print the summaries of one target set: one line per model and one for the ratios."""
    if len(rows) == 2:
        pairs = zip(rows["metatrain"], rows["ours"])
        ratios = [{key: theirs[key] / ours[key] for key in ours} for theirs, ours in pairs]
        rows = rows | {"metatrain / ours": ratios}
    keys = list(rows["ours"][0])
    table = [[target, *keys]]
    for name, runs in rows.items():
        cells = (spread([run[key] for run in runs], key[-2:] not in ("AE", "SE")) for key in keys)
        table.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*table)]
    print()
    for first, *others in table:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:]))
        print(first.ljust(widths[0]), *cells, sep="  ")


def main():
    """Compare the models for each set of targets and print one table for each set."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        parts = split_files(arguments, folder)
        files = {part: str(folder / f"{part}.xyz") for part in PARTS}
        results = {}
        for target in dict.fromkeys(arguments.targets):
            rows, versions = compare(target, arguments, files, parts["test"], folder)
            results[target] = rows
    print(", ".join(versions.values()))
    print(f"{arguments.threads} threads on {arguments.device}{busy(arguments.threads)}")
    sizes = " + ".join(f"{len(parts[part])} {part}" for part in PARTS)
    print(f"{sizes} frames, {arguments.epochs} epochs, batches of {arguments.batch_size}")
    print("median [min, max] of the runs, errors in meV, forces meV/Angstrom, on the test frames")
    for target, rows in results.items():
        print_table(target, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:4])
    else:
        main()
