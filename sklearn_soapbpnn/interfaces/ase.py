"""ASE calculator of a fitted model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ..data import KNOWN_KINDS, as_structures
from ..model import check_steps, list_steps, run_steps
from ..training import check_regressor

__all__ = ["SoapBPNNCalculator", "UncertaintyExceeded", "UncertaintyObserver"]

# what has error bars, by the names of the results
STDS = {"energy_std": "energy", "energies_std": "energies", "forces_std": "forces"}
# threshold of the observer, in units of the errors of the validation
USUAL_FACTOR = 3.0


class SoapBPNNCalculator(Calculator):
    """ASE calculator of a fitted regressor, Pipeline or search.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, or search with ``best_estimator_``
        Fitted model; the last step of a Pipeline is the regressor.
    uncertainty : bool, default=False
        Whether to compute standard deviations as well.
    **kwargs
        See :class:`ase.calculators.calculator.Calculator`.

    Raises
    ------
    TypeError, ValueError
        If the model does not end in a SoapBPNNRegressor (TypeError), has learnt no property of
        ASE's calculators, or was fitted in a Pipeline whose other steps are missing here. With
        ``uncertainty=True``, also if its energy has no error bars.
    NotFittedError
        If the model is not fitted.

    Notes
    -----
    Available properties are ``energy``; ``free_energy``, which is the same; ``energies``, the
    contributions of the atoms to the energy, including the baseline of their elements; ``forces``;
    ``stress``, in Voigt order and positive under tension, if the cell has a volume; and ``dipole``
    and ``charges`` if the model was fitted on them. Units are those of the fit, for which ASE
    expects eV, Angstrom, eV/Angstrom and eV/Angstrom^3.

    With ``uncertainty=True`` there are also ``energy_std``, ``energies_std`` and, together with the
    forces, ``forces_std`` of shape (n_atoms, 3); see ``return_std`` of
    :meth:`SoapBPNNRegressor.predict`.

    The calculator notices changes of its model: after another ``fit`` or ``partial_fit``, or after
    a search was repeated, it uses the new weights.

    Examples
    --------
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=1).fit(X[:20], y[:20])
    >>> atoms = X[0].copy()
    >>> atoms.calc = SoapBPNNCalculator(model)
    >>> atoms.get_forces().shape
    (9, 3)
    >>> atoms.calc = SoapBPNNCalculator(model, uncertainty=True)
    >>> forces, std = atoms.get_forces(), atoms.calc.results["forces_std"]
    """

    implemented_properties = [
        *("energy", "free_energy", "energies", "forces", "stress", "dipole", "charges")
    ]
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(self, model: Any, uncertainty: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.uncertainty = uncertainty
        self._fitted = None
        self._follow()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; everything if the model was refitted.

        Parameters
        ----------
        atoms : ase.Atoms
            Structure.
        tol : float, default=1e-15
            Largest difference of coordinates that does not count as a change.

        Returns
        -------
        list of str
            Names of the changes, as ASE uses them.
        """
        self._follow()
        # the usual case, which ASE takes a while to find out
        if self.atoms is not None and self.atoms == atoms:
            return []
        return super().check_state(atoms, tol)

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a property, computed anew if the structure or the model has changed.

        Parameters
        ----------
        name : str
            Name in ``implemented_properties``.
        atoms : ase.Atoms, default=None
            Structure; None means the structure of the last calculation.
        allow_calculation : bool, default=True
            Whether to compute what is not known yet; otherwise None is returned.

        Returns
        -------
        float or array
        """
        # ASE would not ask whether anything has changed
        atoms = self.atoms if atoms is None else atoms
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute properties; forces and stress are computed only if they are requested.

        Parameters
        ----------
        atoms : ase.Atoms, default=None
            Structure; None means the structure of the last calculation.
        properties : sequence of str, default=("energy",)
            Names in ``implemented_properties``; None means all of them.
        system_changes : sequence of str
            Changes since the last calculation, as passed by ASE; not used.

        Raises
        ------
        ValueError
            If the structure contains elements absent from fit or atoms at the same place.
        """
        self._follow()
        properties = self.implemented_properties if properties is None else properties
        super().calculate(atoms, properties, system_changes)
        structures = run_steps(self._steps, as_structures([self.atoms]))
        # energies are computed in any case, derivatives only on request, and all of them then
        needed = {STDS.get(name, name) for name in properties}
        names = ["energy", *(["forces"] if {"forces", "stress"} & needed else [])]
        fitted = self.regressor.fitted_
        if self.uncertainty:
            values, stds = fitted.predict_once(structures, [*names, "energies"], return_std=True)
        else:
            values, stds = fitted.predict_once(structures, names), {}
        self.results = {
            name: values[name][0] for name in self.implemented_properties if name in values
        }
        if "energy" in values:
            energy = float(values["energy"][0])
            self.results |= {"energy": energy, "free_energy": energy}
        stress = self.results.pop("stress", None)
        if stress is not None and np.isfinite(stress).all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        for name, of in STDS.items():
            if of in stds:
                self.results[name] = stds[of][0]

    def _follow(self):
        """If the model was refitted since the last call, use the new fit and discard results."""
        *steps, regressor = list_steps(self.model)
        learnt = _list_properties(regressor)
        # a fit replaces the attributes of every step; keeping references to the old values ensures
        # that no new value has the identity of an old one
        fitted = [value for step in (*steps, regressor) for value in vars(step).values()]
        if self._fitted is not None and _are_same(fitted, self._fitted):
            return
        check_steps(steps, regressor, type(self).__name__)
        if self.uncertainty:
            regressor.fitted_.check_error_bars(STDS.values())
            learnt = [*learnt, *STDS]
        self.reset()
        self._fitted, self._steps, self.regressor = fitted, steps, regressor
        self.implemented_properties = learnt


class UncertaintyExceeded(RuntimeError):
    """Raised by :class:`UncertaintyObserver` to stop a simulation."""


class UncertaintyObserver:
    """Watch the error bars of the forces in a simulation.

    It warns when the standard deviation of the force on any atom exceeds a threshold for the first
    time, and collects the structures for which this happens, to be labelled and learnt. It is
    attached to the dynamics or the optimizer of ASE.

    Parameters
    ----------
    atoms : ase.Atoms
        The structure that is simulated, whose calculator is a :class:`SoapBPNNCalculator` with
        ``uncertainty=True``.
    threshold : float, default=None
        Largest standard deviation of the components of the force on an atom (root mean square over
        the three), in eV/Angstrom. None means three times the root mean square error of the
        forces of the validation structures.
    stop : bool, default=False
        Whether to stop the simulation.
    max_frames : int, default=100
        Number of structures that are collected.

    Attributes
    ----------
    threshold : float
        The threshold.
    frames : list of ase.Atoms
        Structures above the threshold.
    n_exceeded : int
        How often the threshold was exceeded.

    Raises
    ------
    TypeError
        If the calculator gives no error bars.
    ValueError
        If ``threshold`` is not positive, or it is None and the model was fitted without forces for
        validation.

    Examples
    --------
    >>> import warnings
    >>> from ase import units
    >>> from ase.md.verlet import VelocityVerlet
    >>> from sklearn_soapbpnn import SoapBPNNRegressor
    >>> from sklearn_soapbpnn.datasets import load_malonaldehyde
    >>> from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator, UncertaintyObserver
    >>> X, y = load_malonaldehyde(return_X_y=True)
    >>> model = SoapBPNNRegressor(max_angular=1, num_epochs=2).fit(X[:20], y[:20])
    >>> atoms = X[0].copy()
    >>> atoms.calc = SoapBPNNCalculator(model, uncertainty=True)
    >>> observer = UncertaintyObserver(atoms, threshold=0.5)
    >>> dynamics = VelocityVerlet(atoms, timestep=units.fs)
    >>> dynamics.attach(observer, interval=2)
    >>> with warnings.catch_warnings(action="ignore"):
    ...     _ = dynamics.run(10)
    >>> len(observer.frames) == observer.n_exceeded
    True
    """

    def __init__(
        self,
        atoms: Atoms,
        threshold: float | None = None,
        *,
        stop: bool = False,
        max_frames: int = 100,
    ) -> None:
        if not getattr(atoms.calc, "uncertainty", False):
            raise TypeError(
                "atoms must have a SoapBPNNCalculator with uncertainty=True, got "
                f"{type(atoms.calc).__name__}."
            )
        threshold = _find_threshold(atoms.calc.regressor) if threshold is None else threshold
        if not threshold > 0:
            raise ValueError(f"threshold must be positive, got {threshold!r}.")
        self.atoms, self.threshold, self.stop = atoms, float(threshold), stop
        self.max_frames, self.n_exceeded = max_frames, 0
        self.frames: list[Atoms] = []

    def __call__(self) -> None:
        """Look at the present structure.

        Raises
        ------
        UncertaintyExceeded
            If the threshold is exceeded, with ``stop=True``.
        """
        self.atoms.get_forces()
        stds = np.sqrt((self.atoms.calc.results["forces_std"] ** 2).mean(1))
        atom = int(stds.argmax())
        if stds[atom] <= self.threshold:
            return
        self.n_exceeded += 1
        if len(self.frames) < self.max_frames:
            self.frames.append(self.atoms.copy())
        message = (
            f"The force on atom {atom} ({self.atoms.symbols[atom]}) has a standard deviation of "
            f"{stds[atom]:.4g} eV/Angstrom, above the threshold of {self.threshold:.4g}: the model "
            "knows no structures like this one."
        )
        if self.stop:
            raise UncertaintyExceeded(message)
        if self.n_exceeded == 1:
            warnings.warn(f"{message} Later ones are counted only.", UserWarning, stacklevel=2)


def _find_threshold(regressor):
    """Return the threshold that follows from the errors of the validation structures."""
    errors = [
        epoch["valid_forces_rmse"]
        for epoch in regressor.history_
        if epoch.get("valid_metric_best") and "valid_forces_rmse" in epoch
    ]
    if not errors:
        raise ValueError(
            "threshold=None needs a model that was fitted with forces of validation structures. "
            "Set threshold, in eV/Angstrom."
        )
    return USUAL_FACTOR * errors[-1]


def _are_same(values, others):
    return len(values) == len(others) and all(a is b for a, b in zip(values, others))


def _list_properties(regressor):
    """Return the properties of ASE's calculators that a fitted regressor predicts."""
    check_regressor(regressor)
    kinds = regressor.kinds_
    learnt = [n for n in ("dipole", "charges") if n in kinds and _is_of_ase(n, kinds[n])]
    if "energy" in kinds:
        learnt += ["energy", "free_energy", "energies", "forces", "stress"]
    if not learnt:
        raise ValueError(
            f"The model learnt {list(kinds)}, none of which is a property of ASE's "
            f"calculators: {SoapBPNNCalculator.implemented_properties}."
        )
    return learnt


def _is_of_ase(name, kind):
    """Return whether a target has the shape that ASE expects of a property of its name."""
    known = KNOWN_KINDS[name]
    return (kind.shape, kind.per_atom) == (known.shape, known.per_atom)
