"""What all operators have in common: a kernel, a definition, and which of them runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _build, reference  # noqa: F401  (importing _build loads the operators, or says why not)
from .checks import check_device
from .kinds import register_kinds

__all__ = ["MAX_TASKS", "Operator", "Rows", "device_of"]

#: The largest number of tasks that the kernels take, by type of device; the reference has no limit.
MAX_TASKS = {"cpu": 1024, "cuda": 64}

#: ``T × P`` gradients, row-major; ``None`` where a task does not reach a parameter.
Rows = Sequence[Tensor | None]

_warned: set[str] = set()


class Operator:
    """One operator: its kernel where there is one, else its definition.

    Args:
        name: Its name in ``torch.ops.mtl_ops`` and in :mod:`mtl_ops.reference`.
        fake: Computes the shapes of its results, for ``torch.compile``.
        check: Raises an error if arguments do not fit together; the kernels do so themselves.
    """

    def __init__(
        self, name: str, fake: Callable[..., Any], check: Callable[..., None] | None = None
    ) -> None:
        torch.library.register_fake(f"mtl_ops::{name}", _checked_fake(name, fake, check))
        register_kinds(name)
        self.kernel = getattr(torch.ops.mtl_ops, name).default
        self.definition = _checked(getattr(reference, name), check)
        self.devices = frozenset(
            device
            for device in ("cpu", "cuda")
            if torch._C._dispatch_has_kernel_for_dispatch_key(f"mtl_ops::{name}", device.upper())
        )

    def on(self, device: str, tasks: int) -> Any:
        """What to call for tensors on this type of device."""
        if tasks > MAX_TASKS.get(device, tasks):
            return self.definition
        if device in self.devices or device == "meta":
            return self.kernel
        _warn_of_missing_kernels(device)
        return self.definition


def _checked(function: Callable[..., Any], check: Callable[..., None] | None) -> Callable[..., Any]:
    if check is None:
        return function

    def checked(*args: Any) -> Any:
        check(*args)
        return function(*args)

    return checked


def _checked_fake(
    name: str, fake: Callable[..., Any], check: Callable[..., None] | None
) -> Callable[..., Any]:
    """A call with tensors on ``meta`` among others gets here, too."""
    checked = _checked(fake, check)

    def on_one_device(*args: Any) -> Any:
        check_device(name, args)
        return checked(*args)

    return on_one_device


def _warn_of_missing_kernels(device: str) -> None:
    if device in _warned or torch.compiler.is_compiling():
        return
    _warned.add(device)
    remedy = " (for CUDA, build it with a CUDA build of torch and nvcc)" if device == "cuda" else ""
    warnings.warn(
        f"This build of mtl_ops has no kernels for device type {device!r}{remedy}: gradients there "
        "are merged by plain PyTorch, slower and with waits for the device.",
        stacklevel=4,
    )


def device_of(rows: Rows) -> str:
    for row in rows:
        if row is not None:
            return row.device.type
    raise ValueError("Parameter `rows` should hold at least one tensor. Found only None.")
