"""The fit of a regressor: checked data, checkpoint, steps, network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight

from ._checks import (
    check_continues,
    check_contradictions,
    check_degrees,
    check_groups,
    check_learnt,
    check_network,
    check_parameters,
    check_sums,
    check_validation,
    describe_model,
    find_long_range,
    list_learnt,
    resolve_device,
)
from ._reference import follow_reference
from ._resume import check_folder, describe_fit, find_state, name_checkpoint
from ._steps import featurize, find_parameters, fit_steps, is_large
from .data import Structures, TargetKind, Targets, as_structures, as_targets, use_threads
from .nn import SoapBPNN
from .preprocessing import check_fixed_weights
from .training import (
    Checkpoints,
    SoapBPNNNet,
    StreamedData,
    TargetLoss,
    TotalLoss,
    TrainingData,
    Workers,
    choose_optimizer,
    count_workers,
)

# a target whose error is at least this share of the baseline's has not been learnt
NO_BETTER = 0.95
# of fewer steps of the optimiser nobody expects to learn: they try whether a fit runs
FEWEST_STEPS = 10


@dataclass
class FitData:
    """What a regressor is fitted on, after all checks.

    Parameters
    ----------
    X, y, sample_weight, groups
        See :meth:`SoapBPNNRegressor.fit`.
    validation : tuple of Structures and Targets, or None
        ``X_val`` and ``y_val``.
    known : dict of str to TargetKind
        Targets of the fit that this goes on with.
    losses : dict of str to TargetLoss
        Loss of each target.
    weights : dict of str to Tensor, or None
        Weights to go on with.
    """

    X: Structures
    y: Targets
    sample_weight: np.ndarray | None
    groups: np.ndarray | None
    validation: tuple[Structures, Targets] | None
    known: dict[str, TargetKind]
    losses: dict[str, TargetLoss]
    weights: dict[str, torch.Tensor] | None

    @property
    def kinds(self):
        """Kinds of all targets that are predicted."""
        return {**self.known, **{name: self.y.kinds[name] for name in list_learnt(self.y)}}


def check_data(model, keep, X, y, X_val, y_val, sample_weight, groups):
    """Check everything that a fit is given; ``keep`` says that it goes on with the one before."""
    X = as_structures(X)
    y = check_learnt(as_targets(y, X), X)
    known = model.kinds_ if keep else {}
    losses = check_parameters(model, y, known, has_validation=X_val is not None)
    groups = check_groups(groups, X, has_validation=X_val is not None)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(
            sample_weight, np.zeros(len(X)), dtype=np.float64, ensure_non_negative=True
        )
    validation = check_validation(model, X, y, X_val, y_val, keep)
    check_contradictions(model, X)
    check_sums(model, X, resolve_device(model.device))
    if keep:
        check_continues(model, X, y)
    if model.early_stopping and validation is None and len(X) == 1:
        raise ValueError(
            "early_stopping=True needs validation structures, but X holds a single structure. "
            "Pass X_val and y_val."
        )
    weights = model.module_.state_dict() if keep else None
    data = FitData(X, y, sample_weight, groups, validation, known, losses, weights)
    parameters = find_parameters(model, X)
    check_degrees(data.kinds, parameters.max_angular)
    check_network(model, X.elements if X.features is None else X.features.elements, parameters)
    return data


def fit_model(model, data, resume, processes):
    """Fit what comes before the network, and the network."""
    path, state = _find_checkpoint(model, data, resume, processes)
    seeds = check_random_state(model.random_state).randint(2**31 - 1, size=3).tolist()
    seeds = processes.broadcast(seeds) if state is None else state["seeds"]
    device = resolve_device(model.device)
    X = _fit_steps(model, data, device)
    model.kinds_ = data.kinds
    before = model.targets_ if data.known else ()
    is_relative = "energy" in data.y and not data.y.labelled("energy").any()
    labelled = [name for name in data.y.names if not (name == "energy" and is_relative)]
    model.targets_ = tuple(dict.fromkeys([*before, *labelled]))
    train, validation = _split(model, X, data, seeds[0], device)
    net = make_net(model, data.losses, *seeds[1:]).set_params(processes=processes)
    if path is not None:
        interval = int(model.checkpoint_interval)
        net.set_params(checkpoints=Checkpoints(path, interval, seeds, state))
    net.initialize()
    if data.weights is not None:
        # heads of new targets keep their initial weights
        net.module_.load_state_dict(data.weights, strict=False)
    model.n_features_in_ = net.module_.first.n_features
    _run(model, net, train, validation, _count_epochs(model, state), device)
    model._fixed = describe_model(model, model.kinds_)


def make_net(model, losses, seed, order_seed):
    """Return the net that a regressor's parameters describe, to be initialised."""
    is_alchemical = model.species_encoding == "alchemical"
    return SoapBPNNNet(
        SoapBPNN,
        TotalLoss(losses),
        module__elements=model.elements_,
        module__parameters=model._steps.parameters,
        module__kinds=model.kinds_,
        module__num_hidden_layers=int(model.num_hidden_layers),
        module__num_neurons_per_layer=int(model.num_neurons_per_layer),
        module__layernorm=bool(model.layernorm),
        module__heads=model.heads or {},
        module__add_lambda_basis=bool(model.add_lambda_basis),
        module__n_pseudo_species=int(model.n_pseudo_species) if is_alchemical else None,
        module__long_range=find_long_range(model) if model.long_range else None,
        module__seed=seed,
        module__dtype=getattr(torch, model.dtype),
        lr=model.learning_rate,
        max_epochs=int(model.num_epochs),
        batch_size=int(model.batch_size),
        device=resolve_device(model.device),
        order_seed=order_seed,
        warmup_fraction=model.warmup_fraction,
        best_model_metric=model.best_model_metric,
        log_interval=model.log_interval,
        log_mae=model.log_mae,
        log_separate_blocks=model.log_separate_blocks,
        n_iter_no_change=int(model.n_iter_no_change) if model.early_stopping else None,
        verbose=model.verbose,
        callbacks=model.callbacks,
        **choose_optimizer(model.optimizer, model.net_params),
    )


def _find_checkpoint(model, data, resume, processes):
    """Return the path of this fit's checkpoint, and the state to go on from; None where is none.

    Raise if the processes of a distributed fit were given different data or parameters.
    """
    path = state = None
    if resume and model.checkpoint_dir is None:
        raise ValueError("resume=True needs checkpoint_dir, the folder of the checkpoints.")
    if processes.size > 1 or model.checkpoint_dir is not None:
        inputs = describe_fit(model, data)
        processes.check_same({**inputs, "checkpoint_dir": model.checkpoint_dir is None})
    if model.checkpoint_dir is not None:
        path = name_checkpoint(Path(model.checkpoint_dir), inputs)
        if processes.rank == 0:
            check_folder(path.parent)
            state = find_state(model, path) if resume else None
    return path, processes.broadcast(state)


def _count_epochs(model, state):
    """Return how many epochs there are still to do."""
    num_epochs = int(model.num_epochs)
    if state is None:
        return num_epochs
    done = len(state["history"])
    since_best = done - state["best"]["best_number_"]
    is_over = model.early_stopping and since_best >= model.n_iter_no_change
    diverged = not np.isfinite(state["history"][-1]["train_loss"])
    return 0 if is_over or diverged else num_epochs - done


def _fit_steps(model, data, device):
    """Fit what comes before the network, but keep what is known; return X with all of it."""
    X, y = data.X, data.y
    if data.known:
        if "energy" in data.known and "energy" in y and y.labelled("energy").any():
            fixed = check_fixed_weights(model.fixed_composition_weights).get("energy")
            told = "energy" in model.targets_
            model._steps = follow_reference(model._steps, model.module_, X, y, fixed, told)
        new = [name for name in list_learnt(y) if name not in data.known]
        if new:
            model._steps = model._steps.extend(model, X, y.select(new), data.sample_weight)
        X = model._steps.prepare(X)
    else:
        model._steps, X = fit_steps(model, X, y, data.sample_weight)
    return featurize(model, X, y.names, device)


def _split(model, X, data, seed, device):
    """Return what to train on, (X, y, sample_weight), and what to validate on, (X, y) or None.

    At least one structure is held out, or whole groups of them.
    """
    y, weight = data.y, data.sample_weight
    if data.validation is not None:
        X_val, y_val = data.validation
        X_val = featurize(model, model._steps.prepare(X_val), y.names, device)
        return (X, y, weight), (X_val, y_val)
    if model.validation_fraction == 0 or len(X) == 1:
        return (X, y, weight), None
    if data.groups is None:
        n_val = int(np.ceil(model.validation_fraction * len(X)))
        train, val = train_test_split(
            np.arange(len(X)), test_size=min(n_val, len(X) - 1), random_state=seed
        )
    else:
        n_groups = len(np.unique(data.groups))
        n_val = min(int(np.ceil(model.validation_fraction * n_groups)), n_groups - 1)
        splitter = GroupShuffleSplit(n_splits=1, test_size=n_val, random_state=seed)
        train, val = next(splitter.split(np.arange(len(X)), groups=data.groups))
    return (X[train], y[train], None if weight is None else weight[train]), (X[val], y[val])


def _run(model, net, train, validation, n_epochs, device):
    """Put the data on the device, or what they are made of, and run the net."""
    large = any(is_large(model, X, y.names, device) for X, y, *_ in (train, validation or train))
    n_atoms = model.batch_size * train[0].n_atoms.mean()
    n_workers = count_workers(model.num_workers) if large else 0
    with use_threads(n_atoms), Workers(n_workers) as workers:
        make = partial(StreamedData, workers=workers) if large else TrainingData
        make = partial(make, network=net.module_, per_structure=model.per_structure_targets)
        X, y, sample_weight = train
        train = make(X, y, sample_weight=sample_weight)
        if validation is not None:
            validation = _check_labelled(model, make(*validation))
        model.net_ = net.partial_fit(train, validation, epochs=n_epochs)
        _check_end(model)
        _check_learnt(model, train, validation)


def _check_labelled(model, validation):
    """Return validation data that have labels; warn and return None if they have none."""
    if validation.labelled:
        return validation
    if model.early_stopping:
        raise ValueError(
            "early_stopping=True needs labels of validation structures, but none that was held out "
            "has one. Pass X_val and y_val, or raise validation_fraction."
        )
    warnings.warn(
        "No structure that was held out for validation has a label, so the last epoch is kept. "
        "Pass X_val and y_val, or raise validation_fraction.",
        UserWarning,
        stacklevel=7,
    )
    return None


def _check_end(model):
    """Warn of a fit that diverged or was interrupted; forget the epoch that was broken off."""
    history = model.history_
    while len(history) and "dur" not in history[-1]:
        history.pop()
    for epoch in history:
        epoch["batches"] = []
    if not history:
        raise KeyboardInterrupt
    if model.net_.interrupted_:
        warnings.warn(
            f"fit was interrupted after {len(history)} of {model.num_epochs} epochs; the best of "
            "them is kept.",
            ConvergenceWarning,
            stacklevel=7,
        )
    if history and not np.isfinite(history[-1]["train_loss"]):
        warnings.warn(
            f"The loss is {history[-1]['train_loss']} after {len(history)} epochs. Lower "
            f"learning_rate={model.learning_rate}, or look for labels that are off.",
            ConvergenceWarning,
            stacklevel=7,
        )


def _check_learnt(model, train, validation):
    """Warn of targets that are predicted no better than by the composition baseline alone."""
    net, history = model.net_, model.history_
    n_steps = len(history) * -(-len(train) // model.batch_size)
    if n_steps < FEWEST_STEPS or not np.isfinite(history[-1]["train_loss"]):
        return
    if validation is None:
        ratios, what = net.compare_with_baseline(train, None), "training"
    else:
        kept = history[(net.best_epoch_.best_number_ or len(history)) - 1]
        ratios, what = net.compare_with_baseline(validation, kept), "validation"
    poor = {name: ratio for name, ratio in ratios.items() if not ratio < NO_BETTER}
    if poor:
        errors = ", ".join(f"{name!r}: {ratio:.2g}" for name, ratio in poor.items())
        warnings.warn(
            f"After {len(history)} epochs the fit is no better than the composition baseline "
            f"alone. Root mean square error in {what}, divided by that of the baseline: {errors}. "
            "Usual causes: too few epochs; a learning_rate that is too high or too low; units that "
            "do not belong together (Hartree beside eV, kbar beside eV/Angstrom^3); a wrong sign "
            "(forces are minus the derivative of the energy, stress is positive under tension).",
            ConvergenceWarning,
            stacklevel=7,
        )
