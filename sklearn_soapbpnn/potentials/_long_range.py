"""Hyperparameters of long-range sums, and the structures for which they are available."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..data import Structures

# numbers of mesh points over which P3M can spread a charge; with 1 the potential is not continuous
INTERPOLATION_NODES = (2, 3, 4, 5)
# vacuum between a slab and its images: in units of its longer cell vector, so that the slowest wave
# decays to exp(-3 pi) = 1e-4, and at least this many widths of the Gaussians
SLAB_VACUUM = 1.5
SLAB_VACUUM_SMEARINGS = 6.0


@dataclass(frozen=True)
class LongRangeParameters:
    """Hyperparameters of the long-range features.

    Parameters
    ----------
    use_ewald : bool, default=False
        Whether to sum over wave vectors in training, in which structures are small, rather than on
        a mesh. Predictions always use the mesh.
    smearing : float, default=1.4
        Width of the Gaussians that split the sums into neighbours and waves, in the unit of the
        positions. A smaller width needs a finer mesh, a larger width a larger cutoff radius.
    kspace_resolution : float, default=1.33
        Shortest length that the waves resolve, in the unit of the positions; a smaller value is
        more accurate and slower.
    interpolation_nodes : int, default=5
        Number of mesh points, 2 to 5, over which a charge is spread along each direction. Forces
        are continuous with 3 or more.
    """

    use_ewald: bool = False
    smearing: float = 1.4
    kspace_resolution: float = 1.33
    interpolation_nodes: int = 5

    def __post_init__(self) -> None:
        for name in ("smearing", "kspace_resolution"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be a length greater than zero; its "
                    f"default is {getattr(LongRangeParameters, name)}."
                )
        if self.interpolation_nodes not in INTERPOLATION_NODES:
            raise ValueError(
                f"interpolation_nodes={self.interpolation_nodes!r} must be one of "
                f"{list(INTERPOLATION_NODES)}."
            )


def check_long_range(
    structures: Structures, parameters: LongRangeParameters, most_points: float, name: str = "X"
) -> None:
    """Raise if the long-range sum over a structure is not available or needs too large a mesh.

    Parameters
    ----------
    structures : Structures
        Structures to check.
    parameters : LongRangeParameters
        Hyperparameters, which determine the mesh.
    most_points : float
        Largest number of points of a mesh.
    name : str, default="X"
        Name of the structures in error messages.

    Raises
    ------
    ValueError
        If a structure is periodic along one direction only, or its cell needs a larger mesh.
    """
    geometry = structures.indices, structures.positions, structures.cells, structures.pbc
    for index, positions, cell, pbc in zip(*geometry):
        if sum(pbc) == 1:
            raise ValueError(
                f"{name}[{index}] is periodic along one direction (pbc={pbc.tolist()}), for which "
                "torch-pme has no long-range sum. Set pbc=False for a finite piece of it, make the "
                "cell periodic in all directions with vacuum around the wire, or set "
                "long_range=False."
            )
        n_points = _count_mesh_points(positions, cell, pbc, parameters)
        if n_points > most_points:
            raise ValueError(
                f"{name}[{index}] needs a mesh of {n_points:.0e} points for its long-range sum, "
                f"for which there is not enough memory: its cell is {cell.tolist()}. Use less "
                "vacuum, set pbc=False, or increase "
                f"kspace_resolution={parameters.kspace_resolution}."
            )


def _count_mesh_points(positions, cell, pbc, parameters):
    """Return the number of mesh points for the waves, 0 unless 2 or 3 directions are periodic."""
    lengths = np.linalg.norm(cell[pbc], axis=1)
    if sum(pbc) == 2:
        normal = np.cross(*cell[pbc])
        thickness = np.ptp(positions @ normal) / np.linalg.norm(normal)
        lengths = [*lengths, separate_slabs(thickness, max(lengths), parameters)]
    # as torch-pme does
    points = np.log2(2 * np.asarray(lengths) / parameters.kspace_resolution + 1)
    return np.prod(2.0 ** np.ceil(points)) if sum(pbc) > 1 else 0.0


def separate_slabs(thickness: float, size: float, parameters: LongRangeParameters) -> float:
    """Return the distance of a slab to its next image.

    Parameters
    ----------
    thickness : float
        Height of the slab, between its outermost atoms.
    size : float
        Length of its longer cell vector.
    parameters : LongRangeParameters
        Hyperparameters, which determine the width of the Gaussians and the mesh.
    """
    vacuum = max(SLAB_VACUUM * size, SLAB_VACUUM_SMEARINGS * parameters.smearing)
    spacing = parameters.kspace_resolution
    # just below a distance at which torch-pme doubles its mesh, so that no points are wasted
    return spacing * (2 ** math.ceil(math.log2((thickness + vacuum) / spacing + 1)) - 1)


def import_torchpme():
    """Return torch-pme; if it is missing, the error says how to install it."""
    try:
        import torchpme
    except ImportError as err:
        raise ImportError(
            "Long-range features need torch-pme: pip install sklearn_soapbpnn[long-range]"
        ) from err
    return torchpme
