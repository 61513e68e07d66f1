"""How the processes of a distributed fit find each other."""

from __future__ import annotations

import itertools
import os
import re
import sys
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

# how long a process waits for another one
TIMEOUT = timedelta(minutes=10)
# fits since the process started; each has its part of the store that they find each other through
_FITS = itertools.count()


def find_launch(port: int) -> tuple[str | None, int, int]:
    """Return where the processes meet, which of them this is, and how many there are.

    They need not meet, and the first is None, if torch.distributed is initialised.

    Raises
    ------
    ValueError
        If nothing says who they are.
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
        "distributed=True needs several processes, but nothing says who they are: "
        "torch.distributed is not initialised, and there are neither torchrun's variables (RANK, "
        "WORLD_SIZE, MASTER_ADDR, MASTER_PORT) nor SLURM's (SLURM_PROCID, SLURM_NTASKS, "
        "SLURM_JOB_NODELIST). Start the script with torchrun --nproc-per-node=2 script.py, or in a "
        "SLURM job with srun python script.py; or set distributed=False."
    )


def find_first_host(nodelist: str) -> str:
    """Return the first host of a SLURM list, e.g. ``node03`` of ``node[03-07,12],gpu1``."""
    first = re.match(r"([^,\[]|\[[^\]]*\])+", nodelist).group()
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)


def choose_gpu(device) -> int | None:
    """Return the number of this process's GPU, or None if it is to use none."""
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
    """Return the store that the processes find each other through.

    It stays open until the process ends: a fit that follows could not open it again before all
    others have closed it.
    """
    try:
        store, _, _ = next(dist.rendezvous(url, rank, size, timeout=TIMEOUT))
    except RuntimeError as err:
        raise RuntimeError(
            f"Process {rank} of {size} found no connection to the others at {url}. If the port is "
            "in use, choose another one: distributed_port (SLURM) or torchrun's --master-port. If "
            "not all processes were started, start them with torchrun or srun."
        ) from err
    return store


def start_group(url: str | None, rank: int, size: int, backend: str):
    """Return a group of the processes: if they have one already, another one of the same sort."""
    if url is None:
        return call_group(lambda: dist.new_group(timeout=TIMEOUT))
    # it keeps the group that is open when it is imported, which optimisers do, for good
    import torch.distributed.nn  # noqa: F401

    store = dist.PrefixStore(f"sklearn_soapbpnn/{next(_FITS)}", _connect(url, rank, size))
    hook = sys.excepthook
    options = {"store": store, "rank": rank, "world_size": size, "timeout": TIMEOUT}
    call_group(lambda: dist.init_process_group(backend, **options))
    # torch puts its own there, and leaves it
    sys.excepthook = hook
    return dist.group.WORLD


def call_group(function):
    """Call something of torch.distributed, and say what its errors mean.

    Their tracebacks are cut off, which would keep the group, and with it the connections, open.
    """
    try:
        return function()
    except RuntimeError as err:
        raise RuntimeError(
            "Another process of this distributed fit failed or ended, or did not answer for "
            f"{TIMEOUT}. What it printed says why."
        ) from err.with_traceback(None)
    except KeyboardInterrupt as err:
        raise err.with_traceback(None) from None
