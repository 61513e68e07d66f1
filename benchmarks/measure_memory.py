"""Peak resident memory while training on N and on 10 N structures, read from a file.

Each fit runs in a process of its own, on rattled alloys that the script writes as extended XYZ:
with all descriptors in memory, and with a ``memory_limit``, beyond which they are made for each
batch.
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


def train(path, limit, epochs):
    """Fit in this process and print what it took."""
    import time

    from sklearn_soapbpnn import SoapBPNNRegressor, Targets
    from sklearn_soapbpnn.data import open_frames

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    X = open_frames(path)
    y = Targets.from_atoms(X, energy="energy", forces="forces")
    options = {} if limit is None else {"memory_limit": limit * MIB, "num_workers": 0}
    model = SoapBPNNRegressor(num_epochs=epochs, random_state=0, **options)
    start = time.perf_counter()
    model.fit(X, y)
    seconds = (time.perf_counter() - start) / epochs
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"before": before, "peak": peak, "seconds": seconds}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=300, help="N")
    parser.add_argument("--limit", type=float, default=64, help="memory_limit in MiB")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train", nargs=2, metavar=("FILE", "LIMIT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        path, limit = arguments.train
        train(path, None if limit == "none" else float(limit), arguments.epochs)
        return
    print(f"{'':24}{'structures':>12}{'peak MiB':>10}{'grown by':>10}{'s/epoch':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for n_structures in (arguments.structures, 10 * arguments.structures):
            path = Path(folder) / f"{n_structures}.xyz"
            write_frames(path, n_structures)
            for limit in ("none", str(arguments.limit)):
                command = [sys.executable, __file__, "--train", str(path), limit]
                command += ["--epochs", str(arguments.epochs)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                result = json.loads(done.stdout.splitlines()[-1])
                grown = result["peak"] - result["before"]
                name = "all in memory" if limit == "none" else f"memory_limit {limit} MiB"
                print(
                    f"{name:24}{n_structures:12}{result['peak']:10.0f}{grown:10.0f}"
                    f"{result['seconds']:10.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
