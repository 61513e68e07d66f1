"""
Charges of atoms
================

Learn a value for each atom, with labels for the atoms of some elements only.

Charges come from electronegativity equalisation (QEq), a classical model in which they minimise an
energy; charges of any other method, or chemical shifts, would be learnt in the same way. Carbon
gets no labels here, as in a measurement that sees some nuclei only.
"""

# %%
# Labels
# ------
# Electronegativities and hardnesses are those of Rappé and Goddard (J. Phys. Chem. 95, 3358, 1991),
# with a simple shielding of the Coulomb energy between near atoms, which makes charges too large.
# The last row and column of the matrix see to it that the molecule is neutral.
import matplotlib.pyplot as plt
import numpy as np
from ase import units
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.metrics import ParityDisplay

ELECTRONEGATIVITY = {"H": 4.528, "C": 5.343, "O": 8.741}  # eV
HARDNESS = {"H": 13.890, "C": 10.126, "O": 13.364}
COULOMB = units.Hartree * units.Bohr  # eV Angstrom


def equalize(atoms):
    """Return the charges of QEq, in e."""
    n = len(atoms)
    hardness = np.array([HARDNESS[symbol] for symbol in atoms.symbols])
    shielding = 2 * COULOMB / (hardness[:, None] + hardness)
    matrix = np.ones((n + 1, n + 1))
    matrix[n, n] = 0
    matrix[:n, :n] = COULOMB / np.sqrt(atoms.get_all_distances() ** 2 + shielding**2)
    right = [-ELECTRONEGATIVITY[symbol] for symbol in atoms.symbols]
    return np.linalg.solve(matrix, [*right, 0])[:n]


X = load_malonaldehyde().data
charges = [np.where(atoms.symbols == "C", np.nan, equalize(atoms)) for atoms in X]
y = Targets(charges=charges)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=100, random_state=0)

# %%
# Learn and predict
# -----------------
# NaN stands for "no label". Such atoms take no part in the fit, except as neighbours of others.
model = SoapBPNNRegressor(
    max_radial=4, max_angular=3, num_epochs=15, learning_rate=3e-3, random_state=0
)
model.fit(X_train, y_train)
predicted = model.predict(X_test, targets="charges")["charges"]
for element in "HO":
    label, prediction = (
        np.concatenate([values[a.symbols == element] for a, values in zip(X_test, columns)])
        for columns in (y_test["charges"], predicted)
    )
    rmse = np.sqrt(np.mean((prediction - label) ** 2))
    print(
        f"{element}: charges of {label.mean():.3f} e, with a spread of {label.std():.4f} e;"
        f" root mean square error {rmse:.4f} e"
    )

# %%
# Charges and the place of the proton
# -----------------------------------
# On the left, the model tells the proton of the hydrogen bond from the hydrogen atoms at carbon, of
# which it was told nothing. On the right, d is the distance of this proton from an oxygen atom and
# d' that from the other one: to the left, the atom has the proton and the larger negative charge.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
ParityDisplay.from_estimator(model, X_test, y_test, target="charges", ax=left)
oxygen = np.flatnonzero(X[0].symbols == "O")
proton = 5 + np.argmin(X[0].get_all_distances()[oxygen, 5:].min(axis=0))
for what, columns, marker in (("label", y_test["charges"], "o"), ("prediction", predicted, "x")):
    near = np.array([a.get_distances(proton, oxygen) for a in X_test])
    shift = (near - near[:, ::-1]) / 2
    values = np.array([values[oxygen] for values in columns])
    right.plot(shift.ravel(), values.ravel(), marker, ms=4, alpha=0.6, label=what)
right.set(xlabel="place of the proton, (d - d')/2 (Å)", ylabel="charge of O (e)")
right.legend()
plt.show()
