"""Errors of energies, forces and all other targets, and scorers for them."""

from ._errors import PER_ATOM, summarize_errors
from ._scorers import make_target_scorer

__all__ = ["PER_ATOM", "make_target_scorer", "summarize_errors"]


def __dir__():
    # tab completion should not offer the private modules
    return __all__
