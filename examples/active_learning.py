"""
Active learning
===============

Let the model choose which structures to label next, and compare with a random choice.

The pool are copper-gold crystals, and the labels come from ASE's effective medium theory (EMT) when
they are asked for, as those of an expensive method would. Takes about a minute on one core.
"""

# %%
# A pool without labels, and structures to test with
# --------------------------------------------------
import warnings

import numpy as np
from ase.calculators.emt import EMT
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, Targets
from sklearn_soapbpnn.datasets import load_cuau
from sklearn_soapbpnn.metrics import summarize_errors
from sklearn_soapbpnn.selection import select_batch, select_farthest

# with few labels a short fit may be no better than the composition baseline
warnings.simplefilter("ignore", ConvergenceWarning)
SOAP = {"max_radial": 5, "max_angular": 4}
N_START, N_BATCH, N_ROUNDS = 30, 20, 3


def label(frames):
    """Return energies and forces from EMT."""
    labelled = []
    for atoms in frames:
        atoms = atoms.copy()
        atoms.calc = EMT()
        labelled.append((atoms.get_potential_energy(), atoms.get_forces()))
    energy, forces = zip(*labelled)
    return Targets(energy=energy, forces=list(forces))


def train(frames):
    model = SoapBPNNRegressor(**SOAP, num_epochs=1500 // len(frames), random_state=0)
    return model.fit(frames, label(frames))


def print_errors(what, model):
    errors = summarize_errors(X_test, y_test, model.predict(X_test, targets=["energy", "forces"]))
    energy, forces = (1e3 * errors[name]["mae"] for name in ("energy per atom", "forces"))
    print(f"  {what:<22}{energy:8.1f} meV/atom{forces:8.0f} meV/Angstrom")


frames = [atoms.copy() for atoms in load_cuau().data]
pool, X_test = train_test_split(frames, test_size=60, random_state=0)
y_test = label(X_test)

# %%
# The first structures, by their descriptors alone
# ------------------------------------------------
# There is no model yet. These are far from each other in descriptor space.
first = select_farthest(SoapFeaturizer(**SOAP).fit(pool), pool, N_START)
chosen = first.tolist()
model = train([pool[k] for k in chosen])
print("Mean absolute errors on the test structures")
print_errors(f"{len(chosen)} labels", model)

# %%
# Batches of structures of which the model knows little
# -----------------------------------------------------
for _ in range(N_ROUNDS):
    rest = np.setdiff1d(np.arange(len(pool)), chosen)
    batch = select_batch(model, [pool[k] for k in rest], N_BATCH)
    chosen += rest[batch].tolist()
    model = train([pool[k] for k in chosen])
    print_errors(f"{len(chosen)} labels", model)

# %%
# As many random structures
# -------------------------
random = np.random.default_rng(0).permutation(len(pool))[: len(chosen)]
print_errors(f"{len(random)} random labels", train([pool[k] for k in random]))
