"""Devices by name, on this machine."""

import textwrap

import torch


def resolve_device(device):
    """Return the torch device that a ``device`` argument stands for."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as err:
        raise ValueError(
            f"device={device!r} cannot be used: {_first_line(err)}. Choose 'auto' or 'cpu'."
        ) from err


def _first_line(err):
    """What an error says, without the pages that some libraries print after it."""
    lines = str(err).splitlines() or [type(err).__name__]
    return textwrap.shorten(lines[0].rstrip("."), 150, placeholder="...")


def find_device(device):
    """Return a device as :func:`resolve_device` does, or the CPU where this machine lacks it.

    Raises
    ------
    ValueError
        If there is no such device on any machine.
    """
    try:
        return resolve_device(device)
    except ValueError as err:
        try:
            torch.device(device)
        except RuntimeError:
            raise err from None
        return torch.device("cpu")
