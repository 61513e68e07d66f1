import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, Structures, Targets
from sklearn_soapbpnn.data import as_structures

WEIGHTS = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2040.0}
FORMULAS = ["H2", "CH4", "H2O", "NH3", "CO2", "CH3OH", "N2", "O2"]


@pytest.fixture
def frames():
    return [molecule(name) for name in FORMULAS]


def composition_energies(frames, weights=WEIGHTS):
    return np.array([sum(weights[number] for number in atoms.numbers) for atoms in frames])


def counts_of(frames, elements):
    return np.array([[(atoms.numbers == z).sum() for z in elements] for atoms in frames], float)


def test_recovers_energies_of_elements(frames):
    baseline = CompositionBaseline().fit(frames, composition_energies(frames))
    np.testing.assert_array_equal(baseline.elements_, [1, 6, 7, 8])
    np.testing.assert_allclose(baseline.coef_["energy"], list(WEIGHTS.values()), rtol=1e-12)
    others = [molecule("CH3CH2OH"), molecule("N2H4"), Atoms("O")]
    np.testing.assert_allclose(baseline.predict(others), composition_energies(others), rtol=1e-12)


def test_least_squares_by_hand():
    # two energies for the same composition: the mean
    baseline = CompositionBaseline().fit([Atoms("H2")] * 2, [1.0, 3.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [1.0])


def test_one_composition_gives_the_smallest_weights():
    # 2 e_H + e_O = -10 is closest to zero at -10 (2, 1) / 5
    baseline = CompositionBaseline().fit([molecule("H2O")] * 3, [-10.0] * 3)
    np.testing.assert_allclose(baseline.coef_["energy"], [-4.0, -2.0])
    np.testing.assert_allclose(baseline.predict([molecule("H2O")]), [-10.0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.sampled_from([1, 6, 8]), min_size=1, max_size=5), min_size=1, max_size=6),
    st.integers(0, 1000),
)
def test_equals_the_pseudo_inverse(numbers, seed):
    frames = [Atoms(z) for z in numbers]
    energies = np.random.default_rng(seed).normal(size=len(frames))
    baseline = CompositionBaseline().fit(frames, energies)
    elements = np.unique(np.concatenate(numbers))
    counts = counts_of(frames, elements)
    np.testing.assert_array_equal(baseline.elements_, elements)
    np.testing.assert_allclose(
        baseline.coef_["energy"], np.linalg.pinv(counts) @ energies, atol=1e-9
    )


# --- fixed weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [{"O": -5.0}, {8: -5.0}, {np.int64(8): np.float32(-5.0)}])
def test_fixed_weights_by_symbol_and_number(fixed):
    frames = [molecule("H2O"), molecule("H2O2")]
    baseline = CompositionBaseline(fixed_weights=fixed).fit(frames, [-7.0, -12.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [-1.0, -5.0])


def test_the_rest_is_fitted_around_fixed_weights():
    # with e_O = 0: 2 e_H = 1 and 2 e_H = 3, so e_H = 1
    frames = [molecule("H2O"), molecule("H2O2")]
    baseline = CompositionBaseline({"O": 0.0}).fit(frames, [1.0, 3.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [1.0, 0.0], atol=1e-12)


def test_all_weights_fixed(frames):
    baseline = CompositionBaseline(dict(WEIGHTS)).fit(frames, np.zeros(len(frames)))
    np.testing.assert_array_equal(baseline.coef_["energy"], list(WEIGHTS.values()))


def test_fixed_weights_of_absent_elements_do_not_matter():
    baseline = CompositionBaseline({"H": -1.0, "Cu": -99.0}).fit([molecule("H2")], [-5.0])
    np.testing.assert_array_equal(baseline.elements_, [1])
    np.testing.assert_array_equal(baseline.coef_["energy"], [-1.0])


@pytest.mark.parametrize("element", ["Qq", "h", "hydrogen", 500, -1, 1.5, None])
def test_no_element(element):
    with pytest.raises(ValueError, match="no chemical element") as info:
        CompositionBaseline({element: 0.0}).fit([Atoms("H")], [0.0])
    assert repr(element) in str(info.value)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf, "low", None, [1.0]])
def test_weight_is_no_number(weight):
    with pytest.raises(ValueError, match=r"fixed_weights\['H'\] must be a finite number") as info:
        CompositionBaseline({"H": weight}).fit([Atoms("H")], [0.0])
    assert repr(weight) in str(info.value)


def test_weights_must_be_a_mapping():
    with pytest.raises(ValueError, match="'fixed_weights' parameter of CompositionBaseline"):
        CompositionBaseline([0.0]).fit([Atoms("H")], [0.0])


# --- weights and labels --------------------------------------------------------------------------


def test_weight_two_is_the_structure_twice(frames):
    rng = np.random.default_rng(0)
    energies = rng.normal(size=len(frames))
    repeats = rng.integers(0, 4, size=len(frames))
    repeats[:5] += 1  # every element stays
    weighted = CompositionBaseline().fit(frames, energies, sample_weight=repeats)
    many = [atoms for atoms, n in zip(frames, repeats) for _ in range(n)]
    repeated = CompositionBaseline().fit(many, np.repeat(energies, repeats))
    np.testing.assert_allclose(weighted.coef_["energy"], repeated.coef_["energy"], atol=1e-10)


def test_weights_by_hand():
    baseline = CompositionBaseline()
    baseline.fit([Atoms("H")] * 2, [0.0, 4.0], sample_weight=[3.0, 1.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [1.0])


def test_unlabelled_structures_are_left_out():
    frames = [Atoms("H"), Atoms("H2"), Atoms("O")]
    y = Targets(energy=[-1.0, np.nan, -5.0])
    baseline = CompositionBaseline().fit(frames, y, sample_weight=[1.0, 100.0, 1.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [-1.0, -5.0])


def test_element_of_unlabelled_structures_is_known_with_weight_zero():
    baseline = CompositionBaseline().fit([Atoms("H"), Atoms("O")], Targets(energy=[-1.0, np.nan]))
    np.testing.assert_array_equal(baseline.elements_, [1, 8])
    np.testing.assert_allclose(baseline.predict([molecule("H2O")]), [-2.0])


def test_needs_a_target_that_is_learnt_by_itself():
    y = Targets(forces=[np.zeros((1, 3))])
    with pytest.raises(
        ValueError, match=r"learnt by itself, such as 'energy', it has \['forces'\]"
    ):
        CompositionBaseline().fit([Atoms("H")], y)


# --- as a step -----------------------------------------------------------------------------------


def test_transform_attaches_the_prediction(frames):
    energies = composition_energies(frames)
    baseline = CompositionBaseline().fit(frames, energies)
    structures = baseline.transform(frames)
    assert isinstance(structures, Structures)
    np.testing.assert_allclose(structures.offset["energy"], energies)
    np.testing.assert_array_equal(structures.offset["energy"], baseline.predict(frames))


def test_fit_learns_what_the_offset_leaves():
    structures = as_structures([Atoms("H"), Atoms("H2")]).with_offset("energy", [10.0, 20.0])
    baseline = CompositionBaseline().fit(structures, [9.0, 18.0])
    np.testing.assert_allclose(baseline.coef_["energy"], [-1.0])
    offset = baseline.transform(structures).offset["energy"]
    np.testing.assert_allclose(offset, [9.0, 18.0])


def test_two_baselines_subtract_nothing_twice(frames):
    energies = composition_energies(frames) + np.random.default_rng(0).normal(size=len(frames))
    first = CompositionBaseline({"H": -10.0, "C": -1000.0, "N": -1400.0, "O": -2000.0})
    pipe = make_pipeline(first, CompositionBaseline()).fit(frames, energies)
    single = CompositionBaseline().fit(frames, energies)
    np.testing.assert_allclose(
        pipe[-1].coef_["energy"], single.coef_["energy"] - pipe[0].coef_["energy"], rtol=1e-9
    )
    both = pipe.transform(frames).offset["energy"]
    np.testing.assert_allclose(both, single.predict(frames), rtol=1e-12)
    # a third one finds nothing left
    rest = CompositionBaseline().fit(pipe.transform(frames), energies)
    np.testing.assert_allclose(rest.coef_["energy"], 0.0, atol=1e-9)


def test_is_a_regressor(frames):
    energies = composition_energies(frames) + np.arange(len(frames)) ** 2
    baseline = CompositionBaseline().fit(frames, energies)
    expected = r2_score(energies, baseline.predict(frames))
    assert is_regressor(baseline)
    assert 0.9 < expected < 1.0
    assert baseline.score(frames, energies) == expected
    assert baseline.score(frames, Targets(energy=energies)) == expected


@pytest.mark.parametrize("method", ["predict", "transform"])
def test_unseen_element(method):
    baseline = CompositionBaseline().fit([molecule("H2O")], [-10.0])
    message = r"elements \['C', 'N'\] absent from fit, which saw \['H', 'O'\]. Refit"
    with pytest.raises(ValueError, match=message):
        getattr(baseline, method)([molecule("H2O"), molecule("HCN")])


@pytest.mark.parametrize("method", ["predict", "transform"])
def test_not_fitted(method):
    with pytest.raises(NotFittedError):
        getattr(CompositionBaseline(), method)([Atoms("H")])


def test_takes_what_structures_are_read_from(frames):
    energies = composition_energies(frames)
    for X in (tuple(frames), as_structures(frames), (atoms for atoms in frames)):
        baseline = CompositionBaseline().fit(X, energies)
        np.testing.assert_allclose(baseline.coef_["energy"], list(WEIGHTS.values()), rtol=1e-12)
    transformed = baseline.transform(atoms for atoms in frames)
    np.testing.assert_allclose(transformed.offset["energy"], energies)


def test_clone_and_pickle(frames):
    baseline = CompositionBaseline({"H": -13.6})
    assert clone(baseline).get_params() == {"fixed_weights": {"H": -13.6}}
    baseline.fit(frames, composition_energies(frames))
    back = pickle.loads(pickle.dumps(baseline))
    np.testing.assert_array_equal(back.predict(frames), baseline.predict(frames))


def test_fit_does_not_touch_its_arguments(frames):
    fixed, energies = {"H": -1.0}, composition_energies(frames)
    before = energies.copy()
    baseline = CompositionBaseline(fixed).fit(frames, energies)
    assert baseline.fixed_weights is fixed
    assert fixed == {"H": -1.0}
    np.testing.assert_array_equal(energies, before)
