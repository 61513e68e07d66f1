"""
Pipeline and parity plot
========================

The steps of a potential as a scikit-learn Pipeline, and its forces against the reference.

The data are copper-gold crystals with energies, forces and stresses from ASE's effective medium
theory (EMT), which stands in for the ab initio method that one would learn otherwise. Some are
strongly compressed and rattled, with forces beyond 20 eV/Angstrom. Takes less than a minute on one
core.
"""

# %%
# A Pipeline
# ----------
# Energies of the elements are subtracted, the rest is divided by its scale, the surroundings of the
# atoms are described, and a network for each element learns from them. Parameters of the steps are
# set and searched as in any Pipeline. Few radial and angular channels suffice for crystals without
# angular forces. ``layernorm=False`` keeps the density of the neighbours, which is what the energy
# of a compressed metal depends on, and lowers the errors of the largest forces.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor, SoapFeaturizer, TargetScaler
from sklearn_soapbpnn.datasets import load_cuau
from sklearn_soapbpnn.metrics import ParityDisplay, summarize_errors

X, y = load_cuau(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=50, random_state=0)
pipe = Pipeline(
    [
        ("baseline", CompositionBaseline()),
        ("scaler", TargetScaler()),
        ("soap", SoapFeaturizer(radial_scale=3.0, max_radial=4, max_angular=2)),
        ("bpnn", SoapBPNNRegressor(layernorm=False, batch_size=4, num_epochs=60, random_state=0)),
    ]
)
pipe.fit(X_train, y_train)

# %%
# Errors of all targets
# ---------------------
# An error says little without the spread of what is predicted, which is the error of a model that
# always predicts the mean. Forces have mean zero, so their spread is their typical size.
prediction = pipe.predict(X_test, targets=["energy", "forces", "stress"])
spread = {name: y_test.flatten(name).std() for name in y_test.names}
spread["energy per atom"] = np.std(y_test["energy"] / [len(atoms) for atoms in X_test])
print("Root mean square errors on test structures, in eV and Angstrom")
for name, errors in summarize_errors(X_test, y_test, prediction).items():
    print(f"  {name:16}{errors['rmse']:10.5f}   spread of the labels {spread[name]:8.4f}")

# %%
# Who has the errors?
# -------------------
# Errors grow with the forces. Most forces are small, as they are in a simulation, and their errors
# are below 0.1 eV/Angstrom; a few atoms in compressed crystals make up the root mean square. More
# structures of this kind, or none of them, would lower it.
known = np.concatenate(y_test["forces"])
size = np.linalg.norm(known, axis=1)
error = np.linalg.norm(np.concatenate(prediction["forces"]) - known, axis=1)
element = np.concatenate([atoms.symbols for atoms in X_test])
print("\nMedian of the error of the force vector, eV/Angstrom")
for low, high in ((0, 1), (1, 5), (5, 50)):
    for symbol in ("Cu", "Au"):
        chosen = (size >= low) & (size < high) & (element == symbol)
        print(f"  {symbol}, forces {low:2}-{high:2}: {np.median(error[chosen]):.3f}")

# %%
# Predictions against labels
# --------------------------
# A dot is a component of the force on an atom. Dots on the line are right; a tilted cloud would
# mean a model that is too soft or too stiff.
figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
ParityDisplay.from_estimator(pipe, X_test, y_test, target="forces", ax=axes)
plt.show()
