"""A whole training step of a shared MLP with eight heads: forward, backwards, merge, inner step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import mtl_ops

from .results import Goal, Row, paired_floor, row_of_times
from .rivals import available, method_of, torchjd_aggregator
from .timing import interleave

__all__ = ["OPTIONS", "Heads", "contender", "contenders", "measure", "names", "setup"]

METHODS = ("sum", "mean", "pcgrad", "mgda", "cagrad", "upgrad")
#: Timed with TorchJD, in both of its modes, and in the one that saves memory.
METHOD = "upgrad"
#: Options that trade time or precision for memory.
OPTIONS: dict[str, dict[str, Any]] = {
    f'{METHOD}, memory="stream"': {"memory": "stream"},
    f'{METHOD}, memory="stream", by tensor': {
        "memory": "stream",
        "granularity": "tensor",
        "nonfinite": "propagate",
    },
    f"{METHOD}, grad_dtype=bfloat16": {"grad_dtype": torch.bfloat16},
}
PLAIN, BARE = "plain summed backward", "T bare backwards"
MODES: dict[str, dict[str, Any]] = {
    "TorchJD, vmap": {"parallel_chunk_size": None},
    "TorchJD, one by one": {"parallel_chunk_size": 1},
    "TorchJD, Gram matrices summed": {
        "parallel_chunk_size": 1,
        "optimize_gramian_computation": True,
    },
}

Step = Callable[[], object]


class Heads(nn.Module):
    """A shared MLP and one linear layer for each of T tasks.

    Args:
        widths: Of the shared layers, the input's first.
        tasks: T.
        outputs: Width of each head.
    """

    def __init__(self, widths: tuple[int, ...], tasks: int, outputs: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.shared = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(widths[-1], outputs) for _ in range(tasks))

    def losses(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The shared features, and the squared error of each task."""
        features = self.shared(inputs)
        return features, [
            nn.functional.mse_loss(head(features), target)
            for head, target in zip(self.heads, targets, strict=True)
        ]


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Rows of every method against the plain sum and the bare backwards, UPGrad against TorchJD, too."""
    steps = contenders(device, quick)
    timings = interleave(
        steps, rounds=3 if quick else 15, seconds=0.5 if quick else 60.0, device=device
    )
    case = "MLP, 8.4M shared parameters, T = 8, batch 64" if not quick else "small MLP, T = 3"
    rows = []
    for method in _own():
        for rival in (BARE, PLAIN, *(MODES if method == METHOD else ())):
            if rival not in steps:
                continue
            goal = None
            if not quick and rival == BARE and method not in OPTIONS:
                goal = Goal("overhead", 1.15)
            if not quick and rival in MODES:
                goal = Goal("speed-up", 1.5)
            rows.append(
                row_of_times(
                    case,
                    method,
                    timings[f"ours {method}"],
                    "ms",
                    rival=rival,
                    theirs=timings[rival],
                    floor=paired_floor(timings[f"ours {method}"], timings[BARE]),
                    goal=goal,
                )
            )
    return rows


def contenders(device: str = "cpu", quick: bool = False) -> dict[str, Step]:
    """Each with a model of its own, all from the same seed and on the same batch."""
    return {name: contender(name, device, quick) for name in names()}


def names() -> list[str]:
    """Of the contenders that can be had."""
    with_torchjd = torchjd_aggregator(METHOD, 1) is not None
    own = [f"ours {name}" for name in _own()]
    return [PLAIN, BARE, *own, *(MODES if with_torchjd else ())]


def _own() -> list[str]:
    return [*available(METHODS), *(OPTIONS if available([METHOD]) else ())]


def contender(name: str, device: str = "cpu", quick: bool = False, **model: Any) -> Step:
    """One of :func:`names`, on a model as of :func:`setup`."""
    parts = setup(device, quick, **model)
    if name in MODES:
        return torchjd(METHOD, *parts, **MODES[name])
    if name.startswith("ours "):
        return ours(name.removeprefix("ours "), *parts)
    return {PLAIN: plain, BARE: bare}[name](*parts)


def setup(
    device: str,
    quick: bool,
    tasks: int = 8,
    widths: tuple[int, ...] = (1024, 2048, 2048, 1024),
) -> tuple[Heads, torch.optim.Optimizer, Tensor, Tensor]:
    """Model, inner optimizer (plain SGD, whose step costs the least), input and targets."""
    batch = 64
    if quick:
        tasks, batch, widths = 3, 4, (256, 512, 256)
    torch.manual_seed(0)
    model = Heads(widths, tasks).to(device)
    inputs = torch.randn(batch, widths[0], device=device)
    targets = torch.randn(tasks, batch, 10, device=device)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3), inputs, targets


def plain(model: Heads, inner: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Step:
    """One backward of the sum of the losses."""

    def step() -> Heads:
        inner.zero_grad()
        torch.stack(model.losses(inputs, targets)[1]).sum().backward()
        inner.step()
        return model

    return step


def bare(model: Heads, inner: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Step:
    """One backward a task, and nothing done with the gradients but a step with some of them.

    All of them are held until then, as whoever merges them has to.
    """
    params = list(model.parameters())

    def step() -> Heads:
        losses = model.losses(inputs, targets)[1]
        rows = [
            torch.autograd.grad(
                loss, params, retain_graph=loss is not losses[-1], allow_unused=True
            )
            for loss in losses
        ]
        for place, param in enumerate(params):
            param.grad = next(row[place] for row in rows if row[place] is not None)
        inner.step()
        return model

    return step


def ours(
    method: str, model: Heads, inner: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> Step:
    """As in the README; a method, or one of the :data:`OPTIONS`."""
    chosen = method_of(method.partition(",")[0], len(targets))
    optimizer = mtl_ops.MultiTaskOptimizer(inner, chosen, **OPTIONS.get(method, {}))

    def step() -> Heads:
        optimizer.zero_grad()
        optimizer.backward(model.losses(inputs, targets)[1])
        optimizer.step()
        return model

    return step


def torchjd(
    method: str,
    model: Heads,
    inner: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    parallel_chunk_size: int | None,
    **options: bool,
) -> Step:
    """As in its documentation for multi-task learning; ``options`` are of ``jac_to_grad``."""
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregator = torchjd_aggregator(method, len(targets), inputs.device)

    def step() -> Heads:
        inner.zero_grad()
        features, losses = model.losses(inputs, targets)
        mtl_backward(losses, features=features, parallel_chunk_size=parallel_chunk_size)
        jac_to_grad(model.shared.parameters(), aggregator, **options)
        inner.step()
        return model

    return step
