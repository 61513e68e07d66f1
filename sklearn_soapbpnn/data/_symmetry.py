"""Check that labels of symmetric tensors are symmetric."""

from __future__ import annotations

import numpy as np

from ._kinds import TargetKind
from ._known_kinds import ENERGY_KINDS

# LARGEST: a relative antisymmetric part above this is not noise. SMALL: tensors smaller than this
# fraction of the RMS over all labels may be noise themselves, and are compared with that size.
LARGEST, SMALL = 0.1, 0.3
# norms below this are rounding errors of values that should be zero
ROUNDING = 1e-9


def check_symmetric(name, column, kind):
    """Raise if labels of a symmetric kind are far from symmetric.

    The model can learn only the symmetric part, so the antisymmetric part would remain as an error.
    Pairs of components are compared only if both are labelled.

    Parameters
    ----------
    name : str
        Name of the target in error messages.
    column : array, or list of arrays if the kind is per atom
        The labels.
    kind : TargetKind
        Kind of the target; kinds that are not symmetric always pass.

    Raises
    ------
    ValueError
        If the antisymmetric part of a label exceeds a tenth of its norm.
    """
    if not kind.is_symmetric or len(column) == 0:
        return
    values = np.concatenate(column) if kind.per_atom else column
    values = values.reshape(len(values), 3, 3, kind.size // 9)
    # values whose squares overflow pass the check
    with np.errstate(over="ignore", invalid="ignore"):
        size = _norm((values - values.swapaxes(1, 2)) / 2)
        norm = _norm(values)
        n_labelled = np.maximum((norm > 0).sum(0), 1)
        typical = np.sqrt((norm**2).sum(0) / n_labelled)
        asymmetry = size / np.maximum(np.maximum(norm, SMALL * typical), ROUNDING)
        asymmetry = np.nan_to_num(asymmetry)
    if not (asymmetry > LARGEST).any():
        return
    worst = np.unravel_index(asymmetry.argmax(), asymmetry.shape)
    number = int((asymmetry > LARGEST).any(1).sum())
    raise ValueError(
        f"Target {name!r} of {_describe_row(worst[0], column, kind)} is not symmetric: its "
        f"antisymmetric part is {size[worst] / norm[worst]:.0%} of its norm ({number} of "
        f"{len(values)} labels are like this). Check the order of the nine numbers; if it is "
        f"right, pass the symmetric part, (a + a.T) / 2{_suggest_kind(name, kind)}."
    )


def _norm(values):
    """Return Frobenius norms over the labelled components: (n_rows, n_properties)."""
    return np.sqrt(np.nansum(values**2, axis=(1, 2)))


def _describe_row(row, column, kind):
    if not kind.per_atom:
        return f"structure {row}"
    ends = np.cumsum([len(values) for values in column])
    index = int(np.searchsorted(ends, row, side="right"))
    return f"atom {row - ends[index] + len(column[index])} of structure {index}"


def _suggest_kind(name, kind):
    if name in ENERGY_KINDS:
        return ""
    general = TargetKind.tensor(
        *kind.shape[2:], per_atom=kind.per_atom, per_volume=kind.per_volume, unit=kind.unit
    )
    return f", or declare a tensor that is not symmetric: kinds={{{name!r}: {general}}}"
