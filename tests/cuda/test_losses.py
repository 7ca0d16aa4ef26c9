"""Methods that look at losses alone, on the GPU's kernels: what the CPU's answer, and remember."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import SAMPLES
from torch import Tensor

WEIGHINGS = sorted(name for name in SAMPLES if name.startswith("weigh_"))


def arguments(name: str, tasks: int) -> list[Any]:
    """A sample's arguments for 3 tasks, repeated or cut to T; some of these have no loss."""
    found: list[Any] = []
    for arg in SAMPLES[name](torch.float64):
        if isinstance(arg, Tensor):
            if arg.dim():
                arg = arg.index_select(-1, torch.arange(tasks) % 3)
            arg = arg.contiguous()
        found.append(arg)
    found[0] = found[0] + 0.01 * torch.arange(tasks)
    found[0][3::4] = torch.nan
    return found


@pytest.mark.parametrize("name", WEIGHINGS)
def test_answers_what_the_cpu_answers(name: str, kernels) -> None:
    for tasks in (1, 3, 33, 64):
        args = arguments(name, tasks)
        there = [
            arg.to(kernels.device, copy=True) if isinstance(arg, Tensor) else arg for arg in args
        ]
        expected = getattr(torch.ops.mtl_ops, name)(*args)
        found = getattr(kernels.ops, name)(*there)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-15)
        for one, two in zip(there, args, strict=True):
            if isinstance(one, Tensor):  # what it remembers
                torch.testing.assert_close(one.cpu(), two, rtol=1e-12, atol=1e-15, equal_nan=True)
