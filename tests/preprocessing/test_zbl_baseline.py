import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, TargetScaler
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.potentials import compute_zbl
from sklearn_soapbpnn.preprocessing import ZBLBaseline


@pytest.fixture
def frames():
    """Return molecules whose atoms collide, an atom, and a crystal."""
    frames = [molecule(name) for name in ("CH4", "H2O", "CO2")]
    for atoms in frames:
        atoms.positions *= 0.6
    return [*frames, Atoms("O"), Atoms("C", cell=[1.2, 1.3, 1.4], pbc=True)]


def assert_ragged_equal(actual, expected):
    assert len(actual) == len(expected)
    for values, wanted in zip(actual, expected):
        np.testing.assert_array_equal(values, wanted)


def test_attaches_zbl(frames):
    structures = ZBLBaseline().fit(frames).transform(frames)
    zbl = compute_zbl(as_structures(frames))
    assert set(structures.offset) == {"energy", "energies", "forces", "virial"}
    total = [energies.sum() for energies in zbl.energies]
    np.testing.assert_array_equal(structures.offset["energy"], total)
    np.testing.assert_array_equal(structures.offset["virial"], zbl.virial)
    assert_ragged_equal(structures.offset["energies"], zbl.energies)
    assert_ragged_equal(structures.offset["forces"], zbl.forces)
    assert (structures.offset["energy"][[0, 1, 2, 4]] > 1.0).all()


def test_leaves_what_comes_in_alone(frames):
    structures = as_structures(frames)
    ZBLBaseline().fit_transform(structures)
    assert not structures.offset


def test_sums_with_an_offset(frames):
    start = as_structures(frames).with_offset("energy", np.arange(5.0))
    structures = ZBLBaseline().fit_transform(start)
    alone = ZBLBaseline().fit_transform(frames)
    expected = alone.offset["energy"] + np.arange(5.0)
    np.testing.assert_array_equal(structures.offset["energy"], expected)
    assert_ragged_equal(structures.offset["forces"], alone.offset["forces"])


@pytest.mark.parametrize("key", [slice(1, 4), [4, 0], np.array([True, False, True, False, True])])
def test_slices(frames, key):
    structures = ZBLBaseline().fit_transform(frames)[key]
    places = np.arange(5)[key]
    alone = ZBLBaseline().fit_transform([frames[place] for place in places])
    for name in ("energy", "energies", "forces", "virial"):
        for values, wanted in zip(structures.offset[name], alone.offset[name], strict=True):
            np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12)


def test_composition_fits_what_is_left(frames):
    weights = {1: -1.0, 6: -3.0, 8: -5.0}
    composition = [sum(weights[z] for z in atoms.numbers.tolist()) for atoms in frames]
    zbl = ZBLBaseline().fit_transform(frames).offset["energy"]
    pipe = make_pipeline(ZBLBaseline(), CompositionBaseline(), TargetScaler())
    structures = pipe.fit_transform(frames, composition + zbl)
    isolated = pipe.transform([Atoms([z]) for z in weights])
    np.testing.assert_allclose(isolated.offset["energy"], list(weights.values()), rtol=1e-10)
    np.testing.assert_allclose(structures.offset["energy"], composition + zbl, rtol=1e-12)
    assert_ragged_equal(structures.offset["forces"], compute_zbl(as_structures(frames)).forces)


def test_subtracted_once(frames):
    step = ZBLBaseline().fit(frames)
    with pytest.raises(ValueError, match="ZBL was subtracted already"):
        step.transform(step.transform(frames))


def test_unknown_elements(frames):
    step = ZBLBaseline().fit(frames)
    np.testing.assert_array_equal(step.elements_, [1, 6, 8])
    with pytest.raises(ValueError, match=r"elements \['Cl'\] absent from fit"):
        step.transform([Atoms("Cl")])


def test_needs_no_target(frames):
    step = ZBLBaseline()
    assert not step.__sklearn_tags__().target_tags.required
    with pytest.raises(NotFittedError):
        step.transform(frames)
    assert step.fit(frames, None) is step
    assert step.get_feature_names_out().tolist() == []


def test_clone_and_pickle(frames):
    step = pickle.loads(pickle.dumps(ZBLBaseline().fit(frames)))
    expected = ZBLBaseline().fit_transform(frames).offset["energy"]
    np.testing.assert_array_equal(step.transform(frames).offset["energy"], expected)
    assert not hasattr(clone(step), "elements_")


def test_wrong_input():
    with pytest.raises(TypeError, match="got a single Atoms"):
        ZBLBaseline().fit(Atoms("H"))


def test_parts_add_up_to_the_whole(frames):
    """Half the energy of a pair belongs to each atom, wherever it is a centre."""
    baseline = ZBLBaseline().fit(frames)
    whole = baseline.transform(frames).offset
    backwards = [atoms[::-1] for atoms in frames]
    for n in range(6):
        first = baseline.transform_part(frames, n).offset
        for energies, expected in zip(first["energies"], whole["energies"]):
            np.testing.assert_allclose(energies[:n], expected[:n])
            assert not energies[n:].any()
        np.testing.assert_allclose(first["energy"], [e.sum() for e in first["energies"]])
        for k, atoms in enumerate(frames):
            n_rest = max(0, len(atoms) - n)
            rest = baseline.transform_part(backwards[k : k + 1], n_rest).offset
            forces = first["forces"][k] + rest["forces"][0][::-1]
            np.testing.assert_allclose(forces, whole["forces"][k], atol=1e-10)
            virial = first["virial"][k] + rest["virial"][0]
            np.testing.assert_allclose(virial, whole["virial"][k], atol=1e-10)
