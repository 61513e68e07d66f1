"""What the estimators of this library have in common for those who use them by hand."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Self

from sklearn.base import BaseEstimator

from .data import suggest

DOCUMENTATION = "https://sklearn-soapbpnn.readthedocs.io/en/latest/"
# what other programs call parameters, where no similarity shows which one is meant
OTHER_NAMES = {
    "l_max": "max_angular",
    "lr": "learning_rate",
    "n_max": "max_radial",
    "patience": "n_iter_no_change",
    "r_cut": "cutoff_radius",
    "r_max": "cutoff_radius",
    "seed": "random_state",
}


class Documented(BaseEstimator):
    """Base class of estimators: links from their HTML to the documentation, hints at misspellings.

    scikit-learn makes the links from these three attributes.
    """

    _doc_link_module = "sklearn_soapbpnn"
    _doc_link_template = f"{DOCUMENTATION}api/sklearn_soapbpnn.{{name}}.html"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _add_hints(cls.__init__)  # type: ignore[method-assign]

    def _doc_link_url_param_generator(self):
        return {"name": type(self).__name__}

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator.

        Parameters
        ----------
        **params
            Parameters of the constructor.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such parameter.

        Examples
        --------
        >>> from sklearn_soapbpnn import SoapFeaturizer
        >>> SoapFeaturizer().set_params(cutoff_radius=4.0)
        SoapFeaturizer(cutoff_radius=4.0)
        """
        known = self.get_params(deep=False)
        for name in params:
            if name not in known and (hint := _find_hint(name, known)):
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}.{hint}")
        return super().set_params(**params)


def _add_hints(init):
    """Return a constructor that says which argument was meant; a ``__new__`` would hide its names.

    Python's own TypeError gives no hint.
    """
    known = inspect.signature(init).parameters

    @functools.wraps(init)
    def checked_init(self, *args, **params):
        for name in params:
            if name not in known and (hint := _find_hint(name, known)):
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}.{hint}")
        init(self, *args, **params)

    return checked_init


def _find_hint(name, known):
    """Return which parameter a name that there is not may stand for, or an empty string."""
    meant = OTHER_NAMES.get(name)
    return f" Did you mean {meant!r}?" if meant in known else suggest(name, known)
