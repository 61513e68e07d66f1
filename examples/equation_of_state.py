"""
Equation of state and cell relaxation
=====================================

Lattice constant, bulk modulus and stress of ordered copper-gold crystals from a model.

The model is trained on strained crystals that ASE's effective medium theory (EMT) labels, in place
of an expensive method, so that every property it predicts can be compared with the exact one. Takes
less than a minute on one core.
"""

# %%
# Strained crystals
# -----------------
# In CuAu (L1\ :sub:`0`) layers of copper and gold alternate, so that its cell is tetragonal;
# Cu\ :sub:`3`\ Au (L1\ :sub:`2`) is cubic. A model knows of stress only what it has seen: cells in
# the data are larger and smaller, stretched and sheared by several per cent, more than those that
# it will be asked for. Atoms are displaced, too.
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

from sklearn_soapbpnn import SoapBPNNRegressor, Targets

rng = np.random.default_rng(0)


def build(name):
    atoms = bulk("Cu", "fcc", a=3.85, cubic=True)
    gold = atoms.positions[:, 2] > 1 if name == "CuAu" else atoms.positions.sum(1) < 1
    atoms.symbols[gold] = "Au"
    return atoms


def distort(atoms):
    atoms = atoms * (1, 1, 2)
    strain = rng.uniform(-0.03, 0.03, (3, 3)) + np.diag(rng.uniform(-0.08, 0.08, 3))
    strain += rng.uniform(-0.06, 0.03) * np.eye(3)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
    atoms.calc = EMT()
    atoms.get_stress()  # computes energy and forces as well
    return atoms


X = [distort(build(name)) for name in 120 * ["CuAu", "Cu3Au"]]
y = Targets.from_atoms(X, energy="energy", forces="forces", stress="stress")

# %%
# Train on energies, forces and stresses
# --------------------------------------
model = SoapBPNNRegressor(
    radial_scale=3.0,
    max_radial=4,
    max_angular=2,
    layernorm=False,  # the density of the neighbours counts, see the parity plot
    num_epochs=40,
    learning_rate=2e-3,
    dtype="float64",  # small differences of energies
    random_state=0,
)
model.fit(X, y)


# %%
# Relaxation of positions and cell
# --------------------------------
# From a cubic cell to a tetragonal one, if the stress says so.
def relax(name, calculator):
    atoms = build(name)
    atoms.calc = calculator
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)
    return atoms


# %%
# Equation of state
# -----------------
# The relaxed cell is scaled, which keeps the ratio of its edges. The curve is the equation of
# Birch and Murnaghan, whose curvature at the minimum is the bulk modulus.
def scan(atoms):
    volumes, energies = [], []
    for strain in np.linspace(-0.03, 0.03, 13):
        strained = atoms.copy()
        strained.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
        strained.calc = atoms.calc
        volumes.append(strained.get_volume() / len(atoms))
        energies.append(strained.get_potential_energy() / len(atoms))
    state = EquationOfState(volumes, energies, eos="birchmurnaghan")
    state.fit()
    return state


figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
print("               a (Angstrom)    c/a    bulk modulus (GPa)")
relaxed = {}
for color, name in (("C0", "CuAu"), ("C1", "Cu3Au")):
    for method, calculator, marker in (("EMT", EMT(), "o"), ("model", model.calculator(), "x")):
        atoms = relaxed[name, method] = relax(name, calculator)
        a, _, c = atoms.cell.lengths()
        state = scan(atoms)
        print(f"{name:6} {method:6}{a:12.3f}{c / a:10.3f}{state.B / GPa:14.0f}")
        label = {"color": color, "label": f"{name}, {method}"}
        axes.plot(state.v, 1e3 * np.array(state.e), marker, mfc="none", **label)
    fine = np.linspace(min(state.v), max(state.v), 100)
    axes.plot(fine, 1e3 * state.func(fine, *state.eos_parameters), color=color, lw=1)
axes.set(xlabel="volume (Å$^3$/atom)", ylabel="energy (meV/atom)")
figure.legend(loc="outside right center")
plt.show()

# %%
# Stress
# ------
# Tension along one axis of the relaxed crystal: the stress is positive, as in ASE, and its slope is
# an elastic constant.
print("Stress of CuAu, strained by 1 % along z, in GPa (xx, yy, zz)")
for method, calculator in (("EMT", EMT()), ("model", model.calculator())):
    atoms = relaxed["CuAu", method].copy()
    atoms.set_cell(atoms.cell * [1, 1, 1.01], scale_atoms=True)
    atoms.calc = calculator
    print(f"  {method:6}", (atoms.get_stress()[:3] / GPa).round(2))
