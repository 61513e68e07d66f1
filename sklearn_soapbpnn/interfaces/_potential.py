"""The potential energy of a fitted model, for programs that move the atoms themselves."""

from __future__ import annotations

from pathlib import Path

from ..model import check_steps, list_steps, run_steps
from ..preprocessing import ZBLBaseline
from ..training import check_regressor
from .files import load_model


class Potential:
    """Energies of a fitted model and their derivatives.

    Unlike an ASE calculator it does not follow a model that is fitted again.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, search with ``best_estimator_``, str or Path
        Fitted model that has learnt energies, or the path of its file.
    name : str
        What is made from the model, for error messages.

    Attributes
    ----------
    steps : list of estimators
        The steps before the regressor, without descriptors.
    fitted : FittedModel
        The fitted model.
    repels : bool
        Whether a ZBL repulsion is part of it.

    Raises
    ------
    TypeError, ValueError
        If the model does not end in a SoapBPNNRegressor (TypeError), has not learnt energies, or
        those in another unit than eV, or was fitted in a Pipeline whose other steps are missing
        here.
    NotFittedError
        If the model is not fitted.
    """

    def __init__(self, model, name):
        if isinstance(model, str | Path):
            model = load_model(model)
        *self.steps, regressor = list_steps(model)
        check_regressor(regressor)
        if "energy" not in regressor.kinds_:
            raise ValueError(
                f"The model has learnt {list(regressor.kinds_)}, but {name} needs the energy."
            )
        unit = regressor.kinds_["energy"].unit
        if unit.lower() not in ("", "ev"):
            raise ValueError(
                f"The model has learnt energies in {unit}, but {name} works in eV and Angstrom. "
                "Convert the labels and the positions, and fit again."
            )
        check_steps(self.steps, regressor, name)
        self.fitted = regressor.fitted_
        steps = (*self.steps, self.fitted.steps.own.zbl)
        self.repels = any(isinstance(step, ZBLBaseline) for step in steps)

    def predict(self, structures, names):
        """Predict for structures that will not occur again, see :meth:`FittedModel.predict_once`.

        Parameters
        ----------
        structures : Structures
            Structures without attached data.
        names : collection of str
            Names of outputs.
        """
        return self.fitted.predict_once(run_steps(self.steps, structures), names)

    def predict_part(self, structure, n_centers):
        """Predict for some atoms of a structure, see :meth:`FittedModel.predict_part`.

        Parameters
        ----------
        structure : Structures
            One structure without attached data.
        n_centers : int
            Number of atoms whose energies are needed, the first ones.
        """
        return self.fitted.predict_part(run_steps(self.steps, structure, n_centers), n_centers)
