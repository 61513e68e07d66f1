"""Training: data on the device, losses, checkpoints, and the skorch net."""

from ._checkpoints import Checkpoints, load_checkpoint
from ._dataset import TrainingData
from ._distributed import open_processes
from ._extensions import check_callbacks, check_net_params, choose_optimizer
from ._losses import TargetLoss, TotalLoss, parse_loss
from ._muon import Muon
from ._net import SoapBPNNNet
from ._streamed import (
    StreamedData,
    Workers,
    check_workers,
    count_workers,
    estimate_memory,
    estimate_weights,
    exceeds_memory,
    find_memory,
)

__all__ = [
    "Checkpoints",
    "Muon",
    "SoapBPNNNet",
    "StreamedData",
    "TargetLoss",
    "TotalLoss",
    "TrainingData",
    "Workers",
    "check_callbacks",
    "check_net_params",
    "check_workers",
    "choose_optimizer",
    "count_workers",
    "estimate_memory",
    "estimate_weights",
    "exceeds_memory",
    "find_memory",
    "load_checkpoint",
    "open_processes",
    "parse_loss",
]
