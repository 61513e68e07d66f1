"""Composition baseline: energies of atoms that do not see each other."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
from ase.data import atomic_numbers
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import as_structures, check_elements
from ._base import TargetStep, check_residual


class CompositionBaseline(RegressorMixin, TargetStep):
    r"""Energy offset per element, :math:`E^0 = \sum_Z n_Z e_Z`.

    The weights :math:`e_Z` solve the least-squares problem of the energies on the element counts,
    with the smallest norm where it is singular (all structures of one composition, say), in
    float64. ``transform`` attaches :math:`E^0` to the structures, on top of an offset that they
    carry already, and ``fit`` learns what that offset leaves: nothing is subtracted twice.

    Parameters
    ----------
    fixed_weights : mapping of str or int to float, default=None
        Energies of elements that are not to be fitted, by symbol or atomic number, e.g. of
        isolated atoms, in the unit of the energies.

    Attributes
    ----------
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, ascending.
    coef_ : array of shape (n_elements,)
        Energy of an atom of each element.

    See Also
    --------
    TargetScaler : The scale of what remains.

    Notes
    -----
    Removing the composition is what lets one network serve structures of different size: total
    energies differ by the energies of atoms, binding energies by a thousandth of that.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn import CompositionBaseline
    >>> X = [molecule("H2"), molecule("H2O"), molecule("O2")]
    >>> baseline = CompositionBaseline().fit(X, [-2.0, -12.0, -20.0])
    >>> baseline.coef_.round(6).tolist()
    [-1.0, -10.0]
    >>> baseline.predict([molecule("H2O2")]).round(6).tolist()
    [-22.0]
    """

    _parameter_constraints: dict = {"fixed_weights": [Mapping, None]}

    def __init__(self, fixed_weights=None):
        self.fixed_weights = fixed_weights

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the energies of the elements.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.
        y : array of shape (n_structures,), or Targets
            Energies; NaN in Targets is left out.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures.

        Returns
        -------
        self
        """
        X = as_structures(X)
        structures, _, residual, weights = check_residual(X, y, sample_weight)
        self.elements_ = X.elements
        known = check_fixed_weights(self.fixed_weights)
        fixed = np.array([known.get(int(number), np.nan) for number in self.elements_])
        counts = count_elements(structures, self.elements_)
        self.coef_ = _solve_weights(counts, residual, np.sqrt(weights), fixed)
        return self

    def predict(self, X):
        """Return the composition energies.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.

        Returns
        -------
        array of shape (n_structures,)
        """
        check_is_fitted(self)
        structures = as_structures(X)
        check_elements(structures, self.elements_)
        return count_elements(structures, self.elements_) @ self.coef_

    def transform(self, X):
        """Attach the composition energies.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.

        Returns
        -------
        Structures
        """
        structures = as_structures(X)
        return structures.with_offset("energy", self.predict(structures))


def count_elements(structures, elements):
    """Count the atoms of each element: array of shape (n_structures, n_elements)."""
    counts = np.zeros((len(structures), len(elements)))
    for row, numbers in zip(counts, structures.numbers):
        np.add.at(row, np.searchsorted(elements, numbers), 1.0)
    return counts


def check_fixed_weights(weights, name="fixed_weights"):
    """Return weights by atomic number, from symbols or numbers; messages call them ``name``."""
    checked = {}
    for element, weight in (weights or {}).items():
        number = atomic_numbers.get(element, element)
        if isinstance(number, str) or number not in atomic_numbers.values():
            raise ValueError(f"{name} names {element!r}, which is no chemical element.")
        if not isinstance(weight, Real) or not np.isfinite(weight):
            raise ValueError(f"{name}[{element!r}] must be a finite number, got {weight!r}.")
        checked[int(number)] = float(weight)
    return checked


def _solve_weights(counts, energies, root_weights, fixed):
    """Least squares of smallest norm for the weights that are NaN in ``fixed``."""
    free = np.isnan(fixed)
    coef = np.where(free, 0.0, fixed)
    if free.any():
        rest = (energies - counts @ coef) * root_weights
        coef[free] = np.linalg.lstsq(counts[:, free] * root_weights[:, None], rest)[0]
    return coef
