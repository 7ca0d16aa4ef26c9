"""The kernels of methods that look at losses alone, each against its definition in :mod:`mtl_ops.reference`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .finding import Comparison, Finding, judge

__all__ = ["WEIGHINGS", "check_losses", "compare_losses"]

TASKS = (1, 2, 3, 8, 33)

#: A difference may be this share of a number.
ALLOWED = 1e-11


def _numbers(*shape: int) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.linspace(0.5, 1.5, count, dtype=torch.float64).view(shape)


#: What follows the losses, for T tasks.
WEIGHINGS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "weigh_famo": lambda T: (
        *(_numbers(T), _numbers(3, T), _numbers(T), _numbers(T) - 1.5),
        *(0.1, 0.01, True, False),
    ),
    "weigh_dwa": lambda T: (_numbers(2, T), _numbers(T), _numbers(T), torch.tensor(4), 2.0, 4),
    "weigh_geometric": lambda T: (),
    "weigh_stch": lambda T: (None, _numbers(T), 0.5, True),
    "weigh_softadapt": lambda T: (_numbers(3, T), 0.1, 2, 2),
    "weigh_relobralo": lambda T: (
        *(_numbers(T), _numbers(T), _numbers(T).flip(0), torch.tensor(0.5).double()),
        *(0.9, 0.4, 2.0),
    ),
    "weigh_ldc_mtl": lambda T: (_numbers(T) - 1.0, _numbers(T).flip(0), 0.1),
    "weigh_log_scales": lambda T: (_numbers(T), 0.5, -1.0),
}


def check_losses(device: str) -> Iterator[Finding]:
    """Every such method."""
    for name in WEIGHINGS:
        yield judge(name, device, functools.partial(compare_losses, name, device))


def compare_losses(name: str, device: str) -> Iterator[Comparison]:
    """One of :data:`WEIGHINGS`, with all tasks and with some."""
    for tasks in TASKS:
        losses = 10.0 ** (2.0 * _numbers(tasks) - 2.0)
        for case in ("all losses", "some losses"):
            if case == "some losses":
                losses[1::3] = torch.nan
            here = (losses, *WEIGHINGS[name](tasks))
            there = [arg.to(device, copy=True) if isinstance(arg, Tensor) else arg for arg in here]
            wanted = getattr(reference, name)(*here)
            found = getattr(torch.ops.mtl_ops, name)(*there)
            pairs = [(found, wanted), *zip(there, here, strict=True)]
            off = max(_off(a.cpu(), b) for a, b in pairs if isinstance(b, Tensor))
            yield Comparison(f"{case}, T = {tasks}", off)


def _off(found: Tensor, wanted: Tensor) -> float:
    """How far apart numbers are, also those that are remembered."""
    if not torch.equal(found.isfinite(), wanted.isfinite()):
        return torch.inf
    difference = (found - wanted).abs().nan_to_num(nan=0.0)
    return float((difference / (ALLOWED * wanted.abs().nan_to_num(nan=1.0)).clamp(min=1e-15)).max())
