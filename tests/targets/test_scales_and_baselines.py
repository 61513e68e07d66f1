"""Scale and composition baseline of targets of every kind, as the regressor uses them."""

import numpy as np
import pytest

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets

KINDS = {
    "energy": TargetKind.scalar(),
    "dipoles": TargetKind.vector(2),
    "polarizability": TargetKind.tensor(symmetric=True),
    "charges": TargetKind.scalar(per_atom=True),
    "pressure": TargetKind.tensor(symmetric=True, per_volume=True),
    "several": TargetKind.spherical([(0, 1, 2), (2, 1), (1, -1, 2)]),
    "of_atoms": TargetKind.spherical([(0, 1), (1, 1, 2)], per_atom=True),
    "gap": TargetKind.scalar(intensive=True),
    "mean_tensor": TargetKind.tensor(symmetric=True, intensive=True),
}
# where the invariants of each target stand in its flat value
DIAGONAL = [0, 4, 8]
STILL = {
    "max_radial": 2,
    "max_angular": 2,
    "num_neurons_per_layer": 6,
    "dtype": "float64",
    "num_epochs": 1,
    "learning_rate": 1e-12,
    "random_state": 0,
}


@pytest.fixture
def frames(mixture):
    """Crystals, so that all have a volume."""
    frames = [atoms.copy() for atoms in mixture]
    for k, atoms in enumerate(frames):
        if atoms.cell.rank < 3:
            atoms.set_cell(np.diag([5.0, 5.5, 6.0 + 0.1 * k]))
            atoms.pbc = True
    return frames


@pytest.fixture
def y(frames, draw):
    """Labels of different size for each block, property and element."""
    y = draw(frames, KINDS)
    columns = {name: [np.array(part) for part in y[name]] for name in y.names}
    columns["dipoles"] = np.array(columns["dipoles"]) * [1.0, 30.0]
    sizes = np.array([1, 9, 0.1, 5, 70])[[0, 1, 2, 2, 2, 2, 2, 3, 4, 3, 4, 3, 4]]
    columns["several"] = np.array(columns["several"]) * sizes
    for name in ("charges", "of_atoms"):
        factors = [(atoms.numbers / 4.0) ** 2 for atoms in frames]
        columns[name] = [(f * part.T).T for f, part in zip(factors, columns[name])]
    return Targets(kinds=KINDS, **columns)


def rms(values, axis=None):
    return np.sqrt(np.mean(np.square(values), axis=axis))


@pytest.fixture
def n_atoms(frames):
    return np.array([len(atoms) for atoms in frames])[:, None]


def count(frames):
    return np.array([[(atoms.numbers == z).sum() for z in (1, 6, 8)] for atoms in frames])


def solve(frames, values):
    """Least squares on the composition, and what it leaves."""
    counts = count(frames).astype(float)
    coef = np.linalg.lstsq(counts, values, rcond=None)[0]
    return coef, values - counts @ coef


def test_scales_by_hand(frames, y, n_atoms):
    model = SoapBPNNRegressor(**STILL).fit(frames, y)
    scale = model.scaler_.scale_
    close = {"rtol": 1e-9}
    _, residual = solve(frames, y["energy"])
    np.testing.assert_allclose(scale["energy"], rms(residual / n_atoms[:, 0]), **close)
    # a vector has no invariant part; each property has its own scale
    per_atom = y["dipoles"] / n_atoms[:, :, None]
    np.testing.assert_allclose(scale["dipoles"], rms(per_atom, axis=(0, 1)), **close)
    # the mean of the diagonal is invariant; one scale for all components
    tensors = y.flatten("polarizability").copy()
    _, trace = solve(frames, tensors[:, DIAGONAL].mean(1))
    tensors[:, DIAGONAL] += (trace - tensors[:, DIAGONAL].mean(1))[:, None]
    np.testing.assert_allclose(scale["polarizability"], rms(tensors / n_atoms), **close)
    values = y.flatten("several").copy()
    _, values[:, :2] = solve(frames, values[:, :2])
    values = values / n_atoms
    groups = [[0], [1], [2, 3, 4, 5, 6], [7, 9, 11], [8, 10, 12]]
    expected = [rms(values[:, group]) for group in groups]
    np.testing.assert_allclose(scale["several"], expected, **close)


def test_scales_of_means_by_hand(frames, y, n_atoms):
    """What the mean over the atoms of a number for each element leaves, divided by nothing."""
    model = SoapBPNNRegressor(**STILL).fit(frames, y)
    shares = count(frames) / n_atoms
    coef = np.linalg.lstsq(shares, y["gap"], rcond=None)[0]
    np.testing.assert_allclose(model.baseline_.coef_["gap"], coef, rtol=1e-9)
    np.testing.assert_allclose(model.scaler_.scale_["gap"], rms(y["gap"] - shares @ coef))
    tensors = y.flatten("mean_tensor").copy()
    trace = tensors[:, DIAGONAL].mean(1)
    coef = np.linalg.lstsq(shares, trace, rcond=None)[0]
    tensors[:, DIAGONAL] -= (shares @ coef)[:, None]
    np.testing.assert_allclose(model.scaler_.scale_["mean_tensor"], rms(tensors), rtol=1e-9)


def test_scales_of_atoms_by_hand(frames, y):
    """One for each element; what the mean of the element leaves of invariants."""
    model = SoapBPNNRegressor(**STILL).fit(frames, y)
    scale, coef = model.scaler_.scale_, model.baseline_.coef_
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    charges, values = y.flatten("charges")[:, 0], y.flatten("of_atoms").copy()
    for row, z in enumerate(model.elements_):
        these = numbers == z
        mean = charges[these].mean()
        np.testing.assert_allclose(coef["charges"][row], mean)
        np.testing.assert_allclose(scale["charges"][z], [rms(charges[these] - mean)])
        part = values[these]
        part[:, 0] -= part[:, 0].mean()
        expected = [rms(part[:, group]) for group in ([0], [1, 3, 5], [2, 4, 6])]
        np.testing.assert_allclose(scale["of_atoms"][z], expected)
    ratio = scale["charges"][8] / scale["charges"][1]
    assert ratio > 10


def test_scale_of_a_stress_counts_times_the_volume(frames, y, n_atoms):
    volumes = np.array([atoms.get_volume() for atoms in frames])[:, None]
    expected = rms(y.flatten("pressure") * volumes / n_atoms)
    model = SoapBPNNRegressor(**STILL, remove_composition_contribution=False).fit(frames, y)
    np.testing.assert_allclose(model.scaler_.scale_["pressure"], expected)


@pytest.mark.parametrize(
    ("name", "fixed", "factor"),
    [
        ("energy", 0.5, 0.5),
        ("gap", 0.5, 0.5),
        ("mean_tensor", 4.0, 4.0),
        ("dipoles", [0.5, 3.0], np.array([0.5, 3.0] * 3)),
        ("dipoles", 2.0, 2.0),
        ("polarizability", 4.0, 4.0),
        ("pressure", 4.0, 4.0),
        ("several", [1, 2, 3, 4, 5], np.array([1, 2, 3, 3, 3, 3, 3, 4, 5, 4, 5, 4, 5])),
        ("charges", 3.0, 3.0),
        ("charges", {"H": 2.0, 6: 3.0, "O": 5.0}, {1: 2.0, 6: 3.0, 8: 5.0}),
        ("of_atoms", [2.0, 3.0, 4.0], np.array([2.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0])),
    ],
)
def test_fixed_scaling_weights_are_used(frames, y, name, fixed, factor):
    """The network's output is the same, with scales of 1 and with others."""
    ones = dict.fromkeys(KINDS, 1.0)
    shared = {**STILL, "remove_composition_contribution": False}
    first, second = (
        SoapBPNNRegressor(**shared, fixed_scaling_weights=weights).fit(frames, y)
        for weights in (ones, {**ones, name: fixed})
    )
    before, after = (m.predict(frames, targets=list(KINDS)) for m in (first, second))
    if isinstance(factor, dict):
        numbers = np.concatenate([atoms.numbers for atoms in frames])
        factor = np.array([factor[z] for z in numbers])[:, None]
    for target in KINDS:
        rows = before.flatten(target) * (factor if target == name else 1.0)
        assert np.abs(rows).max() > 0
        atol = 1e-7 * np.abs(rows).max()
        np.testing.assert_allclose(after.flatten(target), rows, atol=atol)


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({"H": -1.0, "C": -2.0, 8: -3.0}, {"energy": [-1.0, -2.0, -3.0]}),
        ({"energy": {"H": 5.0, "C": 6.0, "O": 7.0}}, {"energy": [5.0, 6.0, 7.0]}),
        ({"charges": {"H": 0.5, "C": -0.25, "O": -1.0}}, {"charges": [0.5, -0.25, -1.0]}),
        ({"charges": 0.125, "energy": 2.0}, {"charges": [0.125] * 3, "energy": [2.0] * 3}),
        ({"polarizability": {"H": 1.0, "C": 2.0, "O": 3.0}}, {"polarizability": [1.0, 2.0, 3.0]}),
        ({"several": 4.0}, {"several": [4.0] * 3}),
        ({"of_atoms": 4.0}, {"of_atoms": [4.0] * 3}),
        ({"gap": 4.0}, {"gap": [4.0] * 3}),
        ({"mean_tensor": {"H": 1, "C": 2, 8: 3}}, {"mean_tensor": [1.0, 2.0, 3.0]}),
    ],
    ids=str,
)
def test_fixed_composition_weights_are_used(frames, y, fixed, expected):
    """Predictions move by what the atoms of each element add, and nothing else does."""
    shared = {**STILL, "scale_targets": False}
    plain = SoapBPNNRegressor(**shared, remove_composition_contribution=False).fit(frames, y)
    model = SoapBPNNRegressor(**shared, fixed_composition_weights=fixed).fit(frames, y)
    before, after = (m.predict(frames, targets=list(KINDS)) for m in (plain, model))
    invariant = {"several": [0, 1], "polarizability": DIAGONAL, "mean_tensor": DIAGONAL}
    for name, weights in expected.items():
        columns = invariant.get(name, [0])
        counts = count(frames)
        if KINDS[name].per_atom:
            numbers = np.concatenate([atoms.numbers for atoms in frames])
            counts = np.eye(3)[np.searchsorted([1, 6, 8], numbers)]
        elif KINDS[name].intensive:
            counts = counts / counts.sum(1, keepdims=True)
        rows = before.flatten(name).copy()
        rows[:, columns] += (counts @ weights)[:, None]
        np.testing.assert_allclose(after.flatten(name), rows, atol=1e-7)
        coef = model.baseline_.coef_[name].reshape(3, -1)
        np.testing.assert_allclose(coef[:, columns].T, [weights] * len(columns))
        assert not np.delete(coef, columns, axis=1).any()


def test_without_baseline_and_scale_labels_are_learnt_as_they_are(frames, y):
    off = {"remove_composition_contribution": False, "scale_targets": False}
    model = SoapBPNNRegressor(**STILL, **off).fit(frames, y)
    assert model.baseline_ is None
    assert model.scaler_ is None
    ones = dict.fromkeys(KINDS, 1.0)
    with_baseline = SoapBPNNRegressor(**STILL).fit(frames, y).baseline_.coef_
    assert set(with_baseline) >= {"energy", "polarizability", "charges", "several", "of_atoms"}
    assert "dipoles" not in with_baseline
    fixed = {
        "fixed_scaling_weights": ones,
        "fixed_composition_weights": dict.fromkeys(with_baseline, 0.0),
    }
    other = SoapBPNNRegressor(**STILL, **fixed).fit(frames, y)
    before, after = (m.predict(frames, targets=list(KINDS)) for m in (model, other))
    for name in KINDS:
        np.testing.assert_allclose(before.flatten(name), after.flatten(name), rtol=1e-7)
