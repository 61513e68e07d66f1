"""ASE calculator of a fitted model."""

from __future__ import annotations

from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._checks import check_sums
from .._featurizer import SoapFeaturizer
from .._regressor import SoapBPNNRegressor
from ..data import as_structures, check_elements
from ..nn import evaluate


class SoapBPNNCalculator(Calculator):
    """ASE calculator of a fitted regressor, Pipeline or search.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, or search with ``best_estimator_``
        Fitted model; the last step of a Pipeline is the regressor.
    **kwargs
        See :class:`ase.calculators.calculator.Calculator`.

    Notes
    -----
    Gives ``energy``, ``free_energy`` (the same), ``energies`` of the atoms (which share out the
    baseline by element), ``forces``, and ``stress`` where the cell has a volume, tensile positive
    and in Voigt order: eV, eV/Angstrom and eV/Angstrom^3 if the model was fitted in these. A model
    that learnt them also gives ``dipole`` and ``charges``.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=2, num_epochs=1).fit(X[:20], y[:20])
    >>> atoms = X[0].copy()
    >>> atoms.calc = SoapBPNNCalculator(model)
    >>> atoms.get_forces().shape
    (9, 3)
    """

    implemented_properties = [
        *("energy", "free_energy", "energies", "forces", "stress", "dipole", "charges")
    ]
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        *steps, self.regressor = _flatten(model)
        if not isinstance(self.regressor, SoapBPNNRegressor):
            raise TypeError(
                "model must be, or end in, a SoapBPNNRegressor; it ends in a "
                f"{type(self.regressor).__name__}."
            )
        check_is_fitted(self.regressor, "net_")
        learnt = [name for name in ("dipole", "charges") if name in self.regressor.kinds_]
        if "energy" in self.regressor.kinds_:
            learnt += ["energy", "free_energy", "energies", "forces", "stress"]
        if not learnt:
            raise ValueError(
                f"The model learnt {list(self.regressor.kinds_)}, none of which is a property of "
                f"ASE's calculators: {self.implemented_properties}."
            )
        self.implemented_properties = learnt
        # descriptors are computed together with their gradients, not by the step
        self._steps = [step for step in steps if not isinstance(step, SoapFeaturizer)]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Compute the properties, forces and stress only where they are asked for."""
        super().calculate(atoms, properties, system_changes)
        structures = as_structures([self.atoms])
        check_elements(structures, self.regressor.elements_)
        derivatives = bool({"forces", "stress"} & set(properties))
        for step in self._steps:
            structures = step.transform(structures)
        check_sums(self.regressor, structures, self.regressor.module_.basis.parity.device)
        structures = self.regressor._steps.attach(structures)
        values = evaluate(self.regressor.module_, structures, derivatives)
        self.results = {
            name: values[name][0] for name in self.implemented_properties if name in values
        }
        if "energy" in values:
            energy = float(values["energy"][0])
            self.results |= {"energy": energy, "free_energy": energy}
        stress = self.results.pop("stress", None)
        if stress is not None and structures.volumes[0] > 0:
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def _flatten(model):
    """Steps of nested Pipelines, in order; a search stands for its best estimator."""
    model = getattr(model, "best_estimator_", model)
    if not isinstance(model, Pipeline):
        return [model]
    steps = [step for _, step in model.steps if step not in (None, "passthrough")]
    return [flat for step in steps for flat in _flatten(step)]
