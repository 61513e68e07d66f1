"""What flows through a Pipeline: structures, targets, neighbour pairs, batches."""

from ._checks import check_atoms, check_elements, symbols
from ._graphs import BatchIndex, Graph, build_graph, channel_rows, iterate_chunks, plan_batches
from ._structures import Structures, as_structures
from ._targets import TargetKind, Targets, as_targets

__all__ = [
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
