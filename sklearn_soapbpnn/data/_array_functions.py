"""NumPy functions applied to Targets, which must not drop columns without notice."""

from __future__ import annotations

import numpy as np


def _one_after_the_other(arrays, axis=0):
    if axis not in (0, -1, None):
        raise np.exceptions.AxisError(axis, ndim=1)
    return arrays


# functions that join Targets, and how to get the parts from their arguments
JOINING = {
    np.concatenate: _one_after_the_other,
    np.append: lambda arr, values, axis=None: _one_after_the_other([arr, values], axis),
    np.hstack: _one_after_the_other,
}
# functions that select or reorder structures; the same selection is applied to every column
REARRANGING = {
    *(np.array_split, np.compress, np.delete, np.extract, np.flip, np.flipud),
    *(np.repeat, np.resize, np.roll, np.split, np.take, np.tile),
}
# functions whose result would have a new axis, or values that belong to no structure
REFUSED = {np.block, np.column_stack, np.dstack, np.insert, np.stack, np.vstack}


def apply_function(function, targets, args, kwargs):
    """Apply a NumPy function to arguments that contain Targets.

    Functions that join or rearrange structures act on every column. All others act on
    ``np.asarray(targets)``, as scikit-learn's metrics expect.
    """
    kind = type(targets)
    if function in JOINING:
        return kind.concatenate(JOINING[function](*args, **kwargs))
    if function in REARRANGING:
        args = [np.arange(len(arg)) if isinstance(arg, kind) else arg for arg in args]
        kwargs = {
            name: np.arange(len(arg)) if isinstance(arg, kind) else arg
            for name, arg in kwargs.items()
        }
        places = function(*args, **kwargs)
        return [targets[part] for part in places] if isinstance(places, list) else targets[places]
    if function in REFUSED:
        raise TypeError(
            f"numpy.{function.__name__} cannot join Targets. Use Targets.concatenate([a, b]) for "
            "structures one after the other, or np.asarray(y) for an array of numbers."
        )
    return np.empty(0).__array_function__(function, (np.ndarray,), args, kwargs)


def check_alike(parts, cls):
    """Return ``parts`` as a list of Targets (``cls``), if columns, kinds and units agree."""
    parts = list(parts)
    if not parts:
        raise ValueError("There are no Targets to join. Pass at least one.")
    first = parts[0]
    for index, part in enumerate(parts):
        if not isinstance(part, cls):
            raise TypeError(
                f"Only Targets can be joined with Targets, but number {index} has the type "
                f"{type(part).__name__}. Pass Targets(energy=energies) for an array of energies."
            )
        if set(part.names) != set(first.names):
            raise ValueError(
                f"Targets that are joined must have the same columns, but number 0 has "
                f"{list(first.names)} and number {index} has {list(part.names)}. Keep only the "
                "common columns with select(names), or fill missing columns with NaN, which means "
                "not labelled."
            )
        for name, kind in first.kinds.items():
            other = part.kinds[name]
            if (kind, kind.unit) != (other, other.unit):
                raise ValueError(
                    f"Targets that are joined must have the same kinds and units, but {name!r} is "
                    f"{kind!r} in number 0 and {other!r} in number {index}. Convert the values, "
                    f"and declare the same kind for both, e.g. kinds={{{name!r}: {kind!r}}}."
                )
    return parts
