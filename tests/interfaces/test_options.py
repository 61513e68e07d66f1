"""metatrain's options: what they become here, what they cannot become, and the way back."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sklearn_soapbpnn import SoapBPNNRegressor, SoapFeaturizer, TargetKind, Targets
from sklearn_soapbpnn.datasets import load_malonaldehyde
from sklearn_soapbpnn.interfaces.metatrain import write_options
from sklearn_soapbpnn.interfaces.metatrain._options import read_hypers, read_options
from sklearn_soapbpnn.training import _losses, parse_loss

FILE = """
seed: 7
base_precision: 64
device: gpu

architecture:
  name: soap_bpnn
  model:
    legacy: false
    soap:
      max_angular: 4
      cutoff:
        radius: 4.5
    bpnn:
      layernorm: false
    heads:
      mtt::dos: mlp
    zbl: true
    long_range:
      enable: true
      smearing: 2
  training:
    learning_rate: 1e-4
    num_workers: null
    best_model_metric: loss
    max_atoms_per_batch: null
    min_atoms_per_batch: 0
    atomic_baseline:
      energy: {1: -13.6, 8: -2000.0}
      mtt::dos: 0.0
    fixed_scaling_weights: {}
    per_structure_targets: [mtt::dos]
    loss:
      energy: huber
      mtt::dos:
        type: mae
        weight: 1e-2

training_set:
  systems: train.xyz
  targets:
    energy:
      key: U0
    mtt::dos:
      num_subtargets: 100
validation_set: 0.2
test_set: 0.0
final_eval: true
print_stats: auto
"""


def options(model=None, training=None, **base):
    """Return metatrain's options."""
    architecture = {"name": "soap_bpnn", "model": model or {}, "training": training or {}}
    return {"architecture": architecture, **base}


def make_regressor(**parameters):
    """Return a regressor whose options can be written: metatrain has no other optimizer."""
    return SoapBPNNRegressor(**{"optimizer": "adam", **parameters})


@pytest.fixture(scope="module")
def data():
    X, y = load_malonaldehyde(return_X_y=True)
    return X[:6], y[:6]


def test_of_a_file(tmp_path):
    (tmp_path / "options.yaml").write_text(FILE)
    with pytest.warns(UserWarning, match=r"name training_set, which .* fit\(X, y"):
        parameters = read_options(tmp_path / "options.yaml")
    assert parameters == {
        "random_state": 7,
        "dtype": "float64",
        "device": "cuda",
        "species_encoding": "alchemical",
        "max_angular": 4,
        "cutoff_radius": 4.5,
        "layernorm": False,
        "heads": {"energy": "linear", "dos": "mlp"},
        "zbl": True,
        "long_range": True,
        "smearing": 2,
        "learning_rate": 1e-4,
        "num_workers": None,
        "best_model_metric": "loss",
        "fixed_composition_weights": {"energy": {1: -13.6, 8: -2000.0}, "dos": 0.0},
        "fixed_scaling_weights": None,
        "per_structure_targets": ("dos",),
        "loss": {
            "energy": {"type": "huber", "forces": {"type": "mse"}, "stress": {"type": "mse"}},
            "dos": {"type": "mae", "weight": 0.01},
        },
        "validation_fraction": 0.2,
        "optimizer": "adam",
    }
    SoapBPNNRegressor(**parameters)._validate_params()


def test_defaults_are_ours_but_for_the_head():
    parameters = read_options({"architecture": {"name": "soap_bpnn"}})
    assert parameters == {"heads": {"energy": "linear"}, "optimizer": "adam"}
    written = write_options(make_regressor())
    assert written["architecture"]["model"]["heads"] == {"energy": "mlp"}


def test_classmethod_and_file(tmp_path):
    model = make_regressor(num_epochs=3, learning_rate=1e-5, random_state=1)
    path = tmp_path / "options.yaml"
    assert model.to_options(path) == model.to_options()
    again = SoapBPNNRegressor.from_options(str(path))
    assert again.get_params() == {**model.get_params(), "heads": {"energy": "mlp"}}


# heads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training_set", "expected"),
    [
        ("train.xyz", {"energy": "linear"}),
        ({"systems": "a.xyz", "targets": {"mtt::dipole": "a.xyz"}}, {"dipole": "linear"}),
        (
            [{"targets": {"energy": {}}}, {"targets": {"energy": {}, "mtt::gap": {}}}],
            {"energy": "linear", "gap": "linear"},
        ),
    ],
)
def test_every_target_of_the_training_set_gets_a_head(training_set, expected):
    with pytest.warns(UserWarning, match="training_set"):
        assert read_options(options(training_set=training_set))["heads"] == expected


def test_without_a_training_set_what_is_named_gets_a_head():
    training = {"loss": {"mtt::gap": "mae"}, "atomic_baseline": {"mtt::q": {1: 0.5}}}
    heads = read_options(options({"heads": {"mtt::dos": "mlp"}}, training))["heads"]
    assert heads == {"energy": "linear", "dos": "mlp", "gap": "linear", "q": "linear"}


def test_a_fitted_model_names_what_it_learnt(data):
    X, _ = data
    kinds = {"spectrum": TargetKind.scalar()}
    y = Targets(kinds=kinds, spectrum=np.arange(6.0), dipole=np.ones((6, 3)))
    model = make_regressor(max_angular=2, num_epochs=1, random_state=0)
    model.fit(X, y)
    with pytest.raises(ValueError, match=r"an MLP head of 'dipole'.*heads=\{'dipole': 'linear'\}"):
        write_options(model)
    model.set_params(heads={"dipole": "linear"}).fit(X, y)
    heads = write_options(model)["architecture"]["model"]["heads"]
    assert heads == {"mtt::spectrum": "mlp", "mtt::dipole": "linear"}


def test_intensive_targets_have_no_counterpart(data):
    """metatrain learns sums over atoms, of which the message says how to make one."""
    X, _ = data
    n_atoms, gap = np.array([len(atoms) for atoms in X]), np.arange(6.0)
    intensive, extensive = TargetKind.scalar(intensive=True), TargetKind.scalar()
    kinds = {"gap": intensive, "hardness": intensive, "total": extensive}
    y = Targets(kinds=kinds, gap=gap, hardness=gap, total=gap)
    model = make_regressor(max_angular=2, num_epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="no counterpart of") as error:
        model.to_options()
    for name in ("gap", "hardness"):
        assert f"the intensive target '{name}' (metatrain sums over atoms" in str(error.value)
    assert "without intensive=True, and multiply its labels by the number" in str(error.value)
    assert "'total'" not in str(error.value)
    y = Targets(kinds={"gap": extensive}, gap=gap * n_atoms)
    assert "mtt::gap" in model.fit(X, y).to_options()["architecture"]["model"]["heads"]


def test_a_fitted_model_writes_the_descriptor_that_it_was_fitted_with(data):
    X, y = data
    features = SoapFeaturizer(cutoff_radius=3.0, max_angular=2).fit_transform(X)
    model = make_regressor(num_epochs=1).fit(features, y)
    soap = write_options(model)["architecture"]["model"]["soap"]
    assert (soap["cutoff"]["radius"], soap["max_angular"]) == (3.0, 2)


def test_standard_targets_have_no_prefix():
    heads = dict.fromkeys(
        ["non_conservative_stress", "energy/pbe", "charge", "charges", "lab::x"], "linear"
    )
    written = write_options(make_regressor(heads=heads))["architecture"]["model"]["heads"]
    assert set(written) == {
        *("energy", "non_conservative_stress", "energy/pbe", "charge", "mtt::charges", "lab::x")
    }
    assert read_options(options({"heads": written}))["heads"] == {"energy": "mlp", **heads}


# losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # one name is that of the derivatives as well
        ("huber", {"energy": "huber", "forces": "huber", "stress": "huber"}),
        # of one target it is not
        ({"energy": "huber"}, {"energy": "huber", "forces": "mse", "stress": "mse"}),
        ({"mtt::gap": "mae"}, {"energy": "mse", "gap": "mae", "forces": "mse"}),
        (
            {"energy": {"type": "mae", "gradients": {"positions": "huber", "strain": {}}}},
            {"energy": "mae", "forces": "huber", "stress": "mse"},
        ),
        (
            {"energy": {"forces": "mae", "virial": {"type": "huber"}}},
            {"energy": "mse", "forces": "mae", "stress": "huber"},
        ),
        ({"energy": {"gradients": {}}}, {"energy": "mse", "forces": "mse", "stress": "mse"}),
    ],
)
def test_derivatives_have_the_loss_that_metatrain_gives_them(loss, expected):
    ours = read_options(options(training={"loss": loss}))["loss"]
    losses = parse_loss(ours, ["energy", "gap"])
    assert {name: losses[name].type for name in expected} == expected


def test_derivatives_inherit_nothing():
    energy = {"type": "huber", "delta": 0.1, "weight": 3.0, "reduction": "sum"}
    energy["gradients"] = {"positions": {"type": "huber", "weight": 10.0}}
    losses = parse_loss(
        read_options(options(training={"loss": {"energy": energy}}))["loss"], ["energy"]
    )
    assert (losses["energy"].delta, losses["energy"].weight) == (0.1, 3.0)
    forces, stress = losses["forces"], losses["stress"]
    assert (forces.type, forces.delta, forces.weight, forces.reduction) == ("huber", 1, 10, "mean")
    assert (stress.type, stress.weight, stress.reduction) == ("mse", 1, "mean")


def test_an_explicit_gradient_goes_on_top_of_its_shorthand():
    energy = {"forces": {"type": "mae", "weight": 2.0}, "gradients": {"positions": {"weight": 5.0}}}
    loss = read_options(options(training={"loss": {"energy": energy}}))["loss"]
    assert loss == {"energy": {"forces": {"type": "mae", "weight": 5.0}}}


def test_a_factor_that_does_nothing():
    # earlier versions of metatrain wrote it to every loss
    term = {"type": "mae", "sliding_factor": None}
    loss = {"energy": {**term, "gradients": {"positions": {**term, "weight": 5.0}}}}
    loss = read_options(options(training={"loss": loss}))["loss"]["energy"]
    assert loss.pop("stress") == {"type": "mse"}
    assert loss == {"type": "mae", "forces": {"type": "mae", "weight": 5.0}}


# baselines, scales, per structure --------------------------------------------------------


def test_a_baseline_of_zero_for_everything_is_none():
    training = {"atomic_baseline": {"energy": 0.0, "mtt::gap": 0}}
    parameters = read_options(options(training=training))
    assert parameters["remove_composition_contribution"] is False
    assert "fixed_composition_weights" not in parameters
    model = SoapBPNNRegressor(**parameters)
    assert write_options(model)["architecture"]["training"]["atomic_baseline"] == {
        "energy": 0.0,
        "mtt::gap": 0.0,
    }
    with pytest.warns(UserWarning, match="training_set"):
        parameters = read_options(
            options(
                training={"atomic_baseline": {"energy": 0.0}},
                training_set={"targets": {"energy": {}, "mtt::gap": {}}},
            )
        )
    assert parameters["fixed_composition_weights"] == {"energy": 0.0}


def test_earlier_names():
    training = {
        "fixed_composition_weights": {"energy": {1: -1.0}},
        "remove_composition_contribution": True,
        "distributed": False,
    }
    parameters = read_options(options(training=training))
    assert parameters["fixed_composition_weights"] == {"energy": {1: -1.0}}
    assert parameters["remove_composition_contribution"] is True
    assert parameters["distributed"] is False


def test_elements_are_written_by_number():
    model = make_regressor(
        fixed_composition_weights={"H": -1, 8: np.float64(-2)},
        fixed_scaling_weights={"charges": {"O": 1}, "energy": 2},
    )
    training = write_options(model)["architecture"]["training"]
    assert training["atomic_baseline"] == {"energy": {1: -1.0, 8: -2.0}}
    assert training["fixed_scaling_weights"] == {"mtt::charges": {8: 1.0}, "energy": 2.0}
    # metatrain takes an int for a mapping
    assert isinstance(training["fixed_scaling_weights"]["energy"], float)


def test_the_stress_of_an_undivided_energy_is_undivided(data):
    training = {"per_structure_targets": ["energy", "mtt::gap"]}
    names = read_options(options(training=training))["per_structure_targets"]
    assert names == ("energy", "gap", "stress")
    for ours in (names, ("gap", "virial", "energy"), np.array(["energy", "gap", "forces"])):
        written = write_options(make_regressor(per_structure_targets=ours))
        written = written["architecture"]["training"]["per_structure_targets"]
        assert sorted(written) == ["energy", "mtt::gap"]
    with pytest.raises(ValueError, match="one of 'energy' and 'stress'"):
        write_options(make_regressor(per_structure_targets=["stress"]))
    X = [atoms.copy() for atoms in data[0]]
    for atoms in X:
        atoms.center(vacuum=3.0)
        atoms.pbc = True
    y = Targets(energy=data[1]["energy"], stress=np.zeros((6, 3, 3)))
    model = make_regressor(max_angular=1, num_epochs=1, per_structure_targets=["energy"])
    with pytest.raises(ValueError, match="one of 'energy' and 'stress'"):
        write_options(model.fit(X, y))


# errors and warnings ---------------------------------------------------------------------


def test_everything_without_a_counterpart_is_named_at_once():
    training = {
        "max_atoms_per_batch": 1000,
        "batchsize": 4,
        "atomic_baseline": "composition.ckpt",
        "loss": {"energy": {"type": "masked_mse", "sliding_factor": 0.1}, "mtt::x": {"forces": {}}},
        "num_epochs": "${epochs}",
    }
    model = {"soap": {"cutoff": {"smooth": 1}, "max_radia": 2}, "bpnn": 3, "legacy": "yes"}
    with pytest.raises(ValueError, match="no counterpart") as error:
        read_options(options(model, training, base_precision=16, device="multi-gpu", epochs=3))
    for named in (
        "architecture.training.max_atoms_per_batch=1000",
        "architecture.training.batchsize=4",
        "architecture.training.atomic_baseline='composition.ckpt' (a file",
        "architecture.training.loss.energy.type='masked_mse' (mse, mae, huber",
        "architecture.training.loss.energy.sliding_factor=0.1",
        "architecture.training.loss.mtt::x (forces belong to 'energy' only)",
        "architecture.training.num_epochs='${epochs}' (write the value itself)",
        "architecture.model.soap.cutoff.smooth=1",
        "architecture.model.soap.max_radia=2",
        "architecture.model.bpnn=3",
        "architecture.model.legacy='yes'",
        "base_precision=16 (32, 64",
        "device='multi-gpu' ('cpu', 'cuda'",
        "epochs=3",
    ):
        assert named in str(error.value)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"loss": "gaussian_nll_ensemble"}, r"training\.loss='gaussian_nll_ensemble'"),
        ({"loss": None}, r"training\.loss=None"),
        ({"loss": {"energy": {"reduction": "none"}}}, r"loss\.energy\.reduction='none'"),
        ({"loss": {"energy": {"gradients": {"cell": "mse"}}}}, r"energy\.gradients\.cell"),
        ({"loss": {"energy": {"gradients": 3}}}, r"energy\.gradients=3"),
        ({"loss": {"energy": "mse", "mtt::energy": "mse"}}, "a target 'energy' already"),
        ({"fixed_scaling_weights": [1.0]}, "not a mapping"),
        ({"per_structure_targets": "energy"}, "not a list"),
    ],
)
def test_values_that_cannot_be_taken_over(training, message):
    with pytest.raises(ValueError, match=message):
        read_options(options(training=training))


@pytest.mark.parametrize(
    ("training_set", "message"),
    [
        ({"targets": {"mtt::forces": {}}}, "mtt::forces .*rename the target"),
        ({"targets": {"energy": {}, "mtt::energy": {}}}, "a target 'energy' already"),
        (0.5, "training_set=0.5"),
        (["a.xyz"], "training_set="),
    ],
)
def test_training_sets_that_cannot_be_read(training_set, message):
    with pytest.raises(ValueError, match=message):
        read_options(options(training_set=training_set))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds None"),
        ("- 1", r"holds \[1\]"),
        ("a: [", "not a YAML file"),
        ("seed: 1", "architecture.name is None"),
        ("architecture: pet", "architecture.name is 'pet'"),
        ("architecture: {name: pet}", "architecture.name is 'pet'"),
    ],
)
def test_files_that_hold_no_such_options(content, message, tmp_path):
    (tmp_path / "options.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_options(tmp_path / "options.yaml")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_options(tmp_path / "options.yaml")


def test_one_warning_names_what_is_not_read():
    base = {"validation_set": {"indices": [1]}, "test_set": 0.1, "wandb": {"project": "p"}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parameters = SoapBPNNRegressor.from_options(options(**base, final_eval=False)).get_params()
    (warning,) = caught
    assert "validation_set, test_set, wandb, final_eval" in str(warning.message)
    assert warning.filename == __file__
    assert parameters["validation_fraction"] == 0.1  # ours


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_pseudo_species": 2}, r"n_pseudo_species=2 \(metatrain has 4\)"),
        ({"n_networks": 3}, r"n_networks=3 \(metatrain trains one, as n_networks=1 does\)"),
        ({"random_state": np.random.RandomState(0)}, "random_state=RandomState"),
        ({"device": "cuda:1"}, "device='cuda:1'"),
        ({"early_stopping": True}, "early_stopping"),
        ({"optimizer": "muon"}, r"optimizer='muon' \(metatrain trains with 'adam'\)"),
        ({"net_params": {"optimizer": torch.optim.SGD}}, "net_params"),
        ({"validation_fraction": 0.0}, "validation_fraction=0"),
        ({"fixed_scaling_weights": {"dos": [1.0, 2.0]}}, r"fixed_scaling_weights\['dos'\]"),
        ({"max_radial": -1}, "'max_radial' parameter"),
        ({"loss": "mee"}, "type must be one of"),
        ({"fixed_composition_weights": {"Xx": 1.0, 1: 2.0}}, "fixed_composition_weights"),
    ],
)
def test_arguments_that_metatrain_does_not_have(parameters, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_options(make_regressor(**parameters), tmp_path / "options.yaml")
    assert not list(tmp_path.iterdir())


def test_new_arguments_are_not_dropped():
    class Regressor(SoapBPNNRegressor):
        _parameter_constraints = {**SoapBPNNRegressor._parameter_constraints, "new": ["boolean"]}

        def __init__(self, *, new=False, optimizer="adam"):
            super().__init__(optimizer=optimizer)
            self.new = new

        def get_params(self, deep=True):
            return {**make_regressor().get_params(), **super().get_params(deep)}

    write_options(Regressor())
    with pytest.raises(ValueError, match="no counterpart of: new"):
        write_options(Regressor(new=True))


def test_new_losses_are_not_dropped(monkeypatch):
    """Neither written, nor read as a loss that metatrain may define in another way."""
    monkeypatch.setitem(_losses.FUNCTIONS, "new", None)
    monkeypatch.setattr(_losses, "TYPES", ("new", *_losses.TYPES))
    for loss, message in [
        ("new", "loss='new'"),
        ({"energy": {"forces": "new"}}, "loss of 'forces': type='new'"),
    ]:
        with pytest.raises(ValueError, match=f"no counterpart of: {message}"):
            write_options(make_regressor(loss=loss))
    with pytest.raises(ValueError, match="no counterpart of: .*loss='new'"):
        read_options(options(training={"loss": "new"}))


# checkpoints -----------------------------------------------------------------------------


def test_training_options_of_a_checkpoint_are_left_out_one_by_one():
    training = {
        "learning_rate": 1e-4,
        "scheduler_factor": 0.8,
        "loss": {
            "energy": {"type": "masked_mse", "weight": 3.0, "gradients": {"cell": {}}},
            "mtt::gap": {"type": "huber", "sliding_factor": 0.1, "forces": "mae"},
            "mtt::forces": "mae",
        },
        "atomic_baseline": "composition.ckpt",
        "fixed_scaling_weights": {"energy": 2.0},
        "per_structure_targets": "mtt::gap",
        "finetune": {"read_from": "model.ckpt", "config": {}},
    }
    parameters, left_out = read_hypers({"zbl": True}, training, ["energy", "mtt::gap"])
    assert parameters == {
        "zbl": True,
        "heads": {"energy": "linear", "gap": "linear"},
        "learning_rate": 1e-4,
        "loss": {"energy": {"weight": 3.0}, "gap": {"type": "huber"}},
        "fixed_composition_weights": None,
        "fixed_scaling_weights": {"energy": 2.0},
        "per_structure_targets": (),
        "optimizer": "adam",
    }
    assert [option.split(" (")[0] for option in left_out] == [
        "scheduler_factor=0.8",
        "loss.energy.gradients.cell={}",
        "loss.energy.type='masked_mse'",
        "loss.mtt::gap.sliding_factor=0.1",
        "loss.mtt::gap",
        "loss.mtt::forces",
        "atomic_baseline='composition.ckpt'",
        "per_structure_targets='mtt::gap'",
        "finetune.read_from='model.ckpt'",
    ]


def test_a_loss_of_a_checkpoint_that_is_left_out_is_the_default():
    parameters, left_out = read_hypers({}, {"loss": "masked_mse"}, ["energy"])
    assert parameters["loss"] == "mse"
    assert left_out == ["loss='masked_mse' (mse, mae, huber are available)"]


def test_heads_and_baseline_are_those_of_the_targets():
    hypers = {"heads": {"mtt::gap": "mlp", "mtt::other": "mlp"}}
    training = {"atomic_baseline": {"mtt::gap": 0.0}}
    parameters, _ = read_hypers(hypers, training, ["mtt::gap"])
    assert parameters == {
        **{"heads": {"gap": "mlp"}, "optimizer": "adam"},
        "remove_composition_contribution": False,
    }


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        ({"soap": {"basis": "gto"}}, ["energy"], r"model\.soap\.basis='gto'"),
        ({"legacy": None}, ["energy"], r"model\.legacy=None"),
        ({}, ["energy", "mtt::forces"], r"targets\.mtt::forces"),
        ({}, ["energy", "mtt::energy"], "a target 'energy' already"),
    ],
)
def test_what_predictions_depend_on_is_not_left_out(model, targets, message):
    with pytest.raises(ValueError, match=f"predictions depend.*no counterpart.*{message}"):
        read_hypers(model, {}, targets)


# there and back ---------------------------------------------------------------------------

POSITIVE = st.floats(1e-8, 1e6)
NAMES = st.sampled_from(["energy", "gap", "dos", "non_conservative_stress"])
TERM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["mse", "mae", "huber"]),
        "weight": st.floats(0, 1e3),
        "reduction": st.sampled_from(["mean", "sum"]),
        "delta": POSITIVE,
    },
)
DERIVED = {name: st.one_of(TERM, st.just("mae")) for name in ("forces", "stress")}
LOSS = st.one_of(
    st.sampled_from(["mse", "mae", "huber"]),
    st.fixed_dictionaries(
        {},
        optional={
            "energy": st.builds(
                lambda own, derived: {**own, **derived},
                TERM,
                st.fixed_dictionaries({}, optional=DERIVED),
            ),
            "gap": st.one_of(TERM, st.just("huber")),
        },
    ),
)
WEIGHTS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["energy", "gap"]),
        st.one_of(POSITIVE, st.dictionaries(st.integers(1, 118), POSITIVE, min_size=1)),
        min_size=1,
    ),
)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "cutoff_radius": st.floats(1, 10),
        "cutoff_width": POSITIVE,
        "max_radial": st.integers(0, 9),
        "max_angular": st.integers(0, 9),
        "num_hidden_layers": st.integers(0, 3),
        "num_neurons_per_layer": st.integers(1, 99),
        "layernorm": st.booleans(),
        "add_lambda_basis": st.booleans(),
        "heads": st.dictionaries(NAMES, st.just("linear"), min_size=1),
        "zbl": st.booleans(),
        "species_encoding": st.sampled_from(["orthogonal", "alchemical"]),
        "long_range": st.booleans(),
        "use_ewald": st.booleans(),
        "smearing": POSITIVE,
        "kspace_resolution": POSITIVE,
        "interpolation_nodes": st.integers(3, 5),
        "distributed": st.booleans(),
        "distributed_port": st.integers(1, 65535),
        "batch_size": st.integers(1, 99),
        "num_epochs": st.integers(1, 99),
        "warmup_fraction": st.floats(0, 1),
        "learning_rate": POSITIVE,
        "log_interval": st.integers(1, 99),
        "checkpoint_interval": st.integers(1, 99),
        "scale_targets": st.booleans(),
        "fixed_scaling_weights": WEIGHTS,
        "remove_composition_contribution": st.just(False),
        "per_structure_targets": st.sampled_from([(), ("dos",), ("dos", "energy", "stress")]),
        "num_workers": st.one_of(st.none(), st.integers(0, 9)),
        "log_mae": st.booleans(),
        "log_separate_blocks": st.booleans(),
        "best_model_metric": st.sampled_from(["rmse_prod", "mae_prod", "loss"]),
        "loss": LOSS,
        "device": st.sampled_from(["auto", "cpu", "cuda"]),
        "dtype": st.sampled_from(["float32", "float64"]),
        "random_state": st.one_of(st.none(), st.integers(0, 2**32 - 1)),
        "validation_fraction": st.floats(0.01, 0.99),
    },
)


def canonical(model):
    """Return parameters such that equal ones mean the same."""
    parameters = model.get_params()
    names = ["energy", "gap", "dos", "non_conservative_stress"]
    heads = parameters["heads"] or {}
    parameters["heads"] = {name: heads.get(name, "mlp") for name in names}
    losses = parse_loss(parameters["loss"], names)
    parameters["loss"] = {
        name: (loss.type, loss.weight, loss.reduction, loss.type == "huber" and loss.delta)
        for name, loss in losses.items()
    }
    return parameters


@given(PARAMETERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_there_and_back(tmp_path, parameters):
    # metatrain has no MLP heads for anything but scalars
    heads = {"non_conservative_stress": "linear", **(parameters.get("heads") or {})}
    model = make_regressor(**{**parameters, "heads": heads})
    path = tmp_path / "options.yaml"
    written = write_options(model, path)
    for options in (written, path):
        again = SoapBPNNRegressor(**read_options(options))
        assert canonical(again) == canonical(model)
        assert write_options(again) == written


@given(WEIGHTS)
def test_fixed_weights_there_and_back(weights):
    model = make_regressor(fixed_composition_weights=weights)
    again = read_options(write_options(model))
    assert again["fixed_composition_weights"] == weights
