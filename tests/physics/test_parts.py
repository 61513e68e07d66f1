"""Energies of some atoms of a structure: parts add up to the whole."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.data import as_structures, divide_atoms
from sklearn_soapbpnn.model import _evaluate, list_steps, run_steps

SMALL = {"max_radial": 2, "max_angular": 2, "cutoff_radius": 4.0, "dtype": "float64"}
OPTIONS = [
    {},
    {"layernorm": False},
    {"zbl": True},
    {"n_networks": 2},
    {"num_hidden_layers": 0},
    {"species_encoding": "alchemical"},
    {"species_encoding": "alchemical", "layernorm": False, "n_networks": 2},
    {"species_encoding": "alchemical", "num_hidden_layers": 0, "zbl": True},
]
OUTPUTS = ["energies", "forces", "virial"]


def fit(frames, **options):
    rng = np.random.default_rng(0)
    energies = [rng.normal(len(atoms)) for atoms in frames]
    model = SoapBPNNRegressor(**SMALL, **options, num_epochs=2, random_state=0)
    return model.fit(frames, energies)


@pytest.fixture(scope="module")
def frames():
    """A few structures to learn: three elements on a distorted lattice, and single atoms."""
    rng = np.random.default_rng(1)
    lattice = 1.5 * np.stack(np.meshgrid(*[range(2)] * 3), axis=-1).reshape(-1, 3)
    frames = []
    for n_atoms in (2, 3, 5, 7, 8, 8):
        positions = lattice[:n_atoms] + rng.normal(scale=0.1, size=(n_atoms, 3))
        numbers = rng.choice([1, 6, 8], n_atoms)
        frames.append(Atoms(numbers, positions))
        frames.append(Atoms(numbers, positions, cell=[4.0, 4.5, 5.0], pbc=True))
    return frames + [Atoms([number]) for number in (1, 6, 8)]


@pytest.fixture(scope="module", params=OPTIONS, ids=str)
def fitted(request, frames):
    return fit(frames, **request.param).fitted_


@pytest.fixture(scope="module")
def simple(frames):
    return fit(frames).fitted_


def add_images(atoms, centers, cutoff):
    """Return the centres, then all atoms and images near them without a cell; and their origins."""
    i, j, shifts = neighbor_list("ijS", atoms, cutoff)
    near = {(b, *shift) for a, b, shift in zip(i, j, shifts.tolist()) if a in centers}
    near = sorted(near - {(center, 0, 0, 0) for center in centers})
    origins = [*centers, *(image[0] for image in near)]
    shifts = np.array([[0, 0, 0]] * len(centers) + [image[1:] for image in near]).reshape(-1, 3)
    positions = atoms.positions[origins] + shifts @ atoms.cell.array
    return Atoms(atoms.numbers[origins], positions), np.array(origins)


def divide(atoms, n_parts=3):
    """Distribute atoms among parts at random; some may be empty."""
    part = np.random.default_rng(0).integers(0, n_parts, len(atoms))
    return [np.flatnonzero(part == k).tolist() for k in range(n_parts)]


def sum_parts(fitted, atoms, parts):
    energies, forces, virial = np.zeros(len(atoms)), np.zeros((len(atoms), 3)), np.zeros((3, 3))
    for centers in parts:
        if not centers:
            continue
        some, origins = add_images(atoms, centers, SMALL["cutoff_radius"])
        found = fitted.predict_part(as_structures([some]), len(centers))
        energies[centers] = found["energies"]
        np.add.at(forces, origins, found["forces"])
        virial += found["virial"]
    return {"energies": energies, "forces": forces, "virial": virial}


def predict(fitted, atoms):
    """Return the outputs of the whole structure; the virial also where there is no cell."""
    X = as_structures([atoms])
    outputs = {name: found[0] for name, found in fitted.predict_once(X, OUTPUTS).items()}
    if atoms.cell.rank < 3:
        outputs["virial"] = fitted.predict_part(X, len(atoms))["virial"]
    return outputs


def assert_equal(found, expected):
    for name in OUTPUTS:
        scale = max(np.abs(expected[name]).max(), 1.0)
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-10 * scale)


def test_parts_add_up_to_the_whole(fitted, structure):
    assert_equal(sum_parts(fitted, structure, divide(structure)), predict(fitted, structure))


@pytest.mark.parametrize("options", [{}, OPTIONS[-2]], ids=str)
def test_parts_add_up_to_the_whole_with_torch(frames, options, structure, with_torch):
    fitted = fit(frames, **options).fitted_
    assert_equal(sum_parts(fitted, structure, divide(structure)), predict(fitted, structure))


def test_all_atoms_are_a_part(fitted, structure):
    X = as_structures([structure])
    assert_equal(fitted.predict_part(X, len(structure)), predict(fitted, structure))


def test_parts_may_have_a_cell(fitted, structures):
    """Images need not be listed: atoms see them in the other processes as well."""
    for atoms in structures:
        whole, parts = predict(fitted, atoms), divide(atoms)
        virial = 0
        for centers in parts:
            order = [*centers, *(k for k in range(len(atoms)) if k not in centers)]
            found = fitted.predict_part(as_structures([atoms[order]]), len(centers))
            np.testing.assert_allclose(found["energies"], whole["energies"][centers], atol=1e-10)
            virial = virial + found["virial"]
        assert np.abs(virial - whole["virial"]).max() < 1e-9 * max(1, np.abs(virial).max())


def test_without_centers_nothing_remains(fitted, structure):
    found = fitted.predict_part(as_structures([structure]), 0)
    assert found["energies"].shape == (0,)
    assert found["forces"].shape == (len(structure), 3)
    assert not np.any(found["forces"])
    assert not np.any(found["virial"])


def test_forces_are_derivatives_of_the_sum_over_centers(fitted, molecule):
    n_centers, step = 4, 1e-5

    def energy(atoms):
        return fitted.predict_part(as_structures([atoms]), n_centers)["energies"].sum()

    forces = fitted.predict_part(as_structures([molecule]), n_centers)["forces"]
    assert np.abs(forces[n_centers:]).max() > 1e-5
    for k in (0, n_centers, len(molecule) - 1):
        for axis in range(3):
            ends = []
            for sign in (1, -1):
                moved = molecule.copy()
                moved.positions[k, axis] += sign * step
                ends.append(energy(moved))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert abs(slope + forces[k, axis]) < 1e-6 * np.abs(forces).max()


def test_energies_of_neighbors_do_not_matter(simple, molecule):
    """Far from the centres, others may do what they want."""
    molecule.extend(Atoms("CO", molecule.positions[-1] + [[0, 0, 9.0], [0, 0, 10.0]]))
    before = simple.predict_part(as_structures([molecule]), 3)
    molecule.positions[-1] += 0.3
    after = simple.predict_part(as_structures([molecule]), 3)
    for name in OUTPUTS:
        np.testing.assert_array_equal(before[name], after[name])


def test_elements_of_neighbors_that_no_center_has(simple):
    """The parts need not have the same elements."""
    atoms = Atoms("OHCH", [[0, 0, 0], [0, 0, 1.0], [1.2, 0, 0], [2.0, 0.5, 1.0]])
    assert_equal(sum_parts(simple, atoms, [[0], [1, 3], [2]]), predict(simple, atoms))


# --- large structures ----------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch):
    """Evaluate a few atoms at a time."""

    def shrink(size):
        monkeypatch.setattr(_evaluate, "ATOMS_PER_CHUNK", size)
        monkeypatch.setattr(_evaluate, "ATOMS_PER_PART", size)

    return shrink


@pytest.mark.parametrize("size", [1, 4])
def test_large_structures_are_evaluated_in_parts(fitted, structures, small_parts, size):
    X = as_structures(structures)
    names = [*OUTPUTS, "energy", "stress", "features", "energy_last_layer_features"]
    expected = fitted.predict_once(X, names)
    small_parts(size)
    found = fitted.predict_once(X, names)
    assert found.keys() == expected.keys()
    for name in names:
        for values, wanted in zip(found[name], expected[name]):
            np.testing.assert_allclose(values, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("encoding", ["orthogonal", "alchemical"])
def test_parts_of_other_targets(frames, structures, small_parts, encoding):
    rng = np.random.default_rng(0)
    y = Targets(
        kinds={"gap": TargetKind.scalar(intensive=True)},
        gap=rng.normal(size=len(frames)),
        dipole=rng.normal(size=(len(frames), 3)),
        charges=[rng.normal(size=len(atoms)) for atoms in frames],
    )
    model = SoapBPNNRegressor(**SMALL, species_encoding=encoding, num_epochs=2, random_state=0)
    model.fit(frames, y)
    expected = model.predict(structures, targets=list(y.names))
    small_parts(3)
    found = model.predict(structures, targets=list(y.names))
    for name in y.names:
        for values, wanted in zip(found[name], expected[name]):
            np.testing.assert_allclose(values, wanted, rtol=1e-10, atol=1e-10)


def test_long_range_structures_stay_whole(frames, structures, small_parts):
    fitted = fit(frames[:6], long_range=True).fitted_
    X = as_structures([atoms for atoms in structures if atoms.pbc.all() or not atoms.pbc.any()])
    expected = fitted.predict_once(X, ["energy", "forces"])
    small_parts(2)
    found = fitted.predict_once(X, ["energy", "forces"])
    for name in ("energy", "forces"):
        for values, wanted in zip(found[name], expected[name]):
            np.testing.assert_allclose(values, wanted, rtol=1e-10, atol=1e-10)


def test_descriptors_of_large_structures_are_not_kept(frames, simple, molecule, small_parts):
    """They would take more memory than the parts."""
    X = as_structures([molecule])
    assert simple.prepare(X, ["energy"]).features is not None
    small_parts(4)
    assert simple.prepare(X, ["energy"]).features is None


def test_groups_are_compact_and_complete():
    atoms = bulk("Cu", cubic=True) * (4, 5, 6)
    atoms.rattle(0.1, seed=0)
    # molecular dynamics does not bring atoms back into the cell
    atoms.positions += np.random.default_rng(0).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    groups = divide_atoms(atoms.positions, atoms.cell.array, atoms.pbc, 50)
    assert sorted(np.concatenate(groups)) == list(range(len(atoms)))
    assert len(groups) == 10
    assert {len(group) for group in groups} == {48}
    i, j = neighbor_list("ij", atoms, 4.0)
    owner = np.empty(len(atoms), int)
    for k, group in enumerate(groups):
        owner[group] = k
    # groups in an arbitrary order would have 90 percent of their neighbours outside
    assert (owner[i] != owner[j]).mean() < 0.6
    assert [len(group) for group in divide_atoms(np.empty((0, 3)), np.eye(3), atoms.pbc, 5)] == [0]


# --- steps of Pipelines --------------------------------------------------------------------------


class Shift(TransformerMixin, BaseEstimator):
    """Attaches an energy to a structure as a whole."""

    names = ("energy",)

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        X = as_structures(X)
        return X.with_offset("energy", np.ones(len(X)))


class Pull(Shift):
    """Attaches forces to all atoms."""

    def transform(self, X):
        X = as_structures(X)
        return X.with_offset("forces", [np.ones((n, 3)) for n in X.n_atoms])


def fit_pipeline(frames, *steps):
    network = SoapBPNNRegressor(dtype="float64", num_epochs=2, random_state=0)
    descriptor = SoapFeaturizer(**SMALL)
    y = np.random.default_rng(0).normal(size=len(frames))
    return make_pipeline(*steps, descriptor, network).fit(frames, y)


def predict_part(pipe, atoms, n_centers):
    *steps, regressor = list_steps(pipe)
    X = run_steps(steps, as_structures([atoms]), n_centers)
    return regressor.fitted_.predict_part(X, n_centers)


def test_steps_of_a_pipeline(frames, structures):
    pipe = fit_pipeline(frames, ZBLBaseline(), CompositionBaseline(), TargetScaler())
    for atoms in structures:
        energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
        for centers in filter(None, divide(atoms)):
            some, origins = add_images(atoms, centers, SMALL["cutoff_radius"])
            found = predict_part(pipe, some, len(centers))
            energies[centers] = found["energies"]
            np.add.at(forces, origins, found["forces"])
        expected = pipe.predict([atoms], targets=["energies", "forces"])
        scale = max(1.0, np.abs(expected["forces"][0]).max())
        np.testing.assert_allclose(energies, expected["energies"][0], atol=1e-10 * scale)
        np.testing.assert_allclose(forces, expected["forces"][0], rtol=0, atol=1e-10 * scale)


def test_offsets_of_the_whole_are_refused(frames, molecule):
    with pytest.raises(ValueError, match=r"energy of the whole structure.*'energies'"):
        predict_part(fit_pipeline(frames, Shift(), CompositionBaseline()), molecule, 4)
    with pytest.raises(ValueError, match=r"Pull attaches the forces.*transform_part"):
        predict_part(fit_pipeline(frames, Pull()), molecule, 4)


# --- what is refused -----------------------------------------------------------------------------


def test_long_range_is_refused(frames, molecule):
    fitted = fit(frames[:6], long_range=True).fitted_
    with pytest.raises(ValueError, match="long_range=True: its energies depend on all atoms"):
        fitted.predict_part(as_structures([molecule]), 2)


def test_wrong_numbers_of_centers_and_structures(simple, molecule):
    for X, n_centers in (([molecule] * 2, 1), ([molecule], len(molecule) + 1), ([molecule], -1)):
        with pytest.raises(ValueError, match=f"at least n_centers={n_centers} atoms"):
            simple.predict_part(as_structures(X), n_centers)


def test_models_without_energy_are_refused(frames):
    kinds = {"gap": TargetKind.scalar(intensive=True)}
    y = Targets(kinds=kinds, gap=np.arange(len(frames)))
    fitted = SoapBPNNRegressor(**SMALL, num_epochs=1, random_state=0).fit(frames, y).fitted_
    with pytest.raises(ValueError, match=r"learnt \['gap'\], but no energy"):
        fitted.predict_part(as_structures(frames[:1]), 1)
