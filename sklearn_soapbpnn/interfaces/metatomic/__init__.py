"""Export to metatomic, whose package is needed for this only."""

from ._export import export_model, make_model

__all__ = ["export_model", "make_model"]
