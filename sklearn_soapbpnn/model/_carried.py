"""Data that earlier steps of a Pipeline attached to structures, and checks of these data."""

import numpy as np

from ..data import symbols

PIPELINE = "Predict through the Pipeline that the model was fitted in"


def list_attached(X):
    """Return which of "offset", "scale" and "features" are attached to structures, as a set."""
    found = {"offset": bool(X.offset), "scale": bool(X.scale)}
    found["features"] = X.features is not None
    return {what for what, there in found.items() if there}


def name_attached(X):
    """Return which data are attached to structures, each with the names of its targets."""
    names = {"offset": frozenset(X.offset), "scale": frozenset(X.scale), "features": frozenset()}
    return {what: names[what] for what in list_attached(X)}


def check_carried(X, carried, scales, remedy, name="X", source="it carried in fit"):
    """Raise if structures lack one of these offsets and scales, or have another scale.

    The values of offsets are not compared, since they depend on the structures.
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
    """Raise if the features of structures have another descriptor or other elements than in fit."""
    found = X.features.parameters
    if found != parameters:
        raise ValueError(f"{name} carries features of {found}, but fit used {parameters}.")
    if not np.array_equal(X.features.elements, elements):
        raise ValueError(
            f"{name} carries features over the elements {symbols(X.features.elements)}, but fit "
            f"used {symbols(elements)}. Use the same fitted SoapFeaturizer."
        )
