"""Every way to take a step, and every rival's, as ratios to a plain summed backward.

A step is forward, backwards, merge and the inner optimizer's; :data:`METHOD` weighs the tasks, which for T = 8 takes
little next to it. Steps with ``weights_every`` are the mean of eight. Losses of single samples are weighed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import mtl_ops

from . import memory
from .results import Goal, Quartiles, Row, row_of_times
from .rivals import torchjd_aggregator
from .step_models import MODELS, SAMPLES, Subject, make, make_samples
from .timing import Timing, interleave

__all__ = [
    "APPROXIMATE",
    "OURS",
    "PICTURED",
    "PLAIN",
    "contender",
    "measure",
    "parts",
    "sample_contender",
]

METHOD = "upgrad"
PERIOD = 8
PLAIN, BARE, CONCATENATED = (
    "plain summed backward",
    "T bare backwards",
    "rows concatenated (LibMTL)",
)
JAC, GRAMIAN = "TorchJD mtl_backward", "TorchJD autogram"
CHEAP = f'weights_every={PERIOD}, gradients="factored"'
FEATURES = 'gram_on="features"'
STREAM = 'memory="stream"'
#: Of ours, those whose gradient is not the exact one.
APPROXIMATE = (CHEAP, FEATURES)
OURS: dict[str, dict[str, Any]] = {
    'gradients="dense"': {},
    "batched=True": {"batched": True},
    'gradients="factored"': {"gradients": "factored"},
    'gradients="auto"': {"gradients": "auto"},
    CHEAP: {"gradients": "factored", "weights_every": PERIOD},
    FEATURES: {"gram_on": "features"},
}
#: Whose memory is measured here, and the time in :mod:`benchmarks.step`.
SAVING: dict[str, dict[str, Any]] = {STREAM: {"memory": "stream"}}
FACTORED, AUTO = 'gradients="factored"', 'gradients="auto"'
BY_SAMPLE = 'gradients="by_sample"'
#: What ``"auto"`` is held against.
SINGLE = ('gradients="dense"', "batched=True", FACTORED)

#: The model of the documentation's pictures.
PICTURED = "MLP 8×1024, B = 64"

#: T of each model; of the first, all.
TASKS = dict.fromkeys(MODELS, (2, 8)) | {next(iter(MODELS)): (2, 4, 8, 16, 40)}
#: Times a plain step, T = 8.
GOALS = {
    "MLP 8×1024, B = 16": 2.1,
    "MLP 8×1024, B = 64": 2.7,
    "MLP 8×1024, B = 256": 3.5,
    "transformer 4×512, B·S = 128": 3.5,
}
#: Peak memory above the parameters, times that of a plain step.
MEMORY_GOALS: dict[str, float | None] = {
    "MLP 8×1024, B = 16": 1.6,
    PICTURED: None,
    "MLP 8×1024, B = 256": 5.0,
    "transformer 4×512, B·S = 128": 4.0,
}
CHEAP_GOAL, AUTO_GOAL = 1.4, 1.1
#: Of B = 128: times a plain step, and TorchJD's time through ours.
SAMPLE_GOALS: dict[str, tuple[float | None, float]] = {
    "MLP 256-4×512": (2.0, 30.0),
    "CNN, 3 convolutions, 16×16": (None, 1.3),
    "transformer 2×128, S = 16": (None, 1.3),
}
SAMPLE_BATCHES = (32, 128)

Step = Callable[[], object]


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Rows of every model and number of tasks, of samples, and of the memory."""
    return [row for _, measured in parts(device, quick) for row in measured()]


def parts(device: str, quick: bool) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """What is measured one after the other: the models by name, and what gives their rows."""
    for case in MODELS:
        for tasks in (3,) if quick else TASKS[case]:
            yield f"{case}, T = {tasks}", partial(_of_tasks, case, tasks, device, quick)
    for case in SAMPLES:
        for batch in (4,) if quick else SAMPLE_BATCHES:
            yield f"{case}, B = {batch}", partial(_of_samples, case, batch, device, quick)
    for case, bound in () if quick else MEMORY_GOALS.items():
        yield f"memory, {case}", partial(_of_memory, case, bound, device)


# ---- tasks ----------------------------------------------------------------------------------------


def _of_tasks(case: str, tasks: int, device: str, quick: bool) -> list[Row]:
    names = [PLAIN, BARE, CONCATENATED, *OURS]
    if torchjd_aggregator(METHOD, tasks) is not None:
        names += [JAC, GRAMIAN] if not quick else [JAC]
    steps: dict[str, Step] = {}
    for name in names:
        step = _made(case, name, tasks, device, quick)
        if step is not None:
            steps[name] = step
    timings = interleave(
        steps, rounds=3 if quick else 9, seconds=1.0 if quick else 25.0, device=device
    )
    if CHEAP in timings:
        by_round = {k: seconds / PERIOD for k, seconds in timings[CHEAP].by_round.items()}
        timings[CHEAP] = Timing(by_round)
    title = f"{case}, T = {tasks}"
    rows = [
        row_of_times(
            title,
            name,
            timings[name],
            "ms",
            rival=PLAIN,
            theirs=timings[PLAIN],
            goal=None if quick else _goal(case, name, tasks),
        )
        for name in timings
        if name != PLAIN
    ]
    best = min(
        (name for name in SINGLE if name in timings), key=lambda n: timings[n].seconds.median
    )
    held = None if quick else Goal("overhead", AUTO_GOAL)
    against = row_of_times(
        title,
        AUTO,
        timings[AUTO],
        "ms",
        rival=f"best single: {best}",
        theirs=timings[best],
        goal=held,
    )
    return [*rows, against]


def _goal(case: str, name: str, tasks: int) -> Goal | None:
    if tasks != PERIOD or case not in GOALS:
        return None
    if name == FACTORED:
        return Goal("overhead", GOALS[case])
    return Goal("overhead", CHEAP_GOAL) if name == CHEAP else None


def _made(case: str, name: str, tasks: int, device: str, quick: bool) -> Step | None:
    """The contender if it can take this model at all; the first step also loads code."""
    try:
        step = contender(case, name, tasks, device, quick)
        step()
    except (NotImplementedError, RuntimeError, ValueError):
        return None
    return step


def contender(case: str, name: str, tasks: int, device: str = "cpu", quick: bool = False) -> Step:
    """A step of a model of its own; all have the same seed and batch."""
    subject = make(case, tasks, device, quick)
    inner = torch.optim.SGD(subject.params, lr=1e-4)
    ours = OURS | SAVING
    if name == FEATURES and not list(subject.heads.parameters()):
        raise NotImplementedError("Of losses with derivatives inside, features are no cut.")
    if name in ours:
        return _ours(subject, inner, ours[name], PERIOD if name == CHEAP else 1)
    makers: Mapping[str, Callable[..., Step]] = {
        PLAIN: _plain,
        BARE: _bare,
        CONCATENATED: _concatenated,
        JAC: _torchjd,
        GRAMIAN: _autogram,
    }
    return makers[name](subject, inner, tasks)


def _ours(
    subject: Subject, inner: torch.optim.Optimizer, options: dict[str, Any], steps: int
) -> Step:
    optimizer = mtl_ops.MultiTaskOptimizer(inner, METHOD, **options)

    def step() -> Subject:
        for _ in range(steps):
            optimizer.zero_grad()
            features, losses = subject.losses()
            optimizer.backward(losses, features=features if "gram_on" in options else None)
            optimizer.step()
        return subject

    return step


def _plain(subject: Subject, inner: torch.optim.Optimizer, tasks: int) -> Step:
    def step() -> Subject:
        inner.zero_grad()
        torch.stack(subject.losses()[1]).sum().backward()
        inner.step()
        return subject

    return step


def _rows(losses: list[Tensor], params: list[Tensor]) -> list[tuple[Tensor | None, ...]]:
    return [
        torch.autograd.grad(loss, params, retain_graph=loss is not losses[-1], allow_unused=True)
        for loss in losses
    ]


def _bare(subject: Subject, inner: torch.optim.Optimizer, tasks: int) -> Step:
    """One backward a task, all gradients held, and nothing done with them."""
    params = subject.params

    def step() -> Subject:
        inner.zero_grad()
        rows = _rows(subject.losses()[1], params)
        for place, param in enumerate(params):
            param.grad = next((row[place] for row in rows if row[place] is not None), None)
        inner.step()
        return subject

    return step


def _concatenated(subject: Subject, inner: torch.optim.Optimizer, tasks: int) -> Step:
    """The gradients of each task as one row of a matrix, as LibMTL holds them; weights by our solver."""
    params = subject.shared

    def step() -> Subject:
        inner.zero_grad()
        losses = subject.losses()[1]
        matrix = torch.zeros(tasks, sum(param.numel() for param in params), device=losses[0].device)
        for into, row in zip(matrix, _rows(losses, params), strict=True):
            flat = [
                torch.zeros_like(p) if g is None else g for g, p in zip(row, params, strict=True)
            ]
            into.copy_(torch.cat([gradient.flatten() for gradient in flat]))
        weights = mtl_ops.methods.get(METHOD).weights((matrix @ matrix.T).double())
        merged = weights.to(matrix.dtype) @ matrix
        start = 0
        for param in params:
            param.grad = merged[start : start + param.numel()].view_as(param)
            start += param.numel()
        inner.step()
        return subject

    return step


def _torchjd(subject: Subject, inner: torch.optim.Optimizer, tasks: int) -> Step:
    from torchjd.autojac import backward, jac_to_grad, mtl_backward

    aggregator = torchjd_aggregator(METHOD, tasks, subject.params[0].device)
    heads = list(subject.heads.parameters())

    def step() -> Subject:
        inner.zero_grad()
        features, losses = subject.losses()
        if heads:
            mtl_backward(losses, features=features)
        else:  # of losses with derivatives inside, features are no cut
            backward(losses)
        jac_to_grad(subject.shared, aggregator)
        inner.step()
        return subject

    return step


def _autogram(subject: Subject, inner: torch.optim.Optimizer, tasks: int) -> Step:
    from torchjd.aggregation import UPGradWeighting
    from torchjd.autogram import Engine

    engine, weighting = Engine(subject.trunk, batch_dim=None), UPGradWeighting()

    def step() -> Subject:
        inner.zero_grad()
        losses = torch.stack(subject.losses()[1])
        losses.backward(weighting(engine.compute_gramian(losses)))
        inner.step()
        return subject

    return step


# ---- samples --------------------------------------------------------------------------------------


def _of_samples(case: str, batch: int, device: str, quick: bool) -> list[Row]:
    names = [PLAIN, BY_SAMPLE]
    if torchjd_aggregator(METHOD, 2) is not None:
        names.append(GRAMIAN)
    steps = {name: sample_contender(case, name, batch, device) for name in names}
    timings = interleave(
        steps, rounds=3 if quick else 9, seconds=1.0 if quick else 15.0, device=device
    )
    overhead, faster = SAMPLE_GOALS[case] if batch == max(SAMPLE_BATCHES) else (None, None)
    rows = []
    for rival in (PLAIN, GRAMIAN):
        if rival not in timings:
            continue
        goal = None
        if rival == PLAIN and overhead is not None:
            goal = Goal("overhead", overhead)
        if rival == GRAMIAN and faster is not None:
            goal = Goal("speed-up", faster)
        rows.append(
            row_of_times(
                f"a loss for each sample: {case}, B = {batch}",
                BY_SAMPLE,
                timings[BY_SAMPLE],
                "ms",
                rival=rival,
                theirs=timings[rival],
                goal=goal,
            )
        )
    return rows


def sample_contender(case: str, name: str, batch: int, device: str = "cpu") -> Step:
    """A step on the losses of single samples; none solves anything: that is in the table ``solve``."""
    model, losses = make_samples(case, batch, device)
    inner = torch.optim.SGD(model.parameters(), lr=1e-4)
    weights = torch.full((batch,), 1.0 / batch, device=device)
    if name == BY_SAMPLE:
        method = mtl_ops.methods.get("constant", weights=weights.tolist())
        optimizer = mtl_ops.MultiTaskOptimizer(
            inner, method, gradients="by_sample", max_task_norm=1e9
        )

        def step() -> object:
            optimizer.zero_grad()
            optimizer.backward(losses())
            optimizer.step()
            return model

        return step
    engine = None
    if name == GRAMIAN:
        from torchjd.autogram import Engine

        engine = Engine(model, batch_dim=0)

    def plain() -> object:
        inner.zero_grad()
        found = losses()
        if engine is not None:
            engine.compute_gramian(found)
        found.backward(weights)
        inner.step()
        return model

    return plain


# ---- memory ---------------------------------------------------------------------------------------


def _of_memory(case: str, bound: float | None, device: str) -> list[Row]:
    """Over the parameters and the batch, of a step that is not the first."""
    names = [PLAIN, 'gradients="dense"', FACTORED]
    if case == PICTURED:
        names += [CHEAP, FEATURES, STREAM, BARE, CONCATENATED]
        names += [JAC, GRAMIAN] if torchjd_aggregator(METHOD, PERIOD) is not None else []
    peaks = {name: memory.in_child("one of steps", name, case, device, "full") for name in names}
    return [
        Row(
            f"peak memory of {case}, T = {PERIOD}",
            name,
            _single(peaks[name] / 1e6),
            "MB",
            PLAIN,
            _single(peaks[PLAIN] / 1e6),
            _single(peaks[PLAIN] / peaks[name]),
            None,
            Goal("overhead", bound) if name == FACTORED and bound is not None else None,
        )
        for name in names[1:]
    ]


def _single(value: float) -> Quartiles:
    return Quartiles(value, value, value)
