"""Training: checks, data on the device, losses, checkpoints, the skorch net, the order of a fit."""

from ._check_data import check_fit, check_labels
from ._check_parameters import check_degrees
from ._checkpoints import load_checkpoint
from ._dataset import TrainingData
from ._distributed import open_processes
from ._error_bars import calibrate_model
from ._fit import fit_model
from ._fitted_regressor import FittedRegressor, check_regressor
from ._losses import TargetLoss, TotalLoss, parse_loss
from ._muon import Muon
from ._net import SoapBPNNNet
from ._parameters import FitParameters, read_parameters
from ._progress import show_atoms
from ._resume import title_fit
from ._streamed import StreamedData, Workers, count_workers

__all__ = [
    "FitParameters",
    "FittedRegressor",
    "Muon",
    "SoapBPNNNet",
    "StreamedData",
    "TargetLoss",
    "TotalLoss",
    "TrainingData",
    "Workers",
    "calibrate_model",
    "check_degrees",
    "check_fit",
    "check_labels",
    "check_regressor",
    "count_workers",
    "fit_model",
    "load_checkpoint",
    "open_processes",
    "parse_loss",
    "read_parameters",
    "show_atoms",
    "title_fit",
]
