"""Shield fits and predictions from torch's global settings."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch

from ._threads import use_threads


@contextmanager
def usual_settings():
    """Switch off inference mode, autocast and a non-CPU default device within the block.

    With these settings tensors could not be differentiated, would be rounded, or would be created
    on the wrong device. The block uses one thread unless it calls :func:`use_threads`.
    """
    with ExitStack() as stack:
        stack.enter_context(use_threads(0))
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        # only if needed, because this makes every call of torch slower
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
