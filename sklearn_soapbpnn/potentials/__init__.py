"""Potentials without weights: the ZBL repulsion, and sums over charges beyond the cutoff."""

from ._coulomb import CoulombSum, Geometry
from ._long_range import LongRangeParameters, check_long_range, import_torchpme
from ._zbl import ZBLContribution, compute_zbl

__all__ = [
    "CoulombSum",
    "Geometry",
    "LongRangeParameters",
    "ZBLContribution",
    "check_long_range",
    "compute_zbl",
    "import_torchpme",
]
