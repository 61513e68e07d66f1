"""Targets joined and rearranged: no column is lost in silence."""

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.metrics import (
    make_scorer,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    root_mean_squared_error,
)
from sklearn.model_selection import KFold, cross_val_predict, cross_val_score
from sklearn.utils import resample, shuffle

from sklearn_soapbpnn import TargetKind, Targets

COUNTS = (3, 1, 2, 5)
KINDS = {"levels": TargetKind.scalar(2, unit="eV"), "shift": TargetKind.scalar(per_atom=True)}
ENERGY = np.array([4.0, 1.0, 3.0, 2.0])


@pytest.fixture
def y():
    """Every value says to which structure it belongs."""
    per_atom = [np.full(n, 10.0 * k) for k, n in enumerate(COUNTS)]
    return Targets(
        kinds=KINDS,
        energy=ENERGY,
        forces=[np.full((n, 3), float(k)) for k, n in enumerate(COUNTS)],
        levels=np.stack([ENERGY, -ENERGY], axis=1),
        shift=per_atom,
    )


def assert_are(found, y, places):
    """Check that structures are those of ``y`` at some places, in all columns."""
    assert isinstance(found, Targets)
    assert found.names == y.names
    assert found.kinds == y.kinds
    assert found.units == y.units
    assert len(found) == len(places)
    for name in y.names:
        for values, place in zip(found[name], places, strict=True):
            np.testing.assert_array_equal(values, y[name][place])


JOINED = {
    "method": Targets.concatenate,
    "generator": lambda parts: Targets.concatenate(part for part in parts),
    "concatenate": np.concatenate,
    "along the structures": lambda parts: np.concatenate(tuple(parts), axis=0),
    "from the end": lambda parts: np.concatenate(parts, -1),
    "hstack": np.hstack,
}


@pytest.mark.parametrize("join", JOINED.values(), ids=JOINED)
def test_joined(y, join):
    assert_are(join([y[[3, 0]], y[:0], y[1:2]]), y, [3, 0, 1])
    assert_are(join([y]), y, range(4))
    assert_are(join([y[:0]] * 2), y, [])


def test_appended(y):
    assert_are(np.append(y[2:], y[:2]), y, [2, 3, 0, 1])


def test_folds_are_put_together_again(y):
    folds = [test for _, test in KFold(3).split(y)]
    assert_are(np.concatenate([y[fold] for fold in folds]), y, range(4))


def test_joined_targets_are_independent(y):
    joined = np.concatenate([y, y])
    joined["energy"][0] = 99.0
    assert y["energy"][0] == 4.0


def test_columns_in_another_order(y):
    other = y.select(["shift", "forces", "energy", "levels"])
    assert_are(np.concatenate([y[:2], other[2:]]), y, range(4))


def declare_again(y, kind):
    """The same values, but the levels are of another kind."""
    return Targets(kinds={**KINDS, "levels": kind}, **{name: y[name] for name in y.names})


@pytest.mark.parametrize("join", [Targets.concatenate, np.concatenate])
def test_what_cannot_be_joined(y, join):
    message = r"same columns, but number 0 has \['energy', 'forces'.*number 1 has \['energy'\]"
    with pytest.raises(ValueError, match=message + r".*select\(names\).*NaN"):
        join([y, y.select(["energy"])])
    message = r"'levels' is .*'eV'\) in number 0 and .*'Ha'\) in number 2.*kinds=\{'levels'"
    with pytest.raises(ValueError, match=message):
        join([y, y, declare_again(y, TargetKind.scalar(2, unit="Ha"))])
    pseudoscalar = TargetKind.spherical([(0, 1), (0, -1)], unit="eV")
    with pytest.raises(ValueError, match="same kinds and units, but 'levels'"):
        join([declare_again(y, pseudoscalar), y])
    for array in (ENERGY, [1.0]):
        with pytest.raises(TypeError, match="number 1 has the type .*Pass Targets"):
            join([y, array])
        with pytest.raises(TypeError, match="number 0 has the type"):
            join([array, y])


def test_nothing_to_join(y):
    with pytest.raises(ValueError, match="no Targets to join"):
        Targets.concatenate([])
    with pytest.raises(TypeError, match="number 0 has the type dict"):
        Targets.concatenate(y)
    with pytest.raises(np.exceptions.AxisError):
        np.concatenate([y, y], axis=1)


REARRANGED = {
    "take": (lambda y: np.take(y, [2, 2, 0]), [2, 2, 0]),
    "take by name": (lambda y: np.take(a=y, indices=[1], axis=0), [1]),
    "delete": (lambda y: np.delete(y, [1, 3]), [0, 2]),
    "repeat": (lambda y: np.repeat(y, 2), [0, 0, 1, 1, 2, 2, 3, 3]),
    "tile": (lambda y: np.tile(y, 2), [0, 1, 2, 3, 0, 1, 2, 3]),
    "resize": (lambda y: np.resize(y, 6), [0, 1, 2, 3, 0, 1]),
    "flip": (np.flip, [3, 2, 1, 0]),
    "roll": (lambda y: np.roll(y, 1), [3, 0, 1, 2]),
    "compress": (lambda y: np.compress([True, False, True], y), [0, 2]),
    "extract": (lambda y: np.extract([0, 0, 1, 1], y), [2, 3]),
    "shuffle": (lambda y: shuffle(y, random_state=1), [3, 2, 0, 1]),
    "resample": (lambda y: resample(y, n_samples=3, random_state=0), [0, 3, 1]),
}


@pytest.mark.parametrize("case", REARRANGED)
def test_rearranged(y, case):
    rearrange, places = REARRANGED[case]
    assert_are(rearrange(y), y, places)


@pytest.mark.parametrize("split", [lambda y: np.array_split(y, 3), lambda y: np.split(y, [2, 3])])
def test_split(y, split):
    parts = split(y)
    assert len(parts) == 3
    for part, places in zip(parts, ([0, 1], [2], [3]), strict=True):
        assert_are(part, y, places)


@pytest.mark.parametrize(
    "join",
    [
        *(np.vstack, np.stack, np.column_stack, np.dstack, np.block),
        lambda parts: np.stack([parts[0], ENERGY]),
        lambda parts: np.insert(parts[0], 0, 1.0),
    ],
)
def test_another_axis(y, join):
    with pytest.raises(TypeError, match=r"cannot join Targets.*Targets\.concatenate.*np\.asarray"):
        join([y, y])


def test_plus(y):
    with pytest.raises(TypeError, match=r"joined or added by \+.*Targets\.concatenate.*asarray"):
        y + y
    np.testing.assert_array_equal(y + ENERGY, 2 * ENERGY)
    np.testing.assert_array_equal(ENERGY - y, 0 * ENERGY)


# --- what takes numbers gets them ----------------------------------------------------------------


def test_numbers_of_targets(y):
    for function in (np.mean, np.std, np.unique, np.sort, np.ravel, np.copy, np.cumsum, np.isnan):
        np.testing.assert_array_equal(function(y), function(ENERGY))
    np.testing.assert_array_equal(np.average(y, weights=ENERGY), np.average(ENERGY, weights=ENERGY))
    np.testing.assert_array_equal(np.where(ENERGY > 2, y, 0.0), np.where(ENERGY > 2, ENERGY, 0.0))
    np.testing.assert_array_equal(np.array_equal(y, ENERGY), True)
    assert np.shape(y) == (4,)
    assert np.ndim(y) == 1
    assert np.shape(y.select(["forces"])) == (4,)
    with pytest.raises(ValueError, match="has no scalar column.*not an array"):
        np.mean(y.select(["forces"]))


def test_metrics_of_scikit_learn(y):
    predicted = ENERGY[::-1]
    for metric in (mean_absolute_error, mean_squared_error, root_mean_squared_error, r2_score):
        assert metric(y, predicted) == metric(ENERGY, predicted)
        assert metric(y, y[::-1]) == metric(ENERGY, predicted)


def test_estimators_of_scikit_learn(y):
    X, scorer = np.zeros((4, 1)), make_scorer(mean_absolute_error)
    for call in (
        lambda y: DummyRegressor().fit(X, y).predict(X),
        lambda y: cross_val_score(DummyRegressor(), X, y, cv=2, scoring=scorer),
        lambda y: cross_val_predict(DummyRegressor(), X, y, cv=2),
    ):
        np.testing.assert_array_equal(call(y), call(ENERGY))
