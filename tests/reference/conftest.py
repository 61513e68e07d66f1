"""Models that metatrain itself trains: one command for each, shared by all tests."""

import subprocess
import sys
from copy import deepcopy

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule

TENSORS = [(l, sigma) for l in range(4) for sigma in (1, -1)]
ENERGY = {
    "quantity": "energy",
    "unit": "eV",
    "key": "energy",
    "forces": {"key": "forces"},
    "stress": {"key": "stress"},
}
DIPOLE = {"mtt::dipole": {"key": "mu", "type": {"cartesian": {"rank": 1}}}}
ALL_TARGETS = {
    **DIPOLE,
    "mtt::polarizability": {"key": "alpha", "type": {"cartesian": {"rank": 2}}},
    "mtt::many": {"key": "many", "num_subtargets": 4},
    "mtt::of_atoms": {"key": "of_atoms", "sample_kind": "atom"},
    "non_conservative_forces": {
        "key": "direct_forces",
        "sample_kind": "atom",
        "quantity": "force",
        "unit": "eV/Angstrom",
        "type": {"cartesian": {"rank": 1}},
    },
    "non_conservative_stress": {
        "key": "direct_stress",
        "quantity": "pressure",
        "unit": "eV/Angstrom^3",
        "type": {"cartesian": {"rank": 2}},
    },
    **{
        f"mtt::tensor{l}{'+' if sigma == 1 else '-'}": {
            "key": f"tensor{l}{sigma}",
            "type": {"spherical": {"irreps": [{"o3_lambda": l, "o3_sigma": sigma}]}},
        }
        for l, sigma in TENSORS
    },
}
MODEL = {
    "soap": {"max_angular": 4, "max_radial": 4},
    "bpnn": {"num_neurons_per_layer": 8},
}
# name -> options of the model, and targets besides the energy
CASES = {
    "orthogonal": ({"heads": {"energy": "mlp", "mtt::many": "mlp"}}, ALL_TARGETS),
    "alchemical": ({"legacy": False}, ALL_TARGETS),
    "no hidden layers": (
        {"legacy": False, "bpnn": {"num_neurons_per_layer": 8, "num_hidden_layers": 0}},
        ALL_TARGETS,
    ),
    "without options": (
        {
            "bpnn": {"num_neurons_per_layer": 8, "num_hidden_layers": 1, "layernorm": False},
            "add_lambda_basis": False,
        },
        {**DIPOLE, "mtt::tensor3+": ALL_TARGETS["mtt::tensor3+"]},
    ),
    "several energies": (
        {},
        {
            "energy/pbe": {"quantity": "energy", "key": "energy", "forces": {"key": "forces"}},
            "mtt::gap": {"quantity": "energy", "key": "energy", "stress": {"key": "stress"}},
        },
    ),
    "zbl": ({"zbl": True, "heads": {"energy": "mlp"}}, DIPOLE),
    "p3m": ({"long_range": {"enable": True}}, DIPOLE),
    "ewald": ({"long_range": {"enable": True, "use_ewald": True}, "zbl": True}, DIPOLE),
}
# training options besides the usual
TRAINING = {
    "without options": {
        "scale_targets": False,
        "atomic_baseline": {"energy": 0.0, "mtt::dipole": 0.0, "mtt::tensor3+": 0.0},
    }
}
# most of the time would go into the same zeros of Bessel functions for each of 50 expansions
CACHE = """
from functools import cache
from spex.radial.physical import laplacian_eigenstates
laplacian_eigenstates._compute_zeros = cache(laplacian_eigenstates._compute_zeros)
"""
# metatrain builds its splines in torch's default dtype, so float64 needs that to be float64. It
# ends with the checkpoint: the export to TorchScript that follows takes a minute.
COMMAND = f"""
{CACHE}
import sys, torch
from metatrain.__main__ import main
from metatrain.soap_bpnn import __model__
torch.set_default_dtype(torch.float64)
sys.argv = ['mtt', *sys.argv[1:]]
__model__.export = lambda model: sys.exit(0)
main()
"""


def make_frames():
    """Molecules and crystals with cells along the axes, labelled with random numbers."""
    rng = np.random.default_rng(0)
    periodic = molecule("CH3CH2OH")
    periodic.set_cell([6.0, 6.5, 7.0])
    periodic.pbc = True
    kinds = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4")]
    kinds += [bulk("C", "diamond", a=3.6, cubic=True), periodic]
    frames = []
    for seed in range(4):
        for kind in kinds:
            atoms = kind.copy()
            atoms.rattle(0.1, seed=seed)
            frames.append(_label(atoms, rng))
    return frames


def _label(atoms, rng):
    n = len(atoms)
    in_cell = 1.0 if atoms.pbc.all() else np.nan
    stress = rng.normal(size=(3, 3))
    atoms.info |= {
        "energy": float(rng.normal(n)),
        "stress": in_cell * (stress + stress.T),
        "mu": rng.normal(size=3),
        "alpha": rng.normal(size=9),
        "many": rng.normal(size=4),
        "direct_stress": in_cell * rng.normal(size=9),
        **{f"tensor{l}{sigma}": rng.normal(size=2 * l + 1) for l, sigma in TENSORS},
    }
    atoms.arrays["forces"] = rng.normal(size=(n, 3))
    atoms.arrays["direct_forces"] = rng.normal(size=(n, 3))
    atoms.arrays["of_atoms"] = rng.normal(size=n)
    return atoms


@pytest.fixture(scope="session", autouse=True)
def fast_zeros():
    """Models are built quickly in this process, too."""
    exec(CACHE)


@pytest.fixture(scope="session")
def frames():
    return make_frames()


@pytest.fixture(scope="session", params=list(CASES))
def checkpoint(request, tmp_path_factory, frames):
    """Path of a checkpoint that metatrain wrote after two epochs of two batches."""
    folder = tmp_path_factory.mktemp("metatrain")
    model, targets = CASES[request.param]
    energy = deepcopy(ENERGY)
    if request.param == "p3m":
        # torch-pme's second derivatives by the cell are NaN
        energy |= {"stress": False, "virial": False}
    ase.io.write(folder / "data.xyz", frames)
    options = {
        "seed": 0,
        "base_precision": 64,
        "device": "cpu",
        "architecture": {
            "name": "soap_bpnn",
            "model": {**MODEL, **model},
            "training": {
                **{"num_epochs": 2, "batch_size": 6, "num_workers": 0},
                **TRAINING.get(request.param, {}),
            },
        },
        "training_set": {
            "systems": {"read_from": "data.xyz", "length_unit": "angstrom"},
            "targets": {"energy": energy, **targets},
        },
        # some of them must have a stress
        "validation_set": 0.4,
        "test_set": 0.0,
    }
    (folder / "options.yaml").write_text(yaml.safe_dump(options))
    command = [sys.executable, "-c", COMMAND, "train", "options.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "model.ckpt"
