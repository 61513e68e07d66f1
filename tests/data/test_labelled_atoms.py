"""Targets that are put back on structures, and read again, also from files."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_soapbpnn import TargetKind, Targets, open_frames
from sklearn_soapbpnn.data import as_structures

NAN = np.nan
KINDS = {
    "gap": TargetKind.scalar(intensive=True, unit="eV"),
    "spectrum": TargetKind.scalar(4),
    "magmoms": TargetKind.scalar(per_atom=True),
    "hirshfeld": TargetKind.scalar(2, per_atom=True),
    "octupole": TargetKind.spherical((3, 1)),
    "born": TargetKind.tensor(per_atom=True),
    "shielding": TargetKind.tensor(),
}


@pytest.fixture
def frames():
    return [molecule("H2O"), bulk("Cu", cubic=True), Atoms("H", info={"origin": "here"})]


@pytest.fixture
def targets(frames):
    """A column of every kind, with labels that are missing in part or altogether."""
    rng = np.random.default_rng(0)
    known = {name: kind for name, kind in Targets(**_columns(rng, frames)).kinds.items()}
    columns = _columns(rng, frames)
    for name, kind in KINDS.items():
        shapes = [(len(atoms),) * kind.per_atom + kind.shape for atoms in frames]
        columns[name] = [rng.normal(size=shape) for shape in shapes]
    columns["energy"][1] = columns["charges"][1][2] = columns["stress"][0] = NAN
    columns["spectrum"][2][1] = columns["dipole"][0][2] = columns["born"][0][1] = NAN
    return Targets(kinds={**known, **KINDS}, **columns)


def _columns(rng, frames):
    stress = rng.normal(size=(3, 3, 3))
    return {
        "energy": rng.normal(size=3),
        "forces": [rng.normal(size=(len(atoms), 3)) for atoms in frames],
        "stress": stress + stress.swapaxes(1, 2),
        "virial": stress @ stress.swapaxes(1, 2),
        "dipole": rng.normal(size=(3, 3)),
        "charges": [rng.normal(size=len(atoms)) for atoms in frames],
        "polarizability": stress @ stress.swapaxes(1, 2),
        "energies": [rng.normal(size=len(atoms)) for atoms in frames],
    }


def read_again(frames, targets):
    names = {name: name for name in targets.names}
    return Targets.from_atoms(frames, kinds=KINDS, missing="nan", **names)


def check_equal(found, targets, **tolerance):
    assert found.names == targets.names
    for name in targets.names:
        assert_allclose(found.flatten(name), targets.flatten(name), err_msg=name, **tolerance)


def test_round_trip(frames, targets):
    labelled = targets.to_atoms(frames)
    check_equal(read_again(labelled, targets), targets)
    assert all(new == old and new is not old for new, old in zip(labelled, frames))
    # the originals are as they were
    assert frames[0].calc is None
    assert not frames[0].info
    assert set(frames[0].arrays) == {"numbers", "positions"}
    assert labelled[2].info["origin"] == "here"
    assert_array_equal(labelled[0].get_forces(), targets["forces"][0])
    assert labelled[1].get_stress().shape == (6,)
    # without a label there is no result, rather than NaN
    assert "energy" not in labelled[1].calc.results
    assert "stress" not in labelled[0].calc.results


def test_round_trip_through_a_file(frames, targets, tmp_path):
    path = tmp_path / "labelled.xyz"
    write(path, targets.to_atoms(frames))
    for again in (read(path, ":"), open_frames(path)):
        # extended XYZ has eight decimals
        check_equal(read_again(again, targets), targets, atol=1e-7)


def test_labels_are_replaced(frames):
    """Also by labels that are missing, so that none of another calculation is left."""
    frames[0].info["energy"] = 5.0
    frames[0].arrays["forces"] = np.ones((3, 3))
    forces = [np.zeros((len(atoms), 3)) for atoms in frames]
    labelled = Targets(energy=[NAN, 1.0, 2.0], forces=forces).to_atoms(frames)
    assert "energy" not in labelled[0].info
    assert "forces" not in labelled[0].arrays
    assert frames[0].info["energy"] == 5.0
    assert not labelled[0].get_forces().any()
    labelled = Targets(kinds=KINDS, octupole=np.ones((3, 7))).to_atoms(frames)
    labelled[0].info["octupole"][0] = 2.0
    assert labelled[0].calc is None


def test_labels_that_do_not_fit(frames, targets):
    with pytest.raises(ValueError, match="X has 2 structures, but there are 3 labels"):
        targets.to_atoms(frames[:2])
    with pytest.raises(ValueError, match="'forces' of structure 0 has 3 rows.* has 4 atoms"):
        targets.to_atoms([frames[1], frames[0], frames[2]])
    with pytest.raises(TypeError, match="sequence of ase.Atoms"):
        targets.to_atoms(frames[0])
    kinds = {"positions": TargetKind.vector(per_atom=True)}
    moved = Targets(kinds=kinds, positions=[np.ones((len(atoms), 3)) for atoms in frames])
    with pytest.raises(ValueError, match="store their positions in arrays"):
        moved.to_atoms(frames)


def test_structures_have_the_same_atoms(frames, targets):
    labelled = targets.to_atoms(as_structures(frames))
    assert labelled == frames
    check_equal(read_again(labelled, targets), targets)


def test_keys(targets):
    """Targets can be turned into a dict, or passed on as keyword arguments."""
    assert tuple(targets.keys()) == targets.names
    check_equal(Targets(kinds=targets.kinds, **targets), targets)
    assert list(dict(targets)) == [*targets.names]
