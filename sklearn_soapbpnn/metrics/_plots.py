"""What all plots share: matplotlib, imported at use, axes, and the units on them."""

from ._errors import PER_ATOM


def import_matplotlib():
    """Return matplotlib with what is used; if it is missing, the error says how to install it."""
    try:
        import matplotlib.pyplot
        import matplotlib.ticker
    except ImportError as err:
        raise ImportError("Plots need matplotlib: pip install sklearn_soapbpnn[plot]") from err
    return matplotlib


def name_unit(kinds, target):
    """Return the unit of a target, or of the energy per atom; empty if it is not known."""
    if target != PER_ATOM:
        return kinds[target].unit
    return f"{kinds['energy'].unit}/atom" if kinds["energy"].unit else ""


def in_brackets(unit):
    """Return a unit as it follows the name of a quantity on an axis."""
    return f" ({unit})" if unit else ""
