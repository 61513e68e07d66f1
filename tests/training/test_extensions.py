"""What users may add to the training loop: callbacks, and arguments of the optimizer."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, GradientNormClipping

from sklearn_soapbpnn import SoapBPNNRegressor

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
