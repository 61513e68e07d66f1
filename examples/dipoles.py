"""
Dipoles and polarisabilities
============================

A vector and a tensor from one model, which turn with the molecule.

Structures and dipoles are those of malonaldehyde with GFN2-xTB. The polarisabilities follow from
Thole's model of interacting atoms (B. T. Thole, Chem. Phys. 59, 341 (1981)), a closed formula which
takes the place of a quantum-chemical calculation here. The infrared spectrum that dipoles give is
another example.
"""

# %%
# Labels
# ------
# Each atom has a polarisability; the field of the dipole of one induces dipoles in the others.
# Close to an atom its field is damped.
import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial.transform import Rotation
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.datasets import load_malonaldehyde

OF_ATOMS = {"H": 0.514, "C": 1.405, "O": 0.862}  # Angstrom^3
DAMPING = 1.662


def compute_polarizability(atoms):
    """Return the polarisability of a molecule in Angstrom^3, of shape (3, 3)."""
    n_atoms = len(atoms)
    of_atoms = np.array([OF_ATOMS[symbol] for symbol in atoms.symbols])
    vectors = atoms.get_all_distances(vector=True)
    distances = atoms.get_all_distances() + np.eye(n_atoms)
    reach = DAMPING * np.outer(of_atoms, of_atoms) ** (1 / 6)
    v = np.minimum(distances / reach, 1)
    fields = np.einsum("ij,xy->ixjy", (4 * v**3 - 3 * v**4) / distances**3, np.eye(3))
    fields -= np.einsum("ij,ijx,ijy->ixjy", 3 * v**4 / distances**5, vectors, vectors)
    for i in range(n_atoms):
        fields[i, :, i] = np.eye(3) / of_atoms[i]
    response = np.linalg.inv(fields.reshape(3 * n_atoms, 3 * n_atoms))
    return response.reshape(n_atoms, 3, n_atoms, 3).sum(axis=(0, 2))


X = load_malonaldehyde().data[::2]
dipoles = Targets.from_atoms(X, dipole="dipole")
y = Targets(dipole=dipoles["dipole"], polarizability=[compute_polarizability(atoms) for atoms in X])
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=100, random_state=0)

# %%
# One model
# ---------
# The names of the targets tell their kinds: a vector, and a symmetric tensor of 3 x 3 numbers.
model = SoapBPNNRegressor(
    max_radial=4, max_angular=3, num_epochs=30, learning_rate=3e-3, random_state=0
)
model.fit(X_train, y_train)
predicted = model.predict(X_test, targets=["dipole", "polarizability"])

# %%
# Both turn with the molecule, exactly and not only on average.
turn = Rotation.random(random_state=0).as_matrix()
turned = X_test[0].copy()
turned.positions = turned.positions @ turn.T
after = model.predict([turned], targets=["dipole", "polarizability"])
vector, tensor = predicted["dipole"][0], predicted["polarizability"][0]
print("Difference of the turned dipole:", np.abs(after["dipole"][0] - turn @ vector).max())
difference = after["polarizability"][0] - turn @ tensor @ turn.T
print("and of the turned polarisability:", np.abs(difference).max())

# %%
# Errors
# ------
# The mean of the diagonal elements depends on all distances, the anisotropy on directions too.


def describe(targets):
    """Return components of the dipole, and mean and anisotropy of the polarisability."""
    tensors = np.asarray(targets["polarizability"])
    a, b, c = np.linalg.eigvalsh(tensors).T
    anisotropy = np.sqrt(((a - b) ** 2 + (b - c) ** 2 + (c - a) ** 2) / 2)
    return {
        "dipole (e Å)": np.ravel(targets["dipole"]),
        "mean polarisability (Å$^3$)": (a + b + c) / 3,
        "anisotropy (Å$^3$)": anisotropy,
    }


figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.3), layout="constrained")
found = describe(predicted)
for axes, (name, known) in zip(panels, describe(y_test).items()):
    error = np.sqrt(np.mean((found[name] - known) ** 2))
    axes.plot(known, found[name], ".", ms=4)
    axes.axline((known[0], known[0]), slope=1, color="0.6", lw=0.8, zorder=0)
    title = f"RMSE {error:.2g}, spread {known.std():.2g}"
    axes.set(xlabel=f"reference {name}", ylabel="prediction", title=title)
plt.show()
