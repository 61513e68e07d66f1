"""Checks of user-defined extensions of the training loop: callbacks and optimizer arguments."""

import torch
from skorch.callbacks import (
    Callback,
    Checkpoint,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    PassthroughScoring,
)
from skorch.callbacks.scoring import ScoringBase

from ._muon import Muon

# what sets the optimizer of each name; the fused step saves most of Adam's overhead
OPTIMIZERS = {
    "muon": {"optimizer": Muon},
    "adam": {"optimizer": torch.optim.Adam, "optimizer__fused": True},
}
# pseudo-species describe elements by numbers near 1, which steps of the size that is right for the
# small weights of wide layers would hardly move
ELEMENT_GROUPS = [(f"first.{name}", {"adam_ratio": 10.0}) for name in ("embedding", "encoding")]
# skorch callbacks that cannot work here, with the reason and the alternative
REFUSED_CALLBACKS = {
    ScoringBase: "which scores a dataset of X and y, but there is no such dataset here. history_ "
    "has the validation errors of every target, e.g. 'valid_energy_rmse', which callbacks can "
    "monitor.",
    PassthroughScoring: "which averages over batches, but batches are not recorded. history_ has "
    "the losses of every epoch.",
    LRScheduler: "but the learning rate has a fixed schedule: a warm-up, then a cosine to zero. "
    "Set learning_rate and warmup_fraction instead.",
    LoadInitState: "which loads the state of the net, but not that of the regressor. Set "
    "checkpoint_dir and continue with fit(..., resume=True), or set warm_start=True.",
    InputShapeSetter: "but fit determines the size of the input itself. Leave it out.",
}
# arguments of the net that are set by an argument of the regressor with the same or another name
SAME_NAME = (
    *("batch_size", "device", "callbacks", "verbose", "warm_start", "warmup_fraction"),
    *("best_model_metric", "log_interval", "log_mae", "log_separate_blocks", "n_iter_no_change"),
)
INSTEAD = {
    "module": "the arguments of the network, such as num_neurons_per_layer",
    "criterion": "loss",
    "lr": "learning_rate",
    "optimizer__lr": "learning_rate",
    "max_epochs": "num_epochs",
    "iterator_train": "batch_size",
    "train_split": "validation_fraction, or X_val and y_val in fit",
    "order_seed": "random_state",
    "checkpoints": "checkpoint_dir",
    "processes": "distributed",
    **{name: name for name in SAME_NAME},
}


def check_callbacks(callbacks):
    """Raise if ``callbacks`` contains anything else, or callbacks that cannot work here."""
    for entry in callbacks or ():
        callback = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, Callback):
            raise TypeError(
                f"callbacks must hold callbacks of skorch, or (name, callback), got {entry!r}."
            )
        for refused, why in REFUSED_CALLBACKS.items():
            if issubclass(kind, refused):
                raise ValueError(f"callbacks holds {callback!r}, {why}")
        if isinstance(callback, Checkpoint) and callback.load_best:
            raise ValueError(
                f"callbacks holds {callback!r}, whose load_best=True would remove later epochs "
                "from the history. Leave it out: the best epoch is kept by best_model_metric."
            )


def check_net_params(net_params, optimizer, learning_rate, device):
    """Raise if ``net_params`` sets anything but the optimizer, or no optimizer can be made."""
    for name in net_params or {}:
        is_optimizer = name == "optimizer" or str(name).startswith("optimizer__")
        if is_optimizer and name != "optimizer__lr":
            continue
        instead = INSTEAD.get(name) or INSTEAD.get(str(name).partition("__")[0])
        raise ValueError(
            f"net_params names {name!r}, but it may set only the 'optimizer' and its arguments, "
            "e.g. 'optimizer__weight_decay'. "
            + (f"Set {instead} instead." if instead else "Leave it out.")
        )
    options = choose_optimizer(optimizer, net_params)
    make = options.pop("optimizer")
    options = {name.removeprefix("optimizer__"): value for name, value in options.items()}
    try:
        groups = [*(group for _, group in options.pop("param_groups", ())), {}]
        groups = [{"params": [torch.zeros(1, device=device)], **group} for group in groups]
        optimizer = make(groups, lr=learning_rate, **options)
    except Exception as err:  # whatever the optimizer may raise
        raise ValueError(
            f"net_params={net_params!r} does not make an optimizer with {optimizer=}: {err}"
        ) from err
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"net_params: 'optimizer' must make a torch optimizer, got {optimizer!r}.")


def choose_optimizer(name, net_params, species_encoding="orthogonal"):
    """Return the arguments of the net that define its optimizer; ``net_params`` may replace it."""
    net_params = net_params or {}
    options = {} if "optimizer" in net_params else dict(OPTIMIZERS[name])
    if options.get("optimizer") is Muon and species_encoding == "alchemical":
        options["optimizer__param_groups"] = ELEMENT_GROUPS
    return {**options, **net_params}
