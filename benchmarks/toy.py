"""A step on the problem with two parameters and two tasks, where only overhead is left to measure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import mtl_ops
from mtl_ops.data import TOY_STARTS, toy_losses

from .results import Goal, Row, paired_floor, row_of_times
from .rivals import available, method_of, torchjd_aggregator
from .timing import interleave

__all__ = ["contenders", "measure"]

FOUNDATION = ("sum", "mean", "pcgrad", "mgda", "cagrad", "upgrad")
SUMMED, BARE = "summed + Adam", "two bare backwards + Adam"

Step = Callable[[], Tensor]


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Rows of every method against one backward of the sum, two bare backwards, and TorchJD."""
    steps = contenders(device)
    timings = interleave(
        steps, rounds=5 if quick else 101, seconds=0.5 if quick else 30.0, device=device
    )
    rows = []
    for method in available(tasks=2):
        bound = 1.15 if method in FOUNDATION else 1.2
        for rival in (BARE, SUMMED, f"TorchJD {method}"):
            if rival in steps:
                rows.append(
                    row_of_times(
                        "toy problem, two tasks",
                        method,
                        timings[f"ours {method}"],
                        "µs",
                        rival=rival.split(" ")[0] if rival.startswith("TorchJD") else rival,
                        theirs=timings[rival],
                        floor=paired_floor(timings[f"ours {method}"], timings[BARE]),
                        goal=Goal("overhead", bound) if rival == BARE else None,
                    )
                )
    return rows


def contenders(device: str = "cpu") -> dict[str, Step]:
    """Each with a point of its own, which moves from the first of the five published starts."""
    found = {SUMMED: summed(device), BARE: bare(device)}
    for method in available(tasks=2):
        found[f"ours {method}"] = ours(method, device)
        aggregator = torchjd_aggregator(method, 2, device)
        if aggregator is not None:
            found[f"TorchJD {method}"] = torchjd(aggregator, device)
    return found


def _point(device: str) -> tuple[torch.nn.Parameter, torch.optim.Adam]:
    theta = torch.nn.Parameter(torch.tensor(TOY_STARTS[0], device=device))
    return theta, torch.optim.Adam([theta], lr=1e-3)


def summed(device: str = "cpu") -> Step:
    """The losses added up, one backward."""
    theta, adam = _point(device)

    def step() -> Tensor:
        adam.zero_grad()
        toy_losses(theta).sum().backward()
        adam.step()
        return theta

    return step


def bare(device: str = "cpu") -> Step:
    """Both gradients taken and the first one used: what every method pays before it starts."""
    theta, adam = _point(device)

    def step() -> Tensor:
        first, second = toy_losses(theta).unbind()
        (gradient,) = torch.autograd.grad(first, [theta], retain_graph=True)
        torch.autograd.grad(second, [theta])
        theta.grad = gradient
        adam.step()
        return theta

    return step


def ours(method: str, device: str = "cpu") -> Step:
    """As in the README."""
    theta, adam = _point(device)
    optimizer = mtl_ops.MultiTaskOptimizer(adam, method_of(method, 2))

    def step() -> Tensor:
        optimizer.zero_grad()
        optimizer.backward(toy_losses(theta))
        optimizer.step()
        return theta

    return step


def torchjd(aggregator: Callable[[Tensor], Tensor], device: str = "cpu") -> Step:
    """One backward a task, the faster of its two ways when there is nothing to compute."""
    from torchjd.autojac import backward, jac_to_grad

    theta, adam = _point(device)

    def step() -> Tensor:
        adam.zero_grad()
        backward(toy_losses(theta), inputs=[theta], parallel_chunk_size=1)
        jac_to_grad([theta], aggregator)
        adam.step()
        return theta

    return step
