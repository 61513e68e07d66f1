"""Fits that several processes make together; run as a script, this is one of the processes."""

import contextlib
import io
import os
import pickle
import sys
import time
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from ase.build import bulk
from skorch.callbacks import Callback

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.training import _checkpoints, _launch

SMALL = {"cutoff_radius": 4.0, "max_radial": 2, "max_angular": 2, "batch_size": 5}
SMALL |= {"num_neurons_per_layer": 8}
KINDS = {
    "dipole": TargetKind.vector(),
    "shielding": TargetKind.tensor(per_atom=True),
    "gap": TargetKind.scalar(intensive=True),
}


@cache
def load_data():
    """Alloys of different size with labels of every sort, some of them missing."""
    rng = np.random.default_rng(0)
    X = [bulk("Cu", cubic=True, a=3.6 + 0.02 * k) for k in range(25)]
    for k, atoms in enumerate(X):
        atoms.numbers[: k % 4] = 79
        atoms.positions += rng.normal(scale=0.05, size=(4, 3))
        if k % 3 == 0:
            del atoms[-1]
    energy, stress = rng.normal(size=25), rng.normal(size=(25, 3, 3))
    stress = stress + stress.swapaxes(1, 2)
    forces = [rng.normal(size=(len(atoms), 3)) for atoms in X]
    energy[[2, 11]] = np.nan
    stress[4] = np.nan
    stress[7, 0] = stress[7, :, 0] = np.nan
    forces[5][:2] = np.nan
    forces[9][:] = np.nan
    dipole = rng.normal(size=(len(X), 3))
    dipole[::2] = np.nan
    shielding = [rng.normal(size=(len(atoms), 3, 3)) for atoms in X]
    shielding[3][1] = np.nan
    gap = rng.normal(size=len(X))
    columns = {"energy": energy, "forces": forces, "stress": stress, "gap": gap}
    y = Targets(kinds=KINDS, **columns, dipole=dipole, shielding=shielding)
    return X, y, rng.uniform(0.5, 2.0, size=len(X))


def describe(model):
    """What two fits are compared by."""
    history = [{k: v for k, v in epoch.items() if k != "dur"} for epoch in model.history_]
    return {"history": history, "weights": dict(model.module_.state_dict())}


def fit_everything(dtype, **parameters):
    """Every target, missing labels, weights; the last batch has a single structure."""
    X, y, weights = load_data()
    loss = {"energy": {"type": "mse", "stress": "mae"}, "dipole": {"type": "huber", "weight": 0.3}}
    loss["shielding"] = {"type": "mse", "reduction": "sum", "weight": 0.01}
    model = SoapBPNNRegressor(**SMALL, dtype=dtype, loss=loss, num_epochs=4, random_state=0)
    model.set_params(**parameters)
    assert len(X) - 4 == 4 * SMALL["batch_size"] + 1
    model.fit(X[4:], y[4:], X_val=X[:4], y_val=y[:4], sample_weight=weights[4:])
    return describe(model)


def fit_long_range(**parameters):
    """The other networks; a single structure is there for validation."""
    X, y, _ = load_data()
    known = [k for k in range(len(X)) if np.isfinite(y["energy"][k])][:12]
    model = SoapBPNNRegressor(**SMALL, dtype="float64", num_epochs=2, random_state=0)
    model.set_params(long_range=True, species_encoding="alchemical", **parameters)
    model.fit([X[k] for k in known], y[known].select(["energy", "forces"]))
    return describe(model)


def fit_streamed(**parameters):
    """Data that are larger than the memory they may take."""
    X, y, _ = load_data()
    model = SoapBPNNRegressor(**SMALL, dtype="float64", num_epochs=2, random_state=0)
    model.set_params(memory_limit=1, num_workers=0, **parameters)
    return describe(model.fit(X, y.select(["energy", "forces"])))


def fit_until_stopped(**parameters):
    X, y, _ = load_data()
    model = SoapBPNNRegressor(**SMALL, dtype="float64", num_epochs=40, learning_rate=0.1)
    # at such a rate Muon would amplify the rounding of sums over processes
    model.set_params(early_stopping=True, n_iter_no_change=2, random_state=0, optimizer="adam")
    model.set_params(**parameters)
    return describe(model.fit(X, y.select(["energy"])))


FITS = {
    "float64": lambda **parameters: fit_everything("float64", **parameters),
    "float32": lambda **parameters: fit_everything("float32", **parameters),
    "committee": lambda **parameters: fit_everything("float64", n_networks=3, **parameters),
    "long range": fit_long_range,
    "streamed": fit_streamed,
    "stopped": fit_until_stopped,
}


class Fail(Callback):
    """Fail on the way in one process, or in all."""

    def __init__(self, error, where, ranks):
        self.error, self.where, self.ranks = error, where, ranks

    def on_batch_end(self, net, training=False, **kwargs):
        self._fail(net, "batch")

    def on_epoch_end(self, net, **kwargs):
        self._fail(net, "epoch")

    def _fail(self, net, where):
        if where == self.where and len(net.history) == 4 and net.processes.rank in self.ranks:
            raise self.error


def run_small(**parameters):
    X, y, _ = load_data()
    model = SoapBPNNRegressor(**SMALL, num_epochs=7, distributed=True, random_state=0)
    return model.set_params(**parameters).fit(X, y.select(["energy", "forces"]))


def catch(function, **parameters):
    """Return the error and how long it took."""
    start = time.monotonic()
    try:
        function(**parameters)
    except BaseException as err:
        return type(err), str(err), time.monotonic() - start
    return None


def fit_other_data(rank, port):
    """Return the errors of fits that differ from process to process."""
    X, y, weights = load_data()
    model = SoapBPNNRegressor(**SMALL, distributed=True, distributed_port=port)
    own = y.select(["energy"])
    return {
        "y": catch(model.fit, X=X, y=y.select(["energy", "forces"]) if rank == 1 else own),
        "X": catch(model.fit, X=X[::-1] if rank == 0 else X, y=own),
        "sample_weight": catch(model.fit, X=X, y=own, sample_weight=weights * (rank + 1)),
        "learning_rate": catch(
            model.set_params(learning_rate=0.1 if rank == 1 else 0.2).fit, X=X, y=own
        ),
        # refused before the processes can be compared
        "bad input": catch(model.fit, X=X, y=np.zeros(3) if rank == 1 else own),
    }


def fit_and_fail(port):
    return {
        (error.__name__, where): catch(
            run_small, callbacks=[Fail(error("stop"), where, [1])], distributed_port=port
        )
        for error in (ValueError, KeyboardInterrupt)
        for where in ("batch", "epoch")
    }


def fit_with_checkpoints(port, folder):
    """Interrupt a fit in all processes, and go on."""
    own = {"random_state": None, "distributed_port": port, "checkpoint_interval": 2}
    own["checkpoint_dir"] = folder
    written, write = [], _checkpoints.replace_file
    _checkpoints.replace_file = lambda path, content: (written.append(path), write(path, content))
    interrupted = catch(run_small, **own, callbacks=[Fail(RuntimeError("stop"), "epoch", range(9))])
    X, y, _ = load_data()
    model = SoapBPNNRegressor(**SMALL, num_epochs=7, distributed=True).set_params(**own)
    model.fit(X, y.select(["energy", "forces"]), resume=True)
    seeds = torch.load(next(folder.iterdir()), weights_only=True)["seeds"]
    _checkpoints.replace_file = write

    # the same seeds, without an interruption
    class Drawn(np.random.RandomState):
        def randint(self, *args, **kwargs):
            return np.array(seeds)

    whole = run_small(distributed_port=port, random_state=Drawn())
    results = {"resumed": describe(model), "whole": describe(whole)}
    return {**results, "interrupted": interrupted, "written": len(written)}


def fit_aloud(port):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        run_small(distributed_port=port, verbose=1)
    return text.getvalue()


def fit_in_own_group():
    """Fit in a group that was there before, and use it afterwards."""
    dist.init_process_group("gloo")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    group = dist.group.WORLD
    result = describe(run_small())
    total = torch.ones(1)
    dist.all_reduce(total)
    result["kept"] = dist.group.WORLD is group and total.item() == dist.get_world_size()
    dist.destroy_process_group()
    return result


def list_variables():
    # one of torch's own is set when it is first imported in full
    return {k: v for k, v in os.environ.items() if not k.startswith("TORCHINDUCTOR")}


def join_slurm(rank, n_processes, port, folder):
    """Be one of the processes that SLURM has started."""
    torch.set_num_threads(1)
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        os.environ.pop(name, None)
    os.environ |= {"SLURM_NTASKS": str(n_processes), "SLURM_PROCID": str(rank)}
    os.environ["SLURM_JOB_NODELIST"] = "localhost"
    main("slurm", port, folder)


def main(what, port, folder):
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID")))
    _launch.TIMEOUT = timedelta(seconds=60)
    before = sys.excepthook, list_variables()
    together = {"distributed": True, "distributed_port": port}
    results = {}
    names = ["float64"] if what == "torchrun" else list(FITS)
    for name in names:
        results[name] = FITS[name](**together)
    if what == "slurm":
        results["other data"] = fit_other_data(rank, port)
        results["fail"] = fit_and_fail(port)
        results["checkpoints"] = fit_with_checkpoints(port, folder / "checkpoints")
        results["text"] = fit_aloud(port)
    model = run_small(distributed_port=port)
    results["small"] = describe(model)
    results["pickled"] = pickle.dumps(model)
    results["restored"] = (sys.excepthook, list_variables()) == before
    results["closed"] = not dist.is_initialized()
    if what == "torchrun":
        results["own group"] = fit_in_own_group()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
