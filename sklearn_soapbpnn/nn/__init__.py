"""The network, the environments it runs on, and the linear map that gives forces."""

from ._environments import EnvironmentBatch, Environments
from ._evaluate import check_volumes, evaluate
from ._soap_bpnn import Outputs, SoapBPNN

__all__ = [
    "EnvironmentBatch",
    "Environments",
    "Outputs",
    "SoapBPNN",
    "check_volumes",
    "evaluate",
]
