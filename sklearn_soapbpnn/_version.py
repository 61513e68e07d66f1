"""The version of this library, and the versions that are stored in pickles."""

import warnings

import sklearn
import skorch
import torch

__version__ = "0.1.0"


def _list_versions():
    """Return the versions of the packages whose objects are pickled."""
    packages = (sklearn, skorch, torch)
    # the builds of torch for CPUs and GPUs have versions such as 2.13.0+cpu and 2.13.0+cu126
    versions = {p.__name__: p.__version__.partition("+")[0] for p in packages}
    return {"sklearn_soapbpnn": __version__, **versions}


class VersionedPickle:
    """Mixin for estimators: a warning if a pickle is read by other versions than wrote it.

    scikit-learn does this only for the estimators that are part of it.
    """

    def __getstate__(self):
        return {**super().__getstate__(), "_versions": _list_versions()}

    def __setstate__(self, state):
        state = dict(state)
        then, now = state.pop("_versions", {}), _list_versions()
        differ = [
            f"{name} {then[name]} (here {now[name]})"
            for name in now
            if then.get(name, now[name]) != now[name]
        ]
        if differ:
            warnings.warn(
                f"{type(self).__name__} was pickled with {', '.join(differ)}. It may fail or give "
                "different results. Use the same versions, or SoapBPNNRegressor.save and load.",
                UserWarning,
                stacklevel=2,
            )
        super().__setstate__(state)
