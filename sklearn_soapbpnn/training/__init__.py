"""Training: data on the device, losses, and the skorch net."""

from ._dataset import TrainingData
from ._losses import TargetLoss, TotalLoss, parse_loss
from ._net import SoapBPNNNet

__all__ = ["SoapBPNNNet", "TargetLoss", "TotalLoss", "TrainingData", "parse_loss"]
