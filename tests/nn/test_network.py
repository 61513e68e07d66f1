"""The packed network against the full one, and the hand-written derivatives against autograd."""

import pytest
import torch
from torch import nn

from sklearn_soapbpnn import TargetKind
from sklearn_soapbpnn.data import as_structures, build_graph
from sklearn_soapbpnn.descriptors import PairBasis, PowerSpectrum, SoapParameters
from sklearn_soapbpnn.nn import Architecture, SoapBPNN
from sklearn_soapbpnn.nn._layers import PackedLayerNorm


def full_from_packed(spectrum, packed):
    """Repeat the off-diagonal entries, without their weight."""
    return (packed / spectrum.weight)[:, spectrum.packed]


def test_packed_layernorm_and_first_layer_equal_the_full_ones():
    """One weight per pair in the packed layer is the sum of two in the full one."""
    spectrum = PowerSpectrum((4, 3, 2), 3).double()
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layernorm = nn.LayerNorm(spectrum.n_full).double()
    layer = nn.Linear(spectrum.n_full, 5, bias=False).double()
    with torch.no_grad():
        layernorm.weight.copy_(random(spectrum.n_full))
        layernorm.bias.copy_(random(spectrum.n_full))
    full_weight = (layer.weight * layernorm.weight).detach()
    pairs = torch.zeros(5, spectrum.n_features, dtype=torch.float64)
    pairs.index_add_(1, spectrum.packed, full_weight)
    weight, bias = pairs / spectrum.weight, (layer.weight @ layernorm.bias).detach()

    packed = random(7, spectrum.n_features).square() * spectrum.weight
    x, _ = PackedLayerNorm(spectrum.weight, spectrum.n_full).double().standardize(packed)
    expected = layer(layernorm(full_from_packed(spectrum, packed))).detach()
    torch.testing.assert_close(x @ weight.T + bias, expected, rtol=1e-10, atol=1e-10)


def plain_expansion(network, pair_vectors, graph):
    """Expansions over all elements, differentiable by autograd."""
    basis = _DifferentiableBasis.apply(pair_vectors, network.basis)
    i, j = graph.centers, graph.neighbors
    expansion = torch.zeros(graph.n_atoms, 3, basis.shape[1], dtype=torch.float64)
    expansion = expansion.index_put((i, graph.element[j]), basis, accumulate=True)
    backward = basis * network.basis.parity
    return expansion.index_put((j, graph.element[i]), backward, accumulate=True)


def plain_energies(network, pair_vectors, graph):
    """The formula of the network, differentiable by autograd all the way to the pair vectors."""
    expansion = plain_expansion(network, pair_vectors, graph)
    first = network.first
    features = first.spectrum(first.spectrum.by_degree(expansion))
    x, _ = first.norm.standardize(features)
    energies = []
    for element, row in zip(graph.element, x):
        hidden = first.linear.weight[element] @ row
        if first.bias is not None:
            hidden = hidden + first.bias[element]
        for layer in [*network.trunk.layers, *network.head("energy").layers]:
            hidden = layer.weight[element] @ nn.functional.silu(hidden)
        energies.append(hidden)
    return torch.cat(energies)


def plain_alchemical_energies(network, pair_vectors, graph):
    """The same with pseudo-species, spelt out channel by channel."""
    first, n_per_l = network.first, network.basis.n_per_l
    expansion = plain_expansion(network, pair_vectors, graph)
    features, start = [], 0
    for l, n in enumerate(n_per_l):
        stop = start + n * (2 * l + 1)
        c = expansion[:, :, start:stop].unflatten(2, (n, 2 * l + 1))
        mixed = torch.einsum("ab,ianm->ibnm", first.embedding, c).flatten(1, 2)
        features.append(torch.einsum("ipm,iqm->ipq", mixed, mixed).flatten(1))
        start = stop
    hidden = torch.cat(features, dim=1) * first.encoding[graph.element]
    hidden = first.norm(hidden) @ first.linear.weight[0].T
    for layer in [*network.trunk.layers, *network.head("energy").layers]:
        hidden = nn.functional.silu(hidden) @ layer.weight[0].T
    return hidden[:, 0]


class _DifferentiableBasis(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, basis):
        factors = basis.factors(vectors)
        ctx.save_for_backward(basis.gradient(factors))
        return basis.values(factors)

    @staticmethod
    def backward(ctx, grad):
        (gradient,) = ctx.saved_tensors
        return torch.einsum("pc,pac->pa", grad, gradient), None


PARAMETERS = SoapParameters(max_radial=2, max_angular=2)
KINDS = {
    "dipole": TargetKind.vector(),
    "energy": TargetKind.scalar(),
    "shielding": TargetKind.tensor(2, per_atom=True),
}


def make_network(kinds=KINDS, **options):
    shared = {"num_hidden_layers": 1, "num_neurons_per_layer": 4, "layernorm": True, "heads": {}}
    architecture = Architecture(**{**shared, "dtype": torch.float64, **options})
    return SoapBPNN((1, 6, 8), PARAMETERS, kinds, architecture, seed=0)


@pytest.mark.parametrize("layernorm", [True, False])
def test_alchemical_energies_and_forces_agree_with_plain_autograd(
    layernorm, structures, select_batch
):
    network = make_network({"energy": TargetKind.scalar()}, n_pseudo_species=2, layernorm=layernorm)
    assert_agrees_with_autograd(network, plain_alchemical_energies, structures, select_batch)


def test_energies_and_forces_agree_with_plain_autograd(network, structures, select_batch):
    assert_agrees_with_autograd(network, plain_energies, structures, select_batch)


def assert_agrees_with_autograd(network, plain, structures, select_batch):
    frames = as_structures(structures)
    graph = build_graph(frames, network.basis.cutoff_radius, network.elements)
    vectors = graph.pair_vectors.clone().requires_grad_()
    energies = plain(network, vectors, graph)
    (pair_forces,) = torch.autograd.grad(energies.sum(), vectors)
    forces = torch.zeros(graph.n_atoms, 3, dtype=torch.float64)
    forces.index_add_(0, graph.centers, pair_forces)
    forces.index_add_(0, graph.neighbors, -pair_forces)

    batch = select_batch(network, structures)
    with torch.no_grad():
        outputs = network(batch)
    torch.testing.assert_close(outputs.energies[0], energies.detach()[batch.index.atoms])
    torch.testing.assert_close(outputs.forces[0], forces[batch.index.atoms])


def test_gradients_of_the_weights_agree_with_central_differences(network, structures, select_batch):
    batch = select_batch(network, structures)
    names = [name for name, _ in network.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in network.parameters()]

    def outputs(*values):
        result = torch.func.functional_call(network, dict(zip(names, values)), (batch, True))
        return result.energy, result.forces, result.strain_gradient

    assert torch.autograd.gradcheck(outputs, values, fast_mode=True)


@pytest.mark.parametrize(
    "options",
    [
        {"n_pseudo_species": 2},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 0, "heads": {"energy": "linear", "dipole": "linear"}},
        {"num_hidden_layers": 0, "heads": {"energy": "linear"}, "n_pseudo_species": 2},
        {"num_hidden_layers": 2, "heads": {"energy": "linear", "shielding": "linear"}},
        {"add_lambda_basis": False, "layernorm": False},
        {"n_networks": 3},
        {"n_networks": 2, "n_pseudo_species": 2},
    ],
    ids=str,
)
def test_gradients_of_all_weights_agree_with_central_differences(options, molecule, select_batch):
    """Of the energy, its derivatives, and what the other heads say."""
    network = make_network(**options)
    batch = select_batch(network, [molecule, molecule[:4]])
    names = [name for name, _ in network.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in network.parameters()]

    def outputs(*values):
        result = torch.func.functional_call(network, dict(zip(names, values)), (batch, True))
        derived = result.energy, result.forces, result.strain_gradient
        return *derived, *(result.values[name] for name in ("dipole", "shielding"))

    assert torch.autograd.gradcheck(outputs, values, fast_mode=True)


def test_energy_does_not_depend_on_who_else_reads_the_features(molecule, select_batch):
    """With the weights of the many, one head alone gives the same energies and forces."""
    many = make_network()
    alone = make_network({"energy": KINDS["energy"]})
    weights = many.state_dict()
    for name in list(weights):
        if name.startswith("heads.") and not name.startswith("heads.1."):
            del weights[name]
    alone.load_state_dict({n.replace("heads.1.", "heads.0."): w for n, w in weights.items()})
    with torch.no_grad():
        first, second = (n(select_batch(n, [molecule])) for n in (many, alone))
    torch.testing.assert_close(first.energy, second.energy, rtol=1e-12, atol=0)
    torch.testing.assert_close(first.forces, second.forces, rtol=1e-12, atol=1e-14)


def test_all_sums_over_pairs_give_the_same(network, structures, select_batch, request):
    """In compiled loops, with torch, and with torch from stored gradients."""
    results = []
    for memory in (None, 0, 10**9):
        if memory == 0:
            request.getfixturevalue("with_torch")
        batch = select_batch(network, structures, memory=memory or 0)
        network.zero_grad()
        outputs = network(batch, strain=True)
        (outputs.forces.square().sum() + outputs.strain_gradient.square().sum()).backward()
        gradients = torch.cat([p.grad.flatten() for p in network.parameters()])
        results.append((outputs.forces.detach(), gradients))
    for fused, factored, stored in zip(*results):
        torch.testing.assert_close(fused, factored, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(factored, stored, rtol=1e-12, atol=1e-12)


def test_energy_alone_needs_no_pairs(network, structures, select_batch):
    with torch.no_grad():
        plain = network(select_batch(network, structures, derivatives=False))
        full = network(select_batch(network, structures))
    assert plain.forces is None
    torch.testing.assert_close(plain.energy, full.energy)


def test_radial_basis_is_shared_by_networks_of_one_size():
    first, second = (PairBasis(SoapParameters()) for _ in range(2))
    assert torch.equal(first.table, second.table)
