"""The two-parameter problem with two tasks on which several papers compare their methods."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TOY_STARTS", "toy_losses"]

#: The five points that Nash-MTL and FAMO start from.
TOY_STARTS: tuple[tuple[float, float], ...] = (
    (-8.5, 7.5),
    (0.0, 0.0),
    (9.0, 9.0),
    (-7.5, -0.5),
    (9.0, -1.0),
)

_LEAST = 5e-6  # keeps the logarithms finite


def toy_losses(theta: Tensor, first_scale: float = 0.1) -> Tensor:
    """Both losses at one or many points.

    With ``(x, y) = theta``::

        L_1 = first_scale · (above · valley_1 + below · bowl_1)
        L_2 =                above · valley_2 + below · bowl_2
        above = max(tanh(y/2), 0),    below = max(-tanh(y/2), 0)
        valley_1 = log max(|(-x - 7)/2 + tanh y|, 5e-6) + 6
        valley_2 = log max(|(-x + 7)/2 - tanh y|, 5e-6) + 6
        bowl_1 = ((x - 7)² + (y + 8)²/10) / 10 - 20
        bowl_2 = ((x + 7)² + (y + 8)²/10) / 10 - 20

    Above the line y = 0 are two curved valleys, where the gradients conflict and differ in size;
    below it are two bowls, and between their minima the Pareto front. From Liu, Liu, Jin, Stone,
    Liu: Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021, with
    ``first_scale=1``; a tenth is taken by Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik,
    Fetaya: Multi-Task Learning as a Bargaining Game, ICML 2022, and by Liu, Feng, Stone, Liu: FAMO:
    Fast Adaptive Multitask Optimization, NeurIPS 2023.

    Args:
        theta: ``(..., 2)``, floating.
        first_scale: Factor of the first loss.

    Returns:
        ``(..., 2)`` of ``theta``'s dtype.

    Raises:
        ValueError: If the last dimension is not 2.

    Example:
        >>> import torch
        >>> toy_losses(torch.tensor([7.0, -8.0]))
        tensor([-1.9987, -0.3997])
    """
    if theta.dim() == 0 or theta.shape[-1] != 2:
        raise ValueError(
            f"Parameter `theta` should have shape (..., 2). Found shape {tuple(theta.shape)}."
        )
    x, y = theta.unbind(-1)
    bend, side = torch.tanh(y), torch.tanh(y / 2)
    above, below = side.clamp(min=0), (-side).clamp(min=0)
    depth = (y + 8).square() / 10
    first = above * _valley((-x - 7) / 2 + bend) + below * _bowl(x - 7, depth)
    second = above * _valley((-x + 7) / 2 - bend) + below * _bowl(x + 7, depth)
    return torch.stack([first * first_scale, second], dim=-1)


def _valley(distance: Tensor) -> Tensor:
    return distance.abs().clamp(min=_LEAST).log() + 6


def _bowl(across: Tensor, depth: Tensor) -> Tensor:
    return (across.square() + depth) / 10 - 20
