"""The bare regressor and the Pipeline of four steps are one model: DESIGN.md, section 4."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from soapbpnn_cases import (
    KINDS,
    NETWORK,
    OPTIONS,
    SOAP,
    list_predictions,
    make_pipeline,
    make_regressor,
    select_targets,
)

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.descriptors._store import _process_store
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator

N_TRAIN = 6


@pytest.fixture
def split(labelled):
    """Training and further structures, with both kinds of labels."""
    X, y = labelled
    return X[:N_TRAIN], X[N_TRAIN:], y[:N_TRAIN], y[N_TRAIN:]


def fit_cold(model, *args, **kwargs):
    """Fit without features from an earlier fit."""
    _process_store.clear()
    return model.fit(*args, **kwargs)


def assert_same_model(first, second, X):
    """Both predict the same bits, and both have learnt in the same steps."""
    assert_array_equal(first.predict(X), second.predict(X))
    names = ["energy", "forces"] + (["stress"] if X[0].pbc.all() else [])
    a, b = (model.predict(X, targets=names) for model in (first, second))
    assert isinstance(a, Targets)
    assert list(a.names) == list(b.names) == names
    assert_array_equal(a["energy"], first.predict(X))
    for name in names:
        for left, right in zip(a[name], b[name]):
            assert np.isfinite(left).all()
            assert_array_equal(left, right)
    histories = [getattr(m, "steps", [(None, m)])[-1][1].history_ for m in (first, second)]
    assert histories[0][:, "train_loss"] == histories[1][:, "train_loss"]


def assert_same_in_everything(first, second, X):
    """Every target and feature is the same to the bit, and both have learnt in the same steps."""
    bare, last = (getattr(model, "steps", [(None, model)])[-1][1] for model in (first, second))
    assert bare.kinds_ == last.kinds_
    names = list_predictions(bare)
    a, b = (model.predict(X, targets=names) for model in (first, second))
    assert list(a.names) == list(b.names) == names
    for name in names:
        assert a.kinds[name] == b.kinds[name]
        for left, right in zip(a[name], b[name], strict=True):
            assert np.isfinite(left).all()
            assert_array_equal(left, right, err_msg=name)
    for key in ("train_loss", "valid_loss"):
        assert bare.history_[:, key] == last.history_[:, key]


def request_validation(pipe):
    pipe[-1].set_fit_request(X_val=True, y_val=True)
    return pipe


def request_weights(pipe):
    for step in ("baseline", "scaler", "bpnn"):
        pipe.named_steps[step].set_fit_request(sample_weight=True)
    return pipe


def test_pipeline_is_the_bare_regressor(split):
    X, X_new, y, _ = split
    bare, pipe = fit_cold(make_regressor(), X, y), fit_cold(make_pipeline(), X, y)
    assert_same_model(bare, pipe, X)
    assert_same_model(bare, pipe, X_new)
    assert_array_equal(bare.elements_, pipe[-1].elements_)
    np.testing.assert_equal(bare.baseline_.coef_, pipe["baseline"].coef_)
    assert bare.scaler_.scale_ == pipe["scaler"].scale_
    assert bare.n_features_in_ == pipe[-1].n_features_in_
    assert bare.targets_ == pipe[-1].targets_
    assert pipe[-1].baseline_ is pipe[-1].scaler_ is None


@pytest.mark.parametrize("option", OPTIONS)
def test_pipeline_is_the_bare_regressor_for_all_targets(everything, option):
    X, y = everything
    bare = make_regressor(**OPTIONS[option])
    pipe = make_pipeline(bpnn=OPTIONS[option])
    fit_cold(bare, X[:N_TRAIN], y[:N_TRAIN])
    fit_cold(pipe, X[:N_TRAIN], y[:N_TRAIN])
    assert_same_in_everything(bare, pipe, X)
    np.testing.assert_equal(bare.baseline_.coef_, pipe["baseline"].coef_)
    np.testing.assert_equal(bare.scaler_.scale_, pipe["scaler"].scale_)
    if option != "plain":
        return
    other = make_regressor(random_state=1, **OPTIONS[option]).fit(X[:N_TRAIN], y[:N_TRAIN])
    for name in bare.kinds_:
        mine, others = (model.predict(X, targets=[name]).flatten(name) for model in (bare, other))
        assert not np.allclose(mine, others, rtol=1e-6, atol=0)


@pytest.mark.parametrize("names", [["dipole"], ["charges"], ["shielding", "gaps"]], ids=" ".join)
def test_pipeline_is_the_bare_regressor_without_energies(everything, names):
    X, y = everything
    y = select_targets(y, names)
    bare, pipe = fit_cold(make_regressor(), X, y), fit_cold(make_pipeline(), X, y)
    assert_same_in_everything(bare, pipe, X)


def test_zbl_as_a_step(everything):
    """The first step of the Pipeline is what ``zbl=True`` does."""
    X, y = everything
    bare = make_regressor(zbl=True, **OPTIONS["all"])
    pipe = make_pipeline(zbl=True, bpnn=OPTIONS["all"])
    fit_cold(bare, X[:N_TRAIN], y[:N_TRAIN])
    fit_cold(pipe, X[:N_TRAIN], y[:N_TRAIN])
    assert_same_in_everything(bare, pipe, X)
    np.testing.assert_equal(bare.baseline_.coef_, pipe["baseline"].coef_)
    without = make_regressor(**OPTIONS["all"]).fit(X[:N_TRAIN], y[:N_TRAIN])
    assert not np.allclose(bare.predict(X), without.predict(X), rtol=1e-6, atol=0)
    for calculator in (bare.calculator(), SoapBPNNCalculator(pipe)):
        atoms = X[-1].copy()
        atoms.calc = calculator
        expected = bare.predict([atoms], targets=["energy", "forces"])
        assert_allclose(atoms.get_potential_energy(), expected["energy"][0], rtol=1e-5)
        assert_allclose(atoms.get_forces(), expected["forces"][0], atol=1e-4)


@pytest.mark.parametrize(
    "per_structure",
    [
        ["energy", "forces"],
        ["gaps", "dipole"],
    ],
    ids=" ".join,
)
def test_options_of_the_targets_are_those_of_the_steps(everything, per_structure):
    X, y = everything
    composition = {"energy": {"Cu": -1.0, 79: -2.0}, "charges": {"Cu": 0.3}, "gaps": 0.5}
    scale = {"dipole": 2.0, "gaps": [0.5, 3.0], "charges": {29: 0.1}}
    shared = {"loss": {"dipole": "mae", "charges": {"type": "huber", "weight": 3.0}}}
    shared |= {"heads": {"dipole": "linear"}, "per_structure_targets": per_structure}
    bare = make_regressor(
        fixed_composition_weights=composition, fixed_scaling_weights=scale, **shared
    )
    pipe = make_pipeline(bpnn=shared).set_params(
        baseline__fixed_weights=composition,
        scaler__fixed_weights=scale,
        scaler__per_structure_targets=per_structure,
    )
    assert_same_in_everything(bare.fit(X, y), pipe.fit(X, y), X)
    assert_array_equal(bare.baseline_.coef_["energy"], [-1.0, -2.0])
    assert_array_equal(bare.scaler_.scale_["gaps"], [0.5, 3.0])


def test_nested_pipeline(split):
    X, X_new, y, _ = split
    front = make_pipeline()[:3]
    nested = Pipeline([("front", front), ("bpnn", SoapBPNNRegressor(**NETWORK))])
    assert_same_model(make_regressor().fit(X, y), nested.fit(X, y), X_new)


@pytest.mark.parametrize("steps", [[], ["baseline"], ["baseline", "scaler"], ["soap"]])
def test_regressor_supplies_the_steps_that_are_missing(split, steps):
    X, X_new, y, _ = split
    full = make_pipeline()
    last = SoapBPNNRegressor(**NETWORK, **({} if "soap" in steps else SOAP))
    pipe = Pipeline([(name, full.named_steps[name]) for name in steps] + [("bpnn", last)])
    assert_same_model(make_regressor().fit(X, y), pipe.fit(X, y), X_new)


def test_switching_off_is_leaving_out(split):
    X, X_new, y, _ = split
    bare = make_regressor(remove_composition_contribution=False, scale_targets=False)
    pipe = make_pipeline(
        bpnn={"remove_composition_contribution": False, "scale_targets": False}
    ).set_params(baseline="passthrough", scaler="passthrough")
    assert_same_model(bare.fit(X, y), pipe.fit(X, y), X_new)
    assert bare.baseline_ is bare.scaler_ is None
    assert not np.allclose(bare.predict(X_new), make_regressor().fit(X, y).predict(X_new))


def test_fixed_weights(crystals):
    X, y = crystals
    composition, scale = {"Cu": -1.0, 79: -2.0}, {"energy": 3.0}
    bare = make_regressor(fixed_composition_weights=composition, fixed_scaling_weights=scale)
    pipe = make_pipeline().set_params(
        baseline__fixed_weights=composition, scaler__fixed_weights=scale
    )
    assert_same_model(bare.fit(X, y), pipe.fit(X, y), X)
    assert_array_equal(bare.baseline_.coef_["energy"], [-1.0, -2.0])
    assert bare.scaler_.scale_ == scale


def test_pipeline_with_a_cache(split, tmp_path):
    X, X_new, y, _ = split
    expected = make_pipeline().fit(X, y)
    cached = make_pipeline(memory=str(tmp_path))
    for _ in range(2):  # the second fit reads the cache
        assert_same_model(expected, clone(cached).fit(X, y), X_new)


def test_pipeline_parameters_reach_the_step(crystals):
    X, y = crystals
    pipe = make_pipeline().set_params(soap__max_angular=1, bpnn__num_neurons_per_layer=5)
    bare = make_regressor(max_angular=1, num_neurons_per_layer=5)
    assert_same_model(bare.fit(X, y), pipe.fit(X, y), X)


def test_random_state(split):
    X, X_new, y, _ = split
    expected = make_regressor().fit(X, y).predict(X_new)
    generators = [np.random.RandomState(NETWORK["random_state"]) for _ in range(2)]
    for generator in generators:
        model = make_regressor(random_state=generator).fit(X, y)
        assert_array_equal(model.predict(X_new), expected)
    other = make_regressor(random_state=1).fit(X, y)
    assert not np.allclose(other.predict(X_new), expected, rtol=1e-9, atol=0)


def test_validation_structures(split):
    X, X_val, y, y_val = split
    bare = fit_cold(make_regressor(num_epochs=4), X, y, X_val=X_val, y_val=y_val)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(bpnn={"num_epochs": 4}, transform_input=["X_val"])
        fit_cold(request_validation(pipe), X, y, X_val=X_val, y_val=y_val)
    assert_same_model(bare, pipe, X_val)
    assert bare.history_[:, "valid_loss"] == pipe[-1].history_[:, "valid_loss"]
    held_out = make_regressor(num_epochs=4).fit(X, y)
    assert not np.array_equal(bare.predict(X_val), held_out.predict(X_val))


def test_validation_structures_with_all_targets(everything):
    X, y = everything
    parameters = OPTIONS["all"]
    train, val = slice(0, N_TRAIN), slice(N_TRAIN, None)
    bare = make_regressor(zbl=True, **parameters)
    fit_cold(bare, X[train], y[train], X_val=X[val], y_val=y[val])
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(zbl=True, bpnn=parameters, transform_input=["X_val"])
        fit_cold(request_validation(pipe), X[train], y[train], X_val=X[val], y_val=y[val])
    assert_same_in_everything(bare, pipe, X)


def test_validation_structures_pick_the_epoch(crystals):
    X, y = crystals
    energies = np.asarray(y)
    X_val, y_val = X[N_TRAIN:], energies[N_TRAIN:]
    model = make_regressor(num_epochs=6, learning_rate=0.05, dtype="float64")
    model.fit(X[:N_TRAIN], energies[:N_TRAIN], X_val=X_val, y_val=y_val)
    per_atom = (model.predict(X_val) - y_val) / [len(atoms) for atoms in X_val]
    recorded = model.history_[:, "valid_energy_rmse"]
    assert len(set(recorded)) > 1
    assert_allclose(np.sqrt(np.mean(per_atom**2)), min(recorded), rtol=1e-9)


def test_validation_structures_that_skipped_the_steps(split):
    X, X_val, y, y_val = split
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.raises(ValueError, match=r"X_val lacks .*features.*offset.*scale.*transform_input"),
    ):
        request_validation(make_pipeline()).fit(X, y, X_val=X_val, y_val=y_val)


@pytest.mark.parametrize(
    ("n_steps", "lacking"), [(0, "features and offset and scale"), (1, "features and scale")]
)
def test_error_lists_what_validation_structures_lack(crystals, n_steps, lacking):
    X, y = crystals
    front = make_pipeline()[:3]
    attached = front.fit_transform(X, y)
    X_val = front[:n_steps].transform(X) if n_steps else X
    with pytest.raises(ValueError, match=f"X_val lacks the {lacking} that X carries"):
        SoapBPNNRegressor(**NETWORK).fit(attached, y, X_val=X_val, y_val=y)


def test_validation_needs_structures_and_labels(crystals):
    X, y = crystals
    for arguments in ({"X_val": X}, {"y_val": y}):
        with pytest.raises(ValueError, match="X_val and y_val must be given together"):
            make_regressor().fit(X, y, **arguments)
    with pytest.raises(ValueError, match="y_val has the columns .*energy.* but y has .*forces"):
        make_regressor().fit(X, y, X_val=X, y_val=np.asarray(y))


def test_sample_weight(split):
    X, X_new, y, _ = split
    weights = np.linspace(0.2, 3.0, len(X))
    bare = fit_cold(make_regressor(), X, y, sample_weight=weights)
    by_step = {f"{step}__sample_weight": weights for step in ("baseline", "scaler", "bpnn")}
    assert_same_model(bare, fit_cold(make_pipeline(), X, y, **by_step), X_new)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = fit_cold(request_weights(make_pipeline()), X, y, sample_weight=weights)
    assert_same_model(bare, routed, X_new)
    unweighted = make_regressor().fit(X, y)
    assert not np.allclose(bare.predict(X_new), unweighted.predict(X_new), rtol=1e-9, atol=0)


@pytest.mark.parametrize("names", [["dipole"], ["energy", "charges", "shielding"]], ids=" ".join)
def test_sample_weight_of_all_steps(everything, names):
    X, y = everything
    y = select_targets(y, names)
    weights = np.linspace(0.2, 3.0, len(X))
    bare = fit_cold(make_regressor(), X, y, sample_weight=weights)
    by_step = {f"{step}__sample_weight": weights for step in ("baseline", "scaler", "bpnn")}
    pipe = fit_cold(make_pipeline(), X, y, **by_step)
    assert_same_in_everything(bare, pipe, X)
    unweighted = make_regressor().fit(X, y)
    for name in names:
        a, b = (model.predict(X, targets=[name]).flatten(name) for model in (bare, unweighted))
        assert not np.allclose(a, b, rtol=1e-6, atol=0)


def test_labels_of_weight_zero_do_not_matter(crystals):
    X, y = crystals
    weights = np.ones(len(X))
    weights[2] = 0.0
    columns = {name: list(y[name]) for name in y.names}
    columns["energy"][2] = 1e3
    columns["forces"][2] = np.full_like(columns["forces"][2], 7.0)
    columns["stress"][2] = np.full((3, 3), -5.0)
    models = [
        make_regressor().fit(X, labels, X_val=X[:4], y_val=y[:4], sample_weight=weights)
        for labels in (y, Targets(**columns))
    ]
    assert_same_model(*models, X)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cutoff_radius": 3.0}, "cutoff_radius=3.0 contradicts the features"),
        ({"max_radial": 3}, "max_radial=3 contradicts the features"),
        ({"dtype": "float64"}, "dtype='float64' contradicts the features"),
        ({"fixed_composition_weights": {"Cu": 1.0}}, "contradicts the offset"),
        ({"fixed_scaling_weights": {"energy": 1.0}}, "contradicts the scale"),
    ],
)
def test_parameters_that_contradict_the_steps(crystals, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(bpnn=parameters).fit(*crystals)


def test_parameters_that_agree_with_the_steps(crystals):
    X, y = crystals
    assert_same_model(make_pipeline().fit(X, y), make_pipeline(bpnn=SOAP).fit(X, y), X)


def test_last_step_wants_what_the_steps_attach(crystals):
    X, y = crystals
    pipe = make_pipeline().fit(X, y)
    with pytest.raises(ValueError, match="X lacks the .* Predict through the Pipeline"):
        pipe[-1].predict(X)
    with pytest.raises(ValueError, match="X carries the .* unlike in fit"):
        make_regressor().fit(X, y).predict(pipe[:-1].transform(X))


@pytest.mark.parametrize(
    "targets", ["forces", ["forces"], ("stress", "energy"), np.array(["virial"])]
)
def test_targets_are_returned_as_asked(crystals, targets):
    X, y = crystals
    for model in (make_regressor().fit(X, y), make_pipeline().fit(X, np.asarray(y))):
        assert model.predict(X, targets=targets).names == tuple(np.atleast_1d(targets))


def test_unknown_targets(crystals):
    X, y = crystals
    with pytest.raises(ValueError, match="'charge'.*energy"):
        make_pipeline().fit(X, y).predict(X, targets=["energy", "charge"])


def test_calculators(crystals):
    X, y = crystals
    bare, pipe = make_regressor(dtype="float64"), make_pipeline(soap={"dtype": "float64"})
    pipe.set_params(bpnn__dtype="float64")
    expected = bare.fit(X, y).predict(X, targets=["energy", "forces"])
    for calculator in (bare.calculator(), SoapBPNNCalculator(pipe.fit(X, y))):
        for i, atoms in enumerate(X):
            atoms = atoms.copy()
            atoms.calc = calculator
            assert_allclose(atoms.get_potential_energy(), expected["energy"][i], rtol=1e-9)
            assert_allclose(atoms.get_forces(), expected["forces"][i], rtol=1e-7, atol=1e-12)


def test_output_as_data_frame_elsewhere_does_not_matter(crystals):
    """A global set_config(transform_output="pandas") is about tables, not about the model."""
    X, y = crystals
    expected = make_regressor().fit(X, y).predict(X)
    with sklearn.config_context(transform_output="pandas"):
        model = make_regressor().fit(X, y)
        assert_array_equal(model.predict(X), expected)


def test_data_frame_in_front_of_the_network_is_refused(crystals):
    with pytest.raises(TypeError, match="set_output"):
        make_pipeline().set_output(transform="pandas").fit(*crystals)


def test_every_target_carries_its_offset_and_scale(everything):
    X, y = everything
    attached = make_pipeline(zbl=True)[:-1].fit_transform(X, y)
    own = {"energy", "polarizability", "charges", *KINDS}  # a dipole has no invariant part
    assert set(attached.offset) == {*own, "energies", "forces", "virial"}
    assert set(attached.scale) == {*own, "dipole"}


@pytest.mark.parametrize("fitted", [TargetScaler, SoapFeaturizer])
def test_steps_stack_what_they_attach(crystals, fitted):
    """Each step keeps what X carries already."""
    X, y = crystals
    front = make_pipeline()[:3].fit(X, y)
    attached = front.transform(X)
    step = fitted(**SOAP) if fitted is SoapFeaturizer else fitted()
    again = step.fit(attached, y).transform(attached)
    assert set(again.offset) == {"energy", "energies"}
    assert set(again.scale) == {"energy"}
    assert_array_equal(np.asarray(again), np.asarray(attached))


def test_a_second_baseline_has_nothing_left_to_subtract(crystals):
    X, y = crystals
    attached = CompositionBaseline().fit(X, y).transform(X)
    again = CompositionBaseline().fit(attached, y).transform(attached)
    assert_allclose(again.offset["energy"], attached.offset["energy"], rtol=1e-12)
    for mine, theirs in zip(again.offset["energies"], attached.offset["energies"], strict=True):
        assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([TargetScaler, CompositionBaseline], "Put CompositionBaseline before TargetScaler"),
        # the regressor's own baseline comes last
        ([TargetScaler], "Put CompositionBaseline before TargetScaler"),
        ([CompositionBaseline, ZBLBaseline], "Put ZBLBaseline before CompositionBaseline"),
        ([TargetScaler, ZBLBaseline], "Put ZBLBaseline before TargetScaler"),
        ([ZBLBaseline, ZBLBaseline], "Use one ZBLBaseline only"),
    ],
)
def test_steps_in_the_wrong_order(crystals, order, message):
    X, y = crystals
    pipe = Pipeline([(str(k), step()) for k, step in enumerate(order)])
    pipe.steps.append(("bpnn", SoapBPNNRegressor(**SOAP, num_epochs=1)))
    with pytest.raises(ValueError, match=message):
        pipe.fit(X, y)


def test_orders_that_change_nothing(crystals):
    X, y = crystals
    model = SoapBPNNRegressor(**SOAP, num_epochs=1, remove_composition_contribution=False)
    pipe = Pipeline([("scaler", TargetScaler()), ("bpnn", model)]).fit(X, y)
    assert_array_equal(pipe.predict(X).shape, (len(X),))
    # the regressor's own repulsion comes after a baseline of a Pipeline
    model = SoapBPNNRegressor(**SOAP, num_epochs=1, zbl=True)
    with pytest.raises(ValueError, match="Put ZBLBaseline before CompositionBaseline"):
        Pipeline([("baseline", CompositionBaseline()), ("bpnn", model)]).fit(X, y)
