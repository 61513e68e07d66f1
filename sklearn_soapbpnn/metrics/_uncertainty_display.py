"""Plot of errors against their predicted standard deviations, in the manner of scikit-learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.stats import norm

from ..data import Frames, Labels, Values, as_structures, as_targets
from ._plots import draw_points, import_matplotlib, in_brackets, name_unit
from ._scorers import predict_target
from ._uncertainty import find_labelled, mean_squared_z_score, miscalibration_area

LEVELS = {0.5: ":", 0.68: "--", 0.95: "-"}


class UncertaintyDisplay:
    r"""Absolute errors against predicted standard deviations.

    If errors are Gaussian, 50 %, 68 % and 95 % of them are below the three lines; the legend tells
    how many are. The large dots are the errors below which 50 %, 68 % and 95 % are, for a tenth of
    the labels each, by their standard deviation: they should be on the lines everywhere. The title
    contains the :func:`mean_squared_z_score` and the :func:`miscalibration_area`. Smaller errors
    than 1/50 of the smallest standard deviation are drawn at the lower edge.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. All parameters are stored as
    attributes.

    Parameters
    ----------
    y_true, y_pred, y_std : array-like, or list of arrays
        Labels, predictions and their standard deviations in one unit and of the same shape; lists
        have an array for each structure, as per-atom targets do. NaN in y_true means not labelled
        and is ignored.
    unit : str, default=""
        Unit of all three, for the labels of the axes.
    name : str, default=None
        What is predicted, for the title.

    Attributes
    ----------
    points_ : matplotlib Artist
        A dot for each label; if there are more than 1000, hexagons whose colour is the number of
        labels.
    lines_ : dict of float to matplotlib Artist
        The lines of 0.5, 0.68 and 0.95.
    quantiles_ : list of matplotlib Artist
        The large dots, in the same order.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    summarize_uncertainty : The numbers, for all targets.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_soapbpnn.metrics import UncertaintyDisplay
    >>> rng = np.random.default_rng(0)
    >>> std = rng.uniform(0.1, 1.0, size=500)
    >>> shown = UncertaintyDisplay.from_predictions(rng.normal(0.0, std), 0 * std, std, unit="eV")
    >>> shown.ax_.get_xlabel()
    'predicted standard deviation (eV)'
    """

    def __init__(
        self,
        *,
        y_true: Values,
        y_pred: Values,
        y_std: Values,
        unit: str = "",
        name: str | None = None,
    ) -> None:
        self.y_true = y_true
        self.y_pred = y_pred
        self.y_std = y_std
        self.unit = unit
        self.name = name

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Frames, y: Labels, *, target: str = "forces", ax: Any = None
    ) -> Self:
        """Plot the errors of an estimator that predicts standard deviations.

        Parameters
        ----------
        estimator : estimator
            A fitted regressor, a Pipeline or a search, as for :func:`make_uncertainty_scorer`.
        X : sequence of ase.Atoms, or Structures
            Structures that the estimator was not trained on.
        y : array of shape (n_structures,), or Targets
            Their labels.
        target : str, default="forces"
            Name of a column of y, or ``"energy per atom"``.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.

        Returns
        -------
        display : UncertaintyDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator does not predict the target or its standard deviation.
        ValueError
            If y has no labels of the target.
        """
        y = as_targets(y, as_structures(X))
        columns = predict_target(estimator, X, y, target, return_std=True)
        unit = name_unit(y.kinds, target)
        return cls.from_predictions(*columns, unit=unit, name=target, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Values,
        y_pred: Values,
        y_std: Values,
        *,
        unit: str = "",
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Plot errors that are known already.

        Parameters
        ----------
        y_true, y_pred, y_std, unit, name
            See :class:`UncertaintyDisplay`.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.

        Returns
        -------
        display : UncertaintyDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            As in :func:`negative_log_likelihood`.
        """
        display = cls(y_true=y_true, y_pred=y_pred, y_std=y_std, unit=unit, name=name)
        return display.plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the errors.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.

        Returns
        -------
        self : UncertaintyDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            As in :func:`negative_log_likelihood`.
        """
        known, predicted, std = find_labelled(self.y_true, self.y_pred, self.y_std)
        error = np.abs(known - predicted)
        matplotlib = import_matplotlib()
        self.ax_ = matplotlib.pyplot.subplots()[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        ends = _find_ends(std)
        # a logarithmic axis has no zero
        floor = std.min() / 50
        self.ax_.set(xscale="log", yscale="log")
        density = {"xscale": "log", "yscale": "log", "gridsize": 40}
        self.points_ = draw_points(self.ax_, std, np.maximum(error, floor), **density)
        self.lines_ = {level: _draw_line(self.ax_, level, std, error, ends) for level in LEVELS}
        self.quantiles_ = _draw_quantiles(self.ax_, std, error)
        unit = in_brackets(self.unit)
        self.ax_.set(
            xlim=ends,
            ylim=(floor, 8 * max(error.max(), ends[1])),  # with room for the legend
            xlabel=f"predicted standard deviation{unit}",
            ylabel=f"absolute error{unit}",
            title=self._make_title(),
        )
        if ends[1] < 300 * ends[0]:
            _set_ticks(self.ax_.xaxis, matplotlib.ticker)
        self.ax_.legend(title="errors below the line", loc="upper left", fontsize="small")
        return self

    def _make_title(self):
        columns = self.y_true, self.y_pred, self.y_std
        quality = (
            rf"$\langle z^2 \rangle$ = {mean_squared_z_score(*columns):.2f}, "
            f"miscalibration area {miscalibration_area(*columns):.3f}"
        )
        return f"{self.name}: {quality}" if self.name else quality


def _find_ends(std):
    """Return the ends of the horizontal axis, which spans a decade at least."""
    margin = max(1.2, np.sqrt(10 * std.min() / std.max()))
    return std.min() / margin, std.max() * margin


def _draw_line(ax, level, std, error, ends):
    """Draw the error below which a share of the labels should be; the legend says how many are."""
    quantile = norm.ppf((1 + level) / 2)
    observed = np.mean(error <= quantile * std)
    label = f"{level:.0%} expected, {observed:.0%} observed"
    (line,) = ax.plot(
        ends, quantile * np.array(ends), LEVELS[level], color="black", lw=1, label=label
    )
    return line


def _draw_quantiles(ax, std, error):
    """Draw the errors below which the shares are, in groups of similar standard deviation."""
    groups = np.array_split(np.argsort(std), min(10, len(std) // 20 + 1))
    std = [np.median(std[group]) for group in groups]
    heights = [np.quantile(error[group], [*LEVELS]) for group in groups]
    dots = ax.plot(std, heights, "o", color="tab:orange", ms=4)
    dots[0].set_label("observed, by standard deviation")
    return dots


def _set_ticks(axis, ticker):
    """Label 1, 2 and 5 of each decade, as there are few decades."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())
