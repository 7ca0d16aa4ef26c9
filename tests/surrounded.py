"""Gradients that lie anywhere in memory, with something on both sides that nobody may touch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

#: How many elements lie on either side.
MARGIN = 16


def dtypes_of(tasks: Sequence[int], others: Sequence[int]) -> list[tuple[int, torch.dtype]]:
    """Numbers of tasks with float32, and the others with every other dtype."""
    rest = (torch.float64, torch.bfloat16, torch.float16)
    return [(t, torch.float32) for t in tasks] + [(t, dtype) for dtype in rest for t in others]


class Surrounded:
    """Makes tensors inside larger ones.

    Args:
        device: Where they lie.
        fill: What is around them; a NaN shows up in everything that reads it.
        seed: Of their values.
    """

    def __init__(self, device: torch.device, fill: float = float("nan"), seed: int = 0) -> None:
        self.device, self.fill = device, fill
        self.generator = Generator().manual_seed(seed)
        self.whole: list[tuple[Tensor, int, int]] = []

    def make(self, size: int, dtype: torch.dtype, offset: int = 0) -> Tensor:
        """``(size,)`` normal numbers, ``offset`` elements away from a 16-byte boundary."""
        whole = torch.full((size + 2 * MARGIN + offset,), self.fill, dtype=dtype)
        begin = MARGIN + offset
        whole[begin : begin + size] = torch.randn(size, generator=self.generator).to(dtype)
        whole = whole.to(self.device)
        self.whole.append((whole, begin, begin + size))
        return whole[begin : begin + size]

    def rows(
        self,
        tasks: int,
        sizes: Sequence[int],
        dtype: torch.dtype,
        offset: int | None = 0,
        missing: float = 0.0,
    ) -> list[Tensor | None]:
        """``T × P`` gradients.

        Args:
            tasks: T.
            sizes: P numbers of elements.
            dtype: Theirs.
            offset: How far each is from a 16-byte boundary; None for another distance each.
            missing: The share of gradients that are None.
        """

        def draw(below: int) -> int:
            return int(torch.randint(below, (), generator=self.generator))

        return [
            None
            if draw(1000) < 1000 * missing
            else self.make(size, dtype, draw(8) if offset is None else offset)
            for _ in range(tasks)
            for size in sizes
        ]

    def outs(self, sizes: Sequence[int], dtype: torch.dtype, offset: int = 0) -> list[Tensor]:
        """P tensors to write to."""
        return [self.make(size, dtype, offset) for size in sizes]

    def assert_untouched(self) -> None:
        """Nothing was written outside of the tensors."""
        for whole, begin, end in self.whole:
            for side in (whole[:begin], whole[end:]):
                assert ((side == self.fill) | (side != side)).all()
