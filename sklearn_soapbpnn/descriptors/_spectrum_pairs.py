"""Power spectra and sums over pairs, one after the other: from gradients of spectra to forces."""

from __future__ import annotations

from torch import Tensor

from ._pair_sums import FactoredPairs, FusedPairs, StoredPairs
from ._power_spectrum import PowerSpectrum


def contract_spectra(
    spectrum: PowerSpectrum,
    pairs: FusedPairs | FactoredPairs | StoredPairs,
    rows: Tensor,
    gradient: Tensor,
    expansion: Tensor,
) -> Tensor:
    """Contract, pair by pair, what the gradients of networks make of an expansion.

    Parameters
    ----------
    spectrum : PowerSpectrum
        Layout of the gradients.
    pairs : FusedPairs, FactoredPairs or StoredPairs
        The pairs.
    rows : Tensor of shape (2, n_pairs)
        Rows (atom, element) of the two directions of each pair.
    gradient : Tensor of shape (n_networks, n_atoms, n_features)
        See :meth:`PowerSpectrum.multiply`.
    expansion : Tensor of shape (n_atoms, n_elements * n_channels)
        The expansion, by degree.

    Returns
    -------
    Tensor of shape (n_networks, n_pairs, 3)
    """
    if len(gradient) > 1 and isinstance(pairs, FusedPairs):
        return pairs.contract_spectra(rows, gradient, expansion, spectrum.inverse_weight)
    by_degree = spectrum.multiply(gradient.flatten(0, 1), expansion)
    by_element = spectrum.by_element(by_degree).unflatten(0, gradient.shape[:2])
    return pairs.contract(rows, by_element.flatten(1, 2))


def spread_spectra(
    spectrum: PowerSpectrum,
    pairs: FusedPairs | FactoredPairs | StoredPairs,
    rows: Tensor,
    vectors: Tensor,
    expansion: Tensor,
) -> Tensor:
    """Apply the transpose of :func:`contract_spectra` to vectors (n_networks, n_pairs, 3)."""
    if len(vectors) > 1 and isinstance(pairs, FusedPairs):
        return pairs.spread_spectra(rows, vectors, expansion, spectrum.half_weight)
    n_rows = len(expansion) * spectrum.n_elements
    channels = pairs.spread(rows, vectors, n_rows)
    by_degree = spectrum.by_degree(channels.view(-1, spectrum.n_elements, channels.shape[2]))
    packed = spectrum.multiply_transposed(by_degree, expansion)
    return packed.unflatten(0, (len(vectors), -1))
