r"""Data-parallel training: several processes share every batch, through torch.distributed.

Every process holds all the data, draws the same batches, and takes its share of each batch. The
losses of the shares are divided by the number of labels in the whole batch, so that they add up to
the loss of the batch,

.. math:: L = \sum_r L_r, \qquad \nabla L = \sum_r \nabla L_r,

and every process makes the same step as a single process would, up to rounding.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import joblib
import torch
import torch.distributed as dist
from skorch.callbacks import Callback
from torch import Tensor

from ._launch import call_group, choose_gpu, find_launch, start_group


class SingleProcess:
    """A process that trains alone, with the interface of :class:`ProcessGroup`."""

    rank, size = 0, 1
    callbacks = ()

    def share(self, iterator):
        """Return the batches unchanged."""
        return iterator

    def sum_gradients(self, module, loss):
        """Return the loss unchanged."""
        return loss

    def sum_errors(self, loss, errors):
        """Return the sums unchanged."""
        return loss, errors

    def broadcast(self, value):
        """Return the value unchanged."""
        return value

    def check_same(self, inputs):
        """Do nothing."""


class ProcessGroup:
    """Processes that train one model together.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup
        Group through which they communicate.
    """

    def __init__(self, group) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    @property
    def callbacks(self):
        """Additional callbacks for the training loop."""
        return (("same_training", SameTraining()),)

    def share(self, iterator) -> ShareIterator:
        """Return this process's share of every batch."""
        return ShareIterator(iterator, self.rank, self.size)

    def sum_gradients(self, module, loss: Tensor) -> Tensor:
        """Sum the gradients of a module in place, and return the sum of the losses."""
        parameters = [p for p in module.parameters() if p.grad is not None]
        parts = [*(p.grad for p in parameters), loss]
        flat = self._sum(parts)
        for parameter, gradient in zip(parameters, flat):
            parameter.grad = gradient
        return flat[-1]

    def sum_errors(self, loss: Tensor, errors: dict) -> tuple[Tensor, dict]:
        """Return the sums over the processes."""
        loss, *sums = self._sum([loss, *errors.values()])
        return loss, dict(zip(errors, sums))

    def copy_weights(self, module) -> None:
        """Copy the weights of the first process to all others."""
        for tensor in module.state_dict().values():
            self._run(dist.broadcast, tensor, 0)

    def broadcast(self, value):
        """Return the value of the first process: plain data, and tensors, on the CPU."""
        buffer = io.BytesIO()
        if self.rank == 0:
            torch.save(value, buffer)
        content = [buffer.getvalue()]
        self._run(dist.broadcast_object_list, content, 0)
        if self.rank == 0:
            return value
        return torch.load(io.BytesIO(content[0]), map_location="cpu", weights_only=True)

    def check_same(self, inputs: dict) -> None:
        """Raise in every process if their inputs differ.

        Parameters
        ----------
        inputs : dict of str to object
            Inputs of this process, by their names in error messages.

        Raises
        ------
        ValueError
            If an input differs; the message names it.
        """
        own = {name: _fingerprint(value) for name, value in inputs.items()}
        first, *others = self._gather(own)
        for rank, other in enumerate(others, 1):
            different = [name for name in own if other[name] != first[name]]
            if different:
                raise ValueError(
                    f"Process {rank} was given another {', '.join(different)} than process 0. "
                    "Call fit with the same parameters and all the data in every process; fit "
                    "itself distributes the data."
                )

    def check_together(self, going_on: bool) -> None:
        """Raise in every process if some continue training while others have ended it."""
        if len(set(self._gather(going_on))) > 1:
            raise RuntimeError(
                f"This process {'continues' if going_on else 'has ended'} the training, unlike "
                "another one: one of them was interrupted, or a callback ended only one of them."
            )

    def _gather(self, value) -> list:
        """Return the values of all processes."""
        found = [None] * self.size
        self._run(dist.all_gather_object, found, value)
        return found

    def _sum(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sum tensors over the processes, in a single call."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._run(dist.all_reduce, flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]

    def _run(self, collective, *arguments):
        call_group(lambda: collective(*arguments, group=self.group))


class SameTraining(Callback):
    """Make all processes begin and end together, with the weights of the first process.

    The others already have the same weights if all processors round in the same way.
    """

    def on_train_begin(self, net, **kwargs):
        net.processes.copy_weights(net.module_)

    def on_epoch_begin(self, net, **kwargs):
        net.processes.check_together(going_on=True)

    def on_train_end(self, net, **kwargs):
        if net.interrupted_:
            # the others are in the middle of an epoch, so the processes cannot end at the same one
            raise KeyboardInterrupt
        net.processes.check_together(going_on=False)
        net.processes.copy_weights(net.module_)
        net.processes = SingleProcess()


class ShareIterator:
    """One process's share of every batch.

    If a batch has fewer structures than there are processes, the remaining processes take its first
    structure with weight zero, so that they contribute zeros to the sums.

    Parameters
    ----------
    iterator : BatchIterator
        The whole batches, the same in every process.
    rank, size : int
        Number of this process, and number of processes.
    """

    def __init__(self, iterator, rank: int, size: int) -> None:
        self.iterator, self.rank, self.size = iterator, rank, size
        dataset = iterator.dataset
        self.n_labelled = {
            name: _count_labels(labels, dataset.atom_counts)
            for name, labels in dataset.labels.items()
        }

    def __iter__(self) -> Iterator:
        wholes = self.iterator.order().split(self.iterator.batch_size)
        size = self.size
        shares = [w[self.rank :: size] if len(w) > self.rank else w[:1] for w in wholes]
        batches = self.iterator.dataset.batches(torch.cat(shares), [len(s) for s in shares])
        for whole, batch in zip(wholes, batches):
            batch.n_structures = len(whole)
            for name, labels in batch.labels.items():
                labels.n_labelled = self.n_labelled[name][whole].sum()
                if len(whole) <= self.rank:
                    labels.weight = torch.zeros_like(labels.values)
            yield batch

    def __len__(self) -> int:
        return len(self.iterator)


@contextmanager
def open_processes(distributed: bool, port: int, device):
    """Connect to the other processes of a fit, and disconnect at its end, even if it fails.

    Parameters
    ----------
    distributed : bool
        Whether several processes train together.
    port : int
        Port of the connection, if SLURM started the processes.
    device : str or torch.device
        Device of the network; "auto" and "cuda" give each process of a node its own GPU.

    Yields
    ------
    SingleProcess or ProcessGroup

    Raises
    ------
    ValueError
        If the environment does not define the processes.
    RuntimeError
        If the other processes cannot be reached.
    """
    url, rank, size = find_launch(port) if distributed else (None, 0, 1)
    if size == 1:
        yield SingleProcess()
        return
    gpu = choose_gpu(device)
    with nullcontext() if gpu is None else torch.cuda.device(gpu):
        group = start_group(url, rank, size, "gloo" if gpu is None else "cpu:gloo,cuda:nccl")
        processes = ProcessGroup(group)
        try:
            yield processes
            processes.check_together(going_on=False)
        finally:
            # the connections close with the last reference, so processes that wait for this one
            # get an error now and not after the timeout
            processes.group = None
            dist.destroy_process_group(group)


def _fingerprint(value):
    """Return a hash of a value; None if it cannot be pickled."""
    try:
        return joblib.hash(value)
    except Exception:  # whatever pickling may raise
        return None


def _count_labels(labels, atom_counts):
    """Count the labels of a target in each structure."""
    known = torch.ones_like(labels.values) if labels.weight is None else labels.weight
    counts = (known > 0).reshape(len(known), -1).sum(1)
    if not labels.per_atom:
        return counts
    structure = torch.arange(len(atom_counts), device=atom_counts.device)
    structure = structure.repeat_interleave(atom_counts)
    return torch.zeros_like(atom_counts).index_add(0, structure, counts)
