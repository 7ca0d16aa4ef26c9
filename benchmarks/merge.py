"""The whole merge of T gradients of a real parameter list, against three other ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .machine import read_probe
from .problems import SHAPES, Problem, random_problem
from .results import Goal, Row, paired_floor, row_of_times
from .rivals import (
    LIBMTL_METHODS,
    NAIVE_METHODS,
    available,
    libmtl,
    method_of,
    naive,
    ours,
    torchjd,
    torchjd_aggregator,
)
from .timing import interleave

__all__ = ["RIVALS", "TORCHJD", "TORCHJD_SUMMED", "contender", "contenders", "measure"]

#: Measured for every number of tasks and every model; all others at T = 8 and the first model.
MAIN_METHODS = ("pcgrad", "mgda", "cagrad", "upgrad")
TASKS = (2, 4, 8, 16)

TORCHJD, TORCHJD_SUMMED = "TorchJD", "TorchJD, Gram matrices summed"
RIVALS: dict[str, Callable[[Problem, str], Callable[[], object] | None]] = {
    "naive loop": lambda problem, method: (
        naive(problem, method) if method in NAIVE_METHODS else None
    ),
    "LibMTL's way": lambda problem, method: (
        libmtl(problem, method) if method in LIBMTL_METHODS else None
    ),
    TORCHJD: torchjd,
    TORCHJD_SUMMED: lambda problem, method: torchjd(problem, method, sum_grams=True),
}

#: Speed-up over TorchJD at T = 8; all others 4.
AGAINST_TORCHJD = {"config": 80.0, "graddrop": 15.0, "trimmed_mean": 15.0}


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Rows for every model, number of tasks, method and rival.

    The loops take seconds for 16 tasks, and are left out there for all models but the first.
    """
    models = {"tiny": [(64, 32), (64,)]} if quick else SHAPES
    rows = []
    for place, (model, shapes) in enumerate(models.items()):
        for tasks in (2, 4) if quick else TASKS:
            problem = random_problem(shapes, tasks, device=device)
            case = f"{model}, T = {tasks}"
            rivals = list(RIVALS) if place == 0 or tasks < 16 else [TORCHJD, TORCHJD_SUMMED]
            rows += _measure(case, problem, available(MAIN_METHODS), rivals, device, quick)
            if place == 0 and tasks == (4 if quick else 8):
                against = ["naive loop", TORCHJD, TORCHJD_SUMMED]
                rows += _measure(case, problem, _others(tasks), against, device, quick)
    return rows


def contenders(
    problem: Problem, methods: Sequence[str], rivals: Sequence[str]
) -> dict[tuple[str, str], Callable[[], object]]:
    """By method and name; a rival that lacks a method is left out."""
    found: dict[tuple[str, str], Callable[[], object]] = {}
    for method in methods:
        for name in ("ours", *rivals):
            call = contender(problem, method, name)
            if call is not None:
                found[method, name] = call
    return found


def contender(problem: Problem, method: str, name: str) -> Callable[[], object] | None:
    """``"ours"`` or one of :data:`RIVALS`; ``None`` if it lacks the method."""
    return ours(problem, method) if name == "ours" else RIVALS[name](problem, method)


def _measure(
    case: str,
    problem: Problem,
    methods: Sequence[str],
    rivals: Sequence[str],
    device: str,
    quick: bool,
) -> list[Row]:
    calls = contenders(problem, methods, rivals)
    probe = read_probe(device, quick)
    seconds = 0.5 if quick else 12.0
    timings = interleave(
        {"probe": probe.call, **{" ".join(key): call for key, call in calls.items()}},
        rounds=3 if quick else 15,
        seconds=seconds,
        device=device,
    )
    factor = problem.floor_bytes / probe.bytes
    return [
        row_of_times(
            case,
            method,
            timings[f"{method} ours"],
            "ms",
            rival=rival,
            theirs=timings[f"{method} {rival}"],
            floor=paired_floor(timings[f"{method} ours"], timings["probe"], factor),
            goal=_goal(method, rival, problem, device),
        )
        for method, rival in calls
        if rival != "ours"
    ]


def _goal(method: str, rival: str, problem: Problem, device: str) -> Goal | None:
    if len(problem.rows) != 8 or problem.elements < 11_000_000:
        return None
    if device.startswith("cuda"):
        return Goal("speed-up", 10.0) if rival == TORCHJD else None
    if rival == TORCHJD:  # as it comes; the sum of Gram matrices is not what its aggregators do
        return Goal("speed-up", AGAINST_TORCHJD.get(method, 4.0))
    return Goal("speed-up", 20.0) if (rival, method) == ("naive loop", "pcgrad") else None


def _others(tasks: int) -> list[str]:
    """Methods that merge gradients and that a rival has, too."""
    return [
        name
        for name in available(tasks=tasks)
        if name not in MAIN_METHODS
        and method_of(name, tasks).needs != "losses"
        and (name in NAIVE_METHODS or torchjd_aggregator(name, tasks) is not None)
    ]
