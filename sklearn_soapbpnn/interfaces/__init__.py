"""Leaves: files of fitted models, ASE, metatrain."""

from ._files import load_model, save_model

__all__ = ["load_model", "save_model"]
