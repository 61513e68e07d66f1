"""Files of fitted models, which run no code when they are read."""

from ._save import load_model, read_model, save_model, storable

__all__ = ["load_model", "read_model", "save_model", "storable"]
