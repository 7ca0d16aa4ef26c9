"""Checks of the optimizer's arguments."""

from __future__ import annotations

import torch

from ..merging.rules import Rules
from ..methods import CoordinateMethod, Method

__all__ = [
    "check_batched",
    "check_grad_dtype",
    "check_grad_scaler",
    "check_memory",
]


def check_batched(batched: bool, on_parts: bool, sharded: bool) -> None:
    """Raises a ``ValueError`` where the tasks are not differentiated by all parameters, here, at once."""
    if batched and (on_parts or sharded):
        where = (
            "with `gram_on`"
            if on_parts
            else "for DTensors, whose gradients are reduced one task at a time"
        )
        raise ValueError(f"Parameter `batched` should be False {where}. Found True.")


def check_grad_dtype(dtype: torch.dtype | None, on_parts: bool) -> None:
    """Checks the dtype that task gradients are stored in.

    Args:
        dtype: The dtype, or ``None`` for the parameters' own.
        on_parts: Whether G is measured on parts of the gradients, and none is stored.

    Raises:
        TypeError: If it is no dtype.
        ValueError: If no kernel reads it, or nothing would be stored in it.
    """
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype):
        raise TypeError(
            f"Parameter `grad_dtype` should be a torch.dtype or None. Found {type(dtype).__name__}."
        )
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ValueError(
            "Parameter `grad_dtype` should be float32, float64, bfloat16 or float16. "
            f"Found `grad_dtype = {dtype}`."
        )
    if on_parts:
        raise ValueError(
            "Parameter `grad_dtype` should be None with `gram_on`, which stores no gradients. "
            f"Found `grad_dtype = {dtype}`."
        )


def check_grad_scaler(
    grad_scaler: torch.amp.GradScaler | None, rules: Rules
) -> torch.amp.GradScaler | None:
    """The scaler, if it does anything."""
    if grad_scaler is not None and not isinstance(grad_scaler, torch.amp.GradScaler):
        raise TypeError(
            "Parameter `grad_scaler` should be a torch.amp.GradScaler. "
            f"Found {type(grad_scaler).__name__}."
        )
    if grad_scaler is not None and rules.clip_value is not None:
        raise ValueError(
            "Parameter `clip_value` should be None with a `grad_scaler`, whose gradients are scaled "
            f"when their elements are read. Found `clip_value = {rules.clip_value}`."
        )
    return grad_scaler if grad_scaler is not None and grad_scaler.is_enabled() else None


def check_memory(
    memory: str | None,
    method: Method,
    rules: Rules,
    batched: bool,
    on_parts: bool,
    processes: bool,
) -> bool:
    """Whether the gradients of the last task are to be freed piece by piece.

    Raises:
        ValueError: If it is an unknown word, or there are no gradients to free, or all of them are needed.
    """
    if memory is None:
        return False
    if memory != "stream":
        raise ValueError(
            f'Parameter `memory` should be None or "stream". Found `memory = {memory!r}`.'
        )
    why = None
    if batched:
        why = "with `batched`, which computes all gradients at once"
    elif on_parts:
        why = "with `gram_on`, which stores no gradients"
    elif processes:
        why = "with several processes, which sum each task's gradient as a whole"
    elif method.tracks:
        why = f"with method {method.name!r}, which remembers gradients of every task"
    elif isinstance(method, CoordinateMethod) and not (method.segmentwise or method.draws):
        why = f"with method {method.name!r}, which has to see all coordinates at once"
    elif method.needs == "losses" and not rules.per_task:
        why = f"with method {method.name!r}, which takes one backward and stores no gradients"
    if why is not None:
        raise ValueError(f'Parameter `memory` should be None {why}. Found "stream".')
    return True
