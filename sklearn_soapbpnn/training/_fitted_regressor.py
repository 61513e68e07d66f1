"""Attributes that a fitted regressor reads from its FittedModel."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted
from skorch.history import History

from ..data import TargetKind, usual_settings
from ..model import FittedModel
from ..nn import SoapBPNN
from ..preprocessing import CompositionBaseline, SoapFeaturizer, TargetScaler, ZBLBaseline
from ._fit import make_net
from ._losses import TargetLoss
from ._parameters import FitParameters, read_parameters


class FittedRegressor:
    """Estimator whose fit results in a :class:`FittedModel`, from which its attributes are read.

    Attributes
    ----------
    fitted_ : FittedModel
        The result of the fit.
    net_ : SoapBPNNNet
        The skorch net.
    """

    def set_fitted(self, fitted: FittedModel, history: Sequence[dict[str, Any]] = ()) -> Self:
        """Use an existing fitted model, e.g. from a file, instead of calling ``fit``.

        Parameters
        ----------
        fitted : FittedModel
            The fitted model. It must be consistent with the arguments of this estimator; this is
            not checked.
        history : list of dict, default=()
            Losses and errors of each epoch, for ``history_``.

        Returns
        -------
        self : SoapBPNNRegressor

        Raises
        ------
        ValueError
            If ``net_params`` has ``optimizer__param_groups`` that match none of the weights.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
        >>> other = SoapBPNNRegressor(max_angular=1).set_fitted(model.fitted_)
        >>> bool((other.predict(X[:2]) == model.predict(X[:2])).all())
        True
        """
        arguments = read_parameters(self)
        on_device = {**arguments.arguments, "device": fitted.network.device}
        losses = {name: TargetLoss() for name in fitted.targets}
        parameters = FitParameters(on_device, arguments.defaults)
        with usual_settings():
            net = make_net(parameters, fitted.network, losses, 0).initialize()
        net.module_.eval()
        net.history_.extend(history)
        self.fitted_, self.net_ = fitted, net
        return self

    def __getstate__(self):
        # the net is rebuilt from the rest, so that a pickle holds the weights once
        state = super().__getstate__()
        if "net_" in state:
            state["_history"] = list(state.pop("net_").history)
        return state

    def __setstate__(self, state):
        state = dict(state)
        history = state.pop("_history", None)
        super().__setstate__(state)
        if history is not None:
            self.set_fitted(self.fitted_, history)

    @property
    def module_(self) -> SoapBPNN:
        """The network, a torch module."""
        return self._result.network

    @property
    def history_(self) -> History:
        """Losses and validation errors of every epoch."""
        check_is_fitted(self, "net_")
        return self.net_.history

    @property
    def kinds_(self) -> dict[str, TargetKind]:
        """Kind of each target that has a separate output."""
        return self._result.kinds

    @property
    def targets_(self) -> tuple[str, ...]:
        """Names of the columns of y on which the model was trained."""
        return self._result.targets

    @property
    def n_features_in_(self) -> int:
        """Number of features of the power spectrum of one atom."""
        return self._result.network.first.n_features

    @property
    def elements_(self) -> np.ndarray:
        """Atomic numbers seen in fit, in ascending order."""
        return self._result.steps.elements

    @property
    def baseline_(self) -> CompositionBaseline | None:
        """The fitted composition baseline; None if X had an offset attached or none is used."""
        return self._result.steps.own.baseline

    @property
    def zbl_(self) -> ZBLBaseline | None:
        """The ZBL step; None with ``zbl=False``."""
        return self._result.steps.own.zbl

    @property
    def scaler_(self) -> TargetScaler | None:
        """The fitted scaler; None if X had a scale attached or none is used."""
        return self._result.steps.own.scaler

    @property
    def featurizer_(self) -> SoapFeaturizer | None:
        """The descriptor; None if X had features attached."""
        return self._result.steps.own.featurizer

    @property
    def _result(self) -> FittedModel:
        check_is_fitted(self, "fitted_")
        return self.fitted_


def check_regressor(last: Any) -> None:
    """Raise if the last step of a model is not a fitted regressor of this library.

    Raises
    ------
    TypeError
        If it is something else.
    NotFittedError
        If it is not fitted.
    """
    if not isinstance(last, FittedRegressor):
        hint = " Read the file: load_model(path)." if isinstance(last, str | PathLike) else ""
        raise TypeError(
            f"model must be, or end in, a SoapBPNNRegressor; it ends in a {type(last).__name__}."
            f"{hint}"
        )
    check_is_fitted(last, "fitted_")
