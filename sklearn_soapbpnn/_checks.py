"""Checks of the regressor's parameters and data, before any work starts."""

import inspect
import textwrap
import warnings

import numpy as np
import torch

from .data import LEARNT_DERIVATIVES, as_structures, as_targets, check_elements, symbols
from .metrics import PER_ATOM
from .potentials import LongRangeParameters, check_long_range, import_torchpme
from .preprocessing import check_fixed_weights, check_scales
from .training import (
    check_callbacks,
    check_net_params,
    check_workers,
    estimate_weights,
    find_memory,
    parse_loss,
)

SOAP_PARAMETERS = ("cutoff_radius", "cutoff_width", "max_radial", "max_angular")
# real arrays of the size of the mesh that a long-range sum holds at once, for each charge
MESH_ARRAYS = 3
# what weights, baseline and scale of a fit stand for
FIXED_BY_FIT = (
    *SOAP_PARAMETERS,
    *("num_hidden_layers", "num_neurons_per_layer", "layernorm", "add_lambda_basis", "zbl"),
    *("species_encoding", "n_pseudo_species", "long_range", "use_ewald", "smearing"),
    *("kspace_resolution", "interpolation_nodes", "dtype", "scale_targets"),
    "remove_composition_contribution",
)
# what the input of the last layer of a target is called
LAST_LAYER = "_last_layer_features"


def check_parameters(model, targets, known=(), has_validation=False):
    """Check what constraints on single parameters cannot; return the loss of each target.

    ``known`` holds the kinds of the targets of a fit that is gone on with.
    """
    kinds = {**dict(known), **targets.kinds}
    learnt = [*known, *(name for name in list_learnt(targets) if name not in known)]
    for target, head in (model.heads or {}).items():
        if target not in learnt or head not in ("mlp", "linear"):
            raise ValueError(
                f"heads={{{target!r}: {head!r}}}: the target must be one of {learnt}, the head "
                "'mlp' or 'linear'."
            )
    allowed = {*kinds, *(LEARNT_DERIVATIVES if "energy" in kinds else ())}
    unknown = sorted(set(model.per_structure_targets) - allowed)
    if unknown:
        raise ValueError(f"per_structure_targets names {unknown}; it may name {sorted(allowed)}.")
    check_fixed_weights(model.fixed_composition_weights, "fixed_composition_weights", kinds)
    check_scales(model.fixed_scaling_weights, "fixed_scaling_weights", kinds)
    if model.cutoff_width > model.cutoff_radius:
        raise ValueError(
            f"cutoff_width={model.cutoff_width} must not exceed "
            f"cutoff_radius={model.cutoff_radius}."
        )
    if model.zbl and "energy" not in kinds:
        raise ValueError(f"zbl=True needs a target 'energy', but y has {list(targets.names)}.")
    if model.long_range:
        import_torchpme()
        if model.num_hidden_layers == 0:
            raise ValueError(
                "long_range=True needs hidden layers, whose features are the charges: set "
                "num_hidden_layers to 1 or more."
            )
    if model.early_stopping and model.validation_fraction == 0 and not has_validation:
        raise ValueError(
            "early_stopping=True needs validation structures: raise validation_fraction=0, or pass "
            "X_val and y_val."
        )
    check_callbacks(model.callbacks)
    check_workers(model.num_workers)
    check_net_params(
        model.net_params, model.optimizer, model.learning_rate, resolve_device(model.device)
    )
    return parse_loss(model.loss, learnt)


def describe_model(model, names):
    """Return the parameters that a fit which goes on must not change."""
    heads = model.heads or {}
    fixed = {
        "fixed_scaling_weights": check_scales(model.fixed_scaling_weights),
        "fixed_composition_weights": check_fixed_weights(model.fixed_composition_weights),
    }
    return {
        **{name: getattr(model, name) for name in FIXED_BY_FIT},
        **{key: {n: w[n] for n in names if n in w} for key, w in fixed.items()},
        "heads": {name: heads.get(name, "mlp") for name in names},
    }


def check_continues(model, X, y):
    """Raise if a fitted model cannot go on with other data or parameters."""
    check_elements(X, model.elements_, what="the fit before", remedy="Fit with warm_start=False")
    now = describe_model(model, model.kinds_)
    for name, value in model._fixed.items():
        # values may be arrays, which do not compare as one
        if repr(now[name]) != repr(value):
            raise ValueError(
                f"{name}={now[name]!r}, but the fit that this goes on with had {value!r}. Set it "
                "back, or start afresh: fit with warm_start=False."
            )
    for name in list_learnt(y):
        known = model.kinds_.get(name, y.kinds[name])
        if known != y.kinds[name]:
            raise ValueError(
                f"Target {name!r} is {y.kinds[name]!r}, but the fit that this goes on with had "
                f"{known!r}. Declare it as before (kinds=model.kinds_), or under another name."
            )
    new = [name for name in list_learnt(y) if name not in model.kinds_]
    if new and model.num_hidden_layers == 0:
        raise ValueError(
            f"y has the new targets {new}, but without hidden layers (num_hidden_layers=0) there "
            f"is nothing that they share with {list(model.kinds_)}. Fit a model of their own."
        )
    attached = list_attached(X)
    carried = model._steps.carried
    if attached != carried.keys():
        raise ValueError(
            f"The fit that this goes on with had structures that carry {sorted(carried)}, but X "
            f"carries {sorted(attached)}. Use the same Pipeline steps."
        )
    remedy = "Set warm_start=True on every step of the Pipeline, so that they keep what they know"
    check_carried(X, carried, model._steps.scales, remedy)


def check_carried(X, carried, scales, remedy, name="X", source="it carried in fit"):
    """Raise if structures do not carry these offsets and scales, of these targets.

    Offsets themselves are not compared, since they depend on the structures.
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


def check_degrees(kinds, max_angular):
    """Raise if a tensor is of higher degree than the expansion that it is built from."""
    for name, kind in kinds.items():
        degree = max(block.o3_lambda for block in kind.blocks)
        if any((block.o3_lambda, block.o3_sigma) != (0, 1) for block in kind.blocks):
            degree = max(degree, 1)
        if degree > max_angular:
            raise ValueError(
                f"Target {name!r} is built from spherical harmonics of degree {degree}, but "
                f"max_angular={max_angular}. Raise max_angular to {degree}."
            )


def resolve_device(device):
    """Return the torch device that a ``device`` argument stands for."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as err:
        raise ValueError(
            f"device={device!r} cannot be used: {_first_line(err)}. Choose 'auto' or 'cpu'."
        ) from err


def _first_line(err):
    """What an error says, without the pages that some libraries print after it."""
    lines = str(err).splitlines() or [type(err).__name__]
    return textwrap.shorten(lines[0].rstrip("."), 150, placeholder="...")


def list_learnt(targets):
    """Names of the targets that have an output of their own: all but derivatives."""
    return [name for name in targets.names if name not in LEARNT_DERIVATIVES]


def check_learnt(targets, structures, name="y"):
    """Return targets that can be learnt from; ``name`` is what messages call them."""
    columns = list(targets.names)
    if "energies" in columns:
        raise ValueError(
            f"{name} has a column 'energies', which is what the model says of atoms, not a target. "
            "Give labels of atoms another name, e.g. Targets(kinds={'atomic_energy': "
            "TargetKind.scalar(per_atom=True)}, atomic_energy=...)."
        )
    # outputs of predict, errors in tables, what evaluation holds, errors of blocks in history_
    taken = {"features", PER_ATOM, "strain_gradient"}
    for column, kind in targets.kinds.items():
        taken |= {f"{column}[{block}]" for block in kind.scale_names}
    clashing = [column for column in columns if column in taken or column.endswith(LAST_LAYER)]
    if clashing:
        raise ValueError(
            f"{name} has the columns {clashing}, but these names stand for something else in "
            "predict, in the metrics or in history_. Give the columns other names."
        )
    if {"stress", "virial"} <= set(columns):
        raise ValueError(f"{name} has both 'stress' and 'virial', which are one. Leave one out.")
    for column in columns:
        kind = targets.kinds[column]
        if not kind.per_volume and column != "virial":
            continue
        known = np.isfinite(targets[column]).reshape(len(structures), -1).any(1)
        if not known[structures.volumes > 0].any():
            raise ValueError(
                f"Target {column!r} of {name}: no structure with a label has a cell of finite "
                "volume. Set the cells, or leave the target out."
            )
    return targets


def check_names(targets, kinds):
    """Return the names of what can be predicted by a model of these targets."""
    names = [targets] if isinstance(targets, str) else list(np.ravel(targets).tolist())
    available = [*kinds, *(("energies", *LEARNT_DERIVATIVES) if "energy" in kinds else ())]
    available += ["features", *(name + LAST_LAYER for name in kinds)]
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        what = repr(unknown[0]) if unknown else "nothing"
        raise ValueError(f"targets names {what}; available are {available}.")
    return names


def warn_of_constant(names, kinds, targets, stacklevel):
    """Warn if energies are to be predicted that were learnt from their derivatives alone."""
    if {"energy", "energies"} & {*names} and "energy" in kinds and "energy" not in targets:
        warnings.warn(
            f"The model learnt {list(targets)} without energies, so its energies are known up to a "
            "constant for each composition: compare them at one composition only, or fit with "
            "energies of some structures.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def check_validation(model, X, y, X_val, y_val, keep):
    """Return validation structures and labels that fit the training data, or None."""
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val must be given together.")
    if X_val is None:
        return None
    X_val = as_structures(X_val, "X_val")
    y_val = check_learnt(as_targets(y_val, X_val, "y_val", "X_val"), X_val, "y_val")
    missing, more = list_attached(X) - list_attached(X_val), list_attached(X_val) - list_attached(X)
    if missing:
        raise ValueError(
            f"X_val lacks the {' and '.join(sorted(missing))} that X carries. Inside a Pipeline, "
            "set transform_input=['X_val'] so that X_val goes through its steps."
        )
    remedy = "Pass both through the same steps"
    if more:
        raise ValueError(
            f"X_val carries the {' and '.join(sorted(more))}, which X lacks. {remedy}."
        )
    check_carried(X_val, name_attached(X), X.scale, remedy, "X_val", "X carries")
    if y_val.kinds != y.kinds:
        raise ValueError(f"y_val has the columns {y_val.kinds}, but y has {y.kinds}.")
    elements, what = (model.elements_, "the fit before") if keep else (X.elements, "X")
    check_elements(X_val, elements, "X_val", what)
    check_sums(model, X_val, resolve_device(model.device), "X_val")
    if X.features is not None:
        check_features(X_val, X.features.parameters, X.features.elements, "X_val")
    return X_val, y_val


def measure_network(model, n_elements, parameters):
    """Return the bytes that the weights take in training, as far as they grow with the elements."""
    if model.species_encoding != "orthogonal":
        return 0
    itemsize = np.dtype(model.dtype).itemsize
    return estimate_weights(parameters, n_elements, model.num_neurons_per_layer, itemsize)


def check_network(model, elements, parameters):
    """Raise if the weights of so many elements do not fit into memory."""
    size = measure_network(model, len(elements), parameters)
    most = max(model.memory_limit or 0, find_memory(resolve_device(model.device)))
    if size > most:
        raise ValueError(
            f"X contains {len(elements)} elements, for which species_encoding='orthogonal' takes "
            f"{size / 2**30:.0f} GiB of weights in training, more than {most / 2**30:.0f} GiB. Set "
            "species_encoding='alchemical', whose weights hardly grow with the elements, lower "
            "max_radial, max_angular or num_neurons_per_layer, or raise memory_limit."
        )


def check_sums(model, X, device, name="X"):
    """Raise if long-range sums over structures are not known, or their mesh fits no memory."""
    if not model.long_range:
        return
    itemsize = np.dtype(model.dtype).itemsize
    most = 2 * find_memory(device) / (MESH_ARRAYS * itemsize * model.num_neurons_per_layer)
    check_long_range(X, find_long_range(model), most, name)


def find_long_range(model):
    """Return the hyperparameters of the long-range features."""
    return LongRangeParameters(
        bool(model.use_ewald),
        float(model.smearing),
        float(model.kspace_resolution),
        int(model.interpolation_nodes),
    )


def check_groups(groups, X, has_validation):
    """Return the group of each structure as an array, or None."""
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (len(X),):
        raise ValueError(
            f"groups must name the group of each of the {len(X)} structures, got an array of shape "
            f"{groups.shape}."
        )
    if any(group != group for group in groups.tolist()):
        raise ValueError("groups contains NaN. Give every structure a group.")
    # of mixed types, which cannot be sorted
    labels = [repr(group) for group in groups] if groups.dtype == object else groups
    if not has_validation and len(np.unique(labels)) < 2:
        raise ValueError(
            f"groups names {groups.tolist()[0]!r} for every structure, so none can be held out. "
            "Leave it out, or pass X_val and y_val."
        )
    return np.asarray(labels)


def check_features(X, parameters, elements, name="X"):
    """Raise if structures carry features of another descriptor than fit saw."""
    found = X.features.parameters
    if found != parameters:
        raise ValueError(f"{name} carries features of {found}, but fit saw {parameters}.")
    if not np.array_equal(X.features.elements, elements):
        raise ValueError(
            f"{name} carries features over the elements {symbols(X.features.elements)}, but fit "
            f"saw {symbols(elements)}. Use the same fitted SoapFeaturizer."
        )


def list_attached(X):
    """Return what structures carry."""
    found = {"offset": bool(X.offset), "scale": bool(X.scale)}
    found["features"] = X.features is not None
    return {what for what, there in found.items() if there}


def name_attached(X):
    """Return what structures carry, and of which targets."""
    names = {"offset": frozenset(X.offset), "scale": frozenset(X.scale), "features": frozenset()}
    return {what: names[what] for what in list_attached(X)}


def check_contradictions(model, X):
    """Refuse parameters that were set on the regressor, but come with X already."""
    attached = list_attached(X)
    if model.zbl and "forces" in X.offset:
        raise ValueError(
            "zbl=True contradicts the ZBL energy that X carries, which would be subtracted twice. "
            "Leave zbl=False behind a ZBLBaseline."
        )
    own = {"offset": "fixed_composition_weights", "scale": "fixed_scaling_weights"}
    for what, name in own.items():
        if what in attached and getattr(model, name) is not None:
            raise ValueError(
                f"{name}={getattr(model, name)!r} contradicts the {what} that X carries. Set it "
                "on the step that attached it."
            )
    if "features" not in attached:
        return
    defaults = inspect.signature(type(model)).parameters
    for name in SOAP_PARAMETERS:
        value, carried = getattr(model, name), getattr(X.features.parameters, name)
        if value not in (carried, defaults[name].default):
            raise ValueError(
                f"{name}={value!r} contradicts the features that X carries, which have "
                f"{name}={carried!r}. Set it on the SoapFeaturizer only."
            )
    if np.dtype(model.dtype).itemsize > X.features.dtype.itemsize:
        raise ValueError(
            f"dtype={model.dtype!r} contradicts the features that X carries, which have dtype "
            f"{X.features.dtype}. Set SoapFeaturizer(dtype={model.dtype!r})."
        )
