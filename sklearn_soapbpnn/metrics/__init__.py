"""Errors of energies, forces and all other targets, the quality of error bars, and scorers."""

from ._errors import PER_ATOM, summarize_errors
from ._history_display import TrainingHistoryDisplay
from ._parity_display import ParityDisplay
from ._scorers import make_target_scorer, make_uncertainty_scorer
from ._uncertainty import (
    crps,
    error_std_correlation,
    mean_squared_z_score,
    miscalibration_area,
    negative_log_likelihood,
    summarize_uncertainty,
)
from ._uncertainty_display import UncertaintyDisplay

__all__ = [
    "PER_ATOM",
    "ParityDisplay",
    "TrainingHistoryDisplay",
    "UncertaintyDisplay",
    "crps",
    "error_std_correlation",
    "make_target_scorer",
    "make_uncertainty_scorer",
    "mean_squared_z_score",
    "miscalibration_area",
    "negative_log_likelihood",
    "summarize_errors",
    "summarize_uncertainty",
]


def __dir__():
    # tab completion should not offer the private modules
    return __all__
