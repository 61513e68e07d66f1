"""The network: element-wise perceptrons on SOAP power spectra, with forces and stress."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import TargetKind
from ..descriptors import PairBasis, SoapParameters
from ._alchemical import AlchemicalLayer
from ._architecture import Architecture
from ._contractions import ElementContraction, PseudoSpeciesContraction
from ._environments import EnvironmentBatch, EnvironmentRecipe
from ._long_range import LongRange
from ._orthogonal import OrthogonalLayer
from ._perceptron import run_perceptron
from ._readout import Head, Trunk, count_outputs
from ._tensor_basis import TensorBasis


@dataclass
class Outputs:
    r"""What the network says of a batch, in units of the scale.

    Parameters
    ----------
    energies : Tensor of shape (n_atoms,), or None
        Energy of each atom; None if the network gives none.
    energy : Tensor of shape (n_structures,), or None
        Their sums.
    forces : Tensor of shape (n_atoms, 3), or None
        :math:`-\partial E / \partial r_i`.
    strain_gradient : Tensor of shape (n_structures, 3, 3), or None
        :math:`\partial E / \partial \epsilon`, the stress times the volume.
    values : dict of str to Tensor of shape (n_atoms, size)
        What each atom adds to the other targets, or to their mean.
    """

    energies: Tensor | None = None
    energy: Tensor | None = None
    forces: Tensor | None = None
    strain_gradient: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Slopes:
    """Gradient of the energy: by the first preactivations, and by what long range sees."""

    hidden: Tensor
    pair_vectors: Tensor | None = None
    positions: Tensor | None = None
    cells: Tensor | None = None


class SoapBPNN(nn.Module):
    r"""Behler-Parrinello network on SOAP power spectra.

    .. math:: \epsilon_i = \mathrm{MLP}_{Z_i}(\mathrm{LayerNorm}_{Z_i}(p_i))

    Bias-free layers with SiLU between them [1]_. What the hidden layers give are the features of an
    atom, which the heads of all targets share; the energy of a structure is the sum over its
    atoms, forces and stress are its exact derivatives.

    Parameters
    ----------
    elements : sequence of int
        Atomic numbers, ascending.
    parameters : SoapParameters
        Descriptor.
    kinds : dict of str to TargetKind
        Targets; ``"energy"`` is the one that has forces.
    architecture : Architecture
        Layers and precision.
    seed : int
        Seed of the initial weights.

    References
    ----------
    .. [1] Behler, Parrinello, "Generalized neural-network representation of high-dimensional
       potential-energy surfaces", Phys. Rev. Lett. 98, 146401 (2007),
       doi:10.1103/PhysRevLett.98.146401.
    """

    def __init__(
        self,
        elements,
        parameters: SoapParameters,
        kinds: dict[str, TargetKind],
        architecture: Architecture,
        seed: int,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.elements = tuple(int(number) for number in elements)
        self.kinds = dict(kinds)
        self.basis = PairBasis(parameters)
        make_contraction = self._choose_contraction(architecture.n_pseudo_species, generator)
        bases = {
            name: [
                None
                if (block.o3_lambda, block.o3_sigma) == (0, 1)
                else TensorBasis(
                    block.o3_lambda,
                    block.o3_sigma,
                    make_contraction,
                    architecture.add_lambda_basis,
                )
                for block in kind.blocks
            ]
            for name, kind in kinds.items()
        }
        width = architecture.num_neurons_per_layer
        is_mlp = {name: architecture.has_mlp(name) for name in kinds}
        self.columns, n_first = dict.fromkeys(kinds, slice(None)), width
        if architecture.num_hidden_layers == 0:
            # every head has its own part of the first layer
            sizes = [width if is_mlp[n] else count_outputs(kinds[n], bases[n]) for n in kinds]
            ends = list(accumulate(sizes))
            starts = [0, *ends]
            self.columns = {n: slice(a, b) for n, a, b in zip(kinds, starts, ends)}
            n_first = ends[-1]
        first = (self.basis.n_per_l, n_first, architecture.layernorm, generator)
        if architecture.n_pseudo_species is None:
            self.first = OrthogonalLayer(len(self.elements), *first)
        else:
            self.first = AlchemicalLayer(len(self.elements), architecture.n_pseudo_species, *first)
        n_networks = self.first.n_networks
        self.trunk = None
        if architecture.num_hidden_layers:
            n_layers = architecture.num_hidden_layers - 1
            self.trunk = Trunk(n_layers, width, n_networks, generator)
        self.heads = nn.ModuleList()
        for name, kind in kinds.items():
            widths = [width] * (1 + (is_mlp[name] and self.trunk is not None))
            has_output = is_mlp[name] or self.trunk is not None
            self.heads.append(Head(kind, widths, n_networks, bases[name], generator, has_output))
        self.is_mlp = is_mlp
        self.long_range = None
        if architecture.long_range is not None:
            radius = parameters.cutoff_radius
            self.long_range = LongRange(architecture.long_range, radius, width, generator)
        self.degrees = tuple(
            sorted(
                {l for parts in bases.values() for b in parts if b is not None for l in b.degrees}
            )
        )
        self.to(architecture.dtype)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.basis.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.basis.dtype

    def recipe(self) -> EnvironmentRecipe:
        """Return what environments are made with, for this network."""
        return EnvironmentRecipe(
            elements=self.elements,
            basis=self.basis,
            constants=self.first.constants,
            own_elements=self.first.own_elements,
            degrees=self.degrees,
            needs_places=self.long_range is not None,
        )

    def head(self, name: str) -> Head:
        """Return the head of a target."""
        return self.heads[list(self.kinds).index(name)]

    def forward(self, batch: EnvironmentBatch, strain: bool = False) -> Outputs:
        """Evaluate a batch; with forces if it holds pair gradients, and on request strain."""
        hidden, context = self.first(batch)
        derivatives = batch.pair_gradients is not None
        read = self._read if self.long_range is None else self._read_long_range
        features, energies, slopes = read(hidden, batch, derivatives)
        outputs = Outputs(
            values={
                name: head(features[name], self.first.gather, batch)
                for name, head in zip(self.kinds, self.heads)
                if name != "energy"
            }
        )
        if energies is None:
            return outputs
        index = batch.index
        outputs.energies = self.first.gather(energies[:, :, None], batch)[:, 0]
        outputs.energy = outputs.energies.new_zeros(len(index)).index_add(
            0, index.structure_of_atom, outputs.energies
        )
        if derivatives:
            self._differentiate(outputs, slopes, context, batch, strain)
        return outputs

    def features(self, batch: EnvironmentBatch, target: str | None = None) -> Tensor:
        """Return the features of the atoms, or what the last layer of a target is linear in.

        Without hidden layers these are the normalised SOAP features.
        """
        if self.trunk is None and (target is None or not self.is_mlp[target]):
            return self.first.features(batch)
        hidden, _ = self.first(batch)
        if self.long_range is None:
            features = self._features(hidden)
        else:
            features, _, _ = self._read_long_range(hidden, batch, False)
        if target is None:
            return self.first.gather(next(iter(features.values())), batch)
        return self.first.gather(self.head(target).last_features(features[target]), batch)

    def _choose_contraction(self, n_pseudo_species, generator):
        n_per_l, n_elements = self.basis.n_per_l, len(self.elements)

        def make_contraction(l, n_outputs):
            if n_pseudo_species is None:
                return ElementContraction(n_elements, n_per_l[l], n_outputs, generator)
            return PseudoSpeciesContraction(
                n_elements, n_pseudo_species, n_per_l[l], n_outputs, generator
            )

        return make_contraction

    def _split(self, hidden: Tensor) -> dict[str, Tensor]:
        """Return the features of each target when there are no hidden layers."""
        parts = {name: hidden[:, :, columns] for name, columns in self.columns.items()}
        return {name: F.silu(a) if self.is_mlp[name] else a for name, a in parts.items()}

    def _read(self, hidden: Tensor, batch, derivatives: bool):
        """Return the features for each head, the energies as a table, and the energy's slope."""
        if "energy" not in self.kinds:
            return self._features(hidden), None, None
        weights = [] if self.trunk is None else self.trunk.weights
        depth = None if self.trunk is None or len(self.kinds) == 1 else len(weights)
        energies, slope, shared = run_perceptron(
            hidden[:, :, self.columns["energy"]],
            [*weights, *self.head("energy").weights],
            derivatives,
            depth,
        )
        features = dict.fromkeys(self.kinds, shared) if depth is not None else {}
        if self.trunk is None and len(self.kinds) > 1:
            features = self._split(hidden)
        return features, energies, None if slope is None else _Slopes(slope)

    def _features(self, hidden: Tensor) -> dict[str, Tensor]:
        if self.trunk is None:
            return self._split(hidden)
        return dict.fromkeys(self.kinds, self.trunk(hidden))

    def _read_long_range(self, hidden: Tensor, batch, derivatives: bool):
        """Return the same with long-range features, whose slopes autograd finds."""
        create_graph = torch.is_grad_enabled()
        geometry = batch.geometry
        with torch.set_grad_enabled(create_graph or derivatives):
            if derivatives:
                hidden = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
                names = ("positions", "cells", "pair_vectors")
                leaves = {n: getattr(geometry, n).detach().requires_grad_() for n in names}
                geometry = replace(geometry, **leaves)
            table = self.trunk(hidden)
            atoms = self.first.gather(table, batch)
            features = self.first.scatter(atoms + self.long_range(atoms, geometry), batch)
            if "energy" not in self.kinds:
                return dict.fromkeys(self.kinds, features), None, None
            head = self.head("energy")
            energies = torch.bmm(head.last_features(features), head.weights[-1].mT)[:, :, 0]
            slopes = None
            if derivatives:
                inputs = [hidden, geometry.pair_vectors, geometry.positions, geometry.cells]
                total = self.first.gather(energies[:, :, None], batch).sum()
                slopes = _Slopes(
                    *torch.autograd.grad(
                        total,
                        inputs,
                        create_graph=create_graph,
                        retain_graph=create_graph,
                        allow_unused=True,
                    )
                )
        if not create_graph:
            features, energies = features.detach(), energies.detach()
        return dict.fromkeys(self.kinds, features), energies, slopes

    def _differentiate(self, outputs, slopes, context, batch, strain):
        """Set the forces and the strain gradient."""
        index = batch.index
        pair_forces = self.first.differentiate(
            slopes.hidden, context, self.columns["energy"], batch
        )
        if slopes.pair_vectors is not None:
            pair_forces = pair_forces + slopes.pair_vectors
        forces = pair_forces.new_zeros(len(index.atoms), 3)
        forces = forces.index_add(0, index.centers, pair_forces)
        outputs.forces = forces.index_add(0, index.neighbors, pair_forces, alpha=-1)
        if slopes.positions is not None:
            outputs.forces = outputs.forces - slopes.positions
        if strain:
            outputs.strain_gradient = _sum_virial(batch, pair_forces, slopes)


def _sum_virial(batch: EnvironmentBatch, pair_forces: Tensor, slopes: _Slopes) -> Tensor:
    r""":math:`\partial E / \partial \epsilon = \sum_{ij} f_{ij} \otimes r_{ij}`, symmetrised."""
    index = batch.index
    outer = pair_forces[:, :, None] * batch.pair_vectors[:, None, :]
    total = outer.new_zeros(len(index), 3, 3)
    total = total.index_add(0, index.structure_of_atom[index.centers], outer)
    if slopes.positions is not None:
        outer = slopes.positions[:, :, None] * batch.geometry.positions[:, None, :]
        total = total.index_add(0, index.structure_of_atom, outer)
    if slopes.cells is not None:
        total = total + torch.einsum("ska,skb->sab", slopes.cells, batch.geometry.cells)
    return (total + total.mT) / 2
