"""SoapFeaturizer: the descriptor as a scikit-learn transformer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from joblib import Memory
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._estimators import Documented
from .._version import VersionedPickle
from ..data import FilePath, Frames, Labels, as_structures, check_elements, find_elements
from ..descriptors import (
    SoapFeatures,
    compute_expansions,
    hash_structures,
    name_features,
    open_store,
    read_soap_parameters,
)


class SoapFeaturizer(Documented, VersionedPickle, TransformerMixin, BaseEstimator):
    r"""Smooth overlap of atomic positions: the SOAP power spectrum of every atom.

    .. math::

        c_i^{a,nlm} = \sum_{j \text{ of element } a} R_{nl}(r_{ij}) f_c(r_{ij}) Y_{lm}(\hat r_{ij}),
        \qquad p_i^{l,(an)(a'n')} = \sum_m c_i^{a,nlm} c_i^{a',n'lm}

    with Laplacian eigenstates :math:`R_{nl}`, a shifted-cosine cutoff :math:`f_c` and real
    spherical harmonics [1]_ [2]_. The spectrum is symmetric in its two channels, so each pair of
    channels is kept once; pairs of different channels are multiplied by :math:`\sqrt 2`.

    Each structure is featurised only once, since the features are shared between the folds and
    candidates of a grid search and, with ``memory``, with other processes and later runs.

    Parameters
    ----------
    cutoff_radius : float, default=5.0
        Distance beyond which neighbours are ignored, in the unit of the positions (Angstrom for
        ASE's data).
    cutoff_width : float, default=0.5
        Width of the range below the cutoff radius in which the weight of a neighbour falls smoothly
        to zero, in the same unit.
    max_radial : int, default=7
        Index of the highest radial channel at l = 0, inclusive; higher l have fewer channels. More
        channels resolve distances better, at a cost that grows with the square of their number.
    max_angular : int, default=6
        Highest degree l of the spherical harmonics, inclusive.
    radial_scale : float, default=inf
        Distance :math:`r_0` beyond which neighbours count less: they have the weight
        :math:`1 / (1 + (r / r_0)^4)`, in the same unit. Infinity, the default, means the weight 1.
        About 3 Angstrom often makes models more accurate.
    pooling : {"mean", "sum"}, default="mean"
        How ``np.asarray`` combines the features of the atoms of a structure.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the features.
    memory : str, path or joblib.Memory, default=None
        Folder in which features are stored, for other processes and later runs. None shares them
        within this process only; if they exceed 2 GiB, the least recently used are discarded.
    warm_start : bool, default=False
        Whether to keep the elements of the previous fit. Meant for a Pipeline whose regressor
        continues training.

    Attributes
    ----------
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, in ascending order.

    See Also
    --------
    SoapBPNNRegressor : The network that is trained on these features.

    References
    ----------
    .. [1] Bartok, Kondor, Csanyi, "On representing chemical environments", Phys. Rev. B 87, 184115
       (2013), doi:10.1103/PhysRevB.87.184115.
    .. [2] Bigi, Huguenin-Dumittan, Ceriotti, Manolopoulos, "A smooth basis for atomistic machine
       learning", J. Chem. Phys. 157, 234101 (2022), doi:10.1063/5.0124363.

    Examples
    --------
    >>> import numpy as np
    >>> from ase.build import molecule
    >>> from sklearn_soapbpnn import SoapFeaturizer
    >>> X = [molecule("H2O"), molecule("CH4")]
    >>> features = SoapFeaturizer(max_radial=3, max_angular=2).fit_transform(X)
    >>> np.asarray(features).shape, features.per_atom().shape
    ((2, 168), (8, 168))
    """

    _parameter_constraints: dict = {
        "cutoff_radius": [Interval(Real, 0, None, closed="neither")],
        "cutoff_width": [Interval(Real, 0, None, closed="neither")],
        "max_radial": [Interval(Integral, 0, 49, closed="both")],
        "max_angular": [Interval(Integral, 0, 25, closed="both")],
        "radial_scale": [Interval(Real, 0, None, closed="right")],
        "pooling": [StrOptions({"mean", "sum"})],
        "dtype": [StrOptions({"float32", "float64"})],
        "memory": [str, os.PathLike, Memory, None],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        cutoff_radius: float = 5.0,
        cutoff_width: float = 0.5,
        max_radial: int = 7,
        max_angular: int = 6,
        radial_scale: float = math.inf,
        pooling: str = "mean",
        dtype: str = "float32",
        memory: FilePath | Memory | None = None,
        warm_start: bool = False,
    ) -> None:
        self.cutoff_radius = cutoff_radius
        self.cutoff_width = cutoff_width
        self.max_radial = max_radial
        self.max_angular = max_angular
        self.radial_scale = radial_scale
        self.pooling = pooling
        self.dtype = dtype
        self.memory = memory
        self.warm_start = warm_start

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Frames, y: Labels | None = None) -> Self:
        """Determine the elements, which set the number of features.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures.
        y : ignored
            Not used.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If X is not a sequence of structures.
        ValueError
            If a parameter is invalid, ``cutoff_width`` exceeds ``cutoff_radius``, or, with
            ``warm_start=True``, X contains elements absent from the previous fit.
        """
        read_soap_parameters(self)  # raises if the parameters contradict each other
        self.elements_ = find_elements(self, as_structures(X))
        return self

    def transform(self, X: Frames) -> Any:
        """Attach the features of every atom.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.

        Returns
        -------
        Structures
            Structures with ``features``. ``np.asarray`` gives the pooled features, of shape
            (n_structures, n_features), and ``per_atom()`` those of all atoms, of shape
            (n_atoms, n_features).

        Raises
        ------
        NotFittedError
            If the step is not fitted.
        TypeError
            If X is not a sequence of structures.
        ValueError
            If X contains elements absent from fit, or atoms at the same place.

        Examples
        --------
        >>> from ase.build import molecule
        >>> from sklearn_soapbpnn import SoapFeaturizer
        >>> X = [molecule("H2O"), molecule("H2")]
        >>> featurizer = SoapFeaturizer(max_radial=3, max_angular=2).fit(X)
        >>> featurizer.transform(X[:1]).per_atom().shape
        (3, 78)
        """
        check_is_fitted(self)
        structures = as_structures(X)
        check_elements(structures, self.elements_)
        parameters = read_soap_parameters(self)
        keys = hash_structures(structures, parameters, self.dtype)
        expansions = open_store(self.memory).fetch(
            keys, lambda missing: self._compute(structures[missing])
        )
        features = SoapFeatures(
            expansions,
            structures.numbers,
            self.elements_,
            parameters,
            self.pooling,
            self.dtype,
        )
        return structures.with_features(features)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the features.

        A name such as ``l2_H0_O3`` consists of the degree l and two channels, each with its element
        and its radial index.

        Parameters
        ----------
        input_features : ignored
            Not used.

        Returns
        -------
        array of str of shape (n_features,)

        Raises
        ------
        NotFittedError
            If the step is not fitted.

        Examples
        --------
        >>> from ase.build import molecule
        >>> from sklearn_soapbpnn import SoapFeaturizer
        >>> featurizer = SoapFeaturizer(max_radial=3, max_angular=2).fit([molecule("H2")])
        >>> featurizer.get_feature_names_out()[:2].tolist()
        ['l0_H0_H0', 'l0_H0_H1']
        """
        check_is_fitted(self)
        return name_features(read_soap_parameters(self), self.elements_)

    def _compute(self, structures):
        """Compute the expansions of structures that are not in the store yet."""
        return compute_expansions(
            structures, read_soap_parameters(self), getattr(torch, self.dtype)
        )

    @property
    def _n_features_out(self):
        return len(self.get_feature_names_out())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
