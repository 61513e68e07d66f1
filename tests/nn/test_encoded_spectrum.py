"""Hand-written derivatives of the encoded power spectrum, against autograd of the formula."""

import pytest
import torch
from torch.nn import functional as F

from sklearn_soapbpnn.descriptors import PowerSpectrum
from sklearn_soapbpnn.nn._encoded_spectrum import Layout, find_slope, fold_norm, project

N_PER_L = (3, 2, 1)
N_SPECIES, N_OUTPUTS = 2, 4
COLUMNS = slice(1, 3)


@pytest.fixture(params=[[2, 3], [0, 4, 0, 1], [1, 0]], ids=str)
def counts(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["normalized", "plain"])
def layout(request, counts):
    return Layout(PowerSpectrum(N_PER_L, N_SPECIES).double(), counts, request.param)


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def weights(layout, draw):
    n = layout.spectrum.n_full
    shapes = [(len(layout.counts), n), (N_OUTPUTS, n), (n,), (n,)]
    return [draw(*shape).requires_grad_() for shape in shapes]


@pytest.fixture
def mixed(layout, draw):
    """Expansions, the first of an atom without neighbours."""
    n_channels = sum(n * (2 * l + 1) for l, n in enumerate(layout.spectrum.rows_per_l))
    mixed = draw(sum(layout.counts), n_channels)
    mixed[0] = 0
    return mixed.requires_grad_()


def evaluate(mixed, weights, layout):
    """The formula, as it stands."""
    encoding, weight, scale, shift = weights
    gram = [torch.bmm(c, c.mT).flatten(1) for c in layout.spectrum.blocks(mixed)]
    element = torch.arange(len(layout.counts)).repeat_interleave(torch.tensor(layout.counts))
    features = torch.cat(gram, dim=1) * encoding[element]
    if layout.normalize:
        features = F.layer_norm(features, scale.shape, scale, shift)
    return features @ weight.T


def evaluate_by_hand(mixed, weights, layout):
    encoding, weight, scale, shift = weights
    bias = torch.zeros(())
    if layout.normalize:
        weight, bias = fold_norm(weight, scale, shift)
    projected, inverse, features = project(mixed, encoding, weight, layout)

    def differentiate(gradient):
        return find_slope(
            gradient,
            features,
            weight[COLUMNS],
            mixed,
            encoding,
            projected[:, COLUMNS],
            inverse,
            layout,
        )

    return projected + bias, differentiate


def test_values_and_gradients_are_those_of_the_formula(mixed, weights, layout, draw):
    expected = evaluate(mixed, weights, layout)
    values, _ = evaluate_by_hand(mixed, weights, layout)
    torch.testing.assert_close(values, expected)
    wanted = [mixed, *weights[: 4 if layout.normalize else 2]]
    factor = draw(*values.shape)
    pair = [torch.autograd.grad((factor * v).sum(), wanted) for v in (values, expected)]
    torch.testing.assert_close(*pair)


def test_slopes_and_their_gradients_are_those_of_the_formula(mixed, weights, layout, draw):
    """The slope depends on v, which is itself a function of the outputs, and so do losses."""
    n_atoms = len(mixed)
    curvature, tangent, factor = draw(2, 2), draw(*mixed.shape), draw(n_atoms, N_OUTPUTS)
    wanted = [mixed, *weights[: 4 if layout.normalize else 2]]

    def find_gradients(hidden, slope):
        loss = (factor * hidden.sin()).sum() + (tangent * slope).sum() + slope.square().sum()
        return slope.detach(), *torch.autograd.grad(loss, wanted)

    hidden = evaluate(mixed, weights, layout)
    part = hidden[:, COLUMNS]
    energy = ((part @ curvature).tanh() * part).sum()
    (slope,) = torch.autograd.grad(energy, mixed, create_graph=True)
    expected = find_gradients(hidden, slope)

    hidden, differentiate = evaluate_by_hand(mixed, weights, layout)
    part = hidden[:, COLUMNS]
    energy = ((part @ curvature).tanh() * part).sum()
    (gradient,) = torch.autograd.grad(energy, part, create_graph=True)
    results = find_gradients(hidden, differentiate(gradient))
    for result, other in zip(results, expected):
        scale = float(other.abs().max())
        torch.testing.assert_close(result, other, rtol=0, atol=1e-11 * scale)


def evaluate_all(layout, encoding, g, c, t):
    """Return what the loops compute."""
    products = layout.encode(encoding, c), layout.encode(encoding, c, t)
    sums = layout.sum_products(g, products[0][0])
    return *products[0], *products[1], layout.apply(g, encoding, c), sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("n_per_l", "n_species", "counts"),
    [
        ((8, 7, 7, 6, 6, 5, 5), 4, [5, 3, 1]),
        ((8, 7, 5), 3, [0, 4, 0, 1]),
        ((9, 3), 5, [1, 0]),
        ((8, 7), 1, [2, 2]),
        ((1,), 1, [3]),
        ((2, 0, 1), 2, [2]),
        ((9,), 4, [0, 0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "plain"])
def test_compiled_loops_and_torch_give_the_same(
    n_per_l, n_species, counts, normalize, dtype, request
):
    layout = Layout(PowerSpectrum(n_per_l, n_species).to(dtype), counts, normalize)
    generator = torch.Generator().manual_seed(0)
    n_atoms, n = sum(counts), layout.spectrum.n_full
    size = sum(n_species * n for n in layout.spectrum.channels_per_l)
    c = torch.randn(2 * n_atoms, size, generator=generator).to(dtype)[::2]
    t = torch.randn(n_atoms, size, generator=generator).to(dtype)
    g = torch.randn(n_atoms, n, generator=generator).to(dtype)
    encoding = torch.randn(len(counts), n, generator=generator).to(dtype).requires_grad_()
    with torch.no_grad():
        results = evaluate_all(layout, encoding, g, c, t)
        again = evaluate_all(layout, encoding, g, c, t)
        request.getfixturevalue("with_torch")
        expected = evaluate_all(layout, encoding, g, c, t)
    for loops, same, other in zip(results, again, expected):
        assert loops.dtype == dtype
        assert torch.equal(loops, same)
        scale = float(other.abs().max()) if n_atoms else 0.0
        limit = (8e-7 if dtype == torch.float32 else 2e-14) * scale
        torch.testing.assert_close(loops, other, rtol=0, atol=limit)


def test_loops_show_nan_in_the_atom_that_has_it():
    layout = Layout(PowerSpectrum((3, 2), 2).double(), [2, 1], True)
    c = torch.ones(3, 18, dtype=torch.float64)
    c[1, 0] = torch.nan
    encoding = torch.ones(2, layout.spectrum.n_full, dtype=torch.float64)
    products, features = layout.encode(encoding, c)
    result = layout.apply(products, encoding, c)
    for values in (products, features, result):
        assert values.isnan().any(1).tolist() == [False, True, False]
    sums = layout.sum_products(products, products)
    assert sums.isnan().any(1).tolist() == [True, False]
