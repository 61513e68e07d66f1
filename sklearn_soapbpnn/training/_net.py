"""The skorch net: the training loop and its metrics."""

from __future__ import annotations

import fnmatch
import math

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import EpochTimer
from torch.optim.lr_scheduler import LambdaLR

from ._best_epoch import BestEpoch, StopEarly
from ._dataset import EvaluationIterator, TrainingIterator
from ._distributed import SingleProcess
from ._interrupts import note_interrupts
from ._muon import Muon
from ._progress import Bar, Progress, is_terminal

# inputs of the first layer that are smaller count as this large, in particular those that are zero
SMALLEST_INPUT = 1e-6


class WarmupCosine:
    """Schedule of the learning rate: linear warm-up, then a cosine down to zero.

    Parameters
    ----------
    n_steps : int
        Number of steps of the whole fit.
    warmup_fraction : float
        Fraction of the steps that belong to the warm-up.
    """

    def __init__(self, n_steps: int, warmup_fraction: float) -> None:
        self.n_steps = n_steps
        self.n_warmup = int(warmup_fraction * n_steps)

    def __call__(self, step: int) -> float:
        """Return the factor by which the learning rate is multiplied at a step."""
        if step < self.n_warmup:
            return step / self.n_warmup
        done = (step - self.n_warmup) / max(1, self.n_steps - self.n_warmup)
        return 0.5 * (1.0 + math.cos(math.pi * done))


class SoapBPNNNet(NeuralNet):
    """skorch net that trains on :class:`TrainingData`.

    ``fit(train, valid)`` takes the training set and the validation set (or None). Losses and errors
    are summed on the device and recorded once per epoch, so that no step has to wait for the
    previous one.

    Parameters
    ----------
    module, criterion, **kwargs
        See :class:`skorch.NeuralNet`.
    order_seed : int
        Seed for the order of the batches.
    warmup_fraction : float
        Fraction of the steps that belong to the warm-up.
    best_model_metric : str
        See :class:`BestEpoch`.
    log_interval : int
        See :class:`Progress`.
    log_mae : bool
        See :class:`Progress`.
    log_separate_blocks : bool
        Whether to record also the errors of each block and property of a target.
    n_iter_no_change : int, default=None
        Number of epochs without improvement after which the fit ends; None runs all epochs.
    checkpoints : Checkpoints, default=None
        Callback that writes the state of the fit to a file.
    processes : SingleProcess or ProcessGroup, default=None
        The processes that train together; None means this process alone.
    """

    def __init__(
        self,
        module,
        criterion,
        *,
        order_seed=0,
        warmup_fraction=0.01,
        best_model_metric="rmse_prod",
        log_interval=5,
        log_mae=False,
        log_separate_blocks=False,
        n_iter_no_change=None,
        checkpoints=None,
        processes=None,
        **kwargs,
    ):
        self.order_seed = order_seed
        self.warmup_fraction = warmup_fraction
        self.best_model_metric = best_model_metric
        self.log_interval = log_interval
        self.log_mae = log_mae
        self.log_separate_blocks = log_separate_blocks
        self.n_iter_no_change = n_iter_no_change
        self.checkpoints = checkpoints
        self.processes = SingleProcess() if processes is None else processes
        super().__init__(module, criterion, **kwargs)

    @property
    def _default_callbacks(self):
        callbacks = [("epoch_timer", EpochTimer()), ("best", BestEpoch(self.best_model_metric))]
        if self.verbose and self.processes.rank == 0:
            progress = Progress(self.log_interval, self.log_mae)
            if is_terminal():
                callbacks.append(("bar", Bar()))
                progress.sink = Bar.write
            callbacks.append(("progress", progress))
        if self.checkpoints is not None:
            callbacks.append(("checkpoints", self.checkpoints))
        return [*callbacks, ("stop_early", StopEarly()), *self.processes.callbacks]

    def _yield_callbacks(self):
        # a checkpoint must contain what all other callbacks have recorded in the epoch, and the
        # callback that may end the fit must come last
        late = []
        for callback in super()._yield_callbacks():
            if callback[0] in ("checkpoints", "stop_early"):
                late.append(callback)
            else:
                yield callback
        yield from late

    def ends_after(self, epoch):
        """Return whether the fit ends after an epoch, as planned or for one of two reasons.

        They are that the loss is NaN or infinite, and that the metric has stopped improving.
        """
        if epoch >= self.max_epochs or not math.isfinite(self.history[-1, "train_loss"]):
            return True
        patience = self.n_iter_no_change
        return patience is not None and epoch - self.best_epoch_.best_number_ >= patience

    @property
    def best_epoch_(self):
        """Callback that keeps the best epoch."""
        return dict(self.callbacks_)["best"]

    def initialize_optimizer(self, *args, **kwargs):
        """Create the optimizer; raise if one of its parameter groups matches no weights."""
        names = [name for name, _ in self.get_all_learnable_params()]
        for pattern, _ in self.get_params_for("optimizer").get("param_groups", ()):
            if not fnmatch.filter(names, pattern):
                raise ValueError(
                    f"net_params: 'optimizer__param_groups' names {pattern!r}, which matches none "
                    f"of the weights: {names}."
                )
        return super().initialize_optimizer(*args, **kwargs)

    def get_dataset(self, X, y=None):
        """Return the training data unchanged."""
        return X

    def get_split_datasets(self, X, y=None, **fit_params):
        """Return the training and the validation set, which are passed to ``fit`` as X and y."""
        return X, y

    def get_iterator(self, dataset, training=False):
        """Return shuffled batches for training, or large batches in fixed order for validation."""
        if training:
            iterator = TrainingIterator(dataset, self.batch_size, self.order_)
        else:
            iterator = EvaluationIterator(dataset)
        return self.processes.share(iterator)

    def on_batch_begin(self, net, **kwargs):
        """Record no single batches, except for an empty record that some callbacks need."""
        if not self.history[-1]["batches"]:
            self.history.new_batch()

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Start the schedule of the learning rate, which depends on the number of batches."""
        n_steps = self.max_epochs * -(-len(X) // self.batch_size)
        factor = WarmupCosine(n_steps, self.warmup_fraction)
        self.schedule_ = LambdaLR(self.optimizer_, factor)
        if isinstance(self.optimizer_, Muon):
            self.optimizer_.choose_decay(n_steps)
            self._describe_inputs(X)
        self.order_ = torch.Generator().manual_seed(self.order_seed)
        self.interrupted_ = False
        super().on_train_begin(net, X=X, y=y, **kwargs)

    def on_train_end(self, net, X=None, y=None, **kwargs):
        """Discard the schedule and the moments of the optimizer, which are no longer needed."""
        del self.schedule_, self.order_
        self.checkpoints = None
        self.optimizer_.state.clear()
        self.module_.eval()
        super().on_train_end(net, X=X, y=y, **kwargs)

    def fit_loop(self, *args, **kwargs):
        """Run the epochs; note whether Ctrl-C ends them, and remove the progress bar on errors."""
        with note_interrupts() as noted:
            try:
                return super().fit_loop(*args, **kwargs)
            except KeyboardInterrupt:
                # callbacks raise the same exception to end a fit
                self.interrupted_ = self.interrupted_ or bool(noted)
                raise
            except Exception:
                for _, callback in self.callbacks_:
                    if isinstance(callback, Bar):
                        callback.on_train_end(self)
                raise

    def train_step_single(self, batch, **fit_params):
        """Compute the loss of a batch, summed over the networks, and its gradient."""
        predictions = batch.predictions(self.module_)
        loss = self.criterion_(predictions, batch.labels)
        loss.backward()
        loss = self.processes.sum_gradients(self.module_, loss.detach())
        return {"loss": loss, "y_pred": predictions}

    def train_step(self, batch, **fit_params):
        """Make one step of the optimizer and of the schedule."""
        step = super().train_step(batch, **fit_params)
        self.schedule_.step()
        return step

    def validation_step(self, batch, **fit_params):
        """Compute the loss of a batch, of the mean of all networks, without gradients."""
        with torch.no_grad():
            predictions = batch.predictions(self.module_)
            predictions = {name: p.mean(0, keepdim=True) for name, p in predictions.items()}
            return {"loss": self.criterion_(predictions, batch.labels), "y_pred": predictions}

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Run all batches of an epoch and record the loss and the errors of each target."""
        if iterator is None:
            return
        self.module_.train(training)
        try:
            total, n_structures, errors = self._run_batches(iterator, training, step_fn, fit_params)
        except KeyboardInterrupt:
            # skorch then ends the fit without a warning, as if a callback had stopped it
            self.interrupted_ = True
            raise
        n_losses = self.module_.n_networks if training else 1
        self.history.record(f"{prefix}_loss", float(total) / n_structures / n_losses)
        for name, sums in errors.items():
            sums = sums.cpu().double().numpy()
            self._record_errors(f"{prefix}_{name}", sums)
            kind = self.module_.kinds.get(name)
            if self.log_separate_blocks and kind is not None and kind.n_scales > 1:
                for k, block in enumerate(kind.scale_names):
                    self._record_errors(f"{prefix}_{name}[{block}]", sums[:, kind.scale_index == k])

    def compare_with_baseline(self, dataset, epoch):
        """Return the RMSE of each target, divided by the RMSE of the baseline alone.

        Parameters
        ----------
        dataset : TrainingData
            Data for which the errors are computed.
        epoch : dict or None
            Recorded errors of an epoch; None computes them with the current weights.

        Returns
        -------
        dict of str to float
            Ratio for each target whose labels are not all zero.
        """
        if epoch is None:
            errors = {}
            for batch in self.get_iterator(dataset):
                _add_errors(errors, self.validation_step(batch)["y_pred"], batch)
            _, errors = self.processes.sum_errors(0.0, errors)
        ratios = {}
        for name in dataset.labelled:
            count, _, square = dataset.labels[name].sum_errors(0.0).double().reshape(3, -1).sum(1)
            if dataset.smallest_errors[name] or not square:
                continue
            baseline = math.sqrt(square / count)
            if epoch is None:
                count, _, square = errors[name].double().reshape(3, -1).sum(1)
                error = math.sqrt(square / count)
            else:
                error = epoch[f"valid_{name}_rmse"]
            ratios[name] = error / baseline
        return ratios

    @torch.no_grad()
    def _describe_inputs(self, data):
        """Tell the optimizer how rough and how large the inputs of the first layer are."""
        first, size = self.module_.first, 1.0
        # without a structure that counts, nothing will move
        if not first.layernorm and len(data.counted):
            n_structures = min(len(data.counted), EvaluationIterator(data).batch_size)
            place = np.linspace(0, len(data.counted) - 1, n_structures).astype(int)
            some = torch.from_numpy(data.counted[place]).to(data.device)
            (batch,) = data.batches(some, [n_structures])
            size = first.input_size(batch.environments).clamp(min=SMALLEST_INPUT)
        self.optimizer_.weigh_inputs(first.linear.weight, first.roughness, size)

    def _record_errors(self, name, sums):
        count, absolute, square = sums.reshape(3, -1).sum(1)
        if count:
            self.history.record(f"{name}_mae", float(absolute / count))
            self.history.record(f"{name}_rmse", math.sqrt(square / count))

    def _run_batches(self, iterator, training, step_fn, fit_params):
        total, n_structures, errors = 0.0, 0, {}
        for batch in iterator:
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            total = total + step["loss"] * len(batch)
            n_structures += len(batch)
            if not training:
                _add_errors(errors, step["y_pred"], batch)
            self.notify("on_batch_end", batch=batch, training=training, **step)
        if not training:
            total, errors = self.processes.sum_errors(total, errors)
        return total, n_structures, errors


def _add_errors(errors, predictions, batch):
    """Add the sums of errors of a batch to the sums of earlier batches, for each target."""
    for name, labels in batch.labels.items():
        (prediction,) = predictions[name]
        errors[name] = errors.get(name, 0.0) + labels.sum_errors(prediction)
