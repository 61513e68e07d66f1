"""The packed power spectrum against the full one, contracted from torch-spex's expansion."""

import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from spex.spherical_expansion import SphericalExpansion

from sklearn_soapbpnn import SoapFeaturizer
from sklearn_soapbpnn.data import as_structures, build_graph
from sklearn_soapbpnn.descriptors import (
    PairBasis,
    PowerSpectrum,
    SoapParameters,
    compute_expansions,
    expand_density,
)

ELEMENTS = np.array([1, 6, 8])
PARAMETERS = SoapParameters(max_radial=4, max_angular=3)


@pytest.fixture
def reference():
    """torch-spex's own expansion; its splines, which it rounds to float32, replaced by ours."""
    torch.set_default_dtype(torch.float64)
    try:
        return SphericalExpansion(
            PARAMETERS.cutoff_radius,
            max_angular=PARAMETERS.max_angular,
            radial={"LaplacianEigenstates": {"max_radial": PARAMETERS.max_radial}},
            species={"Orthogonal": {"species": ELEMENTS.tolist()}},
            cutoff_function={"ShiftedCosine": {"width": PARAMETERS.cutoff_width}},
        )
    finally:
        torch.set_default_dtype(torch.float32)


def full_spectrum(reference, atoms):
    i, j, vectors = neighbor_list("ijD", atoms, PARAMETERS.cutoff_radius)
    expansion = reference(
        torch.from_numpy(vectors),
        torch.from_numpy(i),
        torch.from_numpy(j),
        torch.from_numpy(atoms.numbers),
    )
    blocks = [c.flatten(2) for c in expansion]
    return torch.cat([torch.einsum("imp,imq->ipq", c, c).flatten(1) for c in blocks], dim=1)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inner_products_equal_those_of_the_full_spectrum(reference, structure):
    featurizer = SoapFeaturizer(max_radial=4, max_angular=3, dtype="float64")
    featurizer.elements_ = ELEMENTS
    packed = featurizer.transform([structure]).per_atom()
    full = full_spectrum(reference, structure).numpy()
    assert packed.shape[1] < 0.6 * full.shape[1]
    kernel = full @ full.T
    np.testing.assert_allclose(packed @ packed.T, kernel, rtol=1e-10, atol=1e-10 * kernel.max())


def test_unpack_and_pack_are_transposes():
    spectrum = PowerSpectrum((3, 2), 2).double()
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(4, spectrum.n_features, generator=generator, dtype=torch.float64)
    matrices = spectrum.unpack(packed)
    others = [torch.randn(m.shape, generator=generator, dtype=torch.float64) for m in matrices]
    left = sum((m * o).sum() for m, o in zip(matrices, others))
    torch.testing.assert_close(left, (packed * spectrum.pack(others)).sum())


def test_unpack_gives_the_gradient_of_a_linear_form():
    spectrum = PowerSpectrum((3, 2, 1), 2).double()
    generator = torch.Generator().manual_seed(0)
    size = sum(2 * n for n in spectrum.channels_per_l)
    c = torch.randn(5, size, generator=generator, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, spectrum.n_features, generator=generator, dtype=torch.float64)
    (spectrum(c) * g).sum().backward()
    torch.testing.assert_close(c.grad, 2 * spectrum.multiply(g, c.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("n_per_l", "n_elements", "n_atoms"),
    [
        ((8, 7, 7, 6, 6, 5, 5), 1, 9),
        ((8, 7, 5), 3, 5),
        ((1,), 1, 3),
        ((2, 0, 1), 2, 2),
        ((9,), 2, 0),
    ],
    ids=str,
)
def test_compiled_loops_and_torch_give_the_same(n_per_l, n_elements, n_atoms, dtype, request):
    spectrum = PowerSpectrum(n_per_l, n_elements).to(dtype)
    generator = torch.Generator().manual_seed(0)
    size = sum(n_elements * n for n in spectrum.channels_per_l)
    c = torch.randn(2 * n_atoms, size, generator=generator).to(dtype)[::2]
    t = torch.randn(n_atoms, size, generator=generator).to(dtype)
    g = torch.randn(n_atoms, spectrum.n_features, generator=generator).to(dtype)
    calls = (spectrum, (c,)), (spectrum.multiply, (g, c)), (spectrum.multiply_transposed, (t, c))
    results = [function(*arguments) for function, arguments in calls]
    request.getfixturevalue("with_torch")
    for loops, (function, arguments) in zip(results, calls):
        expected = function(*arguments)
        assert loops.dtype == dtype
        assert loops.shape == expected.shape
        if n_atoms:
            limit = (1e-6 if dtype == torch.float32 else 1e-14) * expected.abs().max().item()
            torch.testing.assert_close(loops, expected, rtol=0, atol=limit)


def test_orders_of_an_expansion():
    spectrum = PowerSpectrum((3, 2), 2)
    expansion = torch.arange(2.0 * 2 * sum(spectrum.channels_per_l)).view(2, 2, -1)
    by_degree = spectrum.by_degree(expansion)
    assert not torch.equal(by_degree, expansion.flatten(1))
    assert torch.equal(spectrum.by_element(by_degree), expansion)


def test_spectrum_can_be_differentiated_twice():
    """As training on forces with pseudo-species does; compiled loops are left out then."""
    spectrum = PowerSpectrum((2, 1), 2).double()
    c = torch.randn(2, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(spectrum, c.requires_grad_())


def test_half_list_gives_the_expansion_of_the_full_list(structure):
    structures = as_structures([structure])
    graph = build_graph(structures, PARAMETERS.cutoff_radius, ELEMENTS)
    basis = PairBasis(PARAMETERS).double()
    expansion = expand_density(basis, graph)
    expected = torch.zeros_like(expansion)
    i, j, vectors = neighbor_list("ijD", structure, PARAMETERS.cutoff_radius)
    for center, neighbor, values in zip(i, j, basis(torch.from_numpy(vectors))):
        expected[center, np.searchsorted(ELEMENTS, structure.numbers[neighbor])] += values
    torch.testing.assert_close(expansion, expected)


def test_expansions_are_kept_over_the_elements_of_the_structure(structures):
    expansions = compute_expansions(as_structures(structures), PARAMETERS, torch.float32)
    for atoms, expansion in zip(structures, expansions):
        n_channels = PairBasis(PARAMETERS).n_channels
        assert expansion.shape == (len(atoms), len(set(atoms.numbers)), n_channels)
        assert expansion.dtype == np.float32


def test_atoms_without_neighbours_have_no_features():
    from ase import Atoms

    features = SoapFeaturizer().fit_transform([Atoms("H"), Atoms("HO", [[0, 0, 0], [0, 0, 9]])])
    assert np.abs(features.per_atom()).max() == 0.0
