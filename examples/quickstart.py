"""
Quickstart
==========

Train a potential on data that ship with the package, tune it, check its errors, and save it.

The data are malonaldehyde from molecular dynamics at 300 K and 600 K, with GFN2-xTB energies and
forces. Takes about a minute on one core, and saves the figure and the model in the current
folder.
"""

# %%
# Load and split
# --------------
import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor, SoapFeaturizer, TargetScaler
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator
from sklearn_soapbpnn.metrics import make_target_scorer, summarize_errors, summarize_uncertainty

X, y = load_malonaldehyde(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=100, random_state=0)

# %%
# A pipeline, and a search for the width of the network
# -----------------------------------------------------
# Each structure is featurised only once for all candidates and folds.
pipe = Pipeline(
    [
        ("baseline", CompositionBaseline()),
        ("scaler", TargetScaler()),
        ("soap", SoapFeaturizer(cutoff_radius=5.0, radial_scale=3.0)),
        ("bpnn", SoapBPNNRegressor(num_epochs=8, random_state=0)),
    ]
)
search = GridSearchCV(
    pipe,
    {"bpnn__num_neurons_per_layer": [16, 32, 64]},
    scoring=make_target_scorer("forces", "mae"),
    cv=2,
    refit=False,
    verbose=3,
)
search.fit(X_train, y_train)

print("\nMean absolute force error in cross-validation, eV/Angstrom")
for parameters, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"]):
    print(f"  {parameters['bpnn__num_neurons_per_layer']:3d} neurons: {-score:.4f}")

# %%
# Train the best one for longer
# -----------------------------
pipe.set_params(**search.best_params_, bpnn__num_epochs=50, bpnn__verbose=1, bpnn__log_interval=10)
pipe.fit(X_train, y_train)
# predictions, and error bars that were calibrated on validation structures
prediction, std = pipe.predict(X_test, targets=["energy", "forces"], return_std=True)
quality = summarize_uncertainty(X_test, y_test, prediction, std)

print("\nErrors on the test set           MAE      RMSE   mean (error / error bar)^2")
units = {"energy": "meV", "energy per atom": "meV", "forces": "meV/Angstrom"}
for name, errors in summarize_errors(X_test, y_test, prediction).items():
    mae, rmse = 1e3 * errors["mae"], 1e3 * errors["rmse"]
    print(f"  {name:<16}{units[name]:<13}{mae:6.2f}    {rmse:6.2f}   {quality[name]['msz']:6.2f}")

# %%
# Plot the predictions
# --------------------
history = pipe["bpnn"].history_
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
reference = y_test["energy"].mean()
panels = {
    left: ("energy, eV", y_test["energy"] - reference, prediction["energy"] - reference),
    middle: (
        "force component, eV/Å",
        np.concatenate(y_test["forces"]).ravel(),
        np.concatenate(prediction["forces"]).ravel(),
    ),
}
for axes, (label, known, predicted) in panels.items():
    axes.plot([known.min(), known.max()], [known.min(), known.max()], color="0.7", lw=1)
    axes.plot(known, predicted, ".", ms=4, alpha=0.6)
    axes.set(xlabel=f"GFN2-xTB {label}", ylabel=f"predicted {label}")
for name, label in (("energy", "energy, eV/atom"), ("forces", "forces, eV/Å")):
    right.semilogy(history[:, "epoch"], history[:, f"valid_{name}_rmse"], label=label)
right.set(xlabel="epoch", ylabel="validation RMSE")
right.legend()
figure.savefig("quickstart.png", dpi=120)

# %%
# Save the model, and use it in ASE
# ---------------------------------
joblib.dump(pipe, "quickstart.joblib")
loaded = joblib.load("quickstart.joblib")
same = np.array_equal(loaded.predict(X_test), prediction["energy"])
atoms = X_test[0].copy()
atoms.calc = SoapBPNNCalculator(loaded)
print(f"\nThe loaded model gives identical predictions: {same}")
print(f"Largest force from its ASE calculator: {np.abs(atoms.get_forces()).max():.3f} eV/Angstrom")
print("Wrote quickstart.png and quickstart.joblib")
