"""Methods by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ._base import Method
from ._other_names import OTHER_NAMES

__all__ = ["available", "get", "register", "resolve", "unregister"]

_classes: dict[str, type[Method]] = {}

M = TypeVar("M", bound=type[Method])


def register(name: str) -> Callable[[M], M]:
    """Makes a method known under a name, so that ``MultiTaskOptimizer(method=name)`` finds it.

    Args:
        name: Not taken yet.

    Returns:
        A decorator for a class derived from :class:`Method`.

    Raises:
        ValueError: If the name is taken.
        TypeError: If what is decorated is not derived from :class:`Method`.

    Example:
        >>> import torch, mtl_ops
        >>> @mtl_ops.methods.register("first_task")
        ... class FirstTask(mtl_ops.methods.Method):
        ...     def weights(self, gram, losses=None):
        ...         w = torch.zeros_like(gram[..., 0])
        ...         w[..., 0] = 1.0
        ...         return w
        >>> mtl_ops.merge(torch.eye(2), "first_task")
        tensor([1., 0.])
        >>> mtl_ops.methods.unregister("first_task")
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"Parameter `name` should be a name. Found `name = {name!r}`.")

    def decorate(cls: M) -> M:
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise TypeError(f"A method should be a class derived from Method. Found {cls!r}.")
        if name in _classes:
            raise ValueError(f"Parameter `name` should be a new name. Found `name = {name!r}`.")
        _classes[name] = cls
        cls.name = name
        return cls

    return decorate


def unregister(name: str) -> None:
    """Takes back :func:`register`.

    Raises:
        ValueError: If there is no such method.
    """
    _find(name)
    del _classes[name]


def available() -> list[str]:
    """Names of all methods, in alphabetical order.

    Example:
        >>> import mtl_ops
        >>> "upgrad" in mtl_ops.methods.available()
        True
    """
    return sorted(_classes)


def get(name: str, **params: Any) -> Method:
    """Makes a method.

    Args:
        name: One of :func:`available`.
        **params: The parameters of its class.

    Raises:
        ValueError: If there is no such method, or a parameter is out of range. It says what to use for some names
            that methods have elsewhere.
        TypeError: If the method has no such parameter, or one is missing.

    Example:
        >>> import mtl_ops
        >>> mtl_ops.methods.get("cagrad", c=0.4)
        CAGrad(c=0.4, rescale=0, norm_eps=0.0)
    """
    cls = _find(name)
    signature = inspect.signature(cls)
    try:
        signature.bind(**params)
    except TypeError as error:
        known = ", ".join(f"`{parameter}`" for parameter in signature.parameters) or "none"
        raise TypeError(
            f"Method {name!r} has other parameters: {error}. Its parameters: {known}."
        ) from None
    return cls(**params)


def resolve(method: str | Method) -> Method:
    """A method, given by name or as it is."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return get(method)
    raise TypeError(
        "Parameter `method` should be a name or a method, as in `mtl_ops.methods.CAGrad(c=0.4)`. "
        f"Found {method!r}."
    )


def _find(name: str) -> type[Method]:
    if name in _classes:
        return _classes[name]
    plain = str(name).lower().replace("-", "_").replace(" ", "_")
    if plain in OTHER_NAMES:
        raise ValueError(
            f"Parameter `method` should be another than {name!r}: {OTHER_NAMES[plain]}. "
            f"Found `method = {name!r}`."
        )
    close = difflib.get_close_matches(str(name), _classes, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"Parameter `method` should be one of {', '.join(available())}. "
        f"Found `method = {name!r}`.{hint}"
    )
