"""
Error bars and calibration
==========================

Check the error bars of forces where the model is used, and calibrate them with a few labels there.

A model of malonaldehyde at 300 K comes with error bars that are right at 300 K. At 600 K they grow,
but the errors grow more. Fifty labels at 600 K mend this.
"""

# %%
# Train at 300 K
# --------------
# A tenth of the training structures is held out for validation and calibrates the error bars.
import matplotlib.pyplot as plt
import numpy as np

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.metrics import UncertaintyDisplay, summarize_uncertainty

X, y = load_malonaldehyde(return_X_y=True)
rng = np.random.default_rng(0)
cold, hot = rng.permutation(300), 300 + rng.permutation(200)
train, test_cold = cold[:200], cold[200:]
label_hot, test_hot = hot[:50], hot[50:]


def select(indices):
    return [X[k] for k in indices], y[indices]


model = SoapBPNNRegressor(max_radial=4, max_angular=3, num_epochs=40, random_state=0)
model.fit(*select(train))

# %%
# What to look at
# ---------------
# z is an error divided by its error bar, so the mean of its square should be 1. The area is the
# mean distance between the share of errors that are below an error bar and the share that
# should be; zero is right. Both may be right if all error bars are the same, so the correlation
# tells whether large errors have large error bars; 0.5 is good, and it never reaches 1.


def check(what, X, y):
    prediction, std = model.predict(X, targets=["energy", "forces"], return_std=True)
    error = y.flatten("forces") - prediction.flatten("forces")
    size = np.sqrt(np.mean(std.flatten("forces") ** 2))
    quality = summarize_uncertainty(X, y, prediction, std)["forces"]
    print(
        f"{what:26}{np.sqrt(np.mean(error**2)):7.3f}{size:11.3f}{quality['msz']:8.2f}"
        f"{quality['miscalibration_area']:8.3f}{quality['correlation']:13.2f}"
    )


print("forces, eV/Angstrom          RMSE  error bar   <z^2>    area  correlation")
check("300 K", *select(test_cold))
check("600 K", *select(test_hot))

# %%
# Calibrate at 600 K
# ------------------
# This multiplies all error bars of the forces by one factor; predictions stay as they are. Dots on
# the lines are the aim. At 600 K, too many errors are above the line of 95 %, and calibration
# brings them back. It cannot change that few errors are very large and most are smaller than
# Gaussian ones would be, which is why the area hardly changes.
figure, axes = plt.subplots(1, 3, figsize=(14, 5), layout="constrained")
UncertaintyDisplay.from_estimator(model, *select(test_cold), ax=axes[0])
UncertaintyDisplay.from_estimator(model, *select(test_hot), ax=axes[1])
model.calibrate(*select(label_hot))
check("600 K, calibrated there", *select(test_hot))
UncertaintyDisplay.from_estimator(model, *select(test_hot), ax=axes[2])
for ax, what in zip(axes, ("300 K", "600 K", "600 K, calibrated there")):
    ax.set_title(f"{what}\n{ax.get_title()}")
plt.show()
