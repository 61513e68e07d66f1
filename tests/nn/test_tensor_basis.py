"""Equivariant basis and its contractions: exact small cases, symmetries, gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import sphericart.torch
import torch
import wigners
from ase import Atoms
from ase.build import molecule as build_molecule
from scipy.spatial.transform import Rotation
from torch import nn

from sklearn_soapbpnn.data import as_structures, build_graph, plan_batches
from sklearn_soapbpnn.descriptors import PairBasis, SoapParameters, expand_density
from sklearn_soapbpnn.nn._contractions import ElementContraction, PseudoSpeciesContraction
from sklearn_soapbpnn.nn._tensor_basis import TensorBasis

ELEMENTS = (1, 6, 8)
PARAMETERS = SoapParameters(cutoff_radius=4.0, max_radial=3, max_angular=4)
PAIR_BASIS = PairBasis(PARAMETERS).double()
N_PER_L = PAIR_BASIS.n_per_l
EXACT = {"rtol": 1e-10, "atol": 1e-10}
# brings the basis of a molecule to order one, so that the tolerances mean something
SCALE = 10.0


def expand(frames):
    """Expansion by degree, and what the contractions need of a batch."""
    structures = as_structures(frames)
    graph = build_graph(structures, PARAMETERS.cutoff_radius, np.array(ELEMENTS))
    graph = graph.to("cpu", torch.float64)
    order = torch.arange(len(structures))
    (index,) = plan_batches(graph, order, [len(order)], len(ELEMENTS))
    channels = SCALE * expand_density(PAIR_BASIS, graph)[index.atoms]
    sizes = [n * (2 * l + 1) for l, n in enumerate(N_PER_L)]
    blocks = enumerate(channels.split(sizes, dim=2))
    expansion = {l: block.unflatten(2, (N_PER_L[l], 2 * l + 1)) for l, block in blocks}
    elements = torch.arange(len(ELEMENTS)).expand(len(channels), -1)
    return expansion, SimpleNamespace(index=index, block_elements=elements)


def evaluate(basis, frames):
    """Basis of all atoms, in the order of the frames."""
    expansion, batch = expand(frames)
    values = basis(expansion, batch)
    ordered = torch.empty_like(values)
    ordered[batch.index.atoms] = values
    return ordered


def make_elements(generator):
    return lambda l, n: ElementContraction(len(ELEMENTS), N_PER_L[l], n, generator)


def make_pseudo_species(generator):
    return lambda l, n: PseudoSpeciesContraction(len(ELEMENTS), 2, N_PER_L[l], n, generator)


@pytest.fixture(params=[make_elements, make_pseudo_species], ids=["elements", "pseudo-species"])
def make_basis(request):
    def make(o3_lambda, o3_sigma=1, add_lambda_basis=True, seed=0):
        make_contraction = request.param(torch.Generator().manual_seed(seed))
        return TensorBasis(o3_lambda, o3_sigma, make_contraction, add_lambda_basis)

    return make


class Given(nn.Module):
    """Contraction that returns given vectors, (n_atoms, 3, 3) with Cartesian rows."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors[:, :, [1, 2, 0]].mT

    def forward(self, c, batch):
        return self.vectors


def products(o3_lambda, vectors, o3_sigma=1):
    """Basis made from given vectors, (n_atoms, 3 vectors, 3)."""
    basis = TensorBasis(o3_lambda, o3_sigma, lambda l, n: Given(vectors), False).double()
    batch = SimpleNamespace(index=SimpleNamespace(element=torch.zeros(len(vectors))))
    return basis({1: None}, batch)


def random_vectors(n_atoms=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_atoms, 3, 3, dtype=torch.float64, generator=generator)


def solid_harmonics(l, vectors):
    values = sphericart.torch.SolidHarmonics(l_max=l)(vectors.contiguous())
    return values[:, l * l :]


def wigner_matrix(l, matrix):
    """D with S_l(Q r) = D S_l(r), of a proper or improper rotation."""
    points = random_vectors(8).flatten(0, 1)
    rotated = solid_harmonics(l, points @ matrix.T)
    return torch.linalg.lstsq(solid_harmonics(l, points), rotated).solution.T


@pytest.mark.parametrize(
    ("o3_lambda", "o3_sigma", "add", "n_tensors", "degrees"),
    [
        (0, 1, True, 1, ()),
        (0, -1, True, 1, (1,)),
        (1, 1, True, 3, (1,)),
        (2, 1, True, 10, (1, 2)),
        (2, 1, False, 5, (1,)),
        (4, -1, True, 18, (1, 4)),
    ],
)
def test_sizes(make_basis, molecule, o3_lambda, o3_sigma, add, n_tensors, degrees):
    basis = make_basis(o3_lambda, o3_sigma, add).double()
    assert basis.n_tensors == n_tensors
    assert basis.degrees == degrees
    assert evaluate(basis, [molecule]).shape == (len(molecule), 2 * o3_lambda + 1, n_tensors)


def test_parameters_have_readable_names(make_basis):
    names = {name.split(".")[0] for name, _ in make_basis(2, -1).named_parameters()}
    assert names == {"vectors", "tensors", "pseudoscalar"}
    assert set(make_basis(2, -1).state_dict()) == {
        name for name, _ in make_basis(2, -1).named_parameters()
    }


def test_scalars_have_one():
    ones = torch.ones(6, 1, 1, dtype=torch.float64)
    assert torch.equal(products(0, random_vectors()), ones)


def test_vectors_are_the_contraction_with_weights_of_the_centre(molecule):
    basis = TensorBasis(1, 1, make_elements(torch.Generator().manual_seed(0)), True)
    expansion, batch = expand([molecule])
    weight = basis.vectors.weight.unflatten(2, (len(ELEMENTS), -1))
    expected = torch.einsum("ioan,ianm->imo", weight[batch.index.element], expansion[1])
    torch.testing.assert_close(basis(expansion, batch), expected, **EXACT)


def test_vectors_are_the_contraction_through_pseudo_species(molecule):
    basis = TensorBasis(1, 1, make_pseudo_species(torch.Generator().manual_seed(0)), True)
    expansion, batch = expand([molecule])
    contraction, c = basis.vectors, expansion[1]
    weight = contraction.weight.unflatten(1, (2, -1))
    encoding = contraction.encoding.unflatten(1, (2, -1))[batch.index.element]
    expected = torch.einsum("obn,ibn,ab,ianm->imo", weight, encoding, contraction.embedding, c)
    torch.testing.assert_close(basis(expansion, batch), expected, **EXACT)


def test_padded_blocks_of_the_own_elements_equal_all_blocks(molecule):
    basis = TensorBasis(2, -1, make_pseudo_species(torch.Generator().manual_seed(0)), True)
    # water has no carbon: its two blocks come in another order, and the third is padding
    expansion, batch = expand([molecule, build_molecule("H2O")])
    own = {l: c.clone() for l, c in expansion.items()}
    elements = batch.block_elements.clone()
    water = batch.index.structure_of_atom == 1
    elements[water] = torch.tensor([2, 0, 2])
    for l, c in own.items():
        c[water] = expansion[l][water][:, [2, 0, 1]]
        assert not c[water][:, 2].any()
    padded = SimpleNamespace(index=batch.index, block_elements=elements)
    torch.testing.assert_close(basis(own, padded), basis(expansion, batch), **EXACT)


def test_second_order_is_traceless_symmetric_products():
    vectors = random_vectors()
    values = products(2, vectors)
    for k, (p, q) in enumerate([(0, 0), (1, 1), (0, 1), (0, 2), (1, 2)]):
        outer = vectors[:, p, :, None] * vectors[:, q, None, :]
        M = (outer + outer.mT) / 2
        M = M - torch.eye(3) * M.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        x, y, z = 0, 1, 2
        expected = torch.stack(
            [
                2**0.5 * M[:, x, y],
                2**0.5 * M[:, y, z],
                1.5**0.5 * M[:, z, z],
                2**0.5 * M[:, x, z],
                0.5**0.5 * (M[:, x, x] - M[:, y, y]),
            ],
            dim=1,
        )
        if p == q:
            expected = solid_harmonics(2, vectors[:, p])
        torch.testing.assert_close(values[:, :, k], expected, **EXACT)


@pytest.mark.parametrize("o3_lambda", [3, 4, 6])
def test_higher_orders_hold_the_solid_harmonics(o3_lambda):
    vectors = random_vectors()
    values = products(o3_lambda, vectors) * (4 * np.pi) ** 0.5
    first, second = (solid_harmonics(o3_lambda, vectors[:, p]) for p in (0, 1))
    torch.testing.assert_close(values[:, :, o3_lambda], first, **EXACT)
    torch.testing.assert_close(values[:, :, 0], second, **EXACT)


@pytest.mark.parametrize("o3_lambda", [3, 4])
def test_higher_orders_of_vectors_along_z(o3_lambda):
    """S_l(a z) has m = 0 alone, (2l+1)^(1/2) (4 pi)^(-1/2) a^l."""
    a, b, c = 0.7, -1.3, 2.1
    vectors = torch.tensor([[[0.0, 0.0, a], [0.0, 0.0, b], [0.0, 0.0, c]]], dtype=torch.float64)

    def couple(l1, l2):
        (middle,) = np.argwhere(np.arange(-l1, l1 + 1) == 0).ravel()
        return wigners.clebsch_gordan_array(l1, l2, l1 + l2)[middle, l2, l1 + l2]

    def pair(l, degree):
        size = np.sqrt((2 * l + 1) * (2 * (degree - l) + 1)) / (4 * np.pi)
        return size * a**l * b ** (degree - l) * couple(l, degree - l)

    L = o3_lambda
    expected = [pair(l, L) for l in range(L + 1)]
    expected += [pair(l, L - 1) * c * couple(L - 1, 1) for l in range(L)]
    values = products(L, vectors)[0]
    torch.testing.assert_close(values[L], torch.tensor(expected, dtype=torch.float64), **EXACT)
    assert not values[:L].any()
    assert not values[L + 1 :].any()


@pytest.mark.parametrize("o3_lambda", [1, 2, 3, 4, 5])
def test_tensors_are_independent_where_the_vectors_are(o3_lambda):
    ranks = torch.linalg.matrix_rank(products(o3_lambda, random_vectors()))
    assert (ranks == 2 * o3_lambda + 1).all()


def test_pseudoscalar_is_the_volume_of_the_vectors():
    vectors = random_vectors()
    vectors[0, 2] = vectors[0, 0] + 2 * vectors[0, 1]
    volumes = torch.linalg.det(vectors) / -(6**0.5)
    values = products(0, vectors, o3_sigma=-1)
    torch.testing.assert_close(values[:, 0, 0], volumes, **EXACT)
    assert abs(values[0]) < 1e-12
    torch.testing.assert_close(
        products(2, vectors, o3_sigma=-1), products(2, vectors) * volumes[:, None, None], **EXACT
    )


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "with inversion"])
def test_equivariance(make_basis, structures, improper):
    """Structures of every kind, all in one batch; and the basis is not one of zeros."""
    matrix = Rotation.random(random_state=0).as_matrix() * (-1 if improper else 1)
    turned = [atoms.copy() for atoms in structures]
    for atoms in turned:
        atoms.set_cell(atoms.cell @ matrix.T)
        atoms.positions = atoms.positions @ matrix.T
    for o3_lambda in range(5):
        D = wigner_matrix(o3_lambda, torch.from_numpy(matrix))
        for o3_sigma in (1, -1):
            basis = make_basis(o3_lambda, o3_sigma).double()
            values = evaluate(basis, structures)
            # ethanol is the first of them
            assert (values[:9].abs().amax((0, 1)) > 1e-2).all()
            expected = torch.einsum("mp,ipk->imk", D, values)
            expected = expected * (o3_sigma if improper else 1)
            torch.testing.assert_close(evaluate(basis, turned), expected, **EXACT)


@pytest.mark.parametrize("o3_lambda", [1, 2, 3])
def test_order_of_the_atoms_does_not_matter(make_basis, molecule, o3_lambda):
    basis = make_basis(o3_lambda, -1).double()
    permutation = np.random.default_rng(0).permutation(len(molecule))
    values = evaluate(basis, [molecule[permutation]])
    torch.testing.assert_close(values, evaluate(basis, [molecule])[permutation], **EXACT)


@pytest.mark.parametrize("o3_lambda", [1, 2, 3])
def test_batch_equals_single_structures(make_basis, structures, o3_lambda):
    """Most of the structures lack an element."""
    basis = make_basis(o3_lambda, -1).double()
    singles = torch.cat([evaluate(basis, [atoms]) for atoms in structures])
    torch.testing.assert_close(evaluate(basis, structures), singles, **EXACT)


@pytest.mark.parametrize(("o3_lambda", "o3_sigma"), [(1, 1), (2, -1), (3, 1)])
def test_no_neighbours_give_zero_and_finite_gradients(make_basis, o3_lambda, o3_sigma):
    basis = make_basis(o3_lambda, o3_sigma).double()
    values = evaluate(basis, [Atoms("O"), Atoms("H")])
    assert not values.any()
    values.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in basis.parameters())


def test_absent_elements_have_zero_gradient(make_basis):
    basis = make_basis(2).double()
    evaluate(basis, [build_molecule("H2O")]).square().sum().backward()
    for contraction in (basis.vectors, basis.tensors):
        of_centres = getattr(contraction, "encoding", contraction.weight)
        gradient = of_centres.grad.flatten(1).abs().sum(1)
        assert gradient[1] == 0
        assert (gradient[[0, 2]] > 0).all()


@pytest.mark.parametrize(("o3_lambda", "o3_sigma"), [(1, 1), (2, -1), (3, 1), (4, -1)])
def test_gradients_agree_with_central_differences(make_basis, molecule, o3_lambda, o3_sigma):
    basis = make_basis(o3_lambda, o3_sigma)
    expansion, batch = expand([molecule, build_molecule("H2O")])
    names = [name for name, _ in basis.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in basis.parameters()]

    def evaluate_at(*values):
        return torch.func.functional_call(basis, dict(zip(names, values)), (expansion, batch))

    assert torch.autograd.gradcheck(evaluate_at, values, fast_mode=True)


@pytest.mark.parametrize("o3_lambda", [0, 2, 3])
def test_single_precision_agrees_with_double(make_basis, molecule, o3_lambda):
    expansion, batch = expand([molecule])
    expected = make_basis(o3_lambda, -1).double()(expansion, batch)
    single = {l: c.float() for l, c in expansion.items()}
    values = make_basis(o3_lambda, -1).float()(single, batch)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-4)


def test_default_dtype_does_not_matter(make_basis, molecule):
    """Everything is built in float64, whatever torch's default is."""
    default = torch.get_default_dtype()
    results = []
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            results.append(evaluate(make_basis(3, -1), [molecule]))
    finally:
        torch.set_default_dtype(default)
    assert results[0].dtype == torch.float64
    assert torch.equal(*results)


def test_seed_fixes_the_weights(make_basis):
    first, second, other = (make_basis(2, -1, seed=seed) for seed in (0, 0, 1))
    for p, q, r in zip(first.parameters(), second.parameters(), other.parameters()):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)
