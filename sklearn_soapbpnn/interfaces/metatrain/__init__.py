"""Models and options of metatrain, whose package is needed for its checkpoints only."""

from ._options import read_options
from ._read_checkpoint import read_checkpoint
from ._write_options import write_options

__all__ = ["read_checkpoint", "read_options", "write_options"]
