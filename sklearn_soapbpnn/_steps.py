"""What comes before the network: ZBL, composition baseline, scale and descriptor."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from ._checks import (
    SOAP_PARAMETERS,
    check_carried,
    check_features,
    list_attached,
    measure_network,
    name_attached,
)
from ._featurizer import SoapFeaturizer
from .data import LEARNT_DERIVATIVES, check_elements
from .descriptors import SoapParameters, exceeds_memory, find_memory
from .preprocessing import CompositionBaseline, TargetScaler, ZBLBaseline


@dataclass(frozen=True)
class Steps:
    """What a regressor fits for itself, and what X brings.

    Parameters
    ----------
    elements : array of shape (n_elements,)
        Atomic numbers that the network knows, ascending.
    parameters : SoapParameters
        The descriptor.
    carried : dict of str to frozenset of str
        What X carries, out of offset, scale and features, and of which targets.
    scales : dict of str to float or array
        The scales that X carries.
    zbl, baseline, scaler, featurizer : estimator or None
        Fitted steps; None where X carries what they attach, or where it is not wanted.
    """

    elements: np.ndarray
    parameters: SoapParameters
    carried: dict[str, frozenset] = field(default_factory=dict)
    scales: dict = field(default_factory=dict)
    zbl: ZBLBaseline | None = None
    baseline: CompositionBaseline | None = None
    scaler: TargetScaler | None = None
    featurizer: SoapFeaturizer | None = None

    def attach(self, X):
        """Attach ZBL energy, baseline and scale."""
        for step in (self.zbl, self.baseline, self.scaler):
            X = X if step is None else step.transform(X)
        return X

    def prepare(self, X, featurized=True):
        """Bring structures to the state that X had in fit, but for the descriptor.

        With ``featurized=False`` the features that X carried in fit may be missing.
        """
        check_elements(X, self.elements)
        attached, carried = list_attached(X), self.carried.keys()
        if not featurized:
            carried = carried - {"features"}
        for what in sorted(attached ^ carried):
            raise ValueError(
                f"X {'carries' if what in attached else 'lacks'} the {what}, unlike in fit. "
                "Predict through the Pipeline that the model was fitted in."
            )
        remedy = "Predict through the Pipeline that the model was fitted in"
        check_carried(X, {what: self.carried[what] for what in carried}, self.scales, remedy)
        if "features" in carried:
            check_features(X, self.parameters, self.elements)
        return self.attach(X)

    def extend(self, model, X, y, sample_weight):
        """Return steps that are fitted on targets which are new, too; the others stay."""
        carried = {what: self.carried[what] | names for what, names in name_attached(X).items()}
        scales = {**self.scales, **X.scale}
        if self.zbl is not None:
            X = self.zbl.transform(X)
        baseline, scaler = self.baseline, self.scaler
        if baseline is not None:
            fixed = model.fixed_composition_weights
            baseline = copy(baseline).set_params(warm_start=True, fixed_weights=fixed)
            X = baseline.fit(X, y, sample_weight=sample_weight).transform(X)
            baseline.set_params(warm_start=False)
        if scaler is not None:
            scaler = copy(scaler).set_params(
                warm_start=True,
                fixed_weights=model.fixed_scaling_weights,
                per_structure_targets=model.per_structure_targets,
            )
            scaler.fit(X, y, sample_weight=sample_weight).set_params(warm_start=False)
        return replace(self, carried=carried, scales=scales, baseline=baseline, scaler=scaler)


def fit_steps(model, X, y, sample_weight):
    """Fit what X does not carry; return the steps, and X with all but the descriptor."""
    carried, scales = name_attached(X), dict(X.scale)
    zbl = baseline = scaler = featurizer = None
    elements, parameters = X.elements, find_parameters(model, X)
    if model.zbl:
        zbl = ZBLBaseline().fit(X)
        X = zbl.transform(X)
    if "offset" not in carried and model.remove_composition_contribution:
        baseline = CompositionBaseline(model.fixed_composition_weights)
        X = baseline.fit(X, y, sample_weight=sample_weight).transform(X)
    if "scale" not in carried and model.scale_targets:
        scaler = TargetScaler(model.fixed_scaling_weights, model.per_structure_targets)
        X = scaler.fit(X, y, sample_weight=sample_weight).transform(X)
    if "features" in carried:
        elements = X.features.elements
    else:
        featurizer = make_featurizer(model).fit(X)
    steps = Steps(elements, parameters, carried, scales, zbl, baseline, scaler, featurizer)
    return steps, X


def find_parameters(model, X):
    """Return the descriptor that X carries, or else that of the regressor."""
    if X.features is not None:
        return X.features.parameters
    return make_featurizer(model)._soap_parameters()


def make_featurizer(model):
    """Return the featuriser that a regressor's parameters describe, to be fitted."""
    names = (*SOAP_PARAMETERS, "dtype")
    featurizer = SoapFeaturizer(**{name: getattr(model, name) for name in names})
    # structures are wanted, whatever the global configuration says of tables
    return featurizer.set_output(transform="default")


def featurize(model, X, names, device):
    """Attach the descriptor, unless it would not fit into memory: batches then make their own."""
    featurizer = model._steps.featurizer
    if featurizer is None or is_large(model, X, names, device):
        return X
    return featurizer.transform(X)


def is_large(model, X, names, device):
    """Whether the descriptors, and for forces or stress the pair basis, exceed memory_limit."""
    derivatives = bool(set(LEARNT_DERIVATIVES) & set(names))
    itemsize = np.dtype(model.dtype).itemsize
    steps = model._steps
    limit = model.memory_limit or find_memory(device)
    limit -= measure_network(model, len(steps.elements), steps.parameters)
    return exceeds_memory([X], steps.parameters, derivatives, itemsize, limit)
