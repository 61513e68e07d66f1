"""What LAMMPS adds to the bare evaluation, what two processes save, and how energy drifts.

    python benchmarks/compare_lammps.py speed  # silicon, 5832 atoms
    python benchmarks/compare_lammps.py drift  # the shipped alloy, 10 ps in steps of 1 fs

Times are medians over runs in turn, to be compared with each other only. The processes need cores
of their own.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.datasets import load_cuau
from sklearn_soapbpnn.interfaces.lammps import SoapBPNNPair, start_lammps

QUIET = ["-log", "none", "-screen", "none", "-nocite"]
SILICON = """
units metal
lattice diamond 5.43
region box block 0 {n} 0 {n} 0 {n}
create_box 1 box
create_atoms 1 box
mass * 28.0855
displace_atoms all random 0.05 0.05 0.05 1
"""
MODEL = "fix soap all external pf/callback 1 1\nfix nve all nve\ntimestep 0.001\n"
DRIFT = """
units metal
read_data {data}
{model}
velocity all create 600 1 loop geom
thermo 1
thermo_style custom step temp etotal
thermo_modify format float %.12g
run {steps}
"""


def parse_arguments():
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "drift"])
    parser.add_argument("--cells", type=int, default=9, help="silicon cells in each direction")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--model", help="file of a model of Cu and Au, instead of a short fit")
    return parser.parse_args()


def run_ranks(n_ranks, script, model, elements):
    """Run an input script of LAMMPS on several processes, and return what it prints."""
    command = ["mpirun", "-n", str(n_ranks), sys.executable, "-m"]
    command += ["sklearn_soapbpnn.interfaces.lammps", str(script), "--model", str(model)]
    command += ["--elements", *elements, "-log", "none", "-nocite"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def fit_silicon(path):
    """Fit a model that knows nothing, with default hyperparameters."""
    frames = [bulk("Si", cubic=True) for _ in range(6)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    model = SoapBPNNRegressor(num_epochs=2, random_state=0).fit(frames, np.arange(6.0))
    model.save(path)
    return model


def compare_with_bare(model, n, repeats):
    """Time single steps of LAMMPS on one process, and evaluations of the same size, in turn."""
    torch.set_num_threads(1)
    lmp = start_lammps(QUIET)
    lmp.commands_string(SILICON.format(n=n))
    SoapBPNNPair(model, ["Si"]).attach(lmp)
    lmp.commands_list(["fix nve all nve", "timestep 0.001", "run 1"])
    atoms = bulk("Si", cubic=True) * (n, n, n)
    times = {"bare": [], "LAMMPS": []}
    for repeat in range(repeats):
        atoms.rattle(0.05, seed=repeat)
        X = as_structures([atoms])
        start = time.perf_counter()
        model.fitted_.predict_once(X, ["energy", "forces", "stress"])
        times["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        lmp.command("run 1 pre no post no")
        times["LAMMPS"].append(time.perf_counter() - start)
    print_ratio(f"{len(atoms)} atoms, one process", times)
    lmp.close()


def compare_ranks(folder, n, ranks, repeats):
    """Time runs of ten steps on some numbers of processes, in turn."""
    script = Path(folder, "in.silicon")
    script.write_text(SILICON.format(n=n) + MODEL + "run 10\n")
    times = {n_ranks: [] for n_ranks in ranks}
    for _ in range(repeats):
        for n_ranks in ranks:
            printed = run_ranks(n_ranks, script, Path(folder, "si.safetensors"), ["Si"])
            loop = re.search(r"Loop time of (\S+) on", printed)
            times[n_ranks].append(float(loop.group(1)) / 10)
    print_ratio(f"{8 * n**3} atoms, processes", times)


def print_ratio(title, times):
    """Print medians and the ratio to the first of them."""
    first = next(iter(times))
    for name, values in times.items():
        ratio = statistics.median(np.divide(values, times[first]))
        print(f"{title}: {name} {1e3 * statistics.median(values):.0f} ms, ratio {ratio:.3f}")


def measure_drift(folder, arguments):
    """Run molecular dynamics at constant energy and fit a line to the total energy."""
    X, y = load_cuau(return_X_y=True)
    path = arguments.model or Path(folder, "cuau.safetensors")
    if not arguments.model:
        model = SoapBPNNRegressor(num_epochs=30, dtype="float64", random_state=0)
        model.fit(X, y).save(path)
    alloys = [k for k, atoms in enumerate(X) if len(set(atoms.symbols)) == 2]
    atoms = X[min(alloys, key=lambda k: np.abs(y["forces"][k]).max())]  # a calm one
    data = Path(folder, "alloy.data")
    atoms.write(data, format="lammps-data", specorder=["Cu", "Au"], masses=True)
    script = Path(folder, "in.alloy")
    script.write_text(DRIFT.format(data=data, model=MODEL, steps=arguments.steps))
    for n_ranks in arguments.ranks:
        printed = run_ranks(n_ranks, script, path, ["Cu", "Au"])
        table = printed.split("Step", 1)[1].split("\n", 1)[1].split("Loop")[0]
        step, temperature, energy = np.loadtxt(table.splitlines()).T
        slope, _ = np.polyfit(step * 1e-6, energy * 1e3 / len(atoms), 1)  # steps of 1 fs, in ns
        print(
            f"{atoms.get_chemical_formula()}, {n_ranks} processes, {temperature.mean():.0f} K: "
            f"drift {slope:.3g} meV/atom/ns"
        )


def main():
    """Run one of the comparisons."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "drift":
            measure_drift(folder, arguments)
            return
        model = fit_silicon(Path(folder, "si.safetensors"))
        compare_with_bare(model, arguments.cells, arguments.repeats)
        compare_ranks(folder, arguments.cells, arguments.ranks, arguments.repeats)


if __name__ == "__main__":
    main()
