"""How long-range sums are done, and which structures they are known for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..data import Structures

# what P3M can spread a charge over; with 1 the potential jumps as the atoms move
INTERPOLATION_NODES = (2, 3, 4, 5)
# vacuum between a slab and its images: in lengths of its longer cell vector, whose slowest wave
# has decayed to exp(-3 pi) = 1e-4 there, and at least this many widths of the Gaussians
SLAB_VACUUM = 1.5
SLAB_VACUUM_SMEARINGS = 6.0


@dataclass(frozen=True)
class LongRangeParameters:
    """Hyperparameters of the long-range features.

    Parameters
    ----------
    use_ewald : bool, default=False
        Sum over wave vectors in training, where structures are small, rather than on a mesh.
        Predictions always use the mesh.
    smearing : float, default=1.4
        Width of the Gaussians that split the sums into neighbours and waves, in the unit of the
        positions. A smaller one needs a finer mesh, a larger one a larger cutoff radius.
    kspace_resolution : float, default=1.33
        Distance that the waves resolve, in the unit of the positions; smaller is more accurate and
        slower.
    interpolation_nodes : int, default=5
        Mesh points that a charge is spread over along each direction, 2 to 5. Forces are continuous
        with 3 or more.
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
    """Raise if long-range sums over one of the structures are not known, or too large.

    Parameters
    ----------
    structures : Structures
        Structures to check.
    parameters : LongRangeParameters
        What sets the mesh.
    most_points : float
        Points that a mesh may have.
    name : str, default="X"
        What messages call the structures.

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
                f"more than there is memory for: its cell is {cell.tolist()}. Shrink the cell to "
                "what the vacuum needs, set pbc=False, or raise "
                f"kspace_resolution={parameters.kspace_resolution}."
            )


def _count_mesh_points(positions, cell, pbc, parameters):
    """Count the points of the mesh for the waves; zero where fewer than two directions repeat."""
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
        What sets the width of the Gaussians and the mesh.
    """
    vacuum = max(SLAB_VACUUM * size, SLAB_VACUUM_SMEARINGS * parameters.smearing)
    spacing = parameters.kspace_resolution
    # one less than a power of two fills torch-pme's mesh, which has a power of two of points
    return spacing * (2 ** math.ceil(math.log2((thickness + vacuum) / spacing + 1)) - 1)


def import_torchpme():
    """Return torch-pme, or say how to install it."""
    try:
        import torchpme
    except ImportError as err:
        raise ImportError(
            "Long-range features need torch-pme: pip install sklearn_soapbpnn[long-range]"
        ) from err
    return torchpme
