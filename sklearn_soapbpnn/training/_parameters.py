"""The regressor's arguments as a fit reads them, and what they stand for together."""

from __future__ import annotations

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

# what weights, baseline and scale of a fit stand for
FIXED_BY_FIT = (
    *SOAP_PARAMETERS,
    *("num_hidden_layers", "num_neurons_per_layer", "layernorm", "add_lambda_basis", "zbl"),
    *("species_encoding", "n_pseudo_species", "long_range", "use_ewald", "smearing"),
    *("kspace_resolution", "interpolation_nodes", "dtype", "scale_targets"),
    "remove_composition_contribution",
)


class FitParameters:
    """The regressor's arguments as they stand when a fit begins: read, never set.

    Every argument is an attribute of the same name.

    Parameters
    ----------
    arguments : dict of str to object
        ``get_params(deep=False)`` of the regressor.
    defaults : dict of str to object
        Their defaults, in the order of the constructor.
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
        """The descriptor of structures that carry no features."""
        return read_soap_parameters(self)

    def find_soap(self, X):
        """Return the descriptor that X carries, or else the own one."""
        return self.soap if X.features is None else X.features.parameters

    @cached_property
    def torch_device(self):
        """The device of the network."""
        return resolve_device(self.device)

    @property
    def itemsize(self):
        """Bytes of a number in the network."""
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
        """The network, but for what it learns from."""
        is_alchemical = self.species_encoding == "alchemical"
        return Architecture(
            num_hidden_layers=int(self.num_hidden_layers),
            num_neurons_per_layer=int(self.num_neurons_per_layer),
            layernorm=bool(self.layernorm),
            heads=dict(self.heads or {}),
            add_lambda_basis=bool(self.add_lambda_basis),
            n_pseudo_species=int(self.n_pseudo_species) if is_alchemical else None,
            long_range=self.long_range_parameters,
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
        # structures are wanted, whatever the global configuration says of tables
        featurizer.set_output(transform="default")
        return OwnSteps(ZBLBaseline() if self.zbl else None, baseline, scaler, featurizer)

    def hyperparameters(self, targets):
        """Return the arguments that a fit which continues must not change.

        Of those that hold an entry for each target, the entries of ``targets``.
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

    def memory_for_data(self, n_elements, soap):
        """Return the bytes that descriptors may take beside the weights."""
        limit = self.memory_limit or find_memory(self.torch_device)
        return limit - measure_weights(self.architecture, soap, n_elements)


def read_parameters(estimator):
    """Return the arguments of an estimator as they are now."""
    entries = signature(type(estimator)).parameters.items()
    return FitParameters(
        estimator.get_params(deep=False), {name: entry.default for name, entry in entries}
    )
