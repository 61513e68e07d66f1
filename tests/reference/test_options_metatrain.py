"""Options against metatrain's own schema and code. Needs metatrain; see CONTRIBUTING.md."""

import inspect
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.interfaces.metatrain._option_targets import STANDARD_TARGETS
from sklearn_soapbpnn.interfaces.metatrain._options import (
    IDLE,
    N_PSEUDO_SPECIES,
    SAME,
    read_options,
)
from sklearn_soapbpnn.training import parse_loss

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # not the package alone, which this folder could be taken for
    pytest.importorskip("metatrain.soap_bpnn")
    from metatomic.torch._quantities import STANDARD_QUANTITY_CATEGORIES, new_quantity_names
    from metatrain.soap_bpnn import __model__ as SoapBpnn
    from metatrain.soap_bpnn.documentation import ModelHypers, TrainerHypers
    from metatrain.utils.architectures import check_architecture_options, get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info
    from metatrain.utils.omegaconf import BASE_OPTIONS, expand_dataset_config, expand_loss_config
    from metatrain.utils.pydantic import MetatrainValidationError, validate_base_options
    from omegaconf import OmegaConf

pytestmark = pytest.mark.metatrain

TARGETS = {"energy": {"forces": True, "stress": True}, "mtt::gap": {}}
TRAINING_SET = {"systems": "train.xyz", "targets": TARGETS}
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(SoapBPNNRegressor).parameters.items()
}


def merge(options):
    """Return options as metatrain's training sees them, after its validation."""
    options = OmegaConf.create(validate_base_options({"training_set": TRAINING_SET, **options}))
    defaults = {"architecture": get_default_hypers("soap_bpnn")}
    options = OmegaConf.merge(BASE_OPTIONS, defaults, options)
    check_architecture_options("soap_bpnn", OmegaConf.to_container(options["architecture"]))
    options["training_set"] = expand_dataset_config(options["training_set"])
    options = expand_loss_config(options)
    check_architecture_options("soap_bpnn", OmegaConf.to_container(options["architecture"]))
    return OmegaConf.to_container(options, resolve=True)


def flatten(options, prefix):
    for name, value in options.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


SETTINGS = [
    {},
    {"species_encoding": "alchemical", "dtype": "float64", "device": "cpu", "random_state": 3},
    {"long_range": True, "use_ewald": True, "zbl": True, "layernorm": False},
    {"heads": {"energy": "linear", "gap": "mlp"}, "per_structure_targets": ("gap",)},
    {"loss": "huber", "num_workers": 2, "best_model_metric": "loss", "learning_rate": 1e-5},
    {"loss": {"energy": {"type": "huber", "delta": 0.1, "forces": "mae"}, "gap": "mae"}},
    {"fixed_composition_weights": {"H": -1, "O": -2}, "fixed_scaling_weights": {"energy": 2}},
    {"remove_composition_contribution": False, "scale_targets": False, "cutoff_radius": 4},
]


@pytest.mark.parametrize("parameters", SETTINGS, ids=lambda p: " ".join(p) or "defaults")
def test_written_options_are_valid(parameters, tmp_path):
    path = tmp_path / "options.yaml"
    written = SoapBPNNRegressor(optimizer="adam", **parameters).to_options(path)
    loaded = OmegaConf.to_container(OmegaConf.load(path))
    assert loaded == written
    merge(loaded)


def test_the_validation_notices_what_is_wrong():
    written = SoapBPNNRegressor(optimizer="adam").to_options()
    written["architecture"]["training"]["foo"] = 1
    with pytest.raises(MetatrainValidationError, match="foo"):
        merge(written)


def test_defaults_are_ours():
    theirs = get_default_hypers("soap_bpnn")
    for part in ("model", "training"):
        for path, value in flatten(theirs[part], f"architecture.{part}."):
            if path in SAME:
                assert value == DEFAULTS[SAME[path]], path
            elif path in IDLE:
                assert value == IDLE[path], path
    assert theirs["model"]["legacy"] is (DEFAULTS["species_encoding"] == "orthogonal")
    assert theirs["training"]["loss"] == DEFAULTS["loss"]
    for name in ("atomic_baseline", "fixed_scaling_weights", "per_structure_targets"):
        assert not theirs["training"][name]
    assert SoapBpnn.__supported_dtypes__[0] == torch.float32
    assert DEFAULTS["dtype"] == "float32"
    assert "device" not in SoapBPNNRegressor(optimizer="adam").to_options()


def test_no_option_of_metatrain_is_unknown_here():
    options = {"architecture": get_default_hypers("soap_bpnn")}
    model = SoapBPNNRegressor(**read_options(options))
    expected = {**DEFAULTS, "heads": {"energy": "linear"}, "optimizer": "adam"}
    assert model.get_params() == expected
    written = SoapBPNNRegressor(distributed=True, optimizer="adam").to_options()["architecture"]
    for part, hypers in (("model", ModelHypers), ("training", TrainerHypers)):
        idle = {path.split(".")[-1] for path in IDLE}
        assert set(written[part]) == set(hypers.__annotations__) - idle


def test_targets_without_a_prefix_are_those_of_metatomic():
    standard = set(STANDARD_QUANTITY_CATEGORIES)
    outputs_of_other_models = {"energy_ensemble", "energy_uncertainty"}
    deprecated = {"non_conservative_forces"}
    assert STANDARD_TARGETS - deprecated == standard - outputs_of_other_models
    assert deprecated < set(new_quantity_names())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("heads", [{}, {"energy": "mlp"}])
def test_an_unnamed_head_is_linear(heads):
    hypers = {**get_default_hypers("soap_bpnn")["model"], "heads": heads}
    target = get_energy_target_info("energy", {"unit": "eV"})
    info = DatasetInfo(length_unit="angstrom", atomic_types=[1], targets={"energy": target})
    head = SoapBpnn(hypers, info).heads["energy"]
    assert bool(list(head.parameters())) == bool(heads)


def test_number_of_pseudo_species():
    source = inspect.getsource(inspect.getmodule(SoapBpnn))
    assert f'"pseudo_species": {N_PSEUDO_SPECIES}' in source


TERM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["mse", "mae"]),
        "weight": st.floats(0, 10),
        "reduction": st.sampled_from(["mean", "sum"]),
    },
)
HUBER = st.fixed_dictionaries({"type": st.just("huber")}, optional={"delta": st.floats(0.1, 10)})
PART = st.one_of(st.sampled_from(["mse", "mae", "huber"]), TERM, HUBER)
ENERGY = st.one_of(
    st.sampled_from(["mse", "mae", "huber"]),
    st.builds(
        lambda own, derived, gradients: {**own, **derived, "gradients": gradients},
        st.one_of(TERM, HUBER),
        st.fixed_dictionaries({}, optional={"forces": PART, "stress": PART}),
        st.fixed_dictionaries(
            {}, optional=dict.fromkeys(["positions", "strain"], st.one_of(TERM, HUBER))
        ),
    ),
)
LOSS = st.one_of(
    st.sampled_from(["mse", "mae", "huber"]),
    st.fixed_dictionaries({}, optional={"energy": ENERGY, "mtt::gap": PART}),
)


@given(LOSS)
@settings(deadline=None)
def test_losses_mean_what_metatrain_makes_of_them(loss):
    options = {"architecture": {"name": "soap_bpnn", "training": {"loss": loss}}}
    expanded = merge({**options, "validation_set": 0.1})["architecture"]["training"]["loss"]
    losses = parse_loss(read_options(options)["loss"], ["energy", "gap"])

    def check(theirs, ours):
        assert (ours.type, ours.weight, ours.reduction) == (
            *(theirs["type"], theirs["weight"], theirs["reduction"]),
        )
        if ours.type == "huber":
            assert ours.delta == theirs["delta"]

    check(expanded["energy"], losses["energy"])
    check(expanded["mtt::gap"], losses["gap"])
    check(expanded["energy"]["gradients"]["positions"], losses["forces"])
    check(expanded["energy"]["gradients"]["strain"], losses["stress"])
    # and the expanded options, which metatrain leaves behind, are read to the same
    again = {"architecture": {"name": "soap_bpnn", "training": {"loss": expanded}}}
    check_again = parse_loss(read_options(again)["loss"], ["energy", "gap"])
    for name, ours in losses.items():
        assert (check_again[name].type, check_again[name].weight) == (ours.type, ours.weight)
