"""The memory of large outputs, which nobody wrote to before."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mtl_ops import ops

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ELEMENTS = 4 << 20

Merge = Callable[[torch.Tensor, list[torch.Tensor]], object]


def sum_(out: torch.Tensor, rows: list[torch.Tensor]) -> None:
    ops.merge_([out], rows, torch.ones(1, len(rows), dtype=torch.float64))


def signs_(out: torch.Tensor, rows: list[torch.Tensor]) -> None:
    ops.merge_sign_agreement_([out], rows, tau=0.5, mean=False)


def flags_of(address: int) -> list[str]:
    """What the system was told of the memory there."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(number, 16) for number in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"no mapping at {address:#x}")


@pytest.mark.skipif(
    not SETTING.exists(), reason="a system that has no large pages, or does not say so"
)
@pytest.mark.parametrize("merge_", [sum_, signs_])
def test_large_pages_are_asked_for(merge_: Merge) -> None:
    rows = [torch.ones(1).expand(ELEMENTS).clone() for _ in range(2)]
    # of the system itself: what malloc has was somebody's before
    out = torch.frombuffer(mmap.mmap(-1, 4 * ELEMENTS), dtype=torch.float32)
    middle = out.data_ptr() + out.nbytes // 2
    assert "hg" not in flags_of(middle)
    merge_(out, rows)
    assert "hg" in flags_of(middle)
    assert (out == 2).all()
