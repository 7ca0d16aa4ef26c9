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


def cosines() -> Tensor:
    """Cosines ``(2, T, T)`` that are easy to fall short of."""
    return torch.full((2, T, T), 0.8, dtype=torch.float64)


def shares() -> Tensor:
    """Weights on the simplex ``(2, T)``."""
    return torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], dtype=torch.float64)


#: The arguments of each operator, for gradients of the given dtype.
SAMPLES: dict[str, Callable[[torch.dtype], tuple[Any, ...]]] = {
    "gram": lambda dtype: (rows(dtype), T, [0, 1, 0], 0.5),
    "gram_and_scales": lambda dtype: (
        rows(dtype),
        T,
        [0, 1, 0],
        0.5,
        [1.0, 2.0, 0.0] * 2,
        1.0,
        True,
        torch.zeros(T, dtype=torch.int64),
    ),
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
    "merge_graddrop_": lambda dtype: (
        out(dtype),
        rows(dtype),
        scale(),
        [0, 1, 0],
        None,
        False,
        [0.0, 0.5, 0.0],
        1,
        2,
        None,
        [7, 100, 0],
        torch.tensor(5),
    ),
    "merge_trimmed_mean_": lambda dtype: (
        out(dtype),
        rows(dtype),
        None,
        [0, 1, 0],
        0.5,
        True,
        1,
    ),
    "merge_median_": lambda dtype: (out(dtype), rows(dtype), scale(), [0, 1, 0], None, False),
    "merge_sign_agreement_": lambda dtype: (
        out(dtype),
        rows(dtype),
        scale(),
        [],
        None,
        False,
        0.6,
        True,
    ),
    "weigh_famo": lambda _: (
        numbers(),
        numbers().flip(0),
        numbers(3 * T).reshape(3, T),
        numbers(),
        numbers() - 1.0,
        0.1,
        0.01,
        True,
        False,
    ),
    "weigh_dwa": lambda _: (
        numbers(),
        numbers(2 * T).reshape(2, T),
        numbers(),
        numbers() * 2.0,
        torch.tensor(4),
        2.0,
        4,
    ),
    "weigh_geometric": lambda _: (numbers(),),
    "weigh_stch": lambda _: (numbers(), None, numbers().flip(0), 0.5, True),
    "weigh_softadapt": lambda _: (numbers(), numbers(3 * T).reshape(3, T), 0.1, 2, 2),
    "weigh_relobralo": lambda _: (
        numbers(),
        numbers(),
        numbers().flip(0),
        numbers() + 0.1,
        torch.tensor(0.5, dtype=torch.float64),
        0.9,
        0.4,
        1.0,
    ),
    "weigh_ldc_mtl": lambda _: (numbers(), numbers() - 1.0, numbers().flip(0), 0.1),
    "weigh_log_scales": lambda _: (numbers(), numbers() - 1.0, 0.5, -1.0),
    "solve_sum": lambda _: (gram(), scale()),
    "solve_mean": lambda _: (gram(), scale()),
    "solve_pcgrad": lambda _: (gram(), scale(), orders(), False),
    "solve_gradvac": lambda _: (gram(), scale(), orders(), cosines(), 0.5, 1e-8, 1e-9),
    "solve_adaptive_sharing": lambda _: (gram(), scale(), cosines(), 0.9),
    "solve_online_pcgrad": lambda _: (gram(), scale(), torch.tensor([[2, 0, 1]] * 2)),
    "solve_mgda": lambda _: (gram(), scale(), 0.3 * numbers() / T),
    "solve_conicgrad": lambda _: (gram(), scale(), 0.5),
    "solve_gradops": lambda _: (gram(), scale(), 0.5, False, None, 1e-7),
    "solve_dibs_mtl": lambda _: (gram(), scale(), 5, 0.2),
    "solve_epo": lambda _: (gram(), scale(), numbers().flip(0), numbers(), 1e-4, False),
    "solve_pmgda": lambda _: (gram(), scale(), numbers().flip(0), None, 1e-2, 0.95),
    "solve_ferero": lambda _: (gram(), scale(), numbers().flip(0), numbers(), 1.0, 1e-7),
    "solve_mgda_frank_wolfe": lambda _: (gram(), scale(), 1e-3, 100),
    "solve_cagrad": lambda _: (gram(), scale(), 0.5, 1, 1e-4),
    "solve_upgrad": lambda _: (gram(), scale(), numbers(), True, None, 0.0, 1e-7),
    "solve_dualproj": lambda _: (gram(), scale(), None, False, 1e-4, 1e-4, 1e-7),
    "solve_pcd": lambda _: (
        gram(),
        scale(),
        torch.full((2, 2, T), 0.5, dtype=torch.float64),
        0.02,
        0.9,
        0.0,
    ),
    "solve_imtl_g": lambda _: (gram(), scale(), True, None, 1e-7),
    "solve_config": lambda _: (gram(), scale(), numbers(), 1e-5, 1e-7),
    "solve_aligned_mtl": lambda _: (gram(), scale(), numbers(), 1, None, 1e-7),
    "solve_nash_mtl": lambda _: (gram(), scale(), 1.0, None, 1e-7),
    "solve_fairgrad": lambda _: (gram(), scale(), 2.0, None, 1e-7),
    "solve_krum": lambda _: (gram(), scale(), 0, 2, True),
    "solve_sdmgrad": lambda _: (gram(), scale(), shares(), numbers(), 10.0, 0.5, 20, 0.3),
    "solve_modo": lambda _: (gram(), scale(), shares(), 1e-3, 0.1),
}
