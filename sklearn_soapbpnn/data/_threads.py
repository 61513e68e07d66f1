"""How many threads a piece of work gets."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

# atoms that are worth a thread: with fewer, threads wait for each other longer than they work,
# and twenty times as long where another program wants a core
ATOMS_PER_THREAD = 1024

# a forked process lacks the threads that OpenMP started in its parent, and would wait for them
_IMPORTED_BY = os.getpid()
_lock = threading.Lock()
# blocks that are open in any thread of Python, and torch's setting when the first was opened
_open = {"blocks": 0, "outside": 1}
_own = threading.local()


@contextmanager
def use_threads(n_atoms):
    """Compute with as many threads as so many atoms are worth, as long as the block lasts.

    The number depends on the size of the work and on torch's own setting, never on the clock, so
    that sums are rounded in the same way each time. Both settings are as before afterwards.

    Parameters
    ----------
    n_atoms : int
        Atoms that are worked on at once: those of a batch or a chunk. 0 is one thread.
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
    """OpenMP libraries that torch does not set: that of sphericart's spherical harmonics."""
    libraries = ThreadpoolController().select(internal_api="openmp").lib_controllers
    torch_folder = os.path.dirname(torch.__file__)
    return [library for library in libraries if not library.filepath.startswith(torch_folder)]
