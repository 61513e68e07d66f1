"""Targets whose kinds are known by name, and which of them derive from the energy."""

from __future__ import annotations

from ._kinds import TargetKind

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

# the energy, its parts and its derivatives: only the unit of these kinds may be changed
ENERGY_KINDS = {
    name: KNOWN_KINDS[name] for name in ("energy", "forces", "stress", "virial", "energies")
}
# derivatives of the energy, and atomic energies: such targets have no baseline, scale or head
LEARNT_DERIVATIVES = ("forces", "stress", "virial")
DERIVED_TARGETS = (*LEARNT_DERIVATIVES, "energies")


def has_derivatives(names):
    """Whether a derivative of the energy is among some names of targets."""
    return any(name in LEARNT_DERIVATIVES for name in names)


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
