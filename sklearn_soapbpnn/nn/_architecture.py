"""The architecture of a network, apart from its elements, its descriptor and its targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..potentials import LongRangeParameters


@dataclass(frozen=True)
class Architecture:
    """Layers of a network, and their precision.

    Parameters
    ----------
    num_hidden_layers : int
        Hidden layers before the heads.
    num_neurons_per_layer : int
        Width of the hidden layers and of MLP heads.
    layernorm : bool
        Whether to normalise the features.
    heads : dict of str to {"mlp", "linear"}
        Head of each target. An MLP head has one more hidden layer; it is the default for targets
        without an entry.
    add_lambda_basis : bool, default=True
        Whether tensors are also built from the expansion of the same degree.
    n_pseudo_species : int, default=None
        Number of pseudo-species in which elements are embedded; None treats elements separately.
    long_range : LongRangeParameters, default=None
        Long-range features; None for a network without them.
    n_networks : int, default=1
        Number of networks in a committee, which differ in their weights only.
    dtype : torch.dtype, default=torch.float32
        Precision.
    """

    num_hidden_layers: int
    num_neurons_per_layer: int
    layernorm: bool
    heads: dict[str, str]
    add_lambda_basis: bool = True
    n_pseudo_species: int | None = None
    long_range: LongRangeParameters | None = None
    n_networks: int = 1
    dtype: torch.dtype = torch.float32

    def has_mlp(self, name: str) -> bool:
        """Return whether the head of a target has a hidden layer."""
        return self.heads.get(name, "mlp") == "mlp"
