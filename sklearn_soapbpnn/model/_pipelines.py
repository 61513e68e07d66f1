"""The model at the end of Pipelines and searches, and the steps before it."""

from itertools import zip_longest

from sklearn.pipeline import Pipeline

from ..preprocessing import SoapFeaturizer


def apply_steps(model, X):
    """Return the last step of a fitted Pipeline or search, and X as the steps before it leave it.

    Parameters
    ----------
    model : estimator, Pipeline, or search with ``best_estimator_``
        Fitted model, in any nesting; an estimator that is neither is returned as it is.
    X : sequence of ase.Atoms, or Structures
        Structures.

    Returns
    -------
    estimator
        The last step.
    sequence of ase.Atoms, or Structures
        The argument X of this step.
    """
    *steps, last = _flatten(model)
    return last, run_steps(steps, X)


def list_steps(model):
    """Return the steps of a fitted Pipeline or search in order, without those that are skipped.

    Parameters
    ----------
    model : estimator, Pipeline, or search with ``best_estimator_``
        Fitted model, in any nesting.

    Returns
    -------
    list of estimators
        The last one is the model. Descriptors are left out, since ``predict_once`` and
        ``predict_part`` compute them together with their gradients.
    """
    *steps, last = _flatten(model)
    return [*(step for step in steps if not isinstance(step, SoapFeaturizer)), last]


def check_steps(steps, regressor, name):
    """Raise if steps before a regressor are missing that attach the baseline and scale of the fit.

    Parameters
    ----------
    steps : list of estimators
        The steps.
    regressor : FittedRegressor
        The last step.
    name : str
        What is made from the model, for the error message.
    """
    carried = sorted(regressor.fitted_.steps.carried.keys() - {"features"})
    if carried and not steps:
        raise ValueError(
            f"The regressor was fitted on structures with the {' and '.join(carried)} of earlier "
            "Pipeline steps, without which its energies and forces would be wrong. Use the whole "
            f"Pipeline: {name}(pipe)."
        )


def run_steps(steps, X, n_centers=None):
    """Let steps attach their data to structures, one after the other.

    Parameters
    ----------
    steps : iterable of transformers
        Fitted steps.
    X : Structures
        Structures.
    n_centers : int, default=None
        Number of atoms of each structure that are centres, the first ones; None means all atoms.
        What is attached then belongs to the energies of these, see
        :meth:`ZBLBaseline.transform_part`.

    Returns
    -------
    Structures

    Raises
    ------
    ValueError
        If a step attaches forces, which belong to all atoms, and has no ``transform_part``.
    """
    for step in steps:
        if n_centers is not None and hasattr(step, "transform_part"):
            X = step.transform_part(X, n_centers)
            continue
        before, X = X, step.transform(X)
        if n_centers is not None and _attaches_forces(before, X):
            raise ValueError(
                f"{type(step).__name__} attaches the forces of all atoms, but only {n_centers} of "
                "them are centres. It needs a method transform_part(X, n_centers), as ZBLBaseline "
                "has."
            )
    return X


def _attaches_forces(before, after):
    forces = (X.offset.get("forces", ()) for X in (before, after))
    return any(old is not new for old, new in zip_longest(*forces))


def _flatten(model):
    """Return the steps of nested Pipelines in order; a search is its best estimator."""
    while hasattr(model, "best_estimator_"):  # a search may be over searches
        model = model.best_estimator_
    if not isinstance(model, Pipeline):
        return [model]
    steps = [step for _, step in model.steps if step not in (None, "passthrough")]
    return [flat for step in steps for flat in _flatten(step)]
