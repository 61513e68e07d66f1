"""
Distillation of another calculator
==================================

A model learns a calculator of ASE in a few rounds, and chooses itself what it wants to be taught.

In each round the model runs molecular dynamics, the frames that it knows least about are labelled,
and it is trained again. The teacher is ASE's effective medium theory (EMT), which runs in a second
what takes others a night; any calculator of ASE can stand in its place. Takes less than a minute on
one core.
"""

# %%
# The teacher, and the first lesson
# ---------------------------------
# The system is a random alloy of copper and gold at 800 K. A few crystals whose atoms are displaced
# at random are the first training data.
import time

import matplotlib.pyplot as plt
import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import chemical_symbols
from ase.geometry import get_distances
from ase.md.langevin import Langevin

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.selection import select_batch

rng = np.random.default_rng(0)
crystal = bulk("Cu", "fcc", a=3.9, cubic=True) * (2, 2, 2)
crystal.symbols[rng.permutation(len(crystal))[:16]] = "Au"


def label(frames):
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_forces()
    return Targets.from_atoms(frames, energy="energy", forces="forces")


def rattle():
    atoms = crystal.copy()
    atoms.positions += rng.normal(scale=rng.uniform(0.05, 0.25), size=(len(atoms), 3))
    return atoms


def train(frames):
    model = SoapBPNNRegressor(
        radial_scale=3.0,
        max_radial=4,
        max_angular=2,
        num_epochs=50,
        learning_rate=2e-3,
        random_state=0,
    )
    return model.fit(frames, label(frames))


def simulate(calculator, seed, atoms=crystal, n_steps=300, temperature=800):
    """Return every tenth frame of molecular dynamics."""
    atoms = atoms.copy()
    atoms.calc = calculator
    rng = np.random.default_rng(seed)
    widths = np.sqrt(atoms.get_masses() * temperature * units.kB)
    atoms.set_momenta(widths[:, None] * rng.normal(size=(len(atoms), 3)))
    options = {"temperature_K": temperature, "friction": 0.02 / units.fs, "fixcm": False}
    dynamics = Langevin(atoms, 4 * units.fs, rng=rng, **options)
    frames = []
    dynamics.attach(lambda: frames.append(atoms.copy()), interval=10)
    dynamics.run(n_steps)
    return frames


# %%
# Rounds of learning
# ------------------
# The errors are those in the teacher's own dynamics, which one would not have otherwise: they show
# that rounds are needed, since displacements at random are not those of a simulation. Most is
# learnt in the first round; the errors after the others differ by little more than chance.
test = simulate(EMT(), seed=100)
known = np.concatenate(label(test)["forces"])


def print_error(model):
    error = np.concatenate(model.predict(test, targets=["forces"])["forces"]) - known
    print(f"  {len(frames)} labels {1e3 * np.sqrt(np.mean(error**2)):8.0f}")


frames = [rattle() for _ in range(20)]
model = train(frames)
print("Root mean square errors of the forces, meV/Angstrom")
print(f"  without a model {1e3 * np.sqrt(np.mean(known**2)):4.0f}")
print_error(model)
for seed in (1, 2, 3):
    pool = simulate(model.calculator(), seed)
    frames += [pool[k] for k in select_batch(model, pool, 12)]
    model = train(frames)
    print_error(model)

# %%
# The pupil at work
# -----------------
# Distances between atoms in a larger crystal, from both dynamics. They start alike and soon differ,
# as all chaotic trajectories do, but averages agree if the model is right. Gold atoms are larger.
# EMT is so fast that little time is saved; it would be much with a teacher that solves for
# electrons.
large = crystal * (2, 1, 1)
edges = np.linspace(2, 3.9, 39)
middle = (edges[1:] + edges[:-1]) / 2
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
print(f"Seconds for a step of {len(large)} atoms")
for name, calculator, style in (("EMT", EMT(), "-"), ("model", model.calculator(), "--")):
    start = time.perf_counter()
    frames = simulate(calculator, 7, large)
    print(f"  {name:6} {(time.perf_counter() - start) / 300:.4f}")
    for color, first, second in (("C1", 29, 29), ("C2", 29, 79), ("C0", 79, 79)):
        counts = 0
        for atoms in frames[10:]:
            one, two = (atoms.positions[atoms.numbers == z] for z in (first, second))
            _, distances = get_distances(one, two, cell=atoms.cell, pbc=True)
            counts = counts + np.histogram(distances, edges)[0] / (len(one) * len(two))
        density = counts / len(frames[10:]) * atoms.get_volume() / (4 * np.pi * middle**2)
        label_ = f"{chemical_symbols[first]}-{chemical_symbols[second]}, {name}"
        axes.plot(middle, density / np.diff(edges), style, color=color, label=label_)
axes.set(xlabel="distance (Å)", ylabel="radial distribution function")
axes.legend()
plt.show()
