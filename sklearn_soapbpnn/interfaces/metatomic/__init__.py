"""Export to metatomic, whose package is needed for this only."""

from ._export import convert_model, export_model, make_model

__all__ = ["convert_model", "export_model", "make_model"]
