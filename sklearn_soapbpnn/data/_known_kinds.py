"""Targets whose kinds are known by name, and which of them derive from the energy."""

from __future__ import annotations

from ._kinds import TargetKind
from ._spelling import suggest

KNOWN_KINDS = {
    "energy": TargetKind.scalar(unit="eV"),
    "forces": TargetKind.vector(per_atom=True, unit="eV/Angstrom"),
    "stress": TargetKind.tensor(symmetric=True, per_volume=True, unit="eV/Angstrom^3"),
    "virial": TargetKind.tensor(symmetric=True, unit="eV"),
    "energies": TargetKind.scalar(per_atom=True, unit="eV"),
    "dipole": TargetKind.vector(unit="e Angstrom"),
    "polarizability": TargetKind.tensor(symmetric=True),
    "charges": TargetKind.scalar(per_atom=True, unit="e"),
    "non_conservative_forces": TargetKind.vector(per_atom=True, unit="eV/Angstrom"),
    "non_conservative_stress": TargetKind.tensor(
        symmetric=True, per_volume=True, unit="eV/Angstrom^3"
    ),
}

# derivatives of the energy that can be learnt
LEARNT_DERIVATIVES = ("forces", "stress", "virial")
# outputs that follow from the energy, which have no baseline, scale or head
DERIVED_TARGETS = ("energies", *LEARNT_DERIVATIVES)
# only the unit of these kinds may be changed
ENERGY_KINDS = {name: KNOWN_KINDS[name] for name in ("energy", *DERIVED_TARGETS)}


def has_derivatives(names):
    """Return whether names include an output that needs derivatives of the energy."""
    return any(name in DERIVED_TARGETS and name != "energies" for name in names)


def find_kind(name, declared):
    """Return the kind of a target that is declared, or known by its name; raise without one."""
    kind = declared.get(name, KNOWN_KINDS.get(name))
    if kind is None and name not in declared:
        known = sorted({*KNOWN_KINDS, *declared})
        raise ValueError(
            f"The kind of target {name!r} is not known (known: {known}).{suggest(name, known)} "
            f"Declare it, e.g. kinds={{{name!r}: TargetKind.scalar()}}."
        )
    if not isinstance(kind, TargetKind):
        raise TypeError(
            f"kinds[{name!r}] must be a TargetKind, e.g. TargetKind.scalar(), got {kind!r}."
        )
    return check_kind(name, kind)


def check_kind(name, kind):
    """Return the kind of a target; raise if its name stands for another one."""
    if name not in ENERGY_KINDS:
        return kind
    own = ENERGY_KINDS[name]
    for what in ("shape", "per_atom", "cartesian_rank", "intensive"):
        if getattr(kind, what) != getattr(own, what):
            raise ValueError(
                f"kinds[{name!r}]={kind!r} changes what {name!r} means: its {what} must be "
                f"{getattr(own, what)!r}. Change only its unit, or use another name."
            )
    return own.with_unit(kind.unit)
