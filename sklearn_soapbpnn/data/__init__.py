"""What flows through a Pipeline: structures, targets, neighbour pairs, batches."""

from ._checks import N_NUMBERS, as_position, check_elements, find_elements, symbols
from ._clebsch_gordan import real_clebsch_gordan
from ._graphs import (
    BatchIndex,
    Graph,
    build_graph,
    channel_rows,
    iterate_chunks,
    number_own_elements,
    plan_batches,
)
from ._kinds import DERIVED_TARGETS, ENERGY_KINDS, KNOWN_KINDS, Block, TargetKind
from ._sequences import LazyFrames, open_frames
from ._settings import usual_settings
from ._structures import Structures, as_structures, expand_scale, flatten_offset
from ._targets import Targets, as_targets

__all__ = [
    "as_position",
    "LazyFrames",
    "open_frames",
    "Block",
    "DERIVED_TARGETS",
    "ENERGY_KINDS",
    "KNOWN_KINDS",
    "N_NUMBERS",
    "real_clebsch_gordan",
    "BatchIndex",
    "Graph",
    "Structures",
    "TargetKind",
    "Targets",
    "as_structures",
    "as_targets",
    "build_graph",
    "channel_rows",
    "check_elements",
    "expand_scale",
    "find_elements",
    "flatten_offset",
    "iterate_chunks",
    "number_own_elements",
    "plan_batches",
    "symbols",
    "usual_settings",
]
