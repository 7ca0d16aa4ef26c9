"""Checks of what a user hands in: names of tasks, parameters, and tensors that are to be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .storage import is_dtensor

__all__ = ["check_dtypes", "check_names", "check_outside_transforms", "check_owned", "check_plain"]

#: What the kernels read.
DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def check_dtypes(name: str, dtypes: Iterable[torch.dtype]) -> None:
    """Raises a ``TypeError`` if gradients are complex, or of a dtype that nothing is merged in."""
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise TypeError(
                f"Parameter `{name}` should have gradients of float32, float64, bfloat16 or float16. Found {dtype}."
            )


def check_outside_transforms(name: str, tensors: Iterable[Tensor | None]) -> None:
    """Raises a ``RuntimeError`` if a tensor is one that ``torch.func`` traces: nothing would be differentiated."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return
    for tensor in tensors:
        if isinstance(tensor, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise RuntimeError(
                f"Parameter `{name}` should hold tensors outside of torch.func's transforms (grad, vmap, jvp, "
                "functionalize): merging is neither differentiated nor batched. Found one within."
            )


def check_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks' names."""
    if isinstance(tasks, str) or not all(isinstance(name, str) for name in tasks):
        raise TypeError(f"Parameter `tasks` should be a sequence of names. Found {tasks!r}.")
    names = tuple(tasks)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"Parameter `tasks` should name at least one task, and each once. Found {names!r}."
        )
    return names


def check_owned(
    name: str, params: Iterable[Tensor], owned: Iterable[Tensor], owner: str
) -> list[Tensor]:
    """Some of the parameters that are ``owned``, given as the argument ``name``."""
    if isinstance(params, Tensor):
        raise TypeError(f"Parameter `{name}` should be an iterable of parameters. Found a tensor.")
    known = {id(param) for param in owned}
    chosen = list(params)
    for place, param in enumerate(chosen):
        if id(param) not in known:
            raise ValueError(
                f"Parameter `{name}` should hold parameters of {owner}. Found another at place {place}."
            )
    return chosen


def check_plain(params: Iterable[Tensor]) -> None:
    """Refuses parameters that are spread over processes.

    Raises:
        TypeError: If one is a DTensor, as those of ``fully_shard``.
    """
    for param in params:
        if is_dtensor(param):
            raise TypeError(
                "Parameter `params` should hold tensors that are whole in every process (`MultiTaskOptimizer` takes "
                f"others). Found a DTensor of shape {tuple(param.shape)}."
            )
