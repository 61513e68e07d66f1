"""Number of hidden layers, heads and tensor bases: what they add to the network."""

import numpy as np
import pytest

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind

WIDTH = 6
SMALL = {
    "max_radial": 2,
    "max_angular": 3,
    "num_neurons_per_layer": WIDTH,
    "num_epochs": 1,
    "random_state": 0,
}
ENCODINGS = ["orthogonal", "alchemical"]
# target, and how many tensors each of its values is a sum of, over blocks and properties
KINDS = {
    "energy": (TargetKind.scalar(), 1),
    "charges": (TargetKind.scalar(2, per_atom=True), 2),
    "dipole": (TargetKind.vector(), 3),
    "polarizability": (TargetKind.tensor(symmetric=True), 1 + 2 * 5),
    "tensor": (TargetKind.tensor(2), 2 * (1 + 3 + 2 * 5)),
    "octupole": (TargetKind.spherical((3, 1), 2, per_atom=True), 2 * 2 * 7),
    "pseudoscalar": (TargetKind.spherical((0, -1)), 1),
}


@pytest.fixture
def fit(mixture, draw):
    """Return a function that fits a model of some targets."""

    def fit(names, **options):
        y = draw(mixture, {name: KINDS[name][0] for name in names})
        return SoapBPNNRegressor(**{**SMALL, **options}).fit(mixture, y)

    return fit


def count(model):
    return sum(parameter.numel() for parameter in model.module_.parameters())


@pytest.mark.parametrize("species_encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("layernorm", "num_hidden_layers", "head"),
    [
        *[(True, 0, "linear"), (True, 0, "mlp"), (True, 1, "linear"), (True, 3, "mlp")],
        *[(False, 0, "linear"), (False, 2, "mlp")],
    ],
)
def test_number_of_weights_of_an_energy(fit, species_encoding, layernorm, num_hidden_layers, head):
    """One set of weights for each element, or one for all behind embeddings of the elements."""
    shared = {"species_encoding": species_encoding, "layernorm": layernorm}
    heads = {"energy": head}
    model = fit(["energy"], num_hidden_layers=num_hidden_layers, heads=heads, **shared)
    n_features, n_elements = model.n_features_in_, len(model.elements_)
    widths = [n_features] + [WIDTH] * (num_hidden_layers + (head == "mlp")) + [1]
    weights = sum(a * b for a, b in zip(widths, widths[1:]))
    if species_encoding == "orthogonal":
        bias = widths[1] if layernorm else 0
        assert count(model) == n_elements * (weights + bias)
    else:
        assert n_features == 4**2 * sum(n**2 for n in model.module_.basis.n_per_l)
        embeddings = n_elements * (4 + n_features)
        assert count(model) == weights + embeddings + 2 * n_features * layernorm


@pytest.mark.parametrize("species_encoding", ENCODINGS)
@pytest.mark.parametrize("num_hidden_layers", [0, 2])
@pytest.mark.parametrize("name", ["energy", "tensor", "octupole"])
def test_mlp_head_is_one_more_hidden_layer(fit, mixture, name, num_hidden_layers, species_encoding):
    shared = {"num_hidden_layers": num_hidden_layers, "species_encoding": species_encoding}
    default, mlp, linear = (
        fit([name], **shared, heads=heads) for heads in (None, {name: "mlp"}, {name: "linear"})
    )
    n_networks = len(mlp.elements_) if species_encoding == "orthogonal" else 1
    n_outputs = KINDS[name][1]
    if num_hidden_layers:
        more = n_networks * WIDTH**2
    else:
        has_bias = species_encoding == "orthogonal"
        n_inputs = mlp.n_features_in_ + has_bias
        more = n_networks * (n_inputs * (WIDTH - n_outputs) + WIDTH * n_outputs)
    assert count(mlp) - count(linear) == more
    # what is documented as the default
    assert count(default) == count(mlp)
    first, second, other = (
        model.predict(mixture, targets=name).flatten(name) for model in (default, mlp, linear)
    )
    assert np.array_equal(first, second)
    assert not np.allclose(other, first, atol=0)


@pytest.mark.parametrize("num_hidden_layers", [0, 1, 2])
def test_every_target_has_its_own_head(fit, num_hidden_layers):
    """Naming one head changes the weights of that target only."""
    names = list(KINDS)
    heads = {"dipole": "linear"}
    default = fit(names, num_hidden_layers=num_hidden_layers)
    changed = fit(names, num_hidden_layers=num_hidden_layers, heads=heads)
    for name in names:
        shapes = [
            [tuple(p.shape) for p in model.module_.head(name).parameters()]
            for model in (default, changed)
        ]
        assert (shapes[0] != shapes[1]) == (name == "dipole")


@pytest.mark.parametrize("species_encoding", ENCODINGS)
@pytest.mark.parametrize(("o3_lambda", "o3_sigma"), [(0, -1), (1, 1), (2, -1), (3, 1)])
def test_lambda_basis_doubles_the_basis_of_higher_orders(
    mixture, draw, species_encoding, o3_lambda, o3_sigma
):
    y = draw(mixture, {"target": TargetKind.spherical((o3_lambda, o3_sigma))})
    shared = {**SMALL, "species_encoding": species_encoding, "heads": {"target": "linear"}}
    plain, more = (
        SoapBPNNRegressor(**shared, add_lambda_basis=add).fit(mixture, y) for add in (False, True)
    )
    n_networks = len(more.elements_) if species_encoding == "orthogonal" else 1
    n_tensors = 2 * o3_lambda + 1
    added = n_tensors if o3_lambda > 1 else 0
    sizes = [model.module_.head("target").weights[-1].shape for model in (plain, more)]
    assert sizes == [(n_networks, n, WIDTH) for n in (n_tensors, n_tensors + added)]
    same = np.array_equal(plain.predict(mixture), more.predict(mixture))
    assert same == (added == 0)


def test_lambda_basis_is_the_default(mixture, draw):
    y = draw(mixture, {"target": TargetKind.spherical((2, 1))})
    default, on = (
        SoapBPNNRegressor(**SMALL, **options).fit(mixture, y).predict(mixture)
        for options in ({}, {"add_lambda_basis": True})
    )
    assert np.array_equal(default, on)
