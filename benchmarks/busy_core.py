"""Time epochs while another program keeps one core busy, and compare with an idle machine.

    python benchmarks/busy_core.py [FILE.xyz] [--structures 400] [--epochs 5] [--repeats 3]

FILE contains energies and forces (default: the malonaldehyde data of the package). Each run is a
separate process with as many threads as the machine has cores, which is torch's default; of these
the library uses as many as the size of a batch justifies. Prints the median time of an epoch with
and without the other program, and their ratio. The machine must be idle otherwise.
"""

import argparse
import os
import statistics
import subprocess
import sys

LOOP = "while True: pass"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--structures", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(time_epoch(arguments))
        return
    seconds = {False: [], True: []}
    for _ in range(arguments.repeats):
        for busy in seconds:
            seconds[busy].append(run(busy))
            name = "one core busy" if busy else "idle"
            print(f"{name:>14}: {seconds[busy][-1]:.3f} s per epoch", flush=True)
    idle, busy = (statistics.median(times) for times in seconds.values())
    print(
        f"{os.cpu_count()} cores, medians: idle {idle:.3f} s, busy {busy:.3f} s, {busy / idle:.2f}x"
    )


def run(busy):
    """Return the seconds per epoch, measured in a separate process."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    neighbor = subprocess.Popen([sys.executable, "-c", LOOP]) if busy else None
    try:
        command = [sys.executable, *sys.argv, "--worker"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout)
    finally:
        if neighbor is not None:
            neighbor.kill()
            neighbor.wait()


def time_epoch(arguments):
    """Return the median seconds per epoch of a fit."""
    import warnings

    import ase.io

    from sklearn_soapbpnn import SoapBPNNRegressor, Targets
    from sklearn_soapbpnn.datasets import load_malonaldehyde

    warnings.simplefilter("ignore")
    X = ase.io.read(arguments.file, ":") if arguments.file else load_malonaldehyde().data
    X = X[: arguments.structures]
    y = Targets.from_atoms(X, energy="energy", forces="forces")
    model = SoapBPNNRegressor(num_epochs=arguments.epochs, random_state=0).fit(X, y)
    return statistics.median(model.history_[:, "dur"])


if __name__ == "__main__":
    main()
