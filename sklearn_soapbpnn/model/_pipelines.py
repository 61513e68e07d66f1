"""The model at the end of Pipelines and searches."""

from sklearn.pipeline import Pipeline


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
    if hasattr(model, "best_estimator_"):
        return apply_steps(model.best_estimator_, X)
    if isinstance(model, Pipeline):
        front, last = model[:-1], model[-1]
        return apply_steps(last, front.transform(X) if len(front) else X)
    return model, X
