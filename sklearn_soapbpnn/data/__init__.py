"""What flows through a Pipeline: structures, targets, neighbour pairs, batches."""

from ._checks import check_atoms, check_elements, symbols
from ._clebsch_gordan import real_clebsch_gordan
from ._graphs import BatchIndex, Graph, build_graph, channel_rows, iterate_chunks, plan_batches
from ._kinds import KNOWN_KINDS, Block, TargetKind
from ._structures import Structures, as_structures
from ._targets import Targets, as_targets

__all__ = [
    "Block",
    "KNOWN_KINDS",
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
    "check_atoms",
    "check_elements",
    "iterate_chunks",
    "plan_batches",
    "symbols",
]
