import pickle

import numpy as np
import pytest
from ase import Atoms

from sklearn_soapbpnn import CompositionBaseline, TargetKind, Targets, metrics
from sklearn_soapbpnn.data import KNOWN_KINDS
from sklearn_soapbpnn.metrics import make_target_scorer, summarize_errors

FRAMES = [Atoms("H"), Atoms("OH")]
KINDS = {"blocks": TargetKind.spherical([(0, 1), (1, 1)]), "gap": TargetKind.scalar()}


def test_energy_by_hand():
    errors = summarize_errors(FRAMES, [1.0, 2.0], [2.0, 5.0])
    assert errors["energy"] == {"mae": 2.0, "rmse": pytest.approx(np.sqrt(5.0))}
    assert errors["energy per atom"] == {"mae": 1.25, "rmse": pytest.approx(np.sqrt(1.625))}


def test_every_kind_over_its_labelled_components():
    y = Targets(
        kinds=KINDS,
        dipole=[[1.0, np.nan, 0.0], [np.nan] * 3],
        polarizability=np.zeros((2, 3, 3)),
        charges=[[1.0], [np.nan, 3.0]],
        blocks=np.ones((2, 4)),
        forces=[np.zeros((1, 3)), np.zeros((2, 3))],
    )
    prediction = Targets(
        kinds=KINDS,
        dipole=[[2.0, 7.0, 3.0], [9.0] * 3],
        polarizability=np.full((2, 3, 3), 2.0),
        charges=[[3.0], [7.0, 3.0]],
        blocks=np.array([[1.0] * 4, [5.0] * 4]),
        forces=[np.full((1, 3), 3.0), np.zeros((2, 3))],
        energy=[0.0, 0.0],
    )
    errors = summarize_errors(FRAMES, y, prediction)
    assert list(errors) == ["dipole", "polarizability", "charges", "blocks", "forces"]
    assert errors["dipole"] == {"mae": 2.0, "rmse": pytest.approx(np.sqrt(5.0))}
    assert errors["polarizability"] == {"mae": 2.0, "rmse": 2.0}
    assert errors["charges"] == {"mae": 1.0, "rmse": pytest.approx(np.sqrt(2.0))}
    assert errors["blocks"] == {"mae": 2.0, "rmse": pytest.approx(np.sqrt(8.0))}
    assert errors["forces"] == {"mae": 1.0, "rmse": pytest.approx(np.sqrt(3.0))}


@pytest.mark.parametrize("flat", [True, False])
def test_an_array_is_the_only_column(flat):
    y = Targets(polarizability=np.zeros((2, 3, 3)), charges=[[1.0], [1.0, 3.0]])
    prediction = np.ones((2, 9) if flat else (2, 3, 3))
    assert summarize_errors(FRAMES, y, prediction) == {"polarizability": {"mae": 1.0, "rmse": 1.0}}


def test_an_array_is_the_energy_where_there_is_one():
    y = Targets(kinds=KINDS, gap=[5.0, 5.0], energy=[1.0, 2.0])
    assert set(summarize_errors(FRAMES, y, [1.0, 2.0])) == {"energy", "energy per atom"}


def test_an_array_that_could_be_any_column():
    y = Targets(dipole=np.zeros((2, 3)), blocks=np.zeros((2, 4)), kinds=KINDS)
    message = r"prediction must be Targets where y has the columns \['dipole', 'blocks'\]"
    with pytest.raises(ValueError, match=message):
        summarize_errors(FRAMES, y, np.zeros((2, 3)))


def test_predictions_of_other_structures():
    message = r"labels of shape \(2, 1\) .* but prediction has the shape \(3, 1"
    with pytest.raises(ValueError, match=message):
        summarize_errors(FRAMES, [1.0, 2.0], [1.0, 2.0, 3.0])


def test_predictions_that_are_not_labelled_may_be_nan():
    prediction = Targets(energy=[1.0, 2.0], stress=np.full((2, 3, 3), np.nan))
    errors = summarize_errors(FRAMES, [1.0, 2.0], prediction)
    assert errors["energy"] == {"mae": 0.0, "rmse": 0.0}


@pytest.mark.parametrize(("metric", "expected"), [("mae", 1.0), ("rmse", np.sqrt(2.0))])
def test_scorer_of_any_target(metric, expected):
    y = Targets(charges=[[1.0], [0.0, 1.0]], energy=[1.0, 2.0])
    baseline = CompositionBaseline().fit(FRAMES, y)
    wrong = Targets(charges=[np.array([1.0]), np.array([np.nan, 3.0])], energy=[2.0, 2.0])
    score = make_target_scorer("charges", metric)(baseline, FRAMES, wrong)
    assert score == pytest.approx(-expected)


def test_scorer_takes_names_as_they_are():
    """Only the energy has a second score per atom."""
    kinds = {"gap per atom": TargetKind.scalar()}
    y = Targets(kinds=kinds, energy=[1.0, 3.0], **{"gap per atom": [2.0, 4.0]})
    baseline = CompositionBaseline().fit(FRAMES, y)
    for name in ("gap per atom", "energy per atom", "energy"):
        assert make_target_scorer(name)(baseline, FRAMES, y) == pytest.approx(0.0, abs=1e-12)
    shifted = Targets(energy=[1.0, 5.0])
    assert make_target_scorer("energy", "mae")(baseline, FRAMES, shifted) == pytest.approx(-1.0)
    score = make_target_scorer("energy per atom", "mae")(baseline, FRAMES, shifted)
    assert score == pytest.approx(-0.5)


def test_scorer_of_a_target_without_labels():
    y = Targets(energy=[1.0, 3.0], charges=[[1.0], [2.0, 3.0]])
    baseline = CompositionBaseline().fit(FRAMES, y)
    with pytest.raises(ValueError, match="no labels of the target 'charges'"):
        make_target_scorer("charges")(baseline, FRAMES, Targets(energy=[1.0, 3.0]))


def test_unknown_metric():
    with pytest.raises(ValueError, match=r"metric must be one of \['mae', 'rmse'\], got 'r2'"):
        make_target_scorer("energy", "r2")
    assert repr(make_target_scorer("gap", "mae")) == "make_target_scorer('gap', 'mae')"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("force", "forces"),
        ("Forces", "forces"),
        ("Energy", "energy"),
        ("energy_per_atom", "energy per atom"),
        ("energies per atom", "energy per atom"),
        ("stresses", "stress"),
        ("virials", "virial"),
        ("dipoles", "dipole"),
        ("charge", "charges"),
        ("polarisability", "polarizability"),
        ("nonconservative_forces", "non_conservative_forces"),
    ],
)
def test_a_name_that_looks_misspelt(written, meant):
    """It would end in a score of NaN; the kinds of y say if the column is there all the same."""
    message = rf"target='{written}' is not a known target. Did you mean '{meant}'\?.*kinds=y.kinds"
    with pytest.raises(ValueError, match=message):
        make_target_scorer(written)
    y = Targets(kinds={written: TargetKind.scalar()}, **{written: [1.0, 3.0]})
    scorer = make_target_scorer(written, kinds=y.kinds)
    baseline = CompositionBaseline().fit(FRAMES, y)
    assert scorer(baseline, FRAMES, y) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", [*KNOWN_KINDS, "energy per atom", "gap", "quadrupole", "spread"])
def test_names_that_need_no_kinds(name):
    assert make_target_scorer(name).target == name


def test_a_name_that_is_not_in_kinds():
    y = Targets(energy=[1.0, 3.0], charges=[[1.0], [2.0, 3.0]])
    for name in ("energy", "energy per atom", "charges"):
        make_target_scorer(name, kinds=y.kinds)
    for name in ("forces", "gap", "charges per atom"):
        with pytest.raises(ValueError, match=rf"{name}' is not in kinds.*'energy', 'charges'"):
            make_target_scorer(name, kinds=y.kinds)


def test_arguments_of_the_wrong_type():
    for target in (["forces"], None, 0):
        with pytest.raises(TypeError, match="target must be the name of one target, got"):
            make_target_scorer(target)
    with pytest.raises(TypeError, match=r"kinds must map the names .* Pass y\.kinds"):
        make_target_scorer("gap", kinds="gap")


def test_name_of_a_scorer():
    """What scikit-learn makes the label of an axis from, also in another process."""
    scorer = pickle.loads(pickle.dumps(make_target_scorer("energy per atom", "mae")))
    assert scorer.__name__ == "neg_energy per atom_mae"


def test_the_module_offers_what_is_ours():
    assert dir(metrics) == metrics.__all__
    assert all(hasattr(metrics, name) for name in metrics.__all__)
