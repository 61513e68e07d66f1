"""Cross-validate a model of a tensor against the composition baseline.

The baseline depends on the elements only and predicts only the isotropic part of a tensor; the
model learns the residual. The data are extended XYZ with the tensor in ``info`` (or, per atom, in
``arrays``).
"""

import argparse
import time

import ase.io
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import KFold, cross_validate

from sklearn_soapbpnn import CompositionBaseline, SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.metrics import make_target_scorer


class BaselineOnly(BaseEstimator):
    """The composition baseline as a regressor."""

    def fit(self, X, y):
        self.baseline_ = CompositionBaseline().fit(X, y)
        return self

    def predict(self, X, targets):
        return self.baseline_.predict(X, targets=targets)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="extended XYZ file (.xyz or .xyz.gz)")
    parser.add_argument("--target", default="polarizability", help="name in the file")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3, help="seeds of the folds")
    arguments = parser.parse_args()
    X = ase.io.read(arguments.file, ":")
    kinds = {arguments.target: TargetKind.tensor(symmetric=True)}
    y = Targets.from_atoms(X, kinds=kinds, **{arguments.target: arguments.target})
    models = {
        "composition baseline": BaselineOnly(),
        "SoapBPNNRegressor": SoapBPNNRegressor(num_epochs=arguments.epochs, random_state=0),
        "the same, alchemical": SoapBPNNRegressor(
            num_epochs=arguments.epochs, random_state=0, species_encoding="alchemical"
        ),
    }
    scoring = {
        metric: make_target_scorer(arguments.target, metric, kinds=kinds)
        for metric in ("rmse", "mae")
    }
    print(f"{len(X)} structures, {arguments.folds} folds, {arguments.repeats} repeats")
    print(f"{'':24}{'RMSE':>10}{'MAE':>10}{'factor':>10}{'s a fit':>10}")
    reference = None
    for name, model in models.items():
        start, errors = time.perf_counter(), {kind: [] for kind in scoring}
        for seed in range(arguments.repeats):
            folds = KFold(arguments.folds, shuffle=True, random_state=seed)
            results = cross_validate(model, X, y, cv=folds, scoring=scoring)
            for kind, values in errors.items():
                values.append(-results[f"test_{kind}"].mean())
        seconds = (time.perf_counter() - start) / (arguments.repeats * arguments.folds)
        rmse, mae = (np.median(errors[kind]) for kind in ("rmse", "mae"))
        reference = reference or rmse
        print(f"{name:24}{rmse:10.4f}{mae:10.4f}{reference / rmse:10.2f}{seconds:10.2f}")


if __name__ == "__main__":
    main()
