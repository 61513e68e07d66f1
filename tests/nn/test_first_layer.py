"""What both first layers promise, and the recipe of environments that they give."""

import pickle

import pytest
import torch
from torch import nn

from sklearn_soapbpnn import TargetKind
from sklearn_soapbpnn.data import as_structures
from sklearn_soapbpnn.descriptors import SoapParameters
from sklearn_soapbpnn.nn import Architecture, SoapBPNN, compute_environments
from sklearn_soapbpnn.nn._first_layer import FirstLayer
from sklearn_soapbpnn.potentials import LongRangeParameters

KINDS = {"energy": TargetKind.scalar(), "quadrupole": TargetKind.spherical((2, 1))}
N_OUTPUTS = 4


@pytest.fixture(
    params=[(None, 1), (None, 3), (2, 1), (2, 3)],
    ids=["orthogonal", "three orthogonal", "alchemical", "three alchemical"],
)
def network(request):
    n_pseudo_species, n_networks = request.param
    architecture = Architecture(
        2,
        N_OUTPUTS,
        layernorm=True,
        heads={},
        n_pseudo_species=n_pseudo_species,
        n_networks=n_networks,
        long_range=LongRangeParameters(),
        dtype=torch.float64,
    )
    parameters = SoapParameters(max_radial=4, max_angular=3)
    return SoapBPNN((1, 6, 8), parameters, KINDS, architecture, seed=0)


def test_interface_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        FirstLayer()


def test_shapes_are_those_that_are_stated(network, structures, select_batch):
    batch, layer = select_batch(network, structures), network.first
    assert isinstance(layer, FirstLayer)
    n_atoms, n_pairs = len(batch.index.atoms), len(batch.index.pairs)
    assert layer.features(batch).shape == (n_atoms, layer.n_features)
    hidden, context = layer(batch)
    assert (len(hidden), hidden.shape[2]) == (layer.n_sets, N_OUTPUTS)
    n_networks = layer.n_networks
    assert layer.gather(hidden, batch).shape == (n_networks, n_atoms, N_OUTPUTS)
    columns = slice(1, 3)
    gradient = torch.ones_like(hidden[:, :, columns])
    assert layer.differentiate(gradient, context, columns, batch).shape == (n_networks, n_pairs, 3)


def test_gather_undoes_scatter(network, structures, select_batch):
    batch, layer = select_batch(network, structures), network.first
    atoms = torch.randn(layer.n_networks, len(batch.index.atoms), 5, dtype=torch.float64)
    table = layer.scatter(atoms, batch)
    assert len(table) == layer.n_sets
    assert torch.equal(layer.gather(table, batch), atoms)


def test_constants_and_recipe_have_no_weights(network):
    """So they are cheap to send, however wide the network is."""
    recipe = network.recipe()
    for module in (recipe.constants, recipe.basis):
        assert not list(module.parameters())
    fields = vars(recipe).values()
    assert [field for field in fields if isinstance(field, nn.Module)] == [
        network.basis,
        network.first.constants,
    ]


def test_recipe_in_another_process_makes_the_same(network, structures):
    """What is pickled says all that environments need to be made."""
    X = as_structures(structures)
    recipe = pickle.loads(pickle.dumps(network.recipe().cpu()))
    here, there = (compute_environments(X, r, derivatives=True) for r in (network.recipe(), recipe))
    assert here.constants.keys() == there.constants.keys()
    for name, values in here.constants.items():
        assert torch.equal(values, there.constants[name])
    assert list(there.tensors) == [1, 2]
    assert torch.equal(here.places.positions, there.places.positions)


def test_copy_of_a_recipe_is_its_own(network):
    recipe = network.recipe()
    copied = recipe.cpu()
    assert copied.basis is not recipe.basis
    assert copied.constants is not recipe.constants
    assert copied.basis.dtype == recipe.basis.dtype == network.dtype
