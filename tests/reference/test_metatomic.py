"""Exported models give the same numbers in the engines of metatomic."""

import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.units import kcal, mol

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator

pytest.importorskip("metatomic_ase", reason="the extra `bench` installs metatomic")
pytestmark = [
    pytest.mark.metatrain,
    pytest.mark.filterwarnings("ignore"),  # metatomic's own
]

SMALL = {"max_radial": 3, "max_angular": 3, "dtype": "float64", "num_epochs": 2, "random_state": 0}
SILICON = bulk("Si", cubic=True) * (2, 2, 2)
SILICON.rattle(0.1, seed=0)


@pytest.fixture(params=["orthogonal", "alchemical"])
def encoding(request):
    return request.param


@pytest.fixture(params=["organic", "silicon", "alloy"])
def model(request, encoding, structures, shipped_alloys):
    """A model with ZBL, and the structures that it was fitted on."""
    if request.param != "organic":
        structures = [SILICON] if request.param == "silicon" else shipped_alloys[0][:3]
    rng = np.random.default_rng(0)
    energies = [rng.normal() - 10.0 * len(atoms) for atoms in structures] * 3
    regressor = SoapBPNNRegressor(**SMALL, zbl=True, species_encoding=encoding)
    return regressor.fit(structures * 3, energies), [atoms.copy() for atoms in structures]


@pytest.fixture(scope="module")
def many(shipped_molecules):
    """A model of many targets, with error bars."""
    X, y = shipped_molecules
    X, rng = X[:30], np.random.default_rng(0)
    kinds = {
        "dipole": TargetKind.vector(unit="e Angstrom"),
        "tensor": TargetKind.tensor(unit="odd"),
        "spherical": TargetKind.spherical([(0, 1, 2), (2, 1)]),
        "gap": TargetKind.scalar(intensive=True, unit="eV"),
    }
    y = Targets(
        energy=y["energy"][:30],
        charges=[rng.normal(size=len(atoms)) for atoms in X],
        non_conservative_forces=y["forces"][:30],
        non_conservative_stress=[np.eye(3) * rng.normal() for _ in X],
        **{name: rng.normal(size=(30, *kind.shape)) for name, kind in kinds.items()},
        kinds=kinds,
    )
    X = [atoms.copy() for atoms in X]
    for atoms in X:
        atoms.set_cell([12.0, 13.0, 14.0])
        atoms.pbc = True
    return SoapBPNNRegressor(**SMALL).fit(X, y), X


def evaluate(path, structures, outputs=None, per_atom=False, selected=None):
    """Evaluate an exported model with all checks of metatomic: all outputs, or some."""
    from metatensor.torch import Labels
    from metatomic.torch import (
        ModelEvaluationOptions,
        ModelOutput,
        load_atomistic_model,
        systems_to_torch,
    )
    from vesin.metatomic import neighbor_lists_for_model

    model = load_atomistic_model(path)
    dtype = getattr(torch, model.capabilities().dtype)
    systems = systems_to_torch(structures, dtype=dtype)
    for neighbors in neighbor_lists_for_model("A", model):
        for system in systems:
            neighbors.add_neighbor_list(system)
    wanted = {}
    for name, output in model.capabilities().outputs.items():
        can_sum = name not in ("feature", "charge", "non_conservative_force")
        if per_atom and output.sample_kind == "system":
            continue
        kind = "system" if can_sum and not per_atom else "atom"
        if name not in ("features", "charges", "non_conservative_forces"):
            wanted[name] = ModelOutput(unit=output.unit, sample_kind=kind)
    if outputs is not None:
        wanted = {name: wanted[name] for name in outputs}
    if selected is not None:
        selected = Labels(["system", "atom"], torch.tensor(selected, dtype=torch.int32))
    options = ModelEvaluationOptions("angstrom", wanted, selected)
    return model(systems, options, check_consistency=True)


def flatten(tensor):
    return np.hstack([block.values.flatten(1).numpy() for block in tensor.blocks()])


def test_metatomics_calculator_agrees_with_ours(model, tmp_path):
    from metatomic_ase import MetatomicCalculator

    model, structures = model
    model.export(tmp_path / "model.pt")
    theirs = MetatomicCalculator(tmp_path / "model.pt", check_consistency=True)
    ours = SoapBPNNCalculator(model)
    # MD computes forces again and again; TorchScript optimises what it runs a second time
    for atoms in [*structures, *structures]:
        found, expected = atoms.copy(), atoms.copy()
        found.calc, expected.calc = theirs, ours
        energy = expected.get_potential_energy()
        np.testing.assert_allclose(found.get_potential_energy(), energy, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.get_forces(), expected.get_forces(), atol=1e-9)
        energies = expected.get_potential_energies()
        np.testing.assert_allclose(found.get_potential_energies(), energies, atol=1e-9)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(found.get_stress(), expected.get_stress(), atol=1e-9)


def test_all_outputs_pass_the_checks_of_metatomic(many, tmp_path):
    model, structures = many
    model.export(tmp_path / "model.pt")
    found = evaluate(tmp_path / "model.pt", structures[:4])
    expected = model.predict(structures[:4], targets=[*model.kinds_, "features"])
    names = {
        "charges": "charge",
        "features": "feature",
        "non_conservative_forces": "non_conservative_force",
    }
    for name in [*model.kinds_, "features"]:
        standard = name in names or name in ("energy", "non_conservative_stress")
        values = flatten(found[names.get(name, name) if standard else f"mtt::{name}"])
        reference = np.concatenate(expected[name]) if name in names else expected[name]
        np.testing.assert_allclose(values, reference.reshape(values.shape), atol=1e-9, err_msg=name)
    _, stds = model.predict(structures[:4], targets=["energy"], return_std=True)
    np.testing.assert_allclose(flatten(found["energy_uncertainty"])[:, 0], stds["energy"], 1e-6)
    blocks = found["mtt::spherical"].blocks()
    assert [block.values.shape[1:] for block in blocks] == [(1, 2), (5, 1)]
    assert found["mtt::tensor"].block().components[1].names == ["xyz_2"]
    units = {name: evaluate_unit(tmp_path / "model.pt", name) for name in ("energy", "mtt::dipole")}
    assert units == {"energy": "eV", "mtt::dipole": "e*Angstrom"}
    assert evaluate_unit(tmp_path / "model.pt", "mtt::tensor") == ""  # metatomic knows no "odd"


def evaluate_unit(path, name):
    from metatomic.torch import load_atomistic_model

    return load_atomistic_model(path).capabilities().outputs[name].unit


def test_energies_in_other_units_are_converted(shipped_alloys, tmp_path):
    from metatomic_ase import MetatomicCalculator

    X, y = shipped_alloys
    factor = mol / kcal
    y = Targets(
        energy=y["energy"][:20] * factor,
        forces=[forces * factor for forces in y["forces"][:20]],
        kinds={"energy": TargetKind.scalar(unit="kcal/mol")},
    )
    model = SoapBPNNRegressor(**SMALL).fit(X[:20], y)
    model.export(tmp_path / "model.pt")
    atoms = X[20].copy()
    expected = model.predict([atoms], targets=["energy", "forces", "stress"])
    atoms.calc = MetatomicCalculator(tmp_path / "model.pt", uncertainty_threshold=None)
    energy, forces, stress = (expected[name][0] / factor for name in expected.names)
    np.testing.assert_allclose(atoms.get_potential_energy(), energy, rtol=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["HOMO-LUMO gap", "2nd", "a.b[c]"])
def test_targets_may_have_any_name(shipped_molecules, tmp_path, name):
    X, y = shipped_molecules
    kinds = {name: TargetKind.scalar(intensive=True)}
    y = Targets(**{name: y["energy"][:20]}, kinds=kinds)
    model = SoapBPNNRegressor(**SMALL).fit(X[:20], y)
    model.export(tmp_path / "model.pt")
    found = evaluate(tmp_path / "model.pt", X[20:23], [f"mtt::{name}"])[f"mtt::{name}"]
    np.testing.assert_allclose(flatten(found)[:, 0], model.predict(X[20:23]), rtol=1e-12)


def test_selected_atoms_of_several_systems(many, tmp_path):
    model, structures = many
    model.export(tmp_path / "model.pt")
    path, structures = tmp_path / "model.pt", structures[:3]
    selected = [[2, 4], [0, 0], [0, 7]]
    everything = evaluate(path, structures, per_atom=True)
    rows = [9 * system + atom for system, atom in selected]
    for name, values in evaluate(path, structures, per_atom=True, selected=selected).items():
        assert values.block(0).samples.values.tolist() == selected
        np.testing.assert_allclose(flatten(values), flatten(everything[name])[rows], atol=1e-9)
    sums = evaluate(path, structures, ["energy", "mtt::gap"], selected=selected)
    energies = flatten(everything["energy"])[rows]
    np.testing.assert_allclose(flatten(sums["energy"]), [energies[1] + energies[2], energies[0]])
    assert sums["energy"].block().samples.values[:, 0].tolist() == [0, 2]
    nothing = evaluate(path, structures, selected=np.empty((0, 2)))
    assert flatten(nothing["energy"]).shape == (0, 1)


def test_a_process_without_this_library_runs_the_file(many, tmp_path):
    model, structures = many
    model.export(tmp_path / "model.pt")
    ase.io.write(tmp_path / "atoms.xyz", [type(structures[0])(structures[0])])
    code = """
import sys
import ase.io
from metatomic_ase import MetatomicCalculator
atoms = ase.io.read("atoms.xyz")
atoms.calc = MetatomicCalculator("model.pt", uncertainty_threshold=None)
print(atoms.get_potential_energy(), abs(atoms.get_forces()).max())
names = {name.split(".")[0] for name in sys.modules}
assert not names & {"sklearn_soapbpnn", "sphericart", "spex", "metatrain"}, names
"""
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    result = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    energy, force = map(float, result.stdout.split())
    atoms = ase.io.read(tmp_path / "atoms.xyz")
    atoms.calc = model.calculator()
    np.testing.assert_allclose(energy, atoms.get_potential_energy(), atol=1e-9)
    np.testing.assert_allclose(force, abs(atoms.get_forces()).max(), atol=1e-9)


def test_extensions_of_other_models_are_not_asked_for(many, tmp_path, monkeypatch):
    """A process that has read an extension of torch exports a file that does not need it."""
    model, _ = many
    monkeypatch.setattr(torch.ops, "loaded_libraries", {torch.__file__})
    model.export(tmp_path / "model.pt")
    extra = {"extensions": ""}
    torch.jit.load(tmp_path / "model.pt", _extra_files=extra)
    assert extra["extensions"] == b"[]"
    assert torch.ops.loaded_libraries == {torch.__file__}


def test_precision_is_that_of_the_model(shipped_molecules, tmp_path):
    X, y = shipped_molecules
    model = SoapBPNNRegressor(**{**SMALL, "dtype": "float32"}).fit(X[:30], y[:30])
    model.export(tmp_path / "model.pt")
    values = evaluate(tmp_path / "model.pt", X[30:33], ["energy"])["energy"].block().values
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values[:, 0], model.predict(X[30:33]), rtol=1e-7)


def test_the_default_device_of_the_process_does_not_matter(shipped_molecules, tmp_path):
    X, y = shipped_molecules
    model = SoapBPNNRegressor(**SMALL).fit(X[:30], y[:30])
    with torch.device("meta"):  # as torch.set_default_device("cuda") would do
        model.export(tmp_path / "model.pt")
    values = flatten(evaluate(tmp_path / "model.pt", X[30:33], ["energy"])["energy"])
    np.testing.assert_allclose(values[:, 0], model.predict(X[30:33]), rtol=1e-12)


def test_metatrain_evaluates_the_file(shipped_molecules, tmp_path):
    X, y = shipped_molecules
    model = SoapBPNNRegressor(**SMALL).fit(X[:30], y[:30])
    model.export(tmp_path / "model.pt")
    frames = [type(atoms)(atoms) for atoms in X[:3]]
    for atoms, energy in zip(frames, y["energy"]):
        atoms.info["label"] = energy
    ase.io.write(tmp_path / "frames.xyz", frames)
    energy = {"key": "label", "unit": "eV", "forces": False, "stress": False}
    options = {"systems": "frames.xyz", "targets": {"energy": energy}}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(options))
    command = [sys.executable, "-m", "metatrain", "eval", "model.pt", "eval.yaml", "-o", "out.xyz"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    found = [atoms.get_potential_energy() for atoms in ase.io.read(tmp_path / "out.xyz", ":")]
    np.testing.assert_allclose(found, model.predict(frames), atol=1e-9)
