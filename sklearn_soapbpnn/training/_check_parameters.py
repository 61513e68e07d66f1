"""Checks of the regressor's arguments that involve several arguments, the targets or the data."""

import numpy as np

from ..data import LEARNT_DERIVATIVES, suggest
from ..descriptors import SOAP_PARAMETERS, find_memory, read_soap_parameters
from ..model import check_sums, list_attached, measure_weights
from ..potentials import import_torchpme
from ..preprocessing import check_fixed_weights, check_scales
from ._extensions import check_callbacks, check_net_params
from ._losses import parse_loss
from ._streamed import check_workers


def check_parameters(parameters, targets, known, has_validation):
    """Check arguments against each other and against the targets; return the loss of each target.

    Parameters
    ----------
    parameters : FitParameters
        The arguments.
    targets : Targets
        Labels.
    known : dict of str to TargetKind
        Targets of the fit that this one continues.
    has_validation : bool
        Whether validation structures are given.

    Raises
    ------
    ValueError, TypeError
        If arguments contradict each other or name unknown targets.
    ImportError
        If torch-pme is needed and not installed.
    """
    kinds = {**known, **targets.kinds}
    learnt = [name for name in kinds if name not in LEARNT_DERIVATIVES]
    _check_named_targets(parameters, kinds, learnt)
    read_soap_parameters(parameters)  # raises if they contradict each other
    if parameters.zbl and "energy" not in kinds:
        raise ValueError(f"zbl=True needs a target 'energy', but y has {list(targets.names)}.")
    if parameters.long_range:
        import_torchpme()
        if parameters.num_hidden_layers == 0:
            raise ValueError(
                "long_range=True needs hidden layers, from whose features the charges are "
                "computed. Set num_hidden_layers to 1 or more."
            )
        if parameters.n_networks > 1:
            raise ValueError(
                f"n_networks={parameters.n_networks} contradicts long_range=True: networks that "
                "are trained together share all that is computed of the structures, but each would "
                "have charges of its own. Set n_networks=1, or long_range=False."
            )
    if parameters.early_stopping and parameters.validation_fraction == 0 and not has_validation:
        raise ValueError(
            "early_stopping=True needs validation structures, but validation_fraction=0. Use a "
            "larger validation_fraction, or pass X_val and y_val."
        )
    check_callbacks(parameters.callbacks)
    check_workers(parameters.num_workers)
    check_net_params(
        *(parameters.net_params, parameters.optimizer),
        *(parameters.learning_rate, parameters.torch_device),
    )
    return parse_loss(parameters.loss, learnt)


def _check_named_targets(parameters, kinds, learnt):
    """Raise if an argument names an unknown target."""
    for target, head in (parameters.heads or {}).items():
        if target not in learnt or head not in ("mlp", "linear"):
            raise ValueError(
                f"heads={{{target!r}: {head!r}}}: the target must be one of {learnt}, the head "
                f"'mlp' or 'linear'.{suggest(target, learnt)}"
            )
    allowed = {*kinds, *(LEARNT_DERIVATIVES if "energy" in kinds else ())}
    unknown = sorted(set(parameters.per_structure_targets) - allowed)
    if unknown:
        raise ValueError(
            f"per_structure_targets names {unknown}; it may name {sorted(allowed)}."
            f"{suggest(unknown[0], allowed)}"
        )
    check_fixed_weights(parameters.fixed_composition_weights, "fixed_composition_weights", kinds)
    check_scales(parameters.fixed_scaling_weights, "fixed_scaling_weights", kinds)


def check_contradictions(parameters, X):
    """Raise if arguments contradict the data that are already attached to X."""
    attached = list_attached(X)
    if parameters.zbl and "forces" in X.offset:
        raise ValueError(
            "zbl=True contradicts the ZBL energy that X carries, which would be subtracted twice. "
            "Leave zbl=False after a ZBLBaseline."
        )
    own = {"offset": "fixed_composition_weights", "scale": "fixed_scaling_weights"}
    for what, name in own.items():
        if what in attached and getattr(parameters, name) is not None:
            raise ValueError(
                f"{name}={getattr(parameters, name)!r} contradicts the {what} that X carries. Set "
                "it on the step that attached it."
            )
    if "features" in attached:
        _check_descriptor(parameters, X.features)


def _check_descriptor(parameters, features):
    """Raise if arguments contradict the descriptor of the features of X."""
    for name in SOAP_PARAMETERS:
        value, carried = getattr(parameters, name), getattr(features.parameters, name)
        if value not in (carried, parameters.defaults[name]):
            raise ValueError(
                f"{name}={value!r} contradicts the features that X carries, which have "
                f"{name}={carried!r}. Set it on the SoapFeaturizer only."
            )
    if np.dtype(parameters.dtype).itemsize > features.dtype.itemsize:
        raise ValueError(
            f"dtype={parameters.dtype!r} contradicts the features that X carries, which have dtype "
            f"{features.dtype}. Set SoapFeaturizer(dtype={parameters.dtype!r})."
        )


def check_degrees(kinds, max_angular):
    """Raise if a tensor is of higher degree than the expansion that it is built from."""
    for name, kind in kinds.items():
        # pseudoscalars are made from vectors
        degree = max(0 if block.is_scalar else max(block.o3_lambda, 1) for block in kind.blocks)
        if degree > max_angular:
            raise ValueError(
                f"Target {name!r} is built from spherical harmonics of degree {degree}, but "
                f"max_angular={max_angular}. Raise max_angular to {degree}."
            )


def check_memory(parameters, X, name="X"):
    """Raise if the weights, or the mesh of a long-range sum over X, do not fit into memory."""
    device = parameters.torch_device
    sums = parameters.long_range_parameters, parameters.num_neurons_per_layer, parameters.itemsize
    check_sums(X, *sums, device, name)
    n_elements = len(X.elements if X.features is None else X.features.elements)
    size = measure_weights(parameters.architecture, parameters.find_soap(X), n_elements)
    most = max(parameters.memory_limit or 0, find_memory(device))
    if size > most:
        raise ValueError(
            f"{name} contains {n_elements} elements, for which the weights of "
            f"species_encoding='orthogonal' take {size / 2**30:.0f} GiB in training, more than "
            f"{most / 2**30:.0f} GiB. Set species_encoding='alchemical', whose weights hardly grow "
            "with the number of elements, lower max_radial, max_angular or num_neurons_per_layer, "
            "or raise memory_limit."
        )
