"""Behler-Parrinello neural networks on SOAP descriptors, as scikit-learn estimators."""

from ._featurizer import SoapFeaturizer
from ._regressor import SoapBPNNRegressor
from .data import Structures, TargetKind, Targets, open_frames
from .preprocessing import CompositionBaseline, TargetScaler, ZBLBaseline

__version__ = "0.1.0"

__all__ = [
    "CompositionBaseline",
    "SoapBPNNRegressor",
    "SoapFeaturizer",
    "Structures",
    "TargetKind",
    "TargetScaler",
    "Targets",
    "ZBLBaseline",
    "open_frames",
]
