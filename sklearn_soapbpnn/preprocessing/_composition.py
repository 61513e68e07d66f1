"""Composition baseline: targets of atoms that do not see each other."""

from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from ase.data import atomic_numbers
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import DERIVED_TARGETS, Targets, as_structures, check_elements, find_elements
from ._base import TargetStep, compute_residuals


class CompositionBaseline(RegressorMixin, TargetStep):
    r"""Offset per element, :math:`E^0 = \sum_Z n_Z e_Z`, of every target.

    The weights :math:`e_Z` solve the least-squares problem of the energies on the element counts,
    with the smallest norm where it is singular (all structures of one composition, say), in
    float64. ``transform`` attaches :math:`E^0` to the structures, on top of an offset that they
    carry already, and ``fit`` learns what that offset leaves: nothing is subtracted twice.

    Other targets go the same way, as far as they have a part that no rotation changes: scalars,
    scalar blocks of spherical tensors, and of a Cartesian 3x3 tensor the mean of its diagonal. The
    offset of a target with a value for each atom is its mean over the atoms of an element. That of
    an intensive target is the mean of the weights over the atoms of a structure,
    :math:`\sum_Z n_Z e_Z / \sum_Z n_Z`. A dipole has no such part, and stays as it is.

    Parameters
    ----------
    fixed_weights : mapping, default=None
        Weights that are not to be fitted, e.g. energies of isolated atoms, in the unit of the
        target: ``{element: energy}``, with elements by symbol or atomic number, or for any targets
        ``{target: {element: number}}``, or ``{target: number}`` for all elements. The number
        applies to each invariant component, and is the diagonal of a Cartesian tensor.
    warm_start : bool, default=False
        Keep the elements and the baseline of the fit before, and fit targets that are new only,
        whatever ``fixed_weights`` says of the others: for a Pipeline whose regressor goes on
        learning.

    Attributes
    ----------
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, ascending.
    coef_ : dict of str to array of shape (n_elements, ...)
        For each target that has an invariant part, the value of an atom of each element.
    kinds_ : dict of str to TargetKind
        The kinds of these targets.

    See Also
    --------
    TargetScaler : The scale of what remains.

    Notes
    -----
    Removing the composition is what lets one network serve structures of different size: total
    energies differ by the energies of atoms, binding energies by a thousandth of that.

    With the energy, ``offset["energies"]`` is attached as well: how the energy offset is shared out
    over the atoms.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn import CompositionBaseline
    >>> X = [molecule("H2"), molecule("H2O"), molecule("O2")]
    >>> baseline = CompositionBaseline().fit(X, [-2.0, -12.0, -20.0])
    >>> baseline.coef_["energy"].round(6).tolist()
    [-1.0, -10.0]
    >>> baseline.predict([molecule("H2O2")]).round(6).tolist()
    [-22.0]
    """

    _parameter_constraints: dict = {"fixed_weights": [Mapping, None], "warm_start": ["boolean"]}

    def __init__(self, fixed_weights=None, warm_start=False):
        self.fixed_weights = fixed_weights
        self.warm_start = warm_start

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the weights of the elements.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.
        y : array of shape (n_structures,), or Targets
            Energies, or any targets; NaN in Targets is left out.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If X or y cannot be used, ``fixed_weights`` does not fit them, or X carries a scale
            already, which would be that of total energies.
        """
        structures, residuals = compute_residuals(X, y, sample_weight)
        _check_order(structures, [n for n, r in residuals.items() if _has_baseline(r.kind)])
        elements = find_elements(self, structures)
        keep = self.warm_start and hasattr(self, "coef_")
        kinds, coef = (dict(self.kinds_), dict(self.coef_)) if keep else ({}, {})
        columns = {**kinds, **{name: residual.kind for name, residual in residuals.items()}}
        fixed = check_fixed_weights(self.fixed_weights, kinds=columns)
        for name, residual in residuals.items():
            if kinds.get(name, residual.kind) != residual.kind:
                raise ValueError(
                    f"Target {name!r} is {residual.kind!r}, but {kinds[name]!r} in the fit before. "
                    "Declare it as before, or fit with warm_start=False."
                )
            if name not in kinds and _has_baseline(residual.kind):
                kinds[name] = residual.kind
                coef[name] = _fit_coef(structures, residual, elements, fixed.get(name, {}))
        self.elements_, self.kinds_, self.coef_ = elements, kinds, coef
        return self

    def predict(self, X, targets=None):
        """Return the composition energies, or those of other targets.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.
        targets : str or list of str, default=None
            Names in ``coef_``. None is the energy, or the first target if there is no energy.

        Returns
        -------
        array of shape (n_structures, ...), list of arrays, or Targets
            Targets if ``targets`` is given; a list if the only target is one of atoms.
        """
        check_is_fitted(self)
        names = list(self.coef_) if targets is None else list(np.atleast_1d(targets).tolist())
        unknown = [name for name in names if name not in self.coef_]
        if unknown or not names:
            what = repr(unknown[0]) if unknown else "nothing"
            raise ValueError(
                f"targets names {what}; the targets with a composition baseline are "
                f"{list(self.coef_)}."
            )
        structures = as_structures(X)
        check_elements(structures, self.elements_)
        if targets is None:
            first = self._compute("energy" if "energy" in names else names[0], structures)
            return list(first) if isinstance(first, tuple) else first
        columns = {name: self._compute(name, structures) for name in names}
        return Targets(kinds=self.kinds_, **columns)

    def transform(self, X):
        """Attach the composition baseline of every target in ``coef_``.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.

        Returns
        -------
        Structures
        """
        check_is_fitted(self)
        structures = attached = as_structures(X)
        check_elements(structures, self.elements_)
        for name in self.coef_:
            attached = attached.with_offset(name, self._compute(name, structures))
        if "energy" in self.coef_:
            attached = attached.with_offset("energies", self._share_out("energy", structures))
        return attached

    def _compute(self, name, structures):
        """Offset of one target: an array, or a tuple of arrays if it is one of atoms."""
        if self.kinds_[name].per_atom:
            return self._share_out(name, structures)
        counts = count_elements(structures, self.elements_, self.kinds_[name].intensive)
        return np.tensordot(counts, self.coef_[name], axes=1)

    def _share_out(self, name, structures):
        """Give every atom the value of its element."""
        coef = self.coef_[name]
        return tuple(coef[np.searchsorted(self.elements_, z)] for z in structures.numbers)


def _check_order(structures, names):
    """Raise if a TargetScaler came first: it saw what the baseline is about to take away."""
    scaled = sorted(structures.scale.keys() & set(names))
    if scaled:
        raise ValueError(
            f"X carries the scale of {scaled} already, which was found before the composition "
            "baseline is subtracted and would be far too large. Put CompositionBaseline before "
            "TargetScaler."
        )


def count_elements(structures, elements, as_shares):
    """Count the atoms of each element, or return their shares: (n_structures, n_elements)."""
    counts = np.zeros((len(structures), len(elements)))
    for row, numbers in zip(counts, structures.numbers):
        np.add.at(row, np.searchsorted(elements, numbers), 1.0)
    return counts / structures.n_atoms[:, None] if as_shares else counts


def check_fixed_weights(weights, name="fixed_weights", kinds=None):
    """Return fixed weights as {target: {Z: number} or number}; messages call them ``name``.

    Numbers of elements without a target are energies. With ``kinds``, those of the columns of y,
    the targets must be columns that have a baseline.
    """
    checked = _parse_fixed_weights(weights, name)
    if kinds is None:
        return checked
    known = [
        target
        for target, kind in kinds.items()
        if target not in DERIVED_TARGETS and _has_baseline(kind)
    ]
    for target in checked:
        if target not in known:
            raise ValueError(
                f"{name} names {target!r}, which is no chemical element and no target of y with a "
                f"composition baseline; these are {known}. Elements without a target are those of "
                "'energy'."
            )
    return checked


def _parse_fixed_weights(weights, name):
    weights = weights or {}
    elements = [
        key
        for key, value in weights.items()
        if not isinstance(key, str) or (key in atomic_numbers and not isinstance(value, Mapping))
    ]
    if elements and len(elements) < len(weights):
        others = [key for key in weights if key not in elements]
        raise ValueError(
            f"{name} mixes the elements {elements} with {others}, of which each is no chemical "
            "element. Pass {element: number}, or {target: {element: number}}."
        )
    if elements:
        return {"energy": _check_elements_of(weights, name)}
    checked = {}
    for target, value in weights.items():
        entry = f"{name}[{target!r}]"
        if isinstance(value, Mapping):
            checked[target] = _check_elements_of(value, entry)
        else:
            checked[target] = _check_weight(value, entry)
    return checked


def as_atomic_number(element, name):
    """Return the atomic number of a symbol or number that the argument ``name`` names."""
    number = atomic_numbers.get(element, element)
    if not isinstance(number, Integral) or number not in atomic_numbers.values():
        raise ValueError(f"{name} names {element!r}, which is no chemical element.")
    return int(number)


def _check_elements_of(weights, name):
    """Return numbers by atomic number, from symbols or numbers."""
    return {
        as_atomic_number(element, name): _check_weight(weight, f"{name}[{element!r}]")
        for element, weight in weights.items()
    }


def _check_weight(weight, name):
    if not isinstance(weight, Real) or not np.isfinite(weight):
        raise ValueError(f"{name} must be a finite number, got {weight!r}.")
    return float(weight)


def _fit_coef(structures, residual, elements, fixed):
    """Fit the invariant part of a target: array of shape (n_elements, *kind.shape)."""
    # an invariant is one number in several components, such as the diagonal of a tensor
    basis = (residual.kind.invariants != 0).astype(np.float64)
    values = residual.values @ basis / basis.sum(0)
    known = ~residual.known @ basis == 0
    if not isinstance(fixed, Mapping):
        fixed = dict.fromkeys(elements.tolist(), fixed)
    fixed = np.array([fixed.get(number, np.nan) for number in elements.tolist()])
    if residual.kind.per_atom:
        element = np.searchsorted(elements, np.concatenate(structures.numbers))
        weights = np.where(known, residual.weights[:, None], 0.0)
        coef = _average_elements(element, values, weights, len(elements))
        coef[~np.isnan(fixed)] = fixed[~np.isnan(fixed), None]
    else:
        counts = count_elements(structures, elements, residual.kind.intensive)
        coef = _solve_counts(counts, values, known, np.sqrt(residual.weights), fixed)
    return (coef @ basis.T).reshape(len(elements), *residual.kind.shape)


def _average_elements(element, values, weights, n_elements):
    """Weighted mean of the rows of each element, zero where there is none."""
    total, norm = np.zeros((2, n_elements, values.shape[1]))
    np.add.at(total, element, weights * values)
    np.add.at(norm, element, weights)
    return total / np.where(norm > 0, norm, 1.0)


def _solve_counts(counts, values, known, root_weights, fixed):
    """Least squares of smallest norm, for the weights that are NaN in ``fixed``."""
    free = np.isnan(fixed)
    coef = np.repeat(np.where(free, 0.0, fixed)[:, None], values.shape[1], axis=1)
    if not free.any():
        return coef
    rest = (values - counts @ coef) * root_weights[:, None]
    counts = counts[:, free] * root_weights[:, None]
    # components that are labelled in the same structures share one decomposition
    patterns, members = np.unique(known, axis=1, return_inverse=True)
    for k, rows in enumerate(patterns.T):
        columns = members.ravel() == k
        solution = np.linalg.lstsq(counts[rows], rest[np.ix_(rows, columns)], rcond=None)[0]
        coef[np.ix_(free, columns)] = solution
    return coef


def _has_baseline(kind):
    """Whether atoms can be said to add to a value by themselves: not to a stress."""
    return kind.invariants.size > 0 and not kind.per_volume
