"""Steps of a Pipeline before the network: ZBL, composition baseline, scale, descriptor."""

from ._composition import CompositionBaseline, count_elements
from ._featurizer import SoapFeaturizer
from ._fixed_weights import check_fixed_weights, check_scales
from ._scaler import TargetScaler
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
