"""The examples in the docstrings run, and everything public has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest
import torch

import mtl_ops

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mtl_ops.__path__, "mtl_ops.")
    if module.name != "mtl_ops._C"
)


@pytest.mark.parametrize("name", ["mtl_ops", *MODULES])
def test_examples(name: str) -> None:
    torch.manual_seed(0)
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        example.name
        for name in MODULES
        for example in finder.find(importlib.import_module(name), name)
        if example.examples
    ]
    for wanted in ("merge", "backward", "MultiTaskOptimizer", "register", "get", "build_info"):
        assert any(name.endswith(wanted) for name in found), wanted


def public_names() -> list[str]:
    """What a user sees: all of ``mtl_ops`` and ``mtl_ops.methods``, and the public parts of classes."""
    names = []
    for module in (mtl_ops, mtl_ops.methods, importlib.import_module("mtl_ops.ops")):
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            names.append(f"{module.__name__}:{name}")
            if inspect.isclass(thing) and thing.__module__.startswith("mtl_ops"):
                names += [
                    f"{module.__name__}:{name}.{member}"
                    for member, value in vars(thing).items()
                    if not member.startswith("_")
                    and (inspect.isroutine(value) or isinstance(value, property))
                ]
    return names


def resolve(name: str) -> Any:
    module, _, path = name.partition(":")
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("name", public_names())
def test_public_name_has_a_docstring(name: str) -> None:
    text = inspect.getdoc(resolve(name))  # of the class it overrides, if it says nothing itself
    assert text
    first = text.strip().splitlines()[0]
    assert len(first) > 10


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_docstring_and_says_what_it_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported), exported


@pytest.mark.parametrize("name", mtl_ops.methods.available())
def test_method_names_its_paper_and_shows_an_example(name: str) -> None:
    cls = type_of(name)
    text = inspect.getdoc(cls) or ""
    assert ">>>" in text
    if name not in ("sum", "mean", "equal", "constant"):
        assert any(str(year) in text for year in range(1990, 2030)), "no year"


def type_of(name: str) -> type:
    from mtl_ops.methods import _registry

    return _registry._classes[name]


def test_arguments_of_public_functions_are_described() -> None:
    missing = []
    for thing in (mtl_ops.merge, mtl_ops.backward, mtl_ops.MultiTaskOptimizer):
        text = inspect.getdoc(thing) or ""
        for parameter in inspect.signature(thing).parameters:
            if f"{parameter}:" not in text:
                missing.append(f"{thing.__name__}: {parameter}")
    assert not missing


def test_modules_are_found() -> None:
    assert isinstance(importlib.import_module("mtl_ops.optim.optimizer"), ModuleType)
    assert {"mtl_ops.optim.optimizer", "mtl_ops.methods.linear", "mtl_ops.reference"} <= set(
        MODULES
    )
