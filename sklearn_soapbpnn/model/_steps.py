"""Steps before the network: ZBL, composition baseline, scale and descriptor."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from ..data import check_elements
from ..descriptors import SoapParameters
from ..preprocessing import CompositionBaseline, SoapFeaturizer, TargetScaler, ZBLBaseline
from ._carried import PIPELINE, check_carried, check_features, list_attached, name_attached
from ._pipelines import run_steps


@dataclass(frozen=True)
class OwnSteps:
    """Steps that a regressor fits itself, in the order that they have in a Pipeline.

    Parameters
    ----------
    zbl, baseline, scaler, featurizer : estimator or None
        None if X already has the data attached that the step would attach, or if the step is
        switched off.
    """

    zbl: ZBLBaseline | None = None
    baseline: CompositionBaseline | None = None
    scaler: TargetScaler | None = None
    featurizer: SoapFeaturizer | None = None

    def attach(self, X, n_centers=None):
        """Attach ZBL energy, baseline and scale; see :func:`run_steps`."""
        steps = (self.zbl, self.baseline, self.scaler)
        return run_steps([step for step in steps if step is not None], X, n_centers)


@dataclass(frozen=True)
class Steps:
    """Steps that a regressor has fitted itself, and the data that X must have attached.

    Parameters
    ----------
    elements : array of shape (n_elements,)
        Atomic numbers for which the network was built, in ascending order.
    parameters : SoapParameters
        Hyperparameters of the descriptor.
    own : OwnSteps
        Fitted steps.
    carried : dict of str to frozenset of str
        Data attached to X: any of "offset", "scale" and "features", each with the names of its
        targets.
    scales : dict of str to float or array
        Scales attached to X.
    """

    elements: np.ndarray
    parameters: SoapParameters
    own: OwnSteps
    carried: dict[str, frozenset] = field(default_factory=dict)
    scales: dict = field(default_factory=dict)

    def prepare(self, X, featurized=True, n_centers=None):
        """Attach to structures the same data as to X in fit, except for the descriptor.

        With ``featurized=False`` structures need not have features, even if X had in fit. With
        ``n_centers`` only the first atoms are centres, see :func:`run_steps`.

        Raises
        ------
        ValueError
            If structures contain other elements, or arrive with other data attached than X in fit.
        """
        check_elements(X, self.elements)
        attached, carried = list_attached(X), self.carried.keys()
        if not featurized:
            carried = carried - {"features"}
        for what in sorted(attached ^ carried):
            raise ValueError(
                f"X {'carries' if what in attached else 'lacks'} the {what}, unlike in fit. "
                f"{PIPELINE}."
            )
        check_carried(X, {what: self.carried[what] for what in carried}, self.scales, PIPELINE)
        if "features" in carried:
            check_features(X, self.parameters, self.elements)
        return self.own.attach(X, n_centers)

    def extend(self, X, y, sample_weight, fixed_baseline, fixed_scales, per_structure):
        """Return steps that are also fitted on new targets; known targets stay as they are.

        Parameters
        ----------
        X, y, sample_weight
            See :meth:`SoapBPNNRegressor.fit`; y contains the new targets only, and if the energy is
            one of them, its derivatives.
        fixed_baseline, fixed_scales : mapping or None
            ``fixed_weights`` of the baseline and of the scaler.
        per_structure : sequence of str
            ``per_structure_targets`` of the scaler.
        """
        carried = {
            what: self.carried.get(what, frozenset()) | names
            for what, names in name_attached(X).items()
        }
        scales = {**self.scales, **X.scale}
        own = self.own
        baseline, scaler = None if X.offset else own.baseline, own.scaler
        if own.zbl is not None:
            X = own.zbl.transform(X)
        if baseline is not None:
            baseline = copy(baseline).set_params(warm_start=True, fixed_weights=fixed_baseline)
            X = baseline.fit(X, y, sample_weight=sample_weight).transform(X)
            baseline.set_params(warm_start=False)
        if scaler is not None:
            scaler = copy(scaler).set_params(
                warm_start=True, fixed_weights=fixed_scales, per_structure_targets=per_structure
            )
            scaler.fit(X, y, sample_weight=sample_weight).set_params(warm_start=False)
        own = replace(own, baseline=baseline, scaler=scaler)
        return replace(self, carried=carried, scales=scales, own=own)


def fit_steps(own, parameters, X, y, sample_weight):
    """Fit the steps whose data X does not have attached yet.

    Parameters
    ----------
    own : OwnSteps
        Unfitted steps, all that are switched on.
    parameters : SoapParameters
        Hyperparameters of the descriptor; those of the features of X, if it has features.
    X, y, sample_weight
        See :meth:`SoapBPNNRegressor.fit`.

    Returns
    -------
    Steps
        The fitted steps.
    Structures
        X with all data attached except for the descriptor.
    """
    carried, scales = name_attached(X), dict(X.scale)
    zbl, baseline, scaler, featurizer = own.zbl, own.baseline, own.scaler, own.featurizer
    elements = X.elements
    if zbl is not None:
        X = zbl.fit(X).transform(X)
    if "offset" in carried:
        baseline = None
    elif baseline is not None:
        X = baseline.fit(X, y, sample_weight=sample_weight).transform(X)
    if "scale" in carried:
        scaler = None
    elif scaler is not None:
        X = scaler.fit(X, y, sample_weight=sample_weight).transform(X)
    if "features" in carried:
        elements, featurizer = X.features.elements, None
    else:
        featurizer.fit(X)
    fitted = OwnSteps(zbl, baseline, scaler, featurizer)
    return Steps(elements, parameters, fitted, carried, scales), X
