"""Behler-Parrinello neural networks on SOAP descriptors, as scikit-learn estimators."""

from ._doctor import check_data
from ._regressor import SoapBPNNRegressor
from ._version import __version__
from .data import Structures, TargetKind, Targets, open_frames
from .interfaces import load_model, save_model
from .preprocessing import CompositionBaseline, SoapFeaturizer, TargetScaler, ZBLBaseline

__all__ = [
    "CompositionBaseline",
    "SoapBPNNRegressor",
    "SoapFeaturizer",
    "Structures",
    "TargetKind",
    "TargetScaler",
    "Targets",
    "ZBLBaseline",
    "__version__",
    "check_data",
    "load_model",
    "open_frames",
    "save_model",
]
