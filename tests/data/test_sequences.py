"""Files of structures that are read as they are looked at."""

import bz2
import gc
import gzip
import lzma
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Sequence

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import compare_atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, Structures, TargetKind, Targets
from sklearn_soapbpnn.data import LazyFrames, _sequences, as_structures, open_frames

SUFFIXES = [".xyz", ".extxyz", ".extxyz.gz", ".traj", ".db", ".json"]
MODEL = {"cutoff_radius": 3.0, "max_radial": 2, "max_angular": 1, "num_neurons_per_layer": 2}


def make_frames():
    """Structures of different size, with and without a cell, and their labels."""
    rng = np.random.default_rng(0)
    frames = []
    for n_atoms in (3, 1, 7, 4, 2, 5):
        numbers = rng.choice([1, 6, 8], n_atoms)
        positions = rng.uniform(0.0, 4.0, (n_atoms, 3))
        atoms = Atoms(numbers, positions, cell=np.eye(3) * 5 + 0.3, pbc=n_atoms > 3)
        results = {"energy": rng.normal(), "forces": rng.normal(size=(n_atoms, 3))}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def write_frames(path, frames):
    if path.suffix in (".db", ".json"):
        with ase.db.connect(path) as database:
            for k, atoms in enumerate(frames):
                database.write(atoms, key_value_pairs={"gap": 0.5 * k}, data={"note": [k]})
    else:
        ase.io.write(path, frames, format="traj" if path.suffix == ".traj" else "extxyz")
    return path


@pytest.fixture
def frames():
    return make_frames()


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path, frames):
    return write_frames(tmp_path / f"some frames{request.param}", frames)


@pytest.fixture
def count_reads(monkeypatch):
    """List of the places that are read, from whatever kind of file."""
    places = []
    for reader in (
        *(_sequences._ExtendedXYZ, _sequences._PackedXYZ, _sequences._Trajectory),
        *(_sequences._Database, _sequences._JSONDatabase),
    ):

        def read(self, place, original=reader.read):
            places.append(place)
            return original(self, place)

        monkeypatch.setattr(reader, "read", read)
    return places


def assert_same(atoms, expected):
    assert compare_atoms(atoms, expected) == []
    for name in ("energy", "forces"):
        assert_array_equal(atoms.calc.results[name], expected.calc.results[name])


def test_what_ase_reads(path):
    lazy, expected = open_frames(path), ase.io.read(path, ":")
    assert isinstance(lazy, LazyFrames)
    assert len(lazy) == len(expected) == 6
    assert lazy.shape == (6,)
    for k, atoms in enumerate(expected):
        assert_same(lazy[k], atoms)
        assert_same(lazy[k - 6], atoms)
    for atoms, other in zip(lazy, expected, strict=True):
        assert_same(atoms, other)
    assert repr(lazy).startswith("LazyFrames(6 structures in ")


def test_path_as_text(path):
    assert_same(open_frames(str(path))[2], open_frames(path)[2])


KEYS = [
    slice(1, 5, 2),
    slice(None, None, -1),
    slice(4, 2),
    [3, 0, 3],
    np.array([5, -1, -6]),
    np.array([True, False, True, False, False, True]),
    ([4, 1], Ellipsis),
    (np.array([2]), Ellipsis),
    np.array([], int),
]


def test_selections_are_lazy(path, count_reads):
    lazy = open_frames(path)
    frames = list(lazy)
    for key in KEYS:
        count_reads.clear()
        selected = lazy[key]
        assert isinstance(selected, LazyFrames)
        places = np.arange(6)[key[0] if isinstance(key, tuple) else key]
        assert len(selected) == len(places)
        assert count_reads == []
        for atoms, place in zip(selected, places, strict=True):
            assert_same(atoms, frames[place])
        for atoms, place in zip(selected[::-1], places[::-1], strict=True):
            assert_same(atoms, frames[place])


def test_what_is_no_index(path):
    lazy = open_frames(path)
    for key in (6, -7, "energy", 1.0, [[0]], (0, 1), np.ones(5, bool)):
        with pytest.raises(IndexError):
            lazy[key]


def test_numpy_integers(path):
    lazy = open_frames(path)
    assert_same(lazy[np.int64(3)], lazy[3])
    assert_same(lazy[np.array(3)], lazy[3])


def test_pickle(path, count_reads):
    lazy = pickle.loads(pickle.dumps(open_frames(path)[::2]))
    assert count_reads == []
    for k, atoms in enumerate(open_frames(path)[::2]):
        assert_same(lazy[k], atoms)


def test_splits_read_nothing(path, count_reads):
    lazy = open_frames(path)
    parts = train_test_split(lazy, np.arange(6), test_size=2, random_state=0)
    folds = [lazy[train] for train, _ in KFold(3).split(lazy)]
    assert count_reads == []
    assert all(isinstance(part, LazyFrames) for part in (*parts[:2], *folds))
    for atoms, k in zip(parts[1], parts[3], strict=True):
        assert_same(atoms, lazy[k])


def test_every_structure_is_read_once(path, count_reads):
    lazy = open_frames(path)
    y = Targets.from_atoms(lazy, energy="energy", forces="forces")
    assert len(count_reads) == 6
    count_reads.clear()
    structures = as_structures(lazy)
    assert isinstance(structures, Structures)
    assert len(count_reads) == 6
    expected = Targets.from_atoms(ase.io.read(path, ":"), energy="energy", forces="forces")
    for name in expected.names:
        for values, other in zip(y[name], expected[name], strict=True):
            assert_array_equal(values, other)


def test_fit_and_predict(path, count_reads):
    lazy, frames = open_frames(path), ase.io.read(path, ":")
    y = Targets.from_atoms(frames, energy="energy", forces="forces")
    model = SoapBPNNRegressor(**MODEL, num_epochs=3, random_state=0).fit(lazy, y)
    assert len(count_reads) == 6  # not once an epoch
    expected = SoapBPNNRegressor(**MODEL, num_epochs=3, random_state=0).fit(frames, y)
    assert_array_equal(model.predict(lazy[1::2]), expected.predict(frames[1::2]))


def test_search_is_lazy(path, count_reads):
    """Each fold reads its own structures, when it comes to them."""
    lazy, frames = open_frames(path), ase.io.read(path, ":")
    y = np.array([atoms.get_potential_energy() for atoms in frames])
    model = SoapBPNNRegressor(**MODEL, num_epochs=1, random_state=0)
    scores = cross_val_score(model, lazy, y, cv=2)
    assert len(count_reads) == 2 * 6
    assert_array_equal(scores, cross_val_score(model, frames, y, cv=2))
    if path.suffix != ".extxyz":
        return
    search = GridSearchCV(model, {"num_neurons_per_layer": [1, 2]}, cv=2).fit(lazy, y)
    expected = GridSearchCV(model, {"num_neurons_per_layer": [1, 2]}, cv=2).fit(frames, y)
    assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert_array_equal(search.predict(lazy), expected.predict(frames))


@pytest.mark.parametrize("path", [".extxyz", ".db"], indirect=True)
def test_search_in_processes(path):
    lazy = open_frames(path)
    y = Targets.from_atoms(lazy, energy="energy")
    model = SoapBPNNRegressor(**MODEL, num_epochs=1, random_state=0)
    split = [(range(3), range(3, 6))]  # one, so that one process imports the library
    here, there = (cross_val_score(model, lazy, y, cv=split, n_jobs=n) for n in (None, 2))
    assert_array_equal(here, there)


# --- what is in the files ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".db", ".json"])
def test_values_of_a_database_are_labels(tmp_path, frames, suffix):
    lazy = open_frames(write_frames(tmp_path / f"rows{suffix}", frames))
    y = Targets.from_atoms(lazy, energy="gap")
    assert_array_equal(y["energy"], 0.5 * np.arange(6))
    assert lazy[3].info["note"] == [3]


@pytest.mark.parametrize("suffix", [".db", ".json"])
def test_rows_as_ase_gives_them(tmp_path, frames, suffix):
    """With all there is, which ASE nests; ase.io.read leaves it out."""
    path = write_frames(tmp_path / f"rows{suffix}", frames)
    with ase.db.connect(path) as database:
        nested = [database.get_atoms(id=k + 1, add_additional_information=True) for k in range(6)]
    kinds = {"gap": TargetKind.scalar(), "note": TargetKind.scalar()}
    y = Targets.from_atoms(nested, kinds=kinds, gap="gap", note="note")
    expected = Targets.from_atoms(open_frames(path), kinds=kinds, gap="gap", note="note")
    for name, step in (("gap", 0.5), ("note", 1.0)):
        assert_array_equal(y[name], step * np.arange(6))
        assert_array_equal(expected[name], y[name])
    with pytest.raises(KeyError, match=r"info \['gap', 'data', .*'key_value_pairs', 'note'"):
        Targets.from_atoms(nested, kinds=kinds, gap="bandgap")
    with pytest.raises(KeyError, match="which ase.io.read leaves out, use open_frames"):
        Targets.from_atoms(ase.io.read(path, ":"), kinds=kinds, gap="gap")


def test_what_is_in_info_comes_before_what_is_in_a_row():
    row = {"data": {"e": 2.0, "f": 3.0}, "key_value_pairs": {"e": 4.0, "f": 5.0, "g": 6.0}}
    atoms = Atoms("H", info={"e": 1.0, **row})
    read = [Targets.from_atoms([atoms], energy=key)["energy"][0] for key in "efg"]
    assert read == [1.0, 3.0, 6.0]
    atoms.info |= {"data": "from somewhere", "key_value_pairs": None}
    with pytest.raises(KeyError, match=r"no label 'g'.*info \['data', 'e', 'key_value_pairs'\]"):
        Targets.from_atoms([atoms], energy="g")


def test_rows_that_were_deleted(tmp_path, frames):
    path = write_frames(tmp_path / "rows.db", frames)
    with ase.db.connect(path) as database:
        del database[2]
    assert [len(atoms) for atoms in open_frames(path)] == [3, 7, 4, 2, 5]


def test_rows_of_json_that_were_deleted_and_changed(tmp_path, frames):
    path = write_frames(tmp_path / "rows.json", frames)
    with ase.db.connect(path) as database:
        del database[2]
        database.metadata = {"title": "two, {three}: four"}
        database.update(4, author='Björn "B"', gap=9.0)
    for content in (path.read_bytes(), path.read_text().replace("\\u00f6", "ö").encode()):
        path.write_bytes(content.replace(b"\n", b"\r\n"))
        lazy = open_frames(path)
        assert [atoms.info["gap"] for atoms in lazy] == [0.0, 1.0, 9.0, 2.0, 2.5]
        assert lazy[2].info["author"] == 'Björn "B"'
        for atoms, expected in zip(lazy, ase.io.read(path, ":"), strict=True):
            assert_same(atoms, expected)


def test_json_without_a_list_of_ids(tmp_path, frames):
    path = write_frames(tmp_path / "rows.json", frames[:1])
    path.write_text(path.read_text().split(',\n"ids"')[0] + "}")
    (atoms,) = open_frames(path)
    assert_same(atoms, frames[0])


def test_json_is_parsed_row_by_row(tmp_path, frames, monkeypatch):
    """Its parser sees every row twice, however many there are: at first, and when it is read."""
    path = write_frames(tmp_path / "rows.json", 5 * frames)
    seen = []
    decode = _sequences.jsonio.decode
    monkeypatch.setattr(_sequences.jsonio, "decode", lambda t: seen.append(len(t)) or decode(t))
    lazy = open_frames(path)
    assert seen == []
    assert len(list(lazy)) == len(seen) == 30
    assert sum(seen) < path.stat().st_size
    assert len(pickle.dumps(lazy)) < 1000 + 16 * 30


JSON_DAMAGED = {
    "a list": "[1, 2]",
    "nothing": "{}",
    "no rows": '{"numbers": [1]}',
    "a row too few": '{"1": {"numbers": [1]}, "ids": [1, 2], "nextid": 3}',
    "cut": '{"1": {"numbers": [1]}, "ids"',
    "no colon": '{"1" {"numbers": [1]}}',
    "no end": '{"1": {"numbers": [1]}',
    "more": '{"1": {"numbers": [1]}} {',
}


@pytest.mark.parametrize("case", JSON_DAMAGED)
def test_other_json(tmp_path, case):
    path = tmp_path / "other.json"
    path.write_text(JSON_DAMAGED[case])
    with pytest.raises(ValueError, match=r"path='.*other\.json' is "):
        open_frames(path)


def test_info_and_arrays_of_extended_xyz(tmp_path, frames):
    for k, atoms in enumerate(frames):
        atoms.calc = None
        atoms.info["REF_energy"] = float(k)
        atoms.arrays["q"] = np.arange(len(atoms)) + 0.25
    lazy = open_frames(write_frames(tmp_path / "labels.xyz", frames))
    y = Targets.from_atoms(lazy, energy="REF_energy", charges="q")
    assert_array_equal(y["energy"], np.arange(6.0))
    assert_array_equal(y["charges"][2], np.arange(7) + 0.25)


ROWS = "H 0.0 0.0 0.0\nO 0.0 0.0 1.0\nC 1.5 0.25 1.0\n"
COMMENT = 'Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 energy=-1.5 pbc="T T F"\n'
TEXTS = {
    "plain": f"3\n{COMMENT}{ROWS}" * 2,
    "carriage returns": (f"3\n{COMMENT}{ROWS}" * 2).replace("\n", "\r\n"),
    "blank lines": f"3\n{COMMENT}{ROWS}\n\n3\n{COMMENT}{ROWS} \n\n",
    "blanks around numbers": f"  3 \n{COMMENT}{ROWS}" * 2,
    "no end of line": (f"3\n{COMMENT}{ROWS}" * 2)[:-1],
    "no comment": f"3\n\n{ROWS}3\n\n{ROWS}",
    "accents": f"3\n{COMMENT[:-1]} author=Björn\n{ROWS}" * 2,
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts(tmp_path, case):
    path = tmp_path / "text.xyz"
    path.write_bytes(TEXTS[case].encode())
    lazy = open_frames(path)
    assert len(lazy) == 2
    for atoms in lazy:
        assert atoms.get_chemical_formula() == "CHO"
        assert_array_equal(atoms.positions[2], [1.5, 0.25, 1.0])
        if case != "no comment":
            assert atoms.pbc.tolist() == [True, True, False]
            assert atoms.get_potential_energy() == -1.5


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_such_file(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=r"path='.*missing.*' does not exist"):
        open_frames(tmp_path / f"missing{suffix}")


@pytest.mark.parametrize("suffix", ["", ".cif", ".gz", ".traj.gz", ".db.bz2", ".tar", ".vasp"])
def test_unknown_suffix(tmp_path, suffix):
    path = tmp_path / f"frames{suffix}"
    path.write_bytes(gzip.compress(TEXTS["plain"].encode()))
    with pytest.raises(ValueError, match=r"path=.* piece by piece.*\.extxyz.*\.gz.*ase convert"):
        open_frames(path)


DAMAGED = {
    "compressed": (gzip.compress(TEXTS["plain"].encode()), "at byte 0 .* a number of atoms"),
    "other text": (b"data_silicon\n_cell_length_a 5\n", "at byte 0 .* a number of atoms"),
    "too few atoms": (f"3\n{COMMENT}{ROWS}4\n{COMMENT}{ROWS}".encode(), "ends within frame 1"),
    "too many atoms": (f"2\n{COMMENT}{ROWS}".encode(), "at byte .* not b'C 1.5"),
    "only a number": (b"3\n", "ends within frame 0"),
    "only a number, no line": (b"3", "ends within frame 0"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_text(tmp_path, case):
    content, message = DAMAGED[case]
    path = tmp_path / "damaged.xyz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_frames(path)
    assert str(path) in str(caught.value)


UNREADABLE = {
    "negative number of atoms": "-1\n",
    "no number": "1\n\nH 0 0 x\n",
    "too few columns": "1\n\nH 0 0\n",
    "no element": "1\n\nXx 0 0 0\n",
    "not UTF-8": b"1\nauthor=Bj\xf6rn\nH 0 0 0\n",
}


def read_all(path):
    return as_structures(open_frames(path))


@pytest.mark.parametrize("case", UNREADABLE)
def test_text_that_cannot_be_read(tmp_path, case):
    content = UNREADABLE[case]
    path = tmp_path / "unreadable.xyz"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"path='.*unreadable\.xyz'"):
        read_all(path)


@pytest.mark.parametrize("suffix", [".traj", ".db", ".json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"no such\nthing" * 30,
        gzip.compress,
    ],
    ids=["truncated", "garbage", "compressed"],
)
def test_damaged_file(tmp_path, frames, suffix, damage):
    path = write_frames(tmp_path / f"damaged{suffix}", frames)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"path='.*damaged\{suffix}'"):
        read_all(path)


@pytest.mark.parametrize("suffix", [".traj", ".json"])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"empty{suffix}"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"path='.*empty\{suffix}'"):
        read_all(path)


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("")])
def test_file_that_is_gone(path, change):
    lazy = open_frames(path)
    if path.suffix == ".gz":
        lazy._reader.unpacked.unlink()
    change(path)
    with pytest.raises((ValueError, FileNotFoundError), match="path='.*some frames"):
        lazy[4]


def test_another_working_directory(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    lazy = open_frames(path.name)
    monkeypatch.chdir("/")
    assert len(lazy[0]) == 3


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz"])
def test_empty_text(tmp_path, suffix):
    path = tmp_path / f"empty{suffix}"
    path.write_text("\n")
    with pytest.raises(ValueError, match="X holds no structures"):
        as_structures(open_frames(path))


# --- compressed texts ----------------------------------------------------------------------------

PACKED = {".xyz.gz": gzip.compress, ".extxyz.bz2": bz2.compress, ".xyz.xz": lzma.compress}


@pytest.fixture
def packed(tmp_path, frames, monkeypatch):
    """Path of a compressed file, whose temporary copies are in the folder ``tmp``."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return write_frames(tmp_path / "packed.xyz.gz", frames)


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("case", ["plain", "carriage returns", "accents"])
def test_compressed_texts(tmp_path, suffix, case):
    path, plain = tmp_path / f"frames{suffix}", tmp_path / "frames.xyz"
    plain.write_bytes(TEXTS[case].encode())
    path.write_bytes(PACKED[suffix](TEXTS[case].encode()))
    for atoms, expected in zip(open_frames(path), open_frames(plain), strict=True):
        assert compare_atoms(atoms, expected) == []
        assert atoms.info == expected.info


def test_several_members(tmp_path):
    """Files that were written piece by piece are compressed piece by piece."""
    path = tmp_path / "appended.xyz.gz"
    path.write_bytes(2 * gzip.compress(TEXTS["plain"].encode()))
    assert len(open_frames(path)) == 4


def test_temporary_file_goes_with_its_frames(packed):
    folder = packed.parent / "tmp"
    lazy = open_frames(packed)
    part = lazy[2:]
    del lazy
    assert len(part[0]) == 7
    assert len(list(folder.iterdir())) == 1  # one for all
    del part
    assert list(folder.iterdir()) == []


def test_temporary_file_is_shared_by_pickles(packed):
    """As long as it is there: afterwards, and on other machines, they make one of their own."""
    folder, frames = packed.parent / "tmp", ase.io.read(packed, ":", format="extxyz")
    lazy = open_frames(packed)
    content = pickle.dumps(lazy[::-1])
    assert len(content) < 1000
    loaded = pickle.loads(content)
    assert_same(loaded[5], frames[0])
    assert len(list(folder.iterdir())) == 1
    del loaded
    assert len(lazy[0]) == 3
    del lazy
    loaded = pickle.loads(content)
    assert list(folder.iterdir()) == []
    assert_same(loaded[5], frames[0])
    assert_same(loaded[4], frames[1])
    assert len(list(folder.iterdir())) == 1
    del loaded
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_temporary_file_outlives_forked_processes(packed):
    lazy = open_frames(packed)
    process = multiprocessing.get_context("fork").Process(target=lazy.__dict__.clear)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(lazy[2]) == 7
    assert lazy._reader.unpacked.exists()


PACKED_DAMAGED = {
    "not compressed": (lambda content: TEXTS["plain"].encode(), "BadGzipFile"),
    "cut": (lambda content: content[: len(content) // 2], "EOFError"),
    "changed": (lambda content: content[:-8] + bytes(8), "BadGzipFile"),
    "garbage": (lambda content: gzip.compress(b"")[:10] + b"\x07" * 50, "invalid block"),
    "empty in the middle": (lambda content: gzip.compress(b"3\n\n"), "ends within frame 0"),
}


@pytest.mark.parametrize("case", PACKED_DAMAGED)
def test_damaged_compressed_text(packed, case):
    damage, message = PACKED_DAMAGED[case]
    packed.write_bytes(damage(packed.read_bytes()))
    with pytest.raises(ValueError, match=rf"path='.*packed\.xyz\.gz' is damaged.*{message}"):
        open_frames(packed)
    gc.collect()
    assert list((packed.parent / "tmp").iterdir()) == []


def test_no_place_to_unpack(packed, monkeypatch):
    missing = packed.parent / "missing"
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    message = r"path='.*packed\.xyz\.gz' cannot be unpacked into the folder '.*missing'.*TMPDIR"
    with pytest.raises(OSError, match=message):
        open_frames(packed)


def test_a_folder_is_not_a_file(tmp_path):
    for suffix in (".xyz", ".xyz.gz"):
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(OSError, match=f"folder{suffix}"):
            open_frames(tmp_path / f"folder{suffix}")


# --- sequences of the user's own -----------------------------------------------------------------


class OwnSequence:
    """The least that a sequence is, reading one structure at a time."""

    def __init__(self, frames):
        self.frames, self.read = frames, []

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        self.read.append(index)
        return self.frames[index]


class AbstractSequence(OwnSequence, Sequence):
    """One with the methods of collections.abc."""


@pytest.mark.parametrize("make", [OwnSequence, AbstractSequence])
def test_own_sequences(frames, make):
    own = make(frames)
    y = Targets.from_atoms(own, energy="energy", forces="forces")
    model = SoapBPNNRegressor(**MODEL, num_epochs=2, random_state=0).fit(own, y)
    expected = SoapBPNNRegressor(**MODEL, num_epochs=2, random_state=0).fit(frames, y)
    assert_array_equal(model.predict(own), expected.predict(frames))
    assert sorted(set(own.read)) in ([*range(6)], [*range(7)])  # 6 ends the iteration
    assert_array_equal(
        cross_val_score(model, own, y, cv=2), cross_val_score(model, frames, y, cv=2)
    )


class Unbounded(OwnSequence):
    """Its length says where it ends, no IndexError does, as in a torch Dataset."""

    def __getitem__(self, index):
        assert index < 100
        return self.frames[index % 6]


def test_length_of_a_sequence_counts(frames):
    assert as_structures(Unbounded(frames)).n_atoms.tolist() == [3, 1, 7, 4, 2, 5]


@pytest.mark.parametrize("suffix", [".db", ".json"])
def test_database_is_no_sequence(tmp_path, frames, suffix):
    with ase.db.connect(write_frames(tmp_path / f"rows{suffix}", frames)) as database:
        for call in (as_structures, lambda X: Targets.from_atoms(X, energy="energy")):
            with pytest.raises(TypeError, match=r"X must be a sequence.*database.*open_frames"):
                call(database)


def test_rows_of_a_database_are_no_atoms(tmp_path, frames):
    database = ase.db.connect(write_frames(tmp_path / "rows.db", frames))
    with database, pytest.raises(TypeError, match=r"X\[0\] has the type AtomsRow"):
        as_structures(database.select())


def test_generators(frames):
    """What can be iterated over once is enough to look at once."""
    expected = as_structures(frames)
    structures = as_structures(atoms for atoms in frames)
    assert_allclose(structures.n_atoms, expected.n_atoms)
