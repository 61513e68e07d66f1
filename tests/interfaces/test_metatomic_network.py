"""The part of an exported model that is plain torch; tests/reference/ runs it in its engines."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk
from simulated_gpu import DEVICE, SimulatedGPU
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.data import as_structures, build_graph
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator
from sklearn_soapbpnn.interfaces.metatomic import convert_model, export_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

SMALL = {"max_radial": 3, "max_angular": 3, "dtype": "float64", "num_epochs": 2, "random_state": 0}
ENCODINGS = ("orthogonal", "alchemical")
KINDS = {
    "dipole": TargetKind.vector(),
    "tensor": TargetKind.tensor(),
    "spherical": TargetKind.spherical([(0, -1), (1, -1, 2), (3, 1)]),
    "bands": TargetKind.scalar(3),
    "gap": TargetKind.scalar(intensive=True),
    "vectors": TargetKind.vector(2, per_atom=True),
    "charges": TargetKind.scalar(per_atom=True),
    "direct_stress": TargetKind.tensor(symmetric=True, per_volume=True),
}
# layers of different kinds; with a committee, error bars are of another kind as well
LAYERS = {
    "default": {},
    "no hidden layers": {"num_hidden_layers": 0, "heads": {"energy": "mlp", "bands": "mlp"}},
    "linear heads": {"num_hidden_layers": 0, "heads": {"energy": "linear", "gap": "linear"}},
    "no layernorm": {"layernorm": False, "heads": {"energy": "linear"}},
    "committee": {"n_networks": 3},
}


def make_targets(structures):
    """Meaningless labels of all kinds."""
    rng = np.random.default_rng(0)
    X = as_structures(structures)
    columns = {"energy": rng.normal(size=len(X)) - 10.0 * X.n_atoms}
    for name, kind in KINDS.items():
        if kind.per_atom:
            columns[name] = [rng.normal(size=(n, *kind.shape)) for n in X.n_atoms]
        else:
            columns[name] = rng.normal(size=(len(X), *kind.shape))
    stress = columns["direct_stress"]
    columns["direct_stress"] = stress + stress.swapaxes(1, 2)
    return Targets(kinds=KINDS, **columns)


class Exported:
    """A scripted model, evaluated on the pairs that this library finds."""

    def __init__(self, model):
        self.module, network = convert_model(model)
        self.module = torch.jit.script(self.module.eval())
        self.elements, self.cutoff = network.elements, network.basis.cutoff_radius
        self.dtype = network.dtype

    def __call__(self, structures, wanted, selected=None, derivatives=False):
        X = as_structures(structures)
        graph = build_graph(X, self.cutoff, self.elements)
        structure = torch.repeat_interleave(torch.arange(len(X)), graph.atom_counts)
        volumes = torch.tensor(X.volumes)
        vectors = graph.pair_vectors.to(self.dtype, copy=True).requires_grad_(derivatives)
        i, j = graph.centers, graph.neighbors
        place = None if selected is None else torch.tensor(selected)
        # without optimisations, which take longer than these structures
        with torch.jit.optimized_execution(False):
            results = self.module(vectors, i, j, graph.element, structure, volumes, place, wanted)
        if not derivatives:
            return {name: values.numpy() for name, values in results.items()}
        energies = results["energy"]
        (pull,) = torch.autograd.grad(energies.sum(), vectors)
        forces = torch.zeros(graph.n_atoms, 3, dtype=pull.dtype)
        forces = forces.index_add(0, i, pull).index_add(0, j, -pull)
        strain = torch.zeros(len(X), 3, 3, dtype=pull.dtype)
        strain.index_add_(0, structure[i], pull[:, :, None] * graph.pair_vectors[:, None])
        return energies.detach().numpy()[:, 0], forces.numpy(), strain.numpy()


@pytest.mark.parametrize("zbl", [False, True], ids=["", "zbl"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_energies_forces_and_stress_are_those_of_the_calculator(structures, encoding, zbl):
    structures = [*structures, bulk("C", "diamond", a=2.2)]  # within the reach of ZBL
    energies = make_targets(structures)["energy"]
    model = SoapBPNNRegressor(**SMALL, species_encoding=encoding, zbl=zbl).fit(structures, energies)
    energy, forces, strain = Exported(model)(structures, {"energy": True}, derivatives=True)
    per_atom = Exported(model)(structures, {"energy": False})["energy"][:, 0]
    first = 0
    for k, atoms in enumerate(structures):
        atoms.calc = SoapBPNNCalculator(model)
        own = slice(first, first + len(atoms))
        first += len(atoms)
        np.testing.assert_allclose(energy[k], atoms.get_potential_energy(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(forces[own], atoms.get_forces(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(per_atom[own], atoms.get_potential_energies(), atol=1e-9)
        if atoms.cell.rank == 3:
            stress = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(strain[k] / atoms.get_volume(), stress, rtol=0, atol=1e-9)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("layers", LAYERS)
def test_all_outputs_are_those_of_predict(structures, layers, encoding):
    y = make_targets(structures)
    regressor = SoapBPNNRegressor(**SMALL, species_encoding=encoding, **LAYERS[layers])
    model = regressor.fit(structures, y)
    names = [*model.kinds_, "features"]
    per_atom = ("features", "charges", "vectors")
    found = Exported(model)(structures, {name: name not in per_atom for name in names})
    expected = model.predict(structures, targets=names)
    for name in names:
        values = expected[name]
        values = np.concatenate(values) if name in per_atom else values
        shape = found[name].shape
        np.testing.assert_allclose(found[name], values.reshape(shape), atol=1e-10, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"n_networks": 3}], ids=["posterior", "committee"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_error_bars_are_those_of_predict(shipped_molecules, encoding, options):
    X, y = shipped_molecules
    model = SoapBPNNRegressor(**SMALL, species_encoding=encoding, **options).fit(X[:40], y[:40])
    exported, X = Exported(model), X[40:44]
    wanted = {"energy_uncertainty": True, "energy_ensemble": True}
    found = exported(X, wanted)
    _, stds = model.predict(X, targets=["energy", "energies"], return_std=True)
    np.testing.assert_allclose(found["energy_uncertainty"][:, 0], stds["energy"], rtol=1e-6)
    n_members = found["energy_ensemble"].shape[1]
    members = model.predict(X, n_samples=n_members)
    np.testing.assert_allclose(found["energy_ensemble"], np.transpose(members), rtol=1e-9)
    of_atoms = exported(X, dict.fromkeys(wanted, False))
    stds = np.concatenate(stds["energies"])
    np.testing.assert_allclose(of_atoms["energy_uncertainty"][:, 0], stds, rtol=1e-6)
    sums = of_atoms["energy_ensemble"].reshape(len(X), -1, n_members).sum(1)
    np.testing.assert_allclose(sums, found["energy_ensemble"], rtol=1e-9)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_selected_atoms_have_the_values_and_derivatives_that_they_add(structures, encoding):
    y = make_targets(structures)
    model = SoapBPNNRegressor(**SMALL, species_encoding=encoding, zbl=True).fit(structures, y)
    exported = Exported(model)
    n_atoms = sum(len(atoms) for atoms in structures)
    mine = np.random.default_rng(1).permutation(n_atoms)
    halves = mine[: n_atoms // 2], mine[n_atoms // 2 :]
    names = {*model.kinds_, "features", "energy_uncertainty", "energy_ensemble"}
    of_atoms = dict.fromkeys(names - {"gap", "direct_stress"}, False)
    everything = exported(structures, of_atoms)
    for selected in halves:
        for name, values in exported(structures, of_atoms, selected).items():
            expected = everything[name][selected]
            np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-12, err_msg=name)
    # what is computed for parts adds up
    sums = dict.fromkeys([*model.kinds_, "features"], True)
    everything = exported(structures, sums)
    parts = [exported(structures, sums, selected) for selected in halves]
    for name, values in everything.items():
        added = parts[0][name] + parts[1][name]
        np.testing.assert_allclose(added, values, atol=1e-9, err_msg=name)
    everything = exported(structures, {"energy": True}, derivatives=True)
    parts = [exported(structures, {"energy": True}, half, derivatives=True) for half in halves]
    for whole, *part in zip(everything, *parts):
        np.testing.assert_allclose(sum(part), whole, atol=1e-9)
    assert exported(structures, of_atoms, mine[:0])["energy"].shape == (0, 1)


def test_steps_of_a_pipeline_are_part_of_the_export(shipped_molecules):
    X, y = shipped_molecules
    steps = [ZBLBaseline(), CompositionBaseline(), TargetScaler()]
    features = SoapFeaturizer(max_radial=3, max_angular=3, dtype="float64")
    regressor = SoapBPNNRegressor(dtype="float64", num_epochs=2, random_state=0)
    pipeline = make_pipeline(*steps, features, regressor).fit(X[:40], y[:40])
    atoms = X[40].copy()
    atoms.set_distance(0, 1, 0.5)
    found = Exported(pipeline)([atoms], {"energy": True})["energy"]
    np.testing.assert_allclose(found[0], pipeline.predict([atoms]), rtol=1e-12)
    with pytest.raises(ValueError, match="X lacks the"):
        convert_model(pipeline[-1])


def test_second_derivatives_are_right(molecule):
    model = SoapBPNNRegressor(**SMALL).fit([molecule] * 2, [0.0, 1.0])
    exported = Exported(model)
    graph = build_graph(as_structures([molecule]), exported.cutoff, exported.elements)
    structure, volumes = torch.zeros(len(molecule), dtype=torch.long), torch.zeros(1).double()

    def energy(some):
        vectors = torch.cat([some, graph.pair_vectors[2:]])
        pairs = vectors, graph.centers, graph.neighbors
        atoms = graph.element, structure, volumes, None
        return exported.module(*pairs, *atoms, {"energy": True})["energy"]

    some = graph.pair_vectors[:2].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(energy, some, atol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_nothing_is_left_on_the_cpu(structures, encoding):
    y = make_targets(structures)
    model = SoapBPNNRegressor(**SMALL, species_encoding=encoding, zbl=True).fit(structures, y)
    module, network = convert_model(model)
    X = as_structures(structures)
    graph = build_graph(X, network.basis.cutoff_radius, network.elements)
    structure = torch.repeat_interleave(torch.arange(len(X)), graph.atom_counts)
    pairs = graph.pair_vectors, graph.centers, graph.neighbors
    atoms = graph.element, structure, torch.tensor(X.volumes), torch.arange(1, 20)
    names = [*model.kinds_, "features", "energy_uncertainty", "energy_ensemble"]
    wanted = dict.fromkeys(names, True)
    with torch.no_grad():
        expected = module(*pairs, *atoms, wanted)
        with SimulatedGPU():
            inputs = [tensor.to(DEVICE) for tensor in (*pairs, *atoms)]
            found = module.to(DEVICE)(*inputs, wanted)
            found = {name: values.cpu() for name, values in found.items()}
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, equal_nan=True)


def test_float32_keeps_the_digits_of_large_baselines(shipped_molecules):
    X, y = shipped_molecules
    model = SoapBPNNRegressor(**{**SMALL, "dtype": "float32"}).fit(X[:40], y[:40])
    found = Exported(model)(X[40:42], {"energy": True})["energy"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], model.predict(X[40:42]), rtol=1e-7)


def test_the_module_needs_nothing_but_torch(molecule, tmp_path):
    model = SoapBPNNRegressor(**SMALL, zbl=True).fit([molecule] * 2, [0.0, 1.0])
    exported = Exported(model)
    torch.jit.save(exported.module, tmp_path / "module.pt")
    code = """
import sys, torch
module = torch.jit.load(sys.argv[1])
vectors = torch.tensor([[0.0, 0.0, 1.1]], dtype=torch.float64)
i, j, element = torch.tensor([0]), torch.tensor([1]), torch.tensor([0, 1])
pairs, atoms = (vectors, i, j), (element, torch.zeros(2).long(), torch.zeros(1).double(), None)
print(module(*pairs, *atoms, {"energy": True})["energy"].item())
names = {name.split(".")[0] for name in sys.modules}
assert not names & {"sklearn_soapbpnn", "spex", "sphericart", "numba", "vesin"}, names
"""
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "module.pt"]
    found = float(subprocess.run(command, check=True, capture_output=True, cwd=tmp_path).stdout)
    dimer = molecule[[0, 8]]
    dimer.numbers, dimer.positions = [1, 6], [[0, 0, 0], [0, 0, 1.1]]
    np.testing.assert_allclose(found, model.predict([dimer])[0], rtol=1e-12)


def test_what_cannot_be_exported_is_refused(molecule, monkeypatch):
    structures, y = [molecule] * 2, [0.0, 1.0]
    small = SoapBPNNRegressor(**SMALL)
    with pytest.raises(TypeError, match="ends in a Ridge"):
        convert_model(make_pipeline(SoapFeaturizer(), Ridge()))
    with pytest.raises(ValueError, match="a step FunctionTransformer, which cannot be exported"):
        convert_model(make_pipeline(FunctionTransformer(), small).fit(structures, y))
    charged = SoapBPNNRegressor(**SMALL, long_range=True).fit(structures, y)
    with pytest.raises(ValueError, match="long_range=True cannot be exported"):
        convert_model(charged)
    monkeypatch.setitem(sys.modules, "metatomic", None)
    with pytest.raises(ImportError, match=r"sklearn-soapbpnn\[metatomic\]"):
        export_model(small.fit(structures, y), io.BytesIO())
