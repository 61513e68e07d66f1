"""Sums over pairs in compiled loops, against the same sums with torch."""

import subprocess
import sys

import pytest
import torch

from sklearn_soapbpnn.descriptors import (
    FactoredPairs,
    FusedPairs,
    PairBasis,
    PowerSpectrum,
    SoapParameters,
    StoredPairs,
    _vectors,
    contract_spectra,
    spread_spectra,
    sum_pairs,
)

N_ROWS = 12
CUTOFF = 4.0
PARAMETERS = {
    "default": SoapParameters(),
    "smooth from the centre on": SoapParameters(CUTOFF, CUTOFF, 4, 4),
    "one channel": SoapParameters(CUTOFF, 0.5, 0, 0),
    "one degree": SoapParameters(CUTOFF, 0.5, 9, 0),
    "few radial channels": SoapParameters(CUTOFF, 0.5, 1, 5),
    "two blocks": SoapParameters(CUTOFF, 0.1, 10, 12),
}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}


def make_pairs(parameters, dtype, n_networks=1, n_pairs=61):
    """Pairs in all directions and at all distances, of which no row 0 takes part."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(n_pairs, 3, generator=generator, dtype=torch.float64)
    vectors[:6] = torch.cat([torch.eye(3), -torch.eye(3)])[:n_pairs]
    radius = parameters.cutoff_radius
    distances = torch.linspace(0.3, 1.2 * radius, n_pairs, dtype=torch.float64)
    vectors *= (distances / vectors.norm(dim=1))[:, None]
    rows = torch.randint(1, N_ROWS, (2, n_pairs), generator=generator)
    basis = PairBasis(parameters).to(dtype)
    vectors = vectors.to(dtype)
    fused = FusedPairs(basis, vectors)
    factored = FactoredPairs(basis, vectors, basis.factors(vectors))
    channels = torch.randn(n_networks, N_ROWS, basis.n_channels, generator=generator).to(dtype)
    forces = torch.randn(n_networks, n_pairs, 3, generator=generator).to(dtype)
    return rows, channels, forces, fused, factored


def assert_near(fused, reference, times=1):
    """Compared with the largest entry, since small ones are differences of large ones."""
    assert fused.dtype == reference.dtype
    limit = times * TOLERANCE[fused.dtype] * reference.abs().max().item()
    torch.testing.assert_close(fused, reference, rtol=0, atol=limit)


@pytest.mark.parametrize("n_networks", [1, 3, 17])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", PARAMETERS)
def test_same_as_torch(name, dtype, n_networks):
    rows, channels, forces, fused, factored = make_pairs(PARAMETERS[name], dtype, n_networks)
    stored = factored.keep(10**9)
    assert isinstance(stored, StoredPairs)
    expansion = fused.expand(rows, N_ROWS)
    assert expansion.abs().max() > 0
    assert_near(expansion, factored.expand(rows, N_ROWS))
    plain = FactoredPairs(factored.basis, factored.vectors, None)
    assert_near(expansion, plain.expand(rows, N_ROWS))
    for reference in (factored, stored):
        assert_near(fused.contract(rows, channels), reference.contract(rows, channels))
        spread = reference.spread(rows, forces, N_ROWS)
        assert_near(fused.spread(rows, forces, N_ROWS), spread)


@pytest.mark.parametrize("n_networks", [1, 9])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_spread_is_the_transpose(dtype, n_networks):
    rows, channels, forces, fused, _ = make_pairs(SoapParameters(), dtype, n_networks)
    forward = (fused.contract(rows, channels) * forces).sum()
    transposed = (fused.spread(rows, forces, N_ROWS) * channels).sum()
    torch.testing.assert_close(forward, transposed)


@pytest.mark.parametrize("n_networks", [2, 8, 11])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_many_networks_are_as_many_single_ones(dtype, n_networks):
    rows, channels, forces, fused, factored = make_pairs(SoapParameters(), dtype, n_networks)
    for pairs in (fused, factored, factored.keep(10**9)):
        contracted = pairs.contract(rows, channels)
        spread = pairs.spread(rows, forces, N_ROWS)
        for k in range(n_networks):
            one = slice(k, k + 1)
            assert_near(contracted[one], pairs.contract(rows, channels[one]))
            assert_near(spread[one], pairs.spread(rows, forces[one], N_ROWS))


@pytest.mark.parametrize("n_networks", [1, 9])
def test_no_pairs_and_pairs_beyond_the_cutoff(n_networks):
    parameters = SoapParameters(CUTOFF, 0.5, 2, 2)
    rows, channels, forces, fused, _ = make_pairs(parameters, torch.float64, n_networks)
    far = (fused.vectors.norm(dim=1) >= CUTOFF).nonzero()[:, 0]
    assert 0 < len(far) < len(rows[0])
    for chosen in (far, far[:0]):
        part, ends = fused.select(chosen), rows[:, chosen]
        assert not part.expand(ends, N_ROWS).any()
        assert part.contract(ends, channels).shape == (n_networks, len(chosen), 3)
        assert not part.contract(ends, channels).any()
        assert not part.spread(ends, forces[:, chosen], N_ROWS).any()


@pytest.mark.parametrize("n_networks", [1, 9])
def test_layout_of_the_input_does_not_matter(n_networks):
    rows, channels, forces, fused, _ = make_pairs(SoapParameters(), torch.float64, n_networks)
    strided = FusedPairs(fused.basis, fused.vectors.T.contiguous().T)
    turned = [tensor.mT.contiguous().mT for tensor in (rows, channels, forces)]
    for pairs, (ends, c, f) in ((strided, (rows, channels, forces)), (fused, turned)):
        assert torch.equal(pairs.expand(ends, N_ROWS), fused.expand(rows, N_ROWS))
        assert torch.equal(pairs.contract(ends, c), fused.contract(rows, channels))
        assert torch.equal(pairs.spread(ends, f, N_ROWS), fused.spread(rows, forces, N_ROWS))


@pytest.mark.parametrize("n_networks", [1, 9])
def test_nan_shows(n_networks):
    rows, channels, forces, fused, _ = make_pairs(SoapParameters(), torch.float64, n_networks)
    fused.vectors[3, 1] = torch.nan
    touched = rows[:, 3].unique()
    for result in (fused.expand(rows, N_ROWS)[None], fused.spread(rows, forces, N_ROWS)):
        for own in result:
            assert torch.equal(own.isnan().all(1).nonzero()[:, 0], touched)
    for own in fused.contract(rows, channels):
        assert own.isnan().all(1).nonzero().item() == 3
    fused.vectors[3, 1] = 1.0
    channels[-1, rows[0, 5], 7] = torch.nan
    contracted = fused.contract(rows, channels)
    assert contracted[-1, 5].isnan().all()
    assert not contracted[:-1].isnan().any()


@pytest.mark.parametrize(("n_networks", "n_elements"), [(2, 3), (8, 1), (11, 3)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", PARAMETERS)
def test_spectra_and_pairs_in_one(name, dtype, n_elements, n_networks):
    """Gradients of spectra are taken to pairs, and back, as in two steps."""
    n_atoms = N_ROWS // n_elements
    rows, _, forces, fused, factored = make_pairs(PARAMETERS[name], dtype, n_networks)
    spectrum = PowerSpectrum(fused.basis.n_per_l, n_elements).to(dtype)
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    expansion = random(n_atoms, n_elements * fused.basis.n_channels)
    gradient = random(n_networks, n_atoms, spectrum.n_features)
    contracted = contract_spectra(spectrum, fused, rows, gradient, expansion)
    spread = spread_spectra(spectrum, fused, rows, forces, expansion)
    turned = gradient.mT.contiguous().mT, forces.mT.contiguous().mT
    assert torch.equal(contract_spectra(spectrum, fused, rows, turned[0], expansion), contracted)
    assert torch.equal(spread_spectra(spectrum, fused, rows, turned[1], expansion), spread)
    if dtype == torch.float64:
        torch.testing.assert_close((contracted * forces).sum(), (spread * gradient).sum())
    for pairs in (factored, factored.keep(10**9)):
        expected = contract_spectra(spectrum, pairs, rows, gradient, expansion)
        assert_near(contracted, expected, times=4)
        assert_near(spread, spread_spectra(spectrum, pairs, rows, forces, expansion), times=4)


def test_every_cpu_with_numba_uses_the_loops():
    basis = PairBasis(SoapParameters())
    assert isinstance(sum_pairs(basis, torch.ones(1, 3), derivatives=False), FusedPairs)


def test_code_that_cannot_be_kept_on_disk(monkeypatch):
    """It is compiled in each process."""
    compilers = []

    def refuse(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        compilers.append(options)
        return lambda function: function

    monkeypatch.setattr(_vectors, "njit", refuse)
    assert _vectors.compile_loop(len) is len
    assert len(compilers) == 1


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import torch
from sklearn_soapbpnn.descriptors import FactoredPairs, PairBasis, SoapParameters, sum_pairs
pairs = sum_pairs(PairBasis(SoapParameters()).float(), torch.ones(1, 3), derivatives=True)
assert isinstance(pairs, FactoredPairs), pairs
pairs.contract(torch.zeros(2, 1, dtype=torch.long), torch.ones(1, 1, pairs.basis.n_channels))
"""


def test_without_numba():
    """A Python that is too new for it, for example; nothing is said about it."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", WITHOUT_NUMBA]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
