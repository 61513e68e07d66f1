"""Labels are read from calculators only if they belong to the structure."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from sklearn_soapbpnn import Targets


@pytest.fixture
def crystals():
    return [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)]


def test_a_shared_calculator_holds_only_the_last_results(crystals):
    calc = EMT()
    for atoms in crystals:
        atoms.calc = calc
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match="structure 0 holds the results of another geometry"):
        Targets.from_atoms(crystals, energy="energy")


def test_a_calculator_of_its_own_is_read(crystals):
    energies = []
    for atoms in crystals:
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    np.testing.assert_array_equal(Targets.from_atoms(crystals, energy="energy")["energy"], energies)


def test_atoms_that_moved_since_are_refused(crystals):
    for atoms in crystals:
        atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    crystals[1].rattle(0.1, seed=0)
    with pytest.raises(ValueError, match="structure 1"):
        Targets.from_atoms(crystals, energy="energy")


def test_info_is_read_whatever_the_calculator_holds(crystals):
    calc = EMT()
    for index, atoms in enumerate(crystals):
        atoms.calc, atoms.info["reference"] = calc, float(index)
        atoms.get_potential_energy()
    targets = Targets.from_atoms(crystals, energy="reference")
    np.testing.assert_array_equal(targets["energy"], [0.0, 1.0, 2.0])
