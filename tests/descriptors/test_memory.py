"""What descriptors and weights are estimated to take, against what they do take."""

import pytest
import torch

from sklearn_soapbpnn import TargetKind
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.descriptors import (
    SoapParameters,
    _memory,
    estimate_memory,
    estimate_weights,
    exceeds_memory,
)
from sklearn_soapbpnn.nn import Architecture, SoapBPNN, compute_environments

CPU = torch.device("cpu")
PARAMETERS = SoapParameters(5.0, 0.5, 4, 4)


@pytest.fixture
def crystals(shipped_alloys):
    X, _ = shipped_alloys
    return as_structures(X[:6])


def make_network(elements):
    architecture = Architecture(2, 8, layernorm=True, heads={})
    return SoapBPNN(elements, PARAMETERS, {"energy": TargetKind.scalar()}, architecture, seed=0)


@pytest.mark.parametrize("derivatives", [False, True])
@pytest.mark.parametrize("way", ["loops", "torch"])
def test_estimate_is_near(crystals, derivatives, way, request):
    """What descriptors, pairs and the factors of the pair basis take, within a factor of two.

    Compiled loops store no factors.
    """
    if way == "torch":
        request.getfixturevalue("with_torch")
    network = make_network(crystals.elements)
    environments = compute_environments(crystals, network.recipe(), derivatives=derivatives)
    graph = environments.graph
    tensors = [*environments.constants.values(), graph.pair_vectors, graph.centers, graph.neighbors]
    if derivatives and way == "torch":
        tensors += vars(environments.pair_gradients.factors).values()
    taken = sum(t.numel() * t.element_size() for t in tensors)
    assert 0.5 < estimate_memory([crystals], PARAMETERS, derivatives, 4, CPU) / taken < 2.0


def test_estimated_weights_are_those_of_the_network(crystals):
    network = make_network(crystals.elements)
    first = network.first.linear.weight.numel()
    assert estimate_weights(PARAMETERS, len(crystals.elements), 8, 4) == 5 * 4 * first


def test_data_sets_are_judged_together(crystals):
    """Each of them may fit where both do not."""
    parts = crystals[:2], crystals[2:]
    whole = estimate_memory([crystals], PARAMETERS, True, 4, CPU)
    sizes = [estimate_memory([part], PARAMETERS, True, 4, CPU) for part in parts]
    together = estimate_memory(parts, PARAMETERS, True, 4, CPU)
    assert together == pytest.approx(whole, rel=1e-6)
    assert together == pytest.approx(sum(sizes), abs=2)
    limit = (max(sizes) + together) / 2
    assert not any(exceeds_memory([part], PARAMETERS, True, 4, limit, CPU) for part in parts)
    assert exceeds_memory(parts, PARAMETERS, True, 4, limit, CPU)


def test_elements_of_all_data_sets_count(crystals):
    """The network expands over all of them, also where a data set lacks some."""
    copper, alloys = crystals[:1], crystals[2:]
    assert len(copper.elements) < len(alloys.elements)
    apart = sum(estimate_memory([part], PARAMETERS, True, 4, CPU) for part in (copper, alloys))
    assert estimate_memory([copper, alloys], PARAMETERS, True, 4, CPU) > 1.01 * apart


def test_no_pairs_are_counted_where_memory_is_plenty(crystals, monkeypatch):
    monkeypatch.setattr(_memory, "build_graph", None)
    assert not exceeds_memory([crystals], PARAMETERS, True, 4, 1e12, CPU)
