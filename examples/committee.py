"""
A committee of networks
=======================

Train four networks at once: their mean has smaller errors, and their spread gives error bars.

The networks of a committee start from different weights and share the descriptors. They learn
malonaldehyde at 300 K and 600 K, and are compared with networks that were trained one by one.
"""

# %%
# Single networks, and a committee
# --------------------------------
import matplotlib.pyplot as plt
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.metrics import UncertaintyDisplay, summarize_errors, summarize_uncertainty

X, y = load_malonaldehyde(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=200, random_state=0)
settings = {
    "max_radial": 4,
    "max_angular": 3,
    "validation_fraction": 0.2,
    "num_epochs": 20,
    "learning_rate": 2e-3,
}
models = {f"network {seed}": SoapBPNNRegressor(random_state=seed, **settings) for seed in (1, 2)}
models["committee"] = SoapBPNNRegressor(n_networks=4, random_state=0, **settings)

# %%
# Errors and error bars
# ---------------------
# The error bar of a single network comes from its last layer, that of a committee from the standard
# deviation over its networks. Both are calibrated on validation structures, here a fifth of the
# data. The correlation tells how well error bars know where the errors are large; it never is 1.
errors = {}
print("forces             RMSE, meV/Angstrom   correlation of errors and error bars")
for name, model in models.items():
    model.fit(X_train, y_train)
    prediction, std = model.predict(X_test, targets=["energy", "forces"], return_std=True)
    errors[name] = 1e3 * summarize_errors(X_test, y_test, prediction)["forces"]["rmse"]
    quality = summarize_uncertainty(X_test, y_test, prediction, std)["forces"]
    print(f"{name:20}{errors[name]:10.0f}{quality['correlation']:25.2f}")

# %%
# What a committee is good for
# ----------------------------
# The mean of the networks has smaller errors than either single one. Its error bars are no better:
# the spread of four numbers is itself uncertain, so the dots rise less steeply than the lines. Take
# a committee for its accuracy, and the error bars of the last layer if a single network will do.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
bars = left.bar(list(errors), list(errors.values()), color=["0.7"] * 2 + ["C0"])
left.bar_label(bars, fmt="%.0f")
left.set(ylabel="root mean square error of forces (meV/Å)")
UncertaintyDisplay.from_estimator(models["committee"], X_test, y_test, ax=right)
right.set_xlabel("calibrated spread of the committee (eV/Å)")
right.set_ylabel("absolute error (eV/Å)")
plt.show()
