"""Energies that are known, not learnt, and features that see beyond the cutoff."""

from ._long_range import Geometry, LongRange, LongRangeParameters, check_long_range, import_torchpme
from ._zbl import ZBLContribution, compute_zbl

__all__ = [
    "Geometry",
    "LongRange",
    "LongRangeParameters",
    "ZBLContribution",
    "check_long_range",
    "compute_zbl",
    "import_torchpme",
]
