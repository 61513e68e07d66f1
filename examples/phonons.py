"""
Phonons
=======

The phonon dispersion of copper from a model, against the method that it was trained on.

Phonons follow from the forces on all atoms when one atom is moved a little. The structures and
labels are made here, with ASE's effective medium theory (EMT) in place of an expensive method.
Takes less than a minute on one core.
"""

# %%
# Structures like those of the calculation
# ----------------------------------------
# The atoms are displaced by 0.02 to 0.15 Angstrom, and the cell is strained by up to two per cent.
# The cells must be larger than twice the cutoff radius, or nearly so: in a small one the images of
# an atom move with it, and the model cannot learn which of them acts. It then has the right
# frequencies at the edges of the Brillouin zone, whose waves fit into the cell, and wrong ones
# inside, some of them imaginary. (Try it, with ``(2, 2, 2)``.)
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.phonons import Phonons

from sklearn_soapbpnn import SoapBPNNRegressor, Targets

LATTICE_CONSTANT = 3.59  # Angstrom, the minimum of EMT
rng = np.random.default_rng(0)


def distort():
    atoms = bulk("Cu", "fcc", a=LATTICE_CONSTANT) * (4, 4, 4)
    strain = rng.uniform(-0.02, 0.02, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(scale=rng.uniform(0.02, 0.15), size=(len(atoms), 3))
    atoms.calc = EMT()
    atoms.get_stress()  # computes energy and forces as well
    return atoms


X = [distort() for _ in range(32)]
y = Targets.from_atoms(X, energy="energy", forces="forces", stress="stress")

# %%
# Double precision, since forces change by little
# -----------------------------------------------
# The stress is learnt as well, since long waves are elastic deformations.
model = SoapBPNNRegressor(
    radial_scale=3.0,
    max_radial=4,
    max_angular=3,
    layernorm=False,  # the density of the neighbours counts, see the parity plot
    batch_size=2,
    num_epochs=60,
    dtype="float64",
    random_state=0,
)
model.fit(X, y)


# %%
# Finite displacements
# --------------------
# ASE moves the atom of the primitive cell in a supercell of 5 x 5 x 5 and keeps the forces in a
# folder, which is temporary here.
def compute_dispersion(calculator):
    atoms = bulk("Cu", "fcc", a=LATTICE_CONSTANT)
    with tempfile.TemporaryDirectory() as folder:
        phonons = Phonons(atoms, calculator, supercell=(5, 5, 5), delta=0.01, name=f"{folder}/Cu")
        phonons.run()
        phonons.read(acoustic=True)
    path = atoms.cell.bandpath("GXUGLWX", npoints=120)
    bands = phonons.get_band_structure(path, verbose=False)
    return path, bands.energies[0] / (4.135667696e-3)  # eV to THz


figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
dispersion = {}
for name, calculator in (("EMT", EMT()), ("model", model.calculator())):
    path, dispersion[name] = compute_dispersion(calculator)
    distance, ticks, labels = path.get_linear_kpoint_axis()
    style = {"EMT": {"color": "0.6", "lw": 3}, "model": {"color": "C3", "lw": 1}}[name]
    lines = axes.plot(distance, dispersion[name], **style)
    lines[0].set_label(name)
axes.set_xticks(ticks, [label.replace("G", "Γ") for label in labels])
axes.grid(axis="x")
axes.set(xlim=(0, ticks[-1]), ylim=(0, None), ylabel="frequency (THz)", xlabel="wave vector")
axes.legend()
plt.show()

# %%
# Errors
# ------
# Frequencies are second derivatives of the energy, of which the model has never seen one.
error = dispersion["model"] - dispersion["EMT"]
print(f"Largest frequency: {dispersion['EMT'].max():.2f} THz (EMT)")
print(f"Root mean square error: {np.sqrt(np.mean(error**2)):.3f} THz")
