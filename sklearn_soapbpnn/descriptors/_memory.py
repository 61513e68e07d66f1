"""Estimates of the memory for descriptors and for the weights of the first layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psutil
import torch

from ..data import Structures, build_graph
from ._channels import count_channels, count_features
from ._pair_basis import SoapParameters, count_radial_channels
from ._pair_sums import has_loops

# number of structures whose pairs are counted to estimate the pairs of all
SAMPLE = 64
# number of pairs per atom that few structures exceed, even with a large cutoff
MANY_PAIRS = 500
# fraction of the machine's memory that descriptors may take if no limit is set
SHARE = 0.5
# bytes for the two atoms of a pair
BYTES_PER_INDEX = 16
# numbers per weight in training: the weight, its gradient, two moments, and the best weight
NUMBERS_PER_WEIGHT = 5


def exceeds_memory(
    data_sets: Sequence[Structures],
    parameters: SoapParameters,
    derivatives: bool,
    itemsize: int,
    limit: float,
    device: torch.device,
) -> bool:
    """Return whether the environments of all structures take more bytes than ``limit``.

    See :func:`estimate_memory`, which is called only if a generous bound exceeds the limit.
    """
    n_elements = len(_find_elements(data_sets))
    per_atom, per_pair = _count_bytes(parameters, n_elements, derivatives, itemsize, device)
    n_atoms = sum(structures.n_atoms.sum() for structures in data_sets)
    if n_atoms * (per_atom + MANY_PAIRS * per_pair) <= limit:
        return False
    return estimate_memory(data_sets, parameters, derivatives, itemsize, device) > limit


def estimate_memory(
    data_sets: Sequence[Structures],
    parameters: SoapParameters,
    derivatives: bool,
    itemsize: int,
    device: torch.device,
) -> int:
    """Estimate the bytes that the environments of all structures take.

    Parameters
    ----------
    data_sets : sequence of Structures
        Structures that are in memory at the same time, such as the training and the validation
        structures.
    parameters : SoapParameters
        Hyperparameters of the descriptor.
    derivatives : bool
        Whether forces or stress are learnt.
    itemsize : int
        Bytes per number.
    device : torch.device
        Where they are; the factors of the pair basis are stored only where torch sums over pairs.
    """
    elements = _find_elements(data_sets)
    per_atom, per_pair = _count_bytes(parameters, len(elements), derivatives, itemsize, device)
    n_bytes = 0
    for structures in data_sets:
        pairs_per_atom = _count_pairs(structures, parameters.cutoff_radius, elements)
        n_bytes += structures.n_atoms.sum() * (per_atom + pairs_per_atom * per_pair)
    return int(n_bytes)


def estimate_weights(
    parameters: SoapParameters, n_elements: int, n_outputs: int, itemsize: int
) -> int:
    """Estimate the bytes for the first layer with orthogonal species in training.

    Their number grows with the cube of the number of elements.

    Parameters
    ----------
    parameters : SoapParameters
        Hyperparameters of the descriptor.
    n_elements : int
        Number of elements.
    n_outputs : int
        Width of the layer.
    itemsize : int
        Bytes per number.
    """
    n_features = sum(count_features(count_radial_channels(parameters), n_elements))
    return NUMBERS_PER_WEIGHT * itemsize * n_elements * n_features * n_outputs


def find_memory(device: torch.device) -> int:
    """Return the bytes that descriptors may take on a device."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * psutil.virtual_memory().total)


def _find_elements(data_sets):
    return np.unique(np.concatenate([structures.elements for structures in data_sets]))


def _count_pairs(structures, cutoff_radius, elements):
    """Return the mean number of pairs per atom in a sample of the structures."""
    chosen = np.unique(np.linspace(0, len(structures) - 1, SAMPLE).astype(int))
    graph = build_graph(structures[chosen], cutoff_radius, elements)
    return len(graph.centers) / graph.n_atoms


def _count_bytes(parameters, n_elements, derivatives, itemsize, device):
    """Return how many bytes are stored per atom and per pair."""
    n_per_l = count_radial_channels(parameters)
    n_channels = n_elements * sum(count_channels(n_per_l))
    per_atom = sum(count_features(n_per_l, n_elements)) + n_channels
    per_pair = 3  # its vector
    if derivatives:
        per_atom += 2 * n_channels
        if not has_loops(device):
            n_radial, n_angular = sum(n_per_l), (parameters.max_angular + 1) ** 2
            per_pair += 2 * n_radial + 4 * n_angular + 3  # the factors of the pair basis
    return per_atom * itemsize, per_pair * itemsize + BYTES_PER_INDEX
