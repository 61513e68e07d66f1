"""Outputs of a model by name: targets, derivatives of the energy, features."""

import warnings
from numbers import Integral

import numpy as np

from ..data import DERIVED_TARGETS, KNOWN_KINDS, TargetKind, find_volumes, suggest

# name of the output of the hidden layers
FEATURES = "features"
# suffix of the name of a target that stands for the input of its last layer
LAST_LAYER = "_last_layer_features"


def list_outputs(kinds):
    """Return the names of all outputs of a model with these targets."""
    derived = DERIVED_TARGETS if "energy" in kinds else ()
    return [*kinds, *derived, FEATURES, *(name + LAST_LAYER for name in kinds)]


def check_names(names, kinds):
    """Return names as a list; raise if one is not an output of a model with these targets."""
    names = [names] if isinstance(names, str) else list(np.ravel(names).tolist())
    available = list_outputs(kinds)
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        what = repr(unknown[0]) if unknown else "nothing"
        hint = suggest(unknown[0], available) if unknown else ""
        raise ValueError(f"targets names {what}; available are {available}.{hint}")
    return names


def check_n_samples(n_samples, return_std):
    """Return the number of members; raise if it is not a positive integer."""
    if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer, or None, got {n_samples!r}.")
    if return_std:
        raise ValueError("Set either return_std or n_samples, not both.")
    return int(n_samples)


def is_features(name):
    """Return whether a name stands for features rather than for a prediction."""
    return name == FEATURES or name.endswith(LAST_LAYER)


def find_output_kind(name, kinds, values):
    """Return the kind of an output, given its values."""
    if name in kinds:
        return kinds[name]
    if name in KNOWN_KINDS:
        return KNOWN_KINDS[name]
    return TargetKind.scalar(values[0].shape[1], per_atom=True)


def find_main(kinds):
    """Return the name of the target that is predicted and scored by default.

    ``np.asarray`` of Targets with these kinds returns the same one, unless it raises an error.
    """
    per_structure = [name for name, kind in kinds.items() if not kind.per_atom]
    scalars = [name for name in per_structure if kinds[name].shape == ()]
    return "energy" if "energy" in kinds else [*scalars, *per_structure, *kinds][0]


def check_volumes(structures, names, kinds):
    """Raise if an output needs the volume, but no structure has a cell of finite volume."""
    known = {**KNOWN_KINDS, **kinds}
    wanted = [n for n in names if n == "virial" or (n in known and known[n].per_volume)]
    if wanted and np.isnan(find_volumes(structures)).all():
        raise ValueError(
            f"X has no cell of finite volume, so there is no {' or '.join(sorted(wanted))}. "
            "Leave these targets out, or set cells."
        )


def warn_of_constant(names, kinds, targets, stacklevel):
    """Warn if energies are requested that were learnt from their derivatives alone."""
    if {"energy", "energies"} & {*names} and "energy" in kinds and "energy" not in targets:
        warnings.warn(
            f"The model was fitted on {list(targets)} without energies, so its energies are known "
            "up to a constant for each composition. Compare only energies of the same composition, "
            "or fit with the energies of some structures.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
