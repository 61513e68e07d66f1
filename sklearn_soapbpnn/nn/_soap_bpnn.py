"""The network: perceptrons on SOAP power spectra, with forces and stress."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import TargetKind
from ..descriptors import PairBasis, SoapParameters
from ..potentials import Geometry
from ._alchemical import AlchemicalLayer
from ._architecture import Architecture
from ._contractions import ElementContraction, PseudoSpeciesContraction
from ._environments import EnvironmentBatch, EnvironmentRecipe
from ._first_layer import FirstLayer
from ._long_range import LongRange
from ._orthogonal import OrthogonalLayer
from ._perceptron import run_perceptron
from ._readout import Head, Trunk, count_outputs
from ._slopes import Slopes, find_slopes, require_slopes, sum_by_index, sum_forces, sum_virial
from ._tensor_basis import TensorBasis


@dataclass
class Outputs:
    r"""Output of each network of a committee for a batch, in units of the scale.

    Parameters
    ----------
    energies : Tensor of shape (n_networks, n_atoms), or None
        Energy of each atom; None if energies are not a target.
    energy : Tensor of shape (n_networks, n_structures), or None
        Sum of the atomic energies of each structure.
    forces : Tensor of shape (n_networks, n_atoms, 3), or None
        :math:`-\partial E / \partial r_i`.
    pair_forces : Tensor of shape (n_networks, n_pairs, 3), or None
        :math:`\partial E / \partial r_{ij}`, of which the forces are sums.
    strain_gradient : Tensor of shape (n_networks, n_structures, 3, 3), or None
        :math:`\partial E / \partial \epsilon`, the stress times the volume.
    values : dict of str to Tensor of shape (n_networks, n_atoms, size)
        Contributions of the atoms to the other targets, whose values are sums or means of these.
    """

    energies: Tensor | None = None
    energy: Tensor | None = None
    forces: Tensor | None = None
    pair_forces: Tensor | None = None
    strain_gradient: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Reading:
    """Output of the layers after the first.

    Parameters
    ----------
    features : dict of str to Tensor of shape (n_sets, n_rows, n)
        Input of the head of each target; the energy may be missing.
    energies : Tensor of shape (n_sets, n_rows), or None
        Energy of each row; None if energies are not a target.
    slopes : Slopes or None
        Gradient of the sum of the energies; None if it is not needed.
    """

    features: dict[str, Tensor]
    energies: Tensor | None = None
    slopes: Slopes | None = None


class SoapBPNN(nn.Module):
    r"""Behler-Parrinello network on SOAP power spectra, or a committee of several.

    .. math:: \epsilon_i = \mathrm{MLP}_{Z_i}(\mathrm{LayerNorm}_{Z_i}(p_i))

    The layers have no bias and SiLU between them [1]_. The output of the hidden layers are the
    features of an atom, which the heads of all targets share. The energy of a structure is the sum
    over its atoms; forces and stress are its exact derivatives.

    The networks of a committee have all weights of perceptrons for themselves. In common they have
    what acts on the expansion: tensor bases, and pseudo-species with their LayerNorm.

    Parameters
    ----------
    elements : sequence of int
        Atomic numbers, in ascending order.
    parameters : SoapParameters
        Descriptor.
    kinds : dict of str to TargetKind
        Kinds of the targets. Forces and stress are derivatives of ``"energy"``.
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
        width = architecture.num_neurons_per_layer
        self.elements = tuple(int(number) for number in elements)
        self.kinds = dict(kinds)
        self.is_mlp = {name: architecture.has_mlp(name) for name in kinds}
        self.basis = PairBasis(parameters)

        # random weights are drawn in this order: tensor bases, first layer, hidden layers, heads,
        # long range
        bases = self._build_bases(architecture, generator)
        self.degrees = _list_degrees(bases)
        self.columns, n_first = self._divide_first_layer(architecture, bases)
        self.first = self._build_first_layer(architecture, n_first, generator)
        self.trunk = None
        if architecture.num_hidden_layers:
            n_layers = architecture.num_hidden_layers - 1
            self.trunk = Trunk(n_layers, width, self.first.n_sets, generator)
        self.heads = nn.ModuleList(
            self._build_head(name, bases[name], width, generator) for name in kinds
        )
        self.long_range = None
        if architecture.long_range is not None:
            cutoff_radius = parameters.cutoff_radius
            self.long_range = LongRange(architecture.long_range, cutoff_radius, width, generator)
        self.to(architecture.dtype)

    @property
    def n_networks(self) -> int:
        """Number of networks."""
        return self.first.n_networks

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.basis.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.basis.dtype

    def recipe(self) -> EnvironmentRecipe:
        """Return what is needed to compute the environments for this network."""
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
        """Evaluate a batch, with forces if it has pair gradients, and on request strain."""
        derivatives = batch.pair_gradients is not None
        hidden, context = self.first(batch)
        reading = self._read(hidden, batch, derivatives)
        outputs = Outputs(values=self._read_values(reading.features, batch))
        if reading.energies is None:
            return outputs
        index = batch.index
        outputs.energies = self.first.gather(reading.energies[:, :, None], batch)[:, :, 0]
        outputs.energy = sum_by_index(outputs.energies, index.structure_of_atom, len(index))
        if derivatives:
            slopes = reading.slopes
            columns = self.columns["energy"]
            pair_forces = self.first.differentiate(slopes.hidden, context, columns, batch)
            if slopes.pair_vectors is not None:
                pair_forces = pair_forces + slopes.pair_vectors
            outputs.pair_forces = pair_forces
            outputs.forces = sum_forces(batch, pair_forces, slopes)
            if strain:
                outputs.strain_gradient = sum_virial(batch, pair_forces, slopes)
        return outputs

    def features(self, batch: EnvironmentBatch, target: str | None = None) -> Tensor:
        """Return the features of the atoms, or the last-layer features of a target.

        Those of a committee are those of its networks, side by side. Without hidden layers they are
        the normalised SOAP features.
        """
        if self.trunk is None and (target is None or not self.is_mlp[target]):
            return self.first.features(batch)
        hidden, _ = self.first(batch)
        features = self.head_inputs(hidden, batch)
        if target is None:
            table = next(iter(features.values()))
        else:
            table = self.head(target).last_features(features[target])
        return self.first.gather(table, batch).transpose(0, 1).flatten(1)

    def head_inputs(self, hidden: Tensor, batch: EnvironmentBatch) -> dict[str, Tensor]:
        """Return the input of the head of each target as a table, given the preactivations."""
        if self.long_range is None:
            return self._compute_features(hidden)
        return self._read_long_range(hidden, batch, derivatives=False).features

    def layers(self, name: str) -> list[Tensor]:
        """Return the weights of all layers of a target after the first, with SiLU before each."""
        shared = [] if self.trunk is None else self.trunk.weights
        return [*shared, *self.head(name).weights]

    # construction, in this order

    def _build_bases(self, architecture, generator):
        """Return the basis of each block of each target; None for invariants."""
        n_pseudo_species = architecture.n_pseudo_species
        n_per_l, n_elements = self.basis.n_per_l, len(self.elements)

        def make_contraction(l, n_outputs):
            if n_pseudo_species is None:
                return ElementContraction(n_elements, n_per_l[l], n_outputs, generator)
            return PseudoSpeciesContraction(
                n_elements, n_pseudo_species, n_per_l[l], n_outputs, generator
            )

        def make_basis(block):
            if block.is_scalar:
                return None
            return TensorBasis(
                block.o3_lambda, block.o3_sigma, make_contraction, architecture.add_lambda_basis
            )

        return {
            name: [make_basis(block) for block in kind.blocks] for name, kind in self.kinds.items()
        }

    def _divide_first_layer(self, architecture, bases):
        """Return the columns of the first layer that each target uses, and their number.

        With hidden layers, all targets share all columns. Without, each target has separate columns
        for the hidden layer of its head or, if the head is linear, for its invariants.
        """
        width = architecture.num_neurons_per_layer
        if architecture.num_hidden_layers:
            return dict.fromkeys(self.kinds, slice(None)), width
        columns, start = {}, 0
        for name, kind in self.kinds.items():
            size = width if self.is_mlp[name] else count_outputs(kind, bases[name])
            columns[name] = slice(start, start + size)
            start += size
        return columns, start

    def _build_first_layer(self, architecture, n_outputs, generator) -> FirstLayer:
        n_elements, n_pseudo_species = len(self.elements), architecture.n_pseudo_species
        layernorm, n_networks = architecture.layernorm, architecture.n_networks
        options = (self.basis.n_per_l, n_outputs, layernorm, n_networks, generator)
        if n_pseudo_species is None:
            return OrthogonalLayer(n_elements, *options)
        return AlchemicalLayer(n_elements, n_pseudo_species, *options)

    def _build_head(self, name, bases, width, generator) -> Head:
        """Return the head of a target, without the layers that the first layer replaces."""
        has_trunk, is_mlp = self.trunk is not None, self.is_mlp[name]
        widths = [width, width] if has_trunk and is_mlp else [width]
        has_output = has_trunk or is_mlp
        return Head(self.kinds[name], widths, self.first.n_sets, bases, generator, has_output)

    # evaluation after the first layer

    def _read(self, hidden: Tensor, batch: EnvironmentBatch, derivatives: bool) -> _Reading:
        """Return the input of the heads, the energies, and on request their slopes."""
        if self.long_range is not None:
            return self._read_long_range(hidden, batch, derivatives)
        if "energy" not in self.kinds:
            return _Reading(self._compute_features(hidden))
        return self._read_short_range(hidden, derivatives)

    def _read_short_range(self, hidden: Tensor, derivatives: bool) -> _Reading:
        """Evaluate the perceptron of the energy, with a hand-written derivative.

        The other heads share the features of its hidden layers.
        """
        has_others = len(self.kinds) > 1
        shares = self.trunk is not None and has_others
        energies, slope, features = run_perceptron(
            hidden[:, :, self.columns["energy"]],
            self.layers("energy"),
            derivatives,
            depth=len(self.trunk.weights) if shares else None,
        )
        slopes = None if slope is None else Slopes(slope)
        if not has_others:
            return _Reading({}, energies, slopes)
        if self.trunk is None:
            return _Reading(self._split(hidden), energies, slopes)
        return _Reading(dict.fromkeys(self.kinds, features), energies, slopes)

    def _read_long_range(
        self, hidden: Tensor, batch: EnvironmentBatch, derivatives: bool
    ) -> _Reading:
        """Add long-range features; autograd computes the slopes of the energy."""
        create_graph, geometry = torch.is_grad_enabled(), batch.geometry
        with torch.set_grad_enabled(create_graph or derivatives):
            if derivatives:
                hidden, geometry = require_slopes(hidden, geometry)
            features = self._add_long_range(self.trunk(hidden), batch, geometry)
            energies = self._read_energies(features) if "energy" in self.kinds else None
            slopes = None
            if derivatives and energies is not None:
                total = self.first.gather(energies[:, :, None], batch).sum()
                slopes = find_slopes(total, hidden, geometry, create_graph)
        if not create_graph:
            features = features.detach()
            energies = None if energies is None else energies.detach()
        return _Reading(dict.fromkeys(self.kinds, features), energies, slopes)

    def _add_long_range(self, table: Tensor, batch: EnvironmentBatch, geometry: Geometry) -> Tensor:
        """Return the features as a table: the sum of the short-range and long-range features."""
        (atoms,) = self.first.gather(table, batch)
        return self.first.scatter((atoms + self.long_range(atoms, geometry))[None], batch)

    def _read_energies(self, features: Tensor) -> Tensor:
        """Return the energies of the rows, (n_sets, n_rows)."""
        head = self.head("energy")
        return torch.bmm(head.last_features(features), head.weights[-1].mT)[:, :, 0]

    def _compute_features(self, hidden: Tensor) -> dict[str, Tensor]:
        """Return the input of the head of each target."""
        if self.trunk is None:
            return self._split(hidden)
        return dict.fromkeys(self.kinds, self.trunk(hidden))

    def _split(self, hidden: Tensor) -> dict[str, Tensor]:
        """Return the input of the head of each target if there are no hidden layers."""
        parts = {name: hidden[:, :, columns] for name, columns in self.columns.items()}
        return {name: F.silu(a) if self.is_mlp[name] else a for name, a in parts.items()}

    def _read_values(self, features, batch) -> dict[str, Tensor]:
        """Return the values of the atoms for all targets except the energy."""
        return {
            name: head(features[name], self.first.gather, batch)
            for name, head in zip(self.kinds, self.heads)
            if name != "energy"
        }


def _list_degrees(bases) -> tuple[int, ...]:
    """Return the degrees of the expansion that the bases of all targets need."""
    degrees = {l for parts in bases.values() for b in parts if b is not None for l in b.degrees}
    return tuple(sorted(degrees))
