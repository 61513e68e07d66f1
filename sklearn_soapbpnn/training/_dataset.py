"""Training data on the device: environments, labels, and the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data import plan_batches
from ..nn import EnvironmentBatch, Environments

# atoms in a batch that is only evaluated: enough to amortise Python, few enough for the cache
ATOMS_PER_EVALUATION = 512
# bytes that the pair gradients of a data set may take; beyond, their factors are kept
PAIR_GRADIENT_MEMORY = 256 * 1024**2


@dataclass
class Batch:
    """One batch: environments and labels.

    Parameters
    ----------
    environments : EnvironmentBatch
        What the network sees.
    labels : dict of str to tuple of Tensor
        Values and weights (None where all weigh the same) of each target, in units of the scale.
    divisors : dict of str to Tensor
        What turns the energy and the strain gradient of a structure into what losses act on: the
        number of atoms, or 1.
    units : dict of str to float or Tensor
        What turns errors of these into the user's units: eV per atom, eV/Angstrom, eV/Angstrom^3.
    """

    environments: EnvironmentBatch
    labels: dict[str, tuple[Tensor, Tensor | None]]
    divisors: dict[str, Tensor]
    units: dict[str, float | Tensor]

    def __len__(self) -> int:
        return len(self.environments.index)

    def predictions(self, network) -> dict[str, Tensor]:
        """Evaluate the network, as the labels are to be compared with it."""
        outputs = network(self.environments, strain="stress" in self.labels)
        predictions = {"energy": outputs.energy / self.divisors["energy"]}
        if outputs.forces is not None:
            predictions["forces"] = outputs.forces
        if outputs.strain_gradient is not None:
            predictions["stress"] = outputs.strain_gradient / self.divisors["stress"]
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
        Weights of the structures; their mean does not matter.
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
            memory=PAIR_GRADIENT_MEMORY,
        )
        labels, divisors, units = _scale_labels(structures, targets, self.names, per_structure)
        # a missing label has weight zero, but zero times NaN would still be NaN
        self.labels = {name: _to_tensor(np.nan_to_num(labels[name]), like) for name in self.names}
        self.weights = {
            name: _label_weights(labels[name], name, structures, sample_weight, like)
            for name in self.names
        }
        # names of the targets that have a label at all
        self.labelled = [
            name
            for name, weight in self.weights.items()
            if weight is None or bool((weight > 0).any())
        ]
        self.divisors = {name: _to_tensor(values, like) for name, values in divisors.items()}
        self.units = {name: _to_tensor(values, like) for name, values in units.items()}
        self.n_elements = len(network.elements)

    def __len__(self) -> int:
        return len(self.environments.graph.atom_counts)

    def __getitem__(self, index):
        raise TypeError("TrainingData is cut into batches by its own batches method.")

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the structures ``order`` in batches."""
        plan = plan_batches(self.environments.graph, order, batch_size, self.n_elements)
        atoms = torch.cat([index.atoms for index in plan])
        n_structures, n_atoms = [len(index) for index in plan], [len(i.atoms) for i in plan]

        def split(values, name=None):
            # gathered for the whole epoch, so that a batch is a view
            if values is None or values.ndim == 0:
                return [values] * len(plan)
            if name == "forces":
                return values.index_select(0, atoms).split(n_atoms)
            return values.index_select(0, order).split(n_structures)

        labels = {name: split(self.labels[name], name) for name in self.names}
        weights = {name: split(self.weights[name], name) for name in self.names}
        divisors = {name: split(values) for name, values in self.divisors.items()}
        units = {name: split(values) for name, values in self.units.items()}
        for k, index in enumerate(plan):
            yield Batch(
                self.environments.select(index),
                {name: (labels[name][k], weights[name][k]) for name in self.names},
                {name: parts[k] for name, parts in divisors.items()},
                {name: parts[k] for name, parts in units.items()},
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
    """Batches in order, of a size that suits evaluation.

    Parameters
    ----------
    dataset : TrainingData
        Data.
    """

    def __init__(self, dataset: TrainingData) -> None:
        counts = dataset.environments.graph.atom_counts
        self.dataset = dataset
        self.batch_size = max(1, ATOMS_PER_EVALUATION // int(counts.float().mean().ceil()))
        self.order = torch.arange(len(dataset), device=counts.device)

    def __iter__(self) -> Iterator[Batch]:
        return self.dataset.batches(self.order, self.batch_size)


def _scale_labels(structures, targets, names, per_structure):
    """Return labels as the network predicts them, and the divisors and units of a Batch."""
    scale = structures.scale.get("energy", 1.0)
    n_atoms = structures.n_atoms.astype(np.float64)
    ones = np.ones_like(n_atoms)
    per_atom = {name: ones if name in per_structure else n_atoms for name in names}
    residual = targets["energy"] - structures.offset.get("energy", 0.0)
    labels = {"energy": residual / scale / per_atom["energy"]}
    divisors = {"energy": per_atom["energy"]}
    units = {"energy": np.float64(scale), "forces": np.float64(scale)}
    if "forces" in names:
        labels["forces"] = np.concatenate(targets["forces"]) / scale
    if "stress" in names:
        # without a cell there is no stress, whatever the label says
        volumes = np.where(structures.volumes > 0, structures.volumes, np.nan)[:, None, None]
        stress = targets["stress"] if "stress" in targets else -targets["virial"] / volumes
        divisors["stress"] = per_atom["stress"][:, None, None]
        units["stress"] = scale * divisors["stress"] / np.where(volumes > 0, volumes, 1.0)
        labels["stress"] = stress / units["stress"]
        labels["stress"][~np.isfinite(volumes[:, 0, 0])] = np.nan
    return labels, divisors, units


def _label_weights(values, name, structures, sample_weight, like):
    """Weights of the entries, zero where there is no label; None if they are all the same."""
    if sample_weight is None and np.isfinite(values).all():
        return None
    weights = np.ones(len(structures)) if sample_weight is None else np.asarray(sample_weight)
    if weights.any():
        weights = weights / weights[weights > 0].mean()
    if name == "forces":
        weights = np.repeat(weights, structures.n_atoms)
    weights = weights.reshape(-1, *[1] * (values.ndim - 1))
    return _to_tensor(np.where(np.isfinite(values), weights, 0.0), like)


def _to_tensor(values, like):
    return torch.as_tensor(values).to(like.device, like.dtype)
