"""
Descriptors in plain scikit-learn
=================================

SOAP power spectra as features of any estimator of scikit-learn: a linear model and a map of alloys.

``SoapFeaturizer`` is a transformer whose result has a row for each structure, the mean over its
atoms. The data are copper-gold crystals, ordered and random, strained and rattled, with energies
from ASE's effective medium theory (EMT). Takes some seconds on one core.
"""

# %%
# Energies from a linear model
# ----------------------------
# The energy per atom is a mean over atoms, as the features are, so that a linear model of them is a
# sum of energies of atoms. RidgeCV chooses its regularisation within each fold.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_soapbpnn import SoapFeaturizer
from sklearn_soapbpnn.datasets import load_cuau

X = load_cuau().data
energy = np.array([atoms.get_potential_energy() / len(atoms) for atoms in X])
gold = np.array([np.mean(atoms.numbers == 79) for atoms in X])

soap = SoapFeaturizer(radial_scale=3.0, max_radial=4, max_angular=3, dtype="float64")
folds = KFold(5, shuffle=True, random_state=0)
ridge = make_pipeline(soap, StandardScaler(), RidgeCV(alphas=np.logspace(-4, 4, 17)))
error = cross_val_predict(ridge, X, energy, cv=folds) - energy
composition = np.polynomial.Polynomial.fit(gold, energy, 2)(gold) - energy
print("Errors of the energy per atom in 5-fold cross-validation, meV")
for name, values in (("quadratic in composition", composition), ("Ridge of SOAP", error)):
    mae, rmse = 1e3 * np.abs(values).mean(), 1e3 * np.sqrt(np.mean(values**2))
    print(f"  {name:26} MAE {mae:5.0f}   RMSE {rmse:5.0f}")

# %%
# A map of the structures
# -----------------------
# The first two principal components of the same features contain more than half of their variance.
# The map is an arc from copper, top right, to gold: the second component is the composition, and
# the first tells pure elements from mixtures, where atoms have neighbours of both kinds. Crystals
# with one order lie together, and random alloys are scattered around them.
maps = make_pipeline(soap, StandardScaler(), PCA(n_components=2, random_state=0))
points = maps.fit_transform(X)
print(f"Fractions of the variance: {maps[-1].explained_variance_ratio_.round(2)}")
random = np.arange(len(X)) % 10 >= 5  # every ten crystals are five ordered and five random ones

figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
for chosen, marker, label in ((~random, "s", "ordered or pure"), (random, "o", "random alloy")):
    style = {"c": gold[chosen], "marker": marker, "label": label, "vmin": 0, "vmax": 1}
    shown = axes.scatter(*points[chosen, :2].T, s=30, cmap="viridis", edgecolors="0.3", **style)
figure.colorbar(shown, label="fraction of gold atoms")
axes.set(xlabel="first principal component", ylabel="second principal component")
axes.legend()
plt.show()

# %%
# The same map to click on
# ------------------------
# In a notebook, `chemiscope <https://chemiscope.org>`_ (``pip install chemiscope``) shows the
# crystal of the point that one clicks on:
#
# .. code-block:: python
#
#     import chemiscope
#
#     first, second = points.T
#     properties = {"first": first, "second": second, "gold": gold, "energy": energy}
#     settings = chemiscope.quick_settings(x="first", y="second", map_color="gold", periodic=True)
#     chemiscope.show(structures=X, properties=properties, settings=settings)
