"""
Infrared spectrum, harmonic and from dynamics
=============================================

Energies, forces and dipoles of one model give an infrared spectrum in two ways.

The harmonic one needs derivatives at the relaxed structure of malonaldehyde. The one from molecular
dynamics is the Fourier transform of the autocorrelation of the dipole's time derivative, and has
the temperature and all anharmonicities in it, though the nuclei move as classical particles.
"""

# %%
# Energies, forces and dipoles
# ----------------------------
# Structures at 300 K and at 600 K are learnt together.
import matplotlib.pyplot as plt
import numpy as np
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, Targets
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.metrics import summarize_errors

X = load_malonaldehyde().data
y = Targets.from_atoms(X, energy="energy", forces="forces", dipole="dipole")
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=250, random_state=0)
model = SoapBPNNRegressor(max_radial=4, max_angular=3, num_epochs=25, random_state=0)
model.fit(X_train, y_train)

prediction = model.predict(X_test, targets=y_test.names)
for name, errors in summarize_errors(X_test, y_test, prediction).items():
    print(f"Root mean square error of {name:16}{errors['rmse']:.4f}")

# %%
# Harmonic wavenumbers and intensities
# ------------------------------------
# Differences of forces give the Hessian, whose eigenvectors are the modes; differences of dipoles
# along a mode, squared, its intensity. The first six modes are translations and rotations.
atoms = X[0].copy()
atoms.calc = model.calculator()
BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
STEP = 0.01  # Angstrom
forces, dipoles = [], []
for coordinate in range(3 * len(atoms)):
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions.flat[coordinate] += sign * STEP
        ends.append((moved.get_forces().ravel(), moved.get_dipole_moment()))
    forces.append((ends[0][0] - ends[1][0]) / (2 * STEP))
    dipoles.append((ends[0][1] - ends[1][1]) / (2 * STEP))

root_mass = np.sqrt(np.repeat(atoms.get_masses(), 3))
hessian = -np.array(forces) / np.outer(root_mass, root_mass)
squares, modes = np.linalg.eigh((hessian + hessian.T) / 2)
harmonic = np.sqrt(squares[6:]) * units.s / (200 * np.pi * units._c)
sticks = ((np.array(dipoles).T / root_mass @ modes[:, 6:]) ** 2).sum(axis=0)

# %%
# Dynamics
# --------
# Structures from the data at 300 K and random velocities of 300 K are an equilibrium ensemble, so
# that no thermostat is needed, which would broaden the bands.
TIME_STEP, N_STEPS, N_RUNS = 0.5, 1200, 3
rng = np.random.default_rng(0)


def simulate(atoms):
    """Return the infrared spectrum of one trajectory."""
    atoms = atoms.copy()
    atoms.calc = model.calculator()
    widths = np.sqrt(atoms.get_masses() * units.kB * 300)
    atoms.set_momenta(widths[:, None] * rng.normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=TIME_STEP * units.fs)
    dipoles = []
    dynamics.attach(lambda: dipoles.append(atoms.get_dipole_moment()))
    dynamics.run(N_STEPS)
    # the Fourier transform of an autocorrelation is the squared Fourier transform
    derivative = np.gradient(np.array(dipoles), axis=0) * np.hanning(len(dipoles))[:, None]
    return (np.abs(np.fft.rfft(derivative, axis=0)) ** 2).sum(axis=1)


starts = rng.choice(300, size=N_RUNS, replace=False)
spectrum = np.mean([simulate(X[k]) for k in starts], axis=0)
wavenumber = np.fft.rfftfreq(N_STEPS + 1, TIME_STEP * 1e-15) / (100 * units._c)  # 1/cm

# %%
# Comparison
# ----------
# The bands of C=O and C=C near 1600/cm agree. The O-H stretch, part of the two
# harmonic lines near 2850/cm, is spread over hundreds of wavenumbers by the hydrogen bond.
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.plot(wavenumber, spectrum / spectrum.max(), label="dynamics at 300 K")
axes.vlines(harmonic, 0, sticks / sticks.max(), color="C3", label="harmonic")
axes.set(xlim=(0, 4000), ylim=0, xlabel="wavenumber (1/cm)", ylabel="absorption (arbitrary unit)")
axes.legend()
print("Harmonic wavenumbers (1/cm):", *np.round(harmonic).astype(int))
plt.show()
