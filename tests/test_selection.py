"""Choices from small pools whose answer is known, and from pools that cannot be chosen from."""

from itertools import combinations

import numpy as np
import pytest
import sklearn
from ase import Atoms
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Targets,
    TargetScaler,
)
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.selection import select_batch, select_farthest, select_uncertain

SOAP = {"cutoff_radius": 3.0, "max_radial": 2, "max_angular": 1}
SMALL = {**SOAP, "num_neurons_per_layer": 16, "num_epochs": 1, "random_state": 0}


@pytest.fixture(scope="module")
def molecules(shipped_molecules):
    X, y = shipped_molecules
    return X[:60], y[:60]


@pytest.fixture(scope="module")
def fitted(molecules):
    X, y = molecules
    return SoapBPNNRegressor(**SMALL).fit(X[:20], y[:20])


@pytest.fixture
def plane(monkeypatch, fitted):
    """A model of single atoms, linear in their positions.

    These are its last-layer features. Its weights have the unit matrix as their covariance, so the
    covariance of energies is the scalar product of positions.
    """
    draws = np.linalg.qr(np.random.default_rng(0).normal(size=(256, 4)) + [[1e6, 0, 0, 0]])[0][
        :, 1:
    ]

    def predict(self, X, targets, return_std=False, n_samples=None):
        points = np.concatenate(as_structures(X).positions)
        if n_samples is not None:
            assert n_samples == len(draws)
            return [Targets(energy=7.0 + points @ draw) for draw in draws]
        energy, std = np.zeros(len(points)), np.linalg.norm(points, axis=1)
        forces = [np.array([[0.0, 0.0, value]]) for value in std]
        columns = {"energy": std, "forces": forces}
        return Targets(energy=energy), Targets(**{name: columns[name] for name in targets})

    def last_layer_features(self, X):
        return list(as_structures(X).positions)

    monkeypatch.setattr(SoapBPNNRegressor, "predict", predict)
    monkeypatch.setattr(SoapBPNNRegressor, "last_layer_features", last_layer_features)
    return fitted


def atoms_at(points):
    """Return a structure of a single atom for each point."""
    return [Atoms("H", [[*point, 0.0]]) for point in points]


def every_rule(model, X, n, labelled):
    return {
        "batch": select_batch(model, X, n),
        "farthest": select_farthest(model, X, n, labelled=labelled),
        "descriptor": select_farthest(SoapFeaturizer(**SOAP).fit(X), X, n, labelled=labelled),
    }


def test_farthest_points_on_a_line(plane):
    X = atoms_at([(0, 0), (1, 0), (2, 0), (9, 0), (10, 0)])
    chosen = select_farthest(plane, X, 3, labelled=atoms_at([(0.5, 0)]))
    # 10 is far from 0.5; then 2 is 1.5 away from it, and 9, by 1, closer to 10
    assert chosen.tolist() == [4, 2, 3]


def test_the_first_of_all_is_close_to_the_mean(plane):
    X = atoms_at([(0, 0), (10, 0), (4, 0), (5, 4)])
    assert select_farthest(plane, X, 2).tolist() == [2, 1]


def test_distances_between_compositions():
    X = [Atoms("H2", [[0, 0, 0], [0, 0, d]]) for d in (0.7, 0.75, 0.8)] + [Atoms("O2")]
    X[-1].positions[1, 2] = 1.2
    featurizer = SoapFeaturizer(**SOAP).fit(X)
    assert select_farthest(featurizer, X, 1, labelled=X[:1]).tolist() == [3]


def test_the_largest_error_bars(plane):
    X = atoms_at([(1, 0), (0, 3), (2, 0), (0, 2.9)])
    assert select_uncertain(plane, X, 3).tolist() == [1, 3, 2]


def test_error_bars_of_structures_of_several_atoms(monkeypatch, fitted):
    """Energies count per atom, and forces with all their components."""
    X = [Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 1]])]
    energy = Targets(energy=[3.0, 4.0])
    forces = Targets(forces=[[[0.0, 3.0, 4.0]], [[7.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])

    def predict(self, X, targets, return_std):
        return None, {"energy": energy, "forces": forces}[targets[0]]

    monkeypatch.setattr(SoapBPNNRegressor, "predict", predict)
    assert select_uncertain(fitted, X, 1, target="energy").tolist() == [0]
    assert select_uncertain(fitted, X, 1, target="forces").tolist() == [0]
    assert select_uncertain(fitted, X, 1, target="forces", pooling="max").tolist() == [1]


def test_stress_counts_only_where_there_is_a_volume(shipped_alloys):
    X, y = shipped_alloys
    model = SoapBPNNRegressor(**SMALL).fit(X[:12], y[:12])
    pool = [atoms.copy() for atoms in X[12:18]]
    pool[2].set_cell(None)
    pool[2].pbc = False
    for select in (select_batch, select_uncertain):
        assert select(model, pool, 6, target="stress")[-1] == 2
    # of a crystal twice as large, stress and energy per atom are no more and no less uncertain
    pool = [pool[0], pool[1], pool[0] * (2, 1, 1), pool[1] * (2, 1, 1)]
    for target in ("stress", "energy"):
        ranked = select_uncertain(model, pool, 4, target=target) % 2
        assert ranked[0] == ranked[1]


def test_batch_is_not_the_most_uncertain_twice(plane):
    X = atoms_at([(0, 3), (0.1, 3), (2, 0), (0.5, 0)])
    # the second is more uncertain than the first, of which little is left then
    assert select_batch(plane, X, 2).tolist() == [1, 2]
    assert select_uncertain(plane, X, 2).tolist() == [1, 0]


def test_batch_maximises_the_determinant(plane):
    points = np.random.default_rng(1).normal(size=(8, 2)) * [1.0, 2.0]
    K = points @ points.T
    chosen = select_batch(plane, atoms_at(points), 2)
    assert chosen[0] == np.argmax(np.diag(K))
    pairs = {pair: np.linalg.det(K[np.ix_(pair, pair)]) for pair in combinations(range(8), 2)}
    # the best partner of the first
    partners = {pair: value for pair, value in pairs.items() if chosen[0] in pair}
    assert max(partners, key=partners.get) == tuple(sorted(chosen))
    # a greedy choice of n has at least 1 / n!^2 of the largest determinant
    assert partners[tuple(sorted(chosen))] > max(pairs.values()) / 4


def test_more_structures_than_independent_errors(plane):
    """A plane has two directions, so that every third choice starts anew."""
    points = np.random.default_rng(0).normal(size=(7, 2))
    chosen = select_batch(plane, atoms_at([*points, *points]), 14)
    assert sorted(chosen) == [*range(14)]
    assert sorted(chosen[:7] % 7) == [*range(7)]
    # of two directions that are left, both close to those known, the more uncertain one
    X = atoms_at([(9, 0), (0, 9), (1, 0.1), (0.1, 2)])
    assert select_batch(plane, X, 3).tolist()[2] == 3


def test_batch_begins_with_the_most_uncertain(molecules, fitted):
    X, _ = molecules
    for options in ({"target": "energy"}, {"target": "forces"}, {"pooling": "max"}):
        batch = select_batch(fitted, X[20:], 10, **options)
        ranked = select_uncertain(fitted, X[20:], 10, **options)
        assert batch[0] == ranked[0]
        assert batch.tolist() != ranked.tolist()


def test_copies_are_not_chosen_both(molecules, fitted):
    X, _ = molecules
    pool = [*X[20:30], *X[20:30]]
    for rule, chosen in every_rule(fitted, pool, 10, X[:20]).items():
        assert sorted(chosen % 10) == [*range(10)], rule
    # unless nothing else is left
    for rule, chosen in every_rule(fitted, pool, 20, X[:20]).items():
        assert sorted(chosen) == [*range(20)], rule


def test_committees(molecules):
    """Three networks have two independent errors, with which a batch of ten goes on."""
    X, y = molecules
    committee = SoapBPNNRegressor(**SMALL, n_networks=3).fit(X[:20], y[:20])
    pool = [*X[20:30], *X[20:30]]
    for rule, chosen in every_rule(committee, pool, 10, X[:20]).items():
        assert sorted(chosen % 10) == [*range(10)], rule
    chosen = select_batch(committee, pool, 10)
    assert chosen[0] == select_uncertain(committee, pool, 1)[0]


def test_labelled_structures_are_chosen_last(molecules, fitted):
    X, _ = molecules
    chosen = select_farthest(fitted, X[:40], 20, labelled=X[:20])
    assert min(chosen) >= 20


def test_the_order_of_the_pool_does_not_matter(molecules, fitted):
    X, _ = molecules
    order = np.random.default_rng(0).permutation(40)
    chosen = every_rule(fitted, X[20:], 8, X[:20])
    permuted = every_rule(fitted, [X[20 + k] for k in order], 8, X[:20])
    for rule in chosen:
        assert_array_equal(order[permuted[rule]], chosen[rule], err_msg=rule)


def test_a_longer_choice_begins_with_the_shorter(molecules, fitted):
    X, _ = molecules
    short, long = (every_rule(fitted, X[20:], n, X[:20]) for n in (3, 8))
    for rule in short:
        assert_array_equal(long[rule][:3], short[rule], err_msg=rule)


def test_pipelines_and_searches(molecules, fitted):
    X, y = molecules
    steps = CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SOAP)
    own = SoapBPNNRegressor(num_neurons_per_layer=16, num_epochs=1, random_state=0)
    pipe = make_pipeline(*steps, own).fit(X[:20], y[:20])
    search = GridSearchCV(SoapBPNNRegressor(**SMALL), {"num_neurons_per_layer": [16]}, cv=2)
    search.fit(X[:20], y["energy"][:20])
    alone = SoapBPNNRegressor(**SMALL).fit(X[:20], y["energy"][:20])
    for model, same in ((pipe, fitted), (search, alone)):
        for select in (select_batch, select_farthest, select_uncertain):
            assert_array_equal(select(model, X[20:], 5), select(same, X[20:], 5))
    featurizers = make_pipeline(CompositionBaseline(), SoapFeaturizer(**SOAP)).fit(X, y)
    assert_array_equal(select_farthest(featurizers, X, 5), select_farthest(featurizers[-1], X, 5))


@pytest.mark.parametrize("n", [0, 41, 2.0, None])
def test_a_number_that_the_pool_does_not_have(molecules, fitted, n):
    X, _ = molecules
    for select in (select_batch, select_farthest, select_uncertain):
        with pytest.raises(ValueError, match=r"n must be an integer from 1 to 40, .* got"):
            select(fitted, X[20:], n)


def test_elements_that_the_model_does_not_know(molecules, fitted):
    X, _ = molecules
    argon = [Atoms("Ar")]
    featurizer = SoapFeaturizer(**SOAP).fit(X)
    for model in (fitted, featurizer):
        with pytest.raises(ValueError, match=r"X contains elements \['Ar'\]"):
            select_farthest(model, [*X, *argon], 2)
        with pytest.raises(ValueError, match=r"labelled contains elements \['Ar'\]"):
            select_farthest(model, X, 2, labelled=argon)
    for select in (select_batch, select_uncertain):
        with pytest.raises(ValueError, match=r"X contains elements \['Ar'\]"):
            select(fitted, [*X, *argon], 2)


def test_models_that_cannot_choose(molecules, fitted):
    X, y = molecules
    dipoles = Targets(dipole=np.zeros((20, 3)) + np.arange(20.0)[:, None])
    other = SoapBPNNRegressor(**SMALL).fit(X[:20], dipoles)
    for select in (select_batch, select_farthest):
        with pytest.raises(ValueError, match=r"learnt \['dipole'\].* needs a model of the energy"):
            select(other, X, 2)
    assert len(select_uncertain(other, X, 2, target="dipole")) == 2
    for select in (select_batch, select_uncertain):
        with pytest.raises(TypeError, match="SoapBPNNRegressor; it ends in a SoapFeaturizer"):
            select(SoapFeaturizer(**SOAP).fit(X), X, 2)
    with pytest.raises(TypeError, match="it ends in a CompositionBaseline"):
        select_farthest(CompositionBaseline().fit(X, y), X, 2)
    for select in (select_batch, select_farthest, select_uncertain):
        with pytest.raises(NotFittedError):
            select(SoapBPNNRegressor(), X, 2)
    with pytest.raises(NotFittedError):
        select_farthest(SoapFeaturizer(), X, 2)


def test_arguments_of_the_wrong_kind(molecules, fitted):
    X, _ = molecules
    with pytest.raises(ValueError, match="labelled holds no structures"):
        select_farthest(fitted, X, 2, labelled=[])
    for select in (select_batch, select_farthest, select_uncertain):
        with pytest.raises(TypeError, match="X must be a sequence"):
            select(fitted, X[0], 2)
    for select in (select_batch, select_uncertain):
        with pytest.raises(ValueError, match="pooling must be 'max' or 'mean', got 'sum'"):
            select(fitted, X, 2, pooling="sum")
        with pytest.raises(ValueError, match="targets names 'dipole'"):
            select(fitted, X, 2, target="dipole")


@pytest.mark.parametrize("where", ["descriptor", "configuration"])
def test_tables_are_not_what_is_compared(molecules, where):
    """Whatever ``transform`` returns to the user, who may want pooled features."""
    X = molecules[0][:10]
    featurizer = SoapFeaturizer(**SOAP).fit(X)
    expected = select_farthest(featurizer, X, 4)
    if where == "descriptor":
        featurizer.set_output(transform="pandas")
    table = {"transform_output": "pandas"} if where == "configuration" else {}
    with sklearn.config_context(**table):
        assert select_farthest(featurizer, X, 4).tolist() == expected.tolist()
        assert hasattr(featurizer.transform(X), "columns")
