"""The module that metatomic calls, with metatomic's types of input and output."""

# metatomic compares the annotations of `forward` with those of `typing`
# ruff: noqa: UP006, UP035, UP045
import re
from typing import Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System
from torch import Tensor, nn

from ...data import TargetKind
from ._model import ExportedModel

# names of Cartesian components, by rank
AXES = {1: ["xyz"], 2: ["xyz_1", "xyz_2"]}


class Layout(nn.Module):
    """Blocks of an output of metatomic.

    Parameters
    ----------
    name : str
        Name of the output in metatomic.
    source : str
        Name of the output of :class:`ExportedModel`.
    kind : TargetKind
        Shape of a value.
    """

    # lists that may be empty, of which TorchScript cannot find out the type
    axes: List[str]
    shapes: List[List[int]]

    def __init__(self, name: str, source: str, kind: TargetKind) -> None:
        super().__init__()
        self.name, self.source = name, source
        # metatomic's name of the properties, which must be like that of a variable
        label = "energy" if name.startswith("energy_") else name.removeprefix("mtt::")
        self.label = re.sub(r"^(?=\d)|[^a-zA-Z0-9_]", "_", label)
        self.n_properties = [block.n_properties for block in kind.blocks]
        self.key_names, keys, shapes = ["_"], [[0]], [[1]]
        self.axes = AXES.get(kind.cartesian_rank, [])
        if self.axes:
            shapes, self.n_properties = [[3] * kind.cartesian_rank], self.n_properties[:1]
        elif not kind.is_scalar or len(kind.shape) > 1:
            self.key_names, self.axes = ["o3_lambda", "o3_sigma"], ["o3_mu"]
            keys = [[block.o3_lambda, block.o3_sigma] for block in kind.blocks]
            shapes = [[2 * block.o3_lambda + 1] for block in kind.blocks]
        self.shapes = shapes if self.axes else [[]]
        self.sizes = [n * shape[0] ** len(shape) for n, shape in zip(self.n_properties, shapes)]
        self.register_buffer("keys", torch.tensor(keys))

    def forward(self, values: Tensor, samples: Labels) -> TensorMap:
        """Divide flattened values, (n_samples, size), into blocks."""
        device = values.device
        blocks: List[TensorBlock] = []
        start = 0
        for k, width in enumerate(self.sizes):
            # metatomic converts units in place, which torch refuses for the views of a split
            part = values.narrow(1, start, width)
            start += width
            components: List[Labels] = []
            for axis, size in zip(self.axes, self.shapes[k]):
                # components of spherical tensors are numbered from -l
                first = -(size // 2) if axis == "o3_mu" else 0
                places = torch.arange(first, first + size, device=device)
                components.append(Labels(axis, places[:, None]))
            n = self.n_properties[k]
            properties = Labels(self.label, torch.arange(n, device=device)[:, None])
            shape = [len(values)] + self.shapes[k] + [n]
            blocks.append(TensorBlock(part.reshape(shape), samples, components, properties))
        return TensorMap(Labels(self.key_names, self.keys), blocks)


class MetatomicModule(nn.Module):
    """A fitted model as metatomic calls it.

    Parameters
    ----------
    elements : sequence of int
        Atomic numbers, in ascending order.
    model : ExportedModel
        The model.
    layouts : list of Layout
        Layouts of its outputs.
    cutoff : float
        Cutoff radius of the neighbour list.
    """

    def __init__(
        self, elements, model: ExportedModel, layouts: List[Layout], cutoff: float
    ) -> None:
        super().__init__()
        self.model, self.layouts = model, nn.ModuleList(layouts)
        self.options = NeighborListOptions(cutoff=cutoff, full_list=False, strict=True)
        # last, since metatrain takes the precision of the first tensor for that of the model
        self.elements = _Elements(elements)

    @torch.jit.export
    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Return the options of the neighbour list, in which each pair occurs once."""
        return [self.options]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels] = None,
    ) -> Dict[str, TensorMap]:
        """Evaluate systems, see :class:`metatomic.torch.ModelInterface`."""
        results: Dict[str, TensorMap] = {}
        wanted: Dict[str, bool] = {}
        for layout in self.layouts:
            if layout.name in outputs:
                wanted[layout.source] = outputs[layout.name].sample_kind == "system"
        if len(systems) == 0 or len(wanted) == 0:
            return results

        vectors, centers, neighbors = self._join_pairs(systems)
        places = _list_atoms(systems)
        selected: Optional[Tensor] = None
        if selected_atoms is not None:
            sizes = torch.bincount(places[:, 0], minlength=len(systems))
            chosen = selected_atoms.values.long()
            selected = (sizes.cumsum(0) - sizes)[chosen[:, 0]] + chosen[:, 1]
        numbers = torch.cat([system.types for system in systems]).long()
        cells = torch.stack([system.cell for system in systems])
        values = self.model(
            vectors,
            centers,
            neighbors,
            self.elements(numbers),
            places[:, 0],
            torch.det(cells).abs(),
            selected,
            wanted,
        )

        if selected is not None:
            places = places[selected]
        of_atoms = Labels(["system", "atom"], places)
        present = torch.unique(places[:, 0])
        of_systems = Labels(["system"], present[:, None])
        for layout in self.layouts:
            if layout.name in outputs:
                rows = values[layout.source]
                if wanted[layout.source]:
                    results[layout.name] = layout(rows[present], of_systems)
                else:
                    results[layout.name] = layout(rows, of_atoms)
        return results

    def _join_pairs(self, systems: List[System]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the vectors of the pairs of all systems, and the numbers of their atoms."""
        vectors: List[Tensor] = []
        pairs: List[Tensor] = []
        first = 0
        for system in systems:
            block = system.get_neighbor_list(self.options)
            vectors.append(block.values[:, :, 0])
            pairs.append(block.samples.values[:, :2].long() + first)
            first += len(system)
        centers, neighbors = torch.cat(pairs).unbind(1)
        return torch.cat(vectors), centers, neighbors


class _Elements(nn.Module):
    """From atomic numbers to indices of elements."""

    def __init__(self, elements) -> None:
        super().__init__()
        index = torch.full((max(elements) + 1,), -1)
        index[torch.tensor(elements)] = torch.arange(len(elements))
        self.register_buffer("index", index)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the index of the element of each atom."""
        return self.index[numbers]


def _list_atoms(systems: List[System]) -> Tensor:
    """Return the system of each atom, and its number therein: (n_atoms, 2)."""
    parts: List[Tensor] = []
    for k, system in enumerate(systems):
        atom = torch.arange(len(system), device=system.positions.device)
        parts.append(torch.stack([torch.full_like(atom, k), atom], dim=1))
    return torch.cat(parts)
