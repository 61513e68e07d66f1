"""Potentials without weights: the ZBL repulsion, and sums over charges beyond the cutoff."""

from ._coulomb import CoulombSum, Geometry
from ._long_range import LongRangeParameters, check_long_range, import_torchpme
from ._zbl import (
    COEFFICIENTS,
    COULOMB,
    compute_zbl,
    evaluate_repulsion,
    find_decay_rates,
    match_cutoff,
)

__all__ = [
    "COEFFICIENTS",
    "COULOMB",
    "CoulombSum",
    "Geometry",
    "LongRangeParameters",
    "check_long_range",
    "compute_zbl",
    "evaluate_repulsion",
    "find_decay_rates",
    "import_torchpme",
    "match_cutoff",
]
