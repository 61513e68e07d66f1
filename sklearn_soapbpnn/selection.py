"""Which structures of a pool to label next."""

from __future__ import annotations

from copy import deepcopy
from numbers import Integral
from typing import Any

import numpy as np
from scipy.linalg import qr
from sklearn.utils.validation import check_is_fitted

from .data import Frames, as_structures, check_elements, iterate_chunks, split_atoms
from .model import apply_steps
from .preprocessing import SoapFeaturizer
from .training import check_regressor

__all__ = ["select_batch", "select_farthest", "select_uncertain"]

# number of members from which correlations are computed
N_MEMBERS = 256
# what is left of an uncertainty below this fraction is rounding noise of float32
ROUNDING = 1e-4
# number of atoms whose power spectra are computed at a time
ATOMS_PER_CHUNK = 2048


def __dir__():
    # tab completion should not offer what is imported here
    return __all__


def select_uncertain(
    model: Any, X: Frames, n: int, *, target: str = "forces", pooling: str = "mean"
) -> np.ndarray:
    """Return the structures whose predictions are the most uncertain.

    Structures that resemble each other are equally uncertain, so all of them may be chosen:
    :func:`select_batch` avoids that.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, or search with ``best_estimator_``
        Fitted model.
    X : sequence of ase.Atoms, or Structures
        The pool.
    n : int
        Number of structures to choose.
    target : str, default="forces"
        Target whose standard deviation counts, e.g. ``"energy"``. That of an extensive target is
        divided by the number of atoms; of several components it is the norm.
    pooling : {"max", "mean"}, default="mean"
        How the standard deviations of the atoms of a structure are combined; for a target per atom.

    Returns
    -------
    array of int of shape (n,)
        Positions in X, the most uncertain structure first.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        As in :meth:`SoapBPNNRegressor.predict`. Also if ``n`` or ``pooling`` is invalid, or the
        model does not end in a SoapBPNNRegressor.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.selection import select_uncertain
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
    >>> select_uncertain(model, X[20:60], 3, target="energy").shape
    (3,)
    """
    regressor, prepared = apply_steps(model, _check_pool(X, n))
    check_regressor(regressor)
    uncertainty = _find_uncertainty(regressor, prepared, target, pooling)
    return np.argsort(-uncertainty, kind="stable")[:n]


def select_farthest(model: Any, X: Frames, n: int, *, labelled: Frames | None = None) -> np.ndarray:
    r"""Return structures that are far from each other, and from those that are labelled.

    Each is the one with the greatest distance to the nearest structure that is labelled or already
    chosen [1]_ [2]_. Structures are compared by

    .. math:: \phi = \frac{1}{N} \bigoplus_Z \sum_{i: Z_i = Z} h_i

    with the last-layer features :math:`h_i` of the N atoms, or with their SOAP power spectra, each
    divided by its norm.

    Parameters
    ----------
    model : SoapBPNNRegressor, SoapFeaturizer, Pipeline, or search with ``best_estimator_``
        Fitted model, for distances between last-layer features of the energy, or descriptor, for
        distances between power spectra. A descriptor needs no labels, so it can choose the very
        first structures.
    X : sequence of ase.Atoms, or Structures
        The pool.
    n : int
        Number of structures to choose.
    labelled : sequence of ase.Atoms, or Structures, default=None
        Structures that are labelled already. Without them the first choice is the structure closest
        to the mean of the pool.

    Returns
    -------
    array of int of shape (n,)
        Positions in X, in the order of choice.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        As in :meth:`SoapBPNNRegressor.last_layer_features`. Also if ``n`` is invalid, or the model
        ends in neither a SoapBPNNRegressor nor a SoapFeaturizer.

    References
    ----------
    .. [1] Gonzalez, "Clustering to minimize the maximum intercluster distance", Theor. Comput. Sci.
       38, 293 (1985), doi:10.1016/0304-3975(85)90224-5.
    .. [2] Imbalzano et al., "Automatic selection of atomic fingerprints and reference
       configurations for machine-learning potentials", J. Chem. Phys. 148, 241730 (2018),
       doi:10.1063/1.5024611.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapFeaturizer
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.selection import select_farthest
    >>> pool = load_malonaldehyde().data[:40]
    >>> featurizer = SoapFeaturizer(max_radial=3, max_angular=2).fit(pool)
    >>> select_farthest(featurizer, pool, 3).shape
    (3,)
    """
    rows = _compute_rows(model, _check_pool(X, n), "X")
    seen = None if labelled is None else _compute_rows(model, labelled, "labelled")
    return _find_farthest(rows, seen, n)


def select_batch(
    model: Any, X: Frames, n: int, *, target: str = "forces", pooling: str = "mean"
) -> np.ndarray:
    r"""Return structures that are uncertain, and not for the same reason.

    The choice maximises, one structure after the other, the determinant of

    .. math:: K_{ij} = s_i \, \rho_{ij} \, s_j

    with the uncertainty s of each structure, as in :func:`select_uncertain`, and the correlation
    :math:`\rho` of the errors of their energies. This is the greedy choice of [1]_, with a kernel
    that separates quality and diversity [2]_. The first structure is the most uncertain one, and
    each further one has the largest uncertainty that is left if those chosen before are known: of
    structures that resemble each other only one is chosen.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, or search with ``best_estimator_``
        Fitted model of the energy.
    X : sequence of ase.Atoms, or Structures
        The pool.
    n : int
        Number of structures to choose.
    target : str, default="forces"
        Target whose standard deviation counts, see :func:`select_uncertain`.
    pooling : {"max", "mean"}, default="mean"
        How the standard deviations of the atoms of a structure are combined; for a target per atom.

    Returns
    -------
    array of int of shape (n,)
        Positions in X, in the order of choice.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        As in :func:`select_uncertain`. Also if the model has no energy.

    Notes
    -----
    The correlations are those of the members of ``predict(X, n_samples=256)``, or of a committee.
    There are at most as many independent errors as the last layers have weights, or one less than
    the committee has networks. Once these are exhausted, the choice starts anew, with what is left
    of each uncertainty if only the chosen structure that is closest to it is known.

    References
    ----------
    .. [1] Zaverkin, Holzmueller, Steinwart, Kaestner, "Exploring chemical and conformational spaces
       by batch mode deep active learning", Digital Discovery 1, 605 (2022), doi:10.1039/D2DD00034B.
    .. [2] Kulesza, Taskar, "Determinantal point processes for machine learning", Found. Trends
       Mach. Learn. 5, 123 (2012), doi:10.1561/2200000044.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.selection import select_batch
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
    >>> select_batch(model, X[20:60], 3).shape
    (3,)
    """
    structures = _check_pool(X, n)
    regressor, prepared = apply_steps(model, structures)
    _check_energy(regressor)
    uncertainty = _find_uncertainty(regressor, prepared, target, pooling)
    n_networks = regressor.fitted_.network.n_networks
    n_members = n_networks if n_networks > 1 else N_MEMBERS
    members = regressor.predict(prepared, targets=["energy"], n_samples=n_members)
    members = np.stack([member["energy"] for member in members])
    return _maximize_determinant(members - members.mean(axis=0), uncertainty, n)


def _find_uncertainty(regressor, X, target, pooling):
    """Return the standard deviation of a target for each structure, as a single number."""
    if pooling not in ("max", "mean"):
        raise ValueError(f"pooling must be 'max' or 'mean', got {pooling!r}.")
    _, stds = regressor.predict(X, targets=[target], return_std=True)
    values, kind = stds[target], stds.kinds[target]
    if kind.per_atom:
        pool = np.max if pooling == "max" else np.mean
        found = np.array([pool(_norms(atoms)) for atoms in values])
    else:
        is_extensive = not kind.intensive and not kind.per_volume
        found = _norms(values) / (as_structures(X).n_atoms if is_extensive else 1)
    # a stress that is not defined is not uncertain
    return np.nan_to_num(found)


def _find_farthest(rows, seen, n):
    """Return n rows, each with the largest distance to the nearest one seen or chosen."""
    if seen is None:
        chosen = [int(_square_distances(rows, rows.mean(axis=0)).argmin())]
        distances = _square_distances(rows, rows[chosen[0]])
    else:
        chosen = []
        distances = np.min([_square_distances(rows, row) for row in seen], axis=0)
    while len(chosen) < n:
        distances[chosen] = -1.0  # not even if all others are copies
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, _square_distances(rows, rows[chosen[-1]]))
    return np.array(chosen)


def _maximize_determinant(deviations, uncertainty, n):
    """Return n columns whose covariance has a large determinant.

    Parameters
    ----------
    deviations : array of shape (n_members, n_structures)
        Their correlations are those of the structures.
    uncertainty : array of shape (n_structures,)
        Standard deviations.
    n : int
        Number of columns.
    """
    norms = np.linalg.norm(deviations, axis=0)
    U = deviations / np.where(norms > 0, norms, 1.0)
    rest, chosen, left = np.arange(U.shape[1]), [], uncertainty
    while len(chosen) < n:
        # K = B' B, and its Cholesky decomposition has the pivots of the QR decomposition of B
        R, pivots = qr(U[:, rest] * left, mode="r", pivoting=True)
        diagonal = np.abs(np.diag(R))
        rank = max(1, np.count_nonzero(diagonal > ROUNDING * diagonal[0]))
        places = rest[pivots[: min(rank, n - len(chosen))]]
        chosen.extend(places.tolist())
        rest = np.setdiff1d(rest, places)
        correlation = np.abs(U[:, chosen].T @ U[:, rest]).max(axis=0)
        left = uncertainty[rest] * np.sqrt(np.maximum(1 - correlation**2, 0.0))
    return np.array(chosen)


def _square_distances(rows, point):
    return np.sum((rows - point) ** 2, axis=1)


def _norms(values):
    """Return the norm of each value, over its components."""
    return np.linalg.norm(values.reshape(len(values), -1), axis=1)


def _check_pool(X, n):
    """Return the pool as Structures; raise if n structures cannot be chosen from it."""
    structures = as_structures(X)
    if not isinstance(n, Integral) or not 1 <= n <= len(structures):
        raise ValueError(
            f"n must be an integer from 1 to {len(structures)}, the number of structures in X, got "
            f"{n!r}."
        )
    return structures


def _check_energy(regressor):
    check_regressor(regressor)
    if "energy" not in regressor.kinds_:
        raise ValueError(
            f"model learnt {list(regressor.kinds_)}, but the choice needs a model of the energy. "
            "Fit with energies or forces, or use select_uncertain(..., target=...)."
        )


def _compute_rows(model, X, name):
    """Return the features of structures, by which they are compared."""
    structures = as_structures(X, name)
    last, prepared = apply_steps(model, structures)
    if isinstance(last, SoapFeaturizer):
        check_is_fitted(last)
        check_elements(structures, last.elements_, name)
        return _sum_spectra(last, prepared)
    _check_energy(last)
    check_elements(structures, last.elements_, name)
    rows = last.last_layer_features(prepared)
    return _sum_by_element(rows, structures.numbers, last.elements_)


def _sum_spectra(featurizer, structures):
    """Return the sums of normalised power spectra; only those of a few structures at a time."""
    # set_output may request a table, in which atoms are pooled
    featurizer = deepcopy(featurizer).set_output(transform="default")
    rows = []
    for chunk in iterate_chunks(structures.n_atoms, ATOMS_PER_CHUNK):
        part = featurizer.transform(structures[chunk])
        spectra = part.per_atom()
        spectra = spectra / np.maximum(_norms(spectra), np.finfo(float).tiny)[:, None]
        spectra = split_atoms(spectra, part)
        rows.append(_sum_by_element(spectra, part.numbers, featurizer.elements_))
    return np.concatenate(rows)


def _sum_by_element(rows, numbers, elements):
    """Return the sum over the atoms of each element, divided by the number of all atoms."""
    return np.array(
        [
            np.concatenate(
                [h[element == Z].sum(axis=0, dtype=float) / len(Z) for element in elements]
            )
            for h, Z in zip(rows, numbers)
        ]
    )
