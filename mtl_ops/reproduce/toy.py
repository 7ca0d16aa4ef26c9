"""FAMO's figure 1: what 50,000 steps on the problem with two parameters cost, against Adam."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from .. import MultiTaskOptimizer
from ..data import TOY_STARTS, toy_losses
from ..demo.spec import make_method
from .study import Job, Record, Study
from .tables import made_with, table

__all__ = ["ToyStudy"]

#: Seconds that the figure prints for 50,000 steps.
PUBLISHED = {
    "sum": 33.0,
    "famo": 39.0,
    "pcgrad": 54.0,
    "mgda": 60.0,
    "cagrad": 89.0,
    "nash_mtl": 995.0,
}
SOURCE = "https://github.com/Cranial-XIX/FAMO"


class ToyStudy(Study):
    """Time of a step of every method of the figure, all in turn in one process."""

    name: ClassVar[str] = "toy"
    title: ClassVar[str] = "FAMO, figure 1, reproduced"

    def settings(self, budget: str) -> dict[str, Any]:
        """See :class:`Study`; quick: a tenth of the steps."""
        return {"steps": 5_000 if budget == "quick" else 50_000, "steps of a round": 250}

    def jobs(self, settings: Mapping[str, Any]) -> list[Job]:
        """See :class:`Study`: rounds, each of all methods in turn."""
        return [{"round": k} for k in range(settings["steps"] // settings["steps of a round"])]

    def do(self, job: Job, settings: Mapping[str, Any], done: Sequence[Record]) -> Any:
        """See :class:`Study`; seconds of the processor, which others on the machine change little."""
        count = settings["steps of a round"]
        start = TOY_STARTS[job["round"] % len(TOY_STARTS)]
        seconds = {}
        for method in PUBLISHED:
            step = _stepper(method, start)
            for _ in range(10):
                step()
            before = time.process_time()
            for _ in range(count):
                step()
            seconds[method] = time.process_time() - before
        return seconds

    def page(self, results: Mapping[str, Any]) -> str:
        """See :class:`Study`."""
        rounds = [record["result"] for record in results["records"]]
        if not rounds:
            return f"# {self.title}\n\nNo round is finished.\n\n{made_with(results)}\n"
        count = results["settings"]["steps of a round"]
        rows, slower = [], []
        for method, theirs in PUBLISHED.items():
            seconds = statistics.median(each[method] for each in rounds) * 50_000 / count
            ratios = [each[method] / each["sum"] for each in rounds]
            ratio = statistics.median(ratios)
            low, *_, high = (
                statistics.quantiles(ratios, n=20) if len(ratios) > 1 else [ratio, ratio]
            )
            published = theirs / PUBLISHED["sum"]
            if ratio > published:
                slower.append(f"{method} ({ratio:.2f}× against {published:.2f}×)")
            rows.append(
                [
                    "sum (Adam)" if method == "sum" else method,
                    f"{theirs:.0f}",
                    f"{published:.2f}",
                    f"{seconds:.0f}",
                    f"{ratio:.2f}",
                    f"{low:.2f} to {high:.2f}",
                ]
            )
        verdict = (
            f"slower than published against Adam: {', '.join(slower)}."
            if slower
            else ("nothing: no method costs more against Adam than published.")
        )
        heads = ["method", "published, s", "× Adam", "ours, s", "× Adam", "90 % of the rounds"]
        return (
            "\n\n".join(
                [
                    f"# {self.title}",
                    f"**What does not reproduce.** {verdict[0].upper()}{verdict[1:]}",
                    table(heads, rows),
                    "Ratios are medians over rounds in which all methods take their steps in turn, of one process "
                    "with one thread; seconds are those of the processor, scaled to 50,000 steps. Both machines "
                    "differ, so only the ratios can be compared. Published: figure 1 of B. Liu et al., “FAMO: "
                    f"Fast Adaptive Multitask Optimization”, NeurIPS 2023, as drawn in its [repository]({SOURCE}).",
                    made_with(results),
                ]
            )
            + "\n"
        )


def _stepper(method: str, start: tuple[float, float]) -> Callable[[], None]:
    """A step of Adam with 0.001, as published; ``sum`` has one backward and nothing around it."""
    theta = torch.nn.Parameter(torch.tensor(start))
    inner = torch.optim.Adam([theta], lr=1e-3)
    if method == "sum":
        return partial(_plain, theta, inner)
    return partial(_merged, theta, MultiTaskOptimizer(inner, make_method(method)))


def _plain(theta: torch.nn.Parameter, inner: torch.optim.Optimizer) -> None:
    inner.zero_grad()
    toy_losses(theta).sum().backward()  # type: ignore[no-untyped-call]
    inner.step()


def _merged(theta: torch.nn.Parameter, optimizer: MultiTaskOptimizer) -> None:
    optimizer.zero_grad()
    optimizer.backward(toy_losses(theta))
    optimizer.step()
    if optimizer.method.observes:
        with torch.no_grad():
            optimizer.observe(toy_losses(theta))
