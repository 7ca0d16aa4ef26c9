"""Gradients divided by their lengths or their losses before they are weighed: factors of the rows, in T×T."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gradients.rows import on_device
from .call import Call

__all__ = ["normalised"]


def normalised(call: Call, gram: Tensor, scale: Tensor) -> Tensor:
    """The factors of the gradients that the method is to weigh, as ``normalise`` and ``keep_scale`` say.

    With c the clip factor of a task's gradient, n its length in a set, L its loss and p the task's weight, the row
    that the method sees is ``p s c g`` with

        ``s = 1`` (``"none"``), ``1/(c n)`` (``"l2"``), ``1/L`` (``"loss"``), ``1/(c n L)`` (``"loss+"``).

    ``keep_scale`` multiplies all rows of a set by one number, so that their mean length, over those that are not
    zero, is what it was. A zero gradient has 1 for its length. What has no such factor (a loss that is not positive,
    a length that is not finite) becomes NaN and is not left out.

    Args:
        call: With the rules, the losses and the tasks' weights.
        gram: ``(S, T, T)`` float64.
        scale: ``(S, T)`` float64, ``p c``; 0 for a task that takes no part, and stays so.

    Returns:
        ``(S, T)`` float64.

    Raises:
        TypeError: If there are no losses to divide by.
    """
    rules = call.rules
    if rules.normalise == "none":
        return scale
    factors = scale
    lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
    if rules.normalise in ("l2", "loss+"):
        inverse = torch.where(lengths.isfinite(), lengths.reciprocal(), torch.nan)
        weights = on_device(call.weights, scale.device)
        factors = torch.where(lengths == 0, scale, weights * inverse)
    if rules.divides_by_losses:
        if not call.tasks.valued:
            raise TypeError(
                f"Parameter `losses` should be given with `normalise = {rules.normalise!r}`. Found None."
            )
        losses = call.losses.to(scale)
        factors = factors * torch.where(losses > 0, losses.reciprocal(), torch.nan)
    if rules.keep_scale:
        factors = factors * _kept(lengths, scale, factors)
    return torch.where(scale == 0, scale, factors)


def _kept(lengths: Tensor, scale: Tensor, factors: Tensor) -> Tensor:
    """``(S, 1)``: the mean length of the rows by that of the normalised ones; 1 where all are zero."""
    there = (scale != 0) & (lengths != 0)

    def total(rows: Tensor) -> Tensor:
        return torch.where(there, rows * lengths, 0.0).sum(dim=1, keepdim=True)

    return torch.where(there.any(dim=1, keepdim=True), total(scale) / total(factors), 1.0)
