"""Going on with energies of another functional or code: the baseline follows, or a warning says."""

import numpy as np
import pytest
from ase.build import molecule
from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Targets,
    TargetScaler,
)

SOAP = {"max_radial": 2, "max_angular": 2, "cutoff_radius": 4.0}
NETWORK = {"num_epochs": 20, "learning_rate": 0.01, "random_state": 0}
# energies of H, C and O in the other reference, less those in the first
SHIFT = np.array([-13.0, 900.0, -40.0])
# whether the networks learn the springs does not matter here
pytestmark = pytest.mark.filterwarnings("ignore:After .* no better than the composition baseline")
REFITTED = "another reference.*The baseline was refitted"


@pytest.fixture(scope="module")
def X():
    frames = []
    for seed in range(10):
        for name in ("H2O", "CH4", "H2CO", "CH3OH"):
            atoms = molecule(name)
            atoms.rattle(0.03, seed=seed)
            frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def energies(X):
    """Bonds as springs, on top of energies of atoms."""
    binding = [np.sum((atoms.get_all_distances()[0, 1:] - 1.1) ** 2) for atoms in X]
    return np.array(binding) + count(X) @ [-1.0, -30.0, -70.0]


def count(X):
    return np.stack([[list(atoms.numbers).count(z) for z in (1, 6, 8)] for atoms in X])


def make_model(**parameters):
    return SoapBPNNRegressor(**{**SOAP, **NETWORK, **parameters})


def make_pipeline(**parameters):
    return Pipeline(
        [
            ("baseline", CompositionBaseline(warm_start=True)),
            ("scaler", TargetScaler(warm_start=True)),
            ("soap", SoapFeaturizer(**SOAP, warm_start=True)),
            ("bpnn", SoapBPNNRegressor(**NETWORK, warm_start=True, **parameters)),
        ]
    )


@pytest.mark.parametrize("way", ["partial_fit", "warm_start"])
def test_the_baseline_follows(X, energies, way):
    model = make_model(warm_start=True).fit(X[:30], energies[:30])
    before, coef = model.predict(X), model.baseline_.coef_["energy"].copy()
    shifted = energies + count(X) @ SHIFT
    go_on = model.partial_fit if way == "partial_fit" else model.fit
    model.set_params(learning_rate=1e-13, num_epochs=1)
    with pytest.warns(UserWarning, match=REFITTED):
        go_on(X[:30], shifted[:30])
    # the network is the one of before, so that the shift alone has been added
    np.testing.assert_allclose(model.predict(X) - before, count(X) @ SHIFT, atol=0.3)
    np.testing.assert_allclose(model.baseline_.coef_["energy"] - coef, SHIFT, atol=0.3)


def test_the_shift_is_found_exactly(X):
    """A model that is right but for the reference ends with exactly the new one."""
    model = make_model().fit(X, count(X) @ [-1.0, -30.0, -70.0])
    predicted = model.predict(X)
    model.set_params(learning_rate=1e-13, num_epochs=1)
    with pytest.warns(UserWarning, match=REFITTED):
        model.partial_fit(X, predicted + count(X) @ SHIFT)
    np.testing.assert_allclose(model.predict(X), predicted + count(X) @ SHIFT, rtol=1e-9)


def test_one_composition(X, energies):
    """Of one molecule the shift of each element is not known, that of the molecule is."""
    water = slice(0, 40, 4)
    model = make_model().fit(X, energies)
    before = model.predict(X[water])
    model.set_params(learning_rate=1e-13, num_epochs=1)
    with pytest.warns(UserWarning, match=REFITTED):
        model.partial_fit(X[water], before + 50.0)
    np.testing.assert_allclose(model.predict(X[water]), before + 50.0, rtol=1e-9)


@pytest.mark.parametrize("shift", [0.3, 1e4])
def test_a_single_structure(X, energies, shift):
    """Composition explains any one energy, so only what is far off is of another reference."""
    model = make_model().fit(X, energies)
    model.set_params(learning_rate=1e-13, num_epochs=1)
    before = model.predict(X[:1])
    if shift > 1:
        with pytest.warns(UserWarning, match=REFITTED):
            model.partial_fit(X[:1], before + shift)
        np.testing.assert_allclose(model.predict(X[:1]), before + shift, rtol=1e-9)
    else:
        model.partial_fit(X[:1], before + shift)
        np.testing.assert_allclose(model.predict(X[:1]), before, rtol=1e-9)


def test_more_data_of_the_same_reference(X, energies):
    model = make_model().fit(X[:20], energies[:20])
    coef = model.baseline_.coef_["energy"]
    model.partial_fit(X[20:], energies[20:])
    np.testing.assert_array_equal(model.baseline_.coef_["energy"], coef)


def test_weights_that_are_fixed_stay(X, energies):
    fixed = {"H": -1.0, "C": -30.0, "O": -70.0}
    model = make_model(fixed_composition_weights=fixed).fit(X, energies)
    message = "keeps fixed_composition_weights.*Set those of the new reference"
    with pytest.warns(UserWarning, match=message):
        model.partial_fit(X, energies + count(X) @ SHIFT)
    assert model.baseline_.coef_["energy"].tolist() == list(fixed.values())


def test_in_a_pipeline(X, energies):
    """The regressor cannot refit a step of the Pipeline, but says what to do, which works."""
    shifted = energies + count(X) @ SHIFT
    pipe = make_pipeline().fit(X, energies)
    with pytest.warns(UserWarning, match="set warm_start=False on the CompositionBaseline"):
        pipe.fit(X, shifted)
    pipe = make_pipeline().fit(X, energies).set_params(baseline__warm_start=False)
    pipe.fit(X, shifted)
    assert np.abs(pipe.predict(X) - shifted).mean() < 1.0


def test_energies_after_forces_alone(X, energies):
    """Energies that were known up to a constant have no reference to differ from."""
    forces = [np.zeros((len(atoms), 3)) for atoms in X]
    model = make_model(num_epochs=1).fit(X, Targets(forces=forces))
    model.set_params(learning_rate=1e-13)
    model.partial_fit(X, Targets(energy=energies, forces=forces))
    assert np.abs(model.predict(X) - energies).max() < 2.0
    assert model.targets_ == ("forces", "energy")


def test_structures_of_weight_zero_have_no_reference(X, energies):
    """Neither are they what starts a refit, nor do they spoil one."""
    model = make_model().fit(X, energies)
    coef = model.baseline_.coef_["energy"]
    weight = np.arange(len(X)) // 4 % 2 * 1.0  # of every molecule
    wrong = np.where(weight > 0, energies, energies + count(X) @ SHIFT)
    model.partial_fit(X, wrong, sample_weight=weight)
    np.testing.assert_array_equal(model.baseline_.coef_["energy"], coef)
    wrong = np.where(weight > 0, energies + count(X) @ SHIFT, energies)
    with pytest.warns(UserWarning, match=REFITTED):
        model.partial_fit(X, wrong, sample_weight=weight)
    np.testing.assert_allclose(model.baseline_.coef_["energy"] - coef, SHIFT, atol=1.0)


def test_without_a_baseline_there_is_no_reference(X, energies):
    """The network learns all of the energy, and may still be far from it."""
    model = make_model(remove_composition_contribution=False, num_epochs=1).fit(X, energies)
    model.partial_fit(X, energies)
