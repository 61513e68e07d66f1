"""Neighbour pairs, in boxes of every shape."""

import numpy as np
import pytest
from ase import Atoms
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sklearn_soapbpnn.data import _neighbors as neighbors

CUTOFF = 3.0


def search(atoms):
    """Pairs of a structure as a sorted list, whatever their order and direction."""
    pairs = neighbors.find_pairs(0, atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    found = []
    for i, j, vector in zip(*pairs):
        forward, back = np.round(vector, 6) + 0.0, np.round(-vector, 6) + 0.0
        found.append(min((i, j, *forward), (j, i, *back)))
    return sorted(found)


@st.composite
def random_structures(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cell = rng.normal(size=(3, 3)) * rng.uniform(1.0, 8.0)
    assume(abs(np.linalg.det(cell)) > 1.0)
    positions = rng.normal(size=(draw(st.integers(1, 6)), 3)) * rng.uniform(1.0, 20.0)
    pbc = draw(st.tuples(*[st.booleans()] * 3))
    return Atoms("H" * len(positions), positions, cell=cell, pbc=pbc)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(random_structures())
def test_all_searches_find_the_same(atoms):
    expected = search(atoms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "FEW_ATOMS", 0)
        assert search(atoms) == expected
        patch.setattr(neighbors, "MANY_BINS", 0)
        patch.setattr(neighbors, "LONG", 0)
        assert search(atoms) == expected


CHAIN = [[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [2.0, 0.0, 2.5]]


@pytest.mark.parametrize("far", [3e3, 1e6, 1e8])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_atom_that_flew_off(axis, far):
    """The others see each other as if it were not there."""
    shift = np.zeros(3)
    shift[axis] = far
    atoms = Atoms("H4", [*CHAIN, shift])
    assert search(atoms) == search(Atoms("H3", CHAIN))


@pytest.mark.parametrize("long", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_long_wires_and_wide_slabs(axis, long):
    """A box that is this long might as well have no end."""
    for pbc in ([True, True, True], [True, True, False], [False, True, True]):
        pbc = np.roll(pbc, axis)
        cell = np.full(3, 4.0)
        cell[axis] = long
        atoms = Atoms("H3", CHAIN, cell=cell, pbc=pbc)
        open_ended = np.where(np.arange(3) == axis, False, pbc)
        assert search(atoms) == search(Atoms("H3", CHAIN, cell=cell, pbc=open_ended))


def test_boxes_that_are_long_in_two_directions():
    for cell in ([1e3, 1e3, 4.0], [1e3, 4.0, 1e3], [4.0, 1e3, 1e3], [1e5, 1e2, 4.0]):
        atoms = Atoms("H3", CHAIN, cell=cell, pbc=True)
        closed = np.array(cell) == 4.0
        assert search(atoms) == search(Atoms("H3", CHAIN, cell=cell, pbc=closed))


def test_across_the_boundary_of_a_long_box():
    """Positions that are not wrapped, too."""
    long = 1e6
    atoms = Atoms("OH", [[0.5, 1.0, 1.0], [7 * long - 0.5, 1.0, 1.0]])
    atoms.set_cell([long, 9.0, 9.0])
    atoms.pbc = [True, False, False]
    assert search(atoms) == [(0, 1, -1.0, 0.0, 0.0)]


def test_cell_that_cannot_be_searched():
    thin = Atoms("H", cell=[[3, 0, 0], [0, 3, 0], [2, 2, 1e-3]], pbc=True)
    with pytest.raises(ValueError, match=r"cell of structure 0 is only .* high.*niggli_reduce"):
        search(thin)
