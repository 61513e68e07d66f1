"""FittedModel: what a fit results in."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch

from ..data import TargetKind
from ..descriptors import find_memory
from ..nn import SoapBPNN
from ._devices import find_device
from ._evaluate import evaluate
from ._memory import check_sums, is_large
from ._steps import Steps


@dataclass(frozen=True)
class FittedModel:
    """A fitted potential: all that predictions need, and nothing of how it was found.

    Built once, by a fit or a reader of files, and never changed: a fit that continues from it
    builds another.

    Parameters
    ----------
    steps : Steps
        What comes before the network, and what X has to carry.
    kinds : dict of str to TargetKind
        Targets that have an output of their own, which is all but derivatives of the energy.
    targets : tuple of str
        Names of the columns that were learnt from.
    network : SoapBPNN
        The network, ready for evaluation.
    hyperparameters : dict
        Arguments of the regressor that the rest stands for, which a fit that continues must share.
    """

    steps: Steps
    kinds: dict[str, TargetKind]
    targets: tuple[str, ...]
    network: SoapBPNN
    hyperparameters: dict

    def __getstate__(self):
        # in torch's own format, which a machine without the device of the network reads as well
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

    def predict(self, X, names, memory_limit=None):
        """Predict what is named, in the user's units.

        Parameters
        ----------
        X : Structures
            As they were in fit.
        names : collection of str
            What is wanted, see :func:`list_outputs`.
        memory_limit : float, default=None
            Bytes up to which the descriptors of all of X are made at once, and kept for the next
            call; None means half of the memory of the machine.

        Returns
        -------
        dict of str to array or list of arrays
            See :func:`evaluate`.
        """
        network, featurizer = self.network, self.steps.own.featurizer
        self._check_sums(X)
        X = self.steps.prepare(X)
        if featurizer is not None:
            limit = memory_limit or find_memory(network.device)
            itemsize = network.dtype.itemsize
            if not is_large([X], self.steps.parameters, names, itemsize, limit):
                X = featurizer.transform(X)
        return evaluate(network, X, names)

    def predict_once(self, X, names):
        """Predict for structures that will not come again, as those of a simulation.

        As :meth:`predict`, but descriptors are neither looked for nor kept, and those that X
        carried in fit may be missing.
        """
        self._check_sums(X)
        return evaluate(self.network, self.steps.prepare(X, featurized=False), names)

    def _check_sums(self, X):
        """Raise if the long-range sums of structures cannot be made."""
        network = self.network
        if network.long_range is not None:
            n_charges = network.long_range.charges.out_features
            options = network.long_range.coulomb.parameters
            check_sums(X, options, n_charges, network.dtype.itemsize, network.device)
