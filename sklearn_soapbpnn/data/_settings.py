"""What of torch's global settings must not reach into a fit or a prediction."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch

from ._threads import use_threads


@contextmanager
def usual_settings():
    """Switch off inference mode, autocast and another default device, as long as the block lasts.

    In them, tensors could not be differentiated, would be rounded, or be on the wrong device. There
    is one thread, unless :func:`use_threads` in the block says that work is worth more.
    """
    with ExitStack() as stack:
        stack.enter_context(use_threads(0))
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        # this costs time in every call of torch, also where it changes nothing
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
