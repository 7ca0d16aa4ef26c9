"""What methods that look at losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from ._base import check_losses
from ._checks import PerTask

__all__ = ["losses_on", "numbers", "shares"]


def numbers(given: PerTask | None, like: Tensor, default: float) -> Tensor:
    """The numbers ``(T,)`` float64 on the device of ``like`` ``(T,)``, or the default for all."""
    if given is None:
        return torch.full_like(like, default)
    return given.on(like.device, len(like))


def shares(scores: Tensor, part: Tensor) -> Tensor:
    """The softmax of the scores ``(T,)`` of the tasks that take part; 0 for the others."""
    return torch.where(part, scores.masked_fill(~part, -torch.inf).softmax(dim=0), 0.0)


def losses_on(gram: Tensor, losses: Tensor | None, method: str) -> Tensor:
    """``(T,)`` float64, where Gram matrices ``(S, T, T)`` are."""
    values = check_losses(losses, method)
    if len(values) != gram.shape[-1]:
        raise ValueError(
            f"Parameter `losses` should hold one loss for each of {gram.shape[-1]} tasks. "
            f"Found {len(values)}."
        )
    return values.to(gram.device).contiguous()
