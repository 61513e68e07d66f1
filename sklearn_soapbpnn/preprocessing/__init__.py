"""Composition baseline and scaling, as pipeline steps."""

from ._composition import CompositionBaseline
from ._scaler import TargetScaler

__all__ = ["CompositionBaseline", "TargetScaler"]
