"""Several processes that train together against one alone."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import FITS, SMALL, join_slurm, load_data

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.training._launch import find_first_host

WORKER = Path(__file__).with_name("distributed_worker.py")
LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS")
TOLERANCES = {name: 1e-5 if name == "float32" else 1e-9 for name in FITS}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_results(folder):
    """Return what the processes wrote, one after the other."""
    return [pickle.loads(file.read_bytes()) for file in sorted(folder.glob("*.pickle"))]


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """What two processes found that torchrun started."""
    folder = tmp_path_factory.mktemp("torchrun")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port", free_port(), WORKER, "torchrun", 1, folder]
    own = {k: v for k, v in os.environ.items() if k not in LAUNCHERS}
    done = subprocess.run(
        [str(part) for part in command],
        env={**own, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return read_results(folder)


@pytest.fixture(scope="module")
def slurm(server, tmp_path_factory):
    """What three processes found that have SLURM's variables."""
    folder, port = tmp_path_factory.mktemp("slurm"), free_port()
    processes = [
        server.Process(target=join_slurm, args=(rank, 3, port, folder)) for rank in range(3)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(600)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return read_results(folder)


@pytest.fixture(scope="module")
def alone():
    """The same fits in one process."""
    return {name: fit() for name, fit in FITS.items()}


def assert_close(found, expected, tolerance):
    assert len(found["history"]) == len(expected["history"])
    for epoch, other in zip(found["history"], expected["history"]):
        assert epoch.keys() == other.keys()
        for key, value in other.items():
            np.testing.assert_allclose(epoch[key], value, rtol=tolerance, err_msg=key)


def assert_same_bits(found, expected):
    assert found["history"] == expected["history"]
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name


def test_two_processes_find_what_one_finds(torchrun, alone):
    assert len(torchrun) == 2
    for found in torchrun:
        assert_close(found["float64"], alone["float64"], TOLERANCES["float64"])
    assert_same_bits(*(found["float64"] for found in torchrun))


@pytest.mark.parametrize("name", list(FITS))
def test_three_processes_find_what_one_finds(slurm, alone, name):
    """Also where the last batch, or validation, has fewer structures than there are processes."""
    assert len(slurm) == 3
    for found in slurm:
        assert_close(found[name], alone[name], TOLERANCES[name])
        assert_same_bits(found[name], slurm[0][name])


def test_fits_in_double_precision_end_with_the_same_weights(slurm, alone):
    for name, expected in alone["float64"]["weights"].items():
        found = slurm[2]["float64"]["weights"][name]
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_early_stopping_ends_all(slurm):
    n_epochs = {len(found["stopped"]["history"]) for found in slurm}
    assert len(n_epochs) == 1
    assert n_epochs.pop() < 40


def test_data_that_differ_are_refused_everywhere(slurm):
    for found in slurm:
        for name in ("X", "y", "sample_weight", "learning_rate"):
            error, message, seconds = found["other data"][name]
            assert error is ValueError
            assert f"Process 1 was given another {name} than process 0" in message
            assert seconds < 30


def test_bad_input_of_one_process_ends_all(slurm):
    errors = [found["other data"]["bad input"] for found in slurm]
    assert [error for error, _, _ in errors] == [RuntimeError, ValueError, RuntimeError]
    assert "y has 3 labels" in errors[1][1]
    for k in (0, 2):
        assert "Another process of this distributed fit failed" in errors[k][1]
        assert errors[k][2] < 30


def test_no_process_waits_for_one_that_failed(slurm):
    errors = [found["fail"] for found in slurm]
    assert errors[1]["ValueError", "batch"][0] is errors[1]["ValueError", "epoch"][0] is ValueError
    assert errors[1]["KeyboardInterrupt", "batch"][0] is KeyboardInterrupt
    # between epochs the others can be told
    assert "This process has ended the training" in errors[1]["KeyboardInterrupt", "epoch"][1]
    for k in (0, 2):
        assert {error for error, _, _ in errors[k].values()} == {RuntimeError}
        assert "continues the training" in errors[k]["KeyboardInterrupt", "epoch"][1]
    assert max(seconds for found in errors for _, _, seconds in found.values()) < 30


def test_the_first_process_writes_checkpoints_and_all_go_on_from_them(slurm):
    found = [one["checkpoints"] for one in slurm]
    assert [one["interrupted"][1] for one in found] == ["stop"] * 3
    # epochs 2 and 4 (and 6, 7 after the interruption)
    assert [one["written"] for one in found] == [4, 0, 0]
    for one in found:
        assert_same_bits(one["resumed"], found[0]["resumed"])
        assert_same_bits(one["resumed"], one["whole"])


def test_the_first_process_prints(slurm):
    texts = [found["text"] for found in slurm]
    assert texts[0].startswith("Fit of 25 structures: ")
    assert texts[0].count("epoch ") == 1
    assert texts[1:] == ["", ""]


def test_everything_is_as_it_was_before(torchrun, slurm):
    for found in [*torchrun, *slurm]:
        assert found["restored"]
        assert found["closed"]


def test_a_group_that_is_there_is_used_and_left(torchrun):
    for found in torchrun:
        assert found["own group"]["kept"]
        assert_same_bits(found["own group"], found["small"])


def test_a_fitted_model_needs_no_other_process(slurm):
    X, _, _ = load_data()
    models = [pickle.loads(found["pickled"]) for found in slurm]
    predictions = [model.predict(X) for model in models]
    assert np.isfinite(predictions[0]).all()
    for prediction in predictions[1:]:
        np.testing.assert_array_equal(prediction, predictions[0])


# --- in this process -----------------------------------------------------------------------------


@pytest.fixture
def no_launcher(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def fit_small(**parameters):
    X, y, _ = load_data()
    model = SoapBPNNRegressor(**SMALL, num_epochs=2, random_state=0, **parameters)
    return model.fit(X, y.select(["energy"]))


@pytest.mark.usefixtures("no_launcher")
def test_without_a_launcher_there_is_nobody_to_train_with():
    with pytest.raises(ValueError, match=r"torchrun --nproc-per-node=2 script\.py"):
        fit_small(distributed=True)


@pytest.mark.usefixtures("no_launcher")
def test_one_process_is_an_ordinary_fit(monkeypatch):
    expected = fit_small()
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = fit_small(distributed=True)
    for name, weight in expected.module_.state_dict().items():
        assert torch.equal(found.module_.state_dict()[name], weight)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("localhost", "localhost"),
        ("gpu7,gpu9", "gpu7"),
        ("node[03-07,12],gpu1", "node03"),
        ("node[5]", "node5"),
        ("n[11,13-15].cluster", "n11.cluster"),
        ("rack[1-2]node[07-09],x1", "rack1node07"),
        ("login-a,node[1-2]", "login-a"),
    ],
)
def test_first_host_of_slurms_list(nodelist, host):
    assert find_first_host(nodelist) == host
