"""Composition baseline and scaling, as pipeline steps."""

from ._composition import CompositionBaseline, check_fixed_weights, count_elements
from ._scaler import TargetScaler, check_scales
from ._zbl import ZBLBaseline

__all__ = [
    "CompositionBaseline",
    "TargetScaler",
    "ZBLBaseline",
    "check_fixed_weights",
    "check_scales",
    "count_elements",
]
