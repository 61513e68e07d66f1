"""FittedModel: the result of a fit."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch

from ..data import TargetKind, has_derivatives, symbols
from ..descriptors import exceeds_memory, find_memory
from ..nn import SoapBPNN
from ._devices import find_device
from ._error_bars import ErrorBars, find_target
from ._evaluate import (
    are_divided,
    evaluate,
    evaluate_members,
    evaluate_part,
    evaluate_stds,
    network_name,
)
from ._memory import check_sums
from ._outputs import is_features
from ._posterior import LARGEST_LAYER
from ._steps import Steps


@dataclass(frozen=True, repr=False)
class FittedModel:
    """A fitted model: everything that predictions need, and nothing about the training.

    It is built once, by a fit or from a file, and never changed. A fit that continues from it
    builds a new one.

    Parameters
    ----------
    steps : Steps
        Steps before the network, and the data that X must have attached.
    kinds : dict of str to TargetKind
        Kind of each target that has a separate output, i.e. of all targets except derivatives of
        the energy.
    targets : tuple of str
        Names of the columns of y on which the model was trained.
    network : SoapBPNN
        The network, in evaluation mode.
    hyperparameters : dict
        Arguments of the regressor that belong to the weights, the baseline and the scale. A fit
        that continues from this model must have the same.
    error_bars : ErrorBars, default=None
        Error bars of the predictions; None if there are none.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.data import as_structures
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> fitted = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20]).fitted_
    >>> fitted.targets
    ('energy', 'forces')
    >>> fitted.predict(as_structures(X[:2]), ["energy"])["energy"].shape
    (2,)
    """

    steps: Steps
    kinds: dict[str, TargetKind]
    targets: tuple[str, ...]
    network: SoapBPNN
    hyperparameters: dict
    error_bars: ErrorBars | None = None

    def __repr__(self):
        n_weights = sum(weight.numel() for weight in self.network.parameters())
        return (
            f"FittedModel({', '.join(self.targets)} of {' '.join(symbols(self.steps.elements))}, "
            f"{n_weights} weights)"
        )

    def __getstate__(self):
        # in torch's format, which can be read on a machine without the device of the network
        buffer = io.BytesIO()
        torch.save(self.network, buffer)
        device = str(self.network.device)
        return {**vars(self), "network": buffer.getvalue(), "device": device}

    def __setstate__(self, state):
        state = dict(state)
        device = find_device(state.pop("device"))
        buffer = io.BytesIO(state.pop("network"))
        network = torch.load(buffer, map_location=device, weights_only=False)
        vars(self).update(state, network=network)

    def predict(self, X, names, memory_limit=None, report=None):
        """Predict the named outputs, in the user's units.

        Parameters
        ----------
        X : Structures
            Structures, with the same data attached as X in fit.
        names : collection of str
            Names of outputs, see :func:`list_outputs`.
        memory_limit : float, default=None
            Size in bytes up to which the descriptors of all structures are computed together and
            kept for the next call; None means half of the memory of the machine.
        report : callable, default=None
            Called with the number of atoms after some have been evaluated.

        Returns
        -------
        dict of str to array or list of arrays
            See :func:`evaluate`.

        Raises
        ------
        ValueError
            If X contains elements absent from fit, if other data are attached to X than in fit, or
            if long-range sums over X are impossible or need too much memory.
        """
        return evaluate(self.network, self.prepare(X, names, memory_limit), names, report)

    def predict_stds(self, X, names, memory_limit=None, report=None):
        """Predict the named outputs and their standard deviations, in the user's units.

        Parameters
        ----------
        X, names, memory_limit, report
            See :meth:`predict`. All outputs must have error bars.

        Returns
        -------
        values, stds : dict of str to array or list of arrays
            See :func:`evaluate_stds`.

        Raises
        ------
        ValueError
            As in :meth:`predict`, or if an output has no error bars.
        """
        self.check_error_bars(names)
        X = self.prepare(X, names, memory_limit)
        return evaluate_stds(self.network, self.error_bars, X, names, report)

    def predict_members(self, X, names, n_members, memory_limit=None, report=None):
        """Predict the named outputs with weights drawn from their distribution.

        Parameters
        ----------
        X, names, memory_limit, report
            See :meth:`predict`. All outputs must have error bars.
        n_members : int
            Number of members.

        Returns
        -------
        list of dict of str to array or list of arrays
            See :func:`evaluate_members`.

        Raises
        ------
        ValueError
            As in :meth:`predict`, or if an output has no error bars, or if a committee has fewer
            members.
        """
        self.check_error_bars(names)
        n_networks = self.network.n_networks
        if 1 < n_networks < n_members:
            raise ValueError(
                f"n_samples={n_members}, but the model is a committee of n_networks={n_networks}, "
                "which are its only members."
            )
        X = self.prepare(X, names, memory_limit)
        return evaluate_members(self.network, self.error_bars, X, names, n_members, report)

    def prepare(self, X, names, memory_limit=None):
        """Attach all that the network needs, and the descriptors if they fit into memory.

        On a GPU they are computed there, with the environments of the atoms, and those of large
        structures for one part after the other.

        Parameters
        ----------
        X, names, memory_limit
            See :meth:`predict`.

        Returns
        -------
        Structures
        """
        self._check_sums(X)
        X, featurizer = self.steps.prepare(X), self.steps.own.featurizer
        if featurizer is None or self.network.device.type != "cpu" or are_divided(self.network, X):
            return X
        device, itemsize = self.network.device, self.network.dtype.itemsize
        limit = memory_limit or find_memory(device)
        derivatives, soap = has_derivatives(names), self.steps.parameters
        large = exceeds_memory([X], soap, derivatives, itemsize, limit, device)
        return X if large else featurizer.transform(X)

    def predict_once(self, X, names, return_std=False):
        """Predict for structures that will not occur again, such as those of a simulation.

        This differs from :meth:`predict` in two points: descriptors are neither looked up nor kept,
        and X need not have features attached, even if it had in fit.

        Parameters
        ----------
        X, names
            See :meth:`predict`.
        return_std : bool, default=False
            Whether to return standard deviations as well, as :meth:`predict_stds` does.

        Returns
        -------
        dict of str to array or list of arrays
            See :func:`evaluate`. With ``return_std``, two of them.

        Raises
        ------
        ValueError
            As in :meth:`predict`, except for missing features.
        """
        self._check_sums(X)
        X = self.steps.prepare(X, featurized=False)
        if return_std:
            return evaluate_stds(self.network, self.error_bars, X, names)
        return evaluate(self.network, X, names)

    def predict_part(self, X, n_centers):
        r"""Predict energies of some atoms of a structure, and the derivatives of their sum.

        Programs that divide a structure among processes evaluate the atoms of each by themselves:
        they are the *centres*, and copies of other atoms around them are neighbours only. The sums
        over all processes are the energy, forces and virial of the structure.

        Parameters
        ----------
        X : Structures
            One structure, with the same data attached as X in fit. Its first atoms are the centres,
            and all atoms within the cutoff radius of these follow. Images in periodic directions
            need not be listed if the structure has a cell.
        n_centers : int
            Number of centres; may be zero.

        Returns
        -------
        dict of str to array
            In float64 and in the user's units: ``energies`` of shape (n_centers,), which include
            the baseline; ``forces`` of shape (n_atoms, 3), minus the derivative of the sum of these
            energies with respect to the positions; and ``virial`` of shape (3, 3), minus its
            derivative with respect to the strain, also without a cell.

        Raises
        ------
        ValueError
            As in :meth:`predict_once`, or if X is not one structure, there are interactions beyond
            the cutoff, energies were not learnt, or an offset belongs to the structure as a whole.

        Notes
        -----
        Offsets that X carries must be those of the centres, see :func:`run_steps`.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapBPNNRegressor
        >>> from sklearn_soapbpnn.data import as_structures
        >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
        >>> X, y = load_malonaldehyde(return_X_y=True)
        >>> fitted = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20]).fitted_
        >>> part = fitted.predict_part(as_structures(X[:1]), n_centers=4)
        >>> part["energies"].shape, part["forces"].shape
        ((4,), (9, 3))
        """
        self._check_part(X, n_centers)
        X = self.steps.prepare(X, featurized=False, n_centers=n_centers)
        return evaluate_part(self.network, X, n_centers)

    def covers(self, name):
        """Return whether an output has error bars."""
        return (
            self.error_bars is not None
            and not is_features(name)
            and self.error_bars.covers(self.network, network_name(name))
        )

    def check_error_bars(self, names):
        """Raise if an output has no error bars, with the reason."""
        for name in names:
            if not self.covers(name):
                raise ValueError(f"{name!r} has no error bars: {self._explain_missing(name)}.")

    def _explain_missing(self, name):
        if is_features(name):
            return "it is not a prediction"
        if find_target(name) not in self.kinds:
            return f"the model has learnt {list(self.kinds)}"
        if self.network.n_networks > 1:
            return "there were no labels of it for validation. Call calibrate(X, y)"
        if self.network.long_range is not None and has_derivatives([name]):
            return "with long_range=True only energies and other targets have them"
        target = find_target(name)
        n_weights = self.network.head(target).n_weights
        if not n_weights:
            return "its head is linear and there are no hidden layers, so it has no last layer"
        if n_weights > LARGEST_LAYER:
            return (
                f"its last layer has {n_weights} weights, and at most {LARGEST_LAYER} are allowed"
            )
        if self.error_bars is None or not self.error_bars.supports(self.network, name):
            return (
                "the model was read from a file without them, its fit was interrupted or diverged, "
                "or no label of it was left to train on. Call calibrate(X, y, X_train, y_train)"
            )
        return "there were no labels of it for validation. Call calibrate(X, y)"

    def _check_part(self, X, n_centers):
        """Raise if a part of a structure cannot be evaluated."""
        if "energy" not in self.kinds:
            raise ValueError(f"The model has learnt {list(self.kinds)}, but no energy.")
        if self.network.long_range is not None:
            raise ValueError(
                "The model has long_range=True: its energies depend on all atoms of a structure, "
                "so a part of it cannot be evaluated. Fit with long_range=False."
            )
        if len(X) != 1 or not 0 <= n_centers <= X.n_atoms[0]:
            raise ValueError(
                f"X must be one structure with at least n_centers={n_centers} atoms, but it has "
                f"{len(X)} structures of {X.n_atoms.tolist()} atoms."
            )

    def _check_sums(self, X):
        """Raise if long-range sums over structures are impossible or need too much memory."""
        network = self.network
        if network.long_range is not None:
            n_charges = network.long_range.charges.out_features
            options = network.long_range.coulomb.parameters
            check_sums(X, options, n_charges, network.dtype.itemsize, network.device)
