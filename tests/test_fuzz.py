"""Hard input: whatever is passed in, the answer is a clear error or finite numbers.

``benchmarks/fuzz.py`` runs the same checks on many more inputs.
"""

import re
import warnings
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixedLine
from ase.geometry import complete_cell
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Structures,
    Targets,
    TargetScaler,
)
from sklearn_soapbpnn.data import as_structures

RADIUS = 3.0
SOAP = {"cutoff_radius": RADIUS, "max_radial": 2, "max_angular": 2}
NETWORK = {"num_neurons_per_layer": 2, "num_epochs": 1, "batch_size": 2, "random_state": 0}
# where errors say that the fault is
PLACE = re.compile(r"\b(X|y)\b|structure \d+|sample_weight|Target|kinds")
# the warnings that users are to see
EXPECTED_WARNING = (
    "None of the structures held out for validation has a label|After 1 epochs the fit"
)
# how often what was accepted and refused
TALLY = Counter()
FEW = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# --- structures ----------------------------------------------------------------------------------


class OwnAtoms(Atoms):
    """A subclass, as many packages have one."""


CELLS = {
    "none": lambda rng: np.zeros((3, 3)),
    "box": lambda rng: np.diag(rng.uniform(3.0, 9.0, 3)),
    "skewed": lambda rng: (
        np.diag(rng.uniform(2.5, 6.0, 3)) + np.triu(rng.uniform(-4, 4, (3, 3)), 1)
    ),
    "any": lambda rng: rng.normal(size=(3, 3)) * 4.0,
    "left-handed": lambda rng: np.diag([4.0, -5.0, 6.0]),
    "tiny": lambda rng: np.eye(3) * 1.5 + rng.uniform(-0.2, 0.2, (3, 3)),
    "huge": lambda rng: np.eye(3) * 1e3,
    "flat": lambda rng: np.array([[3.0, 0, 0], [0, 4.0, 0], [3.0, 4.0, 0]]),
    "parallel": lambda rng: np.array([[3.0, 0, 0], [-6.0, 0, 0], [0, 0, 5.0]]),
    "two vectors": lambda rng: np.array([[3.0, 1, 0], [0, 4.0, 0], [0, 0, 0]]),
    "one vector": lambda rng: np.array([[0, 0, 0], [0, 0, 0], [0.5, 0, 4.0]]),
}
PLACES = {
    "inside": lambda rng, shape: rng.uniform(0.0, 1.0, shape),
    "outside": lambda rng, shape: rng.uniform(-4.0, 5.0, shape),
    "far away": lambda rng, shape: rng.uniform(0.0, 1.0, shape) + 1e4,
    "in a line": lambda rng, shape: rng.uniform(0.0, 1.0, shape) * [1.0, 0.0, 0.0],
}
FLAWS = ("NaN", "infinity", "same place", "image", "NaN cell", "no atoms")
EXTRAS = {
    "constraints": lambda atoms: atoms.set_constraint([FixAtoms([0]), FixedLine([0], [0, 0, 1])]),
    "arrays": lambda atoms: atoms.set_array("extra", np.arange(5 * len(atoms)).reshape(-1, 5)),
    "info": lambda atoms: atoms.info.update(energy="low", nested={"a": [1]}, function=len),
    "velocities": lambda atoms: atoms.set_momenta(np.ones((len(atoms), 3))),
    "tags": lambda atoms: atoms.set_tags(3),
    "charges": lambda atoms: atoms.set_initial_charges(np.full(len(atoms), 0.5)),
    "magnetic moments": lambda atoms: atoms.set_initial_magnetic_moments(np.ones((len(atoms), 3))),
    "calculator": lambda atoms: setattr(atoms, "calc", EMT()),
    "results": lambda atoms: setattr(atoms, "calc", SinglePointCalculator(atoms, energy=1.0)),
    "integers": lambda atoms: atoms.arrays.update(positions=np.round(atoms.positions).astype(int)),
    "float32": lambda atoms: atoms.arrays.update(positions=atoms.positions.astype(np.float32)),
    "small integers": lambda atoms: atoms.arrays.update(numbers=atoms.numbers.astype(np.int8)),
    "Fortran": lambda atoms: atoms.arrays.update(positions=np.asfortranarray(atoms.positions)),
    "strides": lambda atoms: atoms.arrays.update(
        positions=np.repeat(atoms.positions, 2, axis=0)[::2],
        numbers=atoms.numbers[::-1].copy()[::-1],
    ),
    "read-only": lambda atoms: [array.setflags(write=False) for array in atoms.arrays.values()],
}


@st.composite
def structures(draw, elements, flawed):
    """One structure of the ``elements``, of any kind; if ``flawed``, often one to be refused."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_atoms = draw(st.integers(1, 30))
    kind = draw(st.sampled_from(list(CELLS)))
    cell = CELLS[kind](rng)
    extent = (
        np.array(cell) if abs(np.linalg.det(cell)) > 1.0 and kind != "huge" else np.eye(3) * 6.0
    )
    places = draw(st.sampled_from(list(PLACES)))
    spread = draw(st.sampled_from([1.0, 1.0, 3.0])) if kind == "none" else 1.0
    positions = PLACES[places](rng, (n_atoms, 3)) @ extent * spread
    make = draw(st.sampled_from([Atoms, Atoms, OwnAtoms]))
    pbc = draw(st.tuples(*[st.booleans()] * 3))
    atoms = make(rng.choice(elements, n_atoms), positions, cell=cell, pbc=pbc)
    for name in draw(st.lists(st.sampled_from(list(EXTRAS)), max_size=3, unique=True)):
        EXTRAS[name](atoms)
    if not flawed and find_flaw(atoms) == "no volume":
        atoms.pbc = False
    elif flawed and draw(st.booleans()):
        atoms = _add_flaw(atoms, draw(st.sampled_from(FLAWS)), rng)
    assume(flawed or find_flaw(atoms) is None)
    if find_flaw(atoms) in (None, "same place"):
        assume(not is_thin(atoms))
    return atoms


def _add_flaw(atoms, flaw, rng):
    positions = np.array(atoms.positions, dtype=float)
    k = rng.integers(len(atoms))
    if flaw == "NaN":
        positions[k, 1] = np.nan
    elif flaw == "infinity":
        positions[k, 2] = -np.inf
    elif flaw == "NaN cell":
        atoms.cell[1, 1] = np.nan
    elif flaw == "no atoms":
        return Atoms(cell=atoms.cell, pbc=atoms.pbc)
    else:
        shift = np.array([2.0, -1.0, 3.0]) * atoms.pbc if flaw == "image" else np.zeros(3)
        double = Atoms([atoms.numbers[k]], [positions[k] + shift @ atoms.cell.array])
        return Atoms(atoms, calculator=None, constraint=None) + double
    atoms.arrays["positions"] = positions
    return atoms


def find_flaw(atoms):
    """Say why a structure has to be refused; None if it has not."""
    positions, cell = np.array(atoms.positions, dtype=float), atoms.cell.array
    if len(atoms) == 0:
        return "no atoms"
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        return "not finite"
    vectors = cell[atoms.pbc]
    if np.linalg.matrix_rank(vectors, tol=1e-6) < len(vectors):
        return "no volume"
    whole = np.array(cell)
    whole[~atoms.pbc] = 0.0
    whole = complete_cell(whole)
    pairs = np.array(list(combinations(range(len(atoms)), 2)), dtype=int).reshape(-1, 2)
    vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    turns = np.round(vectors @ np.linalg.inv(whole)) * atoms.pbc
    distances = np.linalg.norm(vectors - turns @ whole, axis=1)
    return "same place" if (distances < 1e-6).any() else None


def find_volume(atoms):
    cell = atoms.cell.array
    return abs(np.linalg.det(cell)) if np.isfinite(cell).all() else 0.0


def find_sizes(atoms):
    """Distances of opposite faces of the cell, where it is periodic, and otherwise the extent."""
    whole = np.array(atoms.cell.array)
    whole[~atoms.pbc] = 0.0
    heights = 1.0 / np.linalg.norm(np.linalg.inv(complete_cell(whole)), axis=0)
    return np.where(atoms.pbc, heights, np.linalg.norm(np.ptp(atoms.positions, axis=0)))


def is_thin(atoms):
    """Whether so many images are within the cutoff that they take seconds to look at."""
    images = np.prod(2.0 * RADIUS / find_sizes(atoms)[atoms.pbc] + 1.0)
    return len(atoms) * images > 1e5


@st.composite
def sequences(draw, elements=None):
    """A list of structures; the same object may be in it twice."""
    flawed = draw(st.sampled_from([False, False, False, True]))
    if elements is None:
        elements = draw(st.lists(st.integers(1, 103), min_size=1, max_size=60, unique=True))
    frames = draw(st.lists(structures(elements, flawed), min_size=1, max_size=5))
    twice = draw(st.lists(st.integers(0, len(frames) - 1), max_size=2))
    return frames + [frames[k] for k in twice]


# --- labels --------------------------------------------------------------------------------------

# what an array may look like from outside
FORMATS = {
    "float64": lambda values: values,
    "float32": lambda values: values.astype(np.float32),
    "int": lambda values: np.round(np.nan_to_num(values)).astype(int),
    "list": lambda values: values.tolist(),
    "tuple": lambda values: tuple(values.tolist()),
    "read-only": lambda values: np.frombuffer(values.tobytes()).reshape(values.shape),
    "strides": lambda values: np.repeat(values, 3, axis=0)[::3],
    "reversed": lambda values: np.ascontiguousarray(values[::-1])[::-1],
    "Fortran": np.asfortranarray,
    "big-endian": lambda values: values.astype(">f8"),
    "object": lambda values: values.astype(object),
}
SHAPES = {"energy": (), "stress": (3, 3), "dipole": (3,), "polarizability": (3, 3)}
SHAPES_OF_ATOMS = {"forces": (3,), "charges": ()}
COLUMNS = [
    ("energy",),
    ("energy", "forces"),
    ("energy", "forces", "stress"),
    ("dipole",),
    ("energy", "dipole", "charges"),
    ("charges", "polarizability"),
]
BAD_FORMATS = {
    "too few": lambda values: values[:-1],
    "too many": lambda values: [*values, values[0]],
    "column": lambda values: [np.asarray(value)[..., None] for value in values],
    "ragged": lambda values: [*values[:-1], [[1.0, 2.0], [3.0]]],
    "text": lambda values: ["low"] * len(values),
    "None": lambda values: [*values[:-1], None],
    "infinity": lambda values: [*values[:-1], np.full(np.shape(values[-1]), np.inf)],
    "number": lambda values: 3.0,
    "dict": lambda values: dict(enumerate(values)),
}


@dataclass
class Labels:
    """What is to be y: made when it is used, since making it may be refused, too."""

    columns: dict
    as_array: bool = False
    flaw: str | None = None
    notes: list = field(default_factory=list)

    def make(self):
        if self.as_array:
            return self.columns["energy"]
        return Targets(**self.columns)


@st.composite
def labels(draw, frames):
    """Labels of some structures, in any format, some missing, some of them flawed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    as_array = draw(st.booleans())
    names = ("energy",) if as_array else draw(st.sampled_from(COLUMNS))
    size = 10.0 ** draw(st.integers(-6, 6))
    missing = 0.0 if as_array else draw(st.sampled_from([0.0, 0.0, 0.3, 0.9]))
    format_of = {name: draw(st.sampled_from(list(FORMATS))) for name in names}
    columns, flaw = {}, None
    for name in names:
        if name in SHAPES:
            values = size * rng.normal(size=(len(frames), *SHAPES[name]))
            if SHAPES[name] == (3, 3):
                values = values + values.swapaxes(1, 2)
            values[rng.random(len(frames)) < missing] = np.nan
            arrays = columns[name] = FORMATS[format_of[name]](values)
        else:
            arrays = []
            for atoms in frames:
                values = size * rng.normal(size=(len(atoms), *SHAPES_OF_ATOMS[name]))
                values[rng.random(len(atoms)) < missing] = np.nan
                arrays.append(FORMATS[format_of[name]](values))
            columns[name] = arrays
        flat = [np.asarray(values, dtype=float).ravel() for values in arrays]
        if not np.isfinite(np.concatenate(flat)).any():
            flaw = f"no label of {name}"
        if name == "stress":
            known = [np.isfinite(values).any() for values in flat]
            if not np.logical_and(known, [find_volume(atoms) > 0 for atoms in frames]).any():
                flaw = "no cell with a stress"
    if draw(st.integers(0, 5)) == 0:
        name = draw(st.sampled_from(names))
        # None in Targets is NaN, a label that is missing
        flaw = draw(st.sampled_from([key for key in BAD_FORMATS if as_array or key != "None"]))
        values = columns[name] = list(columns[name])
        columns[name] = BAD_FORMATS[flaw](values)
    elif as_array and draw(st.integers(0, 9)) == 0:
        columns["energy"] = [*columns["energy"][:-1], np.nan]
        flaw = "NaN in an array"
    return Labels(columns, as_array, flaw, [format_of, f"{size:g}"])


# --- checks --------------------------------------------------------------------------------------


def attempt(call, flaw):
    """Return what a call gives, None if it refuses with a clear error; ``flaw`` says if it must."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=EXPECTED_WARNING)
        error = None
        try:
            result = call()
        except (ValueError, TypeError) as err:
            error = err
    if error is not None:
        assert type(error) in (ValueError, TypeError), type(error)
        assert PLACE.search(str(error)), f"says not where: {error}"
        assert flaw, f"refused without reason: {error}"
        TALLY["refused"] += 1
        return None
    assert not flaw, f"accepted in spite of: {flaw}"
    TALLY["accepted"] += 1
    return result


def find_flaws(frames, elements=None, long_range=False):
    flaws = [find_flaw(atoms) for atoms in frames]
    if elements is not None:
        flaws += ["unseen" for atoms in frames if not set(atoms.numbers) <= set(elements)]
    if long_range:
        flaws += ["wire" for atoms in frames if sum(atoms.pbc) == 1]
    return ", ".join(sorted({flaw for flaw in flaws if flaw}))


@dataclass
class StructuresCase:
    """Structures to featurise, and others to transform."""

    frames: list
    others: list


@st.composite
def structures_cases(draw):
    frames = draw(sequences())
    elements = sorted({int(number) for atoms in frames for number in atoms.numbers} | {1})
    return StructuresCase(frames, draw(sequences(elements)))


def check_structures(case):
    """``as_structures`` and the transformers."""
    flaw = find_flaws(case.frames)
    hard = flaw.replace("same place", "").strip(", ")
    found = attempt(lambda: as_structures(case.frames), hard)
    if found is None:
        return
    assert isinstance(found, Structures)
    for atoms, copied in zip(case.frames, found, strict=True):
        np.testing.assert_array_equal(atoms.numbers, copied.numbers)
        np.testing.assert_array_equal(atoms.positions, copied.positions)
        np.testing.assert_array_equal(atoms.cell.array, copied.cell.array)
    # coincident atoms are found with the neighbours
    featurizer = SoapFeaturizer(**SOAP).fit(case.frames)
    features = attempt(lambda: featurizer.transform(case.frames), flaw)
    if features is not None:
        assert features.per_atom().shape == (found.n_atoms.sum(), features.shape[1])
        assert np.isfinite(features.per_atom()).all()
        assert np.isfinite(np.asarray(features)).all()
    flaw = find_flaws(case.others, featurizer.elements_)
    attempt(lambda: featurizer.transform(case.others), flaw)
    baseline = CompositionBaseline().fit(case.frames, np.arange(len(case.frames), dtype=float))
    hard = flaw.replace("same place", "").strip(", ")
    predicted = attempt(lambda: baseline.predict(case.others), hard)
    assert predicted is None or np.isfinite(predicted).all()


@dataclass
class FitCase:
    """Structures and labels to fit, others to predict, and how."""

    frames: list
    labels: Labels
    others: list
    parameters: dict


# each is taken as often as the others
PARAMETERS = [
    {},
    {"species_encoding": "alchemical", "n_pseudo_species": 2},
    {"memory_limit": 1, "num_workers": 0},
    {"memory_limit": 1, "num_workers": 0, "species_encoding": "alchemical"},
    {"dtype": "float64", "layernorm": False},
    {"num_hidden_layers": 0, "validation_fraction": 0.0},
    {"long_range": True, "loss": "huber"},
    {"zbl": True},
]


@st.composite
def fit_cases(draw):
    frames = draw(sequences())
    elements = sorted({int(number) for atoms in frames for number in atoms.numbers} | {1})
    others = draw(sequences(elements))
    parameters = draw(st.sampled_from(PARAMETERS))
    y = draw(labels(frames))
    assume(not parameters.get("zbl") or "energy" in y.columns)
    # torch-pme allocates a mesh as fine as kspace_resolution, whatever the size of the cell
    if parameters.get("long_range"):
        assume(all(np.abs(atoms.cell.array).max() < 100.0 for atoms in frames + others if atoms))
    return FitCase(frames, y, others, parameters)


def check_fit(case):
    """``fit``, and ``predict`` of what was fitted and of other structures."""
    long_range = case.parameters.get("long_range", False)
    flaw = find_flaws(case.frames, long_range=long_range) or case.labels.flaw
    model = SoapBPNNRegressor(**{**SOAP, **NETWORK, **case.parameters})
    if attempt(lambda: model.fit(case.frames, case.labels.make()), flaw) is None:
        assert not [name for name in vars(model) if name.endswith("_")]
        return
    check_predictions(model, case.frames)
    flaw = find_flaws(case.others, model.elements_, long_range)
    if attempt(lambda: model.predict(case.others), flaw) is not None:
        check_predictions(model, case.others)
    scaler = TargetScaler().fit(case.frames, case.labels.make())
    assert all(np.all(np.asarray(scale) > 0) for scale in scaler.scale_.values())


def check_predictions(model, frames):
    """Finite, of the right shape, and no stress but where there is a cell."""
    derived = ["energies", "forces"] if "energy" in model.kinds_ else []
    volumes = [find_volume(atoms) for atoms in frames]
    if derived and any(volumes):
        derived.append("stress")
    names = [*model.kinds_, *derived, "features"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = model.predict(frames, targets=names)
    n_atoms = [len(atoms) for atoms in frames]
    shapes = {**SHAPES_OF_ATOMS, "energies": (), "features": predicted["features"][0].shape[1:]}
    for name in names:
        if name in SHAPES:
            assert predicted[name].shape == (len(frames), *SHAPES[name])
        else:
            assert [len(values) for values in predicted[name]] == n_atoms
            assert {values.shape[1:] for values in predicted[name]} == {shapes[name]}
        for volume, values in zip(volumes, predicted[name], strict=True):
            if name == "stress" and volume == 0:
                assert np.isnan(values).all()
            else:
                assert np.isfinite(values).all(), name


CHECKS = {"structures": (structures_cases, check_structures), "fit": (fit_cases, check_fit)}


@FEW
@given(structures_cases())
def test_structures(case):
    check_structures(case)


@settings(FEW, max_examples=50)
@given(fit_cases())
def test_fit_and_predict(case):
    check_fit(case)


@pytest.mark.parametrize("make", [Targets, lambda energy: energy], ids=["Targets", "array"])
def test_complex_labels(make):
    frames = [Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 1]])]
    with pytest.raises((TypeError, ValueError), match="complex"):
        SoapBPNNRegressor(**SOAP, **NETWORK).fit(frames, make(energy=np.array([1.0, 2.0j])))


def test_torch_labels():
    assert Targets(energy=torch.tensor([1.0, 2.0]))["energy"].tolist() == [1.0, 2.0]


# --- what a process must survive -----------------------------------------------------------------

WATER = [[0, 0, 0], [0, 0, 1]]
KILLERS = {
    "atom that flew off": Atoms("H2O", [*WATER, [1e6, 1.0, 0.0]]),
    "two atoms in a plane": Atoms("H2", [[0, 0, 0], [1e3, 1e3, 0]]),
    "wide slab": Atoms("HO", WATER, cell=[1e3, 1e3, 1e3], pbc=[1, 1, 0]),
    "wide thin cell": Atoms("H", cell=[1e3, 1e3, 3], pbc=True),
    "long wire": Atoms("HO", WATER, cell=[1e6, 5, 5], pbc=[1, 0, 0]),
    "very thin cell": Atoms("H", cell=[[3, 0, 0], [0, 3, 0], [2, 2, 1e-3]], pbc=True),
}


def survive(pipe):
    """Featurise, and say which structures were done."""
    for name, atoms in KILLERS.items():
        try:
            features = SoapFeaturizer(4.0, max_radial=2, max_angular=2).fit_transform([atoms])
            pipe.send((name, bool(np.isfinite(features.per_atom()).all())))
        except ValueError as err:
            pipe.send((name, bool(re.search(r"structure 0|X\[0\]", str(err)))))


def test_killers(server):
    here, there = server.Pipe()
    process = server.Process(target=survive, args=(there,))
    process.start()
    there.close()
    for name in KILLERS:
        assert here.poll(60), name
        assert here.recv() == (name, True)
    process.join()
    assert process.exitcode == 0
