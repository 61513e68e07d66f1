"""Training: data on the device, losses, checkpoints, and the skorch net."""

from ._checkpoints import Checkpoints, load_checkpoint
from ._dataset import TrainingData
from ._distributed import open_processes
from ._extensions import check_callbacks, check_net_params, choose_optimizer
from ._losses import TargetLoss, TotalLoss, parse_loss
from ._net import SoapBPNNNet
from ._streamed import (
    StreamedData,
    Workers,
    check_workers,
    count_workers,
)

__all__ = [
    "Checkpoints",
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
    "load_checkpoint",
    "open_processes",
    "parse_loss",
]
