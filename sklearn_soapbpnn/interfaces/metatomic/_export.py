"""Export of fitted models to files that the engines of metatomic read."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from ..._version import __version__
from ...data import (
    FilePath,
    TargetKind,
    as_structures,
    expand_scale,
    flatten_offset,
    usual_settings,
)
from ...model import apply_steps, list_steps
from ...preprocessing import CompositionBaseline, TargetScaler, ZBLBaseline
from ...training import check_regressor
from ._model import ExportedModel

# steps of a Pipeline whose effect on all structures is known from single atoms, but for ZBL
KNOWN_STEPS = (ZBLBaseline, CompositionBaseline, TargetScaler)
# metatomic's names of the targets that it knows; the names of others get a prefix
STANDARD_NAMES = {
    "energy": "energy",
    "charges": "charge",
    "non_conservative_forces": "non_conservative_force",
    "non_conservative_stress": "non_conservative_stress",
}
DESCRIPTION = "Behler-Parrinello network on SOAP descriptors, exported by sklearn_soapbpnn"
REFERENCES = {
    "architecture": ["https://doi.org/10.1103/PhysRevLett.98.146401"],
    "implementation": [f"sklearn_soapbpnn {__version__}"],
}


def export_model(model: Any, path: FilePath) -> None:
    """Write a fitted model to a file that the engines of metatomic read.

    The file needs neither this package nor an extension of torch. Its outputs are the energy, with
    error bars and an ensemble if the model has error bars of it, all other targets, and the
    features; forces and stress are derivatives of the energy, which engines take by themselves.

    Parameters
    ----------
    model : SoapBPNNRegressor, Pipeline, or search with ``best_estimator_``
        Fitted model; the last step of a Pipeline is the regressor.
    path : str or path
        Name of the file, usually with the ending ``.pt``.

    Raises
    ------
    ImportError
        If metatomic is not installed.
    TypeError, ValueError
        If the model does not end in a SoapBPNNRegressor (TypeError), has a long-range part, or was
        fitted in a Pipeline whose other steps are missing here or have another class than the steps
        of this package.
    NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> from sklearn_soapbpnn.interfaces.metatomic import export_model
    >>> export_model(model, "model.pt")  # doctest: +SKIP
    """
    with usual_settings(), _only_own_libraries(), warnings.catch_warnings():
        # TorchScript is the format of metatomic
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        make_model(model).save(str(Path(path)))


def make_model(model):
    """Return a fitted model as an ``AtomisticModel`` of metatomic; see :func:`export_model`."""
    metatomic = _import_metatomic()
    from ._module import Layout, MetatomicModule

    exported, network = convert_model(model)
    cutoff = network.basis.cutoff_radius
    if exported.repulsion is not None:
        cutoff = max(cutoff, exported.repulsion.largest_cutoff)

    found = list(_list_outputs(exported, network.kinds))
    capabilities = metatomic.ModelCapabilities(
        outputs={name: _describe(source, kind, metatomic) for name, source, kind in found},
        atomic_types=list(network.elements),
        interaction_range=cutoff,
        length_unit="angstrom",
        supported_devices=["cuda", "cpu"],
        dtype=str(network.dtype).removeprefix("torch."),
    )
    metadata = metatomic.ModelMetadata(
        name="SoapBPNNRegressor", description=DESCRIPTION, references=REFERENCES
    )
    layouts = [Layout(name, source, kind) for name, source, kind in found]
    module = MetatomicModule(network.elements, exported, layouts, cutoff).cpu().eval()
    return metatomic.AtomisticModel(module, metadata, capabilities)


def _import_metatomic():
    try:
        import metatomic.torch as metatomic
    except ImportError as err:
        raise ImportError(
            "export needs metatomic-torch. Install it with "
            "`pip install 'sklearn-soapbpnn[metatomic]'`."
        ) from err
    return metatomic


def convert_model(model):
    """Return a fitted model in plain torch, and its network; see :func:`export_model`."""
    *steps, regressor = list_steps(model)
    check_regressor(regressor)
    fitted = regressor.fitted_
    if fitted.network.long_range is not None:
        raise ValueError(
            "A model with long_range=True cannot be exported: its sums over charges need all atoms "
            "of a structure, and engines give those within the cutoff. Fit with long_range=False."
        )
    for step in steps:
        if not isinstance(step, KNOWN_STEPS):
            raise ValueError(
                f"The Pipeline has a step {type(step).__name__}, which cannot be exported. Only "
                f"{', '.join(known.__name__ for known in KNOWN_STEPS)} can."
            )
    has_zbl = any(isinstance(step, ZBLBaseline) for step in (*steps, fitted.steps.own.zbl))
    return ExportedModel(fitted, _read_tables(model, fitted), has_zbl), fitted.network


def _read_tables(model, fitted):
    """Return scale and offset of each target for an atom of each element.

    Those of a structure are made from its atoms, so structures of one atom are all that is needed.
    """
    X = as_structures([Atoms(numbers=[number]) for number in fitted.network.elements])
    X = fitted.steps.prepare(apply_steps(model, X)[1])
    tables = {}
    for name, kind in fitted.kinds.items():
        offset = torch.from_numpy(flatten_offset(X, name, kind).copy())
        scale = torch.from_numpy(expand_scale(X, name, kind).copy())
        tables[name] = scale.expand_as(offset).clone(), offset
    return tables


def _list_outputs(exported, kinds):
    """Yield the name of each output in metatomic, the one of this package, and its kind."""
    for name, kind in kinds.items():
        yield STANDARD_NAMES.get(name, f"mtt::{name.removeprefix('mtt::')}"), name, kind
    if exported.error_bars is not None:
        for name, n in (("energy_uncertainty", None), ("energy_ensemble", exported.n_members)):
            yield name, name, TargetKind.scalar(n, unit=kinds["energy"].unit)
    yield "feature", "features", TargetKind.scalar(exported.n_features, per_atom=True)


def _describe(source, kind, metatomic):
    """Return metatomic's description of an output; the unit is empty if metatomic lacks it."""
    unit = kind.unit.replace(" ", "*")
    try:
        metatomic.unit_conversion_factor(unit, unit)
    except (RuntimeError, ValueError):
        unit = ""
    return metatomic.ModelOutput(
        unit=unit,
        # engines may sum what is given per atom, which must then be the value of the structure
        sample_kind="system" if kind.per_volume or kind.intensive else "atom",
        description=f"{source} in {kind.unit}" if kind.unit else source,
    )


@contextmanager
def _only_own_libraries():
    """Hide the extensions that this process has loaded, none of which the file needs."""
    loaded = torch.ops.loaded_libraries
    torch.ops.loaded_libraries = set()
    try:
        yield
    finally:
        torch.ops.loaded_libraries = loaded
