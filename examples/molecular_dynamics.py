"""
Molecular dynamics with error bars
==================================

Run the dynamics of a molecule with a trained potential, and watch whether to trust it.

A model that has seen malonaldehyde at 300 K only runs its dynamics at 300 K, and much hotter. The
conservation of energy tells whether the dynamics are sound, and the error bars of the forces
whether the model knows what it sees.
"""

# %%
# Forces
# ------
# A small model of 240 structures at 300 K. Another 60 tell its errors; those at 600 K are not used.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from ase import units
from ase.md.verlet import VelocityVerlet

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.interfaces.ase import UncertaintyObserver
from sklearn_soapbpnn.metrics import summarize_errors

X, y = load_malonaldehyde(return_X_y=True)
order = np.random.default_rng(0).permutation(300)
train, test = order[:240], order[240:]
model = SoapBPNNRegressor(max_radial=4, max_angular=3, num_epochs=25, random_state=0)
model.fit([X[k] for k in train], y[train])

X_test = [X[k] for k in test]
errors = summarize_errors(X_test, y[test], model.predict(X_test, targets=["energy", "forces"]))
for name, unit in (("energy", "meV"), ("forces", "meV/Angstrom")):
    print(f"Root mean square error of {name}: {1e3 * errors[name]['rmse']:.0f} {unit}")

# %%
# Dynamics
# --------
# Without a thermostat the total energy must be constant. The time step is 0.5 fs, since hydrogen is
# light. Both runs start from a structure at 300 K. About half of the kinetic energy then becomes
# potential energy, so the one that starts with 1500 K cools to about 900 K.
#
# The observer collects structures whose force on any atom has an error bar of more than twice the
# error above. It also warns of the first one, which is no surprise here.
TIME_STEP, N_STEPS = 0.5, 800


def simulate(temperature):
    """Return total energies, largest error bars, and the observer of a trajectory."""
    atoms = X_test[0].copy()
    atoms.calc = model.calculator(uncertainty=True)
    # random momenta, with the centre of mass at rest and exactly this temperature
    masses = atoms.get_masses()[:, None]
    momenta = np.sqrt(masses) * np.random.default_rng(1).normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / atoms.get_temperature()))
    dynamics = VelocityVerlet(atoms, timestep=TIME_STEP * units.fs)
    observer = UncertaintyObserver(atoms, threshold=2 * errors["forces"]["rmse"])
    dynamics.attach(observer, interval=5)
    energies, error_bars = [], []

    def record():
        energies.append((atoms.get_potential_energy(), atoms.get_total_energy()))
        components = atoms.calc.results["forces_std"]
        error_bars.append(np.sqrt((components**2).mean(axis=1)).max())

    dynamics.attach(record)
    with warnings.catch_warnings(action="ignore"):
        dynamics.run(N_STEPS)
    return np.array(energies), np.array(error_bars), observer


runs = {temperature: simulate(temperature) for temperature in (300, 1500)}

# %%
# What happened
# -------------
# The potential energy swings by far more than the total energy, which does not drift: forces are
# the exact derivatives of the energy. That alone would not tell a good potential from a bad one.
# The error bars, below, do: the hot molecule is outside the training data most of the time. The
# structures above the line are those to label and to train on next.
figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(7, 6), layout="constrained")
time = TIME_STEP * np.arange(N_STEPS + 1)
for (temperature, (energies, error_bars, observer)), color in zip(runs.items(), ("C0", "C3")):
    potential, total = (energies - energies[0, 1]).T
    upper.plot(time, potential, color=color, lw=0.8, alpha=0.6)
    upper.plot(time, total, color=color, label=f"started at {temperature} K")
    lower.plot(time, error_bars, color=color, lw=0.8)
    print(
        f"{temperature} K: total energy varies by {1e3 * total.std():.1f} meV, potential energy by "
        f"{1e3 * potential.std():.0f} meV; {observer.n_exceeded} structures above the threshold"
    )
lower.axhline(observer.threshold, color="black", ls="--", lw=1, label="threshold of the observer")
upper.set(ylabel="energy (eV), total (thick) and potential")
lower.set(xlabel="time (fs)", ylabel="largest error bar of a force (eV/Å)")
upper.legend()
lower.legend()
plt.show()
