"""Types of the arguments that many functions have in common, for annotations only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, Union

from ase import Atoms
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from ._structures import Structures
    from ._targets import Targets

# the argument X, of a single structure as of many, and the argument y
Frames: TypeAlias = Union[Sequence[Atoms], "Structures"]
Labels: TypeAlias = Union[ArrayLike, "Targets"]
# values per structure, or one array for each structure
Values: TypeAlias = ArrayLike | Sequence[ArrayLike]
FilePath: TypeAlias = str | os.PathLike[str]
