"""Files of fitted models; reading them runs no code."""

from ._save import load_model, read_model, save_model, storable

__all__ = ["load_model", "read_model", "save_model", "storable"]
