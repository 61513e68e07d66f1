"""Training data on the device: environments, labels, and the batches of an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data import plan_batches
from ..nn import EnvironmentBatch, Environments, Outputs

# atoms in a batch that is only evaluated: enough to amortise Python, few enough for the cache
ATOMS_PER_EVALUATION = 512
# share of the device's memory that may hold pair gradients
MEMORY_SHARE = 0.25


@dataclass
class Batch:
    """One batch: environments and labels.

    Parameters
    ----------
    environments : EnvironmentBatch
        What the network sees.
    labels : dict of str to tuple of Tensor
        Values and weights (None where all weigh the same) of each target, in units of the scale.
    divisor : dict of str to Tensor
        What turns the energy and the strain gradient of a structure into what losses act on: the
        number of atoms, or 1.
    """

    environments: EnvironmentBatch
    labels: dict[str, tuple[Tensor, Tensor | None]]
    divisor: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.environments.index)

    def predictions(self, outputs: Outputs) -> dict[str, Tensor]:
        """Pick from the network's outputs what the labels are compared with."""
        predictions = {"energy": outputs.energy / self.divisor["energy"]}
        if outputs.forces is not None:
            predictions["forces"] = outputs.forces
        if outputs.strain_gradient is not None:
            predictions["stress"] = outputs.strain_gradient / self.divisor["stress"][:, None, None]
        return predictions


class TrainingData(Dataset):
    """Structures and labels, on the device; a batch is an index into them.

    Parameters
    ----------
    structures : Structures
        With offset and scale, with features.
    targets : Targets
        Labels in the user's units: ``energy``, ``forces``, ``stress`` or ``virial``.
    network : SoapBPNN
        Network, on the device.
    sample_weight : array of shape (n_structures,), default=None
        Weights of the structures.
    per_structure : collection of str
        Targets whose loss is not divided by the number of atoms.
    """

    def __init__(self, structures, targets, network, *, sample_weight=None, per_structure=()):
        self.names = [name for name in ("energy", "forces") if name in targets]
        self.names += ["stress"] if {"stress", "virial"} & set(targets.names) else []
        like = network.spectrum.weight
        self.environments = Environments(
            structures,
            network,
            derivatives=len(self.names) > 1,
            memory=_pair_gradient_memory(like.device),
        )
        n_atoms = structures.n_atoms.astype(float)
        ones = np.ones_like(n_atoms)
        divisor = {name: ones if name in per_structure else n_atoms for name in self.names}
        labels = _scale_labels(structures, targets, divisor)
        self.labels = {name: _to_tensor(labels[name], like) for name in self.names}
        self.weights = {
            name: _label_weights(labels[name], name, structures, sample_weight, like)
            for name in self.names
        }
        self.divisor = {name: _to_tensor(divisor[name], like) for name in self.names}
        self.n_elements = len(network.elements)

    def __len__(self) -> int:
        return len(self.environments.graph.atom_counts)

    def __getitem__(self, index):
        raise TypeError("TrainingData is cut into batches by its own batches method.")

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the structures ``order`` in batches."""
        for index in plan_batches(self.environments.graph, order, batch_size, self.n_elements):
            rows = {"forces": index.atoms}
            yield Batch(
                self.environments.select(index),
                {
                    name: (
                        self.labels[name][rows.get(name, index.structures)],
                        None
                        if self.weights[name] is None
                        else self.weights[name][rows.get(name, index.structures)],
                    )
                    for name in self.names
                },
                {name: divisor[index.structures] for name, divisor in self.divisor.items()},
            )


class TrainingIterator:
    """Shuffled batches, anew in every epoch.

    Parameters
    ----------
    dataset : TrainingData
        Data.
    batch_size : int
        Structures in a batch.
    generator : torch.Generator
        Source of the order, on the CPU so that it is the same for every device.
    """

    def __init__(self, dataset: TrainingData, batch_size: int, generator: torch.Generator) -> None:
        self.dataset, self.batch_size, self.generator = dataset, batch_size, generator

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.dataset), generator=self.generator)
        device = self.dataset.environments.features.device
        return self.dataset.batches(order.to(device), self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)


class EvaluationIterator:
    """Batches in order, of a size that suits evaluation; they are made once.

    Parameters
    ----------
    dataset : TrainingData
        Data.
    """

    def __init__(self, dataset: TrainingData) -> None:
        counts = dataset.environments.graph.atom_counts
        batch_size = max(1, ATOMS_PER_EVALUATION // int(counts.float().mean().ceil()))
        order = torch.arange(len(dataset), device=counts.device)
        self._batches = list(dataset.batches(order, batch_size))

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


def _scale_labels(structures, targets, divisor):
    """Return labels as the network should predict them: without offset, divided by the scale."""
    scale = structures.scale.get("energy", 1.0)
    offset = structures.offset.get("energy", 0.0)
    labels = {"energy": (targets["energy"] - offset) / scale / divisor["energy"]}
    if "forces" in targets:
        labels["forces"] = np.concatenate(targets["forces"]) / scale
    if "stress" in divisor:
        gradient = (
            targets["stress"] * structures.volumes[:, None, None]
            if "stress" in targets
            else -targets["virial"]
        )
        labels["stress"] = gradient / scale / divisor["stress"][:, None, None]
    return labels


def _label_weights(values, name, structures, sample_weight, like):
    """Weights of the entries, zero where there is no label; None if they are all the same."""
    if sample_weight is None and np.isfinite(values).all():
        return None
    weights = np.ones(len(structures)) if sample_weight is None else np.asarray(sample_weight)
    if name == "forces":
        weights = np.repeat(weights, structures.n_atoms)
    weights = weights.reshape(-1, *[1] * (values.ndim - 1))
    return _to_tensor(np.where(np.isfinite(values), weights, 0.0), like)


def _to_tensor(values, like):
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)


def _pair_gradient_memory(device):
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
