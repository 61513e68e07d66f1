"""Target scaling: the size of what the network has to learn."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import as_structures
from ._base import TargetStep, check_residual

# relative size of what least squares leaves of energies that it can explain
ROUNDING = 1e-12


class TargetScaler(TargetStep):
    r"""Scale of the energies: the uncentred RMS of the residual energy per atom.

    .. math:: s^2 = \frac{1}{N} \sum_A \left( \frac{E_A - E^0_A}{n_A} \right)^2

    ``transform`` attaches :math:`s` to the structures; the network learns energies, forces and
    stresses divided by it, and its output is multiplied by it.

    Parameters
    ----------
    fixed_weights : mapping of str to float, default=None
        Scales that are not to be fitted, e.g. ``{"energy": 0.1}``.

    Attributes
    ----------
    scale_ : dict of str to float
        Scale of each target, in its unit.

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

    _parameter_constraints: dict = {"fixed_weights": [Mapping, None]}

    def __init__(self, fixed_weights=None):
        self.fixed_weights = fixed_weights

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the scale.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures; an offset that they carry is subtracted from the energies.
        y : array of shape (n_structures,), or Targets
            Energies; NaN in Targets is left out.
        sample_weight : array of shape (n_structures,), default=None
            Weights of the structures.

        Returns
        -------
        self
        """
        structures, energy, residual, weights = check_residual(X, y, sample_weight)
        scale = check_scales(self.fixed_weights).get("energy")
        if scale is None:
            scale = _compute_rms(residual / structures.n_atoms, weights)
            # a residual that is rounding has no scale
            if scale <= ROUNDING * _compute_rms(energy / structures.n_atoms, weights):
                scale = 1.0
        self.scale_ = {"energy": scale}
        return self

    def transform(self, X):
        """Attach the scale.

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


def check_scales(scales, name="fixed_weights"):
    """Return fixed scales, which must be positive and belong to a known target."""
    for target, scale in (scales or {}).items():
        if target != "energy":
            raise ValueError(f"{name} names {target!r}; the scaled targets are ['energy'].")
        if not isinstance(scale, Real) or not 0 < scale < np.inf:
            raise ValueError(f"{name}[{target!r}] must be a positive number, got {scale!r}.")
    return {target: float(scale) for target, scale in (scales or {}).items()}


def _compute_rms(values, weights):
    return float(np.sqrt(np.average(values**2, weights=weights)))
