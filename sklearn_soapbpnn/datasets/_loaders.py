"""Loaders of the data sets in this package, modelled on those of scikit-learn."""

from __future__ import annotations

import gzip
from importlib import resources
from typing import Any

import ase.io
import numpy as np
from sklearn.utils import Bunch

from sklearn_soapbpnn.data import Targets

PACKAGE = "sklearn_soapbpnn.datasets"


def load_malonaldehyde(*, return_X_y: bool = False) -> Any:
    """Load 500 structures of malonaldehyde from molecular dynamics (molecule, regression).

    ===================   ==================================================
    Structures            300 at 300 K, then 200 at 600 K
    Atoms per structure   9 (C3H4O2), not periodic
    Targets               energy (eV), forces (eV/Angstrom)
    Method                GFN2-xTB, Langevin dynamics
    ===================   ==================================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch object.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        data : list of ase.Atoms
            The structures. Each carries its energy (eV), forces (eV/Angstrom) and dipole
            (e Angstrom) as calculator results, and its temperature (K) in ``info``.
        target : Targets
            The columns ``energy`` and ``forces``.
        target_names : list of str
            The names of those columns.
        temperature : ndarray of shape (500,)
            Temperature of the thermostat, in K.
        DESCR : str
            The full description of the data set.
        filename : str
            The path to the data.

    (data, target) : tuple if ``return_X_y`` is True
        The structures and their targets.

    See Also
    --------
    load_cuau : Periodic crystals with stress.

    Examples
    --------
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> bunch = load_malonaldehyde()
    >>> len(bunch.data)
    500
    >>> print(bunch.data[0].symbols)
    OC3OH4
    """
    bunch = _load("malonaldehyde_xtb", ["energy", "forces"])
    bunch.temperature = np.array([atoms.info["temperature"] for atoms in bunch.data], dtype=float)
    return (bunch.data, bunch.target) if return_X_y else bunch


def load_cuau(*, return_X_y: bool = False) -> Any:
    """Load 200 strained and rattled Cu-Au crystals (periodic, regression).

    ===================   ==================================================
    Structures            200, from pure Cu to pure Au
    Atoms per structure   32, or 31 with a vacancy; periodic
    Targets               energy (eV), forces (eV/Angstrom),
                          stress (eV/Angstrom^3, tensile positive)
    Method                effective medium theory of ASE
    ===================   ==================================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch object.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        data : list of ase.Atoms
            The structures. Each carries its energy (eV), forces (eV/Angstrom) and stress
            (eV/Angstrom^3, Voigt order) as calculator results.
        target : Targets
            The columns ``energy``, ``forces`` and ``stress``.
        target_names : list of str
            The names of those columns.
        DESCR : str
            The full description of the data set.
        filename : str
            The path to the data.

    (data, target) : tuple if ``return_X_y`` is True
        The structures and their targets.

    See Also
    --------
    load_malonaldehyde : A molecule with thermal structures.

    Examples
    --------
    >>> from sklearn_soapbpnn.datasets import load_cuau
    >>> bunch = load_cuau()
    >>> len(bunch.data)
    200
    >>> print(bunch.data[2].symbols)
    CuAu2Cu2Au2Cu2Au2Cu2Au2Cu2Au2Cu2Au2Cu2Au2Cu2Au2Cu
    """
    bunch = _load("cuau_emt", ["energy", "forces", "stress"])
    return (bunch.data, bunch.target) if return_X_y else bunch


def _load(name, target_names):
    """Read the structures and the description of one data set; targets have their ASE names."""
    folder = resources.files(PACKAGE)
    path = folder / "data" / f"{name}.extxyz.gz"
    with path.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8") as text:
        frames = ase.io.read(text, index=":", format="extxyz")
    return Bunch(
        data=frames,
        target=Targets.from_atoms(frames, **{key: key for key in target_names}),
        target_names=target_names,
        DESCR=(folder / "descr" / f"{name}.rst").read_text(encoding="utf-8"),
        filename=str(path),
    )
