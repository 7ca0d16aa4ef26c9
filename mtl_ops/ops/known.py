"""What is known of a few numbers without a wait: those on the CPU can be read."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["known_finite", "readable"]


def known_finite(*values: Tensor) -> bool:
    """Whether all numbers are known to be finite, so that nothing has to be masked.

    Of T numbers an operator costs what it costs to be called, and reading them less.
    """
    return all(readable(one) and all(map(math.isfinite, one.tolist())) for one in values)


def readable(values: Tensor) -> bool:
    """Whether numbers can be read: of tensors on the CPU, but for those that stand for others in compilers."""
    plain = type(values) is Tensor and values.device.type == "cpu"
    return plain and not torch.compiler.is_compiling()
