"""Rows of the last layers: times the weights they are the outputs, and the loops equal torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from sklearn_soapbpnn import TargetKind
from sklearn_soapbpnn.descriptors import FactoredPairs, FusedPairs, SoapParameters, load_kernels
from sklearn_soapbpnn.nn import Architecture, SoapBPNN, find_rows

ELEMENTS = (1, 6, 8, 29)
TARGETS = {
    "energy": TargetKind.scalar(),
    "charges": TargetKind.scalar(per_atom=True),
    "dipole": TargetKind.vector(),
    "pol": TargetKind.tensor(symmetric=True),
    "multi": TargetKind.spherical([(0, 1, 2), (2, 1, 2), (1, -1, 2)]),
}
needs_numba = pytest.mark.skipif(
    load_kernels("_row_kernels") is None, reason="the loops need numba"
)


def make_network(kinds=("energy",), soap=(4.0, 0.5, 2, 3), **changes):
    kinds = {name: TARGETS[name] for name in kinds}
    options = {"num_hidden_layers": 2, "num_neurons_per_layer": 5, "layernorm": True, "heads": {}}
    architecture = Architecture(**{**options, "dtype": torch.float64, **changes})
    network = SoapBPNN(ELEMENTS, SoapParameters(*soap), kinds, architecture, seed=0)
    if network.first.n_sets > 1 and network.first.bias is not None:
        with torch.no_grad():
            network.first.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    return network


@pytest.fixture(scope="module")
def frames():
    """Structures with one, two and three elements, periodic or not, and atoms without neighbours.

    No structure contains all elements of the network.
    """
    water = Atoms("OHH", [[0, 0, 0.1], [0.95, 0, 0], [-0.2, 0.93, 0]], cell=[3, 3.5, 4], pbc=True)
    methanol = Atoms("COHHHH", np.random.default_rng(0).uniform(0, 3, (6, 3)))
    hydrogen = Atoms("HHHH", np.random.default_rng(1).uniform(0, 3, (4, 3)))  # three pairs each
    copper = bulk("Cu") * (2, 1, 1)
    copper.rattle(0.1, seed=0)
    return [methanol, hydrogen, water, Atoms("C"), copper, Atoms("OH", [[0, 0, 0], [0, 0, 90.0]])]


def assert_same_rows(network, batch, limit):
    """Compare the loops with torch, for forces and strain."""
    assert isinstance(batch.pair_gradients, FusedPairs)
    basis, vectors = network.basis, batch.pair_vectors
    factored = FactoredPairs(basis, vectors, basis.factors(vectors))
    there = find_rows(network, replace(batch, pair_gradients=factored), ["energy"], strain=True)
    here = find_rows(network, batch, ["energy"], strain=True)
    assert list(here) == ["energies", "forces", "strain_gradient"]
    for name, expected in there.items():
        assert here[name].shape == expected.shape
        assert here[name].dtype == network.dtype
        largest = float(expected.abs().max())
        assert largest > 0
        torch.testing.assert_close(here[name], expected, rtol=0, atol=limit * largest)


@needs_numba
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": torch.float32},
        {"layernorm": False},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3, "num_neurons_per_layer": 8},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 0, "kinds": ("dipole", "energy")},
        {"num_neurons_per_layer": 1},
        {"num_neurons_per_layer": 32},
        {"num_neurons_per_layer": 33},
        {"soap": (4.0, 4.0, 0, 0)},
        {"soap": (4.0, 0.5, 9, 0)},
        {"soap": (5.0, 0.5, 7, 6), "dtype": torch.float32},
    ],
    ids=str,
)
def test_loops_equal_torch(changes, frames, select_batch):
    network = make_network(**changes)
    limit = 1e-10 if network.dtype == torch.float64 else 1e-5
    assert_same_rows(network, select_batch(network, frames), limit)


@needs_numba
def test_loops_equal_torch_for_one_structure_and_for_the_default_size(frames, select_batch):
    """A single frame, in which most elements are missing."""
    network = make_network(soap=(), num_neurons_per_layer=32)
    for frame in frames[:3]:
        assert_same_rows(network, select_batch(network, [frame]), 1e-10)


def test_atoms_without_neighbours_have_rows_of_zeros(select_batch):
    network = make_network()
    batch = select_batch(network, [Atoms("C"), Atoms("OH", [[0, 0, 0], [0, 0, 90.0]])])
    rows = find_rows(network, batch, ["energy"], strain=True)
    assert rows["forces"].shape == (3, 3, 4 * 5)
    assert rows["strain_gradient"].shape == (2, 9, 4 * 5)
    assert not rows["forces"].any()
    assert not rows["strain_gradient"].any()
    assert rows["energies"].any()


@pytest.mark.parametrize("num_hidden_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("n_pseudo_species", [None, 2], ids=["orthogonal", "alchemical"])
@pytest.mark.parametrize("layernorm", [True, False], ids=["layernorm", "plain"])
@pytest.mark.parametrize("path", ["loops", "torch"])
def test_rows_times_weights_are_the_outputs(
    path, layernorm, n_pseudo_species, num_hidden_layers, frames, select_batch, request
):
    if path == "torch":
        request.getfixturevalue("with_torch")
    network = make_network(
        TARGETS,
        layernorm=layernorm,
        n_pseudo_species=n_pseudo_species,
        num_hidden_layers=num_hidden_layers,
    )
    batch = select_batch(network, frames)
    with torch.no_grad():
        outputs = network(batch, strain=True)
        rows = find_rows(network, batch, list(TARGETS), strain=True)
    expected = {name: getattr(outputs, name)[0] for name in ("energies", "forces")}
    expected["strain_gradient"] = outputs.strain_gradient[0]
    for name, values in expected.items():
        weights = network.head("energy").weights[-1].detach().flatten()
        assert values.any()
        torch.testing.assert_close((rows[name] @ weights).view(values.shape), values)
    for name in set(TARGETS) - {"energy"}:
        kind, values = network.kinds[name], outputs.values[name][0]
        weights = order_weights(network.head(name), kind)
        component, place = kind.rows.tolist()
        found = torch.einsum("icn,np->icp", rows[name], weights)[:, component, place]
        torch.testing.assert_close(found, values)


def order_weights(head, kind):
    """Return the weights of a last layer by column of the rows, and property."""
    n_properties = max(kind.rows[1].tolist()) + 1
    parts = (
        head.weights[-1]
        .detach()
        .split(
            [
                n_properties * (1 if not hasattr(b, "n_tensors") else b.n_tensors)
                for b in head.bases
            ],
            dim=1,
        )
    )
    parts = [part.unflatten(1, (n_properties, -1)).transpose(0, 1).flatten(2) for part in parts]
    return torch.cat(parts, dim=2).flatten(1).T
