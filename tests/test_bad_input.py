"""DESIGN.md, sections 5 and 9: what is refused, with which words, and what must work."""

import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from sklearn.ensemble import BaggingRegressor, VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from skorch.callbacks import BatchScoring, EpochScoring

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator

SOAP = {"cutoff_radius": 3.0, "max_radial": 1, "max_angular": 1}
ENERGY = np.array([-2.0, -1.0, -3.0, 1.0])
ENERGY.flags.writeable = False
DIPOLE = np.arange(12.0).reshape(4, 3)
DIPOLE.flags.writeable = False


def small_model(**parameters):
    defaults = {**SOAP, "num_neurons_per_layer": 2, "num_epochs": 1, "random_state": 0}
    return SoapBPNNRegressor(**{**defaults, **parameters})


def small_pipeline():
    return Pipeline(
        [
            ("baseline", CompositionBaseline()),
            ("scaler", TargetScaler()),
            ("soap", SoapFeaturizer(**SOAP)),
            ("bpnn", SoapBPNNRegressor(num_neurons_per_layer=2, num_epochs=1, random_state=0)),
        ]
    )


def make_frames():
    frames = [molecule(name) for name in ("H2O", "CH4", "H2", "H2O2")]
    frames[3].set_cell([9.0, 9.0, 9.0])
    frames[3].pbc = True
    return frames


def make_forces(frames):
    return [np.full((len(atoms), 3), 0.1) for atoms in frames]


@pytest.fixture
def frames():
    return make_frames()


@pytest.fixture(scope="module")
def model():
    return small_model().fit(make_frames(), ENERGY)


@pytest.fixture(scope="module")
def dipole_model():
    return small_model().fit(make_frames(), Targets(dipole=DIPOLE))


@pytest.fixture(scope="module")
def pipeline():
    return small_pipeline().fit(make_frames(), ENERGY)


@pytest.fixture(scope="module")
def featurizer():
    return SoapFeaturizer(**SOAP).fit(make_frames())


@pytest.fixture(scope="module")
def baseline():
    return CompositionBaseline().fit(make_frames(), ENERGY)


@pytest.fixture(scope="module")
def scaler():
    return TargetScaler().fit(make_frames(), ENERGY)


def assert_refused(error, message, X, y, *, estimator=None, **fit_params):
    """Check that fit raises, and before any work starts: not even a baseline is fitted."""
    estimator = small_model() if estimator is None else estimator
    with pytest.raises(error, match=message):
        estimator.fit(X, y, **fit_params)
    assert not [name for name in vars(estimator) if name.endswith("_")]


# --- structures ----------------------------------------------------------------------------------


def labels(X):
    return np.zeros(len(X) if hasattr(X, "__len__") else 1)


ENTRIES = {
    "fit": lambda get, X: small_model().fit(X, labels(X)),
    "fit X_val": lambda get, X: small_model().fit(make_frames(), ENERGY, X_val=X, y_val=labels(X)),
    "fit Pipeline": lambda get, X: small_pipeline().fit(X, labels(X)),
    "predict": lambda get, X: get("model").predict(X),
    "predict forces": lambda get, X: get("model").predict(X, targets=["forces"]),
    "predict Pipeline": lambda get, X: get("pipeline").predict(X),
    "featurizer fit": lambda get, X: SoapFeaturizer(**SOAP).fit(X),
    "featurizer transform": lambda get, X: get("featurizer").transform(X),
    "baseline fit": lambda get, X: CompositionBaseline().fit(X, labels(X)),
    "baseline predict": lambda get, X: get("baseline").predict(X),
    "baseline transform": lambda get, X: get("baseline").transform(X),
    "scaler fit": lambda get, X: TargetScaler().fit(X, labels(X)),
    "scaler transform": lambda get, X: get("scaler").transform(X),
    "from_atoms": lambda get, X: Targets.from_atoms(X, missing="nan", energy="energy"),
}


@pytest.fixture(params=ENTRIES)
def entry(request):
    """Hand an X to everything that takes one."""
    return lambda X: ENTRIES[request.param](request.getfixturevalue, X)


def changed(name, value, pbc=False):
    atoms = Atoms("H2O", [[0, 0, 0], [0, 0, 1], [0, 1, 0]], cell=[6, 6, 6], pbc=pbc)
    if name == "positions":
        atoms.positions[1, 2] = value
    elif name == "cell":
        atoms.cell[1, 2] = value
    return atoms


BAD_STRUCTURES = {
    "NaN position": (changed("positions", np.nan), r"X\[1\]\.positions contains.* nan.*repair"),
    "infinite position": (
        changed("positions", -np.inf),
        r"X\[1\]\.positions contains.* -inf.*repair",
    ),
    "NaN cell": (changed("cell", np.nan), r"X\[1\]\.cell contains.* nan.*repair"),
    "infinite cell": (changed("cell", np.inf, pbc=True), r"X\[1\]\.cell contains.* inf.*repair"),
    "no cell": (
        Atoms("H", pbc=True),
        r"X\[1\] is periodic along \[True, True, True\].*no volume.*Set a cell, or pbc=False",
    ),
    "flat cell": (
        Atoms("H", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True),
        r"X\[1\].*no volume there: \[\[3\.0, 0\.0, 0\.0\].*Set a cell",
    ),
    "no third vector": (
        Atoms("H", cell=[3, 3, 0], pbc=(True, False, True)),
        r"X\[1\] is periodic along \[True, False, True\]",
    ),
    "parallel vectors": (
        Atoms("H", cell=[[3, 0, 0], [-6, 0, 0], [0, 0, 3]], pbc=(True, True, False)),
        r"X\[1\] is periodic along \[True, True, False\]",
    ),
    "no atoms": (Atoms(cell=[3, 3, 3]), r"X\[1\] has no atoms.*Remove it"),
    "bead": (
        Atoms([6, 119, 200, 119], np.eye(4, 3)),
        r"X\[1\] contains the atomic numbers \[119, 200\], .* range is 0 to 118. Give",
    ),
    "negative number": (Atoms([1, -1], np.eye(2, 3)), r"X\[1\] contains .* numbers \[-1\].*repair"),
}


@pytest.mark.parametrize("case", BAD_STRUCTURES)
def test_bad_structure(case):
    atoms, message = BAD_STRUCTURES[case]
    with pytest.raises(ValueError, match=message):
        small_model().fit([molecule("H2O"), atoms, molecule("H2")], np.zeros(3))


@pytest.mark.parametrize("case", ["NaN position", "flat cell", "bead"])
def test_everything_refuses_bad_structures(entry, case):
    atoms, message = BAD_STRUCTURES[case]
    with pytest.raises(ValueError, match=message.replace("X", "X(_val)?")):
        entry([molecule("H2O"), atoms, molecule("H2")])


SINGLE_ATOMS = r"\[0\] holds single atoms.*pass a list of ase\.Atoms, not an array.*n_networks"


@pytest.mark.parametrize("attribute", ["_pbc", "_cellobj"])
def test_atoms_pickled_by_an_old_version_of_ase(attribute):
    """Before 3.20 they had no ``_pbc``, before 3.18 no ``_cellobj``."""
    atoms = molecule("H2O")
    delattr(atoms, attribute)
    message = rf"X\[1\] is incomplete \(.*'{attribute}'\).*pickled it.*rebuild it: Atoms\("
    with pytest.raises(ValueError, match=message):
        SoapFeaturizer(**SOAP).fit([molecule("H2O"), atoms])


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([], ValueError, "holds no structures.*Pass at least one"),
        ((), ValueError, "holds no structures.*Pass at least one"),
        (molecule("H2O"), TypeError, r"sequence of ase\.Atoms, got a single Atoms.*Pass \[atoms\]"),
        ([molecule("H2O"), "H2O"], TypeError, r"\[1\] has the type str"),
        ([molecule("H2O"), None], TypeError, r"\[1\] has the type NoneType"),
        ([[molecule("H2O")]], TypeError, r"\[0\] has the type list"),
        (np.zeros((2, 3)), TypeError, r"\[0\] has the type ndarray.*Pass a list of Atoms"),
        (np.zeros((2, 0)), TypeError, r"\[0\] has the type ndarray"),
        (np.array([molecule("H2O")] * 2, dtype=object), TypeError, SINGLE_ATOMS),
        (list(molecule("H2O")), TypeError, SINGLE_ATOMS),
        (pd.DataFrame({"a": [1.0]}), TypeError, "got a data frame"),
        (3, TypeError, "got int.*Pass a list of Atoms"),
        ("train.xyz", TypeError, r"path of a file. Read it: ase\.io\.read"),
        (Path("train.xyz"), TypeError, r"path of a file. Read it: ase\.io\.read"),
    ],
    ids=[
        *("list", "tuple", "Atoms", "str", "None in list", "nested", "array", "empty array"),
        *("table of atoms", "list of atoms", "frame", "int", "name of a file", "path"),
    ],
)
def test_not_structures(X, error, message):
    with pytest.raises(error, match=message):
        SoapFeaturizer(**SOAP).fit(X)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([], ValueError, "holds no structures.*Pass at least one"),
        (molecule("H2O"), TypeError, r"sequence of ase\.Atoms, got a single Atoms"),
        ([molecule("H2O"), "H2O"], TypeError, r"\[1\] has the type str"),
        (list(molecule("H2O")), TypeError, SINGLE_ATOMS),
    ],
    ids=["empty", "Atoms", "str", "list of atoms"],
)
def test_everything_refuses_what_are_not_structures(entry, X, error, message):
    with pytest.raises(error, match=message):
        entry(X)


def test_an_iterator_that_has_been_read(frames):
    for step in (SoapFeaturizer(**SOAP), CompositionBaseline()):
        with pytest.raises(ValueError, match="X holds no structures.*only once: pass a list"):
            step.fit_transform(iter(frames), ENERGY)


@pytest.mark.parametrize(
    ("fit", "error"),
    [
        (lambda X: small_model().fit(X, np.zeros(1)), TypeError),
        (lambda X: SoapFeaturizer(**SOAP).fit(X), TypeError),
        (lambda X: CompositionBaseline().fit(X, np.zeros(1)), TypeError),
    ],
)
def test_none_is_no_structure(fit, error):
    with pytest.raises(error, match=r"X must be a sequence of ase\.Atoms, got NoneType"):
        fit(None)


def test_committees(frames):
    """NumPy makes a table of single atoms of structures of one size, and so does Bagging."""
    X = [frames[0]] * 4
    with pytest.raises(TypeError, match=SINGLE_ATOMS):
        BaggingRegressor(small_model(), n_estimators=2).fit(X, ENERGY)
    members = [(f"seed {seed}", small_model(random_state=seed)) for seed in range(2)]
    committee = VotingRegressor(members).fit(X, ENERGY)
    expected = np.mean([model.predict(X) for model in committee.estimators_], axis=0)
    np.testing.assert_allclose(committee.predict(X), expected)


def test_empty_structures(frames, model):
    empty = as_structures(frames)[[]]
    for call in (model.predict, lambda X: small_model().fit(X, []), SoapFeaturizer(**SOAP).fit):
        with pytest.raises(ValueError, match="X holds no structures. Pass at least one"):
            call(empty)


COINCIDENT = {
    "same": Atoms("HHO", [[0, 0, 0], [1, 1, 1], [1, 1, 1]]),
    "image": Atoms("HHO", [[0, 0, 0], [1, 1, 0], [1, 1, 4]], cell=[4, 4, 4], pbc=True),
    "far image": Atoms("HHO", [[0, 0, 0], [1, 1, 0], [9, -7, 4]], cell=[4, 4, 4], pbc=True),
}


@pytest.mark.parametrize(
    "name",
    [
        "fit",
        "fit Pipeline",
        "predict",
        "predict forces",
        "predict Pipeline",
        "featurizer transform",
    ],
)
def test_coincident_atoms(request, name):
    """The index is that of the structure in X, whatever the store holds already."""
    frames = make_frames()
    request.getfixturevalue("featurizer").transform(frames[:2])
    message = r"structure 2 are at the same place \(distance .*\).*Remove one, or repair"
    for atoms in COINCIDENT.values():
        with pytest.raises(ValueError, match=message):
            ENTRIES[name](request.getfixturevalue, [*frames[:2], atoms, frames[2]])


def test_coincident_atoms_are_found_before_training(frames):
    model = small_model()
    with pytest.raises(ValueError, match="same place"):
        model.fit([frames[0], COINCIDENT["same"]], [0.0, 1.0])
    assert not hasattr(model, "net_")


@pytest.mark.parametrize(
    "name", ["predict", "predict forces", "predict Pipeline", "featurizer transform"]
)
def test_unseen_element(request, name):
    message = r"elements \['N', 'Cl'\] absent from fit, which saw \['H', 'C', 'O'\]. Refit"
    with pytest.raises(ValueError, match=message):
        ENTRIES[name](request.getfixturevalue, [molecule("H2O"), Atoms("NCl"), Atoms("N")])


# --- labels --------------------------------------------------------------------------------------

FITTERS = [small_model, small_pipeline, CompositionBaseline, TargetScaler]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, np.nan, 0.0, 0.0], r"y\[1\] is NaN.*Targets\(energy=y\), where NaN means"),
        ([0.0, 0.0, np.inf, 0.0], "y\\[2\\] is inf"),
        ([0.0, 0.0, 0.0], "X has 4 structures, but y has 3"),
        (np.zeros((4, 1)), r"one energy for each structure.*\(4, 1\).*np\.ravel\(y\)"),
        (np.zeros((4, 2)), r"one energy for each structure.*\(4, 2\).*Targets"),
        (1.0, r"one energy for each structure.*shape \(\)"),
        (["a", "b", "c", "d"], r"\by\b"),
        ([0.0, [1.0, 2.0], 0.0, 0.0], r"\by\b"),
        (Targets(energy=[0.0, 0.0]), "X has 4 structures, but y has 2"),
        (Targets(energy=[np.nan] * 4), "'energy' has no label at all"),
    ],
    ids=[
        *("NaN", "infinity", "length", "column", "two columns", "scalar", "text", "ragged"),
        *("length of Targets", "all NaN"),
    ],
)
def test_bad_labels(frames, y, message):
    for make in FITTERS:
        estimator = make()
        with pytest.raises(ValueError, match=message):
            estimator.fit(frames, y)
        assert not hasattr(estimator, "net_")


@pytest.mark.parametrize("make", [small_model, CompositionBaseline, TargetScaler])
def test_missing_labels(frames, make):
    message = "y is missing: pass an array of energies or Targets"
    assert_refused(ValueError, message, frames, None, estimator=make())


def test_labels_in_a_dictionary(frames):
    y = {"energy": np.zeros(len(frames))}
    assert_refused(ValueError, r"got a dict\. Pass Targets\(\*\*y\)", frames, y)


def test_infinity_in_an_array_does_not_advise_nan(frames):
    """NaN is refused in arrays too: the way out is another one."""
    with pytest.raises(ValueError, match=r"y\[2\].*Targets"):
        small_model().fit(frames, [0.0, 0.0, np.inf, 0.0])


def test_forces_of_wrong_length(frames):
    forces = make_forces(frames)
    forces[1] = forces[1][:4]
    y = Targets(energy=ENERGY, forces=forces)
    message = "'forces' of structure 1 has 4 rows, but the structure has 5 atoms"
    assert_refused(ValueError, message, frames, y)


STRESS = np.zeros((4, 3, 3))
NOT_LEARNABLE = {
    "stress and virial": (
        {"energy": ENERGY, "stress": STRESS, "virial": STRESS},
        "both 'stress' and 'virial'.*Leave one out",
    ),
    "energies": (
        {"energies": [np.zeros(len(atoms)) for atoms in make_frames()]},
        "y has a column 'energies'.*follows from.*energy. Give labels another name.*TargetKind",
    ),
    "energy and energies": (
        {"energy": ENERGY, "energies": [np.zeros(len(atoms)) for atoms in make_frames()]},
        "y has a column 'energies'",
    ),
}


@pytest.mark.parametrize("case", NOT_LEARNABLE)
def test_columns_that_cannot_be_learnt(frames, case):
    columns, message = NOT_LEARNABLE[case]
    assert_refused(ValueError, message, frames, Targets(**columns))


@pytest.mark.parametrize("case", NOT_LEARNABLE)
def test_validation_columns_that_cannot_be_learnt(frames, case):
    columns, message = NOT_LEARNABLE[case]
    message = message.replace("y has", "y_val has")
    y_val = Targets(**columns)
    assert_refused(ValueError, message, frames, ENERGY, X_val=frames, y_val=y_val)


@pytest.mark.parametrize(
    "column",
    ["features", "x_last_layer_features", "energy per atom", "strain_gradient", "blocks[l2+]"],
)
def test_names_that_stand_for_something_else(frames, column):
    kinds = {"blocks": TargetKind.spherical([(0, 1), (2, 1)]), column: TargetKind.scalar()}
    labels = {"energy": ENERGY, "blocks": np.ones((4, 6)), column: ENERGY}
    y = Targets(kinds=kinds, **labels)
    message = rf"has the columns \[{re.escape(repr(column))}\], but these names.*other names"
    assert_refused(ValueError, f"y {message}", frames, y)
    given = {"X_val": frames, "y_val": y}
    assert_refused(ValueError, f"y_val {message}", frames, y.select(["energy", "blocks"]), **given)


def test_names_that_look_alike(frames):
    names = ("feature", "my features", "last_layer_features", "blocks", "x[l2+]", "a.b", "items")
    kinds = dict.fromkeys(names, TargetKind.scalar())
    y = Targets(kinds=kinds, energy=ENERGY, **dict.fromkeys(names, ENERGY))
    model = small_model().fit(frames, y)
    prediction = model.predict(frames, targets=[*names, "energy"])
    assert [prediction[name].shape for name in names] == [(4,)] * len(names)


TOO_HIGH = {
    "vector": (0, TargetKind.vector(), 1),
    "tensor": (1, TargetKind.tensor(), 2),
    "antisymmetric part": (0, TargetKind.spherical((1, -1)), 1),
    "pseudoscalar": (0, TargetKind.spherical((0, -1)), 1),
    "one block of several": (2, TargetKind.spherical([(0, 1), (3, 1)]), 3),
    "of atoms": (1, TargetKind.spherical((2, 1), 3, per_atom=True), 2),
}


@pytest.mark.parametrize("case", TOO_HIGH)
def test_degree_that_the_expansion_lacks(frames, case):
    max_angular, kind, degree = TOO_HIGH[case]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, *kind.shape))
    if kind.per_atom:
        values = [rng.normal(size=(len(atoms), *kind.shape)) for atoms in frames]
    y = Targets(kinds={"q": kind}, q=values)
    message = rf"'q' is built .*degree {degree}, but max_angular={max_angular}. Raise .* {degree}\b"
    model = small_model(max_angular=max_angular)
    assert_refused(ValueError, message, frames, y, estimator=model)
    model.set_params(max_angular=degree).fit(frames, y)


@pytest.mark.parametrize("name", ["stress", "virial", "non_conservative_stress"])
def test_stress_labels_need_a_cell(frames, name):
    """Labels that no structure can have: learning from them would do nothing, in silence."""
    y = Targets(energy=ENERGY[:3], **{name: np.ones((3, 3, 3))})
    message = f"Target '{name}' of y: no structure .* finite volume. Set the cells, or leave"
    assert_refused(ValueError, message, frames[:3], y)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, -1.0, 1.0, 1.0], "[Nn]egative.*sample_weight"),
        ([1.0, 1.0], r"sample_weight.*\(2,\).*\(4,\)"),
        ([1.0, np.nan, 1.0, 1.0], "sample_weight contains NaN"),
        ([0.0] * 4, "[Ss]ample.weights? must contain at least one non-zero"),
        (np.ones((4, 1)), "[Ss]ample.weights? must be 1D"),
    ],
    ids=["negative", "length", "NaN", "all zero", "2-D"],
)
def test_bad_sample_weight(frames, weight, message):
    for make in FITTERS:
        estimator = make()
        step = f"{estimator.steps[0][0]}__" if isinstance(estimator, Pipeline) else ""
        with pytest.raises(ValueError, match=message):
            estimator.fit(frames, ENERGY, **{f"{step}sample_weight": weight})
        assert not hasattr(estimator, "net_")


@pytest.mark.parametrize("weight", [[1.0, 1.0], [1.0, np.nan, 1.0, 1.0], np.ones((4, 1))], ids=str)
def test_bad_sample_weight_of_a_score(model, frames, weight):
    with pytest.raises(ValueError, match=r"[Ss]ample.weight"):
        model.score(frames, ENERGY, sample_weight=weight)


# --- validation data -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"X_val": make_frames()}, {"y_val": ENERGY}], ids=list)
def test_half_of_the_validation_data(frames, given):
    message = "X_val and y_val must be given together"
    assert_refused(ValueError, message, frames, ENERGY, **given)


@pytest.mark.parametrize(
    ("X_val", "y_val", "message"),
    [
        ([], [], "X_val holds no structures"),
        ([changed("positions", np.nan)], [0.0], r"X_val\[0\]"),
        ([molecule("H2O")], [np.nan], r"y_val\[0\] is NaN"),
        ([molecule("H2O")], [0.0, 1.0], "X_val has 1 structures, but y_val has 2"),
        ([molecule("NH3")], [0.0], r"X_val contains elements \['N'\] absent from X"),
        (
            [molecule("H2")],
            Targets(energy=[0.0], forces=[np.zeros((2, 3))]),
            r"y_val has the columns .*'forces'.* but y has",
        ),
    ],
    ids=["empty", "NaN position", "NaN", "length", "element", "columns"],
)
def test_bad_validation_data_is_named(frames, X_val, y_val, message):
    assert_refused(ValueError, message, frames, ENERGY, X_val=X_val, y_val=y_val)


@pytest.mark.parametrize(
    ("y", "y_val", "message"),
    [
        (
            Targets(dipole=DIPOLE),
            ENERGY,
            r"y_val has the columns .*'energy'.* but y has .*'dipole'",
        ),
        (
            Targets(kinds={"q": TargetKind.vector()}, q=DIPOLE),
            Targets(kinds={"q": TargetKind.scalar(3)}, q=DIPOLE),
            r"y_val has .*'q': TargetKind.scalar\(3\).* but y has .*'q': TargetKind.vector\(\)",
        ),
        (
            Targets(energy=ENERGY, dipole=DIPOLE),
            Targets(energy=ENERGY),
            "y_val has the columns .*'energy'.* but y has .*'dipole'",
        ),
    ],
    ids=["name", "kind", "missing"],
)
def test_validation_labels_of_another_kind(frames, y, y_val, message):
    assert_refused(ValueError, message, frames, y, X_val=frames, y_val=y_val)


def test_validation_data_must_carry_what_the_training_data_carry(frames):
    X = make_pipeline(CompositionBaseline(), SoapFeaturizer(**SOAP)).fit_transform(frames, ENERGY)
    message = r"X_val lacks the features and offset that X carries.*transform_input=\['X_val'\]"
    model = SoapBPNNRegressor(num_epochs=1)
    assert_refused(ValueError, message, X, ENERGY, estimator=model, X_val=frames, y_val=ENERGY)


# --- parameters ----------------------------------------------------------------------------------

# of each kind of constraint a parameter or two, and all limits that are not those of scikit-learn
BAD_VALUES = {
    "cutoff_radius": [0, np.nan, "5"],
    "cutoff_width": [0],
    "max_radial": [-1, 1.5, 50],
    "max_angular": [-1, 26],
    "radial_scale": [0, np.nan],
    "num_hidden_layers": [-1, 1.0],
    "num_neurons_per_layer": [0],
    "layernorm": ["yes", 2],
    "heads": ["mlp", ["mlp"]],
    "species_encoding": ["embedded", None],
    "n_networks": [0, 2.0, None],
    "long_range": [None],
    "smearing": [np.inf],
    "kspace_resolution": [np.inf],
    "interpolation_nodes": [1, 6],
    "warmup_fraction": [-0.1, 1.5],
    "distributed_port": [0, 70000, "http"],
    "checkpoint_dir": [3],
    "num_workers": [-1, "many"],
    "memory_limit": [0, "1 GiB"],
    "fixed_scaling_weights": [0.1],
    "per_structure_targets": ["energy"],
    "best_model_metric": ["rmse"],
    "loss": [None],
    "device": [0, "quantum"],
    "dtype": ["float16"],
    "random_state": [-1],
    "validation_fraction": [-0.1, 1.0],
    "verbose": [-1],
    "callbacks": ["early"],
    "net_params": [[]],
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_value_of_a_parameter(frames, name):
    for value in BAD_VALUES[name]:
        model = small_model(**{name: value})
        with pytest.raises(ValueError, match=name) as info:
            model.fit(frames, ENERGY)
        assert str(value) in str(info.value)
        # nothing was fitted: not even the steps that come before the network
        assert not [key for key in vars(model) if key.endswith("_")]


def test_every_parameter_is_constrained():
    """So that what is constrained to nothing is refused: no object is of any of the types."""
    names = set(inspect.signature(SoapBPNNRegressor).parameters)
    assert set(SoapBPNNRegressor._parameter_constraints) == names
    for name in names:
        model = small_model(**{name: object()})
        with pytest.raises(ValueError, match=f"The {name!r} parameter of SoapBPNNRegressor"):
            model.fit(make_frames(), ENERGY)


@pytest.mark.parametrize("name", ["cutoff_radius", "max_radial", "max_angular", "radial_scale"])
def test_bad_soap_parameter_of_the_featurizer(frames, name):
    for value in BAD_VALUES[name]:
        with pytest.raises(ValueError, match=f"'{name}' parameter of SoapFeaturizer.*{value}"):
            SoapFeaturizer(**{name: value}).fit(frames)


@pytest.mark.parametrize(("name", "value"), [("pooling", "max"), ("dtype", "half"), ("memory", 3)])
def test_bad_parameter_of_the_featurizer(frames, name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter of SoapFeaturizer"):
        SoapFeaturizer(**{name: value}).fit(frames)


@pytest.mark.parametrize(
    ("parameters", "X", "y", "fit_params"),
    [
        ({"batch_size": 0}, make_frames(), ENERGY, {}),
        ({"heads": {"charges": "mlp"}}, make_frames(), ENERGY, {}),
        ({"fixed_composition_weights": {"charges": 1.0}}, make_frames(), ENERGY, {}),
        ({}, [Atoms("N", [[0, 0, np.nan]])], [1.0], {}),
        pytest.param(
            *({}, [molecule("NH3"), Atoms("H2", [[0, 0, 0]] * 2)], [1.0, 2.0], {}),
        ),
        ({}, make_frames(), Targets(polarizability=np.ones((4, 3, 3))), {}),
        pytest.param(
            *({}, make_frames(), Targets(energy=[np.nan, 1.0, 2.0, 3.0])),
            {"sample_weight": [1, 0, 0, 0]},
        ),
    ],
    ids=[
        *("parameter", "heads", "fixed weights", "position"),
        *("coincident atoms", "degree", "weights"),
    ],
)
def test_fit_that_is_refused_leaves_the_model_as_it_was(frames, parameters, X, y, fit_params):
    model = small_model().fit(frames, ENERGY)
    before = model.predict(frames, targets=["energy", "forces"])
    model.set_params(**parameters)
    with pytest.raises(ValueError, match="."):
        model.fit(X, y, **fit_params)
    after = model.predict(frames, targets=["energy", "forces"])
    for name in before.names:
        np.testing.assert_array_equal(after.flatten(name), before.flatten(name))


def test_early_stopping_needs_validation_structures(frames):
    model = small_model(early_stopping=True, validation_fraction=0)
    message = "early_stopping=True needs validation.*validation_fraction=0. .*or pass X_val"
    assert_refused(ValueError, message, frames, ENERGY, estimator=model)
    model.fit(frames, ENERGY, X_val=frames, y_val=ENERGY)


def test_resume_needs_a_folder(frames):
    message = "resume=True needs checkpoint_dir, the folder"
    assert_refused(ValueError, message, frames, ENERGY, resume=True)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2], r"groups must have one entry for each of the 4 structures.*shape \(2,\)"),
        (np.ones((4, 1)), r"groups must have .* of the 4 structures.*shape \(4, 1\)"),
        (["a"] * 4, "groups is 'a' for every structure.*Leave it out, or pass X_val"),
    ],
    ids=["length", "2-D", "one group"],
)
def test_bad_groups(frames, groups, message):
    assert_refused(ValueError, message, frames, ENERGY, groups=groups)


def test_one_group_is_enough_if_none_is_held_out(frames):
    small_model(validation_fraction=0.0).fit(frames, ENERGY, groups=["a"] * 4)


def test_cutoff_width_beyond_the_radius(frames):
    message = r"cutoff_width=4\.0 must not exceed cutoff_radius=3\.0"
    assert_refused(ValueError, message, frames, ENERGY, estimator=small_model(cutoff_width=4.0))
    with pytest.raises(ValueError, match=message):
        SoapFeaturizer(cutoff_radius=3.0, cutoff_width=4.0).fit(frames)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("rmse", "loss of 'energy': type must be one of .*'huber'.*got 'rmse'"),
        ({"forces": "mse"}, r"loss names the targets \['forces'\]; it may name \['energy'\]"),
        ({"forces": 10.0}, r"e.g. loss=\{'energy': \{'forces': \{'weight': 10.0\}\}\}"),
        ({"enrgy": "mse"}, r"loss names the targets \['enrgy'\]"),
        ({"energy": "l2"}, "loss of 'energy': type must be one of .*got 'l2'"),
        ({"energy": {"type": "l2"}}, "loss of 'energy': type must be one of .*got 'l2'"),
        ({"energy": {"kind": "mse"}}, "loss of 'energy' has the unknown entry 'kind'; known"),
        ({"energy": {"weight": -1.0}}, "loss of 'energy': weight must be .*got -1"),
        ({"energy": {"weight": np.nan}}, "loss of 'energy': weight must be .*got nan"),
        ({"energy": {"weight": np.inf}}, "loss of 'energy': weight must be .*got inf"),
        ({"energy": {"weight": "much"}}, "loss of 'energy': weight must be .*got 'much'"),
        ({"energy": {"reduction": "max"}}, "loss of 'energy': reduction must be one of .*'max'"),
        ({"energy": {"type": "huber", "delta": 0.0}}, r"loss of 'energy': delta must be .*got 0"),
        ({"energy": {"forces": "l2"}}, "loss of 'forces': type must be one of .*got 'l2'"),
        ({"energy": {"forces": {"kind": 1}}}, "loss of 'forces' has the unknown entry 'kind'"),
        ({"energy": {"stress": {"weight": -1}}}, "loss of 'stress': weight must be .*got -1"),
        ({"energy": {"virial": "mse"}}, "loss of 'energy' has the unknown entry 'virial'"),
        ({"energy": 3}, "loss.*3"),
        ({"energy": None}, "loss.*None"),
        ({"energy": {"forces": 3}}, "loss.*3"),
        ({1: "mse", "forces": "mse"}, "loss names the targets"),
        ({"dipole": "mse"}, r"loss names the targets \['dipole'\]; it may name \['energy'\]"),
    ],
    ids=str,
)
def test_bad_loss(frames, loss, message):
    y = Targets(energy=ENERGY, forces=make_forces(frames))
    assert_refused((ValueError, TypeError), message, frames, y, estimator=small_model(loss=loss))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("l2", "loss of 'energy': type must be one of .*got 'l2'"),
        ({"dipole": "l2"}, "loss of 'dipole': type must be one of .*got 'l2'"),
        ({"dipole": {"forces": "mse"}}, "loss of 'dipole' has the unknown entry 'forces'; known"),
        ({"forces": "mse"}, r"loss names .*\['forces'\]; it may name \['energy', 'dipole'\]"),
        ({"charges": "mse"}, r"loss names .*\['charges'\]; it may name \['energy', 'dipole'\]"),
    ],
    ids=str,
)
def test_bad_loss_of_several_targets(frames, loss, message):
    y = Targets(energy=ENERGY, dipole=DIPOLE, forces=make_forces(frames))
    assert_refused(ValueError, message, frames, y, estimator=small_model(loss=loss))


LEARNT = r"\['energy', 'dipole'\]"


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"forces": "mlp"}, rf"heads=\{{'forces': 'mlp'\}}: the target must be one of {LEARNT}"),
        ({"charges": "mlp"}, rf"heads=\{{'charges': 'mlp'\}}: the target must be one of {LEARNT}"),
        ({1: "mlp"}, rf"heads=\{{1: 'mlp'\}}: the target must be one of {LEARNT}"),
        ({"energy": "cnn"}, r"heads=\{'energy': 'cnn'\}.*'mlp' or 'linear'"),
        ({"energy": None}, r"heads=\{'energy': None\}.*'mlp' or 'linear'"),
        ({"energy": 2}, r"heads=\{'energy': 2\}.*'mlp' or 'linear'"),
        ({"energy": "mlp", "dipole": ["mlp"]}, r"heads=\{'dipole': \['mlp'\]\}.*'mlp' or 'linear'"),
    ],
    ids=str,
)
def test_bad_heads(frames, heads, message):
    y = Targets(energy=ENERGY, dipole=DIPOLE, forces=make_forces(frames))
    assert_refused(ValueError, message, frames, y, estimator=small_model(heads=heads))


@pytest.mark.parametrize(
    ("y", "allowed"),
    [
        (ENERGY, r"\['energy', 'forces'"),
        (Targets(energy=ENERGY, dipole=DIPOLE), r"\['dipole', 'energy', 'forces'"),
        (Targets(dipole=DIPOLE), r"\['dipole'\]"),
    ],
    ids=["energy", "both", "dipole"],
)
def test_bad_per_structure_targets(frames, y, allowed):
    model = small_model(per_structure_targets=["charges"])
    message = rf"per_structure_targets names \['charges'\]; it may name {allowed}"
    assert_refused(ValueError, message, frames, y, estimator=model)


def test_zbl_needs_energies(frames):
    message = r"zbl=True needs a target 'energy', but y has \['dipole'\]"
    assert_refused(
        ValueError, message, frames, Targets(dipole=DIPOLE), estimator=small_model(zbl=True)
    )


# --- long range ----------------------------------------------------------------------------------


def make_wire():
    atoms = molecule("H2O", cell=[0, 0, 4.0])
    atoms.pbc = (False, False, True)
    return atoms


def test_long_range_needs_hidden_layers(frames):
    message = "long_range=True needs hidden layers.*Set num_hidden_layers to 1 or more"
    model = small_model(long_range=True, num_hidden_layers=0)
    assert_refused(ValueError, message, frames, ENERGY, estimator=model)


def test_long_range_along_a_wire(frames):
    X = [frames[0], make_wire(), *frames[2:]]
    message = r"X\[1\] is periodic along one direction \(pbc=\[False, False, True\]\).*"
    message += "Set pbc=False.*or set long_range=False"
    model = small_model(long_range=True)
    assert_refused(ValueError, message, X, ENERGY, estimator=model)
    model.fit(frames, ENERGY)
    with pytest.raises(ValueError, match=message):
        model.predict(X)
    small_model().fit(X, ENERGY)  # without long range it is no matter


def test_long_range_along_a_wire_of_the_validation_structures(frames):
    X_val, model = [frames[0], make_wire()], small_model(long_range=True)
    message = r"X_val\[1\] is periodic along one direction"
    given = {"X_val": X_val, "y_val": ENERGY[:2]}
    assert_refused(ValueError, message, frames, ENERGY, estimator=model, **given)


def test_long_range_without_torch_pme(frames, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchpme", None)
    model = small_model(long_range=True)
    with pytest.raises(ImportError, match=r"torch-pme: pip install sklearn_soapbpnn\[long-range\]"):
        model.fit(frames, ENERGY)
    assert not hasattr(model, "net_")
    small_model().fit(frames, ENERGY)


# --- warm start ----------------------------------------------------------------------------------


def assert_refit_refused(model, message, X, y):
    """Check that a fit that goes on is refused, and leaves the model as it was."""
    frames = make_frames()
    before = model.predict(frames)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    np.testing.assert_array_equal(model.predict(frames), before)


def test_warm_start_with_a_target_of_another_kind(frames):
    first = Targets(kinds={"q": TargetKind.vector()}, q=DIPOLE)
    second = Targets(kinds={"q": TargetKind.scalar(3)}, q=DIPOLE)
    model = small_model(warm_start=True).fit(frames, first)
    message = r"'q' is TargetKind.scalar\(3\), but the previous .* had TargetKind.vector\(\)"
    assert_refit_refused(model, message, frames, second)


def test_warm_start_with_new_targets_and_no_hidden_layers(frames):
    model = small_model(warm_start=True, num_hidden_layers=0).fit(frames, ENERGY)
    message = r"new targets \['dipole'\].*num_hidden_layers=0.*no weights with \['energy'\]. Fit"
    assert_refit_refused(model, message, frames, Targets(energy=ENERGY, dipole=DIPOLE))


def test_warm_start_with_new_elements(frames):
    model = small_model(warm_start=True).fit(frames, ENERGY)
    message = r"elements \['N'\] absent from the previous fit, .* Fit with warm_start=False"
    assert_refit_refused(model, message, [frames[0], molecule("NH3")], ENERGY[:2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_neurons_per_layer", 3),
        ("heads", {"energy": "linear"}),
        ("species_encoding", "alchemical"),
        pytest.param("num_hidden_layers", 1),
        pytest.param("num_hidden_layers", 3),
        pytest.param("layernorm", False),
        pytest.param("long_range", True),
    ],
)
def test_warm_start_with_another_network(frames, name, value):
    model = small_model(warm_start=True).fit(frames, ENERGY)
    assert_refit_refused(model.set_params(**{name: value}), f"{name}=.*had ", frames, ENERGY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("cutoff_radius", 3.5), ("cutoff_width", 0.4), ("max_radial", 2), ("max_angular", 2)],
        *[("radial_scale", 3.0)],
        *[("zbl", True), ("remove_composition_contribution", False), ("scale_targets", False)],
        ("fixed_composition_weights", {"H": -1.0}),
    ],
)
def test_warm_start_with_other_steps(frames, name, value):
    model = small_model(warm_start=True).fit(frames, ENERGY)
    assert_refit_refused(model.set_params(**{name: value}), name, frames, ENERGY)


def test_warm_start_with_what_x_did_not_carry(frames, featurizer):
    model = small_model(warm_start=True).fit(frames, ENERGY)
    message = r"had structures that carry \[\], but X carries \['features'\]. Use the same Pipe"
    assert_refit_refused(model, message, featurizer.transform(frames), ENERGY)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fixed_composition_weights": {"Qq": 1.0}}, "fixed_composition_weights.*'Qq'"),
        ({"fixed_composition_weights": {"H": np.nan}}, r"fixed_composition_weights.*'H'.*nan"),
        ({"fixed_scaling_weights": {"dipole": 1.0}}, "fixed_scaling_weights.*'dipole'"),
        ({"fixed_scaling_weights": {"energy": 0.0}}, r"fixed_scaling_weights.*'energy'.*0\.0"),
    ],
)
def test_bad_fixed_weights_are_named_as_in_the_regressor(frames, parameters, message):
    model = small_model(**parameters)
    assert_refused(ValueError, message, frames, ENERGY, estimator=model)


DEFAULTS = {  # DESIGN.md, section 5
    **{"max_angular": 6, "max_radial": 7, "cutoff_radius": 5.0, "cutoff_width": 0.5},
    "radial_scale": np.inf,
    **{"num_hidden_layers": 2, "num_neurons_per_layer": 32, "layernorm": True},
    **{"add_lambda_basis": True, "heads": None, "zbl": False},
    **{"species_encoding": "orthogonal", "n_pseudo_species": 4, "n_networks": 1},
    **{"long_range": False, "use_ewald": False, "smearing": 1.4},
    **{"kspace_resolution": 1.33, "interpolation_nodes": 5},
    **{"distributed": False, "distributed_port": 39591},
    **{"batch_size": 8, "num_epochs": 100, "warmup_fraction": 0.01, "learning_rate": 1e-3},
    "optimizer": "muon",
    **{"log_interval": 5, "checkpoint_interval": 25, "checkpoint_dir": None},
    **{"scale_targets": True, "fixed_scaling_weights": None},
    **{"remove_composition_contribution": True, "fixed_composition_weights": None},
    **{"per_structure_targets": (), "num_workers": None, "log_mae": False},
    **{"log_separate_blocks": False, "best_model_metric": "rmse_prod", "loss": "mse"},
    **{
        "memory_limit": None,
        "device": "auto",
        "dtype": "float32",
        "random_state": None,
        "validation_fraction": 0.1,
    },
    **{"early_stopping": False, "n_iter_no_change": 20, "warm_start": False, "verbose": 0},
    **{"callbacks": None, "net_params": None},
}


def test_signature_of_the_regressor():
    parameters = inspect.signature(SoapBPNNRegressor).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == DEFAULTS
    assert SoapBPNNRegressor().get_params() == DEFAULTS


def test_signature_of_the_steps():
    soap = ("max_angular", "max_radial", "cutoff_radius", "cutoff_width", "radial_scale", "dtype")
    own = {"pooling": "mean", "memory": None, "warm_start": False}
    expected = {**{name: DEFAULTS[name] for name in soap}, **own}
    assert SoapFeaturizer().get_params() == expected
    assert CompositionBaseline().get_params() == {"fixed_weights": None, "warm_start": False}
    scaler = {"fixed_weights": None, "per_structure_targets": (), "warm_start": False}
    assert TargetScaler().get_params() == scaler
    assert ZBLBaseline().get_params() == {"warm_start": False}


# --- contradictions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("cutoff_radius", 4.0), ("cutoff_width", 0.3), ("radial_scale", 3.0), ("max_angular", 3)],
)
def test_soap_parameter_that_contradicts_the_features(frames, featurizer, name, value):
    X = featurizer.transform(frames)
    model = SoapBPNNRegressor(num_epochs=1, **{name: value})
    carried = getattr(featurizer, name)
    message = rf"{name}={value!r} contradicts the features.*{name}={carried!r}.*SoapFeaturizer only"
    assert_refused(ValueError, message, X, ENERGY, estimator=model)


def test_soap_parameters_that_agree_with_the_features(frames, featurizer):
    small_model().fit(featurizer.transform(frames), ENERGY)


def test_dtype_that_the_features_lack(frames, featurizer):
    model = SoapBPNNRegressor(dtype="float64", num_epochs=1)
    message = r"dtype='float64' contradicts the features.*float32.*SoapFeaturizer\(dtype='float64'"
    assert_refused(ValueError, message, featurizer.transform(frames), ENERGY, estimator=model)


@pytest.mark.parametrize(
    ("step", "parameter", "what"),
    [
        (CompositionBaseline(), {"fixed_composition_weights": {"H": -1.0}}, "offset"),
        (TargetScaler(), {"fixed_scaling_weights": {"energy": 0.1}}, "scale"),
    ],
)
def test_fixed_weights_that_contradict_a_step(frames, step, parameter, what):
    X = step.fit(frames, ENERGY).transform(frames)
    message = f"{next(iter(parameter))}=.* contradicts the {what} that X carries.*Set it on"
    model = small_model(**parameter)
    assert_refused(ValueError, message, X, ENERGY, estimator=model)


def test_zbl_behind_a_zbl_baseline(frames):
    X = ZBLBaseline().fit_transform(frames)
    message = "zbl=True contradicts the ZBL energy that X carries.*Leave zbl=False"
    assert_refused(ValueError, message, X, ENERGY, estimator=small_model(zbl=True))
    with pytest.raises(ValueError, match="ZBL was subtracted already. Use one ZBLBaseline only"):
        ZBLBaseline().fit_transform(X)
    small_model().fit(X, ENERGY)


# --- predict -------------------------------------------------------------------------------------


def test_predict_needs_fit(frames):
    for estimator in (small_model(), small_pipeline()):
        with pytest.raises(NotFittedError):
            estimator.predict(frames)
    with pytest.raises(NotFittedError):
        SoapFeaturizer().transform(frames)


@pytest.mark.parametrize("targets", ["enrgy", ["energy", "enrgy"], ("enrgy",)])
@pytest.mark.parametrize("name", ["model", "pipeline"])
def test_unknown_target_of_predict(request, frames, name, targets):
    message = (
        r"targets names 'enrgy'; available are \['energy', 'energies', 'forces', 'stress', "
        r"'virial', 'features', 'energy_last_layer_features'\]"
    )
    with pytest.raises(ValueError, match=message):
        request.getfixturevalue(name).predict(frames, targets=targets)


@pytest.mark.parametrize("target", ["energy", "forces", "energies", "polarizability"])
def test_target_that_was_not_learnt(dipole_model, frames, target):
    message = (
        rf"targets names '{target}'; available are \['dipole', 'features', "
        r"'dipole_last_layer_features'\]"
    )
    with pytest.raises(ValueError, match=message):
        dipole_model.predict(frames, targets=["dipole", target])


def test_last_layer_features_of_a_target_that_was_not_learnt(dipole_model, frames):
    with pytest.raises(ValueError, match="'energy_last_layer_features'; available are .*'dipole'"):
        dipole_model.last_layer_features(frames)


@pytest.mark.parametrize("atoms", [[[0]], [[0]] * 5, []], ids=len)
def test_atoms_of_another_number_of_structures(model, frames, atoms):
    message = f"atoms must list the atoms of each of the 4 structures, got {len(atoms)} entries"
    for call in (model.features, model.last_layer_features):
        with pytest.raises(ValueError, match=message):
            call(frames, atoms=atoms)


def test_score_needs_the_target_that_was_learnt(dipole_model, frames):
    with pytest.raises(ValueError, match=r"'dipole' to be scored, .* are \['energy'\]"):
        dipole_model.score(frames, ENERGY)


@pytest.mark.parametrize("targets", [[], (), 3, [None]])
def test_targets_of_predict_are_no_names(model, frames, targets):
    with pytest.raises((ValueError, TypeError), match=r"\btargets\b"):
        model.predict(frames, targets=targets)


@pytest.mark.parametrize("target", ["stress", "virial"])
@pytest.mark.parametrize("name", ["model", "pipeline"])
def test_stress_of_a_molecule(request, frames, name, target):
    estimator = request.getfixturevalue(name)
    with pytest.raises(ValueError, match="no cell of finite volume.*Leave these targets out"):
        estimator.predict(frames[:3], targets=[target])
    mixed = estimator.predict(frames, targets=[target])[target]
    assert np.isnan(mixed[:3]).all()
    assert np.isfinite(mixed[3]).all()


def test_structures_that_lack_what_they_carried_in_fit(frames, pipeline, model, featurizer):
    with pytest.raises(ValueError, match="X lacks the .*unlike in fit.*through the Pipeline"):
        pipeline[-1].predict(frames)
    with pytest.raises(ValueError, match="X carries the features, unlike in fit"):
        model.predict(featurizer.transform(frames))


# --- callbacks and groups -------------------------------------------------------------------------


@pytest.mark.parametrize("callbacks", [["abc"], [3], [("name", "abc")], [dict]], ids=str)
def test_what_is_no_callback(frames, callbacks):
    with pytest.raises(TypeError, match="callbacks must hold callbacks of skorch"):
        small_model(callbacks=callbacks).fit(frames, ENERGY)


@pytest.mark.parametrize(
    "callback",
    [EpochScoring("r2"), ("name", BatchScoring("r2")), EpochScoring],
    ids=["EpochScoring", "BatchScoring", "class"],
)
def test_callbacks_that_score_themselves(frames, callback):
    with pytest.raises(ValueError, match="callbacks holds .*Scoring.*history_ has the validation"):
        small_model(callbacks=[callback]).fit(frames, ENERGY)


def test_groups_that_are_missing(frames):
    with pytest.raises(ValueError, match="groups contains NaN"):
        small_model().fit(frames, ENERGY, groups=[0.0, 1.0, np.nan, 1.0])


# --- the calculator ------------------------------------------------------------------------------


@pytest.fixture(params=["model", "pipeline"])
def calculator(request):
    return SoapBPNNCalculator(request.getfixturevalue(request.param))


def test_calculator_refuses_an_unseen_element(calculator):
    atoms = molecule("NH3")
    atoms.calc = calculator
    for call in (atoms.get_potential_energy, atoms.get_forces):
        message = r"elements \['N'\] absent from fit, which saw \['H', 'C', 'O'\]"
        with pytest.raises(ValueError, match=message):
            call()


def test_calculator_refuses_an_element_that_appears_later(calculator):
    atoms = molecule("H2O")
    atoms.calc = calculator
    atoms.get_potential_energy()
    atoms.numbers[0] = 7
    with pytest.raises(ValueError, match=r"elements \['N'\]"):
        atoms.get_potential_energy()


def test_calculator_refuses_bad_geometry(calculator):
    bad = [(atoms, message.replace("1", "0", 1)) for atoms, message in BAD_STRUCTURES.values()]
    bad += [(atoms, "are at the same place") for atoms in COINCIDENT.values()]
    for atoms, message in bad:
        atoms = atoms.copy()
        atoms.calc = calculator
        with pytest.raises(ValueError, match=message):
            atoms.get_potential_energy()


def test_calculator_has_no_stress_of_a_molecule(calculator):
    atoms = molecule("H2O")
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match="stress"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_forces()).all()


@pytest.mark.parametrize("model", [None, Atoms("H"), CompositionBaseline()], ids=str)
def test_calculator_needs_a_regressor(model):
    message = rf"end in, a SoapBPNNRegressor; it ends in a {type(model).__name__}"
    with pytest.raises(TypeError, match=message):
        SoapBPNNCalculator(model)


def test_calculator_of_a_path_names_the_way_to_read_it():
    with pytest.raises(TypeError, match=r"Read the file: load_model\(path\)"):
        SoapBPNNCalculator("model.safetensors")


def test_calculator_needs_a_fitted_model():
    for model in (small_model(), small_pipeline()):
        with pytest.raises(NotFittedError):
            SoapBPNNCalculator(model)


# --- NaN is not labelled -------------------------------------------------------------------------


def rattled(n, seed=0):
    rng = np.random.default_rng(seed)
    frames = [bulk("Cu", cubic=True) for _ in range(n)]
    for atoms in frames:
        atoms.rattle(0.1, rng=rng)
    labels = {
        "energy": rng.normal(size=n),
        "forces": [rng.normal(size=(4, 3)) for _ in range(n)],
        "stress": rng.normal(size=(n, 3, 3)),
    }
    labels["stress"] += labels["stress"].swapaxes(1, 2)
    return frames, labels


def is_finite(predictions):
    return all(
        np.isfinite(values).all() for name in predictions.names for values in predictions[name]
    )


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_unlabelled_entries_do_not_spoil_the_fit(loss, name):
    frames, columns = rattled(4)
    columns[name][1] = np.full_like(columns[name][1], np.nan)
    model = small_model(loss=loss, num_epochs=3, validation_fraction=0.0)
    model.fit(frames, Targets(**columns))
    assert np.isfinite(model.history_[:, "train_loss"]).all()
    assert is_finite(model.predict(frames, targets=["energy", "forces", "stress"]))


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_unlabelled_means_without_influence(name):
    """A structure without any label changes nothing but the number of batches."""
    frames, columns = rattled(4)
    for values in columns.values():
        values[3] = np.full_like(values[3], np.nan)
    parameters = {"num_epochs": 4, "batch_size": 4, "validation_fraction": 0.0, "dtype": "float64"}
    predictions = []
    for n in (3, 4):
        y = Targets(**{key: columns[key] for key in {"energy", name}})[:n]
        model = small_model(**parameters).fit(frames[:n], y)
        predictions.append(model.predict(frames, targets=["energy", "forces"]))
    for column in ("energy", "forces"):
        np.testing.assert_allclose(*(np.stack(p[column]) for p in predictions), rtol=1e-9)


def test_target_without_validation_labels_does_not_pick_the_epoch():
    """Only one structure has forces: its error of zero elsewhere is no error at all."""
    frames, columns = rattled(6)
    forces = [np.full((4, 3), np.nan)] * 5 + [columns["forces"][5]]
    for seed in range(6):
        model = small_model(num_epochs=4, learning_rate=0.05, random_state=seed, loss="mae")
        model.fit(frames, Targets(energy=columns["energy"], forces=forces))
        if "valid_forces_rmse" not in model.history_[-1]:
            break
    else:
        pytest.fail("the structure with forces is always in the validation set")
    np.testing.assert_allclose(
        model.history_[:, "valid_metric"], model.history_[:, "valid_energy_rmse"]
    )


# --- legal input ---------------------------------------------------------------------------------

TINY_CELL = bulk("Cu", a=2.6)
MIXED_PBC = Atoms("CuH", [[0, 0, 0], [0.2, 0.1, 1.4]], cell=[2.5, 2.5, 0], pbc=(1, 1, 0))
WIRE = Atoms("CuH", [[0, 0, 0], [0.2, 0.1, 1.4]], cell=[0, 0, 2.8], pbc=(0, 0, 1))
SKEWED = Atoms(
    "CuH",
    scaled_positions=[[0, 0, 0], [0.5, 0.4, 0.6]],
    cell=[[4, 0, 0], [3.7, 1.5, 0], [-2.9, 1.1, 3.3]],
    pbc=True,
)
UNWRAPPED = Atoms("CuH", [[0, 0, 0], [17.1, -25.0, 31.0]], cell=[4.1, 4.3, 4.7], pbc=True)
LEGAL = {
    "single atoms": [Atoms("Cu"), Atoms("H")],
    "one single atom": [Atoms("H")],
    "single atom in a box": [Atoms("H", cell=[20, 20, 20], pbc=True)],
    "atoms without neighbours": [Atoms("CuH2", [[0, 0, 0], [40, 0, 0], [0, 40, 0]])],
    "some atoms without neighbours": [Atoms("CuH2", [[0, 0, 0], [0, 0, 1.5], [0, 40, 0]])],
    "mixed pbc": [MIXED_PBC, WIRE],
    "one structure": [molecule("H2O")],
    "very different sizes": [Atoms("Cu"), bulk("Cu", cubic=True) * (3, 3, 3), molecule("H2")],
    "cells smaller than the cutoff": [TINY_CELL, Atoms("H", cell=[1.1, 1.2, 1.3], pbc=True)],
    "skewed cell": [SKEWED],
    "unwrapped positions": [UNWRAPPED],
    "same structure twice": [molecule("H2O"), molecule("H2O")],
}


@pytest.mark.parametrize("case", LEGAL)
def test_legal_structures(case):
    X = LEGAL[case]
    energy = -3.0 * np.arange(1.0, len(X) + 1)
    y = Targets(energy=energy, forces=make_forces(X))
    estimator = small_pipeline().fit(X, y)
    assert np.isfinite(estimator[-1].history_[:, "train_loss"]).all()
    predictions = estimator.predict(X, targets=["energy", "forces"])
    assert is_finite(predictions)
    assert [len(forces) for forces in predictions["forces"]] == [len(atoms) for atoms in X]
    for atoms, energy, forces in zip(X, predictions["energy"], predictions["forces"]):
        atoms = atoms.copy()
        atoms.calc = SoapBPNNCalculator(estimator)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)


def test_batch_of_very_different_sizes_equals_single_predictions():
    X = [Atoms("Cu"), bulk("Cu", cubic=True) * (3, 3, 3), molecule("H2"), TINY_CELL]
    X[1].rattle(0.1, seed=0)
    model = small_model(dtype="float64").fit(X, ENERGY)
    together = model.predict(X, targets=["energy", "forces"])
    for index, atoms in enumerate(X):
        alone = model.predict([atoms], targets=["energy", "forces"])
        np.testing.assert_allclose(together["energy"][index], alone["energy"][0], rtol=1e-12)
        np.testing.assert_allclose(together["forces"][index], alone["forces"][0], atol=1e-12)


def test_isolated_atoms_feel_no_force_and_see_nothing(featurizer):
    features = featurizer.transform([Atoms("H"), Atoms("OH", [[0, 0, 0], [0, 0, 30]])])
    np.testing.assert_array_equal(features.per_atom(), 0.0)
    atoms = Atoms("OHH", [[0, 0, 0], [0, 0, 30], [0, 0, 31]])
    model = small_model().fit([atoms], [1.0])
    forces = model.predict([atoms], targets="forces")["forces"][0]
    np.testing.assert_array_equal(forces[0], 0.0)


def test_unwrapped_positions_give_the_same_predictions(pipeline):
    atoms = molecule("H2O2", cell=[4.1, 4.3, 4.7], pbc=True)
    moved = atoms.copy()
    moved.positions += np.array([[1, 0, 0], [0, -5, 0], [0, 0, 7], [2, 3, -4]]) @ atoms.cell.array
    before, after = (pipeline.predict([a], targets=["energy", "forces"]) for a in (atoms, moved))
    np.testing.assert_allclose(before["energy"], after["energy"], rtol=1e-5)
    np.testing.assert_allclose(before["forces"][0], after["forces"][0], atol=1e-4)


def test_forces_are_learnt_where_the_baseline_explains_the_energies():
    """One composition, one energy: the residual is rounding, the forces are not."""
    atoms = molecule("H2O")
    forces = np.array([[0.0, 0.0, 0.4], [0.0, 0.3, -0.2], [0.0, -0.3, -0.2]])
    y = Targets(energy=[-76.123, -76.123], forces=[forces, forces])
    model = small_model(num_epochs=150, learning_rate=3e-3, loss={"energy": {"forces": "mse"}})
    model.fit([atoms, atoms], y)
    prediction = model.predict([atoms], targets=["energy", "forces"])
    assert np.abs(prediction["forces"][0] - forces).max() < 0.5 * np.abs(forces).max()
    np.testing.assert_allclose(prediction["energy"], [-76.123], atol=0.05)
