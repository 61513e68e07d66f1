"""Plot of losses and errors during the training, in the manner of scikit-learn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from sklearn.utils.validation import check_is_fitted

from ..data import KNOWN_KINDS
from ._plots import import_matplotlib, in_brackets


class TrainingHistoryDisplay:
    """Losses and validation errors by epoch, with the epoch whose weights were kept.

    Losses are without unit, as targets are divided by their scale; errors are in the units of y.

    Create it with :meth:`from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    history : sequence of dict
        Losses and errors of each epoch, see ``history_`` of :class:`SoapBPNNRegressor`.
    labels : dict of str to str, default=None
        What the legend calls the error of each target, e.g. ``{"energy": "energy (eV/atom)"}``;
        by default the name of the target.

    Attributes
    ----------
    lines_ : dict of str to matplotlib Artist
        The curve of each entry of the history that is drawn, such as ``"train_loss"`` and
        ``"valid_forces_rmse"``.
    best_epoch_ : int or None
        The epoch whose weights were kept; None if there was no validation, so that it is the last.
    ax_ : list of matplotlib Axes
        Axes with the losses and, if there was a validation, axes with the errors.
    figure_ : matplotlib Figure
        Figure that contains the axes.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.metrics import TrainingHistoryDisplay
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=2).fit(X[:20], y[:20])
    >>> shown = TrainingHistoryDisplay.from_estimator(model)
    >>> list(shown.lines_)
    ['train_loss', 'valid_loss', 'valid_energy_rmse', 'valid_forces_rmse']
    """

    def __init__(
        self, *, history: Sequence[Mapping[str, Any]], labels: Mapping[str, str] | None = None
    ) -> None:
        self.history = history
        self.labels = labels

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Plot the training of a fitted regressor.

        Parameters
        ----------
        estimator : SoapBPNNRegressor, Pipeline or search
            The fitted regressor, or a Pipeline that ends in one, or a search over either.
        ax : sequence of two matplotlib Axes, default=None
            Axes for the losses and for the errors; None creates a figure.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator has no history.
        ValueError
            If the history is empty, as it is for a model that was read from a file of metatrain.
        """
        check_is_fitted(estimator)
        while hasattr(estimator, "best_estimator_") or hasattr(estimator, "steps"):
            estimator = getattr(estimator, "best_estimator_", None) or estimator[-1]
        if not hasattr(estimator, "history_"):
            raise TypeError(
                f"{type(estimator).__name__} has no history of losses, as SoapBPNNRegressor has."
            )
        history = list(estimator.history_)
        targets = [_find_target(key) for key in (history[-1] if history else ())]
        labels = {target: _name_error(target, estimator) for target in targets if target}
        return cls(history=history, labels=labels).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the losses and the errors.

        Parameters
        ----------
        ax : sequence of two matplotlib Axes, default=None
            Axes for the losses and for the errors; None creates a figure.

        Returns
        -------
        self : TrainingHistoryDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the history is empty.
        """
        if not self.history:
            raise ValueError("The history is empty: the model was not trained here.")
        losses = [key for key in ("train_loss", "valid_loss") if key in self.history[-1]]
        errors = [key for key in self.history[-1] if _find_target(key)]
        pyplot = import_matplotlib().pyplot
        if ax is None:
            size = {"figsize": (6.4, 6.4 if errors else 4.0), "layout": "constrained"}
            figure, ax = pyplot.subplots(1 + bool(errors), sharex=True, squeeze=False, **size)
            ax = ax[:, 0]
        self.ax_ = list(ax)[: 1 + bool(errors)]
        self.figure_ = self.ax_[0].figure
        best = [epoch["epoch"] for epoch in self.history if epoch.get("valid_metric_best")]
        self.best_epoch_ = best[-1] if best else None
        self.lines_: dict[str, Any] = {}
        titles = ("loss", "validation error (RMSE)")
        for axes, keys, title in zip(self.ax_, (losses, errors), titles):
            self._draw(axes, keys, title)
        self.ax_[-1].set_xlabel("epoch")
        return self

    def _draw(self, axes, keys, title):
        epochs = [epoch["epoch"] for epoch in self.history]
        for key in keys:
            # in some epochs of a fit that went on there may have been fewer targets
            values = [epoch.get(key, float("nan")) for epoch in self.history]
            marker = "o" if len(epochs) == 1 else None
            (self.lines_[key],) = axes.plot(epochs, values, marker=marker, label=self._name(key))
        if self.best_epoch_ is not None:
            label = f"best epoch: {self.best_epoch_}"
            axes.axvline(self.best_epoch_, color="gray", lw=1, ls="--", label=label)
        axes.set(yscale="log", ylabel=title)
        axes.legend(fontsize="small")

    def _name(self, key):
        target = _find_target(key)
        if target:
            return (self.labels or {}).get(target, target)
        return {"train_loss": "training", "valid_loss": "validation"}[key]


def _find_target(key):
    """Return the target whose error an entry of the history is; None if it is something else."""
    found = re.fullmatch(r"valid_([^\[\]]+)_rmse", key)
    return found[1] if found else None


def _name_error(target, estimator):
    """Return the name of an error with its unit, which is per atom for energies."""
    kinds = estimator.kinds_
    if target == "energy" and target not in estimator.per_structure_targets:
        unit = kinds[target].unit
        return f"energy ({unit}/atom)" if unit else "energy per atom"
    if target in kinds:
        return target + in_brackets(kinds[target].unit)
    # the model knows the unit of its energy only; forces and stress are derivatives of it
    usual = kinds["energy"].unit == KNOWN_KINDS["energy"].unit
    return target + (in_brackets(KNOWN_KINDS[target].unit) if usual else "")
