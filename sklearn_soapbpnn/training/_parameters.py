"""The regressor's arguments as a fit reads them, and the objects that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from inspect import signature
from types import MappingProxyType

import numpy as np
import torch

from ..descriptors import SOAP_PARAMETERS, find_memory, read_soap_parameters
from ..model import OwnSteps, measure_weights, resolve_device
from ..nn import Architecture
from ..potentials import LongRangeParameters
from ..preprocessing import (
    CompositionBaseline,
    SoapFeaturizer,
    TargetScaler,
    ZBLBaseline,
    check_fixed_weights,
    check_scales,
)

# arguments that determine what the fitted weights, baseline and scale mean
FIXED_BY_FIT = (
    *SOAP_PARAMETERS,
    *("num_hidden_layers", "num_neurons_per_layer", "layernorm", "add_lambda_basis", "zbl"),
    *("species_encoding", "n_pseudo_species", "n_networks", "long_range", "use_ewald", "smearing"),
    *("kspace_resolution", "interpolation_nodes", "dtype", "scale_targets"),
    "remove_composition_contribution",
)


class FitParameters:
    """The regressor's arguments at the start of a fit, read-only.

    Every argument is an attribute of the same name.

    Parameters
    ----------
    arguments : dict of str to object
        ``get_params(deep=False)`` of the regressor.
    defaults : dict of str to object
        Default of each argument, in the order of the constructor.
    """

    def __init__(self, arguments, defaults):
        arguments, defaults = MappingProxyType(dict(arguments)), MappingProxyType(dict(defaults))
        vars(self).update(arguments, arguments=arguments, defaults=defaults)

    def __setattr__(self, name, value):
        raise AttributeError(f"{name} of FitParameters cannot be set.")

    def __reduce__(self):
        return FitParameters, (dict(self.arguments), dict(self.defaults))

    @cached_property
    def soap(self):
        """Hyperparameters of the descriptor, used if X has no features attached."""
        return read_soap_parameters(self)

    def find_soap(self, X):
        """Return the descriptor of the features of X; without features the one of the arguments."""
        return self.soap if X.features is None else X.features.parameters

    @cached_property
    def torch_device(self):
        """Device of the network."""
        return resolve_device(self.device)

    @property
    def itemsize(self):
        """Bytes per number in the network."""
        return np.dtype(self.dtype).itemsize

    @property
    def long_range_parameters(self):
        """Hyperparameters of the long-range features; None without them."""
        if not self.long_range:
            return None
        return LongRangeParameters(
            bool(self.use_ewald),
            float(self.smearing),
            float(self.kspace_resolution),
            int(self.interpolation_nodes),
        )

    @property
    def architecture(self):
        """Architecture of the network, apart from its elements, descriptor and targets."""
        is_alchemical = self.species_encoding == "alchemical"
        return Architecture(
            num_hidden_layers=int(self.num_hidden_layers),
            num_neurons_per_layer=int(self.num_neurons_per_layer),
            layernorm=bool(self.layernorm),
            heads=dict(self.heads or {}),
            add_lambda_basis=bool(self.add_lambda_basis),
            n_pseudo_species=int(self.n_pseudo_species) if is_alchemical else None,
            long_range=self.long_range_parameters,
            n_networks=int(self.n_networks),
            dtype=getattr(torch, self.dtype),
        )

    def make_steps(self):
        """Return the unfitted steps that come before the network."""
        baseline = scaler = None
        if self.remove_composition_contribution:
            baseline = CompositionBaseline(self.fixed_composition_weights)
        if self.scale_targets:
            scaler = TargetScaler(self.fixed_scaling_weights, self.per_structure_targets)
        names = (*SOAP_PARAMETERS, "dtype")
        featurizer = SoapFeaturizer(**{name: getattr(self, name) for name in names})
        # transform must return structures even if scikit-learn is configured to return tables
        featurizer.set_output(transform="default")
        return OwnSteps(ZBLBaseline() if self.zbl else None, baseline, scaler, featurizer)

    def hyperparameters(self, targets):
        """Return the arguments that must be the same if a later fit continues from this one.

        Arguments with an entry for each target are reduced to the entries of ``targets``.
        """
        heads = self.heads or {}
        fixed = {
            "fixed_scaling_weights": check_scales(self.fixed_scaling_weights),
            "fixed_composition_weights": check_fixed_weights(self.fixed_composition_weights),
        }
        return {
            **{name: getattr(self, name) for name in FIXED_BY_FIT},
            **{key: {n: w[n] for n in targets if n in w} for key, w in fixed.items()},
            "heads": {name: heads.get(name, "mlp") for name in targets},
        }

    def find_changed(self, before):
        """Return the arguments that differ from those of a fit that is to continue, with values.

        Parameters
        ----------
        before : FittedModel
            The result of that fit.
        """
        now, then = self.hyperparameters(before.kinds), before.hyperparameters
        return {name: now[name] for name in then if not _are_equal(now[name], then[name])}

    def memory_for_data(self, n_elements, soap):
        """Return the bytes that remain for the descriptors when the weights are in memory."""
        limit = self.memory_limit or find_memory(self.torch_device)
        return limit - measure_weights(self.architecture, soap, n_elements)


def read_parameters(estimator):
    """Return the current arguments of an estimator."""
    entries = signature(type(estimator)).parameters.items()
    return FitParameters(
        estimator.get_params(deep=False), {name: entry.default for name, entry in entries}
    )


def _are_equal(value, other):
    """Return whether values of arguments mean the same: numbers of any type, also in mappings."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(_are_equal(value[k], other[k]) for k in value)
    return np.array_equal(value, other)
