"""The network, the environments it runs on, and the linear map that gives forces."""

from ._environments import EnvironmentBatch, Environments
from ._soap_bpnn import Outputs, SoapBPNN

__all__ = ["EnvironmentBatch", "Environments", "Outputs", "SoapBPNN"]
