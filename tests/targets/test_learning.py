"""Targets of every kind are learnt: errors on structures that fit did not see fall clearly."""

import numpy as np
import pytest

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets

LEARNING = {"max_radial": 3, "max_angular": 3, "learning_rate": 3e-3, "random_state": 0}
LIMITS = {"properties": 0.6, "mean": 0.6}


def towards(atoms, symbol):
    """For each atom a vector to what is near of one element: (n_atoms, 3)."""
    vectors = atoms.get_all_distances(vector=True)
    weights = np.exp(-np.linalg.norm(vectors, axis=2)) * (atoms.symbols == symbol)
    return np.einsum("ij,ija->ia", weights, vectors)


def harmonics(vectors):
    """Real spherical harmonics of degree 2 times the squared length, but for a factor."""
    x, y, z = vectors.T
    r2 = (vectors**2).sum(1)
    parts = [x * y, y * z, (3 * z**2 - r2) / (2 * np.sqrt(3)), x * z, (x**2 - y**2) / 2]
    return np.stack(parts, axis=1)


def centred(atoms):
    return atoms.positions - atoms.positions.mean(0)


def coordination(atoms, decay=1.0):
    return np.exp(-decay * atoms.get_all_distances()).sum(1) - 1


def several_blocks(atoms):
    vector = towards(atoms, "O").sum(0)[[1, 2, 0]]
    scalars = [coordination(atoms).sum(), coordination(atoms, 2.0).sum()]
    return np.concatenate([scalars, vector, harmonics(centred(atoms)).sum(0)])


def triple_product(atoms):
    hydrogen, carbon, oxygen = (towards(atoms, symbol) for symbol in "HCO")
    return (np.cross(hydrogen, carbon) * oxygen).sum(1)


def asymmetric(atoms):
    """Squares of a vector, and an axial vector: a polar one times a triple product."""
    vector = towards(atoms, "C")
    tensors = vector[:, :, None] * vector[:, None, :]
    x, y, z = 20 * (vector * triple_product(atoms)[:, None]).T
    zero = np.zeros(len(atoms))
    axial = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
    return tensors + axial.transpose(2, 0, 1)


GEOMETRY = {
    "symmetric": (
        TargetKind.tensor(symmetric=True),
        lambda atoms: centred(atoms).T @ centred(atoms),
    ),
    "asymmetric": (TargetKind.tensor(per_atom=True), asymmetric),
    "charges": (TargetKind.scalar(per_atom=True), coordination),
    "vectors": (TargetKind.vector(per_atom=True), lambda atoms: towards(atoms, "C")),
    "quadrupole": (TargetKind.spherical((2, 1)), lambda atoms: harmonics(centred(atoms)).sum(0)),
    "chirality": (
        TargetKind.spherical((0, -1), per_atom=True),
        lambda atoms: triple_product(atoms)[:, None],
    ),
    "properties": (
        TargetKind.scalar(3),
        lambda atoms: [coordination(atoms, decay).sum() for decay in (0.5, 1.0, 2.0)],
    ),
    "blocks": (TargetKind.spherical([(0, 1, 2), (1, 1), (2, 1)]), several_blocks),
    "mean": (TargetKind.scalar(intensive=True), lambda atoms: coordination(atoms).mean()),
}


def relative_error(known, predicted):
    """Root mean square error, where 1 is what knowing nothing but the mean would give."""
    return np.sqrt(((known - predicted) ** 2).sum() / ((known - known.mean(0)) ** 2).sum())


def compare(model, X, y):
    prediction = model.predict(X, targets=list(y.names))
    return {name: (y.flatten(name), prediction.flatten(name)) for name in y.names}


def test_energy_forces_and_dipole_at_once(malonaldehyde):
    X, y = malonaldehyde
    model = SoapBPNNRegressor(**LEARNING, num_epochs=50).fit(X[:50], y[:50])
    for name, pair in compare(model, X[50:], y[50:]).items():
        assert relative_error(*pair) < {"energy": 0.7, "forces": 0.5, "dipole": 0.5}[name]


@pytest.mark.parametrize(
    ("species_encoding", "names"),
    [("orthogonal", [*GEOMETRY]), ("alchemical", ["vectors", "properties", "blocks"])],
)
def test_geometry_is_learnt(species_encoding, names, malonaldehyde):
    X = [atoms.copy() for atoms in malonaldehyde[0]]
    for seed, atoms in enumerate(X):
        atoms.rattle(0.1, seed=seed)
    labels = {name: [GEOMETRY[name][1](atoms) for atoms in X] for name in names}
    y = Targets(kinds={name: GEOMETRY[name][0] for name in names}, **labels)
    model = SoapBPNNRegressor(**LEARNING, num_epochs=50, species_encoding=species_encoding)
    rows = compare(model.fit(X[:50], y[:50]), X[50:], y[50:])
    for name, pair in rows.items():
        assert relative_error(*pair) < LIMITS.get(name, 0.3), name
    for first, last in ((0, 2), (2, 5), (5, 10)):
        part = [values[:, first:last] for values in rows["blocks"]]
        assert relative_error(*part) < 0.6, f"components {first} to {last - 1}"
    if "asymmetric" not in names:
        return
    tensors = [values.reshape(-1, 3, 3) for values in rows["asymmetric"]]
    antisymmetric = [values - values.swapaxes(1, 2) for values in tensors]
    assert relative_error(*antisymmetric) < 0.4
