"""Checks of structures and labels, before and after a fit."""

from ._consistency import FEW, QuickFit
from ._keys import check_keys
from ._list_findings import examine, summarize_data
from ._report import DataReport, Finding
from ._sample import Sample, read_sample

__all__ = [
    "FEW",
    "DataReport",
    "Finding",
    "QuickFit",
    "Sample",
    "check_keys",
    "examine",
    "read_sample",
    "summarize_data",
]
