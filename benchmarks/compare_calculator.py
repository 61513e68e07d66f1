"""Time energy, forces and stress of silicon in ASE, with metatrain's exported model and ours.

Both are trained briefly on the same file (accuracy does not matter here) with default
hyperparameters. Diamond supercells are then evaluated by the two in turn, and one atom is moved
between calls so that neither can reuse a result.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk

OPTIONS = {
    "device": "cpu",
    "base_precision": 32,
    "architecture": {"name": "soap_bpnn", "training": {"num_epochs": 1}},
    "training_set": {
        "systems": {"read_from": "train.xyz", "length_unit": "angstrom"},
        "targets": {"energy": {"key": "energy", "unit": "eV", "forces": False, "stress": False}},
    },
    "validation_set": 0.1,
    "test_set": 0.0,
}


def parse_arguments():
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="extended XYZ file of silicon")
    parser.add_argument("--repeats", type=int, nargs="+", default=[2, 4, 9], help="supercells")
    parser.add_argument("--calls", type=int, default=9, help="timed calls for each supercell")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--metatrain-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--serve", choices=["metatrain", "ours"], help=argparse.SUPPRESS)
    return parser.parse_args()


def make_calculator(which):
    """Train briefly in this folder and return an ASE calculator."""
    if which == "metatrain":
        import sphericart.torch  # noqa: F401  registers the operators of the exported model
        from metatomic_ase import MetatomicCalculator

        Path("options.yaml").write_text(json.dumps(OPTIONS))  # JSON is YAML
        command = [sys.executable, "-m", "metatrain", "train", "options.yaml", "-o", "model.pt"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return MetatomicCalculator("model.pt", device="cpu")
    from sklearn_soapbpnn import SoapBPNNRegressor, Targets

    frames = ase.io.read("train.xyz", ":")
    y = Targets.from_atoms(frames, energy="energy")
    return SoapBPNNRegressor(num_epochs=1).fit(frames, y).calculator()


def serve(which):
    """Time one call for each line of standard input, which is the size of a supercell."""
    calculator = make_calculator(which)
    cells = {}
    print("ready", flush=True)
    for line in sys.stdin:
        n = int(line)
        if n not in cells:
            cells[n] = bulk("Si", cubic=True) * (n, n, n)
            cells[n].rattle(0.05, seed=0)
            cells[n].calc = calculator
            cells[n].get_forces()
        cells[n].positions[0, 0] += 1e-3
        start = time.perf_counter()
        cells[n].get_forces(), cells[n].get_stress()
        print(time.perf_counter() - start, flush=True)


def start(which, arguments, folder):
    """Start a process that answers calls."""
    python = arguments.metatrain_python if which == "metatrain" else sys.executable
    threads = {name: str(arguments.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    process = subprocess.Popen(
        [python, str(Path(__file__).resolve()), "train.xyz", "--serve", which],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **threads},
    )
    for line in process.stdout:
        if line.strip() == "ready":
            return process
    raise SystemExit(f"{which} did not start; see its message above.")


def call(process, n):
    """Return the seconds that one call takes."""
    process.stdin.write(f"{n}\n")
    process.stdin.flush()
    while True:
        line = process.stdout.readline()
        try:
            return float(line)
        except ValueError:
            if not line:
                raise SystemExit("a process ended; see its message above.") from None


def main():
    """Time both in turn and print a table."""
    arguments = parse_arguments()
    if arguments.serve:
        serve(arguments.serve)
        return
    program = shutil.which(arguments.metatrain_python) or arguments.metatrain_python
    arguments.metatrain_python = os.path.abspath(program)
    with tempfile.TemporaryDirectory() as folder:
        ase.io.write(Path(folder, "train.xyz"), ase.io.read(arguments.train, ":40"))
        servers = {which: start(which, arguments, folder) for which in ("metatrain", "ours")}
        print(f"energy, forces and stress of silicon, {arguments.threads} threads, median times")
        print(f"{'atoms':>8}{'metatrain ms':>16}{'ours ms':>12}{'us/atom':>12}{'ratio':>9}")
        for n in arguments.repeats:
            times = {which: [] for which in servers}
            for _ in range(arguments.calls):
                for which, process in servers.items():
                    times[which].append(call(process, n))
            ratio = np.median(np.divide(times["metatrain"], times["ours"]))
            theirs, ours = (1e3 * statistics.median(times[which]) for which in servers)
            n_atoms = 8 * n**3
            each = 1e3 * ours / n_atoms
            print(f"{n_atoms:>8}{theirs:>16.1f}{ours:>12.1f}{each:>12.1f}{ratio:>9.1f}")
        for process in servers.values():
            process.kill()


if __name__ == "__main__":
    main()
