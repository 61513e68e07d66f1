"""Training data larger than memory: environments are made for each batch, ahead of the loop."""

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
from ..nn import Environments
from ._dataset import Batch, TrainingData

# atoms whose neighbours are looked for at once
ATOMS_PER_CHECK = 2048


class StreamedData(TrainingData):
    """Structures and labels whose environments exist for a few batches only.

    Geometry and labels stay in memory, some hundred bytes an atom; expansions, spectra and the
    pair basis, ten to a hundred kilobytes an atom, are computed for every batch anew, or read where
    a featuriser left them on disk. It gives the same batches as :class:`TrainingData`.

    Parameters
    ----------
    structures, targets, network, sample_weight, per_structure
        See :class:`TrainingData`.
    workers : Workers
        They make the batches.
    """

    def __init__(self, structures, targets, network, *, workers, **options):
        self.structures, self.workers = structures, workers
        super().__init__(structures, targets, network, **options)

    def _prepare(self, structures, network, derivatives):
        """Keep what a batch is made with, on the processor."""
        if structures.features is None:
            # what cannot be described is to be found now, not within an epoch
            for part in iterate_chunks(structures.n_atoms, ATOMS_PER_CHECK):
                build_graph(structures[part], network.basis.cutoff_radius, network.elements)
        self.basis, self.derivatives = network.basis, derivatives
        self.recipe = network.recipe().cpu()
        self.atom_counts = torch.from_numpy(structures.n_atoms).to(self.device)
        self.first_atom = self.atom_counts.cumsum(0) - self.atom_counts

    def batches(self, order: Tensor, sizes: list[int]) -> Iterator[Batch]:
        """Yield the structures ``order`` in batches of these sizes."""
        parts = order.split(sizes)
        # something has to be there to select nothing from
        arguments = (
            (self.structures[part.tolist() or [0]], self.recipe, self.derivatives) for part in parts
        )
        for part, environments in zip(parts, self.workers.map(_make_environments, arguments)):
            environments.move_to(self.basis)
            local = torch.arange(len(part), device=self.device)
            (index,) = plan_batches(environments.graph, local, [len(part)], self.n_elements)
            yield Batch(environments.select(index), self._take_labels(part, index), len(part))

    def _take_labels(self, part, index):
        """Return the labels of a batch, those of atoms in the order of its atoms."""
        counts = self.atom_counts[part]
        starts = self.first_atom[part] - (counts.cumsum(0) - counts)
        atoms = index.atoms + starts.repeat_interleave(counts)[index.atoms]
        labels = {}
        for name, whole in self.labels.items():
            entries = atoms if whole.per_atom else part
            (labels[name],) = whole.split(entries, [len(entries)])
        return labels


class Workers:
    """Processes that work ahead of the training loop, as long as the ``with`` block lasts.

    They are its own: those that joblib keeps for the next call are the user's.

    Parameters
    ----------
    n_workers : int
        Number of processes; 0 does the work where its results are needed.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers

    def __enter__(self) -> Workers:
        if self.n_workers:
            # one thread for each: the others are busy with the batches before and after
            self._pool = ProcessPoolExecutor(self.n_workers, env={"OMP_NUM_THREADS": "1"})
        return self

    def __exit__(self, *exception) -> None:
        if not self.n_workers:
            return
        # in another thread, so that one more Ctrl-C does not lose what the fit has found
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
        """Yield ``function(*entry)`` for the arguments in order, only a few of them ahead."""
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
    """Return the number of processes that ``num_workers`` stands for: one core is for training."""
    if num_workers is not None:
        return int(num_workers)
    if current_process().daemon:
        return 0
    # those that torchrun starts on a node share its cores
    n_cores = joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(0, n_cores - 1)


def check_workers(num_workers) -> None:
    """Raise if this process can start no others."""
    if num_workers and current_process().daemon:
        raise ValueError(
            f"num_workers={num_workers}, but this process (of dask, or of multiprocessing) may not "
            "start others. Set num_workers=0, or None to leave it open."
        )


def _make_environments(structures, recipe, derivatives):
    return Environments(structures, recipe, derivatives=derivatives)
