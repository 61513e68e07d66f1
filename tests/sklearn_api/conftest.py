"""Small structures with labels, and an empty feature store for every test."""

import numpy as np
import pytest
from soapbpnn_cases import label_everything

from sklearn_soapbpnn.descriptors._store import _process_store


@pytest.fixture(autouse=True)
def _empty_store():
    _process_store.clear()


@pytest.fixture
def molecules(shipped_molecules):
    """Twelve molecules of one composition, with energies and forces."""
    X, y = shipped_molecules
    return X[:12], y[:12]


@pytest.fixture(scope="session")
def everything(crystals):
    """The small crystals, with labels of every kind."""
    X, y = crystals
    return X, label_everything(X, y)


@pytest.fixture(params=["targets of molecules", "energies of crystals"])
def labelled(molecules, crystals, request):
    """Structures of equal and of different size, with both kinds of labels."""
    if request.param.startswith("targets"):
        return molecules
    return crystals[0], np.asarray(crystals[1])


@pytest.fixture(params=["molecules", "crystals"])
def data(request):
    """Structures and targets of both kinds."""
    return request.getfixturevalue(request.param)
