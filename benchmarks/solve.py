"""From the Gram matrix to the weights: our solvers against TorchJD's weightings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_ops import ops

from .results import Goal, Row, row_of_times
from .rivals import available, losses_of, method_of, torchjd_aggregator
from .timing import interleave

__all__ = ["contenders", "jacobians", "measure"]

TASKS = (2, 4, 8, 16, 32, 64, 65, 128, 256)
#: Beyond this, a round of TorchJD's takes half a minute.
MOST_FOR_TORCHJD = 128
#: Speed-up over TorchJD at T = 8.
AGAINST_TORCHJD = {
    "cagrad": 20.0,
    "dualproj": 20.0,
    "fairgrad": 100.0,
    "mgda": 100.0,
    "nash_mtl": 1000.0,
    "upgrad": 20.0,
}
#: Milliseconds at T = 64.
AT_64 = {"mgda": 0.25, "nash_mtl": 0.25}
#: Microseconds on a GPU, by T.
ON_CUDA = {8: 15.0, 32: 150.0, 64: 1000.0}


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Two rows a method and number of tasks: the time by itself, and against TorchJD."""
    rows = []
    for tasks in (2, 4) if quick else _tasks_on(device):
        calls = contenders(tasks, device)
        timings = interleave(
            {" ".join(key): call for key, call in calls.items()},
            rounds=3 if quick else 15,
            seconds=0.5 if quick else 8.0,
            device=device,
        )
        for method, rival in calls:
            own = timings[f"{method} ours"]
            goal = _goal(method, tasks, rival, device)
            theirs = None if rival == "ours" else timings[f"{method} {rival}"]
            rows.append(
                row_of_times(
                    f"T = {tasks}",
                    method,
                    own,
                    "µs",
                    rival=None if rival == "ours" else rival,
                    theirs=theirs,
                    goal=goal,
                )
            )
    return rows


def _tasks_on(device: str) -> list[int]:
    most = ops.MAX_TASKS[torch.device(device).type]
    return [tasks for tasks in TASKS if tasks <= most]


def contenders(tasks: int, device: str = "cpu") -> dict[tuple[str, str], Callable[[], Tensor]]:
    """By method and ``"ours"`` or ``"TorchJD"``; each call takes the next of several matrices."""
    matrices = jacobians(tasks, device)
    grams = [matrix @ matrix.T for matrix in matrices]
    found: dict[tuple[str, str], Callable[[], Tensor]] = {}
    for name in methods(tasks):
        found[name, "ours"] = _in_turn(
            _ours(name, tasks, device), [gram.unsqueeze(0) for gram in grams]
        )
        rival = _torchjd(name, tasks, device) if tasks <= MOST_FOR_TORCHJD else None
        if rival is not None:
            weigh, wants_gram = rival
            found[name, "TorchJD"] = _in_turn(weigh, grams if wants_gram else matrices)
    return found


def methods(tasks: int) -> list[str]:
    """Those that weigh by the Gram matrix, and by nothing that has to be gathered elsewhere."""
    made = {name: method_of(name, tasks) for name in available(tasks=tasks)}
    return [name for name, method in made.items() if method.needs == "gram" and not method.tracks]


def jacobians(tasks: int, device: str = "cpu", count: int = 8) -> list[Tensor]:
    """``(T, 2T)`` float64: norms over a decade, and half of the tasks against the other half."""
    generator = torch.Generator().manual_seed(tasks)
    found = []
    for _ in range(count):
        matrix = torch.randn(tasks, 2 * tasks, generator=generator, dtype=torch.float64)
        common = torch.randn(2 * tasks, generator=generator, dtype=torch.float64)
        signs = torch.ones(tasks, dtype=torch.float64)
        signs[1::2] = -1.0
        norms = 10 ** (torch.rand(tasks, generator=generator, dtype=torch.float64) - 0.5)
        mixed = matrix + 0.5 * signs.unsqueeze(1) * common
        found.append((mixed * norms.unsqueeze(1)).to(device))
    return found


def _ours(name: str, tasks: int, device: str) -> Callable[[Tensor], Tensor]:
    """As a step calls it: one matrix of a batch of one, and the factor 1 for every task."""
    method = method_of(name, tasks)
    scale = torch.ones(1, tasks, dtype=torch.float64, device=device)
    losses = losses_of(tasks, device) if method.uses_losses else None
    return lambda gram: method.solve(gram, scale, losses)


def _in_turn(weigh: Callable[[Tensor], Tensor], matrices: Sequence[Tensor]) -> Callable[[], Tensor]:
    following = itertools.cycle(matrices)
    return lambda: weigh(next(following))


def _torchjd(name: str, tasks: int, device: str) -> tuple[Callable[[Tensor], Tensor], bool] | None:
    """TorchJD's function of the Gram matrix, or of the Jacobian where it has only that."""
    aggregator: Any = torchjd_aggregator(name, tasks, device)
    if aggregator is None:
        return None
    if hasattr(aggregator, "gramian_weighting"):
        return aggregator.gramian_weighting, True
    return getattr(aggregator, "weighting", aggregator) if name != "config" else aggregator, False


def _goal(method: str, tasks: int, rival: str, device: str) -> Goal | None:
    if rival == "TorchJD":
        bound = AGAINST_TORCHJD.get(method) if tasks == 8 else 1.0 if tasks > 64 else None
        return None if bound is None else Goal("speed-up", bound)
    if device.startswith("cuda"):
        return Goal("value", ON_CUDA[tasks]) if tasks in ON_CUDA else None
    if tasks == 64:
        return Goal("value", 1e3 * AT_64.get(method, 3.0))
    return Goal("value", 20.0) if tasks == 8 else None
