"""Data containers: structures, targets, neighbour pairs, batches."""

from ._attached import expand_scale, flatten_offset
from ._checks import N_NUMBERS, as_position, check_elements, find_elements, symbols
from ._clebsch_gordan import real_clebsch_gordan
from ._files import remove_parts, replace_file
from ._graphs import (
    BatchIndex,
    Graph,
    build_graph,
    channel_rows,
    iterate_chunks,
    plan_all,
    plan_batches,
    repeat_index,
    sum_by_structure,
)
from ._kinds import Block, TargetKind
from ._known_kinds import (
    DERIVED_TARGETS,
    ENERGY_KINDS,
    KNOWN_KINDS,
    LEARNT_DERIVATIVES,
    check_kind,
    has_derivatives,
)
from ._neighbors import find_pairs
from ._parts import cut_part, divide_atoms
from ._sequences import LazyFrames, open_frames
from ._settings import usual_settings
from ._spelling import sort_by_similarity, suggest
from ._structures import Structures, as_structures
from ._targets import Targets, as_targets, check_labelled, list_labelled
from ._threads import use_threads
from ._types import FilePath, Frames, Labels, Values
from ._units import (
    find_volumes,
    split_atoms,
    subtract_forces,
    subtract_offset,
    subtract_strain_gradient,
    to_network_units,
    to_user_part,
    to_user_stds,
    to_user_units,
)

__all__ = [
    "DERIVED_TARGETS",
    "ENERGY_KINDS",
    "KNOWN_KINDS",
    "LEARNT_DERIVATIVES",
    "N_NUMBERS",
    "BatchIndex",
    "Block",
    "FilePath",
    "Frames",
    "Graph",
    "Labels",
    "LazyFrames",
    "Structures",
    "TargetKind",
    "Targets",
    "Values",
    "as_position",
    "as_structures",
    "as_targets",
    "build_graph",
    "channel_rows",
    "check_elements",
    "check_kind",
    "check_labelled",
    "cut_part",
    "divide_atoms",
    "expand_scale",
    "find_elements",
    "find_pairs",
    "find_volumes",
    "flatten_offset",
    "has_derivatives",
    "iterate_chunks",
    "list_labelled",
    "open_frames",
    "plan_all",
    "plan_batches",
    "real_clebsch_gordan",
    "remove_parts",
    "repeat_index",
    "replace_file",
    "sort_by_similarity",
    "split_atoms",
    "subtract_forces",
    "subtract_offset",
    "subtract_strain_gradient",
    "suggest",
    "sum_by_structure",
    "symbols",
    "to_network_units",
    "to_user_part",
    "to_user_stds",
    "to_user_units",
    "use_threads",
    "usual_settings",
]
