"""Simulations with LAMMPS: in the process of the tests, and in several that mpirun starts."""

import pickle
import sys
from pathlib import Path

import numpy as np

from sklearn_soapbpnn.interfaces.lammps import SoapBPNNPair, start_lammps

BAR = 1.6021765e6  # of LAMMPS, in eV / Angstrom^3
PRESSURE = ["pxx", "pyy", "pzz", "pyz", "pxz", "pxy"]  # in the order of ASE
QUIET = ["-log", "none", "-screen", "none", "-nocite"]


def build(lmp, atoms, pair, fix="soap"):
    """Put atoms into LAMMPS, whose cell has to be lower triangular, and attach a model."""
    (a, _, _), (xy, b, _), (xz, yz, c) = atoms.cell.array.tolist()
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    lmp.commands_list(
        [
            "clear",
            "units metal",
            "atom_modify map array",
            "box tilt large",
            f"boundary {boundary}",
            f"region all prism 0 {a} 0 {b} 0 {c} {xy} {xz} {yz}",
            f"create_box {len(pair.elements)} all",
            *(f"mass {k + 1} 20" for k in range(len(pair.elements))),
        ]
    )
    types = [1 + pair.elements.index(symbol) for symbol in atoms.symbols]
    ids = list(range(1, len(atoms) + 1))
    lmp.create_atoms(len(atoms), ids, types, atoms.positions.ravel().tolist())
    pair.attach(lmp, fix)
    lmp.command("compute energies all pe/atom")
    lmp.command("thermo_style custom step pe etotal press vol " + " ".join(PRESSURE))


def read(lmp):
    """Return what LAMMPS knows after a run, in ASE's units and in the order of the IDs."""
    order = np.argsort(lmp.gather_atoms_concat("id", 0, 1))
    per_atom = {
        "forces": np.reshape(lmp.gather_atoms_concat("f", 1, 3), (-1, 3)),
        "positions": np.reshape(lmp.gather_atoms_concat("x", 1, 3), (-1, 3)),
        "energies": np.array(lmp.gather_concat("c_energies", 1, 1)),
    }
    stress = -np.array([lmp.get_thermo(name) for name in PRESSURE]) / BAR
    numbers = {"energy": lmp.get_thermo("pe"), "stress": stress}
    return {name: values[order] for name, values in per_atom.items()} | numbers


def evaluate(lmp, atoms, pair):
    build(lmp, atoms, pair)
    lmp.command("run 0")
    return read(lmp)


def move(lmp, atoms, pair):
    """Let atoms move fast, so that they cross the borders of processes; then take some away."""
    build(lmp, atoms, pair)
    lmp.commands_list(["velocity all create 5000 1 loop geom", "fix nve all nve", "run 0"])
    before = set(lmp.numpy.extract_atom("id")[: lmp.extract_setting("nlocal")].tolist())
    lmp.command("run 60")
    after = set(lmp.numpy.extract_atom("id")[: lmp.extract_setting("nlocal")].tolist())
    moved = read(lmp)
    lmp.commands_list(["group some id 2:50:5", "delete_atoms group some compress no", "run 5"])
    return moved, read(lmp), len(before ^ after)


def main(folder):
    """Do what the tests have left in a folder, and leave the results there."""
    single, moving = pickle.loads(Path(folder, "input.pickle").read_bytes())
    lmp = start_lammps(QUIET)
    results = {
        key: evaluate(lmp, atoms, SoapBPNNPair(Path(folder, file), elements))
        for key, (atoms, file, elements) in single.items()
    }
    atoms, file, elements = moving
    *results["moving"], n_crossed = move(lmp, atoms, SoapBPNNPair(Path(folder, file), elements))
    rank = lmp.extract_setting("world_rank")
    Path(folder, f"output{rank}.pickle").write_bytes(pickle.dumps((results, n_crossed)))
    lmp.close()


if __name__ == "__main__":
    main(sys.argv[1])
