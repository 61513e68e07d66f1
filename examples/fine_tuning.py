"""
Fine-tuning
===========

Teach a fitted model new structures, and see what it forgets of the old ones.

The old structures are malonaldehyde at 300 K, the new ones at 600 K. Three ways are compared: to go
on from the fitted weights with the new structures alone, or mixed with some of the old ones, or to
fit again with all of them.
"""

# %%
# Old and new structures
# ----------------------
from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.metrics import summarize_errors

X, y = load_malonaldehyde(return_X_y=True)
rng = np.random.default_rng(0)
old, old_test = np.split(rng.permutation(300), [200])
new, new_test = np.split(300 + rng.permutation(200), [50])
results = {}


def show_errors(what, model):
    """Store and print the errors of old and new test structures."""
    results[what] = []
    for chosen in (old_test, new_test):
        frames = [X[k] for k in chosen]
        prediction = model.predict(frames, targets=["forces"])
        errors = summarize_errors(frames, y[chosen].select(["forces"]), prediction)
        results[what].append(1e3 * errors["forces"]["rmse"])
    print(f"{what:20}{results[what][0]:6.0f} at 300 K{results[what][1]:6.0f} at 600 K")


def select(indices):
    return [X[k] for k in indices], y[indices]


print("Root mean square errors of forces, meV/Angstrom")
model = SoapBPNNRegressor(max_radial=4, max_angular=3, num_epochs=30, random_state=0)
show_errors("before", model.fit(*select(old)))

# %%
# Three ways
# ----------
# A smaller learning rate preserves more of what was learnt. Old structures are as many as new ones.
further = deepcopy(model).set_params(num_epochs=40, learning_rate=3e-4)
show_errors("new ones alone", deepcopy(further).partial_fit(*select(new)))
mixed = np.concatenate([new, rng.choice(old, size=50, replace=False)])
show_errors("new and some old", deepcopy(further).partial_fit(*select(mixed)))
show_errors("fit again with all", clone(model).fit(*select(np.concatenate([old, new]))))

# %%
# What was gained and what was lost
# ---------------------------------
# After the new structures alone, the model is better at 600 K and worse at 300 K: it forgets. Mixed
# with old ones they help more, at both temperatures. To fit again with all is about as accurate and
# takes hardly longer with so few structures; go on from a fitted model if there are too many.
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
place = np.arange(len(results))
for shift, temperature, heights in zip((-0.2, 0.2), (300, 600), zip(*results.values())):
    bars = axes.bar(place + shift, heights, width=0.4, label=f"at {temperature} K")
    axes.bar_label(bars, fmt="%.0f")
axes.set_xticks(place, results)
axes.set(ylabel="root mean square error of forces (meV/Å)")
axes.legend()
plt.show()
