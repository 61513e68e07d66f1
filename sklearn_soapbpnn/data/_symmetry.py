"""Whether labels of symmetric tensors are symmetric."""

from __future__ import annotations

import numpy as np

from ._kinds import ENERGY_KINDS, TargetKind

# an antisymmetric part larger than this, relative to the tensor, is not noise; tensors that are
# smaller than this part of the RMS of all may be noise themselves
LARGEST, SMALL = 0.1, 0.3
# norms below this are what sums of large numbers leave where the answer is zero
ROUNDING = 1e-9


def check_symmetric(name, column, kind):
    """Raise if labels of a symmetric kind are far from symmetric.

    Only the symmetric part could be learnt, so the error would never fall below the rest. Pairs of
    components that are not both labelled are not compared.
    """
    if not kind.is_symmetric or len(column) == 0:
        return
    values = np.concatenate(column) if kind.per_atom else column
    values = values.reshape(len(values), 3, 3, kind.size // 9)
    # numbers so large that their squares are infinite pass
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
    """Frobenius norms (n_rows, n_properties) of what is labelled."""
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
    return f", or declare what is not symmetric: kinds={{{name!r}: {general}}}"
