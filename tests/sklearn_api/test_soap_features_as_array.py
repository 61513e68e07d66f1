"""Pooled features as an array, in steps that know nothing of Atoms."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from soapbpnn_cases import SOAP
from soapbpnn_cases import make_pipeline as make_four_steps

from sklearn_soapbpnn import SoapFeaturizer


def pool_by_hand(structures, pooling):
    blocks = np.split(structures.per_atom(), np.cumsum(structures.n_atoms)[:-1])
    return np.stack([getattr(block, pooling)(axis=0) for block in blocks])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_pooling(data, pooling, dtype):
    X, _ = data
    structures = SoapFeaturizer(**SOAP, pooling=pooling, dtype=dtype).fit_transform(X)
    pooled = np.asarray(structures)
    assert pooled.shape == structures.shape
    assert len(pooled) == len(structures) == len(X)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    expected = pool_by_hand(structures, pooling)
    assert_allclose(pooled, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_the_arrays(crystals, pooling, dtype):
    structures = SoapFeaturizer(**SOAP, pooling=pooling, dtype=dtype).fit_transform(crystals[0])
    assert structures.per_atom().dtype == dtype
    assert np.asarray(structures).dtype == dtype
    assert np.asarray(structures, dtype=np.float16).dtype == np.float16


def test_per_atom_rows_are_the_atoms(data):
    X, _ = data
    featurizer = SoapFeaturizer(**SOAP).fit(X)
    everything = featurizer.transform(X).per_atom()
    assert everything.shape == (sum(map(len, X)), len(featurizer.get_feature_names_out()))
    alone = np.concatenate([featurizer.transform([atoms]).per_atom() for atoms in X])
    assert_array_equal(everything, alone)
    # atoms that are swapped swap their rows
    swapped = X[0][::-1]
    assert_allclose(
        featurizer.transform([swapped]).per_atom(), everything[: len(X[0])][::-1], atol=1e-5
    )


@pytest.mark.parametrize("key", [slice(1, 7, 2), [3, 0, 3], np.arange(8) % 2 == 0, [-1]])
def test_slices_of_features(crystals, key):
    structures = SoapFeaturizer(**SOAP).fit_transform(crystals[0])
    assert_array_equal(np.asarray(structures[key]), np.asarray(structures)[key])
    indices = np.arange(len(structures))[key]
    blocks = np.split(structures.per_atom(), np.cumsum(structures.n_atoms)[:-1])
    assert_array_equal(structures[key].per_atom(), np.concatenate([blocks[i] for i in indices]))


@pytest.mark.parametrize(
    "last",
    [
        Ridge(alpha=0.1),
        PCA(n_components=2, random_state=0),
        StandardScaler(),
        KMeans(n_clusters=2, n_init=2, random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_steps_of_sklearn_take_the_features(data, last):
    X, y = data
    array = np.asarray(SoapFeaturizer(**SOAP, dtype="float64").fit_transform(X))
    pipe = make_pipeline(SoapFeaturizer(**SOAP, dtype="float64"), clone(last)).fit(X, y)
    expected = clone(last).fit(array, y)
    for method in ("predict", "transform"):
        if hasattr(last, method):
            assert_array_equal(getattr(pipe, method)(X), getattr(expected, method)(array))


def test_chain_of_steps_in_a_search(molecules):
    X, y = molecules
    chain = [StandardScaler(), PCA(n_components=2, random_state=0), Ridge()]
    grid = {"ridge__alpha": [0.1, 10.0]}
    array = np.asarray(SoapFeaturizer(**SOAP, dtype="float64").fit_transform(X))
    expected = GridSearchCV(make_pipeline(*chain), grid, cv=2).fit(array, np.asarray(y))
    search = GridSearchCV(
        make_pipeline(SoapFeaturizer(**SOAP, dtype="float64"), *chain), grid, cv=2
    ).fit(X, y)
    assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert_array_equal(search.predict(X), expected.predict(array))


def test_ridge_in_cross_validation(molecules):
    X, y = molecules
    pipe = make_pipeline(SoapFeaturizer(**SOAP, dtype="float64"), Ridge())
    array = np.asarray(SoapFeaturizer(**SOAP, dtype="float64").fit_transform(X))
    assert_array_equal(
        cross_val_score(pipe, X, y, cv=3), cross_val_score(Ridge(), array, np.asarray(y), cv=3)
    )


def test_feature_union(data):
    X, _ = data
    short, long = SoapFeaturizer(**SOAP), SoapFeaturizer(**{**SOAP, "cutoff_radius": 5.0})
    union = FeatureUnion([("short", short), ("long", long)])
    expected = np.hstack([np.asarray(clone(step).fit_transform(X)) for step in (short, long)])
    assert_array_equal(union.fit_transform(X), expected)
    names = union.get_feature_names_out()
    assert len(names) == len(set(names)) == expected.shape[1]


def test_feature_names(crystals):
    featurizer = SoapFeaturizer(**SOAP).fit(crystals[0])
    names = featurizer.get_feature_names_out()
    assert names.dtype == object
    assert len(names) == len(set(names))
    assert {name.split("_")[0] for name in names} == {"l0", "l1", "l2"}
    elements = {channel.rstrip("0123456789") for name in names for channel in name.split("_")[1:]}
    assert elements == {"Cu", "Au"}


def test_feature_names_say_which_element(crystals):
    """Features of pairs with gold vanish where there is no gold, and the others do not."""
    X, _ = crystals
    copper = [atoms for atoms in X if set(atoms.symbols) == {"Cu"}]
    table = SoapFeaturizer(**SOAP).fit(X).set_output(transform="pandas").transform(copper)
    gold = [name for name in table.columns if "Au" in name]
    assert 0 < len(gold) < table.shape[1]
    assert (table[gold] == 0).all(axis=None)
    assert (table.drop(columns=gold) != 0).all(axis=None)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_pandas_output(data, pooling):
    X, _ = data
    featurizer = SoapFeaturizer(**SOAP, pooling=pooling)
    array = np.asarray(clone(featurizer).fit_transform(X))
    table = featurizer.set_output(transform="pandas").fit_transform(X)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(featurizer.get_feature_names_out())
    assert_array_equal(table.to_numpy(), array)
    # and back again
    structures = featurizer.set_output(transform="default").transform(X)
    assert_array_equal(np.asarray(structures), array)
    with sklearn.config_context(transform_output="pandas"):
        other = SoapFeaturizer(**SOAP, pooling=pooling)
        assert other.fit_transform(X).equals(table)


def test_pandas_output_behind_baseline_and_scaler(data):
    X, y = data
    front = make_four_steps()[:3]
    expected = np.asarray(clone(front).fit_transform(X, y))
    table = front.set_output(transform="pandas").fit_transform(X, y)
    assert_array_equal(table.to_numpy(), expected)
    assert list(table.columns) == list(front["soap"].get_feature_names_out())
    with sklearn.config_context(transform_output="pandas"):
        assert clone(front).fit_transform(X, y).equals(table)


def test_feature_names_of_a_pipeline_with_baseline_and_scaler(crystals):
    front = make_four_steps()[:3].fit(*crystals)
    assert_array_equal(front.get_feature_names_out(), front["soap"].get_feature_names_out())


def test_pandas_output_reaches_the_next_step(crystals):
    X, y = crystals
    pipe = make_pipeline(SoapFeaturizer(**SOAP), Ridge()).set_output(transform="pandas").fit(X, y)
    assert_array_equal(pipe[-1].feature_names_in_, pipe[0].get_feature_names_out())


def test_structures_without_features_are_no_array(crystals):
    X, y = crystals
    front = make_four_steps()[:2].fit_transform(X, y)
    for use in (np.asarray, lambda structures: structures.per_atom(), Ridge().fit):
        arguments = (front, np.asarray(y)) if use.__name__ == "fit" else (front,)
        with pytest.raises(ValueError, match="carry no features.*SoapFeaturizer"):
            use(*arguments)


def test_elements_that_fit_never_saw(molecules, crystals):
    featurizer = SoapFeaturizer(**SOAP).fit(crystals[0])
    with pytest.raises(ValueError, match=r"\['H', 'C', 'O'\].*\['Cu', 'Au'\].*Refit"):
        featurizer.transform(molecules[0])
