"""From the Gram matrices and task scales to the problem that a method sees, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

__all__ = ["Problem", "each_segment"]

P = ParamSpec("P")


class Problem:
    """What a method solves: the tasks of one segment that take part.

    Attributes:
        gram: ``(k, k)`` float64 on the CPU, ``s_i G_ij s_j``; the method's own copy.
        tasks: ``(k,)`` int64, the task in each place.
        segment: Which of the S segments this is.
        total: T, all tasks of the segment.
    """

    def __init__(self, gram: Tensor, tasks: Tensor, segment: int, total: int) -> None:
        self.gram, self.tasks, self.segment, self.total = gram, tasks, segment, total

    @property
    def count(self) -> int:
        """The number k of tasks that take part."""
        return len(self.tasks)

    def preference(self, given: Tensor | None, default: float) -> Tensor:
        """``(k,)`` of the ``(T,)`` that are given, or the default for all."""
        if given is None:
            return torch.full((self.count,), default, dtype=torch.float64)
        return given.detach().to("cpu", torch.float64)[self.tasks]


def each_segment(
    method: Callable[Concatenate[Problem, P], Tensor],
) -> Callable[Concatenate[Tensor, Tensor | None, P], Tensor]:
    """Makes an operator ``(S, T, T), (S, T) -> (S, T)`` of a method that solves one problem.

    A task of scale 0 is left out: the method gets the smaller matrix of the others and the task's
    weight is 0. A problem with a non-finite entry has the answer NaN. The T×T mathematics is done
    on the CPU, because not every device has float64.
    """

    def operator(
        gram: Tensor, scale: Tensor | None, /, *args: P.args, **kwargs: P.kwargs
    ) -> Tensor:
        matrices = gram.detach().to("cpu", torch.float64)
        scales = torch.ones(matrices.shape[:2], dtype=torch.float64)
        if scale is not None:
            scales = scale.detach().to("cpu", torch.float64)
        weights = torch.zeros_like(scales)
        for segment in range(len(matrices)):
            s = scales[segment]
            tasks = s.nonzero().squeeze(1)
            k = len(tasks)
            reduced = matrices[segment][tasks][:, tasks] * s[tasks].outer(s[tasks])
            if k == 0:
                continue
            if reduced.isfinite().all():
                w = method(Problem(reduced, tasks, segment, len(s)), *args, **kwargs)
            else:
                w = torch.full((k,), torch.nan, dtype=torch.float64)
            weights[segment, tasks] = s[tasks] * w
        return weights.to(gram.device, gram.dtype)

    operator.__name__ = method.__name__
    operator.__doc__ = method.__doc__
    return operator
