"""The kernels over the T×T problems, each against its definition in :mod:`mtl_ops.reference`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..ops import EXACT
from .finding import Comparison, Finding, judge

__all__ = ["SOLVERS", "check_solvers", "compare"]

TASKS = (1, 2, 3, 5, 8, 17)
#: More than a warp has lanes; the definitions take long there.
MANY_TASKS = 33

#: A difference may be this share of the merged gradient, and this one of the gradients that cancel in it.
OF_MERGED, OF_GRADIENTS = 1e-7, 1e-10


def _numbers(tasks: int) -> Tensor:
    return torch.linspace(0.5, 1.5, tasks, dtype=torch.float64)


def _orders(tasks: int) -> Tensor:
    generator = torch.Generator().manual_seed(tasks)
    drawn = [torch.randperm(tasks, generator=generator) for _ in range(2 * tasks)]
    return torch.stack(drawn).view(2, tasks, tasks)


def _full(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


#: What follows the Gram matrix and the scale, for T tasks and two segments.
SOLVERS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "solve_sum": lambda T: (),
    "solve_mean": lambda T: (),
    "solve_pcgrad": lambda T: (_orders(T), False),
    "solve_gradvac": lambda T: (_orders(T), _full(0.8, 2, T, T), 0.5, 1e-8, 1e-9),
    "solve_adaptive_sharing": lambda T: (_full(0.8, 2, T, T), 0.9),
    "solve_mgda": lambda T: (),
    "solve_mgda_frank_wolfe": lambda T: (1e-3, 30),
    "solve_online_pcgrad": lambda T: (_orders(T)[:, 0].contiguous(),),
    "solve_conicgrad": lambda T: (0.25,),
    "solve_gradops": lambda T: (0.5, False, None, EXACT),
    "solve_dibs_mtl": lambda T: (5, 0.2),
    "solve_epo": lambda T: (_numbers(T).flip(0), _numbers(T), 1e-4, False),
    "solve_pmgda": lambda T: (_numbers(T).flip(0), None, 1e-2, 0.95),
    "solve_ferero": lambda T: (_numbers(T).flip(0), _numbers(T), 1.0, EXACT),
    "solve_cagrad": lambda T: (0.5, 1, 1e-4),
    "solve_upgrad": lambda T: (_numbers(T), True, None, 0.0, EXACT),
    "solve_dualproj": lambda T: (None, False, 1e-4, 1e-4, EXACT),
    "solve_pcd": lambda T: (_full(0.5, 2, 2, T), 0.02, 0.9, 1e-8),
    "solve_imtl_g": lambda T: (True, None, EXACT),
    "solve_config": lambda T: (_numbers(T), None, EXACT),
    "solve_aligned_mtl": lambda T: (_numbers(T), 1, None, EXACT),
    "solve_nash_mtl": lambda T: (1.0, None, EXACT),
    "solve_fairgrad": lambda T: (2.0, None, EXACT),
    "solve_krum": lambda T: (0, 2, True),
    "solve_sdmgrad": lambda T: (_full(1 / T, 2, T), _numbers(T), 10.0, 0.5, 20, 0.3),
    "solve_modo": lambda T: (_full(1 / T, 2, T), 1e-3, 0.1),
}


def check_solvers(device: str) -> Iterator[Finding]:
    """Every method's problem."""
    for name in SOLVERS:
        yield judge(name, device, functools.partial(compare, name, device))


def compare(name: str, device: str) -> Iterator[Comparison]:
    """One of :data:`SOLVERS`, on easy and hard problems."""
    for tasks in TASKS:
        for family, jacobian in _jacobians(tasks).items():
            yield _compared(name, device, family, jacobian)
    yield _compared(name, device, "conflicting", _jacobians(MANY_TASKS)["conflicting"])
    gram = _full(1.0, 2, 3, 3)
    gram[0, 1, 1] = torch.nan
    found = _solved(name, device, gram, _full(1.0, 2, 3))[0].cpu()
    alone = bool(found[0].isnan().all()) and bool(found[1].isfinite().all())
    yield Comparison("a NaN in one of two problems", 0.0 if alone else torch.inf)


def _compared(name: str, device: str, family: str, jacobian: Tensor) -> Comparison:
    tasks = len(jacobian)
    scale = torch.linspace(0.5, 2.0, 2 * tasks, dtype=torch.float64).view(2, tasks)
    scale[1, tasks // 2] = 0.0  # takes no part in the second problem
    both = (jacobian, jacobian.flip(0))
    gram = torch.stack([_gram(rows) for rows in both])
    found, there = _solved(name, device, gram, scale)
    here = SOLVERS[name](tasks)
    wanted = getattr(reference, name)(gram, scale, *here)
    off = [_off(*three) for three in zip(both, found.cpu(), wanted, strict=True)]
    return Comparison(f"{family} gradients, T = {tasks}", max(*off, _remembered(there, here)))


def _solved(name: str, device: str, gram: Tensor, scale: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    """The kernel's answer, and its arguments as it left them."""
    args = SOLVERS[name](len(gram[0]))
    there = tuple(arg.to(device) if isinstance(arg, Tensor) else arg for arg in args)
    return getattr(torch.ops.mtl_ops, name)(gram.to(device), scale.to(device), *there), there


def _jacobians(tasks: int) -> dict[str, Tensor]:
    """Gradients ``(T, N)``, easy and hard."""
    generator = torch.Generator().manual_seed(tasks)
    rows = torch.randn(tasks, 2 * tasks + 8, generator=generator, dtype=torch.float64)
    sizes = 10.0 ** torch.linspace(-3.0, 3.0, tasks, dtype=torch.float64).unsqueeze(1)
    conflicting = rows - 0.9 * rows.mean(dim=0)
    return {
        "random": rows,
        "conflicting": conflicting,
        "large and small": rows * sizes,
        "equal": rows[torch.arange(tasks) // 2],
    }


def _gram(jacobian: Tensor) -> Tensor:
    upper = (jacobian @ jacobian.T).triu()
    return upper + upper.triu(1).T


def _off(jacobian: Tensor, found: Tensor, wanted: Tensor) -> float:
    """How far apart the merged gradients are; weights of equal gradients may be divided differently."""
    if not torch.equal(found.isfinite(), wanted.isfinite()):
        return torch.inf
    difference = (jacobian.T @ (found - wanted)).norm()
    allowed = OF_MERGED * (jacobian.T @ wanted).norm()
    allowed += OF_GRADIENTS * (wanted.abs() @ jacobian.norm(dim=1))
    return float(difference / allowed) if difference > 0 else 0.0


def _remembered(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> float:
    """What a solver changes in place is the same, too."""
    pairs = [(a.cpu(), b) for a, b in zip(found, wanted, strict=True) if isinstance(b, Tensor)]
    close = (torch.allclose(a, b, rtol=1e-7, atol=1e-10, equal_nan=True) for a, b in pairs)
    return 0.0 if all(close) else torch.inf
