"""Training: data on the device, losses, checkpoints, and the skorch net."""

from ._checkpoints import Checkpoints, load_checkpoint
from ._dataset import TrainingData
from ._losses import TargetLoss, TotalLoss, parse_loss
from ._net import SoapBPNNNet

__all__ = [
    "Checkpoints",
    "SoapBPNNNet",
    "TargetLoss",
    "TotalLoss",
    "TrainingData",
    "load_checkpoint",
    "parse_loss",
]
