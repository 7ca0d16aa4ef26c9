"""One set of arguments for every operator, by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

T, SHAPES = 3, [(4, 5), (2,), ()]


def rows(dtype: torch.dtype) -> list[Tensor | None]:
    """Three tasks and three parameters; the second task does not reach the second one."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).to(dtype) for _ in range(T) for shape in SHAPES]
    return [None if place == 4 else row for place, row in enumerate(made)]


def out(dtype: torch.dtype) -> list[Tensor]:
    """Where the merged gradient goes."""
    return [torch.zeros(shape, dtype=dtype) for shape in SHAPES]


def gram(segments: int = 2) -> Tensor:
    """Random positive definite matrices ``(S, T, T)``."""
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(segments, T, 5, generator=generator, dtype=torch.float64)
    return factor @ factor.transpose(1, 2)


def scale() -> Tensor:
    """Factors ``(2, T)``; the last task takes no part in the second segment."""
    return torch.tensor([[1.0, 0.5, 2.0], [1.0, 1.0, 0.0]], dtype=torch.float64)


def numbers(count: int = T) -> Tensor:
    """Positive numbers."""
    return torch.linspace(0.5, 1.5, count, dtype=torch.float64)


def orders() -> Tensor:
    """Permutations ``(2, T, T)``."""
    return torch.tensor([[2, 0, 1]]).expand(2, T, T).contiguous()


#: The arguments of each operator, for gradients of the given dtype.
SAMPLES: dict[str, Callable[[torch.dtype], tuple[Any, ...]]] = {
    "gram": lambda dtype: (rows(dtype), T, [0, 1, 0], 0.5),
    "task_scales": lambda _: (
        gram(),
        [1.0, 2.0, 0.0] * 2,
        1.0,
        True,
        torch.zeros(T, dtype=torch.int64),
    ),
    "merge_": lambda dtype: (
        out(dtype),
        rows(dtype),
        scale(),
        gram(),
        [0, 1, 0],
        1.0,
        None,
        False,
    ),
    "solve_sum": lambda _: (gram(), scale()),
    "solve_mean": lambda _: (gram(), scale()),
}
