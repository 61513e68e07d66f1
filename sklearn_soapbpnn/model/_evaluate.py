"""Evaluation of a network on structures, in the user's units."""

from __future__ import annotations

import torch

from ..data import (
    build_graph,
    cut_part,
    divide_atoms,
    has_derivatives,
    iterate_chunks,
    split_atoms,
    to_user_part,
    to_user_stds,
    to_user_units,
    use_threads,
    usual_settings,
)
from ..nn import Environments, compute_environments
from ._devices import atoms_per_chunk
from ._error_bars import find_target
from ._outputs import FEATURES, LAST_LAYER, is_features

# number of atoms that are evaluated at a time on the CPU
ATOMS_PER_CHUNK = 2048
# the same for parts of one structure, not fewer: pairs between two parts are evaluated twice
ATOMS_PER_PART = 8192
# the same where derivatives of all last-layer features are in memory
ATOMS_PER_CHUNK_OF_ROWS = 1024


def evaluate(network, structures, names, report=None):
    """Evaluate a network in a single pass over structures with offset and scale attached.

    Of a committee this is the mean of its networks.

    Parameters
    ----------
    network : SoapBPNN
        The network.
    structures : Structures
        Structures, with or without features. Large ones are evaluated in parts, see
        :func:`are_divided`, without their features.
    names : collection of str
        Names of outputs, see :func:`list_outputs`.
    report : callable, default=None
        Called with the number of atoms after some have been evaluated.

    Returns
    -------
    dict of str to array or list of arrays
        At least these outputs, in float64 and in the user's units; per-atom values as lists, in the
        order of the atoms. Stress and virial are NaN if the cell has no volume.
    """
    features = [name for name in dict.fromkeys(names) if is_features(name)]
    predicts = any(not is_features(name) for name in names)
    derivatives = has_derivatives(names)

    def run(batch, part=None):
        values = {name: _find_features(network, batch, name)[None] for name in features}
        values = _order_atoms(values, batch)
        return values | _predict(network, batch, derivatives, part) if predicts else values

    options = {"report": report, "divides": True}
    values = _run_chunks(network, structures, derivatives, ATOMS_PER_CHUNK, run, **options)
    values = {name: value.mean(0) for name, value in values.items()}
    results = to_user_units(structures, network.kinds, values) if predicts else {}
    return results | {name: split_atoms(values[name], structures) for name in features}


def evaluate_part(network, structures, n_centers):
    """Evaluate a network for some atoms of a structure, the others being neighbours only.

    Parameters
    ----------
    network : SoapBPNN
        The network, without interactions beyond the cutoff.
    structures : Structures
        One structure, with scale and with the offset of these atoms.
    n_centers : int
        Number of these atoms, the first ones.

    Returns
    -------
    dict of str to array
        See :meth:`FittedModel.predict_part`.
    """

    def run(batch, part):
        return _predict(network, batch, True, part)

    values = _run_parts(network, structures, n_centers, True, run)
    values = {name: _to_array(value.mean(0)) for name, value in values.items()}
    return to_user_part(structures, values, n_centers)


def evaluate_stds(network, error_bars, structures, names, report=None):
    """Evaluate a network and its error bars in a single pass, also of large structures as a whole.

    Parameters
    ----------
    network, structures, report
        See :func:`evaluate`.
    error_bars : ErrorBars
        The error bars.
    names : collection of str
        Names of outputs that have error bars.

    Returns
    -------
    values, stds : dict of str to array or list of arrays
        As from :func:`evaluate`: the predictions, and their standard deviations.
    """
    derivatives = has_derivatives(names)
    measured = _network_names(names)
    per_structure = [name for name, kind in network.kinds.items() if not kind.per_atom]

    def run(batch):
        outputs = network(batch, strain=derivatives)
        stds = error_bars.stds(network, batch, outputs, measured)
        stds = {name: std[None] for name, std in stds.items()}
        values = _order_atoms(_list_values(outputs), batch)
        stds = _order_atoms(stds, batch, per_structure)
        return {("value", name): value for name, value in values.items()} | {
            ("std", name): std for name, std in stds.items()
        }

    size = ATOMS_PER_CHUNK_OF_ROWS
    found = _run_chunks(network, structures, derivatives, size, run, report)
    values, stds = (
        {name: array.mean(0) for (what, name), array in found.items() if what == part}
        for part in ("value", "std")
    )
    values = to_user_units(structures, network.kinds, values)
    return values, to_user_stds(structures, network.kinds, stds)


def evaluate_members(network, error_bars, structures, names, n_members, report=None):
    """Evaluate the members of an ensemble, also for large structures as a whole.

    Parameters
    ----------
    network, error_bars, structures, names, report
        See :func:`evaluate_stds`.
    n_members : int
        Number of members.

    Returns
    -------
    list of dict of str to array or list of arrays
        What :func:`evaluate` returns, for each member.
    """
    derivatives = has_derivatives(names)
    targets = {find_target(name) for name in _network_names(names)}
    measured = [name for name in network.kinds if name in targets and name != "energy"]
    if "energy" in targets:
        # the energy of a structure is the sum of those of its atoms
        measured += ["energies", *(("forces", "strain_gradient") if derivatives else ())]

    def run(batch):
        outputs = network(batch, strain=derivatives)
        members = error_bars.members(network, batch, outputs, measured, n_members)
        return _order_atoms(members, batch)

    size = ATOMS_PER_CHUNK_OF_ROWS
    found = _run_chunks(network, structures, derivatives, size, run, report)
    kinds = {name: kind for name, kind in network.kinds.items() if name in targets}
    return [
        to_user_units(structures, kinds, {name: array[k] for name, array in found.items()})
        for k in range(n_members)
    ]


def are_divided(network, structures):
    """Return whether some of the structures are evaluated in parts, which takes less memory.

    These have more atoms than a part, and there are no interactions beyond the cutoff.
    """
    largest = structures.n_atoms.max()
    return network.long_range is None and largest > _count_atoms(network, ATOMS_PER_PART)


def network_name(name):
    """Return the name by which the network returns what an output is made from."""
    return "strain_gradient" if name in ("stress", "virial") else name


def _network_names(names):
    return list(dict.fromkeys(network_name(name) for name in names))


@usual_settings()
@torch.no_grad()
def _run_chunks(network, structures, derivatives, size, run, report=None, divides=False):
    """Call a function for batches of all structures, and join what it returns along axis 1.

    With ``divides`` it is also called for parts of structures that are large.
    """
    size = _count_atoms(network, size)
    chunks = []
    for chunk in iterate_chunks(structures.n_atoms, size):
        some = structures[chunk]
        if divides and are_divided(network, some):
            chunks.append(_run_parts(network, some, some.n_atoms[0], derivatives, run, report))
            continue
        with use_threads(some.n_atoms.sum()):
            environments = compute_environments(some, network.recipe(), derivatives=derivatives)
            chunks.append(run(environments.select_all()))
        if report is not None:
            report(some.n_atoms.sum())
    names = chunks[0]
    return {name: _to_array(torch.cat([chunk[name] for chunk in chunks], dim=1)) for name in names}


@usual_settings()
@torch.no_grad()
def _run_parts(network, structures, n_centers, derivatives, run, report=None):
    """Call a function for parts of one structure, and put together what it returns.

    What belongs to atoms has a row for each of the first ``n_centers``, except for forces.
    """
    graph = build_graph(structures, network.basis.cutoff_radius, network.elements)
    positions, cell, pbc = structures.positions[0], structures.cells[0], structures.pbc[0]
    size = _count_atoms(network, ATOMS_PER_PART)
    found = {}
    for atoms in divide_atoms(positions[:n_centers], cell, pbc, size):
        with use_threads(len(atoms)):
            part = cut_part(graph, atoms)
            environments = Environments(part.graph, network.recipe(), derivatives=derivatives)
            values = run(environments.select_all(), part)
        for name, value in values.items():
            if name in ("forces", "strain_gradient"):
                found[name] = value if name not in found else found[name].add_(value)
                continue
            if name not in found:
                found[name] = value.new_empty(len(value), n_centers, *value.shape[2:])
            found[name][:, atoms.to(value.device)] = value[:, : len(atoms)]
        if report is not None:
            report(len(atoms))
    return found


def _count_atoms(network, size):
    """Return how many atoms are evaluated at a time, if it is ``size`` for one network on a CPU."""
    return max(1, atoms_per_chunk(network.device, size) // network.n_networks)


def _to_array(values):
    return values.cpu().double().numpy()


def _predict(network, batch, derivatives, part):
    """Return the outputs of a network for a batch, with the forces on all atoms of a structure."""
    outputs = network(batch, strain=derivatives)
    values = _order_atoms(_list_values(outputs), batch)
    if part is not None and outputs.pair_forces is not None:
        values["forces"] = part.sum_forces(outputs.pair_forces)
    return values


def _list_values(outputs):
    """Return energies, forces, strain gradient and targets, as far as there are any."""
    names = ("energies", "forces", "strain_gradient")
    values = {name: getattr(outputs, name) for name in names}
    return {name: v for name, v in values.items() if v is not None} | outputs.values


def _find_features(network, batch, name):
    """Return the features of a batch that have this name."""
    return network.features(batch, None if name == FEATURES else name.removesuffix(LAST_LAYER))


def _order_atoms(values, batch, per_structure=()):
    """Undo the sorting by element along axis 1, except for what is there per structure."""
    ordered = {}
    for name, value in values.items():
        ordered[name] = value
        if name not in ("energy", "strain_gradient", *per_structure):
            ordered[name] = torch.empty_like(value)
            ordered[name][:, batch.index.atoms] = value
    return ordered
