"""Plot of predictions against labels, in the manner of scikit-learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..data import Frames, Labels, Values, as_structures, as_targets, symbols
from ._errors import PER_ATOM, compute_errors
from ._plots import draw_points, import_matplotlib, in_brackets, name_unit
from ._scorers import predict_target
from ._uncertainty import find_labelled

# number of labels beyond which density is easier to read than dots of several colours
MANY_COLOURED = 20_000
# a legend with more elements than colours says nothing
N_COLOURS = 10


class ParityDisplay:
    """Predictions against labels, on the line if they are right.

    The title contains the mean absolute and the root mean square error. The components of vectors
    and tensors are drawn together. The elements of per-atom targets have a colour each, unless
    there are more than 10 elements or 20 000 labels.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. All parameters are stored as
    attributes.

    Parameters
    ----------
    y_true, y_pred : array-like, or list of arrays
        Labels and predictions in one unit and of the same shape; lists have an array for each
        structure, as per-atom targets do. NaN in y_true means not labelled and is ignored.
    unit : str, default=""
        Unit of both, for the title and the axes.
    name : str, default=None
        What is predicted, for the title.
    elements : array of str of shape (n_atoms,), default=None
        Chemical symbol of each atom of all structures, for the colours of a per-atom target.

    Attributes
    ----------
    points_ : matplotlib Artist
        A dot for each label; if there are more than 1000 of one colour, hexagons whose colour is
        the number of labels.
    line_ : matplotlib Artist
        The line on which predictions are equal to labels.
    errors_ : dict of str to float
        The ``"mae"`` and ``"rmse"`` in the title.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    summarize_errors : The errors of all targets.
    UncertaintyDisplay : Errors against error bars.

    Examples
    --------
    >>> from sklearn_soapbpnn.metrics import ParityDisplay
    >>> shown = ParityDisplay.from_predictions([1.0, 2.0], [1.5, 2.0], unit="eV", name="gap")
    >>> shown.ax_.get_title()
    'gap: MAE 0.25, RMSE 0.354 eV'
    """

    def __init__(
        self,
        *,
        y_true: Values,
        y_pred: Values,
        unit: str = "",
        name: str | None = None,
        elements: Values | None = None,
    ) -> None:
        self.y_true = y_true
        self.y_pred = y_pred
        self.unit = unit
        self.name = name
        self.elements = elements

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Frames, y: Labels, *, target: str = PER_ATOM, ax: Any = None
    ) -> Self:
        """Plot the predictions of an estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted regressor, a Pipeline or a search, as for :func:`make_target_scorer`.
        X : sequence of ase.Atoms, or Structures
            Structures that the estimator was not trained on.
        y : array of shape (n_structures,), or Targets
            Their labels.
        target : str, default="energy per atom"
            Name of a column of y, or ``"energy per atom"``.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.

        Returns
        -------
        display : ParityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator does not predict the target.
        ValueError
            If y has no labels of the target.
        """
        structures = as_structures(X)
        y = as_targets(y, structures)
        columns = predict_target(estimator, X, y, target)
        elements = None
        if target != PER_ATOM and y.kinds[target].per_atom:
            elements = np.array(symbols(np.concatenate(structures.numbers)))
        unit = name_unit(y.kinds, target)
        return cls.from_predictions(*columns, unit=unit, name=target, elements=elements, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Values,
        y_pred: Values,
        *,
        unit: str = "",
        name: str | None = None,
        elements: Values | None = None,
        ax: Any = None,
    ) -> Self:
        """Plot predictions that are known already.

        Parameters
        ----------
        y_true, y_pred, unit, name, elements
            See :class:`ParityDisplay`.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.

        Returns
        -------
        display : ParityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the shapes differ, there is no label, or a labelled value is not finite.
        """
        return cls(y_true=y_true, y_pred=y_pred, unit=unit, name=name, elements=elements).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the predictions.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.

        Returns
        -------
        self : ParityDisplay

        Raises
        ------
        ImportError, ValueError
            As in :meth:`from_predictions`.
        """
        known, predicted = find_labelled(self.y_true, self.y_pred)
        elements = self._find_elements()
        pyplot = import_matplotlib().pyplot
        self.errors_ = compute_errors(known, predicted)
        self.ax_ = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        if elements is None:
            self.points_ = draw_points(self.ax_, known, predicted, gridsize=60)
        else:
            colors = pyplot.get_cmap("tab10").colors
            self.points_ = _draw_elements(self.ax_, known, predicted, elements, colors)
        ends = _find_ends(known, predicted)
        (self.line_,) = self.ax_.plot(ends, ends, color="black", lw=1)
        self.ax_.locator_params(nbins=5)  # energies have many digits
        unit = in_brackets(self.unit)
        self.ax_.set(
            xlim=ends,
            ylim=ends,
            aspect="equal",
            xlabel=f"label{unit}",
            ylabel=f"prediction{unit}",
            title=self._make_title(),
        )
        return self

    def _find_elements(self):
        """Return the symbol of the atom of each labelled component; None without colours."""
        if self.elements is None:
            return None
        elements = np.concatenate([np.ravel(part) for part in _as_parts(self.elements)])
        known = np.concatenate([np.asarray(part, dtype=float) for part in _as_parts(self.y_true)])
        if len(elements) != len(known):
            raise ValueError(
                f"elements must have an entry for each of the {len(known)} atoms in y_true, got "
                f"{len(elements)}."
            )
        elements = np.repeat(elements, known.size // len(known))[~np.isnan(known).ravel()]
        n_elements = len(np.unique(elements))
        return elements if n_elements <= N_COLOURS and len(elements) <= MANY_COLOURED else None

    def _make_title(self):
        errors = "MAE {mae:.3g}, RMSE {rmse:.3g}".format(**self.errors_)
        errors = f"{errors} {self.unit}".rstrip()
        return f"{self.name}: {errors}" if self.name else errors


def _as_parts(values):
    """Return a list of arrays as it is, and anything else as the only entry of a list."""
    is_list = isinstance(values, list | tuple) and any(np.ndim(entry) for entry in values)
    return values if is_list else [values]


def _find_ends(known, predicted):
    """Return the ends of both axes, with a margin."""
    low, high = (end(end(known), end(predicted)) for end in (min, max))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _draw_elements(ax, known, predicted, elements, colors):
    """Draw the labels in random order, so that no element hides the others."""
    names, which = np.unique(elements, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(known))
    points = ax.scatter(
        *(known[order], predicted[order]),
        **{"s": 12, "alpha": 0.5, "linewidths": 0, "c": np.array(colors)[which[order]]},
    )
    for name, color in zip(names, colors):
        ax.scatter([], [], s=12, linewidths=0, color=[color], label=name)
    ax.legend(loc="upper left", fontsize="small")
    return points
