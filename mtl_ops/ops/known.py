"""What is known of a few numbers without a wait: those on the CPU can be read."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["all_finite", "known_finite", "readable"]

#: How many numbers are read in less time than an operator takes.
FEW = 64


def known_finite(values: Tensor) -> bool:
    """Whether all numbers ``(T,)`` are known to be finite, so that nothing has to be masked.

    Of T numbers an operator costs what it costs to be called, and reading them less.
    """
    return readable(values) and all(map(math.isfinite, values.tolist()))


def all_finite(values: Tensor) -> bool:
    """Whether the sum of numbers on the CPU is finite: few are read, and more are added up."""
    if values.numel() > FEW:
        return math.isfinite(values.sum().item())
    return math.isfinite(sum(values.flatten().tolist()))


def readable(values: Tensor) -> bool:
    """Whether numbers can be read: of tensors on the CPU, but for those that stand for others in compilers."""
    plain = type(values) is Tensor and values.device.type == "cpu"
    return plain and not torch.compiler.is_compiling()
