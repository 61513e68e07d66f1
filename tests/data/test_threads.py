"""Threads: as many as the work is worth, and everybody's settings as before."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from sklearn_soapbpnn.data import use_threads
from sklearn_soapbpnn.data._threads import ATOMS_PER_THREAD


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("n_atoms", "n_threads"),
    [(0, 1), (72, 1), (2 * ATOMS_PER_THREAD - 1, 1), (2 * ATOMS_PER_THREAD, 2), (10**6, 2)],
)
def test_threads_by_size(two_threads, n_atoms, n_threads):
    with use_threads(n_atoms):
        assert torch.get_num_threads() == n_threads
    assert torch.get_num_threads() == 2


def test_never_more_than_torch_would():
    with use_threads(10**6):
        assert torch.get_num_threads() == 1


def test_nested_blocks(two_threads):
    with use_threads(10**6):
        with use_threads(0):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), use_threads(0):
            raise KeyError
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)  # between two blocks it is the user's own
    with use_threads(10**6):
        assert torch.get_num_threads() == 1


def test_blocks_that_overlap_in_two_threads_of_python(two_threads):
    inside, leave, found = threading.Event(), threading.Event(), []

    def work():
        with use_threads(0):
            inside.set()
            leave.wait()
        found.append(torch.get_num_threads())

    other = threading.Thread(target=work)
    with use_threads(0):
        other.start()
        inside.wait()
    assert torch.get_num_threads() == 2
    leave.set()
    other.join()
    assert found == [2]


FORK = """
import multiprocessing
import numpy as np
from ase.build import bulk
from sklearn_soapbpnn import SoapBPNNRegressor

X = [bulk("Cu", cubic=True) * (2, 1, 1) for _ in range(12)]
for seed, atoms in enumerate(X):
    atoms.rattle(0.1, seed=seed)
y = np.random.default_rng(0).normal(size=12)

def fit(state):
    return SoapBPNNRegressor(
        max_radial=3, max_angular=2, num_epochs=2, random_state=state).fit(X, y)

def work(state):
    return *model.predict(X).tolist(), *fit(state).predict(X).tolist()

model = fit(0)
with multiprocessing.get_context("fork").Pool(1) as pool:
    (answer,) = pool.map_async(work, [0]).get(60)
print(answer == work(0))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_processes_answer():
    # the child lacks the threads that OpenMP has started in its parent
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "True", run.stderr
