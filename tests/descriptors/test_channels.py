"""Counted channels against those of the modules that hold them."""

import torch

from sklearn_soapbpnn.descriptors import (
    PairBasis,
    PowerSpectrum,
    SoapParameters,
    count_channels,
    count_features,
    count_radial_channels,
    take_degree,
)


def test_counts_by_hand():
    assert count_channels((4, 3, 2)) == [4, 9, 10]
    assert count_features((4, 3), 2) == [36, 21]


def test_counts_are_those_of_basis_and_spectrum():
    parameters = SoapParameters(max_radial=4, max_angular=3)
    n_per_l = count_radial_channels(parameters)
    basis, spectrum = PairBasis(parameters), PowerSpectrum(n_per_l, 3)
    assert basis.n_per_l == n_per_l
    assert basis.n_channels == sum(count_channels(n_per_l))
    assert spectrum.n_features == sum(count_features(n_per_l, 3))


def test_channels_of_one_degree():
    """They are ordered by l, then n, then m."""
    n_per_l = (4, 3, 2)
    numbered = [
        (l, n, m) for l, count in enumerate(n_per_l) for n in range(count) for m in range(2 * l + 1)
    ]
    expansion = torch.arange(len(numbered)).expand(5, 2, -1)
    for l, n in enumerate(n_per_l):
        part = take_degree(expansion, l, n_per_l)
        assert part.shape == (5, 2, n, 2 * l + 1)
        found = [[numbered[k] for k in row] for row in part[3, 1].tolist()]
        assert found == [[(l, k, m) for m in range(2 * l + 1)] for k in range(n)]
