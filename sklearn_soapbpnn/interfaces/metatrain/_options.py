"""The names of metatrain's options, and from ``options.yaml`` to constructor arguments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

import yaml

from ...data import suggest
from ._option_targets import (
    list_named,
    list_trained,
    read_baseline,
    read_loss,
    read_per_structure,
    read_targets,
    rename,
)

# entries of an options file that are not hyperparameters
NOT_READ = ("training_set", "validation_set", "test_set", "wandb", "print_stats", "final_eval")
# options without a counterpart, with the values at which they have no effect
IDLE = {
    "architecture.training.max_atoms_per_batch": None,
    "architecture.training.min_atoms_per_batch": 0,
    "test_set": 0,
    "final_eval": True,
    "print_stats": "auto",
}
DEVICES = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda", "mps": "mps"}
PRECISIONS = {32: "float32", 64: "float64"}
SPECIES_ENCODINGS = {True: "orthogonal", False: "alchemical"}
N_PSEUDO_SPECIES = 4  # metatrain's
OPTIMIZER = "adam"  # metatrain's

_MODEL = {
    "soap.max_angular": "max_angular",
    "soap.max_radial": "max_radial",
    "soap.cutoff.radius": "cutoff_radius",
    "soap.cutoff.width": "cutoff_width",
    "bpnn.num_hidden_layers": "num_hidden_layers",
    "bpnn.num_neurons_per_layer": "num_neurons_per_layer",
    "bpnn.layernorm": "layernorm",
    "add_lambda_basis": "add_lambda_basis",
    "zbl": "zbl",
    "long_range.enable": "long_range",
    "long_range.use_ewald": "use_ewald",
    "long_range.smearing": "smearing",
    "long_range.kspace_resolution": "kspace_resolution",
    "long_range.interpolation_nodes": "interpolation_nodes",
}
_TRAINING = (
    *("distributed_port", "batch_size", "num_epochs", "warmup_fraction", "learning_rate"),
    *("log_interval", "checkpoint_interval", "scale_targets", "num_workers", "log_mae"),
    *("log_separate_blocks", "best_model_metric"),
)
# dotted path -> argument, for values with the same meaning on both sides
SAME = {
    **{f"architecture.model.{path}": name for path, name in _MODEL.items()},
    **{f"architecture.training.{name}": name for name in _TRAINING},
}
# the same for options that are deprecated or that only earlier versions of metatrain had
DEPRECATED = {
    f"architecture.training.{name}": name
    for name in ("distributed", "remove_composition_contribution")
}


def read_options(path):
    """Return the constructor arguments that correspond to metatrain's options.

    A target without a head in the options gets a linear head, as in metatrain's code (its
    documentation says MLP). ``heads`` therefore names every target of ``training_set``, or, without
    a ``training_set``, the energy and all targets that other options name.

    Parameters
    ----------
    path : str, path or mapping
        An ``options.yaml`` of the architecture ``soap_bpnn``, or its content.

    Returns
    -------
    dict
        Arguments that the options set, and ``heads``. The prefix ``mtt::`` is removed from the
        names of targets. If ``validation_set`` is a number, it becomes ``validation_fraction``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is not YAML or is for another architecture, or if options are unknown or have no
        counterpart; the message names all of them.

    Warns
    -----
    UserWarning
        If the options contain data sets or other entries that are not constructor arguments.
    """
    options = _load(path)
    parameters, problems, not_read = _read(options)
    learnt = list_trained(options.get("training_set"), problems)
    if problems:
        raise ValueError(
            f"SoapBPNNRegressor has no counterpart of: {'; '.join(problems)}. Remove these options "
            "or change them."
        )
    learnt = list_named(parameters) if learnt is None else learnt
    read_baseline(parameters, learnt)
    parameters["heads"] = {
        **dict.fromkeys(learnt, "linear"),
        **(parameters.get("heads") or {}),
    }
    if not_read:
        warnings.warn(
            f"The options name {', '.join(not_read)}, which are not arguments of a regressor. Pass "
            "the data to fit(X, y, X_val=..., y_val=...), with lists of ase.Atoms as X and "
            "Targets.from_atoms(X, energy=..., forces=...) as y.",
            UserWarning,
            stacklevel=3,
        )
    return parameters


def read_hypers(model, training, targets):
    """Return the constructor arguments of a checkpoint, and its training options without one.

    Training options without a counterpart are not an error, since predictions do not depend on
    them. Model options without a counterpart are.

    Parameters
    ----------
    model, training : mapping
        The entries ``model`` and ``training`` under ``architecture`` in the options.
    targets : iterable of str
        Targets of the checkpoint, by metatrain's names.

    Returns
    -------
    parameters : dict
        Arguments; ``heads`` contains exactly these targets.
    left_out : list of str
        Training options without a counterpart.

    Raises
    ------
    ValueError
        If model options or targets have no counterpart; the message names all of them.
    """
    parameters, problems, _ = _read({"architecture": {"model": model}})
    learnt = rename(dict.fromkeys(targets, "linear"), "targets", problems)
    if problems:
        raise ValueError(
            "The checkpoint's predictions depend on unsupported options: SoapBPNNRegressor has no "
            f"counterpart of: {'; '.join(problems)}. Predict with metatrain, or train a model "
            "without them."
        )
    of_training, left_out, _ = _read({"architecture": {"training": training}})
    parameters |= of_training
    read_baseline(parameters, learnt)
    heads = parameters.get("heads") or {}
    parameters["heads"] = {name: heads.get(name, head) for name, head in learnt.items()}
    return parameters, [option.removeprefix("architecture.training.") for option in left_out]


class _Loader(yaml.SafeLoader):
    """Loader of YAML as metatrain reads it, in which 1e-3 is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), "-+0123456789"
)


def _load(path):
    """Return the options as a mapping, after checking that the architecture is ``soap_bpnn``."""
    options = path
    if not isinstance(path, Mapping):
        try:
            options = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
        except yaml.YAMLError as err:
            raise ValueError(f"path={str(path)!r} is not a YAML file: {err}") from err
    if not isinstance(options, Mapping):
        raise ValueError(f"path={str(path)!r} holds {options!r}, not a mapping of options.")
    architecture = options.get("architecture")
    name = architecture.get("name") if isinstance(architecture, Mapping) else architecture
    if name != "soap_bpnn":
        raise ValueError(
            f"architecture.name is {name!r}; only options of metatrain's 'soap_bpnn' can be read."
        )
    return options


def _read(options):
    """Return arguments, options without a counterpart, and entries that are not read."""
    parameters, problems, not_read = {"optimizer": OPTIMIZER}, [], []
    for key, value in _flatten(options):
        if key == "validation_set" and isinstance(value, Real):
            parameters["validation_fraction"] = value
        elif key == "architecture.name" or (key in IDLE and value == IDLE[key]):
            continue
        elif key in NOT_READ:
            not_read.append(key)
        elif isinstance(value, str) and "${" in value:
            problems.append(f"{key}={value!r} (write the value itself)")
        elif key in READERS:
            name, read = READERS[key]
            parameters[name] = read(value, key, problems)
        elif key in SAME or key in DEPRECATED:
            parameters[{**SAME, **DEPRECATED}[key]] = value
        else:
            problems.append(f"{key}={value!r}{_suggest_option(key)}")
    return parameters, problems, not_read


def _suggest_option(key):
    """Return which option of the same section may be meant, or of all if there is no such section.

    The names of whole paths are always similar, since most of them have the section in common.
    """
    known = [*SAME, *READERS, *IDLE, *NOT_READ]
    section, _, name = f".{key}".rpartition(".")
    prefix = f"{section}.".removeprefix(".")
    siblings = [path.removeprefix(prefix) for path in known if path.startswith(prefix)]
    hint = suggest(name, siblings) if siblings else suggest(key, known, cutoff=0.9)
    return f" ({hint.strip()})" if hint else ""


def _flatten(options, prefix=""):
    """Yield the dotted path and the value of each option."""
    for key, value in options.items():
        key = f"{prefix}{key}"
        if isinstance(value, Mapping) and key not in READERS and key not in NOT_READ:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _make_reader(choices):
    def read(value, key, problems):
        for choice, ours in choices.items():
            # compare types as well: as in metatrain, 1 is not True
            if value == choice and type(value) is type(choice):
                return ours
        return problems.append(f"{key}={value!r} ({', '.join(map(repr, choices))} are available)")

    return read


READERS = {
    "device": ("device", _make_reader(DEVICES)),
    "base_precision": ("dtype", _make_reader(PRECISIONS)),
    "seed": ("random_state", lambda seed, *_: seed),
    "architecture.model.legacy": ("species_encoding", _make_reader(SPECIES_ENCODINGS)),
    "architecture.model.heads": ("heads", read_targets),
    "architecture.training.loss": ("loss", read_loss),
    "architecture.training.atomic_baseline": ("fixed_composition_weights", read_targets),
    # the name of atomic_baseline in earlier versions
    "architecture.training.fixed_composition_weights": ("fixed_composition_weights", read_targets),
    "architecture.training.fixed_scaling_weights": ("fixed_scaling_weights", read_targets),
    "architecture.training.per_structure_targets": ("per_structure_targets", read_per_structure),
}
