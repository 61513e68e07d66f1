"""Run the checks of tests/test_fuzz.py on many more random inputs.

Prints how many inputs were tried, how many calls were accepted and refused, and one example of
every kind of failure.
"""

import argparse
import faulthandler
import sys
import time
import traceback
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_fuzz


def run(name, n_examples, random_seed, patience):
    """Run one check; return the number of inputs, and the failures by kind."""
    cases, check = test_fuzz.CHECKS[name]
    failures, n_tried = {}, 0

    def try_one(case):
        nonlocal n_tried
        n_tried += 1
        # ends the process with a traceback: compiled code that hangs cannot be interrupted
        faulthandler.dump_traceback_later(patience, exit=True)
        try:
            check(case)
        except Exception as err:
            place = traceback.extract_tb(err.__traceback__)[-1]
            kind = f"{type(err).__name__} at {Path(place.filename).name}:{place.lineno}"
            failures.setdefault(kind, []).append((str(err).splitlines()[0], repr(case)))
        finally:
            faulthandler.cancel_dump_traceback_later()

    options = settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(random_seed)(options(given(cases())(try_one)))()
    return n_tried, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=2000, help="inputs of each check")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=60, help="seconds for one input")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n_failures = 0
    for name in test_fuzz.CHECKS:
        test_fuzz.TALLY.clear()
        start = time.perf_counter()
        n_tried, failures = run(name, arguments.examples, arguments.seed, arguments.patience)
        seconds = time.perf_counter() - start
        n_failed = sum(map(len, failures.values()))
        n_failures += n_failed
        accepted, refused = (test_fuzz.TALLY[what] for what in ("accepted", "refused"))
        print(
            f"{name}: {n_tried} inputs, {accepted} calls accepted, {refused} refused, "
            f"{n_failed} failures, {seconds:.0f} s",
            flush=True,
        )
        for kind, found in sorted(failures.items(), key=lambda item: -len(item[1])):
            message, case = min(found, key=lambda entry: len(entry[1]))
            print(f"  {len(found)} times {kind}: {message}\n    {case}", flush=True)
    return n_failures > 0


if __name__ == "__main__":
    sys.exit(main())
