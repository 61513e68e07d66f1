"""Estimates of the memory that a model needs, and checks of them."""

from ..descriptors import estimate_weights, find_memory
from ..potentials import check_long_range

# number of real arrays of the size of the mesh that a long-range sum holds at a time, per charge
MESH_ARRAYS = 3


def measure_weights(architecture, parameters, n_elements):
    """Return the size in bytes of the weights in training, if it grows with the elements; else 0.

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
    width = architecture.num_neurons_per_layer * architecture.n_networks
    return estimate_weights(parameters, n_elements, width, architecture.dtype.itemsize)


def check_sums(X, long_range, n_charges, itemsize, device, name="X"):
    """Raise if long-range sums over structures are impossible, or their mesh exceeds the memory.

    Parameters
    ----------
    X : Structures
        Structures.
    long_range : LongRangeParameters or None
        Hyperparameters, which determine the mesh; None means that there are no such sums.
    n_charges : int
        Number of charges per atom.
    itemsize : int
        Bytes per number.
    device : torch.device
        Device of the sums.
    name : str, default="X"
        Name of the structures in error messages.
    """
    if long_range is not None:
        most = 2 * find_memory(device) / (MESH_ARRAYS * itemsize * n_charges)
        check_long_range(X, long_range, most, name)
