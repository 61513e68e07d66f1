"""What structures carry from earlier steps of a Pipeline, and what a model expects of them."""

import numpy as np

from ..data import symbols

PIPELINE = "Predict through the Pipeline that the model was fitted in"


def list_attached(X):
    """Return what structures carry, out of offset, scale and features."""
    found = {"offset": bool(X.offset), "scale": bool(X.scale)}
    found["features"] = X.features is not None
    return {what for what, there in found.items() if there}


def name_attached(X):
    """Return what structures carry, and of which targets."""
    names = {"offset": frozenset(X.offset), "scale": frozenset(X.scale), "features": frozenset()}
    return {what: names[what] for what in list_attached(X)}


def check_carried(X, carried, scales, remedy, name="X", source="it carried in fit"):
    """Raise if structures do not carry these offsets and scales, of these targets.

    Offsets themselves are not compared, since they depend on the structures.
    """
    for what in ("offset", "scale"):
        missing = carried.get(what, set()) - getattr(X, what).keys()
        if missing:
            raise ValueError(
                f"{name} lacks the {what} of {sorted(missing)} that {source}. {remedy}."
            )
    for target, scale in scales.items():
        if not np.array_equal(X.scale[target], scale):
            raise ValueError(f"{name} carries another scale of {target!r} than {source}. {remedy}.")


def check_features(X, parameters, elements, name="X"):
    """Raise if structures carry features of another descriptor than fit saw."""
    found = X.features.parameters
    if found != parameters:
        raise ValueError(f"{name} carries features of {found}, but fit saw {parameters}.")
    if not np.array_equal(X.features.elements, elements):
        raise ValueError(
            f"{name} carries features over the elements {symbols(X.features.elements)}, but fit "
            f"saw {symbols(elements)}. Use the same fitted SoapFeaturizer."
        )
