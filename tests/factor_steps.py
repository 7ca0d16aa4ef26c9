"""The exact step by factors and by rows, on a call that is made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mtl_ops.gradients.factored.by_sample import BySample
from mtl_ops.gradients.factored.find import Factoring
from mtl_ops.gradients.parameters import Parameters
from mtl_ops.gradients.tasks import Tasks
from mtl_ops.merging.call import Call
from mtl_ops.merging.report import Report
from mtl_ops.merging.rules import Rules
from mtl_ops.methods import Method
from mtl_ops.step.exact import Exact
from mtl_ops.step.factored import Factored

__all__ = ["by_factors", "by_rows"]


def by_rows(
    method: Method,
    tasks: Tasks,
    params: Sequence[Tensor],
    weights: Sequence[float],
    rules: Rules,
    *,
    sets: list[int] | None = None,
    shared: list[bool] | None = None,
    **rest: Any,
) -> Report:
    """With the gradients of all tasks."""
    return Exact().backward(
        Call(method, tasks, Parameters(list(params), sets, shared), weights, rules, **rest)
    )


def by_factors(
    method: Method,
    tasks: Tasks,
    params: Sequence[Tensor],
    weights: Sequence[float],
    rules: Rules,
    *,
    factoring: Factoring | BySample,
    sets: list[int] | None = None,
    shared: list[bool] | None = None,
    **rest: Any,
) -> Report:
    """Without them, where that can be."""
    return Factored(factoring).backward(
        Call(method, tasks, Parameters(list(params), sets, shared), weights, rules, **rest)
    )
