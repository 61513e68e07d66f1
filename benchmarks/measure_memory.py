"""Measure the peak resident memory of training on N and on 10 N structures read from a file.

Each fit runs in a separate process, on rattled alloys that the script writes as extended XYZ. There
are three modes: all descriptors in memory; a ``memory_limit``, so that the descriptors are computed
for each batch; and a ``memory_limit`` together with a folder in which a featuriser stores them. The
last column is the additional memory for each additional structure, per atom.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

MIB = 1024**2
ATOMS = 32
MODES = ("in memory", "limited", "limited, on disk")


def write_frames(path, n_structures):
    """Write alloys of 32 atoms with energies and forces."""
    rng = np.random.default_rng(0)
    with open(path, "w") as file:
        for _ in range(n_structures):
            atoms = bulk("Cu", a=3.8, cubic=True) * 2
            atoms.numbers = rng.choice([29, 79], len(atoms))
            atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
            calculator = EMT()
            atoms.calc = calculator
            results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **results)
            ase.io.write(file, atoms, format="extxyz")


def read_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(path, mode, limit, epochs):
    """Fit in this process and print the memory and time used."""
    import time

    from sklearn.pipeline import make_pipeline

    from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, Targets
    from sklearn_soapbpnn.data import open_frames

    before = read_peak()
    X = open_frames(path)
    y = Targets.from_atoms(X, energy="energy", forces="forces")
    options = {} if mode == "in memory" else {"memory_limit": limit * MIB, "num_workers": 0}
    model = SoapBPNNRegressor(num_epochs=epochs, random_state=0, **options)
    if "disk" in mode:
        model = make_pipeline(SoapFeaturizer(memory=path.with_suffix("")), model)
    start = time.perf_counter()
    model.fit(X, y)
    seconds = (time.perf_counter() - start) / epochs
    print(json.dumps({"before": before, "peak": read_peak(), "seconds": seconds}))


def measure(path, mode, arguments):
    """Fit in another process; return the peak before and during the fit, and the time per epoch."""
    command = [sys.executable, __file__, "--train", str(path), mode]
    command += ["--epochs", str(arguments.epochs), "--limit", str(arguments.limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--structures", type=int, default=300, help="N, the smaller number of structures"
    )
    parser.add_argument("--limit", type=float, default=64, help="memory_limit in MiB")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train", nargs=2, metavar=("FILE", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        path, mode = arguments.train
        train(Path(path), mode, arguments.limit, arguments.epochs)
        return
    print(f"memory_limit {arguments.limit} MiB, structures of {ATOMS} atoms, peaks in MiB")
    print(f"{'':20}{'structures':>12}{'before':>10}{'peak':>10}{'s/epoch':>10}{'kB/atom':>10}")
    with tempfile.TemporaryDirectory() as folder:
        counts = (arguments.structures, 10 * arguments.structures)
        for n_structures in counts:
            write_frames(Path(folder) / f"{n_structures}.xyz", n_structures)
        for mode in MODES:
            peaks = []
            for n_structures in counts:
                result = measure(Path(folder) / f"{n_structures}.xyz", mode, arguments)
                peaks.append(result["peak"])
                line = f"{mode:20}{n_structures:12}{result['before']:10.0f}{result['peak']:10.0f}"
                line += f"{result['seconds']:10.2f}"
                if len(peaks) == 2:
                    grown = (peaks[1] - peaks[0]) * MIB / (counts[1] - counts[0]) / ATOMS
                    line += f"{grown / 1000:10.2f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
