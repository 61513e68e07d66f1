"""ZBL baseline: the known repulsion of nuclei at short distances."""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from ..data import Frames, Labels, Structures, as_structures, check_elements, find_elements
from ..potentials import compute_zbl
from ._base import TargetStep


class ZBLBaseline(TargetStep):
    r"""Baseline of the energy and its derivatives: the screened repulsion of the nuclei.

    .. math::

        E^0 = \sum_{i<j} V_{ij}(r_{ij}), \qquad
        V_{ij}(r) = \frac{e^2}{4 \pi \varepsilon_0} \frac{Z_i Z_j}{r}
        \sum_{k=1}^4 c_k e^{-d_k r / a_{ij}} + S_{ij}(r), \qquad
        a_{ij} = \frac{0.46850}{Z_i^{0.23} + Z_j^{0.23}}

    :math:`V` is the potential of Ziegler, Biersack and Littmark [1]_. The polynomial :math:`S`
    makes it go smoothly to zero at the sum of the covalent radii. ``transform`` attaches its
    energies, forces and virials to the structures as offsets.

    At distances shorter than in any training structure, atoms then repel each other as nuclei do,
    whatever the network predicts there.

    Parameters
    ----------
    warm_start : bool, default=False
        Whether to keep the elements of the previous fit.

    Attributes
    ----------
    elements_ : array of shape (n_elements,)
        Atomic numbers seen in fit, in ascending order.

    See Also
    --------
    CompositionBaseline : The next step, which is fitted on the residual.

    Notes
    -----
    The units are fixed: **eV and Angstrom**, for positions and for targets.

    Put this step **before** :class:`CompositionBaseline` and :class:`TargetScaler`, which are
    fitted on the residual. The opposite order is refused, since the weights of the elements would
    contain part of the repulsion.

    Nothing is fitted: the coefficients are those of ``pair_style zbl`` in LAMMPS, the covalent
    radii those of ASE. For elements without a radius (beyond curium) ASE has one placeholder value:
    0.2 Angstrom in older releases, 2.0 Angstrom in newer ones.

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

    def __init__(self, warm_start: bool = False) -> None:
        self.warm_start = warm_start

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Frames, y: Labels | None = None) -> Self:
        """Store the elements; nothing is fitted.

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
            If X comes from a CompositionBaseline or a TargetScaler or, with ``warm_start=True``,
            contains elements absent from the previous fit.
        """
        structures = as_structures(X)
        # only CompositionBaseline attaches energies without forces; an offset of the energy alone
        # comes from a step that the user has written
        elements = "energies" in structures.offset and "forces" not in structures.offset
        for step, came_first in (
            ("CompositionBaseline", elements),
            ("TargetScaler", "energy" in structures.scale),
        ):
            if came_first:
                raise ValueError(
                    f"X comes from {step}, whose fit then contains part of the repulsion. Put "
                    f"ZBLBaseline before {step}."
                )
        self.elements_ = find_elements(self, structures)
        return self

    def transform(self, X: Frames) -> Structures:
        """Attach the energies, forces and virials of the repulsion as offsets.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.

        Returns
        -------
        Structures
            Structures with ``offset``, in eV and Angstrom; an offset of the energy that X already
            has is added.

        Raises
        ------
        NotFittedError
            If the step is not fitted.
        TypeError
            If X is not a sequence of structures.
        ValueError
            If X contains elements absent from fit or atoms at the same place, or already has an
            offset of the forces.

        Examples
        --------
        >>> from ase import Atoms
        >>> from sklearn_soapbpnn import ZBLBaseline
        >>> X = [Atoms("OH", [[0, 0, 0], [0, 0, 0.5]])]
        >>> ZBLBaseline().fit(X).transform(X).offset["forces"][0].shape
        (2, 3)
        """
        return self._attach(X, None)

    def transform_part(self, X: Frames, n_centers: int) -> Structures:
        """Attach the energies of some atoms, and the forces and virials that belong to these.

        It is used where a program divides a structure among processes: an atom near the border is
        then a centre in one of them and a neighbour in others.

        Parameters
        ----------
        X : sequence of ase.Atoms, or Structures
            Structures of elements seen in fit.
        n_centers : int
            Number of atoms of each structure that are centres, the first ones. Half the energy of a
            pair belongs to each of its atoms.

        Returns
        -------
        Structures
            As from :meth:`transform`; the energies of other atoms are zero.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in :meth:`transform`.

        Examples
        --------
        >>> from ase import Atoms
        >>> from sklearn_soapbpnn import ZBLBaseline
        >>> X = [Atoms("OH", [[0, 0, 0], [0, 0, 0.5]])]
        >>> ZBLBaseline().fit(X).transform_part(X, 1).offset["energies"][0].round(3).tolist()
        [8.946, 0.0]
        """
        return self._attach(X, n_centers)

    def _attach(self, X, n_centers):
        check_is_fitted(self)
        structures = as_structures(X)
        check_elements(structures, self.elements_)
        if "forces" in structures.offset:
            raise ValueError(
                "X carries an offset of the forces, so ZBL was subtracted already. Use one "
                "ZBLBaseline only."
            )
        zbl = compute_zbl(structures, n_centers)
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
