"""Connect the processes of a distributed fit."""

from __future__ import annotations

import itertools
import os
import re
import sys
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

# longest time that a process waits for another one
TIMEOUT = timedelta(minutes=10)
# counts the fits of this process; each uses its own prefix in the store of the processes
_FITS = itertools.count()


def find_launch(port: int) -> tuple[str | None, int, int]:
    """Find the address, the rank and the number of processes in the environment.

    Parameters
    ----------
    port : int
        Port of the address, if SLURM started the processes.

    Returns
    -------
    url : str or None
        Address where the processes connect; None if torch.distributed is already initialised.
    rank : int
        Number of this process.
    size : int
        Number of processes.

    Raises
    ------
    ValueError
        If neither torch.distributed nor the environment defines the processes.
    """
    if dist.is_initialized():
        return None, dist.get_rank(), dist.get_world_size()
    env = os.environ
    if all(name in env for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return "env://", int(env["RANK"]), int(env["WORLD_SIZE"])
    if all(name in env for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NODELIST")):
        host = find_first_host(env.get("SLURM_STEP_NODELIST", env["SLURM_JOB_NODELIST"]))
        return f"tcp://{host}:{port}", int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"])
    raise ValueError(
        "distributed=True needs several processes, but none were found: torch.distributed is not "
        "initialised, and neither torchrun's environment variables (RANK, WORLD_SIZE, MASTER_ADDR, "
        "MASTER_PORT) nor SLURM's (SLURM_PROCID, SLURM_NTASKS, SLURM_JOB_NODELIST) are set. Start "
        "the script with torchrun --nproc-per-node=2 script.py, or in a SLURM job with srun python "
        "script.py; or set distributed=False."
    )


def find_first_host(nodelist: str) -> str:
    """Return the first host of a SLURM node list: ``node03`` of ``node[03-07,12],gpu1``."""
    first = re.match(r"([^,\[]|\[[^\]]*\])+", nodelist).group()
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)


def choose_gpu(device) -> int | None:
    """Return the index of the GPU for this process, or None if it uses no GPU."""
    name = str(device)
    if not torch.cuda.is_available() or not name.startswith(("auto", "cuda")):
        return None
    if name.startswith("cuda:"):
        return torch.device(name).index
    places = [os.environ.get(place) for place in ("LOCAL_RANK", "SLURM_LOCALID")]
    known = [int(place) for place in places if place is not None]
    return known[0] % torch.cuda.device_count() if known else torch.cuda.current_device()


@cache
def _connect(url, rank, size):
    """Return the store through which the processes connect.

    It stays open until the process ends, because a later fit could reopen it only after all other
    processes have closed it.
    """
    try:
        store, _, _ = next(dist.rendezvous(url, rank, size, timeout=TIMEOUT))
    except RuntimeError as err:
        raise RuntimeError(
            f"Process {rank} of {size} could not connect to the others at {url}. If the port is in "
            "use, choose another one with distributed_port (SLURM) or torchrun's --master-port. If "
            "not all processes were started, start them with torchrun or srun."
        ) from err
    return store


def start_group(url: str | None, rank: int, size: int, backend: str):
    """Return a process group; if torch.distributed is initialised, a new group of the same kind."""
    if url is None:
        return call_group(lambda: dist.new_group(timeout=TIMEOUT))
    # imported before the group exists: it would keep a reference to the group forever otherwise
    import torch.distributed.nn  # noqa: F401

    store = dist.PrefixStore(f"sklearn_soapbpnn/{next(_FITS)}", _connect(url, rank, size))
    hook = sys.excepthook
    options = {"store": store, "rank": rank, "world_size": size, "timeout": TIMEOUT}
    call_group(lambda: dist.init_process_group(backend, **options))
    # torch replaces the hook and does not restore it
    sys.excepthook = hook
    return dist.group.WORLD


def call_group(function):
    """Call a function of torch.distributed and explain its errors.

    The tracebacks are cut off, since they would keep the group and its connections open.
    """
    try:
        return function()
    except RuntimeError as err:
        raise RuntimeError(
            "Another process of this distributed fit failed or ended, or did not answer for "
            f"{TIMEOUT}. See the output of that process for the cause."
        ) from err.with_traceback(None)
    except KeyboardInterrupt as err:
        raise err.with_traceback(None) from None
