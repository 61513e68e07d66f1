"""Labelled structures for targets of every kind."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from sklearn_soapbpnn import Targets


@pytest.fixture(scope="session")
def malonaldehyde(shipped_molecules):
    """Sixty frames at 300 K with energies, forces and dipoles."""
    X = shipped_molecules[0][:300:5]
    return X, Targets.from_atoms(X, energy="energy", forces="forces", dipole="dipole")


@pytest.fixture(scope="session")
def mixture():
    """Structures of different size and elements: molecules, a crystal and a slab."""
    frames = [molecule(name) for name in ("CH3CH2OH", "H2O", "CO", "CH4", "C2H2", "O2")]
    frames += [bulk("C", "diamond", a=3.6, cubic=True), bulk("CO", "rocksalt", a=4.0)]
    slab = molecule("H2CO")
    slab.set_cell([[4.0, 0.0, 0.0], [1.5, 4.2, 0.0], [-0.8, 0.9, 4.5]])
    slab.pbc = [True, True, False]
    frames.append(slab)
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    return frames


@pytest.fixture(scope="session")
def draw():
    """Return a function that draws labels of some kinds for structures."""

    def draw(frames, kinds, seed=0):
        rng = np.random.default_rng(seed)
        columns = {
            name: [draw_value(rng, kind, len(x)) for x in frames] for name, kind in kinds.items()
        }
        return Targets(kinds=kinds, **columns)

    def draw_value(rng, kind, n_atoms):
        shape = (n_atoms,) * kind.per_atom + kind.shape
        values = rng.normal(size=shape).reshape(-1, kind.size)
        # what a symmetric tensor can be
        return (values @ kind.transform @ kind.transform.T).reshape(shape)

    return draw
