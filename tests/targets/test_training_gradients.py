"""The gradient of the total loss by all weights against central differences, in float64."""

import numpy as np
import pytest
import torch

from sklearn_soapbpnn import CompositionBaseline, TargetKind, Targets, TargetScaler
from sklearn_soapbpnn.data import KNOWN_KINDS
from sklearn_soapbpnn.descriptors import SoapParameters
from sklearn_soapbpnn.nn import Architecture, SoapBPNN
from sklearn_soapbpnn.potentials import LongRangeParameters
from sklearn_soapbpnn.training import TotalLoss, TrainingData, parse_loss

KINDS = {
    "energy": KNOWN_KINDS["energy"],
    "dipole": KNOWN_KINDS["dipole"],
    "polarizability": KNOWN_KINDS["polarizability"],
    "non_conservative_stress": KNOWN_KINDS["non_conservative_stress"],
    "several": TargetKind.spherical([(0, 1, 2), (1, -1), (3, 1)], per_atom=True),
    "mean_several": TargetKind.spherical([(0, 1), (2, 1)], intensive=True),
}
DERIVED = ("forces", "stress")
LOSS = {
    "energy": {"weight": 5.0, "forces": {"weight": 2.0}, "stress": {"reduction": "sum"}},
    "dipole": {"weight": 3.0, "reduction": "sum"},
}
NETWORKS = {
    "orthogonal": {},
    "orthogonal, no hidden layer": {"num_hidden_layers": 0},
    "orthogonal, linear model": {"num_hidden_layers": 0, "heads": dict.fromkeys(KINDS, "linear")},
    "orthogonal, one layer, linear heads": {
        "num_hidden_layers": 1,
        "heads": dict.fromkeys(KINDS, "linear"),
    },
    "alchemical": {"n_pseudo_species": 4},
    "committee": {"n_networks": 3},
    "alchemical committee": {"n_networks": 2, "n_pseudo_species": 2},
    "alchemical, no hidden layer": {"n_pseudo_species": 2, "num_hidden_layers": 0},
    "mesh": {"long_range": LongRangeParameters()},
    "waves": {"long_range": LongRangeParameters(use_ewald=True)},
    "alchemical, mesh": {"n_pseudo_species": 4, "long_range": LongRangeParameters()},
    "alchemical, waves": {
        "n_pseudo_species": 4,
        "long_range": LongRangeParameters(use_ewald=True),
    },
}


def label(frames, draw):
    """Labels of everything, some of which are missing, down to single components."""
    complete = draw(frames, {**KINDS, **{name: KNOWN_KINDS[name] for name in DERIVED}})
    rng = np.random.default_rng(1)
    columns = {}
    for name, kind in complete.kinds.items():
        parts = [np.array(part) for part in complete[name]]
        if kind.cartesian_rank == 2:
            parts = [part + part.T for part in parts]
        parts = [np.where(rng.random(part.shape) < 0.3, np.nan, part) for part in parts]
        columns[name] = parts
    columns["energy"][0] = np.nan
    return Targets(kinds=KINDS, **columns)


# sums over pairs are computed by kernels, or by torch from the given bytes of stored gradients
CASES = [(name, None) for name in NETWORKS]
CASES += [
    (name, memory)
    for name in ("orthogonal", "alchemical", "mesh", "committee")
    for memory in (0, 10**9)
]


@pytest.mark.parametrize(("name", "memory"), CASES)
def test_gradient_of_the_total_loss(name, memory, mixture, draw, monkeypatch, request):
    mixture = [mixture[k] for k in (1, 2, 4, 5, 7, 8)]  # the small ones
    if memory is not None:
        request.getfixturevalue("with_torch")
        monkeypatch.setattr("sklearn_soapbpnn.training._dataset.PAIR_GRADIENT_MEMORY", memory)
    y = label(mixture, draw)
    X = CompositionBaseline().fit_transform(mixture, y)
    X = TargetScaler().fit(X, y).transform(X)
    options = {"num_hidden_layers": 2, "heads": {"dipole": "linear"}, **NETWORKS[name]}
    architecture = Architecture(
        num_neurons_per_layer=6, layernorm=True, dtype=torch.float64, **options
    )
    parameters = SoapParameters(max_radial=3, max_angular=3)
    network = SoapBPNN((1, 6, 8), parameters, KINDS, architecture, seed=0).train()
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    data = TrainingData(X, y, network, sample_weight=weight, per_structure=["energy"])
    assert set(data.names) == {*KINDS, *DERIVED}
    criterion = TotalLoss(parse_loss(LOSS, KINDS))
    # two batches of different structures, so that none is the whole of the data
    batches = list(data.batches(torch.arange(len(X), device=data.device).flip(0), [2, len(X) - 2]))

    def compute_loss():
        return sum(criterion(batch.predictions(network), batch.labels) for batch in batches)

    parameters = list(network.parameters())
    loss = compute_loss()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)

    start = [p.detach().clone() for p in parameters]
    for seed in range(1):
        generator = torch.Generator().manual_seed(seed)
        directions = [
            torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.square().mean().sqrt()
            for p in start
        ]
        expected = float(sum((p.grad * d).sum() for p, d in zip(parameters, directions)))
        losses = []
        for step in (-2e-4, -1e-4, 1e-4, 2e-4):
            with torch.no_grad():
                for p, p_0, d in zip(parameters, start, directions):
                    p.copy_(p_0 + step * d)
            losses.append(float(compute_loss().detach()))
        slope = np.dot([1, -8, 8, -1], losses) / 12e-4
        np.testing.assert_allclose(slope, expected, rtol=1e-6)
