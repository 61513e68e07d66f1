"""Error bars of a trained network: from the training data, calibrated on other labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ..data import sum_by_structure, usual_settings
from ..model import (
    LARGEST_LAYER,
    CommitteeSpread,
    LastLayerPosterior,
    find_target,
    network_name,
)
from ..nn import find_rows
from ._dataset import EvaluationIterator
from ._streamed import StreamedData, Workers

# training errors below this, in units of the scale, count as this large
SMALLEST_ERROR = 1e-6
# labels whose error bar and error are both below this fraction of the typical ones are fixed by
# symmetry, and both are rounding noise
FIXED_BY_SYMMETRY = 1e-3


@usual_settings()
@torch.no_grad()
def fit_error_bars(network, train, validation, before=None):
    """Return the error bars of a network or a committee.

    Parameters
    ----------
    network : SoapBPNN
        The trained network.
    train : TrainingData
        The data that the network was trained on.
    validation : TrainingData or None
        Other data, on which the error bars are calibrated.
    before : ErrorBars, default=None
        Error bars of the network before this training.

    Returns
    -------
    ErrorBars or None
        None if the weights are not finite.
    """
    if network.n_networks > 1:
        error_bars = CommitteeSpread()
    else:
        hessians = _add_hessians(network, train, {} if before is None else before.hessians)
        if not all(np.isfinite(H).all() for H in hessians.values()):
            return None
        error_bars = LastLayerPosterior(hessians=hessians)
    return error_bars if validation is None else calibrate(error_bars, network, validation)


@usual_settings()
@torch.no_grad()
def calibrate(error_bars, network, data):
    """Return error bars of the size of the errors of data that were not trained on.

    Parameters
    ----------
    error_bars : ErrorBars
        The error bars.
    network : SoapBPNN
        The network.
    data : TrainingData
        The labels.

    Returns
    -------
    ErrorBars
    """
    outputs_of = {name: network_name(name) for name in data.labelled}
    names = [
        name
        for name, output in outputs_of.items()
        # without labels other than zero, errors are rounding noise
        if error_bars.supports(network, output) and not data.smallest_errors[name]
    ]
    raw = replace(error_bars, scales=dict.fromkeys(names, 1.0))
    sums = dict.fromkeys(names, 0.0)
    for batch in EvaluationIterator(data):
        outputs = network(batch.environments, strain="stress" in batch.labels)
        predictions = batch.compare(outputs)
        measured = [outputs_of[name] for name in names]
        stds = raw.stds(network, batch.environments, outputs, measured)
        for name, output in zip(names, measured):
            labels = batch.labels[name]
            std = stds[output] if labels.per_atom else stds[output] / labels.divisor
            sums[name] = sums[name] + _sum_ratios(predictions[name].mean(0), labels, std)
    scales = {
        name: math.sqrt(total / number) for name, (total, number) in sums.items() if number * total
    }
    return replace(error_bars, scales=error_bars.scales | scales)


def calibrate_model(parameters, fitted, data, train):
    """Return a fitted model with other error bars.

    Parameters
    ----------
    parameters : FitParameters
        The regressor's arguments.
    fitted : FittedModel
        The model.
    data : tuple of Structures and Targets
        Labels that the model was not trained on.
    train : tuple of Structures and Targets, or None
        What it was trained on; None keeps what earlier error bars say about it.

    Returns
    -------
    FittedModel
    """
    network = fitted.network
    with Workers(0) as workers:

        def stream(X, y):
            options = {"per_structure": parameters.per_structure_targets, "workers": workers}
            return StreamedData(fitted.steps.prepare(X), y, network, **options)

        if train is None:
            error_bars = calibrate(fitted.error_bars, network, stream(*data))
        else:
            error_bars = fit_error_bars(network, stream(*train), stream(*data))
    return replace(fitted, error_bars=error_bars)


def _add_hessians(network, train, before):
    """Add to the matrices H of each target what the labels say."""
    grams, errors = {}, {}
    for batch in EvaluationIterator(train):
        predictions = batch.predictions(network)
        for name, rows in _label_rows(network, batch, train.labelled).items():
            labels = batch.labels[name]
            part = _weigh(rows, labels, _list_components(network, name)).cpu().double()
            grams[name] = grams.get(name, 0.0) + (part.mT @ part).numpy()
            square = (predictions[name][0] - labels.values).square()
            weight = torch.ones_like(square) if labels.weight is None else labels.weight
            sums = np.array([float((weight * square).sum()), float(weight.expand_as(square).sum())])
            errors[name] = errors.get(name, 0.0) + sums
    hessians = dict(before)
    for name, gram in grams.items():
        square, number = errors[name]
        H = gram / max(square / number, SMALLEST_ERROR**2)
        hessians[find_target(name)] = hessians.get(find_target(name), 0.0) + H
    return hessians


def _label_rows(network, batch, names):
    """Return the rows of the labels of a batch, as far as their last layers have error bars.

    They are in the form of the predictions: summed over the atoms of structures, and divided.
    """
    sizes = {name: network.head(find_target(name)).n_weights for name in names}
    names = [name for name, size in sizes.items() if 0 < size <= LARGEST_LAYER]
    targets = dict.fromkeys(find_target(name) for name in names)
    found = find_rows(network, batch.environments, targets, strain="stress" in names)
    rows = {}
    for name in names:
        part = found.get("energies" if name == "energy" else network_name(name))
        if part is None:
            continue
        if not batch.labels[name].per_atom:
            if name != "stress":
                part = sum_by_structure(part, batch.environments.index)
            divisor = batch.labels[name].divisor
            part = part / (divisor.reshape(-1, 1, 1) if divisor.ndim else divisor)
        rows[name] = part
    return rows


def _list_components(network, name):
    """Return the row of each entry of the flattened value of a label."""
    known = {"energy": [0], "forces": list(range(3)), "stress": list(range(9))}
    return known.get(name) or network.kinds[name].rows[0].tolist()


def _weigh(rows, labels, components):
    """Multiply rows by the roots of the weights of their labels, and put them below each other."""
    if labels.weight is None:
        counts = rows.new_tensor([components.count(k) for k in range(rows.shape[1])])
    else:
        counts = rows.new_zeros(rows.shape[:2])
        components = torch.tensor(components, device=rows.device)
        counts.index_add_(1, components, labels.weight.reshape(len(rows), -1))
    return (rows * counts.sqrt()[..., None]).flatten(0, 1)


def _sum_ratios(prediction, labels, std):
    """Return the sum of the squared errors in units of their error bars, and their number."""
    error = prediction - labels.values
    counts = (std >= FIXED_BY_SYMMETRY * _typical(std)) | (
        error.abs() >= FIXED_BY_SYMMETRY * _typical(error)
    )
    counts &= std > 0
    if labels.weight is not None:
        counts &= labels.weight > 0
    ratios = torch.where(counts, (error / std).square(), 0.0)
    return np.array([float(ratios.sum(dtype=torch.float64)), int(counts.sum())])


def _typical(values):
    return values.square().mean().sqrt()
