"""What users may add to the training loop: callbacks, and arguments of the optimizer."""

import numpy as np
import pytest
import torch
from skorch.callbacks import (
    Callback,
    Checkpoint,
    Freezer,
    GradientNormClipping,
    Initializer,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    ParamMapper,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
)

from sklearn_soapbpnn import SoapBPNNRegressor
from sklearn_soapbpnn.training._muon import Muon

SMALL = {
    **{"max_radial": 2, "max_angular": 1, "num_neurons_per_layer": 8, "random_state": 0},
    **{"num_epochs": 2, "dtype": "float64", "warmup_fraction": 0.0},
}


@pytest.fixture(scope="module")
def molecules(shipped_molecules):
    X, y = shipped_molecules
    return X[:20], y["energy"][:20]


def fit(molecules, **options):
    return SoapBPNNRegressor(**{**SMALL, **options}).fit(*molecules)


class RecordNorms(Callback):
    """Keep the norm of all gradients, of every step."""

    def initialize(self):
        self.norms_ = []
        return self

    def on_grad_computed(self, net, named_parameters, **kwargs):
        gradients = [parameter.grad.ravel() for _, parameter in named_parameters]
        self.norms_.append(float(torch.cat(gradients).norm()))


class RecordWeights(Callback):
    """Keep all weights, of before the fit and of every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.weights_ = []
        self.on_epoch_end(net)

    def on_epoch_end(self, net, **kwargs):
        weights = net.module_.state_dict()
        self.weights_.append({name: value.clone() for name, value in weights.items()})


def test_all_callbacks_see_the_gradients(molecules):
    """Each as the one before left them, and the step is made with what the last one leaves."""
    recorders = [RecordNorms(), RecordNorms(), RecordNorms()]
    clippers = [GradientNormClipping(1e-3), GradientNormClipping(1e-4)]
    recorded = RecordWeights()
    callbacks = [recorders[0], clippers[0], recorders[1], clippers[1], recorders[2], recorded]
    fit(
        molecules,
        # skorch puts those of one class next to each other, unless they have names
        callbacks=[(f"number {k}", callback) for k, callback in enumerate(callbacks)],
        net_params={"optimizer": torch.optim.SGD},
        **{"batch_size": 20, "num_epochs": 1, "learning_rate": 1.0},
    )
    (free,), (once,), (twice,) = (recorder.norms_ for recorder in recorders)
    assert free > 1e-2
    np.testing.assert_allclose([once, twice], [1e-3, 1e-4], rtol=1e-2)
    before, after = recorded.weights_
    step = torch.cat([(after[name] - before[name]).ravel() for name in before])
    np.testing.assert_allclose(float(step.norm()), twice)


def test_an_optimizer_that_evaluates_the_loss_itself(molecules):
    """L-BFGS makes many steps with one batch, so it gets far in a few epochs."""
    net_params = {"optimizer": torch.optim.LBFGS, "optimizer__line_search_fn": "strong_wolfe"}
    options = {"batch_size": 20, "validation_fraction": 0, "num_epochs": 10, "learning_rate": 1.0}
    losses = fit(molecules, **options, net_params=net_params).history_[:, "train_loss"]
    assert losses[-1] < 0.5 * losses[0]


# --- callbacks of skorch -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callback", "remedy"),
    [
        (LRScheduler(policy="StepLR", step_size=1), "Set learning_rate and warmup_fraction"),
        (LRScheduler, "Set learning_rate and warmup_fraction"),
        (("schedule", LRScheduler()), "Set learning_rate and warmup_fraction"),
        (Checkpoint(load_best=True), "Leave it out: the best epoch is kept by best_model_metric"),
        (LoadInitState(Checkpoint()), "Set checkpoint_dir and continue with fit.*resume=True"),
        (PassthroughScoring("train_loss"), "history_ has the losses of every epoch"),
        (InputShapeSetter(), "Leave it out"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(molecules, callback, remedy):
    kind = callback[1] if isinstance(callback, tuple) else callback
    name = getattr(kind, "__name__", type(kind).__name__)
    with pytest.raises(ValueError, match=rf"(?s)callbacks holds .*{name}.*{remedy}"):
        fit(molecules, callbacks=[callback])


def test_weights_can_be_frozen(molecules):
    recorded = RecordWeights()
    fit(molecules, callbacks=[Freezer("trunk.*"), recorded])
    before, after = recorded.weights_[0], recorded.weights_[-1]
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert "trunk.layers.0.weight" in frozen
    assert "first.linear.weight" not in frozen


@pytest.mark.parametrize("kind", [Initializer, ParamMapper])
def test_weights_can_be_set(molecules, kind):
    """Before the first step, or that of another epoch."""
    at = 1 if kind is Initializer else 2
    callback = kind("trunk.*", fn=lambda weight: torch.nn.init.constant_(weight, 7.0), at=at)
    recorded = RecordWeights()
    fit(molecules, callbacks=[callback, recorded])
    means = [weights["trunk.layers.0.weight"].mean() for weights in recorded.weights_]
    assert [abs(float(mean) - 7.0) < 0.1 for mean in means] == [False, at == 1, True]


def test_callbacks_that_show_something(molecules, capsys):
    fit(molecules, callbacks=[PrintLog(), ProgressBar()], verbose=1)
    out, err = capsys.readouterr()
    assert "train_loss" in out
    assert "it/s" in err


# --- arguments of the optimizer ------------------------------------------------------------------


def test_decay_of_weights(molecules):
    norms = []
    for decay in (0.0, 100.0):
        net_params = {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": decay}
        model = fit(molecules, net_params=net_params, validation_fraction=0)
        norms.append(sum(float(weight.detach().norm()) for weight in model.module_.parameters()))
    assert norms[1] < 0.9 * norms[0]


@pytest.mark.parametrize(("name", "kind"), [("muon", Muon), ("adam", torch.optim.Adam)])
def test_arguments_of_the_named_optimizer(molecules, name, kind):
    model = fit(molecules, optimizer=name, net_params={"optimizer__betas": (0.5, 0.6)})
    assert type(model.net_.optimizer_) is kind
    assert model.net_.optimizer_.param_groups[0]["betas"] == (0.5, 0.6)
    assert not np.array_equal(
        model.predict(molecules[0]), fit(molecules, optimizer=name).predict(molecules[0])
    )


def test_groups_of_weights(molecules):
    recorded = RecordWeights()
    groups = [("heads.*", {"lr": 0.0}), ("first.*", {"lr": 1e-2})]
    net_params = {"optimizer__param_groups": groups}
    fit(molecules, optimizer="adam", callbacks=[recorded], net_params=net_params)
    before, after = recorded.weights_[0], recorded.weights_[-1]
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["heads.0.layers.0.weight"] == 0
    assert moved["first.linear.weight"] > 3 * moved["trunk.layers.0.weight"] > 0


def test_groups_of_no_weights(molecules):
    net_params = {"optimizer__param_groups": [("last.*", {"lr": 0.0})]}
    with pytest.raises(ValueError, match=r"names 'last\.\*', which matches none.*first\.linear"):
        fit(molecules, net_params=net_params)


def check_nothing_is_fitted(molecules, net_params, error, message):
    model = SoapBPNNRegressor(**SMALL, net_params=net_params)
    before = set(vars(model))
    with pytest.raises(error, match=message):
        model.fit(*molecules)
    assert set(vars(model)) == before


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("lr", "Set learning_rate instead"),
        ("optimizer__lr", "Set learning_rate instead"),
        ("max_epochs", "Set num_epochs instead"),
        ("batch_size", "Set batch_size instead"),
        ("criterion", "Set loss instead"),
        ("criterion__losses", "Set loss instead"),
        ("module__seed", "Set the arguments of the network"),
        ("train_split", "Set validation_fraction, or X_val and y_val in fit instead"),
        ("iterator_train__shuffle", "Set batch_size instead"),
        ("callbacks__epoch_timer", "Set callbacks instead"),
        ("order_seed", "Set random_state instead"),
        ("n_iter_no_change", "Set n_iter_no_change instead"),
        ("warm_start", "Set warm_start instead"),
        *((name, "Leave it out") for name in ("iterator_valid", "dataset", "compile", "history")),
        *((name, "Leave it out") for name in ("predict_nonlinearity", "use_caching")),
        *((name, "Leave it out") for name in ("torch_load_kwargs", "optimizer_lr", "best", 3)),
    ],
)
def test_other_arguments_of_the_net_are_refused(molecules, name, remedy):
    """They would do nothing, or get into the way of what the regressor does."""
    message = f"net_params names {name!r}, .* only the 'optimizer' and its arguments.* {remedy}"
    check_nothing_is_fitted(molecules, {name: None}, ValueError, message)


def make_nothing(parameters, **options):
    """Make no optimizer."""


@pytest.mark.parametrize(
    ("net_params", "error", "message"),
    [
        ({"optimizer__decay": 0.1}, ValueError, "does not make an optimizer.*: .*'decay'"),
        ({"optimizer": "Adam"}, ValueError, "does not make an optimizer.*: 'str'"),
        ({"optimizer": torch.nn.Linear}, ValueError, "does not make an optimizer"),
        ({"optimizer": make_nothing}, TypeError, "must make a torch optimizer, got None"),
        ({"optimizer__param_groups": ["first.*"]}, ValueError, "does not make an optimizer"),
    ],
    ids=["argument", "name", "layer", "nothing", "groups"],
)
def test_optimizers_that_cannot_be_made(molecules, net_params, error, message):
    check_nothing_is_fitted(molecules, net_params, error, message)
