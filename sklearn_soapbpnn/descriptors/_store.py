"""Feature stores, which make sure that each structure is featurised only once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path

import numpy as np
from filelock import FileLock
from joblib import Memory

from ..data import replace_file

# part of every key; to be changed whenever the meaning of the stored numbers changes
FORMAT = b"soap-expansion-1"
MEMORY_LIMIT = 2 * 1024**3  # bytes
# structures that are featurised at a time, before they are written
STRUCTURES_PER_CHUNK = 256


class MemoryStore:
    """Store in memory, shared by all featurisers of this process.

    If it is full, the least recently used features are discarded.

    Parameters
    ----------
    limit : int
        Largest size in bytes.
    """

    def __init__(self, limit):
        self.limit = limit
        self._arrays = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.RLock()

    def fetch(self, keys, compute):
        """Return the array of each key; ``compute(positions)`` computes the missing ones."""
        with self._lock:
            arrays = {key: self._arrays[key] for key in keys if key in self._arrays}
            for key in arrays:
                self._arrays.move_to_end(key)
            for key, array in _compute_missing(keys, arrays, compute):
                array.flags.writeable = False
                arrays[key] = self._arrays[key] = array
                self._n_bytes += array.nbytes
            while self._n_bytes > self.limit:
                self._n_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return [arrays[key] for key in keys]

    def clear(self):
        """Discard all arrays."""
        with self._lock:
            self._arrays.clear()
            self._n_bytes = 0


class DiskStore:
    """Store in a folder, shared by processes.

    A lock makes sure that only one process computes missing features. The store returns paths
    rather than arrays, so that the data may be larger than memory.

    Parameters
    ----------
    folder : str or Path
        Folder for the files, one per structure. Files are written atomically.
    """

    def __init__(self, folder):
        self.folder = Path(folder).absolute()

    def fetch(self, keys, compute):
        """Return the path of each key; ``compute(positions)`` computes the missing arrays."""
        found = self._find(keys)
        if len(found) < len(set(keys)):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                found |= self._find([key for key in keys if key not in found])
                for start in range(0, len(keys), STRUCTURES_PER_CHUNK):
                    chunk = slice(start, start + STRUCTURES_PER_CHUNK)

                    def compute_chunk(places, start=start):
                        return compute([start + place for place in places])

                    for key, array in _compute_missing(keys[chunk], found, compute_chunk):
                        self._save(key, array)
                        found.add(key)
        return [self._path(key) for key in keys]

    def _path(self, key):
        return self.folder / key[:2] / f"{key}.npy"

    def _find(self, keys):
        return {key for key in keys if _is_whole(self._path(key))}

    def _save(self, key, array):
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        # a damaged file is noticed and made again
        replace_file(path, lambda file: np.save(file, array), durable=False)


_process_store = MemoryStore(MEMORY_LIMIT)


def open_store(memory):
    """Return the store for a ``memory`` argument: None, a folder, or a joblib Memory."""
    location = memory.location if isinstance(memory, Memory) else memory
    if location is None:
        return _process_store
    return DiskStore(Path(location) / "sklearn_soapbpnn")


def hash_structures(structures, parameters, dtype):
    """Return a key for each structure, from its numbers, positions, cell, pbc and the settings."""
    prefix = FORMAT + repr((parameters, str(dtype))).encode()
    keys = []
    for arrays in zip(structures.numbers, structures.positions, structures.cells, structures.pbc):
        digest = blake2b(prefix, digest_size=20)
        for array in arrays:
            digest.update(array.tobytes())
        keys.append(digest.hexdigest())
    return keys


def _is_whole(path):
    """Return whether a file contains a complete array; only its header is read."""
    try:
        np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True


def _compute_missing(keys, arrays, compute):
    missing = {key: position for position, key in enumerate(keys) if key not in arrays}
    if not missing:
        return []
    return list(zip(missing, compute(list(missing.values()))))
