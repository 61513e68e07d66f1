"""The options of metatrain that are set for each target: heads, baselines, scales, losses.

The ``read_*`` functions take a value, its dotted path, and a list of problems, to which they append
whatever has no counterpart. They return the translation of the remaining part.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import numpy as np

from ...data import DERIVED_TARGETS, KNOWN_KINDS
from ...preprocessing import check_fixed_weights, check_scales
from ...training import TargetLoss, parse_loss

PREFIX = "mtt::"
# target names that metatrain uses without the prefix
STANDARD_TARGETS = {
    *("energy", "non_conservative_force", "non_conservative_forces", "non_conservative_stress"),
    *("charge", "heat_flux", "mass", "momentum", "position", "spin_multiplicity", "velocity"),
}
# losses and reductions with the same name and meaning on both sides
CHOICES = {"type": ("mse", "mae", "huber"), "reduction": ("mean", "sum")}
GRADIENTS = {"positions": "forces", "strain": "stress"}
# options of a loss in earlier versions that have no counterpart, with the values at which they have
# no effect
IDLE_TERM = {"sliding_factor": None}


def list_trained(training_set, problems):
    """Return the targets that metatrain would train on, or None without a ``training_set``."""
    if training_set is None:
        return None
    if isinstance(training_set, str):
        return ["energy"]
    parts = [training_set] if isinstance(training_set, Mapping) else training_set
    if not np.iterable(parts) or not all(isinstance(part, Mapping) for part in parts):
        return problems.append(
            f"training_set={training_set!r} (neither a data set nor a list of data sets)"
        )
    targets = {name: None for part in parts for name in part.get("targets") or ()}
    return list(rename(targets, "training_set.targets", problems))


def list_named(parameters, first=("energy",)):
    """Return the targets in ``first`` and all that arguments name, without derivatives."""
    loss = parameters.get("loss")
    fixed = parameters.get("fixed_composition_weights")
    names = [
        *first,
        *(parameters.get("heads") or ()),
        *(loss if isinstance(loss, Mapping) else ()),
        *map(str, parameters.get("per_structure_targets", ())),
        *check_fixed_weights(fixed, "fixed_composition_weights"),
        *(parameters.get("fixed_scaling_weights") or ()),
    ]
    return [name for name in dict.fromkeys(names) if name not in DERIVED_TARGETS]


def list_intensive(kinds):
    """Return a problem for each intensive target, since metatrain only learns sums over atoms."""
    return [
        f"the intensive target {name!r} (metatrain sums over atoms: declare it without "
        "intensive=True, and multiply its labels by the number of atoms)"
        for name, kind in kinds.items()
        if kind.intensive
    ]


def read_targets(value, path, problems):
    """Read a mapping with targets as keys; an empty one becomes None."""
    if isinstance(value, Mapping):
        return rename(value, path, problems) or None
    hint = (
        "a file; fit these weights, or write the numbers"
        if isinstance(value, str)
        else "not a mapping"
    )
    return problems.append(f"{path}={value!r} ({hint})")


def read_per_structure(names, path, problems):
    """Read the targets that are not divided by the number of atoms."""
    if isinstance(names, str) or not np.iterable(names):
        problems.append(f"{path}={names!r} (not a list)")
        return ()
    names = tuple(rename(dict.fromkeys(names), path, problems))
    # for the energy, metatrain does not divide its strain derivative either
    return (*names, "stress") if "energy" in names else names


def read_loss(loss, path, problems):
    """Read the loss of all targets."""
    if not isinstance(loss, Mapping):
        return loss if _check_choice("type", loss, path, problems) else "mse"
    parts = {}
    for name, entry in loss.items():
        term, derivatives = _read_terms(entry, f"{path}.{name}", problems)
        if str(name).removeprefix(PREFIX) == "energy":
            term |= _complete(term, derivatives)
        elif derivatives:
            problems.append(f"{path}.{name} ({' and '.join(derivatives)} belong to 'energy' only)")
        parts[name] = term
    return rename(parts, path, problems)


def list_lost(loss, targets):
    """Return the entries that metatrain drops without notice when it upgrades an old loss."""
    if not isinstance(loss, Mapping):
        return []
    # the first formats had one type for all targets, and other names for weights of derivatives
    weights = loss.get("weights") or {}
    lost = {f"loss.weights.{name}": value for name, value in weights.items() if name not in targets}
    terms = {"loss": loss} | {f"loss.{name}": term for name, term in loss.items()}
    lost |= {
        f"{path}.sliding_factor": term["sliding_factor"]
        for path, term in terms.items()
        if isinstance(term, Mapping) and term.get("sliding_factor") is not None
    }
    return [f"{path}={value!r}" for path, value in lost.items()]


def read_baseline(parameters, learnt):
    """Turn a baseline of zero for all targets, metatrain's way to have none, into none."""
    fixed = parameters.get("fixed_composition_weights") or {}
    zero = {name for name, value in fixed.items() if isinstance(value, Real) and value == 0}
    if zero and zero.issuperset([*learnt, *fixed]):
        del parameters["fixed_composition_weights"]
        parameters["remove_composition_contribution"] = False


def write_heads(heads, names, kinds, problems):
    """Return the head of every target, since metatrain's default differs from ours."""
    heads = {name: (heads or {}).get(name, "mlp") for name in names}
    kinds = {**KNOWN_KINDS, **kinds}
    for name, head in heads.items():
        if head == "mlp" and name in kinds and not kinds[name].is_scalar:
            problems.append(
                f"an MLP head of {name!r}, which is not a scalar "
                f"(heads={{{name!r}: 'linear'}} is available)"
            )
    return _write_names(heads)


def write_baseline(parameters, names):
    """Return fixed composition weights by atomic number."""
    if not parameters["remove_composition_contribution"]:
        return _write_names(dict.fromkeys(names, 0.0))
    fixed = parameters["fixed_composition_weights"]
    return _write_names(check_fixed_weights(fixed, "fixed_composition_weights"))


def write_scales(scales, problems):
    """Return fixed scales by atomic number."""
    scales = check_scales(scales, "fixed_scaling_weights")
    for name, scale in scales.items():
        if isinstance(scale, np.ndarray):
            problems.append(
                f"fixed_scaling_weights[{name!r}] with several numbers (one is allowed)"
            )
    return _write_names(scales)


def write_per_structure(names, learnt, problems):
    """Return the targets that are not divided by the number of atoms, by metatrain's names."""
    # the loss of the stress acts on the virial, and forces are never divided
    names = ["stress" if name == "virial" else str(name) for name in names if name != "forces"]
    energy, stress = "energy" in names, "stress" in names
    if (stress and not energy) or (energy and not stress and {"stress", "virial"} & set(learnt)):
        problems.append(
            "per_structure_targets with only one of 'energy' and 'stress' (both are allowed)"
        )
    return [_add_prefix(name) for name in dict.fromkeys(names) if name != "stress"]


def write_loss(loss, names, problems):
    """Return the loss of all targets, with every entry written out."""
    losses = parse_loss(loss, names)
    if isinstance(loss, str):
        _check_choice("type", loss, "loss", problems)
        return loss
    for name, part in losses.items():
        _check_choice("type", part.type, f"loss of {name!r}: type", problems)
    terms = {name: _write_term(losses[name]) for name in loss}
    if "energy" in terms:
        terms["energy"]["gradients"] = {
            theirs: _write_term(losses[ours]) for theirs, ours in GRADIENTS.items()
        }
    return _write_names(terms)


def rename(targets, path, problems):
    """Translate the keys of a mapping from metatrain's names of targets to ours."""
    renamed = {}
    for name, value in targets.items():
        ours = str(name).removeprefix(PREFIX)
        if ours in DERIVED_TARGETS:
            problems.append(f"{path}.{name} ({ours!r} follows from the energy; rename the target)")
        elif ours in renamed:
            problems.append(f"{path}.{name} (there is a target {ours!r} already)")
        else:
            renamed[ours] = value
    return renamed


def _write_names(targets):
    return {_add_prefix(name): value for name, value in targets.items()}


def _add_prefix(name):
    standard = name.split("/")[0] in STANDARD_TARGETS or "::" in name
    return name if standard else PREFIX + name


def _read_terms(entry, path, problems):
    """Read the loss of one target and of its derivatives, the latter by our names."""
    entry = dict(entry) if isinstance(entry, Mapping) else {"type": entry}
    derivatives = {}
    for theirs, ours in {"forces": "forces", "stress": "stress", "virial": "stress"}.items():
        if theirs in entry:
            derivatives[ours] = _read_term(entry.pop(theirs), f"{path}.{theirs}", problems)
    gradients = entry.pop("gradients", None) or {}
    if not isinstance(gradients, Mapping):
        problems.append(f"{path}.gradients={gradients!r} (not a mapping)")
        gradients = {}
    for theirs, part in gradients.items():
        ours = GRADIENTS.get(theirs)
        if ours is None:
            problems.append(f"{path}.gradients.{theirs}={part!r}")
            continue
        part = _read_term(part, f"{path}.gradients.{theirs}", problems)
        derivatives[ours] = {**derivatives.get(ours, {}), **part}
    return _read_term(entry, path, problems), derivatives


def _read_term(entry, path, problems):
    """Read a loss without derivatives."""
    entry = entry if isinstance(entry, Mapping) else {"type": entry}
    term = {}
    for name, value in entry.items():
        if name in IDLE_TERM and value == IDLE_TERM[name]:
            continue
        if name not in TargetLoss.__dataclass_fields__:
            problems.append(f"{path}.{name}={value!r}")
        elif _check_choice(name, value, f"{path}.{name}", problems):
            term[name] = value
    return term


def _check_choice(name, value, path, problems):
    """Return whether both sides have an entry of a loss; otherwise append it to the problems."""
    choices = CHOICES.get(name)
    if choices is None or value in choices:
        return True
    problems.append(f"{path}={value!r} ({', '.join(choices)} are available)")
    return False


def _complete(term, derivatives):
    """Write out entries that derivatives inherit from the energy here, but not in metatrain."""
    defaults = {"type": "mse", "reduction": "mean", "delta": 1.0}
    own = {name: value for name, value in defaults.items() if term.get(name, value) != value}
    parts = {ours: {**own, **derivatives.get(ours, {})} for ours in GRADIENTS.values()}
    return {ours: part for ours, part in parts.items() if part}


def _write_term(loss):
    term = {"type": loss.type, "weight": float(loss.weight), "reduction": loss.reduction}
    # metatrain's other losses do not accept delta
    return {**term, "delta": float(loss.delta)} if loss.type == "huber" else term
