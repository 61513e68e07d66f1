"""What the first layers have in common: the way from environments to preactivations and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ._environments import EnvironmentBatch


class FirstLayer(nn.Module, ABC):
    r"""First layer of a network, from the environments of the atoms to their preactivations.

    It decides what is kept of the density expansion, and how many sets of weights the layers after
    it have. These work on *tables* of shape (n_networks, n_rows, n): the atoms that share a set of
    weights stand in the rows of one matrix, and the rows that are left over are ignored.

    Forces need the derivative of the energy with respect to the pair vectors. Everything after the
    layer is differentiated elsewhere; :meth:`differentiate` continues from the preactivations.

    Attributes
    ----------
    own_elements : bool
        Whether each block of an expansion is an element of the atom's own structure. Otherwise
        there is one for every element that the network knows.
    n_networks : int
        Number of sets of weights after this layer.
    n_features : int
        Size of the features of an atom.
    constants : Module
        ``constants(expansion, derivatives)`` returns what the layer needs of an expansion of shape
        (n_atoms, n_blocks, n_channels), with ``derivatives`` also for :meth:`differentiate`: a dict
        of tensors that have a row for each atom. It has no weights, so these are constants of the
        data and can be made without the layer. They come back as ``batch.constants``.
    """

    own_elements: bool
    n_networks: int
    n_features: int
    constants: nn.Module

    @abstractmethod
    def features(self, batch: EnvironmentBatch) -> Tensor:
        """Return the normalised features, of shape (n_atoms, n_features)."""

    @abstractmethod
    def forward(self, batch: EnvironmentBatch) -> tuple[Tensor, Any]:
        """Return the preactivations, and what :meth:`differentiate` needs to know of them.

        Returns
        -------
        hidden : Tensor of shape (n_networks, n_rows, n_outputs)
            The preactivations, as a table.
        context : object
            To be passed on to :meth:`differentiate`.
        """

    @abstractmethod
    def differentiate(
        self, gradient: Tensor, context: Any, columns: slice, batch: EnvironmentBatch
    ) -> Tensor:
        r"""Return the derivative of the energy with respect to the pair vectors.

        Parameters
        ----------
        gradient : Tensor of shape (n_networks, n_rows, n_columns)
            :math:`\partial E / \partial a` for some columns of the preactivations.
        context : object
            What :meth:`forward` returned.
        columns : slice
            Which columns these are.
        batch : EnvironmentBatch
            The batch, with pair gradients.

        Returns
        -------
        Tensor of shape (n_pairs, 3)
        """

    @abstractmethod
    def gather(self, table: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Take the rows of the atoms from a table: (n_networks, n_rows, n) to (n_atoms, n)."""

    @abstractmethod
    def scatter(self, atoms: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Put the atoms into a table of zeros: (n_atoms, n) to (n_networks, n_rows, n)."""
