"""Model of torch-sim, which simulates many systems at once."""

from __future__ import annotations

import numpy as np
import torch
from torch_sim.models.interface import ModelInterface

from ..data import Structures
from ._potential import Potential

__all__ = ["SoapBPNNModel"]


class SoapBPNNModel(ModelInterface):
    """A fitted model for torch-sim [1]_: energies, forces and stress of many systems in one call.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, search with ``best_estimator_``, str or Path
        Fitted model, or the path of its file.
    compute_forces, compute_stress : bool, default=True
        What to compute in addition to energies. Stress is NaN for systems without a volume.

    Raises
    ------
    TypeError, ValueError, NotFittedError
        If the model does not end in a SoapBPNNRegressor (TypeError), has not learnt energies, is
        not fitted, or was fitted in a Pipeline whose other steps are missing here.

    Notes
    -----
    The network runs on the device of the fitted model. Neighbours are searched by the CPU, so
    positions are copied there in each step. Results have the device and the precision of the state.
    States in double precision lose no digits if the model was fitted with ``dtype="float64"``.

    Units are those of torch-sim: eV and Angstrom.

    References
    ----------
    .. [1] Cohen et al., "TorchSim: An efficient atomistic simulation engine in PyTorch", AI Sci. 1,
       025003 (2025), doi:10.1088/3050-287X/ae1799.
    """

    def __init__(self, model, *, compute_forces=True, compute_stress=True):
        super().__init__()
        self.potential = Potential(model, type(self).__name__)
        network = self.potential.fitted.network
        self._device, self._dtype = network.device, network.dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress

    # torch-sim switches them on and off

    @ModelInterface.compute_forces.setter
    def compute_forces(self, compute_forces):
        """Set whether forces are computed."""
        self._compute_forces = compute_forces

    @ModelInterface.compute_stress.setter
    def compute_stress(self, compute_stress):
        """Set whether the stress is computed."""
        self._compute_stress = compute_stress

    def forward(self, state, **kwargs):
        """Evaluate all systems of a state.

        Parameters
        ----------
        state : torch_sim.SimState
            Systems, with the same boundary conditions for all.
        **kwargs
            Ignored; torch-sim passes them to all models.

        Returns
        -------
        dict of str to Tensor
            ``energy`` of shape (n_systems,), ``forces`` of shape (n_atoms, 3) and ``stress`` of
            shape (n_systems, 3, 3), positive under tension; on the device and in the precision of
            the state.

        Raises
        ------
        ValueError
            If there are elements absent from fit, or atoms at the same place.
        """
        names = ["energy"]
        names += ["forces"] if self._compute_forces else []
        names += ["stress"] if self._compute_stress else []
        values = self.potential.predict(_to_structures(state), names)
        values["forces"] = np.concatenate(values.get("forces", [np.empty((0, 3))]))
        to_state = {"device": state.device, "dtype": state.dtype}
        return {name: torch.as_tensor(values[name]).to(**to_state) for name in names}


def _to_structures(state):
    """Return the systems of a state as Structures."""
    n_atoms = torch.bincount(state.system_idx, minlength=state.n_systems)
    places = n_atoms.cumsum(0)[:-1].cpu().numpy()
    numbers, positions, cells, pbc = (
        values.detach().cpu().numpy()
        for values in (state.atomic_numbers, state.positions, state.row_vector_cell, state.pbc)
    )
    return Structures(
        np.split(numbers, places),
        np.split(positions, places),
        cells,
        np.broadcast_to(pbc, (len(cells), 3)),
    )
