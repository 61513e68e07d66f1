"""What comes before the network: ZBL, composition baseline, scale and descriptor."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from ..data import check_elements
from ..descriptors import SoapParameters
from ..preprocessing import CompositionBaseline, SoapFeaturizer, TargetScaler, ZBLBaseline
from ._carried import PIPELINE, check_carried, check_features, list_attached, name_attached


@dataclass(frozen=True)
class OwnSteps:
    """Steps that a regressor fits for itself: those of a Pipeline, in this order.

    Parameters
    ----------
    zbl, baseline, scaler, featurizer : estimator or None
        None where X carries what the step attaches, or where it is not wanted.
    """

    zbl: ZBLBaseline | None = None
    baseline: CompositionBaseline | None = None
    scaler: TargetScaler | None = None
    featurizer: SoapFeaturizer | None = None

    def attach(self, X):
        """Attach ZBL energy, baseline and scale."""
        for step in (self.zbl, self.baseline, self.scaler):
            X = X if step is None else step.transform(X)
        return X


@dataclass(frozen=True)
class Steps:
    """What a regressor fitted for itself, and what X has to bring.

    Parameters
    ----------
    elements : array of shape (n_elements,)
        Atomic numbers that the network knows, ascending.
    parameters : SoapParameters
        The descriptor.
    own : OwnSteps
        Fitted steps.
    carried : dict of str to frozenset of str
        What X carries, out of offset, scale and features, and of which targets.
    scales : dict of str to float or array
        The scales that X carries.
    """

    elements: np.ndarray
    parameters: SoapParameters
    own: OwnSteps
    carried: dict[str, frozenset] = field(default_factory=dict)
    scales: dict = field(default_factory=dict)

    def prepare(self, X, featurized=True):
        """Bring structures to the state that X had in fit, but for the descriptor.

        With ``featurized=False`` the features that X carried in fit may be missing.

        Raises
        ------
        ValueError
            If structures hold other elements, or do not carry what X carried in fit.
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
        return self.own.attach(X)

    def extend(self, X, y, sample_weight, fixed_baseline, fixed_scales, per_structure):
        """Return steps that are fitted on targets which are new, too; the others stay.

        Parameters
        ----------
        X, y, sample_weight
            See :meth:`SoapBPNNRegressor.fit`; y holds the new targets.
        fixed_baseline, fixed_scales : mapping or None
            ``fixed_weights`` of the baseline and of the scaler.
        per_structure : sequence of str
            ``per_structure_targets`` of the scaler.
        """
        carried = {what: self.carried[what] | names for what, names in name_attached(X).items()}
        scales = {**self.scales, **X.scale}
        own = self.own
        baseline, scaler = own.baseline, own.scaler
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
    """Fit the steps that attach what X does not carry.

    Parameters
    ----------
    own : OwnSteps
        Unfitted steps, all that are wanted.
    parameters : SoapParameters
        The descriptor, that of X if it carries features.
    X, y, sample_weight
        See :meth:`SoapBPNNRegressor.fit`.

    Returns
    -------
    Steps
        The fitted steps.
    Structures
        X with all but the descriptor.
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
