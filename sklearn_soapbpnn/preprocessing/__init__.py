"""Steps of a Pipeline before the network: ZBL, composition baseline, scale, descriptor."""

from ._composition import CompositionBaseline, check_fixed_weights, count_elements
from ._featurizer import SoapFeaturizer
from ._scaler import TargetScaler, check_scales
from ._zbl import ZBLBaseline

__all__ = [
    "CompositionBaseline",
    "SoapFeaturizer",
    "TargetScaler",
    "ZBLBaseline",
    "check_fixed_weights",
    "check_scales",
    "count_elements",
]
