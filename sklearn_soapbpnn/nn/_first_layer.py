"""Interface of the first layers: from environments to preactivations, and the derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ..descriptors import PowerSpectrum
from ._environments import EnvironmentBatch
from ._force_rows import differentiate_at_once
from ._layers import ElementLinear


class FirstLayer(nn.Module, ABC):
    r"""First layer of a network, from the environments of the atoms to their preactivations.

    It determines which constants of the density expansion are stored, and how many sets of weights
    the following layers have: one for each network of a committee or, if elements have separate
    weights, for each element and network, with the networks of an element one after the other.
    These layers act on *tables* of shape (n_sets, n_rows, n): the atoms that share a set of weights
    are rows of one matrix, and unused rows are ignored.

    Forces need the derivative of the energy with respect to the pair vectors. The layers after this
    one are differentiated elsewhere; :meth:`differentiate` continues from the preactivations.

    Attributes
    ----------
    own_elements : bool
        Whether an expansion has one block per element of the structure of the atom. Otherwise it
        has one block per element of the network.
    layernorm : bool
        Whether the features are normalised.
    n_networks : int
        Number of networks.
    n_sets : int
        Number of sets of weights after this layer.
    n_features : int
        Number of features per atom.
    constants : Module
        ``constants(expansion, derivatives)`` computes what the layer needs from an expansion of
        shape (n_atoms, n_blocks, n_channels), with ``derivatives`` also what :meth:`differentiate`
        needs. It returns a dict of tensors with one row per atom. It has no weights, so these are
        constants of the data and are computed without the layer. The layer receives them as
        ``batch.constants``.
    spectrum : PowerSpectrum
        Layout of the features.
    linear : ElementLinear
        The weights of the features.
    """

    own_elements: bool
    layernorm: bool
    n_networks: int
    n_sets: int
    n_features: int
    constants: nn.Module
    spectrum: PowerSpectrum
    linear: ElementLinear

    @property
    @abstractmethod
    def roughness(self) -> Tensor:
        """How fast each input of ``linear`` oscillates, see :meth:`PowerSpectrum.roughness`."""

    def input_size(self, batch: EnvironmentBatch) -> Tensor:
        """Return the root mean square of the features, of all that there are before packing."""
        return (self.features(batch).square().sum(1).mean() / self.spectrum.n_full).sqrt()

    @abstractmethod
    def features(self, batch: EnvironmentBatch) -> Tensor:
        """Return the normalised features, which all networks share: (n_atoms, n_features)."""

    @abstractmethod
    def forward(self, batch: EnvironmentBatch) -> tuple[Tensor, Any]:
        """Return the preactivations, and the context that :meth:`differentiate` needs.

        Returns
        -------
        hidden : Tensor of shape (n_sets, n_rows, n_outputs)
            The preactivations, as a table.
        context : object
            Argument of :meth:`differentiate`.
        """

    @abstractmethod
    def differentiate(
        self, gradient: Tensor, context: Any, columns: slice, batch: EnvironmentBatch
    ) -> Tensor:
        r"""Return the derivative of the energy with respect to the pair vectors.

        Parameters
        ----------
        gradient : Tensor of shape (n_sets, n_rows, n_columns)
            :math:`\partial E / \partial a` for some columns of the preactivations.
        context : object
            Context that :meth:`forward` returned.
        columns : slice
            The columns.
        batch : EnvironmentBatch
            The batch, with pair gradients.

        Returns
        -------
        Tensor of shape (n_networks, n_pairs, 3)
        """

    @abstractmethod
    def slope(
        self, gradient: Tensor, context: Any, columns: slice, batch: EnvironmentBatch
    ) -> Tensor:
        r"""Return the derivative of the energy with respect to the expansion, without a graph.

        It is what :meth:`differentiate` takes to the pairs. The parameters are the same.

        Returns
        -------
        Tensor of shape (n_networks, n_atoms, n_blocks, n_channels)
        """

    def force_rows(
        self, jacobian: Tensor, context: Any, columns: slice, batch: EnvironmentBatch, strain: bool
    ) -> tuple[Tensor, Tensor]:
        r"""Return minus the derivatives of sums of features with respect to the positions.

        The features are functions of the preactivations, and are summed over the atoms that share a
        set of weights.

        Parameters
        ----------
        jacobian : Tensor of shape (n_sets, n_rows, n_columns, n_features)
            :math:`\partial h / \partial a`: derivatives of the features with respect to some
            columns of the preactivations.
        context, columns, batch
            See :meth:`differentiate`.
        strain : bool
            Whether derivatives with respect to the strain are needed.

        Returns
        -------
        forces : Tensor of shape (n_atoms, 3, n_sets, n_features)
            :math:`- \partial / \partial \mathbf r` of the sums.
        gradient : Tensor of shape (n_structures, 3, 3, n_sets, n_features)
            :math:`\sum_{ij} \mathbf f_{ij} \otimes \mathbf r_{ij}`, which has to be symmetrised.
            Without ``strain`` there are none.
        """
        return differentiate_at_once(self, jacobian, context, columns, batch, strain)

    @abstractmethod
    def gather(self, table: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Take the rows of the atoms from a table (n_sets, n_rows, n): (n_networks, n_atoms, n)."""

    @abstractmethod
    def scatter(self, atoms: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Put rows of the atoms (n_networks, n_atoms, n) into a table, see :meth:`gather`."""
