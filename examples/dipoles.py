"""
Dipoles and an infrared spectrum
================================

Energies, forces and dipoles from one model, and the infrared spectrum that follows.

The data are malonaldehyde with GFN2-xTB energies, forces and dipoles. Molecular dynamics with the
trained calculator records the dipole at every step, and the spectrum is the Fourier transform of
its autocorrelation. Takes about a minute on two cores and saves the figure in the current folder.
"""

# %%
# Three targets, one network
# --------------------------
import ase.units
import matplotlib.pyplot as plt
import numpy as np
from ase.md.langevin import Langevin
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.metrics import summarize_errors

TIME_STEP = 0.5  # fs
N_STEPS = 4000
X = load_malonaldehyde().data
y = Targets.from_atoms(X, energy="energy", forces="forces", dipole="dipole")
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=100, random_state=0)

model = SoapBPNNRegressor(num_epochs=40, random_state=0, verbose=1)
model.set_params(log_interval=20).fit(X_train, y_train)
prediction = model.predict(X_test, targets=["energy", "forces", "dipole"])
labels = {name: y_test.flatten(name) for name in y_test.names}
labels["energy per atom"] = y_test["energy"] / [len(atoms) for atoms in X_test]
units = {**y_test.units, "energy per atom": "eV"}
print("\nRoot mean square errors on the test set")
for name, errors in summarize_errors(X_test, y_test, prediction).items():
    spread = f"(spread of the labels {labels[name].std():.4f})"
    print(f"  {name:16} {errors['rmse']:.4f} {units[name]:12} {spread}")

# %%
# Dynamics
# --------
atoms = X_test[0].copy()
atoms.calc = model.calculator()
rng = np.random.default_rng(0)
widths = np.sqrt(atoms.get_masses() * 300 * ase.units.kB)
atoms.set_momenta(widths[:, None] * rng.normal(size=(len(atoms), 3)))
options = {"temperature_K": 300, "friction": 0.001 / ase.units.fs, "rng": rng, "fixcm": False}
dynamics = Langevin(atoms, TIME_STEP * ase.units.fs, **options)
dipoles = []
dynamics.attach(lambda: dipoles.append(atoms.get_dipole_moment()))
dynamics.run(N_STEPS)

# %%
# Spectrum
# --------
# Up to a prefactor, the infrared spectrum is the power spectrum of the dipole's time derivative.
velocity = np.gradient(np.array(dipoles), axis=0) * np.hanning(len(dipoles))[:, None]
intensity = (np.abs(np.fft.rfft(velocity, axis=0)) ** 2).sum(1)
wavenumber = np.fft.rfftfreq(len(dipoles), TIME_STEP * 1e-15) / 2.99792458e10  # 1/cm
smooth = np.convolve(intensity, np.ones(7) / 7, mode="same")

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(wavenumber, smooth / smooth.max())
axes.set(xlim=(0, 4000), xlabel="wavenumber (1/cm)", ylabel="intensity", title="Malonaldehyde")
figure.savefig("dipoles.png", dpi=120)
print("\nWrote dipoles.png")
