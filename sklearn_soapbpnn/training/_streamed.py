"""Training data larger than memory: each batch computes its descriptors, ahead of the loop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import current_process
from threading import Event, Thread

import joblib
import torch
from joblib.externals.loky import ProcessPoolExecutor
from torch import Tensor

from ..data import build_graph, iterate_chunks, plan_batches
from ..nn import compute_environments
from ._dataset import Batch, TrainingData

# number of atoms whose neighbours are searched at a time
ATOMS_PER_CHECK = 2048


class StreamedData(TrainingData):
    """Structures and labels whose environments exist for a few batches only.

    Geometries and labels stay in memory, which takes some hundred bytes per atom. Expansions,
    spectra and the pair basis, 10 to 100 kilobytes per atom, are computed again for every batch, or
    read from disk if a featuriser with ``memory`` has stored them. The batches are the same as
    those of :class:`TrainingData`.

    Parameters
    ----------
    structures, targets, network, sample_weight, per_structure
        See :class:`TrainingData`.
    workers : Workers
        Processes that prepare the batches.
    """

    def __init__(self, structures, targets, network, *, workers, **options):
        self.structures, self.workers = structures, workers
        super().__init__(structures, targets, network, **options)

    def _prepare(self, structures, network, derivatives):
        """Keep on the CPU what is needed to compute the environments of a batch."""
        if structures.features is None:
            # raises now, rather than during an epoch, if a structure cannot be described
            for part in iterate_chunks(structures.n_atoms, ATOMS_PER_CHECK):
                build_graph(structures[part], network.basis.cutoff_radius, network.elements)
        self.basis, self.derivatives = network.basis, derivatives
        self.recipe = network.recipe().cpu()
        self.atom_counts = torch.from_numpy(structures.n_atoms).to(self.device)
        self.first_atom = self.atom_counts.cumsum(0) - self.atom_counts

    def batches(self, order: Tensor, sizes: list[int]) -> Iterator[Batch]:
        """Yield the structures ``order`` in batches of these sizes."""
        parts = order.split(sizes)
        # an empty share of a batch still needs environments, from which nothing is selected
        arguments = (
            (self.structures[part.tolist() or [0]], self.recipe, self.derivatives) for part in parts
        )
        for part, environments in zip(parts, self.workers.map(_make_environments, arguments)):
            environments.move_to(self.basis)
            local = torch.arange(len(part), device=self.device)
            (index,) = plan_batches(environments.graph, local, [len(part)], self.n_elements)
            yield Batch(environments.select(index), self._take_labels(part, index), len(part))

    def _take_labels(self, part, index):
        """Return the labels of a batch; per-atom labels are in the order of the batch's atoms."""
        counts = self.atom_counts[part]
        starts = self.first_atom[part] - (counts.cumsum(0) - counts)
        atoms = index.atoms + starts.repeat_interleave(counts)[index.atoms]
        labels = {}
        for name, whole in self.labels.items():
            entries = atoms if whole.per_atom else part
            (labels[name],) = whole.split(entries, [len(entries)])
        return labels


class Workers:
    """Processes that work ahead of the training loop; they end with the ``with`` block.

    They are not taken from joblib's pool of reusable processes, which belongs to the user.

    Parameters
    ----------
    n_workers : int
        Number of processes; with 0 this process computes each result when it is needed.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers

    def __enter__(self) -> Workers:
        if self.n_workers:
            # one thread per process, since the other processes use the other cores
            self._pool = ProcessPoolExecutor(self.n_workers, env={"OMP_NUM_THREADS": "1"})
        return self

    def __exit__(self, *exception) -> None:
        self.end()

    def end(self) -> None:
        """End the processes; from then on this process computes each result."""
        if not self.n_workers:
            return
        self.n_workers = 0
        # in another thread, so that another Ctrl-C meanwhile does not discard the result of the fit
        ended = Event()
        Thread(target=self._shut_down, args=(ended,)).start()
        while not ended.is_set():
            with suppress(KeyboardInterrupt):
                ended.wait()

    def _shut_down(self, ended):
        try:
            self._pool.shutdown(kill_workers=True)
        finally:
            ended.set()

    def map(self, function, arguments) -> Iterator:
        """Yield ``function(*entry)`` for the arguments in order, computing a few results ahead."""
        if not self.n_workers:
            for entry in arguments:
                yield function(*entry)
            return
        waiting = deque()
        try:
            for entry in arguments:
                waiting.append(self._pool.submit(function, *entry))
                if len(waiting) > 2 * self.n_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def count_workers(num_workers) -> int:
    """Return ``num_workers`` as a number; None leaves one core for the training loop."""
    if num_workers is not None:
        return int(num_workers)
    if current_process().daemon:
        return 0
    # the processes that torchrun starts on a node share its cores
    n_cores = joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(0, n_cores - 1)


def check_workers(num_workers) -> None:
    """Raise if ``num_workers`` needs other processes, but this process must not start any."""
    if num_workers and current_process().daemon:
        raise ValueError(
            f"num_workers={num_workers}, but this process (a daemon of dask or multiprocessing) "
            "must not start other processes. Set num_workers=0, or None to choose automatically."
        )


def _make_environments(structures, recipe, derivatives):
    return compute_environments(structures, recipe, derivatives=derivatives)
