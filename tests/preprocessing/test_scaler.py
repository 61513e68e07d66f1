import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import CompositionBaseline, Structures, Targets, TargetScaler
from sklearn_soapbpnn.data import as_structures


def fitted_scale(X, y, **kwargs):
    return TargetScaler().fit(X, y, **kwargs).scale_["energy"]


def test_by_hand():
    # per atom: 6 / 3 = 2 and -2 / 2 = -1, not centred: sqrt((4 + 1) / 2)
    frames = [molecule("H2O"), molecule("H2")]
    assert fitted_scale(frames, [6.0, -2.0]) == pytest.approx(np.sqrt(2.5))


def test_is_not_centred():
    assert fitted_scale([Atoms("H")] * 3, [2.0, 2.0, 2.0]) == pytest.approx(2.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 5), st.floats(-1e3, 1e3)), min_size=1, max_size=6))
def test_formula(entries):
    n_atoms, energies = np.array(entries).T
    frames = [Atoms("H" * int(n)) for n in n_atoms]
    expected = np.sqrt(np.mean((energies / n_atoms) ** 2))
    if expected > 1e-6:
        assert fitted_scale(frames, energies) == pytest.approx(expected)


def test_sees_the_offset():
    structures = as_structures([molecule("H2O"), molecule("H2")])
    carrying = structures.with_offset("energy", [100.0, 200.0])
    assert fitted_scale(carrying, [106.0, 198.0]) == pytest.approx(np.sqrt(2.5))


def test_behind_a_baseline():
    frames = [Atoms("H"), Atoms("H"), Atoms("H2")]
    # e_H = (1 * 2 + 1 * 4 + 2 * 6) / 6 = 3: residuals -1, 1, 0
    pipe = make_pipeline(CompositionBaseline(), TargetScaler()).fit(frames, [2.0, 4.0, 6.0])
    assert pipe[-1].scale_["energy"] == pytest.approx(np.sqrt(2 / 3))


@pytest.mark.parametrize("energy", [0.0, 5.0])
def test_zero_residual_gives_one(energy):
    structures = as_structures([Atoms("H2")] * 2).with_offset("energy", [energy, energy])
    assert fitted_scale(structures, [energy, energy]) == 1.0


def test_residual_that_is_rounding_gives_one():
    """Three compositions and three elements: the baseline explains everything but rounding."""
    frames = [molecule(name) for name in ("H2O", "CH4", "H2")]
    energies = np.array([-2081.1, -1100.7, -31.3])
    pipe = make_pipeline(CompositionBaseline(), TargetScaler()).fit(frames, energies)
    np.testing.assert_allclose(pipe[0].predict(frames), energies)
    assert pipe[-1].scale_["energy"] == 1.0


def test_a_small_residual_is_not_mistaken_for_rounding():
    structures = as_structures([Atoms("H")] * 2).with_offset("energy", [-1000.0, -1000.0])
    scale = fitted_scale(structures, [-1000.0 + 1e-6, -1000.0 - 1e-6])
    assert scale == pytest.approx(1e-6, rel=1e-3)
    assert fitted_scale([Atoms("H")], [1e-9]) == pytest.approx(1e-9)


def test_weights():
    frames = [Atoms("H")] * 2
    # (3 * 1 + 1 * 25) / 4 = 7
    scale = fitted_scale(frames, [1.0, 5.0], sample_weight=[3.0, 1.0])
    assert scale == pytest.approx(np.sqrt(7.0))
    repeated = fitted_scale([Atoms("H")] * 4, [1.0, 1.0, 1.0, 5.0])
    assert scale == pytest.approx(repeated)


def test_unlabelled_structures_are_left_out():
    y = Targets(energy=[3.0, np.nan, 3.0])
    frames = [Atoms("H"), Atoms("H5"), Atoms("H")]
    assert fitted_scale(frames, y) == pytest.approx(3.0)
    assert fitted_scale(frames, y, sample_weight=[1.0, 50.0, 1.0]) == pytest.approx(3.0)


def test_weights_must_not_all_be_on_unlabelled_structures():
    y = Targets(energy=[1.0, np.nan])
    with pytest.raises(ValueError, match="sample_weight"):
        fitted_scale([Atoms("H")] * 2, y, sample_weight=[0.0, 1.0])


def test_needs_a_target_that_is_learnt_by_itself():
    y = Targets(forces=[np.zeros((1, 3))])
    with pytest.raises(
        ValueError, match=r"learnt by itself, such as 'energy', it has \['forces'\]"
    ):
        TargetScaler().fit([Atoms("H")], y)


# --- fixed weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [0.1, 2, np.float32(0.5)])
def test_fixed_weights(fixed):
    scaler = TargetScaler(fixed_weights={"energy": fixed}).fit([Atoms("H")], [7.0])
    assert scaler.scale_ == {"energy": float(fixed)}
    assert dict(scaler.transform([Atoms("H")]).scale) == {"energy": float(fixed)}


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "small", None])
def test_fixed_weight_must_be_positive(value):
    message = r"fixed_weights\['energy'\] must be a positive number"
    with pytest.raises(ValueError, match=message) as info:
        TargetScaler({"energy": value}).fit([Atoms("H")], [1.0])
    assert repr(value) in str(info.value)


def test_unknown_target():
    message = r"fixed_weights names 'dipole'; the scaled targets are \['energy'\]"
    with pytest.raises(ValueError, match=message):
        TargetScaler({"dipole": 1.0}).fit([Atoms("H")], [1.0])


def test_weights_must_be_a_mapping():
    with pytest.raises(ValueError, match="'fixed_weights' parameter of TargetScaler"):
        TargetScaler(0.1).fit([Atoms("H")], [1.0])


# --- as a step -----------------------------------------------------------------------------------


def test_transform_attaches_the_scale_and_keeps_the_rest():
    structures = as_structures([molecule("H2"), molecule("O2")]).with_offset("energy", [1.0, 2.0])
    scaler = TargetScaler().fit(structures, [2.0, 1.0])
    carrying = scaler.transform(structures)
    assert isinstance(carrying, Structures)
    assert dict(carrying.scale) == scaler.scale_ == {"energy": pytest.approx(0.5)}
    np.testing.assert_array_equal(carrying.offset["energy"], [1.0, 2.0])
    assert dict(structures.scale) == {}


def test_transform_does_not_depend_on_elements():
    scaler = TargetScaler().fit([Atoms("H")], [2.0])
    assert dict(scaler.transform([Atoms("Au")]).scale) == {"energy": 2.0}


def test_not_fitted():
    with pytest.raises(NotFittedError):
        TargetScaler().transform([Atoms("H")])


def test_clone_and_pickle():
    scaler = TargetScaler({"energy": 0.3})
    parameters = {"fixed_weights": {"energy": 0.3}, "per_structure_targets": ()}
    assert clone(scaler).get_params() == parameters
    back = pickle.loads(pickle.dumps(scaler.fit([Atoms("H")], [1.0])))
    assert back.scale_ == {"energy": 0.3}
