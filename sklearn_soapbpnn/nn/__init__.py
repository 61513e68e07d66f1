"""The network, its input (atomic environments), and the linear maps that give forces."""

from ._architecture import Architecture
from ._environments import EnvironmentBatch, Environments, compute_environments
from ._last_layer import find_rows
from ._long_range import LongRange
from ._slopes import sum_by_index
from ._soap_bpnn import Outputs, SoapBPNN

__all__ = [
    "Architecture",
    "EnvironmentBatch",
    "Environments",
    "LongRange",
    "Outputs",
    "SoapBPNN",
    "compute_environments",
    "find_rows",
    "sum_by_index",
]
