"""The two-parameter problem: its gradients, its Pareto front, and descents from its starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data import TOY_STARTS, toy_losses
from .merged import merge_at

__all__ = ["FIRST_SCALE", "descend", "distance_to_front", "pareto_front", "toy_gradients"]

Array = npt.NDArray[np.float64]

#: Factor of the first loss, as Nash-MTL and FAMO have it.
FIRST_SCALE = 0.1
#: Below every value of a loss whose factor is 1; by how much is what FAMO's authors chose.
LEAST = -21.0
#: Points that are kept of a path, about.
KEPT = 1000


def toy_gradients(theta: Tensor, first_scale: float = FIRST_SCALE) -> tuple[Tensor, Tensor]:
    """Losses ``(points, 2)`` and their gradients ``(points, 2, 2)`` at points ``(points, 2)``.

    The losses are counted from a lower bound: that changes no gradient, and methods that divide by
    a loss or take its logarithm want it positive.
    """
    theta = theta.detach().requires_grad_()
    losses = toy_losses(theta, first_scale)
    gradients = [
        torch.autograd.grad(losses[:, task].sum(), theta, retain_graph=task == 0)[0]
        for task in range(2)
    ]
    return losses.detach() - _bounds(first_scale), torch.stack(gradients, dim=1)


def descend(
    names: Sequence[str],
    steps: int,
    lr: float,
    first_scale: float = FIRST_SCALE,
    track: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Array]:
    """Let every method descend from every start, with Adam.

    Args:
        names: The methods.
        steps: How many of Adam.
        lr: Of Adam.
        first_scale: Factor of the first loss.
        track: Is told of each step, to show how far it is.

    Returns:
        For each method ``(starts, points, 2)``, from the start to the end.
    """
    starts = torch.tensor(TOY_STARTS, dtype=torch.float64)
    theta = torch.nn.Parameter(starts.repeat(len(names), 1))
    adam = torch.optim.Adam([theta], lr=lr)
    merges = [merge_at(name, len(starts), lr) for name in names]
    every = max(1, steps // KEPT)
    kept = [theta.detach().clone()]
    for step in track(range(1, steps + 1)):
        losses, gradients = toy_gradients(theta, first_scale)
        parts = zip(
            merges,
            gradients.reshape(len(names), len(starts), 2, 2),
            losses.reshape(len(names), len(starts), 2),
            strict=True,
        )
        theta.grad = torch.cat([merge(*part) for merge, *part in parts])
        adam.step()
        if step % every == 0 or step == steps:
            kept.append(theta.detach().clone())
    paths = torch.stack(kept).reshape(-1, len(names), len(starts), 2).permute(1, 2, 0, 3)
    return dict(zip(names, paths.numpy(), strict=True))


def pareto_front(points: int = 14_001) -> Array:
    """``(points, 2)`` along the curve of Pareto optima, from the second loss's minimum to the first's.

    Below y = 0 a weighted sum, ``a`` of it the first loss, is ``-tanh(y/2) · bowl`` with
    ``bowl = ((x - 14a + 7)² + 196 a (1 - a) + (y + 8)²/10) / 10 - 20``: lowest at ``x = 14a - 7``,
    and in y where the derivative vanishes. That is the same curve whatever the losses' factors.
    """
    x = np.linspace(-7.0, 7.0, points)
    low, high = np.full(points, -12.0), np.full(points, -8.0)
    for _ in range(60):  # halves the bracket down to the last digit
        y = (low + high) / 2
        bowl = (49.0 - x**2 + (y + 8) ** 2 / 10) / 10 - 20
        # d/dy of log(-tanh(y/2)) is 1/sinh y.
        rising = bowl / np.sinh(y) + (y + 8) / 50 < 0
        low, high = np.where(rising, y, low), np.where(rising, high, y)
    return np.stack([x, (low + high) / 2], axis=1)


def distance_to_front(points: Array) -> Array:
    """Euclidean, of ``(points, 2)``."""
    apart = points[:, None, :] - pareto_front()[None]
    nearest: Array = np.sqrt(np.square(apart).sum(axis=-1)).min(axis=1)
    return nearest


def _bounds(first_scale: float) -> Tensor:
    return LEAST * torch.tensor([first_scale, 1.0], dtype=torch.float64)
