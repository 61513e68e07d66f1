"""Time many small structures together and one by one, and large structures in parts.

Accuracy does not matter here: models are trained briefly on random labels, with default
hyperparameters. Energies and forces of 256 structures are predicted in one call, and of some of
them in one call each, in turn; all structures are moved between calls so that nothing can be
reused. Large structures are evaluated in separate processes, which print their peak memory.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
from ase.build import bulk, molecule

SIZES = {"silicon": ((9, 9, 9), (25, 25, 20)), "alloy": ((9, 9, 18), (25, 25, 40))}
N_STRUCTURES, N_SINGLE = 256, 64


def make_frame(what, rng, shape=(2, 2, 2)):
    """Return a rattled structure."""
    if what == "molecule":
        atoms = molecule("CH3CH2OH")
    elif what == "silicon":
        atoms = bulk("Si", cubic=True) * shape
    else:
        atoms = bulk("Cu", cubic=True, a=3.8) * shape
        atoms.numbers = rng.choice([29, 79], len(atoms))
    atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    return atoms


def fit(what, options, rng):
    """Train on a few structures with random labels."""
    from sklearn_soapbpnn import SoapBPNNRegressor, Targets

    frames = [make_frame(what, rng) for _ in range(10)]
    forces = [rng.normal(size=(len(atoms), 3)) for atoms in frames]
    y = Targets(energy=rng.normal(size=len(frames)), forces=forces)
    return SoapBPNNRegressor(num_epochs=1, random_state=0, **options).fit(frames, y)


def compare(what, options, repeats):
    """Print the times of one call for all structures and of one call for each, in turn."""
    rng = np.random.default_rng(0)
    model = fit(what, options, rng)
    frames = [make_frame(what, rng) for _ in range(N_STRUCTURES)]
    together, single = [], []
    for _ in range(repeats):
        for atoms in frames:
            atoms.positions += rng.normal(0.0, 1e-4, atoms.positions.shape)
        start = time.perf_counter()
        model.predict(frames, targets=["energy", "forces"])
        together.append((time.perf_counter() - start) / N_STRUCTURES)
        for atoms in frames:
            atoms.positions += rng.normal(0.0, 1e-4, atoms.positions.shape)
        start = time.perf_counter()
        for atoms in frames[:N_SINGLE]:
            model.predict([atoms], targets=["energy", "forces"])
        single.append((time.perf_counter() - start) / N_SINGLE)
    ratio = statistics.median(np.divide(single, together))
    many, one = (1e3 * statistics.median(times) for times in (together, single))
    print(f"{what:>10}{len(frames[0]):>8}{many:>14.3f}{one:>14.3f}{ratio:>9.1f}", flush=True)


def evaluate_large(what, shape, options):
    """Print time and peak memory of energy, forces and stress of one structure."""
    rng = np.random.default_rng(0)
    model = fit(what, options, rng)
    atoms = make_frame(what, rng, shape)
    before, times = read_peak(), []
    for _ in range(3):
        atoms.positions[0, 0] += 1e-3
        start = time.perf_counter()
        model.predict([atoms], targets=["energy", "forces", "stress"])
        times.append(time.perf_counter() - start)
    each = 1e6 * statistics.median(times) / len(atoms)
    print(f"{what:>10}{len(atoms):>8}{each:>14.1f}{read_peak():>14.0f}{before:>14.0f}", flush=True)


def read_peak():
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--encoding", choices=["orthogonal", "alchemical"], default="orthogonal")
    parser.add_argument("--large", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = {"dtype": arguments.dtype, "species_encoding": arguments.encoding}
    if arguments.large:
        what, *shape = arguments.large
        evaluate_large(what, tuple(map(int, shape)), options)
        return
    print(f"energies and forces, {N_STRUCTURES} structures, ms per structure, medians")
    print(f"{'':>10}{'atoms':>8}{'one call':>14}{'one by one':>14}{'ratio':>9}")
    for what in ("molecule", "silicon"):
        compare(what, options, arguments.repeats)
    print("\nenergy, forces and stress of one structure")
    print(f"{'':>10}{'atoms':>8}{'us/atom':>14}{'peak MiB':>14}{'of them before':>15}")
    command = [sys.executable, __file__, *sys.argv[1:], "--large"]
    for what, shapes in SIZES.items():
        for shape in shapes:
            subprocess.run([*command, what, *map(str, shape)], check=True)


if __name__ == "__main__":
    main()
