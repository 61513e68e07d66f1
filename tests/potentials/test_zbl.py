import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.potentials import compute_zbl

COULOMB = 14.399645478425668
COULOMB_OF_LAMMPS = 14.399645  # its constants of `units metal`
BAR_OF_LAMMPS = 1.6021765e6  # eV / Angstrom^3
PAIRS = [("H", "H"), ("O", "H"), ("C", "Si"), ("Cu", "Cu"), ("Au", "O"), ("Cs", "Pu")]
FRACTIONS = [0.1, 0.5, 0.9, 0.999]  # of the outer cutoff


def dimer(pair, r):
    # along no axis, and not at the origin
    direction = np.array([2.0, -1.0, 2.0]) / 3.0
    return Atoms(pair, [np.full(3, 0.3), 0.3 + r * direction])


def outer_cutoff(pair):
    return covalent_radii[Atoms(pair).numbers].sum()


def total(atoms):
    return compute_zbl(as_structures([atoms])).energies[0].sum()


def contribution(atoms):
    zbl = compute_zbl(as_structures([atoms]))
    return zbl.energies[0], zbl.forces[0], zbl.virial[0]


def compressed(atoms):
    """Return atoms as near as collisions bring them: else, few are inside the outer cutoff."""
    atoms = atoms.copy()
    atoms.set_cell(0.7 * atoms.cell.array)
    atoms.positions *= 0.7
    return atoms


# --- the formula ---------------------------------------------------------------------------------


def energy_by_hand(pair, r):
    """The formula, with the polynomial from the three conditions at the cutoff."""
    z_i, z_j = (int(z) for z in Atoms(pair).numbers)
    length = 0.46850 / (z_i**0.23 + z_j**0.23)

    def screened(r):
        x = r / length
        phi = 0.02817 * torch.exp(-0.20162 * x) + 0.28022 * torch.exp(-0.40290 * x)
        phi = phi + 0.50986 * torch.exp(-0.94229 * x) + 0.18175 * torch.exp(-3.19980 * x)
        return COULOMB * z_i * z_j / r * phi

    r_c = outer_cutoff(pair)
    at_cutoff = torch.tensor(r_c, dtype=torch.float64)
    slope = torch.func.grad(screened)
    wanted = [-f(at_cutoff).item() for f in (screened, slope, torch.func.grad(slope))]
    conditions = [[r_c**3 / 3, r_c**4 / 4, 1], [r_c**2, r_c**3, 0], [2 * r_c, 3 * r_c**2, 0]]
    a, b, c = np.linalg.solve(conditions, wanted)
    bare = screened(torch.tensor(r, dtype=torch.float64)).item()
    return bare + a / 3 * r**3 + b / 4 * r**4 + c


@pytest.mark.parametrize("pair", PAIRS)
def test_dimer_by_hand(pair):
    for fraction in FRACTIONS:
        r = fraction * outer_cutoff(pair)
        energies, _, _ = contribution(dimer(pair, r))
        expected = energy_by_hand(pair, r)
        np.testing.assert_allclose(energies, [expected / 2] * 2, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("pair", PAIRS)
def test_bare_nuclei_at_no_distance(pair):
    charges = np.prod(Atoms(pair).numbers)
    assert total(dimer(pair, 1e-5)) * 1e-5 == pytest.approx(COULOMB * charges, rel=1e-3)


@pytest.mark.parametrize("pair", PAIRS)
def test_zero_from_the_outer_cutoff_on(pair):
    # a heavier element elsewhere makes the neighbour list longer than the cutoff of this pair
    spectator = Atoms("Cs", [[50.0, 50.0, 50.0]])
    for factor in (1 + 1e-12, 1.001, 1.5):
        atoms = dimer(pair, factor * outer_cutoff(pair)) + spectator
        assert not any(values.any() for values in contribution(atoms))


@pytest.mark.parametrize("pair", PAIRS)
def test_smooth_at_the_outer_cutoff(pair):
    # energy, slope and curvature vanish: half the distance to the cutoff, an eighth of the energy
    near, nearer, nearest = (total(dimer(pair, outer_cutoff(pair) - h)) for h in (4e-3, 2e-3, 1e-3))
    assert near > 0
    assert near / nearer == pytest.approx(8, rel=2e-2)
    assert nearer / nearest == pytest.approx(8, rel=2e-2)


# --- LAMMPS --------------------------------------------------------------------------------------


def contribution_of_lammps(simulation, atoms, pair):
    """Energy, forces and virial of atoms of two elements; the cell has to be lower triangular.

    LAMMPS has one outer cutoff for all pairs: it has to be right for those that occur.
    """
    (a, _, _), (xy, b, _), (xz, yz, c) = atoms.cell.array.tolist()
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    kinds = [1 + (symbol != pair[0]) for symbol in atoms.symbols]
    z_i, z_j = Atoms(pair).numbers
    simulation.commands_list(
        [
            "clear",
            "units metal",
            "atom_modify map array sort 0 0.0",
            "box tilt large",
            f"boundary {boundary}",
            f"region all prism 0 {a} 0 {b} 0 {c} {xy} {xz} {yz}",
            "create_box 2 all",
            "mass * 1.0",
            f"pair_style zbl 1e-9 {outer_cutoff(pair)}",  # an inner cutoff of zero is refused
            f"pair_coeff 1 1 {z_i} {z_i}",
            f"pair_coeff 2 2 {z_j} {z_j}",
        ]
    )
    simulation.create_atoms(len(atoms), None, kinds, atoms.positions.ravel().tolist())
    simulation.commands_list(["thermo_style custom pe pxx pyy pzz pxy pxz pyz", "run 0"])
    energy = simulation.get_thermo("pe")
    forces = np.reshape(simulation.gather_atoms("f", 1, 3), (-1, 3))
    pressure = [
        [simulation.get_thermo("p" + "".join(sorted((row, column)))) for column in "xyz"]
        for row in "xyz"
    ]
    virial = np.array(pressure) * atoms.get_volume() / BAR_OF_LAMMPS
    # the stored constant has fewer digits
    return tuple(values * COULOMB / COULOMB_OF_LAMMPS for values in (energy, forces, virial))


def assert_equals_lammps(simulation, atoms, pair):
    energies, forces, virial = contribution(atoms)
    expected = contribution_of_lammps(simulation, atoms, pair)
    assert expected[0] > 0
    for actual, value in zip((energies.sum(), forces, virial), expected):
        np.testing.assert_allclose(actual, value, rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_dimer_equals_lammps(simulation, pair, fraction):
    atoms = dimer(pair, fraction * outer_cutoff(pair))
    atoms.set_cell([20.0, 20.0, 20.0])
    atoms.center()
    assert_equals_lammps(simulation, atoms, pair)


def rattled_copper():
    atoms = bulk("Cu", a=2.9, cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=0)
    return atoms


CRYSTALS = {
    "compressed copper": rattled_copper(),
    "one atom and its images": Atoms("Cu", cell=[[1.8, 0, 0], [0.9, 1.6, 0], [0.9, 0.5, 1.5]]),
    "skewed": Atoms(
        "Cu2", [[0.1, 0.1, 0.1], [1.1, 0.9, 1.2]], cell=[[2.0, 0, 0], [0.9, 2.1, 0], [-0.8, 0.7, 2]]
    ),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_crystal_equals_lammps(simulation, name):
    atoms = CRYSTALS[name].copy()
    atoms.pbc = True
    assert_equals_lammps(simulation, atoms, ("Cu", "Cu"))


def test_slab_equals_lammps(simulation):
    positions = [[0.1, 0.1, 4.0], [1.1, 0.9, 5.1], [0.4, 1.8, 5.9]]
    cell = [[2.0, 0, 0], [0.9, 2.1, 0], [0, 0, 10.0]]
    atoms = Atoms("C3", positions, cell=cell, pbc=[True, True, False])
    assert_equals_lammps(simulation, atoms, ("C", "C"))


# --- derivatives ---------------------------------------------------------------------------------


def test_forces_are_derivatives(structure):
    atoms = compressed(structure)
    _, forces, _ = contribution(atoms)
    for index in np.ndindex(forces.shape):
        slope = difference_quotient(lambda h, index=index: total(displaced(atoms, index, h)))
        assert -slope == pytest.approx(forces[index], rel=1e-6, abs=1e-6)


def test_virial_is_a_derivative(structure):
    atoms = compressed(structure)
    _, _, virial = contribution(atoms)
    np.testing.assert_array_equal(virial, virial.T)
    for index in np.ndindex(3, 3):
        slope = difference_quotient(lambda h, index=index: total(strained(atoms, index, h)))
        assert -slope == pytest.approx(virial[index], rel=1e-6, abs=1e-6)


def difference_quotient(energy, h=1e-5):
    return (energy(h) - energy(-h)) / (2 * h)


def displaced(atoms, index, h):
    atoms = atoms.copy()
    atoms.positions[index] += h
    return atoms


def strained(atoms, index, h):
    deformation = np.eye(3)
    deformation[index] += h
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ deformation)
    atoms.positions = atoms.positions @ deformation
    return atoms


# --- symmetries ----------------------------------------------------------------------------------


def test_rotation(structure):
    atoms = compressed(structure)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotated = atoms.copy()
    rotated.set_cell(atoms.cell.array @ rotation.T)
    rotated.positions = atoms.positions @ rotation.T
    energies, forces, virial = contribution(atoms)
    actual = contribution(rotated)
    expected = (energies, forces @ rotation.T, rotation @ virial @ rotation.T)
    for values, wanted in zip(actual, expected):
        np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-9)


def test_permutation(structure):
    atoms = compressed(structure)
    order = np.random.default_rng(0).permutation(len(atoms))
    energies, forces, virial = contribution(atoms)
    for values, wanted in zip(contribution(atoms[order]), (energies[order], forces[order], virial)):
        np.testing.assert_allclose(values, wanted, rtol=1e-11, atol=1e-11)


def test_translation_wraps(structure):
    atoms = compressed(structure)
    moved = atoms.copy()
    moved.translate([0.3, -7.1, 2.2])
    moved.wrap()
    for values, wanted in zip(contribution(moved), contribution(atoms)):
        np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-9)


def test_doubled_cell(structure):
    atoms = compressed(structure)
    energies, forces, virial = contribution(atoms)
    repeats = [2 if periodic else 1 for periodic in atoms.pbc]
    n_copies = np.prod(repeats)
    doubled = contribution(atoms * repeats)
    expected = (np.tile(energies, n_copies), np.tile(forces, (n_copies, 1)), n_copies * virial)
    for values, wanted in zip(doubled, expected):
        np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-9)


def test_batch_equals_singles(structures):
    frames = [compressed(atoms) for atoms in structures]
    zbl = compute_zbl(as_structures(frames))
    assert len(zbl.energies) == len(zbl.forces) == len(zbl.virial) == len(frames)
    for index, atoms in enumerate(frames):
        together = (zbl.energies[index], zbl.forces[index], zbl.virial[index])
        for values, wanted in zip(together, contribution(atoms)):
            np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12)


# --- edges ---------------------------------------------------------------------------------------


def test_single_atoms():
    energies, forces, virial = contribution(Atoms("O"))
    np.testing.assert_array_equal(energies, [0.0])
    np.testing.assert_array_equal(forces, np.zeros((1, 3)))
    np.testing.assert_array_equal(virial, np.zeros((3, 3)))


def test_elements_without_a_radius():
    # ASE has the same for all of them, which is used like any other
    placeholder = covalent_radii[atomic_numbers["Bk"]]
    assert placeholder == covalent_radii[atomic_numbers["Og"]]
    assert total(dimer(("Bk", "Og"), 1.99 * placeholder)) > 0
    assert total(dimer(("Bk", "Og"), 2.01 * placeholder)) == 0


def test_dummy_atoms_have_no_charge():
    assert total(Atoms("XXO", [[0, 0, 0], [0, 0, 0.1], [0, 0.1, 0]])) == 0


def test_coinciding_atoms_are_refused():
    with pytest.raises(ValueError, match="Atoms 0 and 1 of structure 0 are at the same place"):
        compute_zbl(as_structures([dimer(("H", "H"), 0.0)]))
