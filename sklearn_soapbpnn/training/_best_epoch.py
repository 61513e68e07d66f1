"""Callbacks that keep the best epoch, and end a fit that no longer improves."""

from __future__ import annotations

import math

from skorch.callbacks import Callback


class BestEpoch(Callback):
    """Keep the weights of the epoch with the best validation metric; restore them at the end.

    Parameters
    ----------
    metric : {"rmse_prod", "mae_prod", "loss"}
        Product of the validation errors of all targets, or validation loss.
    """

    def __init__(self, metric="rmse_prod"):
        self.metric = metric

    def on_train_begin(self, net, **kwargs):
        self.best_, self.best_loss_, self.weights_ = math.inf, math.inf, None
        self.best_number_ = 0

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        epoch = net.history[-1]
        if dataset_valid is None:
            return
        if self.metric == "loss":
            value = epoch["valid_loss"]
        else:
            kind = self.metric.removesuffix("_prod")
            # an error that is zero by symmetry is only rounding noise, which grows with the weights
            value = math.prod(
                max(epoch[f"valid_{name}_{kind}"], smallest)
                for name, smallest in dataset_valid.smallest_errors.items()
            )
        is_best = value < self.best_  # always False for NaN
        self.best_loss_ = min(self.best_loss_, epoch["valid_loss"])
        net.history.record("valid_loss_best", epoch["valid_loss"] == self.best_loss_)
        net.history.record("valid_metric", value)
        net.history.record("valid_metric_best", is_best)
        if is_best:
            weights = net.module_.state_dict()
            self.best_, self.weights_ = value, {k: v.clone() for k, v in weights.items()}
            self.best_number_ = epoch["epoch"]

    def on_train_end(self, net, **kwargs):
        if self.weights_ is not None:
            net.module_.load_state_dict(self.weights_)
        self.weights_ = None


class StopEarly(Callback):
    """End the fit if the metric has stopped improving, or if the loss is NaN or infinite."""

    def on_epoch_end(self, net, **kwargs):
        epoch = net.history[-1]["epoch"]
        if epoch < net.max_epochs and net.ends_after(epoch):
            # this ends a fit in skorch
            raise KeyboardInterrupt
