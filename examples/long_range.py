"""
Charges beyond the cutoff
=========================

What ``long_range=True`` adds: an ion and a molecule beyond the cutoff still feel each other.

The data are pairs of a sodium ion and a water molecule with three point charges. Their energy is a
closed formula, the electrostatic energy of the charges and a short repulsion, so that the right
answer is known at every distance. (``long_range=True`` needs torch-pme: ``pip install
"sklearn_soapbpnn[long-range]"``.)
"""

# %%
# An ion and a water molecule
# ---------------------------
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.units import _e, _eps0, pi

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.metrics import summarize_errors

CUTOFF = 4.0  # Angstrom
CHARGES = {"Na": 1.0, "O": -0.834, "H": 0.417}
COULOMB = _e / (4 * pi * _eps0) * 1e10  # eV Angstrom
rng = np.random.default_rng(0)


def place_ion(distance, direction):
    """Return water with an ion at a distance from its oxygen."""
    water = molecule("H2O")
    return water + Atoms("Na", [water.positions[0] + distance * direction])


def compute_energy(atoms):
    """Return the energy in eV of the ion in the field of the molecule."""
    *others, ion = atoms
    distances = np.array([np.linalg.norm(atom.position - ion.position) for atom in others])
    charges = np.array([CHARGES[atom.symbol] for atom in others])
    repulsion = 2000.0 * np.exp(-distances / 0.3)
    return np.sum(COULOMB * charges / distances + repulsion)


def draw_direction():
    direction = rng.normal(size=3)
    return direction / np.linalg.norm(direction)


X = [place_ion(rng.uniform(2.2, 9.0), draw_direction()) for _ in range(700)]
X = [atoms for atoms in X if atoms.get_distances(3, [0, 1, 2]).min() > 2.1]
energies = np.array([compute_energy(atoms) for atoms in X])

# %%
# With and without long range
# ---------------------------
# The first model sees no difference between ions at 5 and at 9 Angstrom.
models = {}
print("Root mean square errors in meV")
for what, long_range in (("short range", False), ("long range", True)):
    model = SoapBPNNRegressor(
        cutoff_radius=CUTOFF,
        max_radial=4,
        max_angular=3,
        long_range=long_range,
        num_epochs=60,
        batch_size=32,
        learning_rate=3e-3,
        random_state=0,
    )
    models[what] = model.fit(X[:500], energies[:500])
    errors = summarize_errors(X[500:], energies[500:], model.predict(X[500:]))
    print(f"{what:12}{1e3 * errors['energy']['rmse']:6.1f}")

# %%
# The ion leaves
# --------------
# On the side of the oxygen the ion is attracted, on the side of the hydrogens it is repelled.
distances = np.linspace(2.7, 9.0, 64)
centred = {"textcoords": "offset points", "ha": "center", "va": "center"}
figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
for sign, side in ((1, "at the oxygen"), (-1, "at the hydrogens")):
    pairs = [place_ion(r, np.array([0, 0, sign])) for r in distances]
    exact = [compute_energy(atoms) for atoms in pairs]
    axes.plot(distances, exact, color="black", label="exact" if sign == 1 else None)
    for (what, model), color in zip(models.items(), ("C3", "C0")):
        label = what if sign == 1 else None
        axes.plot(distances, model.predict(pairs), "--", color=color, label=label)
    axes.annotate(side, (5.5, np.interp(5.5, distances, exact)), (0, 12 * sign), **centred)
axes.axvline(CUTOFF, color="0.6", ls=":", label="cutoff")
axes.set(xlabel="distance of the ion from the oxygen (Å)", ylabel="energy (eV)")
axes.legend()
plt.show()
