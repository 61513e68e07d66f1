"""Small labelled data sets that ship with the package, and the scripts that generate them."""

from ._loaders import load_cuau, load_malonaldehyde

__all__ = ["load_cuau", "load_malonaldehyde"]
