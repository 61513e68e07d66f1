"""ASE calculator of a fitted model."""

from __future__ import annotations

from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._checks import check_sums
from .._featurizer import SoapFeaturizer
from .._regressor import SoapBPNNRegressor
from ..data import as_structures
from ..nn import evaluate

__all__ = ["SoapBPNNCalculator"]


class SoapBPNNCalculator(Calculator):
    """ASE calculator of a fitted regressor, Pipeline or search.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, or search with ``best_estimator_``
        Fitted model; the last step of a Pipeline is the regressor.
    **kwargs
        See :class:`ase.calculators.calculator.Calculator`.

    Raises
    ------
    TypeError, ValueError
        If the model is not one of ours, learnt nothing that ASE has a property for, or is the last
        step of a Pipeline without the steps before it.
    NotFittedError
        If it is not fitted.

    Notes
    -----
    The calculator follows its model: after another ``fit`` or ``partial_fit``, or where a search
    was repeated, results are those of the new weights.

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
        self.model = model
        self._fitted = None
        self._follow()

    def check_state(self, atoms, tol=1e-15):
        """Return what has changed since the last calculation: all of it if the model was refitted.

        Parameters
        ----------
        atoms : ase.Atoms
            Structure.
        tol : float, default=1e-15
            Difference of coordinates that does not count.

        Returns
        -------
        list of str
        """
        self._follow()
        return super().check_state(atoms, tol)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Compute the properties, forces and stress only where they are asked for.

        Parameters
        ----------
        atoms : ase.Atoms, default=None
            Structure; None is that of the last calculation.
        properties : sequence of str, default=("energy",)
            Names in ``implemented_properties``; None means all of them.
        system_changes : sequence of str
            What has changed, as ASE says; not used.
        """
        self._follow()
        properties = self.implemented_properties if properties is None else properties
        super().calculate(atoms, properties, system_changes)
        structures = as_structures([self.atoms])
        derivatives = bool({"forces", "stress"} & set(properties))
        for step in self._steps:
            structures = step.transform(structures)
        check_sums(self.regressor, structures, self.regressor.module_.device)
        structures = self.regressor._steps.prepare(structures, featurized=False)
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

    def _follow(self):
        """Take over what the model has learnt since the last call, and forget results of before."""
        *steps, regressor = _flatten(self.model)
        learnt = _list_properties(regressor)
        # a fit gives every step new values; the objects are kept, so none can take another's place
        fitted = [value for step in (*steps, regressor) for value in vars(step).values()]
        if self._fitted is not None and _are_same(fitted, self._fitted):
            return
        # descriptors are computed together with their gradients, not by the step
        steps = [step for step in steps if not isinstance(step, SoapFeaturizer)]
        _check_steps(steps, regressor)
        self.reset()
        self._fitted, self._steps, self.regressor = fitted, steps, regressor
        self.implemented_properties = learnt


def _are_same(values, others):
    return len(values) == len(others) and all(a is b for a, b in zip(values, others))


def _list_properties(regressor):
    """Properties of ASE's calculators that a fitted regressor learnt."""
    if not isinstance(regressor, SoapBPNNRegressor):
        raise TypeError(
            "model must be, or end in, a SoapBPNNRegressor; it ends in a "
            f"{type(regressor).__name__}."
        )
    check_is_fitted(regressor, "net_")
    learnt = [name for name in ("dipole", "charges") if name in regressor.kinds_]
    if "energy" in regressor.kinds_:
        learnt += ["energy", "free_energy", "energies", "forces", "stress"]
    if not learnt:
        raise ValueError(
            f"The model learnt {list(regressor.kinds_)}, none of which is a property of ASE's "
            f"calculators: {SoapBPNNCalculator.implemented_properties}."
        )
    return learnt


def _check_steps(steps, regressor):
    """Raise if a regressor lacks the Pipeline steps that know its baseline and scale."""
    carried = sorted(regressor._steps.carried.keys() - {"features"})
    if carried and not steps:
        raise ValueError(
            f"The regressor was fitted on structures with the {' and '.join(carried)} of earlier "
            "Pipeline steps, without which its energies and forces would be wrong. Make the "
            "calculator from the whole Pipeline: SoapBPNNCalculator(pipe)."
        )


def _flatten(model):
    """Steps of nested Pipelines, in order; a search stands for its best estimator."""
    model = getattr(model, "best_estimator_", model)
    if not isinstance(model, Pipeline):
        return [model]
    steps = [step for _, step in model.steps if step not in (None, "passthrough")]
    return [flat for step in steps for flat in _flatten(step)]
