"""Repulsion of nuclei at short distances by Ziegler, Biersack and Littmark (ZBL)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii

from ..data import build_graph, split_atoms, usual_settings

# e^2 / (4 pi epsilon_0), in eV Angstrom
COULOMB = 14.399645478425668
# universal screening function: length in Angstrom, exponent of Z, coefficients, decay rates
SCREENING_LENGTH = 0.46850
SCREENING_POWER = 0.23
COEFFICIENTS = np.array([0.02817, 0.28022, 0.50986, 0.18175])
DECAY_RATES = np.array([0.20162, 0.40290, 0.94229, 3.19980])


@dataclass(frozen=True)
class ZBLContribution:
    """ZBL energies and their derivatives.

    Parameters
    ----------
    energies : list of arrays of shape (n_atoms,)
        Atomic energies in eV; half the energy of each pair is assigned to each of its atoms.
    forces : list of arrays of shape (n_atoms, 3)
        Minus the derivative with respect to the positions, in eV/Angstrom.
    virial : array of shape (n_structures, 3, 3)
        Minus the derivative with respect to the strain, in eV; also for structures without a cell.
    """

    energies: list[np.ndarray]
    forces: list[np.ndarray]
    virial: np.ndarray


@usual_settings()
def compute_zbl(structures, n_centers=None) -> ZBLContribution:
    r"""Compute the screened repulsion of the nuclei [1]_.

    .. math::

        E = \sum_{i<j} \left[ V_{ij}(r_{ij}) + S_{ij}(r_{ij}) \right], \qquad
        V_{ij}(r) = \frac{e^2}{4 \pi \varepsilon_0} \frac{Z_i Z_j}{r}
        \sum_{k=1}^4 c_k e^{-d_k r / a_{ij}}, \qquad
        a_{ij} = \frac{0.46850}{Z_i^{0.23} + Z_j^{0.23}}

    The sum runs over all pairs closer than the outer cutoff :math:`r_c`, which is the sum of the
    two covalent radii [2]_. The polynomial :math:`S(r) = \tfrac A3 r^3 + \tfrac B4 r^4 + C` makes
    energy, slope and curvature of a pair vanish at :math:`r_c`. This is ``pair_style zbl`` of
    LAMMPS [3]_ with an inner cutoff of zero.

    Parameters
    ----------
    structures : Structures
        Positions and cells in Angstrom.
    n_centers : int, default=None
        Number of atoms of each structure that are centres, the first ones: only their energies are
        counted, and the derivatives are those of the sum of these. None means all atoms.

    Returns
    -------
    ZBLContribution

    Raises
    ------
    ValueError
        If two atoms of a structure have the same position.

    Notes
    -----
    The covalent radii are those of ASE. For elements without a known radius (beyond curium) ASE has
    a single placeholder value: 0.2 Angstrom in older releases, 2.0 in newer ones.

    References
    ----------
    .. [1] J. F. Ziegler, J. P. Biersack and U. Littmark, The Stopping and Range of Ions in Matter,
       Vol. 1, Pergamon, 1985.
    .. [2] B. Cordero et al., Covalent radii revisited, Dalton Trans. 2832 (2008),
       :doi:`10.1039/B801115J`.
    .. [3] https://docs.lammps.org/pair_zbl.html

    Examples
    --------
    >>> from ase import Atoms
    >>> from sklearn_soapbpnn.data import as_structures
    >>> from sklearn_soapbpnn.potentials import compute_zbl
    >>> dimer = Atoms("OH", [[0, 0, 0], [0, 0, 0.5]])
    >>> zbl = compute_zbl(as_structures([dimer]))
    >>> zbl.energies[0].round(3).tolist()
    [8.946, 8.946]
    """
    numbers = np.concatenate(structures.numbers)
    radii = covalent_radii[numbers]
    graph = build_graph(structures, 2.0 * radii.max(), structures.elements)
    i, j, vectors = (t.numpy() for t in (graph.centers, graph.neighbors, graph.pair_vectors))
    structure = np.repeat(np.arange(len(structures)), graph.pair_counts.numpy())
    distances = np.linalg.norm(vectors, axis=1)
    # the cutoff of the neighbour list is the same for all elements
    halves = _find_halves(structures, n_centers)
    inside = (distances < radii[i] + radii[j]) & (halves[i] + halves[j] > 0)
    i, j, structure = i[inside], j[inside], structure[inside]
    vectors, distances = vectors[inside], distances[inside]

    energy, slope = evaluate_repulsion(numbers[i], numbers[j], distances)

    energies = np.zeros(len(numbers))
    np.add.at(energies, i, halves[i] * energy)
    np.add.at(energies, j, halves[j] * energy)
    slope = (halves[i] + halves[j]) * slope
    pull = (slope / distances)[:, None] * vectors  # force on i due to j
    forces = np.zeros((len(numbers), 3))
    np.add.at(forces, i, pull)
    np.add.at(forces, j, -pull)
    # the outer product comes first, since it is exactly symmetric
    outer = vectors[:, :, None] * vectors[:, None, :]
    virial = np.zeros((len(structures), 3, 3))
    np.add.at(virial, structure, -(slope / distances)[:, None, None] * outer)

    energies, forces = (split_atoms(values, structures) for values in (energies, forces))
    return ZBLContribution(energies, forces, virial)


def _find_halves(structures, n_centers):
    """Return which share of the energy of its pairs belongs to each atom."""
    if n_centers is None:
        return np.full(structures.n_atoms.sum(), 0.5)
    return np.concatenate([0.5 * (np.arange(n) < n_centers) for n in structures.n_atoms])


def evaluate_repulsion(z_i, z_j, r):
    """Return energy (eV) and slope (eV/Angstrom) of pairs closer than their outer cutoff."""
    _, a, b, c = match_cutoff(z_i, z_j)
    v, dv, _ = _screened_coulomb(z_i, z_j, r)
    return v + a / 3 * r**3 + b / 4 * r**4 + c, dv + a * r**2 + b * r**3


def match_cutoff(z_i, z_j):
    """Return the outer cutoff of pairs of atomic numbers, and A, B and C of the polynomial S."""
    r_c = covalent_radii[z_i] + covalent_radii[z_j]
    v, dv, d2v = _screened_coulomb(z_i, z_j, r_c)
    # from zero energy, slope and curvature at r_c
    a = (r_c * d2v - 3 * dv) / r_c**2
    b = (2 * dv - r_c * d2v) / r_c**3
    return r_c, a, b, -v + r_c * dv / 2 - r_c**2 * d2v / 12


def find_decay_rates(z_i, z_j):
    """Return the rates of the exponentials of pairs of atomic numbers, in 1/Angstrom: (n, 4)."""
    powers = z_i**SCREENING_POWER + z_j**SCREENING_POWER
    return powers[:, None] / SCREENING_LENGTH * DECAY_RATES


def _screened_coulomb(z_i, z_j, r):
    """Return V(r) and its first two derivatives."""
    rates = find_decay_rates(z_i, z_j)
    terms = COEFFICIENTS * np.exp(-rates * r[:, None])
    phi = terms.sum(1)
    dphi = -(rates * terms).sum(1)
    d2phi = (rates**2 * terms).sum(1)
    coulomb = COULOMB * z_i * z_j / r
    return (
        coulomb * phi,
        coulomb * (dphi - phi / r),
        coulomb * (d2phi - 2 * dphi / r + 2 * phi / r**2),
    )
