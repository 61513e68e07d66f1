"""What a model takes in memory, and whether there is as much."""

from ..data import has_derivatives
from ..descriptors import estimate_weights, exceeds_memory, find_memory
from ..potentials import check_long_range

# real arrays of the size of the mesh that a long-range sum holds at once, for each charge
MESH_ARRAYS = 3


def measure_weights(architecture, parameters, n_elements):
    """Return the bytes that the weights take in training, as far as they grow with the elements.

    Parameters
    ----------
    architecture : Architecture
        The network.
    parameters : SoapParameters
        The descriptor.
    n_elements : int
        Number of elements.
    """
    if architecture.n_pseudo_species is not None:
        return 0
    width, itemsize = architecture.num_neurons_per_layer, architecture.dtype.itemsize
    return estimate_weights(parameters, n_elements, width, itemsize)


def is_large(parts, parameters, names, itemsize, limit):
    """Whether descriptors, and for forces or stress the pair basis, take more bytes than a limit.

    Parameters
    ----------
    parts : list of Structures
        All that is to be held at the same time.
    parameters : SoapParameters
        The descriptor.
    names : collection of str
        Targets.
    itemsize : int
        Bytes of a number.
    limit : float
        Bytes that there are.
    """
    return exceeds_memory(parts, parameters, has_derivatives(names), itemsize, limit)


def check_sums(X, long_range, n_charges, itemsize, device, name="X"):
    """Raise if long-range sums over structures are not known, or their mesh exceeds the memory.

    Parameters
    ----------
    X : Structures
        Structures, which messages call ``name``.
    long_range : LongRangeParameters or None
        What sets the mesh; None has no such sums.
    n_charges : int
        Charges of an atom.
    itemsize : int
        Bytes of a number.
    device : torch.device
        Where the sums are made.
    """
    if long_range is not None:
        most = 2 * find_memory(device) / (MESH_ARRAYS * itemsize * n_charges)
        check_long_range(X, long_range, most, name)
