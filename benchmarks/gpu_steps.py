"""What a GPU does in a step of the training and of a simulation.

``calculator`` times energy, forces and stress of silicon. ``profile`` counts the kernels of a
training step, compares the time of the GPU with that of the CPU, and lists the places at which the
CPU waits for the GPU.
"""

import argparse
import statistics
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from skorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.data import as_structures, build_graph
from sklearn_soapbpnn.datasets import load_cuau, load_malonaldehyde
from sklearn_soapbpnn.training import _dataset

STEPS = 10  # of each part of a profile


def parse_arguments():
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["calculator", "profile"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--cells", type=int, nargs="+", default=[2, 4, 8, 13, 23], help="8 n^3 atoms"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64])
    return parser.parse_args()


def wait(device):
    """Wait until the device has done its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def measure_memory(device):
    """Return the peak memory since the last call, in MiB."""
    if torch.device(device).type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return peak


def time_calculator(arguments):
    """Print the time per atom of a step, and the part of it in which neighbours are searched."""
    frames = [bulk("Si", cubic=True) * (2, 1, 1) for _ in range(20)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    energies = np.random.default_rng(0).normal(size=len(frames))
    model = SoapBPNNRegressor(num_epochs=1, device=arguments.device, random_state=0)
    calculator = model.fit(frames, energies).calculator()
    print("energy, forces and stress of silicon, medians; neighbours are searched by the CPU")
    print(f"{'atoms':>8}{'ms':>10}{'us/atom':>10}{'neighbours':>12}{'peak MiB':>10}")
    for n in arguments.cells:
        atoms = bulk("Si", cubic=True) * (n, n, n)
        atoms.rattle(0.05, seed=0)
        atoms.calc = calculator
        measure_memory(arguments.device)
        times, searches = [], []
        for _ in range(6):
            atoms.positions[0, 0] += 1e-3
            start = time.perf_counter()
            atoms.get_forces(), atoms.get_stress()
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
            build_graph(as_structures([atoms]), model.cutoff_radius, model.elements_)
            searches.append(time.perf_counter() - start)
        step, search = (statistics.median(t[1:]) for t in (times, searches))
        each, part, peak = 1e6 * step / len(atoms), search / step, measure_memory(arguments.device)
        print(
            f"{len(atoms):>8}{1e3 * step:>10.1f}{each:>10.2f}{part:>12.0%}{peak:>10.0f}", flush=True
        )


class Watch(Callback):
    """Times some steps of a training, collects the waits of some, and profiles some."""

    def on_train_begin(self, net, **kwargs):
        """Start counting."""
        self.step, self.found, self.has_gpu = 0, [], net.module_.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * self.has_gpu]
        self.profile_ = profile(activities=activities)

    def on_batch_begin(self, net, **kwargs):
        """Begin the next part."""
        part, first = divmod(self.step, STEPS)
        if first == 0 and part in (1, 2, 3):
            wait(net.module_.device)
            if part == 1:
                self.start = time.perf_counter()
            if part == 2:
                self.seconds = (time.perf_counter() - self.start) / STEPS
            if part == 3:
                self.profile_.__enter__()
        if self.has_gpu and part == 2:
            self.caught = warnings.catch_warnings(record=True)
            self.found.append(self.caught.__enter__())
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_batch_end(self, net, **kwargs):
        """End a part."""
        if self.has_gpu and self.step // STEPS == 2:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
        self.step += 1
        if self.step == 4 * STEPS:
            wait(net.module_.device)
            self.profile_.__exit__(None, None, None)

    def list_kernels(self):
        """Return the events on the GPU, without those that are groups of others."""
        cuda = torch.autograd.DeviceType.CUDA
        events = (e for e in self.profile_.events() if e.device_type == cuda)
        return [e for e in events if not getattr(e, "is_user_annotation", False)]

    def count_waits(self):
        """Return how often the CPU waited, by place."""
        found = [w for part in self.found for w in part if "called a sync" in str(w.message)]
        return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in found))


def profile_step(name, X, y, batch_size, device, **options):
    """Train until some steps have been watched, and print what they did."""
    repeats = -(-4 * STEPS * batch_size // len(X))
    order = np.tile(np.arange(len(X)), repeats)[: 4 * STEPS * batch_size]
    watch = Watch()
    model = SoapBPNNRegressor(
        num_epochs=1,
        batch_size=batch_size,
        device=device,
        callbacks=[watch],
        validation_fraction=0,
        random_state=0,
        **options,
    )
    measure_memory(device)
    model.fit([X[k] for k in order], y[order])
    events, kernels = watch.profile_.events(), watch.list_kernels()
    totals = Counter()
    for e in kernels or [e for e in events if e.name.startswith("aten::")]:
        totals[e.name] += e.time_range.elapsed_us() / STEPS / 1000
    on_gpu, wall = sum(totals.values()) if kernels else 0.0, 1000 * watch.seconds
    n_calls = sum(e.name.startswith("aten::") for e in events) / STEPS
    print(f"\n{name}, batches of {batch_size}, {options}: {wall:.2f} ms a step")
    print(f"  {len(kernels) / STEPS:.0f} kernels, {n_calls:.0f} calls of torch, ", end="")
    print(f"GPU busy for {on_gpu:.2f} ms ({on_gpu / wall:.0%}), {measure_memory(device):.0f} MiB")
    print(f"  waits of the CPU in {STEPS} steps, by place: {watch.count_waits() or 'none'}")
    for key, total in totals.most_common(6):
        print(f"  {total:8.3f} ms  {key[:100]}", flush=True)


def profile_steps(arguments):
    """Profile steps of several kinds."""
    molecules, alloys = load_malonaldehyde(return_X_y=True), load_cuau(return_X_y=True)
    alchemical = {"species_encoding": "alchemical"}
    for size in arguments.batches:
        for name, data in {"molecules": molecules, "alloys": alloys}.items():
            profile_step(name, *data, size, arguments.device)
    last = "alloys", *alloys, arguments.batches[-1], arguments.device
    profile_step(*last, optimizer="muon")
    profile_step(*last, **alchemical)
    for memory, what in {0: "factors", 2**40: "gradients"}.items():
        _dataset.PAIR_GRADIENT_MEMORY = memory
        profile_step(f"alloys with the {what} of pairs in memory", *last[1:])


if __name__ == "__main__":
    given = parse_arguments()
    {"calculator": time_calculator, "profile": profile_steps}[given.part](given)
