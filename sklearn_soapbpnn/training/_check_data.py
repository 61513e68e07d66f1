"""Checks of the data and parameters of a fit, before any work starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight

from ..data import (
    DERIVED_TARGETS,
    LEARNT_DERIVATIVES,
    Structures,
    TargetKind,
    Targets,
    as_structures,
    as_targets,
    check_elements,
    check_labelled,
    find_volumes,
    list_labelled,
)
from ..metrics import PER_ATOM
from ..model import (
    FEATURES,
    LAST_LAYER,
    FittedModel,
    check_carried,
    check_features,
    list_attached,
    name_attached,
)
from ._check_parameters import check_contradictions, check_degrees, check_memory, check_parameters
from ._losses import TargetLoss


@dataclass(frozen=True)
class FitData:
    """Data of a fit, after all checks.

    Parameters
    ----------
    X, y, sample_weight, groups
        See :meth:`SoapBPNNRegressor.fit`.
    validation : tuple of Structures and Targets, or None
        ``X_val`` and ``y_val``.
    before : FittedModel or None
        Model from which the fit continues.
    losses : dict of str to TargetLoss
        Loss of each target.
    """

    X: Structures
    y: Targets
    sample_weight: np.ndarray | None
    groups: np.ndarray | None
    validation: tuple[Structures, Targets] | None
    before: FittedModel | None
    losses: dict[str, TargetLoss]

    @property
    def known(self) -> dict[str, TargetKind]:
        """Targets of the model from which the fit continues."""
        return {} if self.before is None else self.before.kinds

    @property
    def weights(self) -> dict[str, torch.Tensor] | None:
        """Initial weights; None if the fit starts from scratch."""
        return None if self.before is None else self.before.network.state_dict()

    @property
    def kinds(self) -> dict[str, TargetKind]:
        """All targets that the fitted model predicts, those of earlier fits first."""
        return {**self.known, **{name: self.y.kinds[name] for name in list_learnt(self.y)}}


def check_fit(parameters, before, X, y, X_val, y_val, sample_weight, groups):
    """Check the data and parameters of a fit; ``before`` is the model from which it continues."""
    X = as_structures(X)
    y = as_targets(y, X)
    check_labelled(y)
    y = _check_targets(y, X)
    known = {} if before is None else before.kinds
    has_validation = X_val is not None
    losses = check_parameters(parameters, y, known, has_validation)
    groups = _check_groups(groups, X, not has_validation and parameters.validation_fraction > 0)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(
            sample_weight, np.zeros(len(X)), dtype=np.float64, ensure_non_negative=True
        )
    validation = _check_validation(parameters, before, X, y, X_val, y_val)
    check_contradictions(parameters, X)
    if before is not None:
        _check_continues(before, parameters, X, y)
    if parameters.early_stopping and validation is None and len(X) == 1:
        raise ValueError(
            "early_stopping=True needs validation structures, but X holds a single structure. "
            "Pass X_val and y_val."
        )
    data = FitData(X, y, sample_weight, groups, validation, before, losses)
    check_degrees(data.kinds, parameters.find_soap(X).max_angular)
    check_memory(parameters, X)
    return data


def check_labels(fitted, X, y, name):
    """Return structures and labels of targets that a fitted model has learnt; raise if they differ.

    ``name`` is the name of the labels in error messages: "y", or "y_train" with "X_train".
    """
    what = name.replace("y", "X", 1)
    if y is None:
        raise ValueError(f"{what} and {name} must be given together.")
    X = as_structures(X, what)
    y = as_targets(y, X, name, what)
    check_labelled(y, name)
    y = _check_targets(y, X, name)
    unknown = [column for column in list_learnt(y) if fitted.kinds.get(column) != y.kinds[column]]
    if unknown or ("energy" not in fitted.kinds and {*LEARNT_DERIVATIVES} & {*y.names}):
        raise ValueError(
            f"{name} has the columns {dict(y.kinds)}, but the model has learnt {fitted.kinds}. "
            "Pass labels of what it has learnt."
        )
    check_elements(X, fitted.steps.elements, what, "fit")
    return X, y


def list_learnt(targets):
    """Return the names of the targets that have a separate output: all except derivatives."""
    return [name for name in targets.names if name not in LEARNT_DERIVATIVES]


def _check_targets(targets, structures, name="y"):
    """Raise if a model cannot be trained on targets; return them otherwise.

    ``name`` is the name of the targets in error messages.
    """
    columns = list(targets.names)
    for column in columns:
        if column in DERIVED_TARGETS and column not in LEARNT_DERIVATIVES:
            raise ValueError(
                f"{name} has a column {column!r}, but this name stands for an output that follows "
                "from the model's energy. Give labels another name, e.g. "
                "Targets(kinds={'atomic_energy': TargetKind.scalar(per_atom=True)}, "
                "atomic_energy=...)."
            )
    # names of other outputs of predict, of errors in the metrics, of intermediate values in the
    # evaluation, and of errors of blocks in history_
    taken = {FEATURES, PER_ATOM, "strain_gradient"}
    for column, kind in targets.kinds.items():
        taken |= {f"{column}[{block}]" for block in kind.scale_names}
    clashing = [column for column in columns if column in taken or column.endswith(LAST_LAYER)]
    if clashing:
        raise ValueError(
            f"{name} has the columns {clashing}, but these names stand for something else in "
            "predict, in the metrics or in history_. Give the columns other names."
        )
    if {"stress", "virial"} <= set(columns):
        raise ValueError(
            f"{name} has both 'stress' and 'virial', which are equivalent. Leave one out."
        )
    for column in columns:
        if not targets.kinds[column].per_volume and column != "virial":
            continue
        known = np.isfinite(targets[column]).reshape(len(structures), -1).any(1)
        if known.any() and not np.isfinite(find_volumes(structures)[known]).any():
            raise ValueError(
                f"Target {column!r} of {name}: no structure with a label has a cell of finite "
                "volume. Set the cells, or leave the target out."
            )
    return targets


def _check_continues(before, parameters, X, y):
    """Raise if a fit cannot continue from a model with other data or parameters."""
    steps = before.steps
    check_elements(X, steps.elements, what="the previous fit", remedy="Fit with warm_start=False")
    for name, value in parameters.find_changed(before).items():
        raise ValueError(
            f"{name}={value!r}, but the previous fit, from which this one continues, had "
            f"{before.hyperparameters[name]!r}. Set it back, or start from scratch: fit with "
            "warm_start=False."
        )
    for name in list_learnt(y):
        known = before.kinds.get(name, y.kinds[name])
        if known != y.kinds[name]:
            raise ValueError(
                f"Target {name!r} is {y.kinds[name]!r}, but the previous fit, from which this one "
                f"continues, had {known!r}. Declare the same kind (kinds=model.kinds_), or give "
                "the target another name."
            )
    new = [name for name in list_learnt(y) if name not in before.kinds]
    if new and parameters.num_hidden_layers == 0:
        raise ValueError(
            f"y has the new targets {new}, but without hidden layers (num_hidden_layers=0) they "
            f"share no weights with {list(before.kinds)}. Fit a separate model for them."
        )
    attached, carried = list_attached(X), {*steps.carried}
    has_baseline = steps.own.baseline is not None and steps.own.baseline.coef_
    if not has_baseline and not X.offset.keys() & before.kinds.keys():
        carried |= attached & {"offset"}  # it came with the first target that has a baseline
    if attached != carried:
        raise ValueError(
            "The previous fit, from which this one continues, had structures that carry "
            f"{sorted(steps.carried)}, but X carries {sorted(attached)}. Use the same Pipeline "
            "steps."
        )
    remedy = "Set warm_start=True on every step of the Pipeline, so that all keep their fit"
    check_carried(X, steps.carried, steps.scales, remedy)


def _check_validation(parameters, before, X, y, X_val, y_val):
    """Return validation structures and labels that match the training data, or None."""
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val must be given together.")
    if X_val is None:
        return None
    X_val = as_structures(X_val, "X_val")
    y_val = _check_targets(as_targets(y_val, X_val, "y_val", "X_val"), X_val, "y_val")
    if not list_labelled(y_val):
        raise ValueError("y_val has no label at all (every value is NaN). Leave it and X_val out.")
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
    elements, what = (X.elements, "X")
    if before is not None:
        elements, what = before.steps.elements, "the previous fit"
    check_elements(X_val, elements, "X_val", what)
    check_memory(parameters, X_val, "X_val")
    if X.features is not None:
        check_features(X_val, X.features.parameters, X.features.elements, "X_val")
    return X_val, y_val


def _check_groups(groups, X, holds_out):
    """Return the group of each structure as an array, or None."""
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (len(X),):
        raise ValueError(
            f"groups must have one entry for each of the {len(X)} structures, got an array of "
            f"shape {groups.shape}."
        )
    if any(group != group for group in groups.tolist()):
        raise ValueError("groups contains NaN. Give every structure a group.")
    # entries of mixed types cannot be sorted, their texts can
    labels = [repr(group) for group in groups] if groups.dtype == object else groups
    if holds_out and len(np.unique(labels)) < 2:
        raise ValueError(
            f"groups is {groups.tolist()[0]!r} for every structure, so no group can be held out. "
            "Leave it out, or pass X_val and y_val."
        )
    return np.asarray(labels)
