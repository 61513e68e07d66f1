"""What sets the shape of a network, apart from its elements, its descriptor and its targets."""

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
        Head of each target. An MLP head is one more hidden layer; targets without an entry have
        one.
    add_lambda_basis : bool, default=True
        Whether tensors are also built from the expansion of their own degree.
    n_pseudo_species : int, default=None
        Number of pseudo-species that elements are embedded in; None keeps elements apart.
    long_range : LongRangeParameters, default=None
        Long-range features; None for a network without them.
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
    dtype: torch.dtype = torch.float32

    def has_mlp(self, name: str) -> bool:
        """Whether the head of a target has a hidden layer of its own."""
        return self.heads.get(name, "mlp") == "mlp"
