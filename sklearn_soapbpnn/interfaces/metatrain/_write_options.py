"""From the regressor's constructor arguments to metatrain's ``options.yaml``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from sklearn.utils._param_validation import validate_parameter_constraints

from ...descriptors import SOAP_PARAMETERS
from ._option_targets import (
    list_intensive,
    list_named,
    write_baseline,
    write_heads,
    write_loss,
    write_per_structure,
    write_scales,
)
from ._options import (
    DEPRECATED,
    N_PSEUDO_SPECIES,
    OPTIMIZER,
    PRECISIONS,
    READERS,
    SAME,
    SPECIES_ENCODINGS,
)

# arguments that do not affect the result, or only together with early_stopping
NOT_WRITTEN = ("checkpoint_dir", "memory_limit", "n_iter_no_change", "verbose", "warm_start")


def write_options(model, path=None):
    """Return the hyperparameters of a regressor as metatrain's options.

    The user has to add ``training_set``, and to replace ``validation_set`` if it is not a fraction
    of ``training_set``. Arguments that do not affect the result (``checkpoint_dir``, ``verbose``,
    ``warm_start``) are omitted.

    Parameters
    ----------
    model : SoapBPNNRegressor
        If it is fitted, ``heads`` contains the targets that it has learnt, otherwise the energy; in
        both cases also all targets that its arguments name.
    path : str or path, default=None
        File to which the options are also written, as YAML.

    Returns
    -------
    dict
        The options, nested.

    Raises
    ------
    ValueError
        If an argument is invalid or has no counterpart; the message names all of them.
    """
    parameters, defaults = model.get_params(deep=False), type(model)().get_params(deep=False)
    constraints = model._parameter_constraints
    validate_parameter_constraints(constraints, parameters, type(model).__name__)
    fitted = getattr(model, "fitted_", None)
    kinds, targets = (fitted.kinds, fitted.targets) if fitted is not None else ({}, ())
    if fitted is not None:
        # the features may come from another step, with other parameters than the model's arguments
        parameters |= {name: getattr(fitted.steps.parameters, name) for name in SOAP_PARAMETERS}
    problems = [*_list_foreign(parameters, defaults), *list_intensive(kinds)]
    names = list_named(parameters, list(kinds) or ["energy"])
    encoding = {ours: legacy for legacy, ours in SPECIES_ENCODINGS.items()}
    training = {
        "loss": write_loss(parameters["loss"], names, problems),
        "atomic_baseline": write_baseline(parameters, names),
        "fixed_scaling_weights": write_scales(parameters["fixed_scaling_weights"], problems),
        "per_structure_targets": write_per_structure(
            parameters["per_structure_targets"], targets, problems
        ),
        # metatrain detects this itself, and warns if the option is set
        **({"distributed": True} if parameters["distributed"] else {}),
    }
    options = {
        **_write_base(parameters, problems),
        "architecture.name": "soap_bpnn",
        "architecture.model.legacy": encoding[parameters["species_encoding"]],
        "architecture.model.heads": write_heads(parameters["heads"], names, kinds, problems),
        **{key: parameters[name] for key, name in SAME.items()},
        **{f"architecture.training.{name}": value for name, value in training.items()},
    }
    if problems:
        raise ValueError(
            f"metatrain has no counterpart of: {'; '.join(problems)}. Change these values before "
            "writing options."
        )
    options = _nest(options)
    if path is not None:
        Path(path).write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    return options


def _write_base(parameters, problems):
    """Return the options outside ``architecture``."""
    bits = {ours: bits for bits, ours in PRECISIONS.items()}
    options = {"base_precision": bits[parameters["dtype"]]}
    seed, device = parameters["random_state"], str(parameters["device"])
    if isinstance(seed, np.random.RandomState):
        problems.append(f"random_state={seed!r} (only integers are available)")
    elif seed is not None:
        options["seed"] = seed
    if device in ("cpu", "cuda"):
        options["device"] = device
    elif device != "auto":
        problems.append(f"device={device!r} ('auto', 'cpu' and 'cuda' are available)")
    options["validation_set"] = parameters["validation_fraction"]
    return options


def _list_foreign(parameters, defaults):
    """Return the arguments that affect the result and that metatrain does not have."""
    known = {*SAME.values(), *DEPRECATED.values(), *(name for name, _ in READERS.values())}
    own = ("n_networks", "n_pseudo_species", "optimizer", "validation_fraction")
    known |= {*NOT_WRITTEN, *own}
    # also arguments that are added later: metatrain would otherwise train another model
    found = [
        name
        for name, default in defaults.items()
        if name not in known and parameters[name] not in (default, [], {})
    ]
    n_pseudo_species = parameters["n_pseudo_species"]
    if n_pseudo_species != N_PSEUDO_SPECIES:
        found.append(f"n_pseudo_species={n_pseudo_species} (metatrain has {N_PSEUDO_SPECIES})")
    if parameters["n_networks"] > 1:
        n_networks = parameters["n_networks"]
        found.append(f"n_networks={n_networks} (metatrain trains one, as n_networks=1 does)")
    if parameters["optimizer"] != OPTIMIZER:
        found.append(f"optimizer={parameters['optimizer']!r} (metatrain trains with {OPTIMIZER!r})")
    if parameters["validation_fraction"] == 0:
        found.append(
            "validation_fraction=0 (metatrain needs a validation set to pick the best epoch)"
        )
    return found


def _nest(options):
    """Turn dotted paths into nested dicts, with types that YAML can represent."""
    nested = {}
    for key, value in options.items():
        *parents, last = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value.item() if isinstance(value, np.generic) else value
    return nested
