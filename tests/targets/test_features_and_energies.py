"""What ``predict`` gives besides targets: energies of atoms, features, last-layer features."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, TargetKind

KINDS = {
    "dipole": TargetKind.vector(),
    "energy": TargetKind.scalar(),
    "charges": TargetKind.scalar(2, per_atom=True),
}
WIDTH = 6
SOAP = {"max_radial": 3, "max_angular": 2}
SMALL = {
    **SOAP,
    "num_neurons_per_layer": WIDTH,
    "dtype": "float64",
    "num_epochs": 2,
    "learning_rate": 1e-2,
    "random_state": 0,
}
NETWORKS = {
    f"{encoding}, {num_hidden_layers} layers, {head}{', long range' * long_range}": {
        "species_encoding": encoding,
        "num_hidden_layers": num_hidden_layers,
        "heads": dict.fromkeys(KINDS, head),
        "long_range": long_range,
    }
    for encoding in ("orthogonal", "alchemical")
    for num_hidden_layers in (0, 2)
    for head in ("mlp", "linear")
    for long_range in (False, True)
    if num_hidden_layers or not long_range
}
SHALLOW = [name for name in NETWORKS if name.startswith("orthogonal, 0 layers")]


@pytest.fixture(params=list(NETWORKS), scope="module")
def network(request):
    return request.param


@pytest.fixture(scope="module")
def model(network, mixture, draw):
    y = draw(mixture, KINDS)
    return SoapBPNNRegressor(**SMALL, **NETWORKS[network]).fit(mixture, y)


def test_energies_add_up_to_the_energy(model, mixture):
    prediction = model.predict(mixture, targets=["energies", "energy"])
    assert prediction.names == ("energies", "energy")
    sums = [values.sum() for values in prediction["energies"]]
    np.testing.assert_allclose(sums, prediction["energy"], rtol=1e-12)
    assert [values.shape for values in prediction["energies"]] == [(len(a),) for a in mixture]
    # and they are no equal shares
    assert max(np.ptp(values) for values in prediction["energies"]) > 1e-3


def find_last_layer(model, name):
    """Weights of the last layer (n_networks, n_outputs, n_inputs), and its bias or 0."""
    weights = model.module_.head(name).weights
    if weights:
        return weights[-1].detach().cpu().numpy(), 0.0
    # the first layer is the last
    first, columns = model.module_.first, model.module_.columns[name]
    bias = getattr(first, "bias", None)
    bias = 0.0 if bias is None else bias.detach().cpu().numpy()[:, columns]
    return first.linear.weight.detach().cpu().numpy()[:, columns], bias


def test_last_layer_features_times_last_weights_are_the_output(model, mixture):
    """energies = scale * W f + baseline, and so for what each atom has of other targets."""
    prediction = model.predict(mixture, targets=["energies", "charges"])
    numbers = np.concatenate([atoms.numbers for atoms in mixture])
    element = np.searchsorted(model.elements_, numbers)
    for name, column in (("energy", "energies"), ("charges", "charges")):
        weights, bias = find_last_layer(model, name)
        network = element if len(weights) > 1 else 0 * element
        features = np.concatenate(model.last_layer_features(mixture, name))
        output = np.einsum("ipk,ik->ip", weights[network], features)
        output += bias if np.isscalar(bias) else bias[network]
        scale, coef = model.scaler_.scale_[name], model.baseline_.coef_[name]
        scale = scale if name == "energy" else scale[numbers]
        expected = scale * output + coef[element].reshape(len(element), -1)
        np.testing.assert_allclose(prediction.flatten(column), expected, atol=1e-10)


def test_features_are_of_one_width_and_those_of_predict(model, mixture):
    names = ["features", "dipole_last_layer_features", "energy"]
    prediction = model.predict(mixture, targets=names)
    features, last = model.features(mixture), model.last_layer_features(mixture, "dipole")
    n_features = WIDTH if model.num_hidden_layers else model.n_features_in_
    assert [f.shape for f in features] == [(len(atoms), n_features) for atoms in mixture]
    for name, values in (("features", features), (names[1], last)):
        for first, second in zip(prediction[name], values):
            np.testing.assert_array_equal(first, second)
    if model.num_hidden_layers and model.heads["dipole"] == "linear":
        for first, second in zip(features, last):
            np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(prediction["energy"], model.predict(mixture))


def test_features_of_chosen_atoms(model, mixture):
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(len(atoms))[:2] for atoms in mixture[:3]]
    chosen += [atoms.symbols == "C" for atoms in mixture[3:]]
    for some, every in (
        (model.features(mixture, atoms=chosen), model.features(mixture)),
        (
            model.last_layer_features(mixture, atoms=chosen),
            model.last_layer_features(mixture, "energy"),
        ),
    ):
        for part, whole, which in zip(some, every, chosen):
            np.testing.assert_array_equal(part, whole[which])
    with pytest.raises(ValueError, match="atoms of each of the"):
        model.features(mixture, atoms=chosen[:2])


def test_features_do_not_turn(model, mixture):
    matrix = -Rotation.random(rng=0).as_matrix()
    turned = [atoms.copy() for atoms in mixture]
    for atoms in turned:
        atoms.set_cell(atoms.cell.array @ matrix.T)
        atoms.positions = atoms.positions @ matrix.T
    for get in (model.features, model.last_layer_features):
        before, after = np.concatenate(get(mixture)), np.concatenate(get(turned))
        size = np.abs(before).max()
        assert len(np.unique(before.round(9), axis=0)) > len(before) / 2
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize("network", SHALLOW, indirect=True)
def test_without_hidden_layers_features_are_normalised_soap(model, mixture):
    """LayerNorm sees every pair twice, which the packed features hold once, times sqrt 2."""
    soap = SoapFeaturizer(**SOAP, dtype="float64").fit(mixture).transform(mixture).per_atom()
    ones = model.module_.first.spectrum.weight.cpu().numpy()
    n_full = (ones**2).sum()
    mean = (soap @ ones)[:, None] / n_full
    centred = soap - mean * ones
    variance = (centred**2).sum(1, keepdims=True) / n_full
    expected = centred / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(np.concatenate(model.features(mixture)), expected, atol=1e-10)


@pytest.mark.parametrize("encoding", ["orthogonal", "alchemical"])
def test_last_layer_of_a_linear_model_sees_the_features(mixture, draw, encoding):
    """There is no layer in between."""
    options = {"species_encoding": encoding, "num_hidden_layers": 0}
    model = SoapBPNNRegressor(**SMALL, **options, heads={"energy": "linear"})
    model.fit(mixture, draw(mixture, {"energy": KINDS["energy"]}))
    for first, last in zip(model.features(mixture), model.last_layer_features(mixture)):
        np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize("network", SHALLOW[:1], indirect=True)
def test_unknown_outputs_are_named(model, mixture):
    with pytest.raises(ValueError, match="'gap_last_layer_features'.*available"):
        model.last_layer_features(mixture, "gap")
    with pytest.raises(ValueError, match="'stresses'.*energies"):
        model.predict(mixture, targets=["stresses"])


def test_model_without_energy_has_no_derivatives(mixture, draw):
    model = SoapBPNNRegressor(**SMALL).fit(mixture, draw(mixture, {"dipole": KINDS["dipole"]}))
    assert model.predict(mixture).shape == (len(mixture), 3)
    for name in ("energies", "forces", "virial", "energy_last_layer_features"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            model.predict(mixture, targets=name)
    with pytest.raises(ValueError, match="'energy_last"):
        model.last_layer_features(mixture)
