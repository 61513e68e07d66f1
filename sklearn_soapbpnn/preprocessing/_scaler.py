"""Target scaling: typical sizes of the residuals that the network has to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import (
    DERIVED_TARGETS,
    N_NUMBERS,
    Frames,
    Labels,
    Structures,
    as_structures,
    as_targets,
    expand_scale,
    subtract_forces,
    subtract_strain_gradient,
    suggest,
)
from ._base import TargetStep, compute_residuals
from ._fixed_weights import check_scales

# relative size of the residual of a least-squares fit that is exact up to rounding
ROUNDING = 1e-12
# length by which forces are multiplied to compare them with energies, in the unit of the positions;
# chosen by the errors for molecules, crystals and alloys, which hardly differ between 1 and 4
FORCE_LENGTH = 2.0


class TargetScaler(TargetStep):
    r"""Scale of each target: the root mean square of the residual per atom.

    .. math:: s^2 = \frac{1}{N} \sum_A \left( \frac{E_A - E^0_A}{n_A} \right)^2

    The sum is over the N structures A with :math:`n_A` atoms, and :math:`E^0` is the offset. The
    mean of the residuals is not subtracted. ``transform`` attaches :math:`s` to the structures. The
    network is trained on energies, forces and stresses divided by :math:`s`, and its output is
    multiplied by :math:`s`.

    The energy and its derivatives share one scale. It is the largest of this :math:`s`, the RMS of
    the force components times a length of 2 (in the unit of the positions), and the RMS of the
    components of the strain gradient (stress times volume) per atom, if they are labelled. The
    reason is that a potential has to resolve forces: near a minimum, energies hardly differ, and if
    forces were divided by their spread alone, they would be too large for the network.

    A per-atom target has one scale per element. A target with several properties or spherical
    blocks has one scale for each of them, common to all components m. A target per volume, such as
    a stress, is multiplied by the volume of the cell first; an intensive target is not divided by
    the number of atoms.

    Parameters
    ----------
    fixed_weights : mapping of str to float, sequence or mapping, default=None
        Scales to use instead of fitted ones, in the unit of the target: ``{"energy": 0.1}``; for a
        target with several scales a sequence of numbers; for a per-atom target
        ``{"charges": {"H": 0.1, 8: 0.3}}``. A single number applies to all properties and elements.
    per_structure_targets : sequence of str, default=()
        Targets that are not divided by the number of atoms. Intensive targets never are, and need
        not be named.
    warm_start : bool, default=False
        Whether to keep the scales of the previous fit, so that only new targets are fitted;
        ``fixed_weights`` then applies to new targets only. Meant for a Pipeline whose regressor
        continues training.

    Attributes
    ----------
    scale_ : dict of str to float or array
        Scale of each target, in its unit: a number, an array of shape (n_scales,), or for a
        per-atom target a table of shape (119, n_scales) indexed by atomic number.

    See Also
    --------
    CompositionBaseline : The offset, to be subtracted first.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn import TargetScaler
    >>> TargetScaler().fit([molecule("H2"), molecule("O2")], [-1.0, 1.0]).scale_
    {'energy': 0.5}
    """

    scale_: dict[str, Any]

    _parameter_constraints: dict = {
        "fixed_weights": [Mapping, None],
        "per_structure_targets": ["array-like"],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        fixed_weights: Mapping[str, Any] | None = None,
        per_structure_targets: Sequence[str] = (),
        warm_start: bool = False,
    ) -> None:
        self.fixed_weights = fixed_weights
        self.per_structure_targets = per_structure_targets
        self.warm_start = warm_start

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Frames, y: Labels, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the scales.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures. If they have an offset attached, it is subtracted from the labels.
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
            target; if ``per_structure_targets`` names an unknown target; or if a target per volume
            has no label of a structure with a cell. With ``warm_start=True`` also if a target is of
            another kind than before.
        """
        structures, residuals = compute_residuals(X, y, sample_weight)
        y = as_targets(y, structures)
        scale = dict(self.scale_) if self.warm_start and hasattr(self, "scale_") else {}
        for name in residuals.keys() & scale.keys():
            # raises if the target is of another kind than before
            expand_scale(structures.with_scale(name, scale[name]), name, residuals[name].kind)
        new = {name: residual for name, residual in residuals.items() if name not in scale}
        weights = {n: w for n, w in (self.fixed_weights or {}).items() if n not in scale}
        fixed = check_scales(weights, kinds={name: residual.kind for name, residual in new.items()})
        extensive = set(new) - set(self.per_structure_targets)
        unknown = set(self.per_structure_targets) - {*scale, *new, *DERIVED_TARGETS}
        if unknown:
            raise ValueError(
                f"per_structure_targets names {sorted(unknown)}; y has {list(residuals)}."
                f"{suggest(min(unknown), residuals)}"
            )
        for name, residual in new.items():
            at_least = 0.0
            if name == "energy":
                at_least = _measure_derivatives(structures, y, residual, self.per_structure_targets)
            is_extensive = name in extensive
            scale[name] = _fit_scale(
                name, structures, residual, is_extensive, fixed.get(name), at_least
            )
        self.scale_ = scale
        return self

    def transform(self, X: Frames) -> Structures:
        """Attach the scale of every target in ``scale_``.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.

        Returns
        -------
        Structures
            Structures with ``scale``.

        Raises
        ------
        NotFittedError
            If the step is not fitted.
        TypeError
            If X is not a sequence of structures.

        Examples
        --------
        >>> from ase.build import molecule
        >>> from sklearn_soapbpnn import TargetScaler
        >>> X = [molecule("H2"), molecule("O2")]
        >>> dict(TargetScaler().fit(X, [-1.0, 1.0]).transform(X).scale)
        {'energy': 0.5}
        """
        check_is_fitted(self)
        structures = as_structures(X)
        for name, scale in self.scale_.items():
            structures = structures.with_scale(name, scale)
        return structures


def _measure_derivatives(structures, targets, energy, per_structure):
    """Return the larger of RMS force times length and RMS strain gradient; 0 without labels."""
    sizes = []
    if "forces" in targets:
        forces = subtract_forces(structures, targets)
        weights = np.repeat(energy.weights, structures.n_atoms)
        sizes.append(FORCE_LENGTH * _root_mean_square(forces, weights))
    if {"stress", "virial"} & {*targets.names}:
        gradients = subtract_strain_gradient(structures, targets).reshape(-1, 9)
        if not {"stress", "virial"} & {*per_structure}:
            gradients = gradients / structures.n_atoms[:, None]
        sizes.append(_root_mean_square(gradients, energy.weights))
    labels = np.where(energy.known, energy.labels / structures.n_atoms[:, None], np.nan)
    # forces that are zero by symmetry are only rounding noise
    smallest = ROUNDING * _root_mean_square(labels, energy.weights)
    return max((size for size in sizes if size > smallest), default=0.0)


def _root_mean_square(values, weights):
    """Return the weighted RMS of all components that are not NaN; 0 if there are none."""
    weights = np.where(np.isfinite(values), weights[:, None], 0.0)
    if not weights.any():
        return 0.0
    return float(np.sqrt(np.sum(weights * np.nan_to_num(values) ** 2) / weights.sum()))


def _fit_scale(name, structures, residual, extensive, fixed, at_least):
    """Return the scale of one target, in the layout of ``Structures.scale``."""
    kind = residual.kind
    if kind.per_atom:
        scale = np.ones((N_NUMBERS, kind.n_scales))
        rows = np.concatenate(structures.numbers)
    else:
        scale = np.ones((1, kind.n_scales))
        rows = np.zeros(len(structures), dtype=int)
    if fixed is None or isinstance(fixed, Mapping):
        factor = _per_atom_factor(name, structures, residual, extensive)
        scale = np.maximum(_compute_scale(residual, factor, rows, len(scale)), at_least)
        scale[scale == 0] = 1.0
        for number, value in (fixed or {}).items():
            scale[number] = value
    else:
        scale[:] = fixed
    if kind.per_atom:
        return scale
    return float(scale[0, 0]) if kind.n_scales == 1 else scale[0]


def _per_atom_factor(name, structures, residual, extensive):
    """Return the factor that converts a label to its value per atom, one number per row."""
    factor = np.ones(len(structures))
    if residual.kind.per_volume:
        factor = structures.volumes
        if not (residual.known.any(1) & (factor[residual.structure] > 0)).any():
            raise ValueError(
                f"Target {name!r} of y: no structure with a label has a cell of finite volume. Set "
                "the cells, or leave the target out."
            )
    if extensive and not (residual.kind.per_atom or residual.kind.intensive):
        factor = factor / structures.n_atoms
    return factor[residual.structure]


def _compute_scale(residual, factor, rows, n_rows):
    """Return the weighted RMS, one row per value of ``rows``; 0 if only rounding noise is left."""
    kind = residual.kind
    # a factor of zero means a cell without volume; such structures are ignored
    weights = np.where(residual.known & (factor > 0)[:, None], residual.weights[:, None], 0.0)

    def add_up(values):
        total = np.zeros((n_rows, kind.n_scales))
        np.add.at(total, (rows[:, None], kind.scale_index[None, :]), values)
        return total

    norm = add_up(weights)
    residual_rms, label_rms = (
        np.sqrt(add_up(weights * (factor[:, None] * values) ** 2) / np.where(norm > 0, norm, 1.0))
        for values in (residual.values, residual.labels)
    )
    # a residual that is only rounding noise has no scale
    return np.where(residual_rms > ROUNDING * label_rms, residual_rms, 0.0)
