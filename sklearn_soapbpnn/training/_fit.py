"""The order of a fit: checkpoint, steps, network, epochs, and what to warn of at its end."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from sklearn.utils import check_random_state

from ..data import use_threads
from ..model import FittedModel, fit_steps, is_large
from ..nn import SoapBPNN
from ._check_data import list_learnt
from ._checkpoints import Checkpoints
from ._dataset import TrainingData
from ._extensions import choose_optimizer
from ._losses import TotalLoss
from ._net import SoapBPNNNet
from ._reference import follow_reference
from ._resume import check_folder, describe_fit, find_state, name_checkpoint
from ._streamed import StreamedData, Workers, count_workers

# a target whose error is at least this share of the baseline's has not been learnt
NO_BETTER = 0.95
# of fewer steps of the optimiser nobody expects to learn: they try whether a fit runs
FEWEST_STEPS = 10


def fit_model(parameters, data, resume, processes):
    """Fit what comes before the network, and the network.

    Parameters
    ----------
    parameters : FitParameters
        The regressor's arguments.
    data : FitData
        Checked data.
    resume : bool
        Whether to continue from a checkpoint.
    processes : SingleProcess or ProcessGroup
        Who trains.

    Returns
    -------
    FittedModel
        The result.
    SoapBPNNNet
        The net that found it, with its history.
    """
    path, state = _find_checkpoint(parameters, data, resume, processes)
    seeds = check_random_state(parameters.random_state).randint(2**31 - 1, size=3).tolist()
    seeds = processes.broadcast(seeds) if state is None else state["seeds"]
    steps, X = _fit_steps(parameters, data)
    train, validation, large = _prepare(parameters, steps, X, data, seeds[0])
    soap, architecture = steps.parameters, parameters.architecture
    network = SoapBPNN(steps.elements, soap, data.kinds, architecture, seeds[1])
    if data.weights is not None:
        # heads of new targets keep their initial weights
        network.load_state_dict(data.weights, strict=False)
    net = make_net(parameters, network, data.losses, seeds[2]).set_params(processes=processes)
    if path is not None:
        interval = int(parameters.checkpoint_interval)
        net.set_params(checkpoints=Checkpoints(path, interval, seeds, state))
    net.initialize()
    _run(parameters, net, train, validation, _count_epochs(parameters, state), large)
    hyperparameters = parameters.hyperparameters(data.kinds)
    fitted = FittedModel(steps, data.kinds, _list_targets(data), net.module_, hyperparameters)
    return fitted, net


def make_net(parameters, network, losses, order_seed):
    """Return the skorch net that trains a network, to be initialised."""
    return SoapBPNNNet(
        network,
        TotalLoss(losses),
        lr=parameters.learning_rate,
        max_epochs=int(parameters.num_epochs),
        batch_size=int(parameters.batch_size),
        device=parameters.torch_device,
        order_seed=order_seed,
        warmup_fraction=parameters.warmup_fraction,
        best_model_metric=parameters.best_model_metric,
        log_interval=parameters.log_interval,
        log_mae=parameters.log_mae,
        log_separate_blocks=parameters.log_separate_blocks,
        n_iter_no_change=int(parameters.n_iter_no_change) if parameters.early_stopping else None,
        verbose=parameters.verbose,
        callbacks=parameters.callbacks,
        **choose_optimizer(parameters.net_params),
    )


def _find_checkpoint(parameters, data, resume, processes):
    """Return the path of this fit's checkpoint, and the state to go on from; None where is none.

    Raise if the processes of a distributed fit were given different data or parameters.
    """
    path = state = None
    folder = parameters.checkpoint_dir
    if resume and folder is None:
        raise ValueError("resume=True needs checkpoint_dir, the folder of the checkpoints.")
    if processes.size > 1 or folder is not None:
        inputs = describe_fit(parameters, data)
        processes.check_same({**inputs, "checkpoint_dir": folder is None})
    if folder is not None:
        path = name_checkpoint(Path(folder), inputs)
        if processes.rank == 0:
            check_folder(path.parent)
            if resume:
                state = find_state(path, parameters.torch_device, parameters.verbose)
    return path, processes.broadcast(state)


def _count_epochs(parameters, state):
    """Return how many epochs there are still to do."""
    num_epochs = int(parameters.num_epochs)
    if state is None:
        return num_epochs
    done = len(state["history"])
    since_best = done - state["best"]["best_number_"]
    is_over = parameters.early_stopping and since_best >= parameters.n_iter_no_change
    diverged = not np.isfinite(state["history"][-1]["train_loss"])
    return 0 if is_over or diverged else num_epochs - done


def _list_targets(data):
    """Return the names of the columns that the model has learnt from, now or before."""
    y, before = data.y, () if data.before is None else data.before.targets
    is_relative = "energy" in y and not y.labelled("energy").any()
    labelled = [name for name in y.names if not (name == "energy" and is_relative)]
    return tuple(dict.fromkeys([*before, *labelled]))


def _fit_steps(parameters, data):
    """Return fitted steps, or those of the model before, and X with all but the descriptor."""
    X, y, before = data.X, data.y, data.before
    if before is None:
        soap = parameters.find_soap(X)
        return fit_steps(parameters.make_steps(), soap, X, y, data.sample_weight)
    steps = before.steps
    fixed = parameters.fixed_composition_weights
    if "energy" in before.kinds and "energy" in y and y.labelled("energy").any():
        steps = follow_reference(before, X, y, fixed)
    new = [name for name in list_learnt(y) if name not in before.kinds]
    if new:
        steps = steps.extend(
            *(X, y.select(new), data.sample_weight, fixed),
            *(parameters.fixed_scaling_weights, parameters.per_structure_targets),
        )
    return steps, steps.prepare(X)


def _prepare(parameters, steps, X, data, seed):
    """Attach the descriptors, unless they are too large, and divide the data.

    Returns
    -------
    train : tuple of Structures, Targets, and array or None
        With their weights.
    validation : tuple of Structures and Targets, or None
        Held out, or given.
    large : bool
        Whether the data exceed the memory, so that batches make their own descriptors.
    """
    parts = [X]
    if data.validation is not None:
        parts.append(steps.prepare(data.validation[0]))
    limit = parameters.memory_for_data(len(steps.elements), steps.parameters)
    large = is_large(parts, steps.parameters, data.y.names, parameters.itemsize, limit)
    featurizer = steps.own.featurizer
    if featurizer is not None and not large:
        parts = [featurizer.transform(part) for part in parts]
    if data.validation is not None:
        train, validation = (parts[0], data.y, data.sample_weight), (parts[1], data.validation[1])
    else:
        train, validation = _hold_out(parameters.validation_fraction, parts[0], data, seed)
    return train, validation, large


def _hold_out(fraction, X, data, seed):
    """Return what to train on, and what to validate on, at least one structure or group; or None.

    Nothing is held out of a single structure.
    """
    y, weight, groups = data.y, data.sample_weight, data.groups
    if fraction == 0 or len(X) == 1:
        return (X, y, weight), None
    if groups is None:
        n_val = int(np.ceil(fraction * len(X)))
        train, val = train_test_split(
            np.arange(len(X)), test_size=min(n_val, len(X) - 1), random_state=seed
        )
    else:
        n_groups = len(np.unique(groups))
        n_val = min(int(np.ceil(fraction * n_groups)), n_groups - 1)
        splitter = GroupShuffleSplit(n_splits=1, test_size=n_val, random_state=seed)
        train, val = next(splitter.split(np.arange(len(X)), groups=groups))
    return (X[train], y[train], None if weight is None else weight[train]), (X[val], y[val])


def _run(parameters, net, train, validation, n_epochs, large):
    """Put the data on the device, or what they are made of, and run the net."""
    n_atoms = parameters.batch_size * train[0].n_atoms.mean()
    n_workers = count_workers(parameters.num_workers) if large else 0
    with use_threads(n_atoms), Workers(n_workers) as workers:
        make = partial(StreamedData, workers=workers) if large else TrainingData
        make = partial(make, network=net.module_, per_structure=parameters.per_structure_targets)
        X, y, sample_weight = train
        train = make(X, y, sample_weight=sample_weight)
        if validation is not None:
            validation = _check_labelled(parameters.early_stopping, make(*validation))
        net.partial_fit(train, validation, epochs=n_epochs)
        _check_end(net, parameters.num_epochs, parameters.learning_rate)
        _check_learnt(net, train, validation)


def _check_labelled(early_stopping, validation):
    """Return validation data that have labels; warn and return None if they have none."""
    if validation.labelled:
        return validation
    if early_stopping:
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


def _check_end(net, num_epochs, learning_rate):
    """Warn of a fit that diverged or was interrupted; forget the epoch that was broken off."""
    history = net.history
    while len(history) and "dur" not in history[-1]:
        history.pop()
    for epoch in history:
        epoch["batches"] = []
    if not history:
        raise KeyboardInterrupt
    if net.interrupted_:
        warnings.warn(
            f"fit was interrupted after {len(history)} of {num_epochs} epochs; the best of them is "
            "kept.",
            ConvergenceWarning,
            stacklevel=7,
        )
    if not np.isfinite(history[-1]["train_loss"]):
        warnings.warn(
            f"The loss is {history[-1]['train_loss']} after {len(history)} epochs. Lower "
            f"learning_rate={learning_rate}, or look for labels that are off.",
            ConvergenceWarning,
            stacklevel=7,
        )


def _check_learnt(net, train, validation):
    """Warn of targets that are predicted no better than by the composition baseline alone."""
    history = net.history
    n_steps = len(history) * -(-len(train) // net.batch_size)
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
