from dataclasses import replace

import numpy as np
import pytest
import torch
from spex.angular import SphericalHarmonics
from spex.cutoff import ShiftedCosine
from spex.radial import LaplacianEigenstates

from sklearn_soapbpnn.descriptors import PairBasis, SoapParameters

PARAMETERS = SoapParameters(cutoff_radius=4.0, cutoff_width=0.7, max_radial=5, max_angular=4)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return torch.from_numpy(directions * rng.uniform(0.3, 4.2, (200, 1)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_agrees_with_torch_spex(vectors):
    basis = PairBasis(PARAMETERS).double()
    distances = vectors.norm(dim=1)
    radial = LaplacianEigenstates(4.0, max_angular=4, max_radial=5).double()(distances)
    cutoff = ShiftedCosine(4.0, 0.7)(distances)[:, None, None]
    angular = SphericalHarmonics(4)(vectors)
    expected = [
        (cutoff * r[:, :, None] * y[:, None, :]).flatten(1) for r, y in zip(radial, angular)
    ]
    # torch-spex rounds its splines to the default dtype
    torch.testing.assert_close(basis(vectors), torch.cat(expected, 1), rtol=0, atol=1e-6)


def test_splines_agree_with_spherical_bessel_functions():
    from scipy.special import spherical_jn

    basis = PairBasis(SoapParameters(cutoff_width=1e-9, max_angular=0, max_radial=3)).double()
    distances = torch.linspace(0.2, 4.9, 50, dtype=torch.float64)
    vectors = torch.stack([0 * distances, 0 * distances, distances], dim=1)
    for n, values in enumerate(basis(vectors).T):
        bessel = spherical_jn(0, (n + 1) * np.pi * distances.numpy() / 5.0)
        # normalised in the ball, times the spherical harmonic of l = 0
        norm = np.sqrt(2.0 / 5.0**3) * (n + 1) * np.pi / np.sqrt(4 * np.pi)
        np.testing.assert_allclose(values, norm * bessel, atol=1e-7)


@pytest.mark.parametrize("radial_scale", [0.01, 1.0, 3.0])
def test_distant_neighbours_count_less(vectors, radial_scale):
    basis = PairBasis(PARAMETERS).double()
    weighted = PairBasis(replace(PARAMETERS, radial_scale=radial_scale)).double()
    weight = 1 / (1 + (vectors.norm(dim=1) / radial_scale) ** 4)
    expected = basis(vectors) * weight[:, None]
    # both are splines
    torch.testing.assert_close(weighted(vectors), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("radial_scale", [np.inf, 2.0])
def test_gradient_agrees_with_central_differences(vectors, radial_scale):
    basis = PairBasis(replace(PARAMETERS, radial_scale=radial_scale)).double()
    factors = basis.factors(vectors)
    gradient = basis.gradient(factors)
    torch.testing.assert_close(basis.values(factors), basis(vectors))
    step = 1e-5
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        numerical = (basis(vectors + shift) - basis(vectors - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, axis], numerical, rtol=0, atol=1e-6)


def test_contractions_never_need_the_gradient_itself(vectors):
    basis = PairBasis(PARAMETERS).double()
    factors = basis.factors(vectors)
    gradient = basis.gradient(factors)
    generator = torch.Generator().manual_seed(0)
    channels = torch.randn(len(vectors), basis.n_channels, generator=generator).double()
    forces = torch.randn(len(vectors), 3, generator=generator).double()
    torch.testing.assert_close(
        basis.contract(factors, channels), torch.einsum("pac,pc->pa", gradient, channels)
    )
    torch.testing.assert_close(
        basis.spread(factors, forces), torch.einsum("pac,pa->pc", gradient, forces)
    )


def test_parity(vectors):
    basis = PairBasis(PARAMETERS).double()
    torch.testing.assert_close(basis(-vectors), basis(vectors) * basis.parity)


def test_vanishes_smoothly_at_the_cutoff():
    basis = PairBasis(PARAMETERS).double()
    vectors = torch.tensor([[0.0, 0.0, 4.0 - 1e-7], [0.0, 0.0, 4.0], [0.0, 0.0, 4.5]])
    factors = basis.factors(vectors.double())
    values, gradient = basis.values(factors), basis.gradient(factors)
    assert values.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-5


def test_defaults_have_the_size_of_metatrain():
    basis = PairBasis(SoapParameters())
    assert basis.n_per_l == (8, 7, 7, 6, 6, 5, 5)


def test_default_dtype_does_not_matter(vectors):
    before = PairBasis(PARAMETERS).double()(vectors)
    torch.set_default_dtype(torch.float64)
    try:
        from sklearn_soapbpnn.descriptors import _pair_basis

        _pair_basis.load_spline_table.cache_clear()
        after = PairBasis(PARAMETERS).double()(vectors)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(before, after)
