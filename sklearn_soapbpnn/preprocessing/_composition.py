"""Composition baseline: the part of a target that depends on the numbers of atoms only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import (
    Frames,
    Labels,
    Structures,
    TargetKind,
    Targets,
    as_structures,
    check_elements,
    find_elements,
    suggest,
)
from ._base import TargetStep, compute_residuals, has_baseline
from ._fixed_weights import check_fixed_weights


class CompositionBaseline(RegressorMixin, TargetStep):
    r"""Baseline of the targets to which each element contributes a constant value per atom.

    .. math:: E^0 = \sum_Z n_Z e_Z

    The weights :math:`e_Z` of the elements are a least-squares fit of the energies to the numbers
    of atoms :math:`n_Z`, in float64. If the solution is not unique (e.g. if all structures have the
    same composition), it is the one with the smallest norm. ``transform`` attaches :math:`E^0` to
    the structures as an offset. If they already have an offset, ``fit`` uses the residual and
    ``transform`` adds to the offset, so nothing is subtracted twice.

    Other targets are treated in the same way if they have a rotationally invariant part: scalars,
    scalar blocks of spherical tensors, and the mean of the diagonal of a Cartesian 3x3 tensor. For
    a per-atom target the weight of an element is the mean over its atoms. For an intensive target
    the offset is the mean over the atoms, :math:`\sum_Z n_Z e_Z / \sum_Z n_Z`. Targets without an
    invariant part, such as a dipole, and targets per volume, such as a stress, have no baseline.

    Parameters
    ----------
    fixed_weights : mapping, default=None
        Weights to use instead of fitted ones, e.g. energies of isolated atoms, in the unit of the
        target: ``{element: energy}``, with elements by symbol or atomic number; for any target
        ``{target: {element: number}}``, or ``{target: number}`` for all elements. The number
        applies to each invariant component; for a Cartesian tensor it is the diagonal.
    warm_start : bool, default=False
        Whether to keep the elements and the baseline of the previous fit, so that only new targets
        are fitted; ``fixed_weights`` then applies to new targets only. Meant for a Pipeline whose
        regressor continues training.

    Attributes
    ----------
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, in ascending order.
    coef_ : dict of str to array of shape (n_elements, ...)
        For each target with a baseline the weight of each element, in the unit of the target.
    kinds_ : dict of str to TargetKind
        Kinds of these targets.

    See Also
    --------
    TargetScaler : The scale of the residual.

    Notes
    -----
    The baseline makes it possible to train one network on structures of different sizes: total
    energies differ by the energies of atoms, binding energies by a thousandth of that.

    For the energy, ``offset["energies"]`` is attached as well: the contribution of each atom to the
    energy offset.

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

    kinds_: dict[str, TargetKind]
    coef_: dict[str, Any]

    _parameter_constraints: dict = {"fixed_weights": [Mapping, None], "warm_start": ["boolean"]}

    def __init__(
        self, fixed_weights: Mapping[Any, Any] | None = None, warm_start: bool = False
    ) -> None:
        self.fixed_weights = fixed_weights
        self.warm_start = warm_start

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Frames, y: Labels, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the weights of the elements.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.
        y : array of shape (n_structures,), or Targets
            Energies, or any targets; missing labels (NaN) in Targets are ignored.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If X is not a sequence of structures.
        ValueError
            If y does not match X, has no target other than derivatives of the energy, or has only
            labels of zero weight; if ``fixed_weights`` is invalid or names an unknown element or
            target; or if X has a scale attached, which comes from a TargetScaler before this step
            and would be the scale of total energies. With ``warm_start=True`` also if X contains
            new elements or a target is of another kind than before.
        """
        structures, residuals = compute_residuals(X, y, sample_weight)
        _check_order(structures, [n for n, r in residuals.items() if has_baseline(r.kind)])
        elements = find_elements(self, structures)
        keep = self.warm_start and hasattr(self, "coef_")
        kinds, coef = (dict(self.kinds_), dict(self.coef_)) if keep else ({}, {})
        columns = {**kinds, **{name: residual.kind for name, residual in residuals.items()}}
        fixed = check_fixed_weights(self.fixed_weights, kinds=columns)
        for name, residual in residuals.items():
            if kinds.get(name, residual.kind) != residual.kind:
                raise ValueError(
                    f"Target {name!r} is {residual.kind!r}, but was {kinds[name]!r} in the "
                    "previous fit. Declare the same kind, or fit with warm_start=False."
                )
            if name not in kinds and has_baseline(residual.kind):
                kinds[name] = residual.kind
                coef[name] = _fit_coef(structures, residual, elements, fixed.get(name, {}))
        self.elements_, self.kinds_, self.coef_ = elements, kinds, coef
        return self

    def predict(self, X: Frames, targets: str | Sequence[str] | None = None) -> Any:
        """Return the baseline of the energy, or of other targets.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        targets : str or list of str, default=None
            Names in ``coef_``. None means the energy, or the first target if there is no energy.

        Returns
        -------
        array of shape (n_structures, ...), list of arrays, or Targets
            Without ``targets`` an array or, for a per-atom target, a list of arrays of shape
            (n_atoms, ...). With ``targets``, Targets with these columns.

        Raises
        ------
        NotFittedError
            If the step is not fitted.
        TypeError
            If X is not a sequence of structures.
        ValueError
            If a name is not in ``coef_``, or X contains elements absent from fit.

        Examples
        --------
        >>> from ase.build import molecule
        >>> from sklearn_soapbpnn import CompositionBaseline
        >>> baseline = CompositionBaseline(fixed_weights={"H": -1.0, "O": -10.0})
        >>> baseline = baseline.fit([molecule("H2O")], [-12.5])
        >>> baseline.predict([molecule("H2O2")]).tolist()
        [-22.0]
        >>> baseline.predict([molecule("H2O2")], targets=["energy"])
        Targets(1 structures: energy)
        """
        check_is_fitted(self)
        names = list(self.coef_) if targets is None else list(np.atleast_1d(targets).tolist())
        unknown = [name for name in names if name not in self.coef_]
        if unknown or not names:
            what = repr(unknown[0]) if unknown else "nothing"
            raise ValueError(
                f"targets names {what}; the targets with a composition baseline are "
                f"{list(self.coef_)}.{suggest(unknown[0], self.coef_) if unknown else ''}"
            )
        structures = as_structures(X)
        check_elements(structures, self.elements_)
        if targets is None:
            first = self._compute("energy" if "energy" in names else names[0], structures)
            return list(first) if isinstance(first, tuple) else first
        columns = {name: self._compute(name, structures) for name in names}
        return Targets(kinds=self.kinds_, **columns)

    def transform(self, X: Frames) -> Structures:
        """Attach the baseline of every target in ``coef_`` as an offset.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.

        Returns
        -------
        Structures
            Structures with ``offset``; an offset that X already has is added.

        Raises
        ------
        NotFittedError
            If the step is not fitted.
        TypeError
            If X is not a sequence of structures.
        ValueError
            If X contains elements absent from fit.

        Examples
        --------
        >>> from ase.build import molecule
        >>> from sklearn_soapbpnn import CompositionBaseline
        >>> X = [molecule("H2"), molecule("O2")]
        >>> baseline = CompositionBaseline().fit(X, [-2.0, -20.0])
        >>> baseline.transform(X).offset["energy"].round(6).tolist()
        [-2.0, -20.0]
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
        """Return the offset of one target: an array, or a tuple of arrays for a per-atom target."""
        if self.kinds_[name].per_atom:
            return self._share_out(name, structures)
        counts = count_elements(structures, self.elements_, self.kinds_[name].intensive)
        return np.tensordot(counts, self.coef_[name], axes=1)

    def _share_out(self, name, structures):
        """Return the weight of its element for every atom, as one array per structure."""
        coef = self.coef_[name]
        return tuple(coef[np.searchsorted(self.elements_, z)] for z in structures.numbers)


def _check_order(structures, names):
    """Raise if a TargetScaler came first: it was fitted on targets that include the baseline."""
    scaled = sorted(structures.scale.keys() & set(names))
    if scaled:
        raise ValueError(
            f"X carries the scale of {scaled} already. It was fitted before the composition "
            "baseline is subtracted, so it is far too large. Put CompositionBaseline before "
            "TargetScaler."
        )


def count_elements(structures, elements, as_shares):
    """Count the atoms of each element, or return their shares: (n_structures, n_elements)."""
    counts = np.zeros((len(structures), len(elements)))
    for row, numbers in zip(counts, structures.numbers):
        np.add.at(row, np.searchsorted(elements, numbers), 1.0)
    return counts / structures.n_atoms[:, None] if as_shares else counts


def _fit_coef(structures, residual, elements, fixed):
    """Fit the weights of a target: array of shape (n_elements, *kind.shape)."""
    # an invariant may occupy several components, such as the diagonal of a tensor
    components = residual.kind.invariant_components
    values = residual.values[:, components].mean(1)
    known = residual.known[:, components].all(1)
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
    result = np.zeros((len(elements), residual.kind.size))
    result[:, components] = coef[:, None]
    return result.reshape(len(elements), *residual.kind.shape)


def _average_elements(element, values, weights, n_elements):
    """Return the weighted mean of the rows of each element; zero for an element without rows."""
    total, norm = np.zeros((2, n_elements, values.shape[1]))
    np.add.at(total, element, weights * values)
    np.add.at(norm, element, weights)
    return total / np.where(norm > 0, norm, 1.0)


def _solve_counts(counts, values, known, root_weights, fixed):
    """Fit the weights that are NaN in ``fixed`` by least squares with the smallest norm."""
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
