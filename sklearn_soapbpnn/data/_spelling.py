"""Hints at names that were nearly right, for error messages."""

from __future__ import annotations

from difflib import SequenceMatcher

# similarity from which a name is suggested, and that of a name which is part of the other
CUTOFF, CONTAINED = 0.7, 0.75


def suggest(name, valid, cutoff=CUTOFF) -> str:
    """Return `` Did you mean 'forces'?`` for a misspelt name, or an empty string.

    Parameters
    ----------
    name : object
        What was given; anything but a string has no similar name.
    valid : iterable of str
        Names that are accepted.
    cutoff : float, default=0.7
        How similar the nearest name must be, from 0 to 1.

    Returns
    -------
    str
        Starts with a space, so that it can follow any sentence.

    Examples
    --------
    >>> from sklearn_soapbpnn.data import suggest
    >>> suggest("force", ["energy", "forces"])
    " Did you mean 'forces'?"
    >>> suggest("gap", ["energy", "forces"])
    ''
    """
    nearest = sort_by_similarity(name, valid)[:1]
    is_close = nearest and nearest[0] != name and _compare(name, nearest[0]) >= cutoff
    return f" Did you mean {nearest[0]!r}?" if is_close else ""


def sort_by_similarity(name, valid) -> list[str]:
    """Return valid names, those that are most like the given one first."""
    return sorted(valid, key=lambda other: (-_compare(name, other), str(other)))


def _compare(name, other):
    """Return how similar two names are, from 0 to 1; capitals and prefixes matter little."""
    if not isinstance(name, str) or not isinstance(other, str):
        return 0.0
    name, other = name.lower(), other.lower()
    ratio = SequenceMatcher(None, other, name).ratio()
    short, long = sorted((name, other), key=len)
    return max(ratio, CONTAINED) if len(short) > 2 and short in long else ratio
