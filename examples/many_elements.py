"""
Many elements
=============

An alloy of seven metals, with a network for each element and with pseudo-species.

With ``species_encoding="orthogonal"`` each pair of elements has descriptors of its own, whose
number grows with the square of the number of elements. ``"alchemical"`` learns how much elements
resemble each other: each becomes a mixture of a few pseudo-species. Labels are from ASE's effective
medium theory (EMT). Takes less than a minute on one core.
"""

# %%
# Random alloys
# -------------
# Each crystal is a random mixture of all metals that EMT knows, with atoms displaced by about 0.1
# Angstrom. The volume is that of the mean of the metals' lattice constants, more or less.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from sklearn.exceptions import ConvergenceWarning

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.metrics import summarize_errors

# energies of so few structures are hardly better than those of the composition
warnings.simplefilter("ignore", ConvergenceWarning)
METALS = ["Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"]
rng = np.random.default_rng(0)


def make_alloy():
    atoms = bulk("Cu", "fcc", a=3.9 * rng.uniform(0.98, 1.04), cubic=True) * (2, 2, 1)
    atoms.symbols = rng.choice(METALS, size=len(atoms))
    atoms.positions += rng.normal(scale=0.1, size=(len(atoms), 3))
    atoms.calc = EMT()
    atoms.get_forces()
    return atoms


X = [make_alloy() for _ in range(160)]
y = Targets.from_atoms(X, energy="energy", forces="forces")
X_test, y_test = X[120:], y[120:]

# %%
# Learning curves
# ---------------
# All fits take the same number of epochs. Pseudo-species need an eighth of the weights and less
# data: what one element teaches about the forces, others use as well.
SIZES = [50, 80, 120]
errors = {"orthogonal": [], "alchemical": []}
for encoding, column in errors.items():
    for size in SIZES:
        model = SoapBPNNRegressor(
            species_encoding=encoding,
            radial_scale=3.0,
            max_radial=3,
            max_angular=2,
            num_epochs=22,
            learning_rate=2e-3,
            random_state=0,
        )
        model.fit(X[:size], y[:size])
        prediction = model.predict(X_test, targets=["energy", "forces"])
        column.append(1e3 * summarize_errors(X_test, y_test, prediction)["forces"]["mae"])
    n_weights = sum(weight.numel() for weight in model.module_.parameters())
    print(f"{encoding}: {n_weights} weights, errors {np.round(column).astype(int)} meV/Angstrom")

figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for (encoding, column), marker in zip(errors.items(), "os"):
    axes.loglog(SIZES, column, marker + "-", label=encoding)
mean = 1e3 * np.abs(y_test.flatten("forces")).mean()
axes.axhline(mean, color="0.6", ls=":", label="no model")
axes.set_xticks(SIZES, SIZES)
axes.set_yticks([50, 100, 200, 500], [50, 100, 200, 500])
axes.minorticks_off()
axes.set(xlabel="training structures", ylabel="MAE of the forces (meV/Å)")
axes.legend()
plt.show()
