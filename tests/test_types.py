"""Annotations of the public API, which `mypy` then checks (see `.ci/run`)."""

import inspect

import pytest

import sklearn_soapbpnn
from sklearn_soapbpnn import datasets, metrics, selection
from sklearn_soapbpnn.interfaces import ase

SPECIAL = ("__init__", "__call__", "__len__", "__iter__", "__getitem__")


def list_functions(owner):
    """Yield the functions of a module or a class, of classes in turn their methods."""
    names = getattr(owner, "__all__", [name for name in dir(owner) if not name.startswith("_")])
    for name in (*names, *SPECIAL) if inspect.isclass(owner) else names:
        value = inspect.getattr_static(owner, name, None)
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if not (getattr(value, "__module__", None) or "").startswith("sklearn_soapbpnn"):
            continue
        if inspect.isclass(value):
            yield from list_functions(value)
        elif inspect.isfunction(value):
            yield value


FUNCTIONS = {
    f"{function.__module__}.{function.__qualname__}": function
    for module in (sklearn_soapbpnn, datasets, metrics, selection, ase)
    for function in list_functions(module)
}


def test_all_functions_are_found():
    for name in (
        "_regressor.SoapBPNNRegressor.fit",
        "_conversions.Conversions.load",
        "data._targets.Targets.units",
        "metrics._scorers.make_target_scorer",
        "interfaces.ase.SoapBPNNCalculator.calculate",
    ):
        assert f"sklearn_soapbpnn.{name}" in FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_has_a_type(name):
    signature = inspect.signature(FUNCTIONS[name])
    lacking = [
        argument.name
        for argument in signature.parameters.values()
        if argument.annotation is argument.empty and argument.name not in ("self", "cls")
    ]
    assert not lacking
    # the constructor that a dataclass makes returns None, too
    assert signature.return_annotation is not signature.empty


def test_a_default_of_none_is_in_the_type():
    for name, function in FUNCTIONS.items():
        for argument in inspect.signature(function).parameters.values():
            if argument.default is None:
                assert str(argument.annotation).endswith(("None", "Any")), (name, argument)
