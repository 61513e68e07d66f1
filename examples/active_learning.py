"""
Active learning
===============

Let the model choose which structures to label next, and compare with random choices.

The data are copper-gold crystals with forces from ASE's effective medium theory (EMT). They are
labelled already, but a label is looked at only when it is asked for, as if it took a night to
compute. Takes less than a minute on one core.
"""

# %%
# A pool, and structures to test with
# -----------------------------------
# Some crystals are far more compressed or distorted than the others, or lack an atom, and a few
# structures chosen at random hardly tell of these.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer
from sklearn_soapbpnn.datasets import load_cuau
from sklearn_soapbpnn.metrics import summarize_errors
from sklearn_soapbpnn.selection import select_batch, select_farthest

SOAP = {"radial_scale": 3.0, "max_radial": 4, "max_angular": 2}
SIZES = [20, 40, 60]

X, y = load_cuau(return_X_y=True)
y = y.select(["energy", "forces"])
pool, X_test, labels, y_test = train_test_split(X, y, test_size=60, random_state=0)


def train(chosen):
    """Return a model of the chosen structures, and its errors of the forces of the test set."""
    settings = {"num_epochs": 60, "batch_size": 10, "learning_rate": 2e-3}
    model = SoapBPNNRegressor(**SOAP, **settings, random_state=0)
    model.fit([pool[k] for k in chosen], labels[chosen])
    prediction = model.predict(X_test, targets=["energy", "forces"])
    errors = summarize_errors(X_test, y_test, prediction)["forces"]
    return model, (1e3 * errors["rmse"], 1e3 * errors["mae"])


# %%
# The first structures, by their descriptors alone
# ------------------------------------------------
# There is no model yet. These are far from each other in descriptor space.
chosen = select_farthest(SoapFeaturizer(**SOAP).fit(pool), pool, SIZES[0])
model, error = train(chosen)
errors = [error]

# %%
# Batches of structures of which the model knows little
# -----------------------------------------------------
# Their forces have large error bars.
for size in SIZES[1:]:
    rest = np.setdiff1d(np.arange(len(pool)), chosen)
    batch = select_batch(model, [pool[k] for k in rest], size - len(chosen))
    chosen = np.concatenate([chosen, rest[batch]])
    model, error = train(chosen)
    errors.append(error)

# %%
# Random structures
# -----------------
# One random choice may be lucky, so there are three.
orders = [np.random.default_rng(seed).permutation(len(pool)) for seed in range(3)]
random = [[train(order[:size])[1] for size in SIZES] for order in orders]

# %%
# What was gained
# ---------------
# Forty chosen structures are as good as sixty random ones. The large errors, which make up the root
# mean square, gain more than the mean absolute error, which is mostly that of ordinary crystals.
figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for axes, name, chosen_, random_ in zip(
    panels, ("root mean square", "mean absolute"), np.transpose(errors), np.transpose(random)
):
    print(f"{name.capitalize()} errors of the forces, meV/Angstrom")
    for what, row in (("chosen", chosen_), *(("random", row) for row in random_.T)):
        print(f"  {what}", *(f"{error:7.0f}" for error in row))
    axes.plot(SIZES, random_, "s", color="0.7", ms=4)
    axes.plot(SIZES, random_.mean(axis=1), "--", color="0.3", label="random, mean of three")
    axes.plot(SIZES, chosen_, "o-", color="C0", label="chosen by the model")
    axes.set(xlabel="labelled structures", ylabel=f"{name} error of forces (meV/Å)", ylim=0)
    axes.set_xticks(SIZES)
panels[0].legend()
plt.show()
