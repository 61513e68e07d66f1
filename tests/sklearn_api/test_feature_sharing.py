"""Each structure is featurised once, whoever asks."""

import pickle
import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
from ase.calculators.emt import EMT
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV
from soapbpnn_cases import (
    SOAP,
    CountingFeaturizer,
    make_pipeline,
    make_regressor,
    name_positions,
    read_log,
    select_targets,
)

from sklearn_soapbpnn import SoapFeaturizer
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.descriptors._store import DiskStore, MemoryStore, _process_store

GRID = {"bpnn__num_neurons_per_layer": [4, 8]}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "computed.txt"


def names_of(X):
    return sorted(name_positions(atoms.positions) for atoms in X)


def make_search(log, memory=None, **parameters):
    soap = {"log": str(log), "memory": memory}
    pipe = make_pipeline(featurizer=CountingFeaturizer, soap=soap)
    return GridSearchCV(pipe, GRID, cv=2, **parameters)


def featurize(X, **parameters):
    return np.asarray(SoapFeaturizer(**SOAP, **parameters).fit_transform(X))


def test_search_computes_each_structure_once(data, log):
    X, y = data
    search = make_search(log).fit(X, y)
    assert sorted(read_log(log)) == names_of(X)
    search.predict(X)
    assert len(read_log(log)) == len(X)
    expected = GridSearchCV(make_pipeline(), GRID, cv=2).fit(X, y)
    assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )


def test_processes_compute_each_structure_once(molecules, log, tmp_path):
    X, y = molecules
    with joblib.parallel_config("multiprocessing"):
        search = make_search(log, str(tmp_path / "store"), n_jobs=2).fit(X, y)
    assert sorted(read_log(log)) == names_of(X)
    expected = GridSearchCV(make_pipeline(), GRID, cv=2).fit(X, y)
    assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert_array_equal(search.predict(X), expected.predict(X))


def test_threads_compute_each_structure_once(crystals, log):
    X, y = crystals
    with joblib.parallel_config("threading"):
        make_search(log, n_jobs=2).fit(X, y)
    assert sorted(read_log(log)) == names_of(X)


ENCODINGS = ["orthogonal", "alchemical"]


def test_encodings_of_the_species_share_the_features(everything, log):
    X, y = everything
    y = select_targets(y, ["energy", "dipole"])
    pipe = make_pipeline(featurizer=CountingFeaturizer, soap={"log": str(log)})
    grid = {"bpnn__species_encoding": ENCODINGS, "bpnn__long_range": [False, True]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    assert sorted(read_log(log)) == names_of(X)
    assert len(set(search.cv_results_["mean_test_score"])) == 4


def test_encodings_of_a_bare_regressor_share_the_features(crystals, monkeypatch):
    X, y = crystals
    compute, computed = SoapFeaturizer._compute, []

    def count(self, structures):
        computed.extend(map(name_positions, structures.positions))
        return compute(self, structures)

    monkeypatch.setattr(SoapFeaturizer, "_compute", count)
    grid = {"species_encoding": ENCODINGS, "zbl": [False, True]}
    GridSearchCV(make_regressor(), grid, cv=2).fit(X, y)
    assert sorted(computed) == names_of(X)


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_no_geometry_does_not_matter(molecules, log, tmp_path, on_disk):
    X, _ = molecules
    memory = str(tmp_path / "store") if on_disk else None
    CountingFeaturizer(**SOAP, log=str(log), memory=memory).fit_transform(X)
    n_computed = len(read_log(log))
    attached = []
    for i, atoms in enumerate(X):
        atoms = atoms.copy()
        atoms.calc = EMT()
        atoms.info["note"] = i
        atoms.arrays["charge"] = np.full(len(atoms), float(i))
        attached.append(atoms)
    CountingFeaturizer(**SOAP, log=str(log), memory=memory).fit_transform(attached)
    assert len(read_log(log)) == n_computed == len(X)


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__iadd__(1e-10),
        lambda atoms: atoms.set_cell(atoms.cell.array * 1.001),
        lambda atoms: atoms.set_pbc([True, True, False]),
        lambda atoms: atoms.set_atomic_numbers(79 + 0 * atoms.numbers),
    ],
    ids=["positions", "cell", "pbc", "numbers"],
)
def test_what_is_geometry_does(crystals, log, change):
    X, _ = crystals
    featurizer = CountingFeaturizer(**SOAP, log=str(log)).fit(X)
    featurizer.transform(X[:1])
    changed = X[0].copy()
    change(changed)
    assert_array_equal(
        featurizer.transform([changed]).per_atom(),
        SoapFeaturizer(**SOAP).fit(X).transform([changed]).per_atom(),
    )
    assert len(read_log(log)) == 2


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("cutoff_radius", 3.5),
        ("cutoff_width", 0.4),
        ("max_radial", 3),
        ("max_angular", 1),
        ("dtype", "float64"),
    ],
)
def test_parameters_are_part_of_the_key(crystals, log, parameter, value):
    X, _ = crystals
    CountingFeaturizer(**SOAP, log=str(log)).fit_transform(X)
    changed = {**SOAP, parameter: value}
    features = np.asarray(CountingFeaturizer(**changed, log=str(log)).fit_transform(X))
    assert len(read_log(log)) == 2 * len(X)
    _process_store.clear()
    assert_array_equal(features, np.asarray(SoapFeaturizer(**changed).fit_transform(X)))


def test_pooling_is_not_part_of_the_key(crystals, log):
    X, _ = crystals
    for pooling in ("mean", "sum"):
        CountingFeaturizer(**SOAP, pooling=pooling, log=str(log)).fit_transform(X)
    assert len(read_log(log)) == len(X)


def test_equal_structures_are_computed_once(crystals, log):
    X, _ = crystals
    twice = [*X, *(atoms.copy() for atoms in X)]
    features = np.asarray(CountingFeaturizer(**SOAP, log=str(log)).fit_transform(twice))
    assert len(read_log(log)) == len(X)
    assert_array_equal(features[: len(X)], features[len(X) :])


def test_bare_regressor_and_pipeline_share(molecules, log):
    """What one of them computes, the other finds."""
    X, y = molecules
    make_regressor().fit(X, y)
    make_pipeline(featurizer=CountingFeaturizer, soap={"log": str(log)}).fit(X, y)
    assert read_log(log) == []


def test_caller_cannot_change_the_store(crystals):
    X, _ = crystals
    before = featurize(X).copy()
    structures = SoapFeaturizer(**SOAP).fit_transform(X)
    structures.per_atom()[:] = 7.0
    np.asarray(structures)[:] = 7.0
    assert_array_equal(featurize(X), before)


@pytest.mark.parametrize("kind", [str, lambda path: path, "joblib"], ids=["str", "path", "joblib"])
def test_memory_is_kept_between_runs(crystals, log, tmp_path, kind):
    X, _ = crystals
    store = tmp_path / "store"
    memory = joblib.Memory(store, verbose=0) if kind == "joblib" else kind(store)
    first = CountingFeaturizer(**SOAP, log=str(log), memory=memory).fit_transform(X)
    assert sorted(read_log(log)) == names_of(X)
    again = CountingFeaturizer(**SOAP, log=str(log), memory=str(store)).fit_transform(X)
    assert len(read_log(log)) == len(X)
    assert_array_equal(np.asarray(first), np.asarray(again))
    assert_array_equal(np.asarray(first), featurize(X))
    assert list(store.rglob("*.npy"))


def test_memory_without_a_folder_is_the_process(crystals, log):
    X, _ = crystals
    for memory in (joblib.Memory(None), None):
        CountingFeaturizer(**SOAP, log=str(log), memory=memory).fit_transform(X)
    assert len(read_log(log)) == len(X)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"no array" * 20,
    ],
    ids=["truncated", "header", "empty", "garbage"],
)
def test_damaged_files_are_computed_again(crystals, tmp_path, damage):
    """A full disk or a killed copy leaves partial files; they are no reason to fail."""
    X, _ = crystals
    expected = featurize(X, memory=tmp_path)
    for path in list(tmp_path.rglob("*.npy"))[::2]:
        path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert_array_equal(featurize(X, memory=tmp_path), expected)
    assert all(np.load(path).size for path in tmp_path.rglob("*.npy"))


def count_bytes(structures):
    return len(pickle.dumps(structures))


def test_features_stay_on_disk(crystals, tmp_path):
    """What is handed on are paths, so that data may be larger than memory."""
    X, _ = crystals
    bare = count_bytes(as_structures(X))
    in_memory = SoapFeaturizer(**SOAP).fit_transform(X)
    on_disk = SoapFeaturizer(**SOAP, memory=tmp_path).fit_transform(X)
    per_structure = (count_bytes(on_disk) - bare) / len(X)
    assert per_structure < 300 < (count_bytes(in_memory) - bare) / len(X)
    assert all(Path(path).is_relative_to(tmp_path) for path in on_disk.features.expansions)
    for part in (slice(None), [3, 1], np.arange(8) % 2 == 0):
        assert_array_equal(on_disk[part].per_atom(), in_memory[part].per_atom())
        assert_array_equal(np.asarray(on_disk[part]), np.asarray(in_memory[part]))
    assert_array_equal(
        pickle.loads(pickle.dumps(on_disk)).per_atom(),
        pickle.loads(pickle.dumps(in_memory)).per_atom(),
    )
    assert on_disk.shape == in_memory.shape
    assert len(_process_store._arrays) == len(X)  # those of in_memory


def test_files_are_not_written_to(crystals, tmp_path):
    X, _ = crystals
    structures = SoapFeaturizer(**SOAP, memory=tmp_path).fit_transform(X)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npy")}
    structures.per_atom()[:] = 7.0
    np.asarray(structures)[:] = 7.0
    make_pipeline(soap={"memory": tmp_path}).fit(X, np.arange(len(X), dtype=float))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.npy")} == before


def test_fits_on_features_on_disk(everything, tmp_path):
    X, y = everything
    for bpnn in ({}, {"species_encoding": "alchemical"}):
        expected = make_pipeline(bpnn=bpnn).fit(X, y)
        pipe = make_pipeline(soap={"memory": tmp_path}, bpnn=bpnn).fit(X, y)
        for name in ("energy", "forces", "stress", "dipole"):
            there, here = (model.predict(X, targets=[name])[name] for model in (pipe, expected))
            for values, other in zip(there, here, strict=True):
                assert_array_equal(values, other)


def test_folder_that_is_deleted_before_fit(crystals, tmp_path):
    """The paths lead nowhere; the error has to name one of them."""
    X, y = crystals
    pipe = make_pipeline(soap={"memory": tmp_path / "store"})
    structures = pipe[:-1].fit_transform(X, y)
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "store")):
        pipe[-1].fit(structures, y)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "store")):
        structures.per_atom()
    # the whole Pipeline computes what is missing
    assert_array_equal(pipe.fit(X, y).predict(X), make_pipeline().fit(X, y).predict(X))


class Counter:
    """Arrays of 800 bytes that say what they were made for."""

    def __init__(self):
        self.made = []

    def fetch(self, store, keys):
        def compute(positions):
            self.made += [keys[position] for position in positions]
            return [np.full(100, float(ord(keys[position]))) for position in positions]

        for key, entry in zip(keys, store.fetch(list(keys), compute), strict=True):
            # a store on disk hands out paths
            array = np.load(entry) if isinstance(store, DiskStore) else entry
            assert_array_equal(array, np.full(100, float(ord(key))))


def test_memory_store_forgets_the_least_recently_used():
    counter, store = Counter(), MemoryStore(limit=3 * 800)
    counter.fetch(store, "abc")
    counter.fetch(store, "a")  # now b is the oldest
    counter.fetch(store, "d")
    assert counter.made == list("abcd")
    counter.fetch(store, "acd")
    assert counter.made == list("abcd")
    counter.fetch(store, "b")
    assert counter.made == list("abcdb")


def test_memory_store_smaller_than_one_request():
    counter, store = Counter(), MemoryStore(limit=2 * 800)
    counter.fetch(store, "abcde")
    counter.fetch(store, "de")
    assert counter.made == list("abcde")
    nothing = MemoryStore(limit=0)
    for _ in range(2):
        counter.fetch(nothing, "x")
    assert counter.made == list("abcdexx")


def test_clear_forgets_everything(crystals, log):
    X, _ = crystals
    featurizer = CountingFeaturizer(**SOAP, log=str(log)).fit(X)
    featurizer.transform(X)
    _process_store.clear()
    featurizer.transform(X)
    assert len(read_log(log)) == 2 * len(X)


def test_store_that_is_too_small_changes_nothing_but_time(molecules, monkeypatch):
    X, y = molecules
    expected = make_pipeline().fit(X, y).predict(X)
    _process_store.clear()
    monkeypatch.setattr(_process_store, "limit", 1)
    assert_array_equal(make_pipeline().fit(X, y).predict(X), expected)


@pytest.mark.parametrize("keys", ["aab", "baab", "a"])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_repeated_keys(keys, kind, tmp_path):
    counter = Counter()
    store = MemoryStore(2**20) if kind == "memory" else DiskStore(tmp_path)
    for _ in range(2):
        counter.fetch(store, keys)
    assert sorted(counter.made) == sorted(set(keys))


def test_error_while_computing_leaves_the_store_usable(tmp_path):
    def fail(positions):
        raise RuntimeError("no features today")

    for store in (MemoryStore(2**20), DiskStore(tmp_path)):
        with pytest.raises(RuntimeError, match="today"):
            store.fetch(["a", "b"], fail)
        counter = Counter()
        counter.fetch(store, "ab")
        assert counter.made == ["a", "b"]


def test_structures_share_with_atoms(crystals, log):
    X, _ = crystals
    featurizer = CountingFeaturizer(**SOAP, log=str(log)).fit(X)
    featurizer.transform(X)
    featurizer.transform(as_structures(X)[::-1])
    assert len(read_log(log)) == len(X)
