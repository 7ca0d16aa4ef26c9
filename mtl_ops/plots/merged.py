"""One method at many independent points at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import methods
from ..functional import merge
from ..methods import Method

__all__ = ["REFUSALS", "Merge", "merge_at"]

#: From gradients ``(points, T, N)`` and losses ``(points, T)`` to merged gradients ``(points, N)``.
Merge = Callable[[Tensor, Tensor], Tensor]

#: What a method may answer with when it needs more than gradients and losses.
REFUSALS = (TypeError, ValueError, NotImplementedError)


def merge_at(name: str, points: int, lr: float = 1e-2) -> Merge:
    """The method at that many points, none of which knows of the others.

    Args:
        name: Of the method, which has its default parameters.
        points: How many; a method that remembers something remembers it at each.
        lr: Of Adam, for parameters of the method's own.

    Raises:
        TypeError: If the method cannot do without arguments.
    """
    method = methods.get(name)
    if method.needs == "gram" and not (
        method.uses_losses or method.state_names or method.tracks or method.learns
    ):
        return _together(method)
    each = [_alone(methods.get(name), lr) for _ in range(points)]

    def merged(gradients: Tensor, losses: Tensor) -> Tensor:
        return torch.stack([one(*at) for one, *at in zip(each, gradients, losses, strict=True)])

    return merged


def _together(method: Method) -> Merge:
    """Solves all points in one call."""

    def merged(gradients: Tensor, losses: Tensor) -> Tensor:
        weights = method.weights(gradients @ gradients.mT)
        return (weights.unsqueeze(1) @ gradients).squeeze(1)

    return merged


def _alone(method: Method, lr: float) -> Merge:
    """At one point, ``(T, N)`` and ``(T,)`` to ``(N,)``, with a memory of its own."""

    def merged(gradients: Tensor, losses: Tensor) -> Tensor:
        return merge(gradients, method, losses=losses)

    if not method.learns:
        return merged
    adam: list[torch.optim.Adam] = []

    def learning(gradients: Tensor, losses: Tensor) -> Tensor:
        if not adam:
            adam.append(torch.optim.Adam(method.learnable(len(losses), losses.device), lr=lr))
        direction = merged(gradients, losses)
        adam[0].zero_grad()
        method.add_grads(losses)
        adam[0].step()
        return direction

    return learning
