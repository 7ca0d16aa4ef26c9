"""Small sets of task gradients on which kernels go wrong: whole tiles and edges, odd layouts, absent rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import MAX_TASKS, Rows

__all__ = ["EPSILON", "SEGMENTS", "Case", "cases", "dyadic", "magnitudes", "normal"]

#: Longer than a block of any kernel and whole or not, small ones, a scalar, an empty one.
SHAPES: tuple[tuple[int, ...], ...] = ((4133,), (3, 7), (), (0,), (64, 64), (257,), (20, 33))
SEGMENTS = (0, 1, 1, 2, 0, 2, 1)

#: On both sides of the widths that the kernels treat by themselves.
TASKS = (1, 2, 3, 5, 8, 9, 17, 64)
#: More than a GPU's kernels take, which run in other ones on the CPU.
MANY_TASKS = 130

#: Relative error of one rounding, for every dtype that gradients may have.
EPSILON = {
    torch.float32: 2.0**-24,
    torch.float64: 2.0**-53,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}

Values = Callable[[torch.Generator, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Case:
    """``T × P`` gradients on the CPU.

    Attributes:
        tasks: T.
        dtype: Of all gradients.
        rows: The gradients, row-major.
        into: P tensors to merge into.
    """

    tasks: int
    dtype: torch.dtype
    rows: list[Tensor | None]
    into: list[Tensor]

    def __str__(self) -> str:
        return f"T = {self.tasks}, {str(self.dtype).removeprefix('torch.')}"

    def on(self, device: str) -> tuple[list[Tensor], list[Tensor | None]]:
        """Copies of ``into`` and ``rows`` on a device, of which some lie oddly in memory."""
        rows = [
            None if row is None else _laid_out(row.to(device), place)
            for place, row in enumerate(self.rows)
        ]
        return [target.to(device, copy=True) for target in self.into], rows

    def exact(self) -> list[Tensor]:
        """``into`` in float64, for the definition."""
        return [target.double() for target in self.into]


def cases(device: str, values: Values) -> Iterator[Case]:
    """Every number of tasks in every dtype; many tasks in one."""
    for dtype in EPSILON:
        for tasks in TASKS:
            yield _case(tasks, dtype, values)
    if MAX_TASKS[device] >= MANY_TASKS:
        yield _case(MANY_TASKS, torch.float32, values)


def normal(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=generator)


def dyadic(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Quarters from -2 to 2: exact in every dtype, with ties and zeros."""
    return torch.randint(-8, 9, shape, generator=generator) / 4


def _case(tasks: int, dtype: torch.dtype, values: Values) -> Case:
    generator = torch.Generator().manual_seed(tasks)
    made = [values(generator, shape).to(dtype) for _ in range(tasks) for shape in SHAPES]
    into = [values(generator, shape).to(dtype) for shape in SHAPES]
    return Case(tasks, dtype, _with_gaps(made, tasks), into)


def _with_gaps(made: Sequence[Tensor], tasks: int) -> list[Tensor | None]:
    """Some tasks do not reach some parameters; every parameter keeps one."""
    absent = {(0, 1), (tasks - 1, 4), (0, 0)} if tasks > 1 else set()
    return [None if divmod(place, len(SHAPES)) in absent else row for place, row in enumerate(made)]


def _laid_out(row: Tensor, place: int) -> Tensor:
    """Every third tensor is strided, every third begins between two aligned addresses."""
    if place % 3 == 1 and row.dim() > 0:
        wide = torch.full((*row.shape, 2), float("nan"), dtype=row.dtype, device=row.device)
        wide[..., 0] = row
        return wide[..., 0]
    if place % 3 == 2:
        flat = torch.empty(row.numel() + 1, dtype=row.dtype, device=row.device)[1:]
        return flat.copy_(row.flatten()).view(row.shape)
    return row


def magnitudes(rows: Rows) -> list[Tensor | None]:
    """The gradients without their signs, in float64."""
    return [None if row is None else row.double().abs() for row in rows]
