"""What a fitted regressor shows of its FittedModel."""

from __future__ import annotations

from sklearn.utils.validation import check_is_fitted

from ..data import usual_settings
from ..model import FittedModel
from ._fit import make_net
from ._losses import TargetLoss
from ._parameters import FitParameters, read_parameters


class FittedRegressor:
    """Estimator whose fit results in a :class:`FittedModel`, of which its attributes are views.

    Attributes
    ----------
    fitted_ : FittedModel
        The result of the fit.
    net_ : SoapBPNNNet
        The skorch net.
    """

    def set_fitted(self, fitted: FittedModel, history=()):
        """Take over a fitted model in the place of a fit, as readers of files do.

        Parameters
        ----------
        fitted : FittedModel
            What a fit with the arguments of this estimator could have resulted in.
        history : list of dict, default=()
            Losses and errors of each epoch.

        Returns
        -------
        self
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
        # the net is made anew: it would hold the weights another time
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
    def module_(self):
        """The torch module."""
        return self._result.network

    @property
    def history_(self):
        """Losses and validation errors of every epoch."""
        check_is_fitted(self, "net_")
        return self.net_.history

    @property
    def kinds_(self):
        """Targets that have an output of their own, by name."""
        return self._result.kinds

    @property
    def targets_(self):
        """Names of the columns that were learnt from."""
        return self._result.targets

    @property
    def n_features_in_(self):
        """Size of the power spectrum of an atom."""
        return self._result.network.first.n_features

    @property
    def elements_(self):
        """Atomic numbers seen in fit, ascending."""
        return self._result.steps.elements

    @property
    def baseline_(self):
        """The fitted composition baseline; None if there is none."""
        return self._result.steps.own.baseline

    @property
    def zbl_(self):
        """The ZBL step; None without it."""
        return self._result.steps.own.zbl

    @property
    def scaler_(self):
        """The fitted scaler; None if there is none."""
        return self._result.steps.own.scaler

    @property
    def featurizer_(self):
        """The descriptor; None if X carried features."""
        return self._result.steps.own.featurizer

    @property
    def _result(self) -> FittedModel:
        check_is_fitted(self, "fitted_")
        return self.fitted_
