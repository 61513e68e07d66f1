"""Committees: several networks that are trained in one pass, and whose mean predicts."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.descriptors import SoapParameters
from sklearn_soapbpnn.nn import Architecture, SoapBPNN
from sklearn_soapbpnn.training import TotalLoss, TrainingData, parse_loss, read_parameters

N_NETWORKS = 3
PARAMETERS = SoapParameters(max_radial=3, max_angular=3)
KINDS = {
    "energy": TargetKind.scalar(),
    "dipole": TargetKind.vector(),
    "quadrupole": TargetKind.spherical((2, 1), per_atom=True),
}
NETWORKS = {
    "orthogonal": {},
    "alchemical": {"n_pseudo_species": 2},
    "without layernorm": {"layernorm": False},
    "alchemical, without layernorm": {"n_pseudo_species": 2, "layernorm": False},
    "no hidden layer": {"num_hidden_layers": 0, "heads": {"dipole": "linear"}},
    "alchemical, no hidden layer": {"num_hidden_layers": 0, "n_pseudo_species": 2},
    "linear head": {"num_hidden_layers": 2, "heads": {"energy": "linear"}},
}
SMALL = {
    **{"max_radial": 3, "max_angular": 2, "num_neurons_per_layer": 8, "batch_size": 4},
    **{"num_epochs": 3, "dtype": "float64", "random_state": 0, "n_networks": N_NETWORKS},
}


def make_network(name, n_networks=N_NETWORKS, seed=0):
    options = {"num_hidden_layers": 1, "layernorm": True, "heads": {}, **NETWORKS[name]}
    architecture = Architecture(
        num_neurons_per_layer=6, dtype=torch.float64, n_networks=n_networks, **options
    )
    network = SoapBPNN((1, 6, 8), PARAMETERS, KINDS, architecture, seed=seed)
    if getattr(network.first, "bias", None) is not None:
        with torch.no_grad():
            network.first.bias.normal_(generator=torch.Generator().manual_seed(seed))
    return network


def is_own(name):
    """Return whether a weight is one of a perceptron, of which each network has its own."""
    return name.startswith("first.linear") or name == "first.bias" or ".layers." in name


def take_weights(weights, k, n_networks=N_NETWORKS):
    """Return the weights of one network of a committee."""
    return {name: w[k::n_networks] if is_own(name) else w for name, w in weights.items()}


def take_network(name, committee, k):
    network = make_network(name, 1)
    network.load_state_dict(take_weights(committee.state_dict(), k))
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_each_is_a_network_of_its_own(name, structures, select_batch):
    committee = make_network(name)
    batch = select_batch(committee, structures)
    with torch.no_grad():
        outputs = committee(batch, strain=True)
    assert outputs.energy.shape == (N_NETWORKS, len(structures))
    assert not torch.allclose(outputs.forces[0], outputs.forces[1])
    for k in range(N_NETWORKS):
        network = take_network(name, committee, k)
        with torch.no_grad():
            alone = network(select_batch(network, structures), strain=True)
        for what in ("energies", "energy", "forces", "strain_gradient"):
            (expected,) = getattr(alone, what)
            torch.testing.assert_close(getattr(outputs, what)[k], expected, rtol=1e-10, atol=1e-10)
        for what, (expected,) in alone.values.items():
            torch.testing.assert_close(outputs.values[what][k], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_side_by_side(name, molecule, select_batch):
    committee = make_network(name)
    batch = select_batch(committee, [molecule])
    networks = [take_network(name, committee, k) for k in range(N_NETWORKS)]
    for target in (None, *KINDS):
        with torch.no_grad():
            found = committee.features(batch, target)
            own = [network.features(batch, target) for network in networks]
        # those of the descriptor are the same for all
        expected = own[0] if found.shape == own[0].shape else torch.cat(own, dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["orthogonal", "alchemical"])
def test_forces_and_stress_are_derivatives(name, structures, select_batch):
    """Of the energy of each network, by central differences."""
    network = make_network(name)
    frames = [structures[0], structures[2]]
    with torch.no_grad():
        outputs = network(select_batch(network, frames), strain=True)
    rng, step = np.random.default_rng(0), 1e-4
    moves = [rng.normal(size=atoms.positions.shape) for atoms in frames]
    strains = [(s + s.T) / 2 for s in rng.normal(size=(2, 3, 3))]

    def energy(times, strained):
        moved = []
        for atoms, move, strain in zip(frames, moves, strains):
            atoms = atoms.copy()
            if strained:
                atoms.set_cell(atoms.cell @ (np.eye(3) + times * strain), scale_atoms=False)
                atoms.positions = atoms.positions @ (np.eye(3) + times * strain)
            else:
                atoms.positions += times * move
            moved.append(atoms)
        with torch.no_grad():
            return network(select_batch(network, moved, derivatives=False)).energy

    along_moves = (energy(step, False) - energy(-step, False)) / (2 * step)
    along_strains = (energy(step, True) - energy(-step, True)) / (2 * step)
    batch = select_batch(network, frames)
    move = torch.from_numpy(np.concatenate(moves))[batch.index.atoms]
    work = (outputs.forces * move).sum(2)
    expected = torch.zeros(N_NETWORKS, 2, dtype=torch.float64)
    expected.index_add_(1, batch.index.structure_of_atom, -work)
    torch.testing.assert_close(along_moves, expected, rtol=1e-6, atol=1e-6)
    strain = torch.from_numpy(np.stack(strains))
    expected = (outputs.strain_gradient * strain).sum((2, 3))
    torch.testing.assert_close(along_strains, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_its_own_loss(name, structures):
    """The gradient of a network's weights does not depend on the other networks."""
    X, y = label(structures)
    committee = make_network(name)
    compute_gradients(committee, X, y)
    for k in range(N_NETWORKS):
        network = take_network(name, committee, k)
        compute_gradients(network, X, y)
        for (weight, p), q in zip(committee.named_parameters(), network.parameters()):
            if is_own(weight) and p.grad is not None:  # the quadrupole is not learnt
                own = p.grad[k::N_NETWORKS]
                torch.testing.assert_close(own, q.grad, rtol=1e-9, atol=1e-11)


def label(frames):
    rng = np.random.default_rng(0)
    frames = [atoms for atoms in frames if len(atoms) < 12]
    y = Targets(
        energy=rng.normal(size=len(frames)),
        forces=[rng.normal(size=atoms.positions.shape) for atoms in frames],
        dipole=rng.normal(size=(len(frames), 3)),
        kinds={"dipole": KINDS["dipole"]},
    )
    return frames, y


def compute_gradients(network, X, y):
    data = TrainingData(as_structures(X), y, network)
    (batch,) = data.batches(torch.arange(len(X), device=data.device), [len(X)])
    loss = TotalLoss(parse_loss("mse", y.names))
    loss(batch.predictions(network), batch.labels).backward()


@pytest.fixture(scope="module")
def data(shipped_molecules):
    X = shipped_molecules[0][:20]
    return X, Targets.from_atoms(X, energy="energy", forces="forces", dipole="dipole")


@pytest.fixture(scope="module", params=["orthogonal", "alchemical"])
def model(data, request):
    X, y = data
    model = SoapBPNNRegressor(**SMALL, species_encoding=request.param, log_separate_blocks=True)
    return model.fit(X[:14], y[:14], X_val=X[14:], y_val=y[14:])


def take_model(model, k):
    """Return a model with one of the networks."""
    fitted, single = model.fitted_, clone(model).set_params(n_networks=1)
    architecture = read_parameters(single).architecture
    network = SoapBPNN(model.elements_, fitted.steps.parameters, model.kinds_, architecture, 0)
    network.load_state_dict(take_weights(model.module_.state_dict(), k))
    hyperparameters = {**fitted.hyperparameters, "n_networks": 1}
    return single.set_fitted(
        replace(fitted, network=network.eval(), hyperparameters=hyperparameters, error_bars=None)
    )


OUTPUTS = ("energy", "energies", "forces", "dipole")


def test_the_mean_predicts(model, data):
    X, _ = data
    found = model.predict(X, targets=OUTPUTS)
    each = [take_model(model, k).predict(X, targets=OUTPUTS) for k in range(N_NETWORKS)]
    assert not np.allclose(each[0]["energy"], each[1]["energy"], rtol=1e-6)
    for name in OUTPUTS:
        mean = np.mean([flatten(prediction[name]) for prediction in each], axis=0)
        np.testing.assert_allclose(flatten(found[name]), mean, rtol=1e-10)


def flatten(values):
    return np.concatenate([np.ravel(value) for value in values])


def test_recorded_errors_are_those_of_the_mean(model, data):
    X, y = data[0][14:], data[1][14:]
    epoch = min(model.history_, key=lambda epoch: epoch["valid_metric"])
    found = model.predict(X, targets=["energy", "forces", "dipole"])
    error = (found["energy"] - y["energy"]) / [len(atoms) for atoms in X]
    assert epoch["valid_energy_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    error = np.concatenate(found["forces"]) - np.concatenate(y["forces"])
    assert epoch["valid_forces_mae"] == pytest.approx(np.abs(error).mean())
    error = found["dipole"] - y["dipole"]
    assert epoch["valid_dipole_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))


def test_the_loss_is_that_of_one_network(data):
    """On average: it does not grow with their number."""
    X, y = data
    single, many = (
        SoapBPNNRegressor(**{**SMALL, "n_networks": n, "num_epochs": 1}).fit(X, y) for n in (1, 8)
    )
    for name in ("train_loss", "valid_loss"):
        assert 0.5 < many.history_[0][name] / single.history_[0][name] < 2


def test_random_state_fixes_everything(model, data):
    X, y = data
    again = clone(model).fit(X[:14], y[:14], X_val=X[14:], y_val=y[14:])
    for name, weight in model.module_.state_dict().items():
        assert torch.equal(weight, again.module_.state_dict()[name])
    other = clone(model).set_params(random_state=1).fit(X[:14], y[:14])
    assert not np.array_equal(other.predict(X), model.predict(X))


def test_each_trains_as_if_it_were_alone(data):
    """With plain gradient descent, which sees the size of a gradient; no weights are shared."""
    X, y = data[0], data[1].select(["energy", "forces"])
    model = SoapBPNNRegressor(**SMALL).fit(X, y)
    sgd = {"optimizer": torch.optim.SGD}
    options = {"net_params": sgd, "learning_rate": 1e-3, "num_epochs": 1, "warm_start": True}
    together = deepcopy(model).set_params(**options).fit(X, y)
    for k in range(N_NETWORKS):
        alone = take_model(model, k).set_params(**options).fit(X, y)
        own = take_weights(together.module_.state_dict(), k)
        start = take_weights(model.module_.state_dict(), k)
        for name, weight in alone.module_.state_dict().items():
            torch.testing.assert_close(own[name], weight, rtol=1e-9, atol=1e-12)
            assert not torch.equal(own[name], start[name])


def test_features_of_a_model(model, data):
    X = data[0][:3]
    each = [take_model(model, k).last_layer_features(X) for k in range(N_NETWORKS)]
    for atoms, found, own in zip(X, model.last_layer_features(X), zip(*each)):
        assert found.shape == (len(atoms), 8 * N_NETWORKS)
        np.testing.assert_allclose(found, np.concatenate(own, axis=1), rtol=1e-10)


def test_partial_fit_goes_on(model, data):
    X, y = data
    more = deepcopy(model).set_params(num_epochs=1).partial_fit(X, y)
    assert more.module_.n_networks == N_NETWORKS
    assert not np.array_equal(more.predict(X), model.predict(X))


def test_calculator_gives_the_mean(model, data):
    atoms = data[0][0].copy()
    atoms.calc = model.calculator()
    expected = model.predict([atoms], targets=["energy", "forces"])
    np.testing.assert_allclose(atoms.get_potential_energy(), expected["energy"][0], rtol=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"][0], rtol=1e-8, atol=1e-12)


def test_without_numba(data, request):
    """Torch alone fits the same networks."""
    X, y = data
    expected = SoapBPNNRegressor(**SMALL).fit(X, y).predict(X)
    request.getfixturevalue("with_torch")
    found = SoapBPNNRegressor(**SMALL).fit(X, y).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_long_range_is_refused(data):
    model = SoapBPNNRegressor(n_networks=2, long_range=True)
    with pytest.raises(ValueError, match="n_networks=2 contradicts long_range=True"):
        model.fit(*data)
