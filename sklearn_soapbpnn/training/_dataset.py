"""Training data on the device: environments, labels, and the batches of an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data import has_derivatives, plan_batches, to_network_units
from ..model import atoms_per_chunk
from ..nn import EnvironmentBatch, compute_environments, sum_by_index

# atoms per batch in validation on the CPU: enough to amortise the overhead of Python, few enough
# for the cache
ATOMS_PER_EVALUATION = 512
# bytes up to which the pair gradients of a data set are stored; above, only their factors are
PAIR_GRADIENT_MEMORY = 256 * 1024**2
# labels below this, in units of the scale, count as zero by symmetry; predictions of them are
# rounding noise
ZERO_LABEL = 1e-6
# errors below this, in units of the scale, count as equal if the labels are zero
ZERO_ERROR = 1e-4


@dataclass
class TargetLabels:
    """Labels of one target, in the units of the network.

    Parameters
    ----------
    values : Tensor of shape (n_structures or n_atoms, ...)
        Labels in units of the scale; extensive per-structure targets are divided by ``divisor``.
    weight : Tensor or None
        Weight of each entry, zero if there is no label; None if all weights are equal.
    divisor : Tensor
        The loss compares the sum over the atoms of a structure, divided by this number, with the
        label. It is the number of atoms, or 1.
    unit : Tensor
        Factor that converts errors to the user's units: those of ``predict``, but per atom for the
        energy. In float64, since float32 lacks the squares of small units, such as that of a dipole
        in C m.
    per_atom : bool
        Whether there is one value per atom.
    n_labelled : Tensor, default=None
        Number of labelled entries in the whole batch, if these labels are only the share of one
        process; otherwise None.
    """

    values: Tensor
    weight: Tensor | None
    divisor: Tensor
    unit: Tensor
    per_atom: bool
    n_labelled: Tensor | None = None

    def split(self, order: Tensor, sizes: list[int]) -> list[TargetLabels]:
        """Return the entries ``order`` in pieces of these sizes.

        All entries are gathered in a single call, so that each piece is a view.
        """

        def split(values):
            if values is None or values.ndim == 0:
                return [values] * len(sizes)
            return values.index_select(0, order).split(sizes)

        parts = (split(t) for t in (self.values, self.weight, self.divisor, self.unit))
        return [TargetLabels(*part, self.per_atom) for part in zip(*parts)]

    def sum_errors(self, predictions: Tensor | float) -> Tensor:
        """Return, per component, the number of labels and the sums of absolute and squared errors.

        Errors are in the user's units; the components of a target are along the last axis.
        """
        error = (predictions - self.values).double() * self.unit
        known = torch.ones_like(error)
        if self.weight is not None:
            known = (self.weight > 0).expand_as(error).to(error.dtype)
        error = torch.where(known > 0, error, 0.0)
        return torch.stack([known.sum(0), error.abs().sum(0), error.square().sum(0)])

    @property
    def smallest_error(self) -> float:
        """Smallest significant error, in the user's units: zero unless all labels are zero."""
        is_zero = bool((self.values.abs() <= ZERO_LABEL).all())
        return ZERO_ERROR * float(self.unit.max()) if is_zero else 0.0


@dataclass
class Batch:
    """One batch: environments and labels.

    Parameters
    ----------
    environments : EnvironmentBatch
        Input of the network.
    labels : dict of str to TargetLabels
        Labels of each target.
    n_structures : int
        Number of structures in the whole batch, of which this may be the share of one process.
    """

    environments: EnvironmentBatch
    labels: dict[str, TargetLabels]
    n_structures: int

    def __len__(self) -> int:
        return self.n_structures

    def predictions(self, network) -> dict[str, Tensor]:
        """Return what each network predicts, with the shape (n_networks, ...) for labels (...)."""
        return self.compare(network(self.environments, strain="stress" in self.labels))

    def compare(self, outputs) -> dict[str, Tensor]:
        """Return outputs of networks in the form of the labels, see :meth:`predictions`."""
        index = self.environments.index
        derived = {"energy": outputs.energy, "forces": outputs.forces}
        derived["stress"] = outputs.strain_gradient
        predictions = {}
        for name, labels in self.labels.items():
            values = derived.get(name)
            if values is None:
                values = outputs.values[name]
                if not labels.per_atom:
                    values = sum_by_index(values, index.structure_of_atom, len(index))
            predictions[name] = values if labels.per_atom else values / labels.divisor
        return predictions


class TrainingData(Dataset):
    """Structures and labels on the device, from which batches are selected by index.

    Parameters
    ----------
    structures : Structures
        Structures with offset, scale and features attached.
    targets : Targets
        Labels in the user's units.
    network : SoapBPNN
        Network, on the device.
    sample_weight : array of shape (n_structures,), default=None
        Weights of the structures; only their ratios matter.
    per_structure : collection of str
        Targets that are not divided by the number of atoms in the loss. Intensive targets never
        are.
    """

    def __init__(self, structures, targets, network, *, sample_weight=None, per_structure=()):
        # the loss of the stress compares virials per atom, so stress and virial are the same here
        names, per_structure = (
            ["stress" if name == "virial" else name for name in names]
            for names in (targets.names, per_structure)
        )
        self.names = list(dict.fromkeys(names))
        # units of the errors, for the output of a fit
        self.units = {name: _name_unit(name, targets.units, per_structure) for name in self.names}
        self.device = network.device
        self._prepare(structures, network, has_derivatives(self.names))
        self.labels = {}
        for name in self.names:
            per_atom = name == "forces" or (name in targets and targets.kinds[name].per_atom)
            divisor = 1.0 if name in per_structure or per_atom else structures.n_atoms
            divisor = np.asarray(divisor, dtype=np.float64)
            values, divisor, unit = to_network_units(structures, targets, name, divisor)
            weight = _weigh_labels(values, per_atom, structures, sample_weight)
            # a missing label has zero weight, but zero times NaN would be NaN
            arrays = (np.nan_to_num(values), weight, divisor)
            tensors = (_to_tensor(array, network) for array in arrays)
            unit = torch.tensor(unit, dtype=torch.float64, device=self.device)
            self.labels[name] = TargetLabels(*tensors, unit, per_atom)
        # indices of the structures from which something is learnt
        self.counted = _list_counted(targets, sample_weight)
        # names of the targets with at least one label
        self.labelled = [
            name
            for name, labels in self.labels.items()
            if labels.weight is None or bool((labels.weight > 0).any())
        ]
        self.smallest_errors = {name: self.labels[name].smallest_error for name in self.labelled}
        self.n_elements, self.n_networks = len(network.elements), network.n_networks

    def _prepare(self, structures, network, derivatives):
        """Compute the environments on the device."""
        self.environments = compute_environments(
            structures, network.recipe(), derivatives=derivatives, memory=PAIR_GRADIENT_MEMORY
        )
        self.atom_counts = self.environments.graph.atom_counts

    def __len__(self) -> int:
        return len(self.atom_counts)

    def __getitem__(self, index):
        raise TypeError("TrainingData has no items; use its batches method.")

    def batches(self, order: Tensor, sizes: list[int]) -> Iterator[Batch]:
        """Yield the structures ``order`` in batches of these sizes."""
        plan = plan_batches(self.environments.graph, order, sizes, self.n_elements)
        atoms = torch.cat([index.atoms for index in plan])
        per_structure = order, sizes
        per_atom = atoms, [len(index.atoms) for index in plan]
        labels = {
            name: labels.split(*(per_atom if labels.per_atom else per_structure))
            for name, labels in self.labels.items()
        }
        for k, index in enumerate(plan):
            parts = {name: pieces[k] for name, pieces in labels.items()}
            yield Batch(self.environments.select(index), parts, sizes[k])


class BatchIterator(ABC):
    """Batches of equal size, except for the last one.

    Parameters
    ----------
    dataset : TrainingData
        Data.
    batch_size : int
        Number of structures per batch.
    """

    def __init__(self, dataset: TrainingData, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    @abstractmethod
    def order(self) -> Tensor:
        """Return the order of the structures in the next epoch, on the device."""

    def __iter__(self) -> Iterator[Batch]:
        parts = self.order().split(self.batch_size)
        return self.dataset.batches(torch.cat(parts), [len(part) for part in parts])

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)


class TrainingIterator(BatchIterator):
    """Batches that are shuffled in every epoch.

    Parameters
    ----------
    dataset, batch_size
        See :class:`BatchIterator`.
    generator : torch.Generator
        Random generator of the order, on the CPU so that the order is the same for any device.
    """

    def __init__(self, dataset: TrainingData, batch_size: int, generator: torch.Generator) -> None:
        super().__init__(dataset, batch_size)
        self.generator = generator

    def order(self) -> Tensor:
        """Return a random order."""
        order = torch.randperm(len(self.dataset), generator=self.generator)
        return order.to(self.dataset.device)


class EvaluationIterator(BatchIterator):
    """Batches in fixed order, of a size that suits evaluation.

    Parameters
    ----------
    dataset : TrainingData
        Data.
    """

    def __init__(self, dataset: TrainingData) -> None:
        mean = int(dataset.atom_counts.float().mean().ceil())
        n_atoms = atoms_per_chunk(dataset.device, ATOMS_PER_EVALUATION) // dataset.n_networks
        super().__init__(dataset, max(1, n_atoms // mean))

    def order(self) -> Tensor:
        """Return the order of the data."""
        return torch.arange(len(self.dataset), device=self.dataset.device)


def _name_unit(name, units, per_structure):
    """Return the unit of the errors of a target from the units of all columns; "" if unknown."""
    if name not in units:
        # the labels of this stress are virials
        unit = units["virial"]
        return {"eV": "eV/Angstrom^3", "": ""}.get(unit, f"{unit}/volume")
    unit = units[name]
    if name == "energy" and name not in per_structure:
        return f"{unit}/atom" if unit else "per atom"
    return unit


def _list_counted(targets, sample_weight):
    """Return the indices of the structures with a label and a weight."""
    columns = [map(np.any, targets.labelled(name)) for name in targets.names]
    counts = np.array([any(entries) for entries in zip(*columns)])
    return np.flatnonzero(counts if sample_weight is None else counts & (sample_weight > 0))


def _weigh_labels(values, per_atom, structures, sample_weight):
    """Return the weight of each entry, zero if it has no label; None if all weights are equal."""
    if sample_weight is None and np.isfinite(values).all():
        return None
    weights = np.ones(len(structures)) if sample_weight is None else np.asarray(sample_weight)
    if weights.any():
        weights = weights / weights[weights > 0].mean()
    if per_atom:
        weights = np.repeat(weights, structures.n_atoms)
    weights = weights.reshape(-1, *[1] * (values.ndim - 1))
    return np.where(np.isfinite(values), weights, 0.0)


def _to_tensor(values, like):
    return None if values is None else torch.tensor(values, dtype=like.dtype, device=like.device)
