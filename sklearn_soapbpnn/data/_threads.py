"""Choose the number of threads from the size of the work."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager

import torch

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
    previous setting is restored at the end of the block.

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
    # torch's setting belongs to the Python thread that made it
    before = getattr(_own, "n_threads", None)
    worth = 1 if os.getpid() != _IMPORTED_BY else int(n_atoms) // ATOMS_PER_THREAD
    n_threads = max(1, min(worth, outside))
    try:
        _own.n_threads = n_threads
        torch.set_num_threads(n_threads)
        yield
    finally:
        with _lock:
            _open["blocks"] -= 1
        _own.n_threads = before
        torch.set_num_threads(before or outside)
