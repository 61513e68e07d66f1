"""ZBL baseline: the repulsion of the nuclei, which needs no learning."""

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import as_structures, check_elements, find_elements
from ..potentials import compute_zbl
from ._base import TargetStep


class ZBLBaseline(TargetStep):
    r"""Offset of the screened repulsion of the nuclei, :math:`E^0 = \sum_{i<j} V_{ij}(r_{ij})`.

    .. math::

        V_{ij}(r) = \frac{e^2}{4 \pi \varepsilon_0} \frac{Z_i Z_j}{r}
        \sum_{k=1}^4 c_k e^{-d_k r / a_{ij}} + S_{ij}(r), \qquad
        a_{ij} = \frac{0.46850}{Z_i^{0.23} + Z_j^{0.23}}

    is the potential of Ziegler, Biersack and Littmark [1]_, :math:`S` a polynomial with which it
    ends smoothly at the sum of the covalent radii. ``transform`` attaches its energies, forces and
    virials to the structures, on top of an offset of the energies that they carry already.

    Atoms that come closer than in any training structure then repel each other as nuclei do,
    whatever the network says there.

    Parameters
    ----------
    warm_start : bool, default=False
        Keep the elements of the fit before.

    Attributes
    ----------
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, ascending.

    See Also
    --------
    CompositionBaseline : The offset that comes next.

    Notes
    -----
    The units are fixed: **eV and Angstrom**, in positions as in targets.

    Put it **before** :class:`CompositionBaseline`, which fits what is left of the energies, and
    before :class:`TargetScaler`. After them it is refused: the energies of the elements would
    contain part of the repulsion.

    Nothing is fitted: the coefficients are those of ``pair_style zbl`` in LAMMPS, the covalent
    radii those of ASE. Elements that have none there (beyond curium) get the value that ASE writes
    for all of them: 0.2 Angstrom in older releases, 2.0 in newer ones.

    References
    ----------
    .. [1] J. F. Ziegler, J. P. Biersack and U. Littmark, The Stopping and Range of Ions in Matter,
       Vol. 1, Pergamon, 1985.

    Examples
    --------
    >>> from ase import Atoms
    >>> from sklearn_soapbpnn.preprocessing import ZBLBaseline
    >>> X = [Atoms("OH", [[0, 0, 0], [0, 0, r]]) for r in (0.25, 0.5, 1.0)]
    >>> ZBLBaseline().fit_transform(X).offset["energy"].round(3).tolist()
    [129.351, 17.892, 0.0]
    """

    _parameter_constraints: dict = {"warm_start": ["boolean"]}

    def __init__(self, warm_start=False):
        self.warm_start = warm_start

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Note the elements.

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
        TypeError, ValueError
            If X cannot be used, or comes from a CompositionBaseline or TargetScaler.
        """
        structures = as_structures(X)
        # an offset of the elements; one of the structures alone is of a step of the user's own
        elements = "energies" in structures.offset and "forces" not in structures.offset
        for step, came_first in (
            ("CompositionBaseline", elements),
            ("TargetScaler", "energy" in structures.scale),
        ):
            if came_first:
                raise ValueError(
                    f"X comes from {step}, whose values then contain part of the repulsion. Put "
                    f"ZBLBaseline before {step}."
                )
        self.elements_ = find_elements(self, structures)
        return self

    def transform(self, X):
        """Attach energies, forces and virials.

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
        check_elements(structures, self.elements_)
        if "forces" in structures.offset:
            raise ValueError(
                "X carries an offset of the forces: ZBL was subtracted already. Use one "
                "ZBLBaseline only."
            )
        zbl = compute_zbl(structures)
        total = np.array([energies.sum() for energies in zbl.energies])
        return (
            structures.with_offset("energy", total)
            .with_offset("energies", zbl.energies)
            .with_offset("forces", zbl.forces)
            .with_offset("virial", zbl.virial)
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags
