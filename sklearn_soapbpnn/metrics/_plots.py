"""What plots share: matplotlib, imported at use, dots or their density, and units on the axes."""

from ._errors import PER_ATOM

# number of labels beyond which density is easier to read than dots of one colour
MANY = 1000


def import_matplotlib():
    """Return matplotlib with what is used; if it is missing, the error says how to install it."""
    try:
        import matplotlib.pyplot
        import matplotlib.ticker
    except ImportError as err:
        raise ImportError("Plots need matplotlib: pip install sklearn_soapbpnn[plot]") from err
    return matplotlib


def draw_points(ax, x, y, **density):
    """Draw a dot for each label; of many labels hexagons, whose colour is their number.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes to draw on.
    x, y : array of shape (n_labels,)
        Places of the dots.
    **density
        More arguments of ``hexbin``, which draws the hexagons.
    """
    if len(x) <= MANY:
        return ax.scatter(x, y, s=12, alpha=0.5, linewidths=0, color="tab:blue")
    # colours start below one label, where they are hardly visible
    return ax.hexbin(x, y, bins="log", cmap="Blues", mincnt=1, vmin=0.2, **density)


def name_unit(kinds, target):
    """Return the unit of a target, or of the energy per atom; empty if it is not known."""
    if target != PER_ATOM:
        return kinds[target].unit
    return f"{kinds['energy'].unit}/atom" if kinds["energy"].unit else ""


def in_brackets(unit):
    """Return a unit as it follows the name of a quantity on an axis."""
    return f" ({unit})" if unit else ""
