"""LAMMPS gives what the ASE calculator gives, on any number of processes."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.build import molecule as build_molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from lammps_worker import BAR, build, evaluate, move, read
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    ZBLBaseline,
)
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator
from sklearn_soapbpnn.interfaces.lammps import SoapBPNNPair, main

WORKER = Path(__file__).with_name("lammps_worker.py")
SMALL = {"max_radial": 2, "max_angular": 2, "cutoff_radius": 4.0, "dtype": "float64"}
OPTIONS = {
    "orthogonal": {},
    "zbl": {"zbl": True},
    "alchemical": {"species_encoding": "alchemical"},
}


def lower_triangular(atoms, pbc=True):
    """Return atoms whose cell is one of LAMMPS, and inside it."""
    atoms = atoms.copy()
    cell, _ = atoms.cell.standard_form()
    atoms.set_cell(cell, scale_atoms=True)
    atoms.pbc = pbc
    atoms.wrap()
    return atoms


@pytest.fixture(scope="module")
def cases(shipped_alloys):
    """Structures of every kind in a box."""
    ethanol = build_molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=0)
    # in a corner: most processes have no atoms
    boxed = Atoms(
        ethanol.numbers, ethanol.positions - ethanol.positions.min(0) + 1.0, cell=[15.0] * 3
    )
    skewed = ethanol.copy()
    skewed.set_cell([[4.0, 0.0, 0.0], [1.5, 4.2, 0.0], [-0.8, 0.9, 4.5]])
    single = Atoms("C", cell=[[2.0, 0.1, 0.0], [0.3, 2.1, 0.2], [0.1, 0.0, 2.2]])
    silicon = bulk("Si", cubic=True) * (2, 2, 2)
    silicon.rattle(0.1, seed=0)
    slab = fcc111("Cu", (2, 3, 3), vacuum=3.0)
    slab.rattle(0.1, seed=0)
    slab.numbers[::4] = 79
    slab = lower_triangular(slab, [True, True, False])
    return {
        "molecule": boxed,
        "silicon": lower_triangular(silicon),
        "alloy": lower_triangular(shipped_alloys[0][2]),
        "skewed": lower_triangular(skewed),
        "slab": slab,
        "one atom": lower_triangular(single),
    }


@pytest.fixture(scope="module")
def models(cases, tmp_path_factory):
    """Meaningless models of all elements, and the folder of their files."""
    frames = list(cases.values())
    energies = np.random.default_rng(0).normal(size=len(frames))
    folder, models = tmp_path_factory.mktemp("models"), {}
    for name, options in OPTIONS.items():
        model = SoapBPNNRegressor(**SMALL, **options, num_epochs=2, random_state=0)
        models[name] = model.fit(frames, energies)
        model.save(folder / f"{name}.safetensors")
    return models, folder


@pytest.fixture(scope="module")
def metal(shipped_alloys):
    """Copper and gold that behave like crystals."""
    (X, y), options = shipped_alloys, {**SMALL, "max_radial": 3}
    return SoapBPNNRegressor(**options, num_epochs=15, random_state=0).fit(X[:60], y[:60])


@pytest.fixture(scope="module")
def cesium(models):
    """Large atoms: their ZBL repulsion reaches further than the descriptor."""
    atoms = bulk("Cs", a=4.5, cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=0)
    atoms.wrap()
    options = {**SMALL, "cutoff_radius": 2.5, "zbl": True}
    model = SoapBPNNRegressor(**options, num_epochs=1).fit([atoms] * 2, [0.0, 1.0])
    model.save(models[1] / "cesium.safetensors")
    assert SoapBPNNPair(model, ["Cs"]).cutoff > 4
    return atoms, model


def expect(atoms, model):
    """Return what ASE gives."""
    atoms = atoms.copy()
    atoms.calc = SoapBPNNCalculator(model)
    names = ("energy", "energies", "forces", "stress")
    return {name: atoms.calc.get_property(name, atoms) for name in names}


def assert_equal(found, expected):
    for name, values in expected.items():
        # LAMMPS's constant of the pressure has eight digits
        tolerance = 1e-7 if name == "stress" else 1e-10
        scale = max(1.0, np.abs(values).max())
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * scale)


def list_elements(atoms):
    return sorted(set(atoms.symbols))


def moving_atoms(cases):
    return cases["silicon"], "zbl.safetensors", ["Si"]


# --- one process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("case", ["molecule", "silicon", "alloy", "skewed", "slab", "one atom"])
def test_equals_ase(simulation, cases, models, option, case):
    atoms, model = cases[case], models[0][option]
    found = evaluate(simulation, atoms, SoapBPNNPair(model, list_elements(atoms)))
    expected = expect(atoms, model)
    assert np.abs(expected["stress"]).max() > 1e-8
    assert_equal(found, expected)


def test_pipeline_and_order_of_types(simulation, cases):
    atoms = cases["alloy"]
    frames, y = [atoms, cases["slab"]], [0.0, 1.0]
    network = SoapBPNNRegressor(dtype="float64", num_epochs=2)
    descriptor = SoapFeaturizer(**{k: v for k, v in SMALL.items()})
    pipe = make_pipeline(ZBLBaseline(), CompositionBaseline(), descriptor, network).fit(frames, y)
    for elements in (["Cu", "Au"], ["Au", "Cu", "Cu"]):
        assert_equal(evaluate(simulation, atoms, SoapBPNNPair(pipe, elements)), expect(atoms, pipe))
    with pytest.raises(ValueError, match=r"Use the whole Pipeline: SoapBPNNPair\(pipe\)"):
        SoapBPNNPair(pipe[-1], ["Cu", "Au"])


def test_energy_is_conserved(simulation, metal):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    build(simulation, atoms, SoapBPNNPair(metal, ["Cu"]))
    simulation.commands_list(["velocity all create 600 1", "fix nve all nve", "run 0"])
    energies = []
    for _ in range(20):
        simulation.command("run 10 post no")
        energies.append(simulation.get_thermo("etotal") / len(atoms))
    potential = simulation.get_thermo("pe") / len(atoms)
    assert potential - metal.predict([atoms])[0] / len(atoms) > 0.02  # it did move
    assert np.ptp(energies) < 5e-5


def test_minimum_is_that_of_ase(simulation, metal):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.numbers[:5] = 79
    atoms.rattle(0.1, seed=0)
    build(simulation, atoms, SoapBPNNPair(metal, ["Cu", "Au"]))
    simulation.commands_list(["minimize 0 1e-5 1000 1000"])
    found = read(simulation)
    atoms.calc = SoapBPNNCalculator(metal)
    BFGS(atoms, logfile=None).run(fmax=1e-5)
    assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    assert np.abs(found["forces"]).max() < 1e-5


def test_cell_at_the_minimum_is_that_of_ase(simulation, metal):
    """The pressure is one of the forces of this minimisation."""
    atoms = bulk("Cu", cubic=True, a=3.8)
    build(simulation, atoms, SoapBPNNPair(metal, ["Cu"]))
    simulation.commands_list(["fix box all box/relax iso 10000 vmax 0.01", "minimize 0 0 500 500"])
    assert simulation.get_thermo("press") == pytest.approx(10000, abs=50)
    atoms.calc = SoapBPNNCalculator(metal)
    BFGS(FrechetCellFilter(atoms, scalar_pressure=10000 / BAR), logfile=None).run(fmax=1e-5)
    assert simulation.get_thermo("vol") == pytest.approx(atoms.get_volume(), rel=1e-4)


def test_barostat_holds_the_pressure(simulation, metal):
    atoms = bulk("Cu", cubic=True, a=3.75) * (2, 2, 2)
    build(simulation, atoms, SoapBPNNPair(metal, ["Cu"]))
    start = "velocity all create 600 1"
    simulation.commands_list(
        [start, "fix npt all npt temp 300 300 0.05 iso 5000 5000 0.1", "run 0"]
    )
    assert abs(simulation.get_thermo("press")) > 50000
    simulation.command("run 250")
    pressures = []
    for _ in range(50):
        simulation.command("run 5 post no")
        pressures.append(simulation.get_thermo("press"))
    assert np.mean(pressures) == pytest.approx(5000, abs=5000)


def test_rerun_equals_the_run(simulation, cases, models, tmp_path):
    atoms, pair = cases["silicon"], SoapBPNNPair(models[0]["orthogonal"], ["Si"])
    build(simulation, atoms, pair)
    dump = f"dump 1 all custom 5 {tmp_path}/dump id type x y z"
    simulation.commands_list(["velocity all create 900 1", "fix nve all nve", dump])
    simulation.commands_list(["dump_modify 1 format float %.16g", "run 10", "undump 1"])
    before = read(simulation)
    simulation.command(f"rerun {tmp_path}/dump last 10 dump x y z")
    assert simulation.get_thermo("pe") == pytest.approx(before["energy"], abs=1e-10)


def test_fixes_that_come_later_have_the_last_word(simulation, cases, models):
    build(simulation, cases["silicon"], SoapBPNNPair(models[0]["zbl"], ["Si"]))
    simulation.commands_list(["group frozen id 1:10", "fix freeze frozen setforce 0 0 0", "run 0"])
    forces = read(simulation)["forces"]
    assert not forces[:10].any()
    assert forces[10:].all()


@pytest.mark.parametrize("unfix", [True, False], ids=["removed", "replaced"])
def test_another_model_takes_over(simulation, cases, models, unfix):
    atoms, (first, second) = cases["silicon"], (models[0]["zbl"], models[0]["alchemical"])
    build(simulation, atoms, SoapBPNNPair(first, ["Si"]))
    simulation.command("run 0")
    if unfix:
        simulation.command("unfix soap")
    SoapBPNNPair(second, ["Si"]).attach(simulation)
    simulation.command("run 0")
    assert_equal(read(simulation), expect(atoms, second))


# --- several processes ---------------------------------------------------------------------------


N_RANKS = 4  # two run the driver below


@pytest.fixture(scope="module")
def parallel(cases, models, cesium):
    """What the worker finds, and how many atoms crossed to and from each of its processes."""
    single = {
        (option, case): (atoms, f"{option}.safetensors", list_elements(atoms))
        for option in OPTIONS
        for case, atoms in cases.items()
    }
    single["cesium"] = (cesium[0], "cesium.safetensors", ["Cs"])
    folder = models[1]
    (folder / "input.pickle").write_bytes(pickle.dumps((single, moving_atoms(cases))))
    ran = run_ranks(N_RANKS, WORKER, folder)
    assert ran.returncode == 0, ran.stderr
    outputs = [
        pickle.loads((folder / f"output{rank}.pickle").read_bytes()) for rank in range(N_RANKS)
    ]
    return outputs[0][0], [n_crossed for _, n_crossed in outputs]


def run_ranks(n_ranks, *arguments):
    """Run Python in several processes."""
    command = [f"{sys.prefix}/bin/mpirun", "-n", n_ranks, sys.executable, "-W", "error", *arguments]
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_processes_equal_ase(parallel, cases, models, option):
    for case, atoms in cases.items():
        assert_equal(parallel[0][option, case], expect(atoms, models[0][option]))


def test_ghosts_reach_as_far_as_the_repulsion(simulation, parallel, cesium):
    atoms, model = cesium
    expected = expect(atoms, model)
    assert_equal(parallel[0]["cesium"], expected)
    assert_equal(evaluate(simulation, atoms, SoapBPNNPair(model, ["Cs"])), expected)


def test_atoms_move_between_processes(simulation, parallel, cases, models):
    atoms, file, elements = moving_atoms(cases)
    *expected, _ = move(simulation, atoms, SoapBPNNPair(models[1] / file, elements))
    assert min(parallel[1]) > 2
    assert [len(after["forces"]) for after in expected] == [64, 54]
    for found, wanted in zip(parallel[0]["moving"], expected):
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-8)


# --- the driver ----------------------------------------------------------------------------------

SCRIPT = """
units metal
lattice diamond 5.43
region box block 0 2 0 2 0 2
create_box 1 box
create_atoms 1 box
mass 1 28.0855
displace_atoms all random 0.1 0.1 0.1 1
fix soap all external pf/callback 1 1   # the model
thermo_style custom step pe
thermo_modify format float %.15g
label again
variable i loop 2
run 0
write_dump all custom ${name}$i x y z modify sort id format float %.16g
displace_atoms all random 0.05 0.05 0.05 2
next i
jump SELF again
"""


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_driver_runs_scripts(models, tmp_path, n_ranks):
    """Loops work, and options of LAMMPS are passed on."""
    script, log = tmp_path / "in.silicon", tmp_path / "log"
    script.write_text(SCRIPT)
    arguments = [script, "--model", models[1] / "zbl.safetensors", "--elements", "Si"]
    arguments += ["-var", "name", tmp_path / "dump", "-log", log, "-screen", "none"]
    if n_ranks == 1:
        main([str(word) for word in arguments])
    else:
        ran = run_ranks(n_ranks, "-m", "sklearn_soapbpnn.interfaces.lammps", *arguments)
        assert ran.returncode == 0, ran.stderr
    energies = re.findall(r"Step +PotEng *\n +0 +(\S+)", log.read_text())
    assert len(set(energies)) == 2
    for k, energy in enumerate(energies):
        positions = np.loadtxt(tmp_path / f"dump{k + 1}", skiprows=9)
        atoms = Atoms("Si64", positions, cell=[10.86] * 3, pbc=True)
        assert float(energy) == pytest.approx(models[0]["zbl"].predict([atoms])[0])


def test_driver_needs_the_line_of_the_fix(models, tmp_path):
    script = tmp_path / "in.silicon"
    script.write_text(SCRIPT.replace("pf/callback", "pf/array"))
    arguments = [script, "--model", models[1] / "zbl.safetensors", "--elements", "Si"]
    with pytest.raises(ValueError, match="has no line `fix soap all external pf/callback 1 1`"):
        main([*map(str, arguments), "-screen", "none", "-log", "none"])


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_driver_ends_with_errors_of_the_model(models, tmp_path, n_ranks):
    """Of several processes, only one has the atoms that the model refuses."""
    script = tmp_path / "in.silicon"
    text = SCRIPT.replace("displace_atoms all random 0.1 0.1 0.1 1", "create_atoms 1 single 0 0 0")
    script.write_text(text)
    arguments = [script, "--model", models[1] / "zbl.safetensors", "--elements", "Si"]
    arguments += ["-var", "name", tmp_path / "dump", "-screen", "none", "-log", "none"]
    if n_ranks == 1:
        with pytest.raises(ValueError, match="at the same place"):
            main([str(word) for word in arguments])
    else:
        ran = run_ranks(n_ranks, "-m", "sklearn_soapbpnn.interfaces.lammps", *arguments)
        assert ran.returncode != 0
        assert "at the same place" in ran.stderr


# --- what is refused -----------------------------------------------------------------------------


def test_errors_end_the_run(simulation, cases, models):
    pair = SoapBPNNPair(models[0]["zbl"], ["Si"])
    build(simulation, cases["silicon"], pair)
    simulation.commands_list(["fix nve all nve", "run 0"])
    simulation.command("set atom 2 x 0.1 y 0.1 z 0.1")
    simulation.command("set atom 3 x 0.1 y 0.1 z 0.1")
    with pytest.raises(Exception, match="had an error .*at the same place"):
        simulation.command("run 1000000")
    assert isinstance(pair.error, ValueError)
    simulation.command("timer timeout off")
    assert_equal(
        evaluate(simulation, cases["silicon"], pair), expect(cases["silicon"], models[0]["zbl"])
    )


def test_ghosts_have_to_reach_as_far_as_the_model(simulation, cases, models):
    build(simulation, cases["silicon"], SoapBPNNPair(models[0]["zbl"], ["Si"]))
    simulation.commands_list(["pair_style zero 2.0", "pair_coeff * *"])
    with pytest.raises(Exception, match="cutoff plus skin 6 exceeds ghost atom range 4"):
        simulation.command("run 0")
    simulation.commands_list(["comm_modify cutoff 6.0", "run 0"])
    assert_equal(read(simulation), expect(cases["silicon"], models[0]["zbl"]))


def test_wrong_simulations(simulation, models):
    pair = SoapBPNNPair(models[0]["zbl"], ["Si", "Cu"])
    simulation.commands_list(["clear", "units real"])
    with pytest.raises(ValueError, match="`units real`.*Write `units metal`"):
        pair.attach(simulation)
    simulation.commands_list(["clear", "units metal"])
    with pytest.raises(ValueError, match="no simulation box yet"):
        pair.attach(simulation)
    simulation.commands_list(["region all block 0 1 0 1 0 1", "create_box 3 all"])
    with pytest.raises(ValueError, match=r"3 atom types, but elements=\['Si', 'Cu'\] names 2"):
        pair.attach(simulation)


def test_wrong_elements(models):
    for elements in (["Si", "Fe"], ["Si", "silicon"], []):
        with pytest.raises(ValueError, match=r"elements=.*which are \['Au', 'C', 'Cu', 'H', 'O'"):
            SoapBPNNPair(models[0]["zbl"], elements)


def test_wrong_models(cases):
    frames = [cases["skewed"], cases["molecule"]]
    fitted = SoapBPNNRegressor(**SMALL, num_epochs=1, long_range=True).fit(frames, [0.0, 1.0])
    with pytest.raises(ValueError, match="long_range=True: its energies depend on all atoms"):
        SoapBPNNPair(fitted, ["C"])
    y = Targets(kinds={"gap": TargetKind.scalar(intensive=True)}, gap=np.arange(2.0))
    with pytest.raises(ValueError, match="needs the energy"):
        SoapBPNNPair(SoapBPNNRegressor(**SMALL, num_epochs=1).fit(frames, y), ["C"])
    y = Targets(kinds={"energy": TargetKind.scalar(unit="kcal/mol")}, energy=np.arange(2.0))
    with pytest.raises(ValueError, match="energies in kcal/mol, but SoapBPNNPair works in eV"):
        SoapBPNNPair(SoapBPNNRegressor(**SMALL, num_epochs=1).fit(frames, y), ["C"])
    with pytest.raises(TypeError, match="it ends in a ZBLBaseline"):
        SoapBPNNPair(ZBLBaseline().fit(frames), ["C"])
