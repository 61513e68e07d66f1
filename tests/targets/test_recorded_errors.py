"""What the history records of every target, and how the best epoch follows from it."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from sklearn_soapbpnn import SoapBPNNRegressor, TargetKind, Targets
from sklearn_soapbpnn.metrics import PER_ATOM, summarize_errors
from sklearn_soapbpnn.training import _progress

KINDS = {
    "energy": TargetKind.scalar(),
    "dipole": TargetKind.vector(2),
    "charges": TargetKind.scalar(per_atom=True),
    "pressure": TargetKind.tensor(symmetric=True, per_volume=True),
    "several": TargetKind.spherical([(0, 1, 2), (2, 1)], per_atom=True),
    "gaps": TargetKind.scalar(3, intensive=True),
}
DERIVED = {
    "forces": TargetKind.vector(per_atom=True),
    "stress": TargetKind.tensor(symmetric=True, per_volume=True),
}
NAMES = [*KINDS, *DERIVED]
SMALL = {
    "max_radial": 2,
    "max_angular": 2,
    "num_neurons_per_layer": 6,
    "dtype": "float64",
    "num_epochs": 4,
    "learning_rate": 1e-2,
    "batch_size": 3,
    "random_state": 0,
}


@pytest.fixture
def data(mixture, draw):
    """Training and validation data, in each of which labels are missing here and there."""
    complete = draw(mixture, {**KINDS, **DERIVED})
    rng, columns = np.random.default_rng(1), {}
    for name in complete.names:
        parts = [np.where(rng.random(p.shape) < 0.2, np.nan, p) for p in complete[name]]
        if name in ("stress", "pressure"):
            no_cell = [atoms.cell.rank < 3 for atoms in mixture]
            parts = [np.full((3, 3), np.nan) if no else p for no, p in zip(no_cell, parts)]
        columns[name] = parts
    y = Targets(kinds=KINDS, **columns)
    train, val = [0, 1, 3, 4, 6, 8], [2, 5, 7, 6]
    return [mixture[i] for i in train], y[train], [mixture[i] for i in val], y[val]


@pytest.fixture
def fit(data):
    X, y, X_val, y_val = data

    def fit(**options):
        return SoapBPNNRegressor(**{**SMALL, **options}).fit(X, y, X_val=X_val, y_val=y_val)

    return fit


def best_epoch(model):
    (*_, best) = (epoch for epoch in model.history_ if epoch["valid_metric_best"])
    assert best["valid_metric"] == min(model.history_[:, "valid_metric"])
    return best


@pytest.mark.parametrize("options", [{}, {"per_structure_targets": ["energy", "gaps"]}], ids=str)
@pytest.mark.parametrize("species_encoding", ["orthogonal", "alchemical"])
def test_errors_are_those_of_predict(fit, data, species_encoding, options):
    """In the user's units; the energy per atom, unless it is a target of the structure.

    An intensive target is as it is, also where ``per_structure_targets`` names it.
    """
    model, (X, y) = fit(species_encoding=species_encoding, **options), data[2:]
    errors = summarize_errors(X, y, model.predict(X, targets=NAMES))
    if not options:
        errors["energy"] = errors[PER_ATOM]
    best = best_epoch(model)
    for name in NAMES:
        for kind in ("rmse", "mae"):
            value = best[f"valid_{name}_{kind}"]
            np.testing.assert_allclose(value, errors[name][kind], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("metric", ["rmse_prod", "mae_prod", "loss"])
def test_best_model_metric_is_a_product_over_all_targets(fit, metric):
    model = fit(best_model_metric=metric)
    for epoch in model.history_:
        kind = metric.removesuffix("_prod")
        expected = epoch["valid_loss"]
        if metric != "loss":
            expected = np.prod([epoch[f"valid_{name}_{kind}"] for name in NAMES])
        np.testing.assert_allclose(epoch["valid_metric"], expected)
    best_epoch(model)


def test_errors_of_separate_blocks(fit, data):
    """Each block and property by itself, of targets that have several; they add up to the whole."""
    model, (X, y) = fit(log_separate_blocks=True), data[2:]
    best, prediction = best_epoch(model), model.predict(X, targets=NAMES)
    components = {
        "dipole": {"0": [0, 2, 4], "1": [1, 3, 5]},
        "several": {"l0+,0": [0], "l0+,1": [1], "l2+": [2, 3, 4, 5, 6]},
        "gaps": {"0": [0], "1": [1], "2": [2]},
    }
    for name, blocks in components.items():
        known, predicted = y.flatten(name), prediction.flatten(name)
        counts, squares, sizes = [], [], []
        for block, columns in blocks.items():
            error = (known - predicted)[:, columns]
            error = error[np.isfinite(error)]
            rmse, mae = (best[f"valid_{name}[{block}]_{kind}"] for kind in ("rmse", "mae"))
            np.testing.assert_allclose(rmse, np.sqrt(np.mean(error**2)), rtol=1e-9)
            np.testing.assert_allclose(mae, np.abs(error).mean(), rtol=1e-9)
            counts.append(error.size)
            squares.append(rmse**2)
            sizes.append(mae)
        whole = np.sqrt(np.average(squares, weights=counts))
        np.testing.assert_allclose(best[f"valid_{name}_rmse"], whole)
        np.testing.assert_allclose(best[f"valid_{name}_mae"], np.average(sizes, weights=counts))
    recorded = {key.partition("[")[0] for key in best if "[" in key}
    assert recorded == {f"valid_{name}" for name in components}


def test_separate_blocks_are_off_by_default(fit):
    assert not [key for key in fit().history_[-1] if "[" in key]


@pytest.mark.parametrize("log_mae", [False, True])
@pytest.mark.parametrize("log_separate_blocks", [False, True])
def test_lines_that_are_printed(
    fit, data, capsys, read_table, monkeypatch, log_mae, log_separate_blocks
):
    monkeypatch.setattr(_progress, "WIDTH", 1000)
    options = {"log_mae": log_mae, "log_separate_blocks": log_separate_blocks}
    model = fit(verbose=1, log_interval=2, **options)
    y, rows = data[1], read_table(capsys.readouterr().out)
    assert [int(row["epoch *best"].rstrip("*")) for row in rows] == [1, 2, 4]
    for name in [*NAMES, "several[l2+]", "gaps[1]"]:
        for kind in ("rmse", "mae"):
            shown = (kind == "rmse" or log_mae) and ("[" not in name or log_separate_blocks)
            unit = {"energy": "per atom"}.get(name, y.units.get(name, ""))
            title = f"{name} {kind} {unit}".strip()
            assert (title in rows[-1]) == shown
            if shown:
                assert rows[-1][title] == f"{model.history_[-1][f'valid_{name}_{kind}']:.3e}"


def test_target_without_a_label_in_validation_takes_no_part(data):
    X, y = data[:2]
    seed = int(np.random.RandomState(0).randint(2**31 - 1, size=3)[0])
    _, held_out = train_test_split(np.arange(len(X)), test_size=2, random_state=seed)
    columns = {name: y[name] for name in ("energy", "dipole", "charges")}
    columns["dipole"] = np.where(np.isin(np.arange(len(X)), held_out)[:, None, None], np.nan, 1.0)
    columns["dipole"] = columns["dipole"] * np.ones((1, 3, 2))
    model = SoapBPNNRegressor(**SMALL, validation_fraction=0.2)
    last = model.fit(X, Targets(kinds=KINDS, **columns)).history_[-1]
    assert "valid_dipole_rmse" not in last
    product = last["valid_energy_rmse"] * last["valid_charges_rmse"]
    np.testing.assert_allclose(last["valid_metric"], product)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_units_may_be_small_or_large(malonaldehyde, unit):
    """Such as C m for dipoles, whose squares single precision cannot hold."""
    X, y = malonaldehyde
    models = [
        SoapBPNNRegressor(max_radial=2, max_angular=1, num_epochs=8, random_state=0)
        for _ in range(2)
    ]
    plain, model = (m.fit(X, Targets(dipole=u * y["dipole"])) for m, u in zip(models, (1, unit)))
    for name in ("valid_dipole_rmse", "valid_dipole_mae", "valid_metric"):
        errors = np.array(model.history_[:, name])
        np.testing.assert_allclose(errors / unit, plain.history_[:, name], rtol=1e-4)
    assert model.net_.best_epoch_.best_number_ == plain.net_.best_epoch_.best_number_ > 1
    np.testing.assert_allclose(model.predict(X) / unit, plain.predict(X), rtol=1e-4, atol=1e-6)
