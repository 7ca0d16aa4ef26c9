"""From histories and times to the figures of the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .config import PLAIN, SINGLE, Config, Run
from .timing import Timing
from .trainer import History

__all__ = ["Figure", "Row", "delta_m", "summarize"]


@dataclass(frozen=True)
class Figure:
    """Mean over the seeds and the sample standard deviation (NaN with one seed)."""

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Summarise one value per seed."""
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), spread)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        metrics: For each task the test metric after the last epoch.
        delta_m: Mean relative improvement against single tasks, in percent.
        milliseconds: Median time of a step; for single tasks, of one step of every model.
        overhead: ``milliseconds`` over those of the plain sum.
        conflicts: Share of steps with two task gradients at a negative cosine, if known.
        overall: Figures of all tasks together, see :meth:`mtl_ops.examples.Example.overall`.
    """

    method: str
    metrics: dict[str, Figure]
    delta_m: Figure | None
    milliseconds: float
    overhead: float
    conflicts: float | None = field(default=None)
    overall: dict[str, Figure] = field(default_factory=dict)


def delta_m(
    metrics: Mapping[str, float], single: Mapping[str, float], higher: Mapping[str, bool]
) -> float:
    """Mean relative improvement of a multi-task model against single-task models, in percent.

    ``100 / T * sum_t sign_t * (M_t - S_t) / S_t`` with ``sign_t`` = 1 where higher is better and -1
    where lower is: positive means better than single tasks. NaN if a reference is 0.

    Maninis, Radosavovic, Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019.

    Args:
        metrics: For each task the metric of the multi-task model.
        single: For each task that of the model trained on it alone.
        higher: For each task whether higher is better.

    Example:
        >>> round(delta_m({"a": 0.9, "b": 2.0}, {"a": 1.0, "b": 4.0}, {"a": True, "b": False}), 6)
        20.0
    """
    if any(single[task] == 0 for task in metrics):
        return math.nan
    gains = [
        (1 if higher[task] else -1) * (value - single[task]) / single[task]
        for task, value in metrics.items()
    ]
    return 100 * statistics.fmean(gains)


def summarize(
    config: Config, methods: Sequence[str], histories: Mapping[Run, History], timing: Timing
) -> list[Row]:
    """All lines of the table: single tasks, plain sum, methods.

    Delta m is taken per seed, against the single-task models of the same seed, then averaged.
    """
    single = [_single_metrics(config, histories, seed) for seed in config.seeds]
    plain = timing[PLAIN]["median"]
    single_time = sum(timing[f"{SINGLE}-{task}"]["median"] for task in config.tasks)
    rows = [Row(SINGLE, _figures(config, single), None, single_time, single_time / plain)]
    higher = {task: config.goals[task].higher_is_better for task in config.tasks}
    for method in (PLAIN, *methods):
        runs = [Run(method, seed, config.tasks) for seed in config.seeds]
        metrics = [_last_metrics(run, histories[run]) for run in runs]
        gains = [delta_m(own, alone, higher) for own, alone in zip(metrics, single, strict=True)]
        milliseconds = timing[method]["median"]
        rows.append(
            Row(
                method,
                _figures(config, metrics),
                Figure.of(gains),
                milliseconds,
                milliseconds / plain,
                _conflict_share([histories[run] for run in runs]),
                _overall(config, [histories[run] for run in runs]),
            )
        )
    return rows


def _overall(config: Config, histories: Sequence[History]) -> dict[str, Figure]:
    """After the last epoch, over the seeds; nothing where the example has no such figures."""
    names = config.problem.overall_names
    last = [history["overall"][-1] for history in histories] if names else []
    return {name: Figure.of([each[k] for each in last]) for k, name in enumerate(names)}


def _last_metrics(run: Run, history: History) -> dict[str, float]:
    return dict(zip(run.tasks, history["metric"][-1], strict=True))


def _single_metrics(
    config: Config, histories: Mapping[Run, History], seed: int
) -> dict[str, float]:
    runs = [Run(SINGLE, seed, (task,)) for task in config.tasks]
    return {run.tasks[0]: _last_metrics(run, histories[run])[run.tasks[0]] for run in runs}


def _figures(config: Config, metrics: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    return {task: Figure.of([values[task] for values in metrics]) for task in config.tasks}


def _conflict_share(histories: Sequence[History]) -> float | None:
    """Conflicting steps over all steps of all seeds; ``None`` where no cosines were measured."""
    if not all(history["conflicts"] for history in histories):
        return None
    conflicts = sum(sum(history["conflicts"]) for history in histories)
    return float(conflicts / sum(sum(history["steps"]) for history in histories))
