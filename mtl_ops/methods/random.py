"""Random loss weighting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..ops.capture import drawing
from ._base import LossMethod, check_losses
from ._checks import one_of
from ._registry import register

__all__ = ["Random"]


@register("random")
class Random(LossMethod):
    """Random loss weighting (RLW): new random weights in each step, and one backward for all.

    A baseline that any method should beat: its weights are, on average, all the same.

    Guarantee: ``w > 0`` and ``Σw = 1`` over the tasks that take part.

    Args:
        distribution: ``"normal"``, the softmax of T independent standard normals, as in the paper's
            experiments, LibMTL and TorchJD; or ``"dirichlet"``, uniform on the simplex, made from T
            independent standard exponentials.

    Random numbers come from ``generator``, or can be handed in as ``draws`` ``(T,)``: the normals,
    or the exponentials.

    Degenerate cases: a task whose loss is not finite has the weight 0.

    Raises:
        ValueError: If ``distribution`` is unknown, or ``draws`` has not T elements.
        TypeError: If there are neither losses nor draws.

    Baijiong Lin, Feiyang Ye, Yu Zhang, Ivor W. Tsang, "Reasonable Effectiveness of Random
    Weighting: A Litmus Test for Multi-Task Learning", TMLR 2022.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.Random()
        >>> method.weights(None, torch.ones(2), draws=torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    uses_losses = False

    def __init__(self, *, distribution: Literal["normal", "dirichlet"] = "normal") -> None:
        self.distribution = one_of("distribution", distribution, ("normal", "dirichlet"))

    def weights(
        self, gram: Tensor | None, losses: Tensor | None = None, draws: Tensor | None = None
    ) -> Tensor:
        """``(T,)`` float64."""
        if losses is None and draws is not None:
            losses = torch.zeros_like(draws)
        values = check_losses(losses, self.name)
        if draws is None:
            draws = self._draw(values.shape[0], values.device)
        if draws.shape != values.shape:
            raise ValueError(
                f"Parameter `draws` should have shape {tuple(values.shape)}. "
                f"Found shape {tuple(draws.shape)}."
            )
        draws = draws.detach().to(values)
        part = values.isfinite()
        if self.distribution == "normal":
            weights = draws.masked_fill(~part, -torch.inf).softmax(dim=0)
        else:
            kept = torch.where(part, draws, 0.0)
            weights = kept / kept.sum()
        return torch.where(part, weights, 0.0)

    def numbers(self, losses: Sequence[float]) -> list[float]:
        drawn: list[float] = self._draw(len(losses), torch.device("cpu")).tolist()
        if self.distribution == "normal":
            most = max(drawn)
            drawn = [math.exp(one - most) for one in drawn]
        total = sum(drawn)
        return [one / total for one in drawn]

    def _draw(self, tasks: int, device: torch.device) -> Tensor:
        empty, generator = torch.empty(tasks, dtype=torch.float64, device=device), self.generator
        if generator is None:
            return empty.normal_() if self.distribution == "normal" else empty.exponential_()
        with drawing(generator):
            if self.distribution == "normal":
                return empty.normal_(generator=generator)
            return empty.exponential_(generator=generator)
