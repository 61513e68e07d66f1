"""Sequences of structures that are read from a file when they are accessed."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.db.row import AtomsRow
from ase.io import jsonio
from ase.io.formats import get_compression, open_with_compression

from ._checks import as_position
from ._types import FilePath

TEXTS = (".xyz", ".extxyz")
SUFFIXES = (*TEXTS, ".traj", ".db", ".json", ".aselmdb")
# the separators before a key and before a value of a JSON object
BEFORE_KEY, BEFORE_VALUE = re.compile(r"\s*[{,]\s*"), re.compile(r"\s*:\s*")


class LazyFrames:
    """Immutable sequence of :class:`ase.Atoms` that reads each structure when it is accessed.

    A slice, an array of indices or a mask returns LazyFrames again, so that
    :func:`~sklearn.model_selection.train_test_split` and cross-validation read no structures. Use
    :func:`open_frames` to make one.

    Parameters
    ----------
    reader : object
        Must be picklable; ``reader.read(place)`` returns one :class:`ase.Atoms`.
    places : array
        Position of each structure in the file, in the form that the reader uses.
    """

    def __init__(self, reader, places):
        self._reader = reader
        self._places = np.asarray(places)

    @property
    def shape(self) -> tuple[int]:
        """Shape along the structures: (n_structures,)."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Atoms]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        key = as_position(key, len(self))
        if isinstance(key, int):
            try:
                return self._reader.read(self._places[key])
            except Exception as err:
                raise ValueError(
                    f"Structure {key} of path={str(self._reader.path)!r} cannot be read: {err!r}. "
                    "Is the file damaged, or has it changed since it was opened?"
                ) from err
        return LazyFrames(self._reader, self._places[key])

    def __repr__(self):
        return f"LazyFrames({len(self)} structures in {str(self._reader.path)!r})"


def open_frames(path: FilePath) -> LazyFrames:
    """Open a file as a sequence that reads each structure when it is accessed.

    Parameters
    ----------
    path : str or path
        Extended XYZ (``.xyz``, ``.extxyz``), an ASE trajectory (``.traj``), or a database that
        :mod:`ase.db` can read (``.db``, ``.json``; ``.aselmdb`` with the package
        ``ase-db-backends``). Extended XYZ may be compressed (``.xyz.gz``; also bz2, xz): it is
        decompressed into a temporary file in the folder :func:`tempfile.gettempdir`, which is
        deleted when the sequence is no longer used.

    Returns
    -------
    LazyFrames
        The structures, with their labels as :func:`ase.io.read` would attach them; key-value pairs
        and data of databases are in ``info``.

    Raises
    ------
    OSError
        If the file does not exist, or cannot be read or decompressed.
    ValueError
        If the format cannot be read piece by piece, or the file is damaged. A structure that turns
        out to be damaged when it is accessed raises a ValueError, too.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from ase.build import molecule
    >>> from ase.io import write
    >>> from sklearn_soapbpnn.data import open_frames
    >>> with TemporaryDirectory() as folder:
    ...     write(f"{folder}/data.xyz", [molecule("H2O"), molecule("CH4")])
    ...     frames = open_frames(f"{folder}/data.xyz")
    ...     len(frames), len(frames[1])
    (2, 5)
    """
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r} does not exist.")
    name, compression = get_compression(str(path))
    suffix = Path(name).suffix
    if suffix not in (TEXTS if compression else SUFFIXES):
        raise ValueError(
            f"path={str(path)!r} cannot be read piece by piece: its suffix is not one of "
            f"{', '.join(SUFFIXES)}, or of {', '.join(TEXTS)} followed by .gz, .bz2 or .xz. "
            "Convert it, e.g. with `ase convert`."
        )
    try:
        return _open(path, suffix, compression)
    except Exception as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise  # the system says what is wrong
        raise ValueError(
            f"path={str(path)!r} is damaged, or not a file of the kind that its suffix says: "
            f"{err!r}."
        ) from err


def _open(path, suffix, compression):
    if compression:
        reader = _PackedXYZ(path)
        return LazyFrames(reader, _index_extended_xyz(reader.unpacked))
    if suffix in TEXTS:
        return LazyFrames(_ExtendedXYZ(path), _index_extended_xyz(path))
    if suffix == ".traj":
        with ase.io.Trajectory(path) as trajectory:
            return LazyFrames(_Trajectory(path), np.arange(len(trajectory)))
    if suffix == ".json":
        return LazyFrames(_JSONDatabase(path), _index_json(path))
    with ase.db.connect(path) as database:
        return LazyFrames(_Database(path), [row.id for row in database.select()])


class _ExtendedXYZ:
    """Frames of a text file, located by their first and last byte."""

    def __init__(self, path):
        self.path = path

    def read(self, place):
        return ase.io.read(StringIO(_read_text(self.path, place)), format="extxyz")


class _PackedXYZ:
    """Frames of a compressed text file, which is decompressed into a temporary file.

    The temporary file is deleted along with the reader that made it. An unpickled copy of the
    reader uses the same file; if that does not exist, e.g. on another machine, it makes its own.
    """

    def __init__(self, path):
        self.path = path
        self.unpacked = self._unpack()

    def read(self, place):
        try:
            text = _read_text(self.unpacked, place)
        except FileNotFoundError:
            self.unpacked = self._unpack()
            text = _read_text(self.unpacked, place)
        return ase.io.read(StringIO(text), format="extxyz")

    def _unpack(self):
        try:
            handle, name = tempfile.mkstemp(prefix="sklearn_soapbpnn_", suffix=".xyz")
            remove = weakref.finalize(self, _remove, name, os.getpid())
            try:
                with open(handle, "wb") as file, open_with_compression(self.path, "rb") as packed:
                    shutil.copyfileobj(packed, file)
            except BaseException:
                remove()
                raise
        except OSError as err:
            if err.errno is None:
                raise  # the content is damaged
            raise OSError(
                err.errno,
                f"{err.strerror}: path={str(self.path)!r} cannot be unpacked into the folder "
                f"{tempfile.gettempdir()!r}. The environment variable TMPDIR names another one",
            ) from err
        return Path(name)


def _remove(path, process):
    # a forked process has copies of the readers but shares their files, and must not delete them
    if os.getpid() == process:
        Path(path).unlink(missing_ok=True)


class _Trajectory:
    """Frames of an ASE trajectory, located by their number."""

    def __init__(self, path):
        self.path = path

    def read(self, place):
        with ase.io.Trajectory(self.path) as trajectory:
            return trajectory[int(place)]


class _Database:
    """Rows of an ASE database, located by their id."""

    def __init__(self, path):
        self.path = path

    def read(self, place):
        with ase.db.connect(self.path) as database:
            return _build_atoms(database.get(id=int(place)))


class _JSONDatabase:
    """Rows of an ASE database in JSON, located by their first and last byte.

    ASE itself would parse the whole file for every row.
    """

    def __init__(self, path):
        self.path = path

    def read(self, place):
        return _build_atoms(AtomsRow(jsonio.decode(_read_text(self.path, place))))


def _build_atoms(row):
    atoms = row.toatoms()
    atoms.info |= {**row.key_value_pairs, **row.data}
    return atoms


def _read_text(path, place):
    first, last = (int(value) for value in place)
    with path.open("rb") as file:
        file.seek(first)
        return file.read(last - first).decode()


def _index_extended_xyz(path):
    """Return the first and last byte of every frame: array of shape (n_frames, 2)."""
    places = []
    with path.open("rb") as file:
        while line := file.readline():
            if not line.strip():
                continue
            first = file.tell() - len(line)
            try:
                n_atoms = int(line)
            except ValueError as err:
                raise ValueError(
                    f"at byte {first} there should be a number of atoms, not {line[:40]!r}"
                ) from err
            for _ in range(n_atoms + 1):
                if not file.readline():
                    raise ValueError(f"it ends within frame {len(places)}")
            places.append((first, file.tell()))
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def _index_json(path):
    """Return the first and last byte of every row, in the order of the ids: (n_rows, 2)."""
    # one character per byte; non-ASCII characters occur only inside strings
    text = path.read_bytes().decode("latin-1")
    entries = _find_entries(text)
    # a file with a single row may lack the list of ids
    ids = json.loads(text[slice(*entries["ids"])]) if "ids" in entries else [1]
    places = [entries[str(number)] for number in ids]
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def _find_entries(text):
    """Return where the value of each entry of a JSON object starts and ends."""
    decoder, entries, end = json.JSONDecoder(), {}, 0
    while start := BEFORE_KEY.match(text, end):
        key, end = decoder.raw_decode(text, start.end())
        colon = BEFORE_VALUE.match(text, end)
        if colon is None:
            raise json.JSONDecodeError("Expecting ':'", text, end)
        _, end = decoder.raw_decode(text, colon.end())
        entries[key] = colon.end(), end
    if text[end:].strip() != "}":
        raise json.JSONDecodeError("Expecting '}'", text, end)
    return entries
