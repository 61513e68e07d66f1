"""A target of every kind, models that learnt them all from noise, and how their values turn."""

from functools import lru_cache

import numpy as np
import sphericart
from ase import Atoms
from ase.build import bulk, molecule

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets

KINDS = {
    "energy": TargetKind.scalar(),
    "spectrum": TargetKind.scalar(3),
    "gap": TargetKind.scalar(intensive=True),
    "polarizations": TargetKind.vector(2, intensive=True),
    "mean_tensor": TargetKind.tensor(symmetric=True, intensive=True),
    "mean_several": TargetKind.spherical([(0, 1, 2), (1, -1), (3, 1)], intensive=True),
    "charges": TargetKind.scalar(per_atom=True),
    "levels": TargetKind.scalar(2, per_atom=True),
    "dipole": TargetKind.vector(),
    "dipoles": TargetKind.vector(2),
    "atomic_dipole": TargetKind.vector(per_atom=True),
    "polarizability": TargetKind.tensor(symmetric=True),
    "polarizabilities": TargetKind.tensor(2, symmetric=True, per_atom=True),
    "tensor": TargetKind.tensor(),
    "tensors": TargetKind.tensor(2),
    "atomic_tensor": TargetKind.tensor(per_atom=True),
    "several": TargetKind.spherical([(0, 1, 2), (1, 1), (1, -1, 2), (2, -1), (3, 1)]),
    "atomic_several": TargetKind.spherical([(0, -1), (2, 1, 2), (1, -1)], per_atom=True),
    "quadrupoles": TargetKind.spherical((2, 1), 3),
    "non_conservative_forces": TargetKind.vector(per_atom=True),
    "non_conservative_stress": TargetKind.tensor(symmetric=True, per_volume=True),
    **{
        f"l{l}{'+' if sigma == 1 else '-'}{' of atoms' * per_atom}": TargetKind.spherical(
            (l, sigma), per_atom=per_atom
        )
        for l in range(4)
        for sigma in (1, -1)
        for per_atom in (False, True)
    },
}
NETWORKS = {
    "orthogonal": {},
    "alchemical": {"species_encoding": "alchemical"},
    "orthogonal, long range": {"long_range": True},
    "alchemical, long range": {"species_encoding": "alchemical", "long_range": True},
    "bare": {
        "num_hidden_layers": 0,
        "heads": dict.fromkeys(KINDS, "linear"),
        "add_lambda_basis": False,
        "layernorm": False,
    },
}
SKEWED = [[4.0, 0.0, 0.0], [1.5, 4.2, 0.0], [-0.8, 0.9, 4.5]]
SMALL = {"max_radial": 3, "max_angular": 3, "num_neurons_per_layer": 8}


def make_structures(seed=0):
    """Structures of every kind, by name; all atoms are off their sites."""
    ethanol = molecule("CH3CH2OH")
    structures = {
        "molecule": ethanol,
        "skewed cell smaller than the cutoff": ethanol.copy(),
        "slab": ethanol.copy(),
        "wire": ethanol.copy(),
        "tiny cell": Atoms("C", cell=[[2.0, 0.1, 0.0], [0.3, 2.1, 0.2], [0.1, 0.0, 2.2]], pbc=True),
        "crystal": bulk("C", "diamond", a=3.6, cubic=True),
        "single atom": Atoms("O"),
        "atoms without neighbours": Atoms("HO", [[0, 0, 0], [0, 0, 9.0]]),
    }
    for name in ("skewed cell smaller than the cutoff", "slab"):
        structures[name].set_cell(SKEWED)
        structures[name].pbc = [True, True, name != "slab"]
    structures["wire"].set_cell([[0, 0, 0], [0, 0, 0], [0.5, 0.4, 4.8]])
    structures["wire"].pbc = [False, False, True]
    for atoms in structures.values():
        atoms.rattle(0.1, seed=seed)
    return structures


def choose_structures(network, seed=0):
    """Structures that a network knows: there is no long-range sum over wires."""
    structures = make_structures(seed)
    if "long range" in network:
        del structures["wire"]
    return structures


def draw_labels(frames, kinds, seed=0):
    """Labels without any meaning, so that a model of them has no symmetry by accident."""
    rng = np.random.default_rng(seed)
    columns = {name: [_draw(rng, kind, len(x)) for x in frames] for name, kind in kinds.items()}
    return Targets(kinds=kinds, **columns)


def _draw(rng, kind, n_atoms):
    shape = (n_atoms,) * kind.per_atom + kind.shape
    values = rng.normal(size=shape).reshape(-1, kind.size)
    # what a symmetric tensor can be
    return (values @ kind.transform @ kind.transform.T).reshape(shape)


@lru_cache
def fit_network(network):
    """A float64 model of every kind of target; a smooth function with nothing special in it."""
    frames = list(choose_structures(network).values())
    model = SoapBPNNRegressor(
        **SMALL,
        **NETWORKS[network],
        dtype="float64",
        num_epochs=2,
        batch_size=3,
        learning_rate=1e-2,
        random_state=0,
    )
    return model.fit(frames, draw_labels(frames, KINDS))


def predict_rows(model, frames, names):
    """Predictions of some targets, as rows of structures or of all atoms."""
    prediction = model.predict(frames, targets=names)
    return {name: prediction.flatten(name) for name in names}


def find_wigner(l, matrix):
    """Matrix D with Y(Q r) = D Y(r), from the harmonics of sphericart at some points."""

    def harmonics(points):
        return sphericart.SphericalHarmonics(l).compute(points)[:, l**2 :]

    points = np.random.default_rng(0).normal(size=(100, 3))
    solution, *_ = np.linalg.lstsq(harmonics(points), harmonics(points @ matrix.T), rcond=None)
    return solution.T


def turn(kind, rows, matrix):
    """Rotate, and for a determinant of -1 invert, flat values (n_rows, size) of a kind."""
    if kind.cartesian_rank == 1:
        return np.einsum("ab,nbp->nap", matrix, rows.reshape(len(rows), 3, -1)).reshape(rows.shape)
    if kind.cartesian_rank == 2:
        tensors = rows.reshape(len(rows), 3, 3, -1)
        return np.einsum("ab,cd,nbdp->nacp", matrix, matrix, tensors).reshape(rows.shape)
    parts, start = [], 0
    for block in kind.blocks:
        part = rows[:, start : start + block.size].reshape(len(rows), 2 * block.o3_lambda + 1, -1)
        start += block.size
        sign = np.linalg.det(matrix) if block.o3_sigma == -1 else 1.0
        turned = np.einsum("mn,inp->imp", find_wigner(block.o3_lambda, matrix), part)
        parts.append(sign * turned.reshape(len(rows), -1))
    return np.hstack(parts)
