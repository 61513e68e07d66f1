"""The network: element-wise perceptrons on SOAP power spectra, with forces and stress."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..descriptors import PairBasis, PowerSpectrum, SoapParameters
from ._environments import EnvironmentBatch
from ._force_map import map_forces
from ._layers import ElementLinear, NoNorm, PackedLayerNorm, map_features
from ._perceptron import run_perceptron


@dataclass
class Outputs:
    r"""What the network says of a batch, in units of the scale.

    Parameters
    ----------
    energies : Tensor of shape (n_atoms,)
        Energy of each atom.
    energy : Tensor of shape (n_structures,)
        Their sums.
    forces : Tensor of shape (n_atoms, 3), or None
        :math:`-\partial E / \partial r_i`.
    strain_gradient : Tensor of shape (n_structures, 3, 3), or None
        :math:`\partial E / \partial \epsilon`, the stress times the volume.
    """

    energies: Tensor
    energy: Tensor
    forces: Tensor | None = None
    strain_gradient: Tensor | None = None


class SoapBPNN(nn.Module):
    r"""Behler-Parrinello network on packed SOAP power spectra, one perceptron for each element.

    .. math:: \epsilon_i = \mathrm{MLP}_{Z_i}(\mathrm{LayerNorm}_{Z_i}(p_i))

    Bias-free layers with SiLU between them [1]_; the energy of a structure is the sum over its
    atoms, forces and stress are its exact derivatives.

    Parameters
    ----------
    elements : sequence of int
        Atomic numbers, ascending.
    parameters : SoapParameters
        Descriptor.
    num_hidden_layers : int
        Hidden layers before the head.
    num_neurons_per_layer : int
        Width of the hidden layers and of an MLP head.
    layernorm : bool
        Whether to normalise the features.
    head : {"mlp", "linear"}
        An MLP head is one more hidden layer.
    seed : int
        Seed of the initial weights.
    dtype : torch.dtype, default=torch.float32
        Precision.

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
        *,
        num_hidden_layers: int,
        num_neurons_per_layer: int,
        layernorm: bool,
        head: str,
        seed: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.elements = tuple(int(number) for number in elements)
        n_elements = len(self.elements)
        self.basis = PairBasis(parameters)
        self.spectrum = PowerSpectrum(self.basis.n_per_l, n_elements)
        n_features, n_full = self.spectrum.n_features, self.spectrum.n_full
        self.norm = PackedLayerNorm(self.spectrum.weight, n_full) if layernorm else NoNorm()
        hidden = num_hidden_layers + (head == "mlp")
        widths = [n_features] + [num_neurons_per_layer] * hidden + [1]
        self.layers = nn.ModuleList(
            # the first layer starts as if it saw the full spectrum
            ElementLinear(n_elements, n_inputs, n_outputs, generator, n_full if k == 0 else None)
            for k, (n_inputs, n_outputs) in enumerate(zip(widths, widths[1:]))
        )
        # what the shift of LayerNorm's affine part becomes behind the first layer
        bias = torch.zeros(n_elements, widths[1], dtype=torch.float64)
        self.bias = nn.Parameter(bias) if layernorm else None
        self.to(dtype)

    def forward(self, batch: EnvironmentBatch, strain: bool = False) -> Outputs:
        """Evaluate a batch; with forces if it holds pair gradients, and on request strain."""
        index = batch.index
        weight = self.layers[0].weight
        projected = map_features(weight, batch.features, index.element_counts, index.n_rows)
        hidden = projected if self.bias is None else projected + self.bias[:, None]
        weights = [layer.weight for layer in self.layers[1:]]
        derivatives = batch.pair_gradients is not None
        table, gradient = run_perceptron(hidden, weights, derivatives)
        energies = table.flatten().index_select(0, index.rows)
        energy = energies.new_zeros(len(index)).index_add(0, index.structure_of_atom, energies)
        outputs = Outputs(energies, energy)
        if not derivatives:
            return outputs

        overlap = (gradient * projected).sum(2).flatten().index_select(0, index.rows)
        gradient = gradient.flatten(0, 1).index_select(0, index.rows)
        pair_forces = map_forces(weight, gradient, overlap, batch)
        forces = pair_forces.new_zeros(len(gradient), 3)
        forces = forces.index_add(0, index.centers, pair_forces)
        outputs.forces = forces.index_add(0, index.neighbors, pair_forces, alpha=-1)
        if strain:
            outputs.strain_gradient = _sum_virial(batch, pair_forces)
        return outputs


def _sum_virial(batch: EnvironmentBatch, pair_forces: Tensor) -> Tensor:
    r""":math:`\partial E / \partial \epsilon = \sum_{ij} f_{ij} \otimes r_{ij}`, symmetrised."""
    index = batch.index
    outer = pair_forces[:, :, None] * batch.pair_vectors[:, None, :]
    total = outer.new_zeros(len(index), 3, 3)
    total = total.index_add(0, index.structure_of_atom[index.centers], outer)
    return (total + total.mT) / 2
