"""The one place that looks for numba."""

from functools import cache
from importlib import import_module


@cache
def load_kernels(name):
    """Import a module of compiled loops when it is first used; None without a numba that works.

    The import takes half a second. The newest Python has no numba; torch can do the same.

    Parameters
    ----------
    name : str
        Name of the module in this folder.
    """
    try:
        return import_module(f".{name}", __package__)
    except ImportError:
        return None
