"""
Short distances and ZBL
=======================

What a potential says about atoms that are closer to each other than any in its training data.

The data are small clusters of copper and gold with ASE's effective medium theory (EMT), in which no
two atoms are closer than 2.1 Angstrom. Two models are fitted to them, one of which adds the
repulsion of nuclei by Ziegler, Biersack and Littmark (ZBL).
"""

# %%
# Clusters of two to five atoms
# -----------------------------
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT

from sklearn_soapbpnn import SoapBPNNRegressor, Targets, ZBLBaseline
from sklearn_soapbpnn.metrics import summarize_errors

SHORTEST = 2.1  # Angstrom
rng = np.random.default_rng(0)


def draw_cluster():
    """Return random atoms, none too close to another one, and each near another one."""
    n = rng.integers(2, 6)
    while True:
        atoms = Atoms(rng.choice(["Cu", "Au"], size=n), rng.uniform(0, 4.5, size=(n, 3)))
        nearest = (atoms.get_all_distances() + 9 * np.eye(n)).min(axis=0)
        if nearest.min() > SHORTEST and nearest.max() < 3.5:
            return atoms


def label(frames):
    """Return energies and forces of EMT."""
    energy, forces = [], []
    for atoms in frames:
        atoms = atoms.copy()
        atoms.calc = EMT()
        energy.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    return Targets(energy=energy, forces=forces)


X = [draw_cluster() for _ in range(300)]
X_train, X_test = X[:240], X[240:]
y_train, y_test = label(X_train), label(X_test)

# %%
# With and without ZBL
# --------------------
# ZBL is subtracted from the labels before the fit and added to the predictions, so that the
# network learns what is left.
models = {}
print("Root mean square errors of energies per atom, and of forces")
for what, zbl in (("without ZBL", False), ("with ZBL", True)):
    model = SoapBPNNRegressor(max_radial=5, max_angular=3, zbl=zbl, num_epochs=40, random_state=0)
    models[what] = model.fit(X_train, y_train)
    prediction = model.predict(X_test, targets=["energy", "forces"])
    errors = summarize_errors(X_test, y_test, prediction)
    print(
        f"{what:12}{1e3 * errors['energy per atom']['rmse']:5.0f} meV/atom"
        f"{1e3 * errors['forces']['rmse']:5.0f} meV/Angstrom"
    )

# %%
# A dimer
# -------
# Without ZBL the energy is flat where there are no data, so that nothing keeps two atoms apart. ZBL
# is much larger than what the network adds to it there. EMT was not made for these distances
# either. (The energy axis is logarithmic above 10 eV and linear below.)
distances = np.linspace(0.6, 3.4, 141)
dimers = [Atoms("Cu2", [[0, 0, 0], [0, 0, r]]) for r in distances]
figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
for (what, model), color in zip(models.items(), ("C3", "C0")):
    axes.plot(distances, model.predict(dimers), color=color, label=what)
nuclei = ZBLBaseline().fit_transform(dimers).offset["energy"]
axes.plot(distances, nuclei, color="0.6", ls=":", label="ZBL alone")
axes.plot(distances, label(dimers)["energy"], color="black", ls="--", lw=1, label="EMT")
axes.axvspan(distances[0], SHORTEST, color="0.93", label="no training data")
axes.set_yscale("symlog", linthresh=10)
axes.set(xlim=distances[[0, -1]], xlabel="distance (Å)", ylabel="energy of Cu$_2$ (eV)")
axes.legend()
plt.show()
