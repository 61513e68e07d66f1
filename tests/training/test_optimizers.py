"""Muon: its steps by formula, what it does with every kind of weight, and what it gains."""

import io
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from skorch.callbacks import Callback

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.nn import compute_environments
from sklearn_soapbpnn.training import Muon
from sklearn_soapbpnn.training._muon import COEFFICIENTS, RATIO, inverse_roots
from sklearn_soapbpnn.training._net import WarmupCosine

SMALL = {"max_radial": 3, "max_angular": 2, "num_neurons_per_layer": 8, "random_state": 0}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def molecules(shipped_molecules):
    X, y = shipped_molecules
    return X[:40], y[:40]


class RecordWeights(Callback):
    """Keep all weights, of before the fit and of every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.weights_, self.optimizer_ = [], net.optimizer_
        self.on_epoch_end(net)

    def on_epoch_end(self, net, **kwargs):
        weights = net.module_.named_parameters()
        self.weights_.append({name: weight.detach().clone() for name, weight in weights})


def draw(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def orthogonalize(stacks):
    roots = inverse_roots(stacks)
    return [Q @ X if X.shape[1] <= X.shape[2] else X @ Q for X, Q in zip(stacks, roots)]


def orthogonalize_by_svd(X):
    """The formula, with the singular values themselves."""
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    S = S / S.square().sum(-1, keepdim=True).sqrt()
    if S.shape[-1] > 1:
        for a, b, c in COEFFICIENTS:
            S = a * S + b * S**3 + c * S**5
    return (U * S[..., None, :]) @ Vh


def make_weights(generator, *shapes):
    return [torch.nn.Parameter(draw(generator, *shape)) for shape in shapes]


def step_on(optimizer, weights, gradients):
    for weight, gradient in zip(weights, gradients):
        weight.grad = None if gradient is None else gradient.clone()
    optimizer.step()


# --- orthogonal matrices -------------------------------------------------------------------------


SHAPES = [(3, 8, 40), (2, 40, 8), (4, 8, 8), (3, 1, 8), (2, 8, 1), (1, 1, 1), (5, 3, 7)]


def test_singular_values_are_brought_near_one(generator):
    """Those of all shapes, side by side, and the singular vectors stay."""
    stacks = [draw(generator, *shape) for shape in SHAPES]
    for X, result in zip(stacks, orthogonalize(stacks)):
        assert result.shape == X.shape
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6
        assert values.max() < 1.25
        torch.testing.assert_close(result, orthogonalize_by_svd(X))


def test_single_rows_and_columns_get_a_norm_of_one(generator):
    for result in orthogonalize([draw(generator, 3, 1, 8), draw(generator, 3, 8, 1)]):
        torch.testing.assert_close(result.flatten(1).norm(dim=1), torch.ones(3).double())


def test_the_size_of_a_gradient_does_not_matter(generator):
    X = draw(generator, 3, 8, 40)
    scale = torch.tensor([1e-4, 1.0, 1e6]).double()[:, None, None]
    torch.testing.assert_close(*orthogonalize([X, scale * X]))


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_stay_zeros(shape):
    assert not orthogonalize([torch.zeros(shape)])[0].any()


def test_single_precision_is_enough(generator):
    """Also for singular values that span six orders of magnitude."""
    U, _, Vh = torch.linalg.svd(draw(generator, 3, 16, 200), full_matrices=False)
    X = (U * torch.logspace(0, -6, 16).double()[:, None].T) @ Vh
    (result,) = orthogonalize([X.float()])
    torch.testing.assert_close(result.double(), orthogonalize_by_svd(X), rtol=0, atol=1e-3)


# --- steps ---------------------------------------------------------------------------------------


def test_steps_of_matrices_are_those_of_the_formula(generator):
    """With the running mean, of which a step is already in what it uses (Nesterov)."""
    W, means = make_weights(generator, (3, 8, 20), (3, 8, 8), (3, 1, 8)), [0.0] * 3
    before = [weight.detach().clone() for weight in W]
    optimizer = Muon(W, lr=1e-3, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        gradients = [draw(generator, *weight.shape) for weight in W]
        step_on(optimizer, W, gradients)
        for k, G in enumerate(gradients):
            means[k] = 0.9 * means[k] + 0.1 * G
            step = orthogonalize_by_svd(0.9 * means[k] + 0.1 * G)
            before[k] = (1 - 0.5e-3) * before[k] - 20e-3 * math.sqrt(G.shape[1] / G.shape[2]) * step
            torch.testing.assert_close(W[k].detach(), before[k])


@pytest.mark.parametrize(("n_outputs", "n_inputs"), [(32, 1000), (32, 64), (32, 32), (64, 16)])
def test_a_step_changes_outputs_by_its_rate_whatever_the_width(generator, n_outputs, n_inputs):
    """For inputs of size 1, the outputs that change most: 20 learning rates, and not much more."""
    (W,) = make_weights(generator, (2, n_outputs, n_inputs))
    before = W.detach().clone()
    step_on(Muon([W], lr=1e-3, weight_decay=0), [W], [draw(generator, *W.shape)])
    _, _, Vh = torch.linalg.svd(W.detach() - before, full_matrices=False)
    x = Vh[:, 0] * math.sqrt(n_inputs)
    change = torch.bmm(W.detach() - before, x[:, :, None]).square().mean((1, 2)).sqrt()
    assert (change / (RATIO * 1e-3) > 0.65).all()
    assert (change / (RATIO * 1e-3) < 1.25).all()


def test_what_is_no_stack_of_matrices_goes_by_adam(generator):
    weights = make_weights(generator, (3, 8), (20,), (4, 4), ())
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    options = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-6}
    optimizers = Muon(weights, **options), torch.optim.Adam(others, **options)
    for _ in range(4):
        gradients = [draw(generator, *weight.shape) for weight in weights]
        step_on(optimizers[0], weights, gradients)
        step_on(optimizers[1], others, gradients)
    for weight, other in zip(weights, others):
        torch.testing.assert_close(weight, other)


@pytest.mark.parametrize(("n_steps", "decay"), [(10, 1.0), (5000, 1.0), (50_000, 0.1)])
def test_decay_of_a_long_training(generator, n_steps, decay):
    """Without gradients, the largest factor by which a matrix shrinks is exp(-2.5)."""
    weights = make_weights(generator, (2, 4, 6), (2, 4, 4))
    groups = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 3.0}]
    optimizer = Muon(groups, lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(n_steps, 0.0))
    optimizer.choose_decay(n_steps)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(decay), 3]
    rates = [1e-3 * schedule.lr_lambdas[0](step) for step in range(n_steps)]
    assert decay * sum(rates) < 2.5 * 1.001


@pytest.mark.parametrize("size", [1.0, 0.01])
@pytest.mark.parametrize("shape", [(2, 4, 30), (2, 8, 5)])
def test_rough_inputs_move_as_if_they_were_smaller(generator, shape, size):
    """Steps are those of weights of inputs that are scaled, whichever side is longer."""
    roughness = torch.linspace(0, 2, shape[2], dtype=torch.float64)
    scale = torch.exp(-0.7 * roughness)
    scale = scale / scale.square().mean().sqrt() / size
    (W,) = make_weights(generator, shape)
    scaled = torch.nn.Parameter(W.detach() / scale)
    optimizers = Muon([W], smoothness=0.7), Muon([scaled])
    optimizers[0].weigh_inputs(W, roughness, size)
    for _ in range(3):
        gradient = draw(generator, *shape)
        step_on(optimizers[0], [W], [gradient])
        step_on(optimizers[1], [scaled], [gradient * scale])
    torch.testing.assert_close(W, scaled * scale)


@pytest.mark.parametrize("species_encoding", ["orthogonal", "alchemical"])
def test_a_step_is_as_large_without_layernorm(molecules, species_encoding):
    """Features that are not normalised are much smaller, so their weights take larger steps."""
    X, y = molecules
    changes, sizes = [], []
    for layernorm in (True, False):
        recorded = RecordWeights()
        options = {"species_encoding": species_encoding, "layernorm": layernorm}
        options |= {"num_epochs": 1, "batch_size": len(X), "validation_fraction": 0}
        options |= {"warmup_fraction": 0, "callbacks": [recorded], "learning_rate": 1e-4}
        network = SoapBPNNRegressor(**SMALL, **options).fit(X, y).module_
        recipe, first = network.recipe(), network.first
        batch = compute_environments(as_structures(X), recipe, derivatives=False).select_all()
        outputs = []
        for weights in recorded.weights_:
            network.load_state_dict(weights, strict=False)
            outputs.append(first.gather(first(batch)[0], batch))
        changes.append((outputs[1] - outputs[0]).square().mean().sqrt().item())
        sizes.append(first.input_size(batch).item())
    assert sizes[0] == pytest.approx(1, rel=1e-2)
    assert sizes[1] < 0.2
    assert 0.4 < changes[1] / changes[0] < 2.5


def test_atoms_without_neighbors_are_inputs_of_no_size():
    """All features are zero without normalisation."""
    X = [Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 50]]), Atoms("H")]
    model = SoapBPNNRegressor(**SMALL, num_epochs=2, layernorm=False, validation_fraction=0)
    assert np.isfinite(model.fit(X, [-1.0, -2.1, -1.0]).predict(X)).all()


@pytest.mark.parametrize("species_encoding", ["orthogonal", "alchemical"])
def test_roughness_is_that_of_the_channels_of_each_feature(molecules, species_encoding):
    """From the names of the features, which say the degree and the radial channels of each."""
    X, y = molecules
    options = {**SMALL, "num_epochs": 1, "species_encoding": species_encoding}
    model = SoapBPNNRegressor(**options).fit(X, y)
    first = model.module_.first
    n_per_l = model.module_.basis.n_per_l
    entries = []
    for l, n in enumerate(n_per_l):
        channels = [*range(n)] * first.spectrum.n_elements
        for p, one in enumerate(channels):
            others = channels[p:] if species_encoding == "orthogonal" else channels
            entries += [
                sum(((k + 1 + l / 2) / n_per_l[0]) ** 2 for k in (one, other)) for other in others
            ]
    np.testing.assert_allclose(first.roughness, entries, rtol=1e-6)


def test_rough_features_move_less(molecules):
    X, y = molecules
    shares = []
    for smoothness in (0.0, 3.0):
        recorded = RecordWeights()
        net_params = {"optimizer__smoothness": smoothness}
        options = {**SMALL, "num_epochs": 1, "callbacks": [recorded], "net_params": net_params}
        first = SoapBPNNRegressor(**options).fit(X, y).module_.first
        before, after = (weights["first.linear.weight"] for weights in recorded.weights_)
        moved = (after - before).square().mean((0, 1))
        rough = first.roughness > first.roughness.median()
        shares.append(float(moved[rough].sum() / moved.sum()))
    assert shares[1] < 0.5 * shares[0]


def test_rate_of_adam_in_that_of_matrices(generator):
    weights = make_weights(generator, (3, 8), (2, 4, 6))
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    gradients = [draw(generator, *weight.shape) for weight in weights]
    step_on(Muon(weights, lr=1e-2, adam_ratio=5.0), weights, gradients)
    step_on(Muon(others[:1], lr=5e-2), others[:1], gradients[:1])
    step_on(Muon(others[1:], lr=1e-2), others[1:], gradients[1:])
    for weight, other in zip(weights, others):
        torch.testing.assert_close(weight, other)


def test_weights_without_a_gradient_stay(generator):
    """Elements that are not in a batch, and heads without a label."""
    weights = make_weights(generator, (3, 4, 6), (2, 4, 4), (3, 4))
    optimizer = Muon(weights)
    step_on(optimizer, weights, [draw(generator, *weight.shape) for weight in weights])
    before = [weight.detach().clone() for weight in weights]
    gradient = draw(generator, 3, 4, 6)
    gradient[1] = 0
    step_on(optimizer, weights, [gradient, None, None])
    assert (weights[0] != before[0]).flatten(1).all(1).tolist() == [True, False, True]
    assert torch.equal(weights[0][1], before[0][1])
    assert torch.equal(weights[1], before[1])
    assert torch.equal(weights[2], before[2])


def test_decay_of_matrices(generator):
    weights, others = (
        make_weights(torch.Generator().manual_seed(0), (2, 4, 6), (2, 4)) for _ in range(2)
    )
    before = [weight.detach().clone() for weight in weights]
    gradients = [draw(generator, *weight.shape) for weight in weights]
    step_on(Muon(weights, lr=0.1, weight_decay=0), weights, gradients)
    step_on(Muon(others, lr=0.1, weight_decay=0.5), others, gradients)
    torch.testing.assert_close(weights[0] - others[0], 0.05 * before[0])
    assert torch.equal(weights[1], others[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_state_goes_on_with_the_same_bits(generator, dtype):
    shapes = [(3, 8, 20), (3, 8, 8), (3, 1, 8), (3, 8), (8,)]
    gradients = [[draw(generator, *shape).to(dtype) for shape in shapes] for _ in range(6)]
    start = [draw(generator, *shape).to(dtype) for shape in shapes]
    straight = [torch.nn.Parameter(weight.clone()) for weight in start]
    optimizer = Muon(straight)
    for k, some in enumerate(gradients):
        if k == 3:
            file = io.BytesIO()
            torch.save([optimizer.state_dict(), [w.detach().clone() for w in straight]], file)
        step_on(optimizer, straight, some)
    file.seek(0)
    state, weights = torch.load(file, weights_only=True)
    resumed = [torch.nn.Parameter(weight) for weight in weights]
    optimizer = Muon(resumed, lr=0.5)
    optimizer.load_state_dict(state)
    for some in gradients[3:]:
        step_on(optimizer, resumed, some)
    for one, other in zip(straight, resumed):
        assert other.dtype == dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "options",
    [{"lr": -1.0}, {"momentum": 1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}, {"eps": 0.0}],
)
def test_arguments_that_make_no_sense(options):
    with pytest.raises(ValueError, match=rf"{'betas' if 'betas' in options else [*options][0]}.*"):
        Muon([torch.zeros(1, 2, 2)], **options)


# --- in a regressor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float64"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 0, "heads": {"energy": "linear", "dipole": "linear"}},
        {"heads": {"energy": "linear"}, "layernorm": False},
        {"species_encoding": "alchemical"},
        {"long_range": True},
        {"species_encoding": "alchemical", "long_range": True, "dtype": "float64"},
    ],
    ids=str,
)
def test_every_weight_learns(molecules, options):
    """Of every kind of network, with forces and a tensor."""
    X, y = molecules
    dipoles = Targets.from_atoms(X, dipole="dipole")
    y = Targets(energy=y["energy"], forces=y["forces"], dipole=dipoles["dipole"])
    recorded = RecordWeights()
    fit = {"optimizer": "muon", "num_epochs": 3, "warmup_fraction": 0.0, "callbacks": [recorded]}
    model = SoapBPNNRegressor(**{**SMALL, **fit, **options}).fit(X, y)
    assert type(recorded.optimizer_) is Muon
    before, after = recorded.weights_[0], recorded.weights_[-1]
    for name, weight in before.items():
        assert after[name].dtype == getattr(torch, model.dtype)
        assert after[name].isfinite().all()
        assert (after[name] != weight).double().mean() > 0.9, name
    assert np.isfinite(model.history_[-1]["valid_loss"])


def test_vectors_that_describe_elements_take_larger_steps(molecules):
    """Of pseudo-species, and only those; the rates fall together."""
    X, y = molecules
    groups = {}
    for encoding in ("orthogonal", "alchemical"):
        recorded = RecordWeights()
        options = {**SMALL, "num_epochs": 1, "species_encoding": encoding, "callbacks": [recorded]}
        model = SoapBPNNRegressor(**options, optimizer="muon").fit(X, y)
        names = {weight: name for name, weight in model.module_.named_parameters()}
        groups[encoding] = {
            names[weight]: group["adam_ratio"]
            for group in recorded.optimizer_.param_groups
            for weight in group["params"]
        }
        assert len({group["lr"] for group in recorded.optimizer_.param_groups}) == 1
        assert len(groups[encoding]) == len(names)
    assert {*groups["orthogonal"].values()} == {1}
    larger = [name for name, ratio in groups["alchemical"].items() if ratio == 10]
    assert larger == ["first.embedding", "first.encoding"]


def test_optimizers_have_names(molecules):
    X, y = molecules
    kinds = {}
    for name in ("muon", "adam"):
        recorded = RecordWeights()
        options = {**SMALL, "num_epochs": 1, "callbacks": [recorded]}
        SoapBPNNRegressor(**options, optimizer=name).fit(X, y)
        kinds[name] = type(recorded.optimizer_)
    assert kinds == {"muon": Muon, "adam": torch.optim.Adam}
    with pytest.raises(ValueError, match="'optimizer' parameter .* must be a str among"):
        SoapBPNNRegressor(optimizer="sgd").fit(X, y)


def test_arguments_go_to_the_optimizer_of_that_name(molecules):
    X, y = molecules
    options = {**SMALL, "num_epochs": 1}
    momenta = {"net_params": {"optimizer__momentum": 0.5}}
    model = SoapBPNNRegressor(**options, **momenta, optimizer="muon").fit(X, y)
    assert model.net_.optimizer_.param_groups[0]["momentum"] == 0.5
    with pytest.raises(ValueError, match="does not make an optimizer with optimizer='adam'"):
        SoapBPNNRegressor(**options, **momenta, optimizer="adam").fit(X, y)


def test_an_optimizer_in_net_params_takes_the_place_of_the_name(molecules):
    X, y = molecules
    options = {**SMALL, "num_epochs": 1, "net_params": {"optimizer": torch.optim.AdamW}}
    for name in ("muon", "adam"):
        model = SoapBPNNRegressor(**options, optimizer=name).fit(X, y)
        assert type(model.net_.optimizer_) is torch.optim.AdamW


def test_metatrain_has_no_muon():
    with pytest.raises(ValueError, match=r"no counterpart of: optimizer='muon' \(.* 'adam'\)"):
        SoapBPNNRegressor().to_options()
    adam = SoapBPNNRegressor(optimizer="adam")
    assert SoapBPNNRegressor.from_options(adam.to_options()).optimizer == "adam"


def test_less_error_in_the_same_epochs(shipped_molecules):
    """About half of it, of structures that neither has seen."""
    X, y = shipped_molecules
    errors = {}
    for name in ("muon", "adam"):
        options = {"max_radial": 4, "max_angular": 3, "num_epochs": 10, "random_state": 0}
        model = SoapBPNNRegressor(**options, optimizer=name)
        predicted = model.fit(X[:200], y[:200]).predict(X[-100:], targets=y.names)
        errors[name] = [
            np.abs(predicted.flatten(target) - y[-100:].flatten(target)).mean()
            for target in ("energy", "forces")
        ]
    assert errors["muon"][0] < 0.8 * errors["adam"][0]
    assert errors["muon"][1] < 0.8 * errors["adam"][1]
