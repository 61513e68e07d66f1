"""What the tests of the scikit-learn API share; a module, so that workers can import it."""

import hashlib
import os

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
    ZBLBaseline,
)

SOAP = {"cutoff_radius": 4.0, "max_radial": 2, "max_angular": 2}
NETWORK = {"num_neurons_per_layer": 8, "num_epochs": 2, "batch_size": 4, "random_state": 0}
# what no known name stands for
KINDS = {
    "gaps": TargetKind.scalar(2, intensive=True),
    "quadrupole": TargetKind.spherical([(0, 1), (2, 1)]),
    "shielding": TargetKind.tensor(per_atom=True),
}
# parameters that change what the network is
OPTIONS = {
    "plain": {},
    "alchemical": {"species_encoding": "alchemical", "n_pseudo_species": 2},
    "committee": {"n_networks": 2},
    "long range": {"long_range": True},
    "all": {"species_encoding": "alchemical", "long_range": True, "heads": {"energy": "linear"}},
}


def label_everything(X, y):
    """Add targets of every kind to energies, forces and stresses: smooth, and without meaning."""
    rng = np.random.default_rng(1)

    def draw(name, kind):
        direction = rng.normal(size=(3, 1))
        phase, shift = rng.normal(size=(2, kind.size))

        def label(r):
            values = np.sin(r @ direction + phase) + shift
            if kind.per_atom:
                return values
            return values.mean(0) if kind.intensive else values.sum(0)

        labels = [label(atoms.positions).reshape(-1, *kind.shape) for atoms in X]
        return labels if kind.per_atom else np.concatenate(labels)

    kinds = {
        "dipole": TargetKind.vector(),
        "polarizability": TargetKind.tensor(symmetric=True),
        "charges": TargetKind.scalar(per_atom=True),
        **KINDS,
    }
    columns = {name: draw(name, kind) for name, kind in kinds.items()}
    columns["polarizability"] = columns["polarizability"] + np.swapaxes(
        columns["polarizability"], 1, 2
    )
    return Targets(kinds=KINDS, **{name: y[name] for name in y.names}, **columns)


def select_targets(y, names):
    """Return some columns of Targets."""
    kinds = {name: y.kinds[name] for name in names}
    return Targets(kinds=kinds, **{name: y[name] for name in names})


def list_predictions(model):
    """Names of everything that a fitted regressor says of crystals."""
    derived = ["energies", "forces", "stress", "virial"] * ("energy" in model.kinds_)
    return [*model.kinds_, *derived, "features", f"{model.targets_[0]}_last_layer_features"]


def make_regressor(**parameters):
    return SoapBPNNRegressor(**{**SOAP, **NETWORK, **parameters})


def make_pipeline(*, featurizer=SoapFeaturizer, soap=None, bpnn=None, zbl=False, **parameters):
    """Return the four steps of DESIGN.md, section 4, with a step for ZBL before them if wanted."""
    steps = [
        *([("zbl", ZBLBaseline())] if zbl else []),
        ("baseline", CompositionBaseline()),
        ("scaler", TargetScaler()),
        ("soap", featurizer(**{**SOAP, **(soap or {})})),
        ("bpnn", SoapBPNNRegressor(**{**NETWORK, **(bpnn or {})})),
    ]
    return Pipeline(steps, **parameters)


class CountingFeaturizer(SoapFeaturizer):
    """Write a line for each structure that is computed, from whatever process."""

    _parameter_constraints = {**SoapFeaturizer._parameter_constraints, "log": [str]}

    def __init__(
        self,
        cutoff_radius=5.0,
        cutoff_width=0.5,
        max_radial=7,
        max_angular=6,
        radial_scale=np.inf,
        pooling="mean",
        dtype="float32",
        memory=None,
        log="",
    ):
        super().__init__(
            *(cutoff_radius, cutoff_width, max_radial, max_angular, radial_scale),
            *(pooling, dtype, memory),
        )
        self.log = log

    def _compute(self, structures):
        lines = [name_positions(positions) + "\n" for positions in structures.positions]
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, "".join(lines).encode())
        os.close(descriptor)
        return super()._compute(structures)


def name_positions(positions):
    return hashlib.sha1(positions.tobytes()).hexdigest()


def read_log(path):
    """Names of the structures that were computed, in order."""
    return path.read_text().split() if path.exists() else []
