"""Path integrals with i-PI: the files of docs/i-pi.md, with both clients."""

import os
import re
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units

from sklearn_soapbpnn import SoapBPNNRegressor

pytest.importorskip("ipi", reason="the extra `bench` installs i-PI")
pytestmark = [
    pytest.mark.metatrain,
    pytest.mark.filterwarnings("ignore"),  # metatomic's own
]

PAGE = (Path(__file__).parents[2] / "docs" / "i-pi.md").read_text()
BLOCKS = re.findall(r"```(?:python|xml|bash)\n(.*?)```", PAGE, re.DOTALL)
CLIENT, INPUT, DRIVER, DIRECT = BLOCKS[1], BLOCKS[2], BLOCKS[4], BLOCKS[5]
N_STEPS = 40  # the page has more
INPUT = INPUT.replace("<total_steps>100", f"<total_steps>{N_STEPS}")
INPUT = INPUT.replace('stride="100"', f'stride="{N_STEPS}"')
ADDRESSES = (f"soapbpnn{os.getpid()}_{k}" for k in count())
SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(shipped_molecules, tmp_path_factory):
    """What prepare.py writes, for a smaller model."""
    X, y = shipped_molecules
    small = {"max_radial": 2, "max_angular": 2, "dtype": "float64", "random_state": 0}
    model = SoapBPNNRegressor(**small, num_epochs=20).fit(X[:100], y[:100])
    folder = tmp_path_factory.mktemp("ipi")
    model.save(folder / "model.safetensors")
    model.export(folder / "model.pt")
    ase.io.write(folder / "molecule.xyz", X[0])
    return folder


def run(folder, target, text, client=None):
    """Run i-PI, and a client that is a shell command, in a copy of the folder."""
    shutil.copytree(folder, target)
    address, environment = next(ADDRESSES), {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{SCRIPTS}{os.pathsep}{environment['PATH']}"
    options = {"cwd": target, "env": environment, "stderr": subprocess.STDOUT}
    (target / "input.xml").write_text(text.replace("malonaldehyde", address))
    with open(target / "log", "w") as log:
        engine = subprocess.Popen(["i-pi", "input.xml"], stdout=log, **options)
        try:
            if client is not None:
                wait_for(Path(f"/tmp/ipi_{address}"), engine)
                (target / "client.py").write_text(CLIENT.replace("malonaldehyde", address))
                command = client.replace("malonaldehyde", address).split()
                subprocess.run(command, check=True, timeout=300, stdout=log, **options)
            assert engine.wait(300) == 0, (target / "log").read_text()
        finally:
            engine.kill()
    return np.loadtxt(target / "run.out")[:, 3]


def wait_for(socket, engine):
    for _ in range(600):
        if socket.exists():
            return
        assert engine.poll() is None
        time.sleep(0.1)
    raise AssertionError(f"i-PI did not open {socket}.")


def read_beads(folder):
    """Return the beads of a checkpoint, which has more digits than a trajectory."""
    text = re.search(r"<q shape='\(8, 27\)'>(.*?)</q>", (folder / "run.chk").read_text(), re.DOTALL)
    positions = np.array(text[1].replace("[", "").replace("]", "").split(","), dtype=float)
    molecule = ase.io.read(folder / "molecule.xyz")
    bohr = 0.52917721  # i-PI's
    return [Atoms(molecule.symbols, q) for q in positions.reshape(8, 9, 3) * bohr]


def test_both_clients_give_the_same_trajectory(folder, tmp_path):
    ours = run(folder, tmp_path / "ours", INPUT, "python client.py")
    theirs = run(folder, tmp_path / "theirs", INPUT, DRIVER)
    socket = re.search(r"<ffsocket.*?</ffsocket>", INPUT, re.DOTALL)[0]
    direct = run(folder, tmp_path / "direct", INPUT.replace(socket, DIRECT))
    assert len(ours) == len(theirs) == N_STEPS + 1
    # from i-PI's electronvolt to that of ASE
    ours = ours * 0.036749326 * units.Ha
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=9e-6)
    np.testing.assert_allclose(direct, theirs, rtol=0, atol=1e-9)
    assert np.ptp(theirs) > 0.01
    # the last energies are those that the model gives for the beads
    model = SoapBPNNRegressor.load(folder / "model.safetensors")
    for name, energies in (("ours", ours), ("theirs", theirs), ("direct", theirs)):
        mean = model.predict(read_beads(tmp_path / name)).mean()
        np.testing.assert_allclose(energies[-1], mean, rtol=0, atol=9e-6)
