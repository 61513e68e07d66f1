"""Small structures with labels, and an empty feature store for every test."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from soapbpnn_cases import label_everything

from sklearn_soapbpnn import Targets
from sklearn_soapbpnn.descriptors._store import _process_store


@pytest.fixture(autouse=True)
def _empty_store():
    _process_store.clear()


@pytest.fixture
def molecules(shipped_molecules):
    """Twelve molecules of one composition, with energies and forces."""
    X, y = shipped_molecules
    return X[:12], y[:12]


@pytest.fixture
def alloys(shipped_alloys):
    """Six of the shipped crystals, with energies, forces and stress."""
    X, y = shipped_alloys
    chosen = np.arange(0, 60, 10)
    return [X[i] for i in chosen], y[chosen]


@pytest.fixture(scope="session")
def _crystals():
    rng = np.random.RandomState(0)
    frames = []
    for i in range(8):
        atoms = bulk("Cu", cubic=True, a=3.6 + 0.05 * i)
        atoms.numbers[: i % 4] = 79
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        if i % 3 == 2:
            del atoms[-1]
        atoms.calc = EMT()
        names = ("energy", "forces", "stress")
        results = {name: atoms.calc.get_property(name, atoms) for name in names}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["number"] = i
        frames.append(atoms)
    return frames, Targets.from_atoms(frames, energy="energy", forces="forces", stress="stress")


@pytest.fixture
def crystals(_crystals):
    """Eight small crystals of different composition and size, labelled by EMT."""
    return _crystals


@pytest.fixture(scope="session")
def _everything(_crystals):
    X, y = _crystals
    return X, label_everything(X, y)


@pytest.fixture
def everything(_everything):
    """The small crystals, with labels of every kind."""
    return _everything


@pytest.fixture(params=["molecules", "crystals"])
def data(request):
    """Structures and targets of both kinds."""
    return request.getfixturevalue(request.param)
