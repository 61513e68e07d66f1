"""Training: checks, data on the device, losses, checkpoints, the skorch net, the order of a fit."""

from ._check_data import FitData, check_fit, check_labels
from ._check_parameters import check_degrees, check_parameters
from ._checkpoints import Checkpoints, load_checkpoint
from ._dataset import TrainingData
from ._distributed import open_processes
from ._error_bars import calibrate_model
from ._extensions import check_callbacks, check_net_params, choose_optimizer
from ._fit import fit_model, make_net
from ._fitted_regressor import FittedRegressor
from ._losses import TargetLoss, TotalLoss, parse_loss
from ._muon import Muon
from ._net import SoapBPNNNet
from ._parameters import FitParameters, read_parameters
from ._progress import show_atoms
from ._resume import title_fit
from ._streamed import (
    StreamedData,
    Workers,
    check_workers,
    count_workers,
)

__all__ = [
    "Checkpoints",
    "FitData",
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
    "check_callbacks",
    "check_fit",
    "check_degrees",
    "check_labels",
    "check_net_params",
    "check_parameters",
    "check_workers",
    "choose_optimizer",
    "count_workers",
    "fit_model",
    "load_checkpoint",
    "make_net",
    "open_processes",
    "parse_loss",
    "read_parameters",
    "show_atoms",
    "title_fit",
]
