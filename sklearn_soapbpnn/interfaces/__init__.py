"""Ways out of this library and into it: files of fitted models, ASE, metatrain."""

from .files import load_model, save_model

__all__ = ["load_model", "save_model"]
