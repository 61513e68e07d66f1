r"""Sizes of a density expansion and its power spectrum, for each degree.

Each neighbour element has :math:`n_l` radial channels of degree l, and each radial channel has
:math:`2 l + 1` components m. Expansions are ordered by l, then n, then m.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def count_channels(n_per_l: Sequence[int]) -> list[int]:
    """Return the number of channels (n, m) of one element, n (2 l + 1), for each degree l."""
    return [n * (2 * l + 1) for l, n in enumerate(n_per_l)]


def count_features(n_per_l: Sequence[int], n_elements: int) -> list[int]:
    r"""Return the size of the packed power spectrum for each degree l.

    It has an entry for each pair :math:`p \le q` of the :math:`N = n_\text{elements} n_l` radial
    channels of all elements, :math:`N (N + 1) / 2`.
    """
    sizes = [n_elements * n for n in n_per_l]
    return [size * (size + 1) // 2 for size in sizes]


def take_degree(expansion: Tensor, l: int, n_per_l: Sequence[int]) -> Tensor:
    """Return one degree of an expansion.

    Parameters
    ----------
    expansion : Tensor of shape (n_atoms, n_blocks, n_channels)
        The expansion.
    l : int
        The degree.
    n_per_l : sequence of int
        Number of radial channels for each degree.

    Returns
    -------
    Tensor of shape (n_atoms, n_blocks, n_radial, 2l + 1)
    """
    part = expansion.split(count_channels(n_per_l), dim=2)[l]
    return part.unflatten(2, (n_per_l[l], 2 * l + 1)).contiguous()
