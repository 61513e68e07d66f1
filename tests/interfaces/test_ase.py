"""The ASE calculator: values, caching, relaxation, and conservation of energy."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_soapbpnn import (
    CompositionBaseline,
    SoapBPNNRegressor,
    SoapFeaturizer,
    TargetKind,
    Targets,
    TargetScaler,
    ZBLBaseline,
)
from sklearn_soapbpnn.interfaces.ase import SoapBPNNCalculator

SMALL = {"max_radial": 2, "max_angular": 2}


@pytest.fixture(scope="module")
def data(shipped_molecules):
    return shipped_molecules


@pytest.fixture(scope="module")
def molecular(data):
    X, y = data
    return SoapBPNNRegressor(**SMALL, num_epochs=10, random_state=0).fit(X[:200:5], y[:200:5])


@pytest.fixture(scope="module")
def metallic(shipped_alloys):
    X, y = shipped_alloys
    model = SoapBPNNRegressor(**SMALL, num_epochs=3, dtype="float64", random_state=0)
    return model.fit(X[10:20], y[10:20]), X


def test_agrees_with_predict(metallic):
    model, X = metallic
    atoms = X[40].copy()
    atoms.calc = model.calculator()
    prediction = model.predict([atoms], targets=["energy", "forces", "stress"])
    np.testing.assert_allclose(atoms.get_potential_energy(), prediction["energy"][0])
    np.testing.assert_allclose(atoms.get_forces(), prediction["forces"][0], atol=1e-10)
    np.testing.assert_allclose(
        atoms.get_stress(voigt=False), prediction["stress"][0], rtol=1e-7, atol=1e-12
    )
    np.testing.assert_allclose(atoms.get_potential_energies().sum(), prediction["energy"][0])
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_agrees_with_the_numerical_derivatives_of_ase(metallic):
    model, X = metallic
    atoms = X[40].copy()
    atoms.calc = model.calculator()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    some = [0, 13]
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=some)
    np.testing.assert_allclose(forces[some], numerical, atol=1e-6 * np.abs(forces).max())
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(stress, numerical, atol=1e-5 * np.abs(stress).max())


def test_energies_of_atoms_share_out_the_baseline(metallic):
    model, _ = metallic
    pair = Atoms("CuAu", [[0, 0, 0], [0, 0, 20.0]])
    pair.calc = model.calculator()
    energies = []
    for symbol in ("Cu", "Au"):
        atom = Atoms(symbol)
        atom.calc = model.calculator()
        energies.append(atom.get_potential_energy())
    np.testing.assert_allclose(pair.get_potential_energies(), energies)


def test_results_follow_the_atoms(metallic):
    model, X = metallic
    atoms = X[40].copy()
    atoms.calc = calc = model.calculator()
    energy = atoms.get_potential_energy()
    assert not calc.calculation_required(atoms, ["energy"])
    atoms.positions[0] += 0.1
    assert calc.calculation_required(atoms, ["energy"])
    assert atoms.get_potential_energy() != energy
    atoms.positions[0] -= 0.1
    atoms.set_cell(atoms.cell * 1.01)
    assert atoms.get_potential_energy() != energy


def test_molecules_have_no_stress(molecular, data):
    atoms = data[0][0].copy()
    atoms.calc = molecular.calculator()
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(NotImplementedError):
        atoms.get_stress()


def test_pipelines_and_searches(data):
    X, y = data[0][:30], data[1][:30]
    pipe = make_pipeline(
        make_pipeline(CompositionBaseline(), TargetScaler()),
        SoapFeaturizer(**SMALL),
        SoapBPNNRegressor(num_epochs=2, random_state=0),
    )
    search = GridSearchCV(pipe, {"soapbpnnregressor__num_neurons_per_layer": [4, 8]}, cv=2)
    search.fit(X, y)
    for model in (search, search.best_estimator_):
        atoms = X[0].copy()
        atoms.calc = SoapBPNNCalculator(model)
        prediction = search.best_estimator_.predict([atoms], targets=["energy", "forces"])
        np.testing.assert_allclose(atoms.get_potential_energy(), prediction["energy"][0])
        np.testing.assert_allclose(atoms.get_forces(), prediction["forces"][0], atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"zbl": True},
        {"species_encoding": "alchemical", "num_hidden_layers": 0},
        {"long_range": True, "zbl": True},
        {"long_range": True, "species_encoding": "alchemical", "heads": {"energy": "linear"}},
    ],
    ids=str,
)
def test_options_agree_with_predict_and_numerical_derivatives(shipped_alloys, options):
    X, y = shipped_alloys
    model = SoapBPNNRegressor(**SMALL, **options, num_epochs=2, dtype="float64", random_state=0)
    model.fit(X[10:16], y[10:16])
    atoms = X[40].copy()
    atoms.set_cell(0.93 * atoms.cell, scale_atoms=True)  # close enough for ZBL
    atoms.calc = model.calculator()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    prediction = model.predict([atoms], targets=["energy", "forces", "stress"])
    np.testing.assert_allclose(atoms.get_potential_energy(), prediction["energy"][0])
    np.testing.assert_allclose(forces, prediction["forces"][0], atol=1e-10)
    np.testing.assert_allclose(atoms.get_potential_energies().sum(), prediction["energy"][0])
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[3])
    np.testing.assert_allclose(forces[[3]], numerical, atol=1e-6 * np.abs(forces).max())
    # what moves the mesh of the long-range sums costs some digits
    expected = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(expected, prediction["stress"][0], rtol=1e-7, atol=1e-12)
    if "long_range" not in options:
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        np.testing.assert_allclose(stress, numerical, atol=1e-5 * np.abs(stress).max())


def test_dipole_and_charges(data):
    """Whatever else was learnt, what ASE has a name for is given, and nothing else."""
    X, y = data[0][:20], data[1][:20]
    rng = np.random.default_rng(0)
    columns = {
        "gap": rng.normal(size=20),
        "dipole": rng.normal(size=(20, 3)),
        "charges": [rng.normal(size=len(atoms)) for atoms in X],
    }
    kinds = {"gap": TargetKind.scalar(intensive=True)}
    network = {**SMALL, "num_epochs": 2, "random_state": 0}
    moments = SoapBPNNRegressor(**network).fit(X, Targets(kinds=kinds, **columns))
    everything = make_pipeline(
        *(ZBLBaseline(), CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SMALL)),
        SoapBPNNRegressor(num_epochs=2, random_state=0),
    )
    y = Targets(kinds=kinds, energy=y["energy"], forces=y["forces"], **columns)
    everything.fit(X, y)
    for model, names in (
        (moments, {"dipole", "charges"}),
        (
            everything,
            {*("dipole", "charges", "energy", "free_energy", "energies", "forces", "stress")},
        ),
    ):
        atoms = X[3].copy()
        atoms.calc = SoapBPNNCalculator(model)
        assert set(atoms.calc.implemented_properties) == names
        prediction = model.predict([atoms], targets=["dipole", "charges"])
        np.testing.assert_allclose(atoms.get_dipole_moment(), prediction["dipole"][0], atol=1e-5)
        np.testing.assert_allclose(atoms.get_charges(), prediction["charges"][0], atol=1e-5)
    assert np.isfinite(atoms.get_forces()).all()
    atoms.calc = moments.calculator()
    with pytest.raises(NotImplementedError, match="energy"):
        atoms.get_potential_energy()


def test_a_target_of_another_shape_is_no_property_of_ase(data):
    X, y = data[0][:20], data[1][:20]
    rng = np.random.default_rng(0)
    kinds = {"charges": TargetKind.scalar(), "dipole": TargetKind.vector(2)}
    columns = {"charges": rng.normal(size=20), "dipole": rng.normal(size=(20, 3, 2))}
    y = Targets(kinds=kinds, energy=y["energy"], **columns)
    model = SoapBPNNRegressor(**SMALL, num_epochs=1, random_state=0).fit(X, y)
    atoms = X[0].copy()
    atoms.calc = model.calculator()
    atoms.get_potential_energy()
    assert not {"dipole", "charges"} & {*atoms.calc.implemented_properties, *atoms.calc.results}
    with pytest.raises(NotImplementedError, match="charges"):
        atoms.get_charges()


def test_models_without_any_property_of_ase_are_refused(data):
    X = data[0][:4]
    y = Targets(kinds={"gap": TargetKind.scalar(intensive=True)}, gap=[1.0, 2.0, 3.0, 4.0])
    model = SoapBPNNRegressor(**SMALL, num_epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"learnt \['gap'\], none of which is a property of ASE"):
        model.calculator()


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="ends in a Ridge"):
        SoapBPNNCalculator(make_pipeline(SoapFeaturizer(), Ridge()))


def test_unseen_elements_are_refused(molecular):
    atoms = Atoms("Cl")
    atoms.calc = molecular.calculator()
    with pytest.raises(ValueError, match="Cl"):
        atoms.get_potential_energy()


def test_relaxation(molecular, data):
    atoms = data[0][0].copy()
    atoms.calc = molecular.calculator()
    energy = atoms.get_potential_energy()
    with BFGS(atoms, logfile=None) as optimizer:
        assert optimizer.run(fmax=0.02, steps=200)
    assert atoms.get_potential_energy() < energy
    assert np.abs(atoms.get_forces()).max() < 0.02


def test_molecular_dynamics_conserves_energy(molecular, data):
    atoms = data[0][0].copy()
    atoms.calc = molecular.calculator()
    rng = np.random.default_rng(0)
    spread = np.sqrt(atoms.get_masses() * 300.0 * units.kB)[:, None]
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * spread)
    totals, kinetic = [], []
    with VelocityVerlet(atoms, timestep=0.25 * units.fs) as dynamics:
        for _ in dynamics.irun(steps=200):
            totals.append(atoms.get_total_energy())
            kinetic.append(atoms.get_kinetic_energy())
    assert np.ptp(totals) < 0.05 * np.ptp(kinetic)


# --- a calculator says what its model says now ----------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(data):
    X, y = data
    network = SoapBPNNRegressor(num_epochs=2, random_state=0)
    steps = [CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SMALL), network]
    return make_pipeline(*steps).fit(X[:20], y[:20])


def test_of_a_pipeline(pipeline, data):
    atoms = data[0][30].copy()
    atoms.calc = SoapBPNNCalculator(pipeline)
    expected = pipeline.predict([atoms], targets=["energy", "forces"])
    np.testing.assert_allclose(atoms.get_potential_energy(), expected["energy"][0])
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"][0], atol=1e-5)


def test_a_last_step_lacks_the_baseline_and_the_scale(pipeline, data, tmp_path):
    message = r"offset and scale of earlier Pipeline steps.*SoapBPNNCalculator\(pipe\)"
    with pytest.raises(ValueError, match=message):
        pipeline[-1].calculator()
    pipeline[-1].save(tmp_path / "last")
    with pytest.raises(ValueError, match=message):
        SoapBPNNRegressor.load(tmp_path / "last").calculator()
    X, y = data
    search = GridSearchCV(pipeline, {"soapbpnnregressor__num_epochs": [1]}, cv=2).fit(X[:8], y[:8])
    with pytest.raises(ValueError, match=message):
        search.best_estimator_[-1].calculator()
    # some of the steps are not enough, which shows when structures have gone through them
    atoms = X[0].copy()
    atoms.calc = SoapBPNNCalculator(pipeline[1:])
    with pytest.raises(ValueError, match="X lacks the offset"):
        atoms.get_potential_energy()


def test_a_last_step_after_a_featurizer_alone_is_complete(data):
    X, y = data
    pipe = make_pipeline(SoapFeaturizer(**SMALL), SoapBPNNRegressor(num_epochs=1, random_state=0))
    atoms = X[30].copy()
    atoms.calc = pipe.fit(X[:20], y[:20])[-1].calculator()
    np.testing.assert_allclose(atoms.get_potential_energy(), pipe.predict([atoms])[0])


@pytest.mark.parametrize("refit", ["fit", "partial_fit", "warm_start"])
def test_follows_another_fit(data, refit):
    X, y = data
    model = SoapBPNNRegressor(**SMALL, num_epochs=1, random_state=0).fit(X[:20], y[:20])
    atoms = X[30].copy()
    atoms.calc = model.calculator()
    before = atoms.get_potential_energy()
    model.set_params(num_epochs=3, warm_start=refit == "warm_start")
    getattr(model, "partial_fit" if refit == "partial_fit" else "fit")(X[:20], y[:20])
    expected = model.predict([atoms], targets=["energy", "forces"])
    # of the last structure, if none is named
    assert atoms.calc.get_potential_energy() == pytest.approx(expected["energy"][0])
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"][0])
    assert atoms.get_potential_energy() != pytest.approx(before)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"][0], atol=1e-10)


def test_follows_a_pipeline_and_a_search(data):
    X, y = data
    steps = [CompositionBaseline(), TargetScaler(), SoapFeaturizer(**SMALL)]
    pipe = make_pipeline(*steps, SoapBPNNRegressor(num_epochs=1, random_state=0))
    search = GridSearchCV(pipe, {"soapbpnnregressor__num_epochs": [1]}, cv=2)
    for model in (pipe, search):
        model.fit(X[:20], y[:20])
        atoms = X[30].copy()
        atoms.calc = SoapBPNNCalculator(model)
        atoms.get_potential_energy()
        model.fit(X[40:60], y[40:60])
        assert atoms.get_potential_energy() == pytest.approx(model.predict([atoms])[0])


def test_results_are_kept_while_nothing_changes(molecular, data):
    atoms = data[0][0].copy()
    atoms.calc = molecular.calculator()
    atoms.get_forces()
    results = atoms.calc.results
    atoms.get_potential_energy()
    assert atoms.calc.results is results


def test_no_properties_are_all_properties(metallic):
    model, X = metallic
    calculator = model.calculator()
    calculator.calculate(X[40].copy(), None)
    names = {"energy", "free_energy", "energies", "forces", "stress"}
    assert set(calculator.results) == names
