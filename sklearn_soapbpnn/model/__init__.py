"""Fitted models: the steps before the network, the network, and their predictions."""

from ._carried import check_carried, check_features, list_attached, name_attached
from ._committee import CommitteeSpread
from ._devices import atoms_per_chunk, find_device, resolve_device
from ._error_bars import ErrorBars, find_target
from ._evaluate import evaluate, network_name
from ._fitted import FittedModel
from ._memory import check_sums, measure_weights
from ._outputs import (
    FEATURES,
    LAST_LAYER,
    check_n_samples,
    check_names,
    check_volumes,
    find_main,
    find_output_kind,
    warn_of_constant,
)
from ._pipelines import apply_steps, check_steps, list_steps, run_steps
from ._posterior import LARGEST_LAYER, LastLayerPosterior
from ._steps import OwnSteps, Steps, fit_steps

__all__ = [
    "FEATURES",
    "LARGEST_LAYER",
    "LAST_LAYER",
    "CommitteeSpread",
    "ErrorBars",
    "FittedModel",
    "LastLayerPosterior",
    "OwnSteps",
    "Steps",
    "apply_steps",
    "atoms_per_chunk",
    "check_carried",
    "check_features",
    "check_n_samples",
    "check_names",
    "check_steps",
    "check_sums",
    "check_volumes",
    "evaluate",
    "find_device",
    "find_main",
    "find_output_kind",
    "find_target",
    "fit_steps",
    "list_attached",
    "list_steps",
    "measure_weights",
    "name_attached",
    "network_name",
    "resolve_device",
    "run_steps",
    "warn_of_constant",
]
