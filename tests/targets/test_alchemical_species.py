"""Pseudo-species: sizes, elements that are missing, and structures with different elements."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.training import TotalLoss, TrainingData, parse_loss

KINDS = {
    "energy": TargetKind.scalar(),
    "dipole": TargetKind.vector(),
    "quadrupole": TargetKind.spherical((2, 1), per_atom=True),
    "pseudoscalar": TargetKind.spherical((0, -1)),
}
FORCES = {"forces": TargetKind.vector(per_atom=True)}
NAMES = [*KINDS, "forces", "energies"]
SMALL = {
    "max_radial": 2,
    "max_angular": 2,
    "num_neurons_per_layer": 6,
    "dtype": "float64",
    "num_epochs": 2,
    "learning_rate": 1e-2,
    "random_state": 0,
    "species_encoding": "alchemical",
}
RTOL = 1e-9


@pytest.fixture(scope="module")
def frames():
    """From one element to five, in all kinds of combinations."""
    frames = [molecule(name) for name in ("CH3SH", "HCl", "CH3CH2OH", "O2", "CH3Cl")]
    frames += [
        bulk("C", "diamond", a=3.6, cubic=True),
        Atoms("S"),
        Atoms("ClO", [[0] * 3, [9] * 3]),
    ]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    return frames


@pytest.fixture
def model(frames, draw):
    return SoapBPNNRegressor(**SMALL).fit(frames, draw(frames, {**KINDS, **FORCES}))


def rows(model, X):
    prediction = model.predict(X, targets=NAMES)
    return {name: prediction.flatten(name) for name in NAMES}


@pytest.mark.parametrize("n_pseudo_species", [1, 2, 4])
def test_number_of_features_depends_on_pseudo_species_only(frames, draw, n_pseudo_species):
    data_sets = {1: frames[5:6] * 2, 3: frames[:1] * 2, 5: frames}
    for n_elements, X in data_sets.items():
        model = SoapBPNNRegressor(**SMALL, n_pseudo_species=n_pseudo_species)
        model.fit(X, draw(X, {"energy": KINDS["energy"]}))
        assert len(model.elements_) == n_elements
        n_radial = model.module_.basis.n_per_l
        assert model.n_features_in_ == n_pseudo_species**2 * sum(n**2 for n in n_radial)
        assert np.isfinite(model.predict(X)).all()


def test_four_pseudo_species_are_the_default(frames, draw, model):
    y = draw(frames, {**KINDS, **FORCES})
    four = SoapBPNNRegressor(**SMALL, n_pseudo_species=4).fit(frames, y)
    two = SoapBPNNRegressor(**SMALL, n_pseudo_species=2).fit(frames, y)
    np.testing.assert_array_equal(four.predict(frames), model.predict(frames))
    assert two.n_features_in_ == model.n_features_in_ / 4
    assert not np.allclose(two.predict(frames), model.predict(frames))


def test_elements_are_told_apart(model):
    """Both as centre and as neighbour."""
    pairs = [Atoms(symbols, [[0, 0, 0], [0, 0, 1.2]]) for symbols in ("CO", "CS", "OS", "OO")]
    energies = model.predict(pairs, targets="energies")["energies"]
    offset = dict(zip(model.elements_, model.baseline_.coef_["energy"]))
    energies = [
        [value - offset[z] for value, z in zip(values, atoms.numbers)]
        for values, atoms in zip(energies, pairs)
    ]
    of_carbon = [energies[0][0], energies[1][0]]
    beside_oxygen = [energies[0][0], energies[2][1], energies[3][0]]
    for values in (of_carbon, beside_oxygen):
        assert np.ptp(values) > 1e-6
        assert len(np.unique(np.round(values, 9))) == len(values)


def test_isolated_atoms(model):
    """No neighbours, no tensors; the energy is finite, and differs by element."""
    X = [Atoms(symbol) for symbol in ("H", "C", "O", "S", "Cl")]
    prediction = rows(model, X)
    for name in ("dipole", "quadrupole", "pseudoscalar", "forces"):
        assert not prediction[name].any(), name
    assert np.isfinite(prediction["energy"]).all()
    assert len(np.unique(prediction["energy"])) == len(X)


def test_elements_that_no_atom_of_a_batch_has_change_nothing(model, frames):
    """A batch is as wide as its structure of most elements; the others are padded."""
    together = rows(model, frames)
    for order in (list(range(len(frames)))[::-1], [1, 0], [3], [6], [2, 3]):
        some = rows(model, [frames[i] for i in order])
        ends = np.cumsum([len(atoms) for atoms in frames])[:-1]
        for name, values in together.items():
            per_atom = len(values) > len(frames)
            parts = np.split(values, ends) if per_atom else values[:, None]
            expected = np.concatenate([parts[i] for i in order])
            atol = RTOL * np.abs(values).max()
            np.testing.assert_allclose(some[name], expected, rtol=0, atol=atol, err_msg=name)


def test_gradients_of_padded_batches_are_sums_over_structures(model, frames, draw):
    y = draw(frames, {**KINDS, **FORCES}, seed=1)
    total = {"reduction": "sum"}
    specification = {**dict.fromkeys(KINDS, total), "energy": {**total, "forces": total}}
    loss = TotalLoss(parse_loss(specification, KINDS))
    network, structures = model.module_, model.fitted_.steps.prepare(as_structures(frames))

    def find_gradient(batches):
        network.zero_grad()
        for batch in batches:
            loss(batch.predictions(network), batch.labels).backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    data = TrainingData(structures, y, network)
    n = len(frames)
    order = torch.arange(n, device=data.device)
    together = find_gradient(data.batches(order, [n]))
    singles = find_gradient(data.batches(order, [1] * n))
    alone = [TrainingData(structures[[i]], y[[i]], network) for i in range(n)]
    batches = [batch for part in alone for batch in part.batches(order[:1], [1])]
    for others in (singles, find_gradient(batches)):
        for first, second in zip(together, others):
            atol = RTOL * float(first.abs().max())
            torch.testing.assert_close(first, second, rtol=0, atol=atol)
            assert first.abs().max() > 0


def test_order_of_the_elements_in_a_structure_does_not_matter(model, frames):
    atoms = frames[2]
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = rows(model, [atoms]), rows(model, [atoms[order]])
    for name, values in before.items():
        expected = values[order] if len(values) == len(atoms) else values
        np.testing.assert_allclose(after[name], expected, rtol=1e-9, atol=1e-12)
