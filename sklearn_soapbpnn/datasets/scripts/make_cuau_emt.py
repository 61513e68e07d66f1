"""Build strained, rattled Cu-Au crystals and label them with effective medium theory.

Run as ``python -m sklearn_soapbpnn.datasets.scripts.make_cuau_emt``; takes a few seconds.
"""

from itertools import cycle, islice

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from ._write import DATA_FOLDER, label, round_geometry, write_frames

N_FRAMES = 200
ORDERS = ["Cu", "Au", "L1_0", "Cu3Au", "CuAu3"] + 5 * ["random"]
LATTICE_CONSTANT = {"Cu": 3.59, "Au": 4.06}  # EMT's own minima, in Angstrom
SCALE = (0.95, 1.06)  # range of the lattice constant relative to Vegard's law
MAX_STRAIN = 0.02  # bound of each component of the homogeneous strain
RATTLE = (0.02, 0.20)  # range of the displacements' standard deviation, in Angstrom
VACANCY_EVERY = 13  # coprime to len(ORDERS), so that every order gets vacancies


def choose_gold(order, sites, rng):
    """Return the mask of the sites that are occupied by gold.

    Parameters
    ----------
    order : str
        One of ``ORDERS``.
    sites : ndarray of shape (n_atoms, 3)
        Integer site coordinates in units of half the cubic lattice constant.
    rng : numpy.random.Generator
        Source of composition and arrangement of ``"random"`` alloys; not used otherwise.
    """
    corners = (sites % 2 == 0).all(axis=1)
    if order == "Cu":
        return np.zeros(len(sites), dtype=bool)
    if order == "Au":
        return np.ones(len(sites), dtype=bool)
    if order == "L1_0":
        return sites[:, 2] % 2 == 1
    if order == "Cu3Au":  # L1_2
        return corners
    if order == "CuAu3":  # L1_2
        return ~corners
    n_gold = rng.integers(1, len(sites))
    return rng.permutation(len(sites)) < n_gold


def build(order, vacancy, rng):
    """Build one alloy frame of 32 sites, without labels."""
    atoms = bulk("Cu", "fcc", a=2.0, cubic=True) * (2, 2, 2)
    gold = choose_gold(order, np.rint(atoms.positions).astype(int), rng)
    atoms.numbers[gold] = 79
    fraction = gold.mean()
    vegard = (1 - fraction) * LATTICE_CONSTANT["Cu"] + fraction * LATTICE_CONSTANT["Au"]

    strain = rng.uniform(-MAX_STRAIN, MAX_STRAIN, (3, 3))
    strain = (strain + strain.T) / 2
    scale = vegard * rng.uniform(*SCALE) / 2.0
    atoms.set_cell(scale * atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    sigma = np.exp(rng.uniform(*np.log(RATTLE)))  # log-uniform, so that small ones occur, too
    atoms.positions += rng.normal(scale=sigma, size=(len(atoms), 3))
    if vacancy:
        del atoms[rng.integers(len(atoms))]
    return atoms


def main():
    """Write ``data/cuau_emt.extxyz.gz``, cycling through the orders."""
    rng = np.random.default_rng(2979)
    frames = []
    for i, order in enumerate(islice(cycle(ORDERS), N_FRAMES)):
        atoms = build(order, i % VACANCY_EVERY == VACANCY_EVERY - 1, rng)
        round_geometry(atoms)
        label(atoms, EMT(), ["energy", "forces", "stress"])
        frames.append(atoms)
    write_frames(DATA_FOLDER / "cuau_emt.extxyz.gz", frames)


if __name__ == "__main__":
    main()
