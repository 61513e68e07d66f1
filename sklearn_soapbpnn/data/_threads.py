"""Choose the number of threads from the size of the work."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

# with fewer atoms per thread, threads spend more time waiting for each other than working, and far
# more (a factor of twenty) if another program competes for the cores
ATOMS_PER_THREAD = 1024

# a forked process does not inherit its parent's OpenMP threads, but would wait for them forever
_IMPORTED_BY = os.getpid()
_lock = threading.Lock()
# number of open blocks in all Python threads, and torch's setting before the first was opened
_open = {"blocks": 0, "outside": 1}
_own = threading.local()


@contextmanager
def use_threads(n_atoms):
    """Use one thread per 1024 atoms within the block, but at most as many as torch is set to.

    The number never depends on timings, so that sums are rounded in the same way each time. The
    previous settings are restored at the end of the block.

    Parameters
    ----------
    n_atoms : int
        Number of atoms that are processed at once, in a batch or a chunk. 0 means one thread.
    """
    with _lock:
        if _open["blocks"] == 0:
            _open["outside"] = torch.get_num_threads()
        _open["blocks"] += 1
        outside = _open["outside"]
    before = getattr(_own, "settings", None)
    worth = 1 if os.getpid() != _IMPORTED_BY else int(n_atoms) // ATOMS_PER_THREAD
    n_threads = max(1, min(worth, outside))
    try:
        after = before or [outside, *(library.get_num_threads() for library in _other_openmp())]
        _own.settings = [n_threads] * len(after)
        _set_threads(_own.settings)
        yield
    finally:
        with _lock:
            _open["blocks"] -= 1
        _own.settings = before
        _set_threads(after)


def _set_threads(settings):
    torch.set_num_threads(settings[0])
    for library, n_threads in zip(_other_openmp(), settings[1:]):
        library.set_num_threads(n_threads)


@cache
def _other_openmp():
    """Return the OpenMP libraries that torch does not control, such as that of sphericart."""
    libraries = ThreadpoolController().select(internal_api="openmp").lib_controllers
    torch_folder = os.path.dirname(torch.__file__)
    return [library for library in libraries if not library.filepath.startswith(torch_folder)]
