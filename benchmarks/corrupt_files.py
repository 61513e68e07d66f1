"""Damage saved models at random places, try to load them, and count the outcomes.

A file counts as *refused* if loading it raises a ValueError, as *same* if it loads and gives
identical predictions, as *other* if it loads and gives different predictions, and as *crash* if any
other error is raised. Exits with status 1 if any file counts as *other* or *crash*.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetScaler,
)
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.interfaces import load_model, save_model


def damage(content, rng):
    """Return a damaged copy and the name of the damage."""
    start, stop = sorted(rng.integers(len(content), size=2).tolist())
    # damage the header, where a byte matters more but which is a small part of the file, more often
    place = int(rng.integers(len(content) if rng.random() < 0.5 else min(4096, len(content))))
    what = rng.choice(["byte", "bit", "cut", "gap", "noise", "swap", "more"])
    flipped = bytearray(content)
    if what == "byte":
        flipped[place] ^= int(rng.integers(1, 256))
    elif what == "bit":
        flipped[place] ^= 1 << int(rng.integers(8))
    elif what == "cut":
        del flipped[place:]
    elif what == "gap":
        del flipped[start : stop + 1]
    elif what == "noise":
        flipped[start : start + 16] = rng.bytes(16)
    elif what == "swap":
        flipped[start], flipped[stop] = content[stop], content[start]
    else:
        flipped += rng.bytes(int(rng.integers(1, 64)))
    return bytes(flipped), str(what)


def attempt(path, cls, X, expected):
    """Try to load a file and return the outcome."""
    try:
        model = load_model(path)
    except ValueError:
        return "refused"
    except Exception as err:
        return f"crash: {err!r}"
    return "same" if np.array_equal(model.predict(X), expected) else "other"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=5000, help="damaged files of each model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    X, y = load_malonaldehyde(return_X_y=True)
    X, y = X[:20], y[:20]
    network = SoapBPNNRegressor(max_angular=2, num_epochs=1, random_state=0)
    soap = SoapFeaturizer(max_angular=2)
    models = {
        "regressor": network,
        "pipeline": make_pipeline(CompositionBaseline(), TargetScaler(), soap, network),
    }
    rng, n_bad = np.random.default_rng(arguments.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        for name, model in models.items():
            model.fit(X, y)
            expected = model.predict(X)
            save_model(model, path)
            content, counts = path.read_bytes(), Counter()
            for _ in range(arguments.files):
                flipped, what = damage(content, rng)
                if flipped == content:
                    continue
                path.write_bytes(flipped)
                fate = attempt(path, SoapBPNNRegressor, X, expected)
                counts[fate] += 1
                if fate != "refused":
                    print(f"  {what}: {fate}")
            n_bad += sum(n for fate, n in counts.items() if fate not in ("refused", "same"))
            print(f"{name}: {len(content)} bytes, {counts.total()} damaged files, {dict(counts)}")
    return n_bad > 0


if __name__ == "__main__":
    sys.exit(main())
