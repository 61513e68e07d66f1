"""The torch devices that a ``device`` argument stands for, and how much they process at a time."""

import textwrap

import torch

# atoms that keep a GPU busy longer than it takes to start the work on them; more would only take
# more of its memory, with many elements almost a megabyte per atom
ATOMS_PER_GPU = 8192


def resolve_device(device):
    """Return the torch device that a ``device`` argument stands for."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as err:
        raise ValueError(
            f"device={device!r} cannot be used: {_first_line(err)}. Choose 'auto', 'cpu', or "
            "'cuda' on a machine with a GPU."
        ) from err


def _first_line(err):
    """Return the first line of an error, since some libraries add pages of text."""
    lines = str(err).splitlines() or [type(err).__name__]
    return textwrap.shorten(lines[0].rstrip("."), 150, placeholder="...")


def find_device(device):
    """Return a device as :func:`resolve_device` does, or the CPU if this machine lacks it.

    Raises
    ------
    ValueError
        If torch does not know the name of the device.
    """
    try:
        return resolve_device(device)
    except ValueError as err:
        try:
            torch.device(device)
        except RuntimeError:
            raise err from None
        return torch.device("cpu")


def atoms_per_chunk(device: torch.device, on_cpu: int) -> int:
    """Return the number of atoms to evaluate at a time: ``on_cpu`` there, more on a GPU."""
    return on_cpu if device.type == "cpu" else max(on_cpu, ATOMS_PER_GPU)
