"""Target scaling: the size of what the network has to learn."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import as_structures
from ._base import TargetStep, check_residual


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
        structures, residual, weights = check_residual(X, y, sample_weight)
        fixed = check_scales(self.fixed_weights)
        scale = fixed.get("energy", _compute_scale(residual / structures.n_atoms, weights))
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


def check_scales(scales):
    """Return fixed scales, which must be positive and belong to a known target."""
    for name, scale in (scales or {}).items():
        if name != "energy":
            raise ValueError(f"fixed_weights names {name!r}; the scaled targets are ['energy'].")
        if not isinstance(scale, Real) or not 0 < scale < np.inf:
            raise ValueError(f"fixed_weights[{name!r}] must be a positive number, got {scale!r}.")
    return {name: float(scale) for name, scale in (scales or {}).items()}


def _compute_scale(residual, weights):
    """Weighted RMS; 1 where there is nothing to scale."""
    scale = float(np.sqrt(np.average(residual**2, weights=weights)))
    return scale if scale > 0 else 1.0
