"""The sequence of a fit: checkpoint, steps, network, epochs, and final checks with warnings."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from sklearn.utils import check_random_state

from ..data import ENERGY_KINDS, LEARNT_DERIVATIVES, has_derivatives, use_threads
from ..descriptors import exceeds_memory
from ..model import FittedModel, fit_steps
from ..nn import SoapBPNN
from ._check_data import list_learnt
from ._checkpoints import Checkpoints
from ._dataset import TrainingData
from ._error_bars import fit_error_bars
from ._extensions import choose_optimizer
from ._losses import TotalLoss
from ._net import SoapBPNNNet
from ._reference import follow_reference
from ._resume import check_folder, describe_fit, find_state, name_checkpoint
from ._streamed import StreamedData, Workers, count_workers

# a target has not been learnt if its error is at least this fraction of the baseline's error
NO_BETTER = 0.95
# fits with fewer optimizer steps are not checked: they only try whether a fit runs
FEWEST_STEPS = 10


def fit_model(parameters, data, resume, processes):
    """Fit the steps before the network, then the network.

    Parameters
    ----------
    parameters : FitParameters
        The regressor's arguments.
    data : FitData
        Checked data.
    resume : bool
        Whether to continue from a checkpoint.
    processes : SingleProcess or ProcessGroup
        The processes that train the network.

    Returns
    -------
    FittedModel
        The result.
    SoapBPNNNet
        The skorch net that trained the network, with its history.
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
    before = None if data.before is None else data.before.error_bars
    n_epochs = _count_epochs(parameters, state)
    error_bars = _run(parameters, net, train, validation, n_epochs, large, before)
    hyperparameters = parameters.hyperparameters(data.kinds)
    targets = _list_targets(data)
    fitted = FittedModel(steps, data.kinds, targets, net.module_, hyperparameters, error_bars)
    return fitted, net


def make_net(parameters, network, losses, order_seed):
    """Return the skorch net that trains a network; it is not initialised yet."""
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
        **choose_optimizer(
            parameters.optimizer, parameters.net_params, parameters.species_encoding
        ),
    )


def _find_checkpoint(parameters, data, resume, processes):
    """Return the path of this fit's checkpoint and the state to resume from, each may be None.

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
    """Return the number of remaining epochs."""
    num_epochs = int(parameters.num_epochs)
    if state is None:
        return num_epochs
    done = len(state["history"])
    since_best = done - state["best"]["best_number_"]
    is_over = parameters.early_stopping and since_best >= parameters.n_iter_no_change
    diverged = not np.isfinite(state["history"][-1]["train_loss"])
    return 0 if is_over or diverged else num_epochs - done


def _list_targets(data):
    """Return the names of the columns on which the model was trained, in this or earlier fits."""
    y, before = data.y, () if data.before is None else data.before.targets
    is_relative = "energy" in y and not y.labelled("energy").any()
    labelled = [name for name in y.names if not (name == "energy" and is_relative)]
    return tuple(dict.fromkeys([*before, *labelled]))


def _fit_steps(parameters, data):
    """Return the fitted steps, and X with all data attached except for the descriptor.

    If the fit continues from a model, its steps are kept and only extended by new targets.
    """
    X, y, before = data.X, data.y, data.before
    if before is None:
        soap = parameters.find_soap(X)
        return fit_steps(parameters.make_steps(), soap, X, y, data.sample_weight)
    steps = before.steps
    fixed = parameters.fixed_composition_weights
    if "energy" in before.kinds and "energy" in y and y.labelled("energy").any():
        steps = follow_reference(before, X, y, data.sample_weight, fixed)
    new = [name for name in list_learnt(y) if name not in before.kinds]
    if new:
        if "energy" in new:  # whose scale is also that of its derivatives
            new += [name for name in y.names if name in LEARNT_DERIVATIVES]
        steps = steps.extend(
            *(X, y.select(new), data.sample_weight, fixed),
            *(parameters.fixed_scaling_weights, parameters.per_structure_targets),
        )
    return steps, steps.prepare(X)


def _prepare(parameters, steps, X, data, seed):
    """Attach the descriptors, unless they are too large, and split off the validation data.

    On a GPU they are computed there, with the environments of the atoms.

    Returns
    -------
    train : tuple of Structures, Targets, and array or None
        Training structures, their labels and their weights.
    validation : tuple of Structures and Targets, or None
        Validation structures, given or held out, and their labels.
    large : bool
        Whether the descriptors exceed the memory limit, so that each batch computes its own.
    """
    parts = [X]
    if data.validation is not None:
        parts.append(steps.prepare(data.validation[0]))
    device, soap, itemsize = parameters.torch_device, steps.parameters, parameters.itemsize
    limit = parameters.memory_for_data(len(steps.elements), soap)
    derivatives = has_derivatives(data.y.names)
    large = exceeds_memory(parts, soap, derivatives, itemsize, limit, device)
    featurizer = steps.own.featurizer
    if featurizer is not None and not large and device.type == "cpu":
        parts = [featurizer.transform(part) for part in parts]
    if data.validation is not None:
        train, validation = (parts[0], data.y, data.sample_weight), (parts[1], data.validation[1])
    else:
        train, validation = _hold_out(parameters.validation_fraction, parts[0], data, seed)
    return train, validation, large


def _hold_out(fraction, X, data, seed):
    """Split the data into training data and validation data.

    At least one structure or group is held out, unless ``fraction`` is 0 or there is a single
    structure; the validation data are then None.
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


def _run(parameters, net, train, validation, n_epochs, large, before):
    """Put the data on the device, unless they are too large, and train the net.

    Returns
    -------
    LastLayerPosterior or None
        The error bars; ``before`` are those of the model from which the fit continues.
    """
    n_atoms = parameters.batch_size * train[0].n_atoms.mean()
    n_workers = count_workers(parameters.num_workers) if large else 0
    with use_threads(n_atoms), Workers(n_workers) as workers:
        make = partial(StreamedData, workers=workers) if large else TrainingData
        make = partial(make, network=net.module_, per_structure=parameters.per_structure_targets)
        X, y, sample_weight = train
        train = make(X, y, sample_weight=sample_weight)
        if validation is not None:
            validation = make(*validation)
            _check_trained(train, validation)
            validation = _check_labelled(parameters.early_stopping, validation)
        net.partial_fit(train, validation, epochs=n_epochs)
        if net.interrupted_:
            workers.end()  # Ctrl-C in a terminal has also interrupted them
        _check_end(net, parameters.num_epochs, parameters.learning_rate)
        _check_learnt(net, train, validation)
        try:
            return fit_error_bars(net.module_, train, validation, before)
        except KeyboardInterrupt:
            warnings.warn(
                "fit was interrupted before the error bars were complete, so there are none. The "
                "network is kept; calibrate makes error bars for it.",
                ConvergenceWarning,
                stacklevel=6,
            )
            return None


def _check_trained(train, validation):
    """Warn of targets that nothing is left to train on."""
    trained = {*train.labelled}
    if trained & ENERGY_KINDS.keys():
        trained |= ENERGY_KINDS.keys()  # labels of one train the others
    untrained = [name for name in validation.labelled if name not in trained]
    if untrained:
        warnings.warn(
            f"All structures with a label of {untrained}, and a weight, are held out for "
            "validation, so their predictions are those of an untrained network. Pass X_val and "
            "y_val, or another random_state.",
            UserWarning,
            stacklevel=7,
        )


def _check_labelled(early_stopping, validation):
    """Return validation data that have labels; warn and return None if they have none."""
    if validation.labelled:
        return validation
    if early_stopping:
        raise ValueError(
            "early_stopping=True needs labels of validation structures, but none of the held-out "
            "structures has one. Pass X_val and y_val, or use a larger validation_fraction."
        )
    warnings.warn(
        "None of the structures held out for validation has a label, so the last epoch is kept. "
        "Pass X_val and y_val, or use a larger validation_fraction.",
        UserWarning,
        stacklevel=7,
    )
    return None


def _check_end(net, num_epochs, learning_rate):
    """Warn if the fit diverged or was interrupted; discard the epoch that was not completed."""
    history = net.history
    while len(history) and "dur" not in history[-1]:
        history.pop()
    for epoch in history:
        epoch["batches"] = []
    if not history:
        raise KeyboardInterrupt
    if net.interrupted_:
        warnings.warn(
            f"fit was interrupted after {len(history)} of {num_epochs} epochs; the best epoch so "
            "far is kept.",
            ConvergenceWarning,
            stacklevel=7,
        )
    if not np.isfinite(history[-1]["train_loss"]):
        warnings.warn(
            f"The loss is {history[-1]['train_loss']} after {len(history)} epochs. Use a smaller "
            f"learning rate than learning_rate={learning_rate}, or look for wrong labels.",
            ConvergenceWarning,
            stacklevel=7,
        )


def _check_learnt(net, train, validation):
    """Warn if the errors of a target are no better than those of the composition baseline."""
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
            f"alone. RMSE in {what}, divided by the RMSE of the baseline: {errors}. Usual causes: "
            "too few epochs; a learning_rate that is too high or too low; inconsistent units "
            "(Hartree with eV, kbar with eV/Angstrom^3); a wrong sign (forces are minus the "
            "derivative of the energy, stress is positive under tension). "
            "sklearn_soapbpnn.check_data(X, y) looks for these and other faults of the data.",
            ConvergenceWarning,
            stacklevel=7,
        )
