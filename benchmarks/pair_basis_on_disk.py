"""Time the pair basis and its gradient: computed, or read through a memory map.

If the data are larger than memory, the pair basis of each batch is computed in every epoch. This
script shows why it is not stored on disk instead: reading it takes about as long as computing it,
unless the file is still in the cache of the operating system, in which case memory was not short.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sklearn_soapbpnn.descriptors import PairBasis, SoapParameters
from sklearn_soapbpnn.descriptors._pair_basis import PairFactors


def forget(path):
    """Remove a file from the cache of the operating system."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5000, help="pairs in a batch")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    basis = PairBasis(SoapParameters()).float()
    vectors = torch.randn(arguments.batches, arguments.pairs, 3) * 2.0

    def compute(batch):
        return basis.factors(vectors[batch])

    sizes = [factor[0].numel() for factor in vars(compute(0)).values()]
    shapes = [factor.shape for factor in vars(compute(0)).values()]
    n_bytes = 4 * sum(sizes)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "factors"
        with path.open("wb") as file:
            for batch in range(arguments.batches):
                for factor in vars(compute(batch)).values():
                    factor.numpy().tofile(file)

        def read(batch):
            # mapped pages cannot be dropped from the cache, so each batch has its own map
            start = batch * n_bytes * arguments.pairs
            shape = (arguments.pairs * n_bytes // 4,)
            stored = np.memmap(path, np.float32, mode="r", offset=start, shape=shape)
            rows = torch.from_numpy(np.array(stored))
            parts = rows.split([size * arguments.pairs for size in sizes])
            return PairFactors(*(part.view(shape) for part, shape in zip(parts, shapes)))

        def measure(get, before=lambda: None):
            before()
            times = []
            for batch in range(arguments.batches):
                start = time.perf_counter()
                get(batch)
                times.append(time.perf_counter() - start)
            return sum(times) / len(times), statistics.median(times)

        torch.testing.assert_close(vars(read(1)), vars(compute(1)), rtol=0, atol=0)
        gigabytes = n_bytes * arguments.pairs * arguments.batches / 1e9
        print(f"{n_bytes} bytes per pair, {gigabytes:.2f} GB in total; us per pair: mean, median")
        for name, times in {
            "computed": measure(compute),
            "read, cached": measure(read),
            "read from disk": measure(read, lambda: forget(path)),
        }.items():
            mean, median = (1e6 * t / arguments.pairs for t in times)
            print(f"{name:16}{mean:8.2f}{median:8.2f}", flush=True)


if __name__ == "__main__":
    main()
