"""Target scaling: the size of what the network has to learn."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import (
    DERIVED_TARGETS,
    N_NUMBERS,
    as_structures,
    as_targets,
    expand_scale,
    subtract_forces,
    subtract_strain_gradient,
)
from ._base import TargetStep, compute_residuals
from ._composition import as_atomic_number

# relative size of what least squares leaves of labels that it can explain
ROUNDING = 1e-12
# what forces are multiplied by to compare them with energies, in the unit of the positions; chosen
# by errors on molecules, crystals and alloys, which hardly differ between 1 and 4
FORCE_LENGTH = 2.0


class TargetScaler(TargetStep):
    r"""Scale of the targets: the uncentred RMS of what the offset leaves, per atom.

    .. math:: s^2 = \frac{1}{N} \sum_A \left( \frac{E_A - E^0_A}{n_A} \right)^2

    Energies share one scale with their derivatives: the largest of this :math:`s`, the RMS of the
    force components times a length of 2 (in the unit of the positions), and the RMS of the
    components of the strain gradient (stress times volume) per atom, as far as they are labelled.
    Forces are what a potential has to resolve: near a minimum energies hardly differ, and divided
    by their spread alone forces would be too large for the network.

    ``transform`` attaches :math:`s` to the structures; the network learns energies, forces and
    stresses divided by it, and its output is multiplied by it. A target with a value for each atom
    has a scale for each element, a target of several properties or spherical blocks one for each
    of them, over all its components m; a stress-like one counts times the volume of the cell, an
    intensive one as it is.

    Parameters
    ----------
    fixed_weights : mapping of str to float, sequence or mapping, default=None
        Scales that are not to be fitted: ``{"energy": 0.1}``, or for a target of several scales a
        sequence of numbers, or for one of atoms ``{"charges": {"H": 0.1, 8: 0.3}}``. One number
        applies to all properties and elements.
    per_structure_targets : sequence of str, default=()
        Targets that are not divided by the number of atoms. Intensive ones never are, and need not
        be named.
    warm_start : bool, default=False
        Keep the scales of the fit before, and fit targets that are new only, whatever
        ``fixed_weights`` says of the others: for a Pipeline whose regressor goes on learning.

    Attributes
    ----------
    scale_ : dict of str to float or array
        Scale of each target, in its unit: a number, an array of shape (n_scales,), or, of a target
        of atoms, a table of shape (119, n_scales) that atomic numbers index.

    See Also
    --------
    CompositionBaseline : The offset that comes before.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn import TargetScaler
    >>> TargetScaler().fit([molecule("H2"), molecule("O2")], [-1.0, 1.0]).scale_
    {'energy': 0.5}
    """

    _parameter_constraints: dict = {
        "fixed_weights": [Mapping, None],
        "per_structure_targets": ["array-like"],
        "warm_start": ["boolean"],
    }

    def __init__(self, fixed_weights=None, per_structure_targets=(), warm_start=False):
        self.fixed_weights = fixed_weights
        self.per_structure_targets = per_structure_targets
        self.warm_start = warm_start

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the scales.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures; an offset that they carry is subtracted from the labels.
        y : array of shape (n_structures,), or Targets
            Energies, or any targets; NaN in Targets is left out.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures.

        Returns
        -------
        self
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

    def transform(self, X):
        """Attach the scales.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.

        Returns
        -------
        Structures
        """
        check_is_fitted(self)
        structures = as_structures(X)
        for name, scale in self.scale_.items():
            structures = structures.with_scale(name, scale)
        return structures


def check_scales(scales, name="fixed_weights", kinds=None):
    """Return fixed scales as {target: number, array or {Z: number}}, which must be positive.

    Messages call them ``name``. With ``kinds``, those of the columns of y, the targets must be
    columns that have such scales.
    """
    checked = _parse_scales(scales, name)
    if kinds is None:
        return checked
    known = [target for target in kinds if target not in DERIVED_TARGETS]
    for target, scale in checked.items():
        if target not in known:
            raise ValueError(f"{name} names {target!r}; the scaled targets are {known}.")
        _check_layout(scale, kinds[target], f"{name}[{target!r}]")
    return checked


def _parse_scales(scales, name):
    checked = {}
    for target, scale in (scales or {}).items():
        entry = f"{name}[{target!r}]"
        if isinstance(scale, Mapping):
            checked[target] = {
                as_atomic_number(element, entry): _check_scale(value, f"{entry}[{element!r}]")
                for element, value in scale.items()
            }
        elif isinstance(scale, (list, tuple, np.ndarray)) and np.ndim(scale) == 1:
            checked[target] = np.array(
                [_check_scale(value, f"{entry}[{k}]") for k, value in enumerate(scale)]
            )
        else:
            checked[target] = _check_scale(scale, entry)
    return checked


def _check_scale(scale, name):
    if not isinstance(scale, Real) or not 0 < scale < np.inf:
        raise ValueError(f"{name} must be a positive number, got {scale!r}.")
    return float(scale)


def _check_layout(scale, kind, name):
    """Raise if a fixed scale is not one that a target of this kind can have."""
    if isinstance(scale, Mapping) and not kind.per_atom:
        raise ValueError(
            f"{name} gives scales of elements, but the target has one value for each structure. "
            "Pass a number."
        )
    if isinstance(scale, np.ndarray) and len(scale) != kind.n_scales:
        raise ValueError(
            f"{name} has {len(scale)} numbers, but the target has {kind.n_scales} scales. Pass one "
            "for each, or a single number for all."
        )


def _measure_derivatives(structures, targets, energy, per_structure):
    """Size of the forces over a length, or of the strain gradients: the larger, or 0."""
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
    # forces that are zero by symmetry are rounding
    smallest = ROUNDING * _root_mean_square(labels, energy.weights)
    return max((size for size in sizes if size > smallest), default=0.0)


def _root_mean_square(values, weights):
    """Root of the weighted mean square of rows of components, as far as they are known; or 0."""
    weights = np.where(np.isfinite(values), weights[:, None], 0.0)
    if not weights.any():
        return 0.0
    return float(np.sqrt(np.sum(weights * np.nan_to_num(values) ** 2) / weights.sum()))


def _fit_scale(name, structures, residual, extensive, fixed, at_least):
    """Scale of one target, in the layout of ``Structures.scale``."""
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
    """What turns a label into the share of an atom, one number for each row."""
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
    """Root of the weighted mean square, one row for each value of ``rows``; 0 where it is none."""
    kind = residual.kind
    # a factor of zero is a cell without volume, which says nothing about the scale
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
    # a residual that is rounding has no scale
    return np.where(residual_rms > ROUNDING * label_rms, residual_rms, 0.0)
