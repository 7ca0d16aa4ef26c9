"""Merging without an optimizer: of a matrix, and of losses into ``.grad``."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from .gradients.checks import check_owned, check_plain
from .gradients.factored.make import make_factoring
from .gradients.graph import refuse_reentrant_checkpoints
from .gradients.parameters import Parameters
from .gradients.source import Gradients
from .gradients.tasks import Losses, Tasks, read_losses
from .merging.call import Call
from .merging.layout import Layout
from .merging.merge import merge_rows
from .merging.report import Report
from .merging.rules import Nonfinite, Rules, TaskWeights, read_task_weights
from .methods import Method, resolve
from .step.exact import Exact
from .step.factored import Factored
from .step.weighted_sum import WeightedSum

__all__ = ["backward", "merge"]


@overload
def merge(
    gradients: Tensor,
    method: str | Method = ...,
    *,
    losses: Tensor | None = ...,
    task_weights: TaskWeights | None = ...,
    max_task_norm: float | None = ...,
    clip_value: float | None = ...,
    max_norm: float | None = ...,
    nonfinite: Nonfinite = ...,
    return_weights: Literal[False] = ...,
    **given: Any,
) -> Tensor: ...


@overload
def merge(
    gradients: Tensor,
    method: str | Method = ...,
    *,
    losses: Tensor | None = ...,
    task_weights: TaskWeights | None = ...,
    max_task_norm: float | None = ...,
    clip_value: float | None = ...,
    max_norm: float | None = ...,
    nonfinite: Nonfinite = ...,
    return_weights: Literal[True],
    **given: Any,
) -> tuple[Tensor, Tensor]: ...


def merge(
    gradients: Tensor,
    method: str | Method = "upgrad",
    *,
    losses: Tensor | None = None,
    task_weights: TaskWeights | None = None,
    max_task_norm: float | None = None,
    clip_value: float | None = None,
    max_norm: float | None = None,
    nonfinite: Nonfinite = "propagate",
    return_weights: bool = False,
    **given: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Merges T gradients into one, ``d = Σ_t w_t g_t``.

    Args:
        gradients: ``(T, N)``, one gradient a row; float32, float64, bfloat16 or float16.
        method: A name out of ``mtl_ops.methods.available()``, or a method.
        losses: ``(T,)``, for methods that look at them.
        task_weights: T factors of the gradients, or a function of the step (here 0) that returns
            them; a task of weight 0 takes no part.
        max_task_norm: Clips the norm of each gradient.
        clip_value: Clamps each element to ``[-clip_value, clip_value]``.
        max_norm: Clips the norm of the merged gradient.
        nonfinite: ``"propagate"``: a gradient that is not finite makes the result NaN;
            ``"skip_task"``: it is left out, unless no other is left; ``"raise"``: an error.
            (``"skip_step"`` is as ``"propagate"`` here: there is no step.)
        return_weights: Returns w as well.
        **given: What the method otherwise draws or remembers, handed on to it.

    Returns:
        ``(N,)`` of the gradients' dtype and device; with ``return_weights`` also ``(T,)`` float64,
        the clip by ``max_norm`` included.

    Raises:
        TypeError: If an argument has the wrong type, or weights are asked of a method without.
        ValueError: If an argument is out of range.
        RuntimeError: If a gradient is not finite and ``nonfinite="raise"``.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]), "sum")
        tensor([0.5000, 0.5000])
    """
    if not isinstance(gradients, Tensor):
        raise TypeError(
            f"Parameter `gradients` should be a tensor. Found {type(gradients).__name__}."
        )
    if gradients.dim() != 2 or len(gradients) == 0:
        raise ValueError(
            "Parameter `gradients` should have shape (T, N) with T at least 1. "
            f"Found shape {tuple(gradients.shape)}."
        )
    if not gradients.is_floating_point():
        raise TypeError(
            f"Parameter `gradients` should be of a floating dtype. Found {gradients.dtype}."
        )
    tasks = len(gradients)
    if losses is not None and (not isinstance(losses, Tensor) or losses.shape != (tasks,)):
        found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"Parameter `losses` should be a tensor of shape ({tasks},). Found {found}."
        )
    weights = read_task_weights(task_weights, None, tasks, 0)
    rules = Rules(max_task_norm, clip_value, max_norm, nonfinite)
    chosen = resolve(method)
    if return_weights and chosen.needs == "coordinates":
        raise TypeError(
            f"Parameter `return_weights` should be False for method {chosen.name!r}, "
            "which works on single coordinates. Found True."
        )
    matrix = gradients.detach()
    out = torch.empty_like(matrix[0])
    known = Tasks(None, (None,) * tasks, part=(True,) * tasks, totals=losses)
    call = Call(chosen, known, Parameters([out]), weights, rules, given)
    report = merge_rows(call, matrix.unbind(), [out], Layout(None, (), 1, 1, (True,) * tasks, (0,)))
    if not return_weights:
        return out
    assert report.weights is not None
    w = report.weights[0]
    return out, w if report.clip_scale is None else w * report.clip_scale


def backward(
    losses: Losses,
    params: Iterable[Tensor],
    method: str | Method = "upgrad",
    *,
    task_weights: TaskWeights | None = None,
    max_task_norm: float | None = None,
    clip_value: float | None = None,
    max_norm: float | None = None,
    nonfinite: Nonfinite = "skip_task",
    shared: Iterable[Tensor] | None = None,
    gradients: Gradients = "dense",
    retain_graph: bool = False,
    **given: Any,
) -> Report:
    """Adds the merged gradient of several losses to the parameters' ``.grad``.

    For those who keep their own optimizer; :class:`mtl_ops.MultiTaskOptimizer` does the same and
    describes the arguments. A method that remembers things from step to step does so in the object
    that is passed, so pass the same one every time.

    Args:
        losses: A dict by name, a sequence, or a ``(T,)`` tensor; ``None`` for an absent task.
        params: The parameters to fill; those that require no gradient are left alone.
        method: A name or a method.
        task_weights: By name, in order, or a function of the step (here 0) that returns either.
        max_task_norm: Clips the norm of each task's gradient.
        clip_value: Clamps each element of each task's gradient.
        max_norm: Clips the norm of what is added to ``.grad``.
        nonfinite: ``"skip_task"``, ``"raise"`` or ``"propagate"``; ``"skip_step"`` is as
            ``"propagate"`` here.
        shared: The parameters to merge with the method, instead of those that two or more losses
            reach.
        gradients: ``"dense"``, ``"factored"``, ``"auto"`` or ``"by_sample"``. What is learnt of a kind of model is
            remembered from call to call.
        retain_graph: Keeps the graph for another backward.
        **given: What the method otherwise draws or remembers.

    Returns:
        What was measured and decided.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
        RuntimeError: If the graph of a loss was freed, or if a gradient is not finite and
            ``nonfinite="raise"``.

    Example:
        >>> import torch, mtl_ops
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> report = mtl_ops.backward([x.sum(), (x - 1).square().sum()], [x], "sum")
        >>> x.grad
        tensor([1., 3.])
    """
    read = read_losses(losses)
    if isinstance(params, Tensor):
        raise TypeError("Parameter `params` should be an iterable of parameters. Found a tensor.")
    refuse_reentrant_checkpoints(read.losses)
    everything = list(params)
    chosen = None if shared is None else check_owned("shared", shared, everything, "`params`")
    check_plain(everything)
    owned = list(dict.fromkeys(param for param in everything if param.requires_grad))
    if not owned:
        raise ValueError(
            "Parameter `params` should hold a tensor that requires a gradient. Found none."
        )
    weigher = resolve(method)
    _check_gradients(gradients, weigher, clip_value)
    named = None if chosen is None else {id(param) for param in chosen}
    flags = None if named is None else [id(param) in named for param in owned]
    call = Call(
        weigher,
        read,
        Parameters(owned, shared=flags),
        read_task_weights(task_weights, read.names, len(read.losses), 0),
        Rules(max_task_norm, clip_value, max_norm, nonfinite),
        given,
        retain_graph=retain_graph,
    )
    if call.method.needs == "losses" and not call.rules.per_task:
        return WeightedSum().backward(call)
    factoring = _factoring(gradients)
    if factoring is None:
        return Exact().backward(call)
    return Factored(factoring).backward(call)


#: What is learnt of kinds of models.
_factoring = functools.cache(make_factoring)


def _check_gradients(gradients: Gradients, method: Method, clip_value: float | None) -> None:
    """Raises a ValueError if there is no such way, or the gradient of each task is needed by itself."""
    if gradients not in get_args(Gradients):
        raise ValueError(
            f"Parameter `gradients` should be one of {', '.join(get_args(Gradients))}. "
            f"Found `gradients = {gradients!r}`."
        )
    if gradients in ("dense", "auto"):
        return
    found = None
    if method.needs != "gram" or method.tracks:
        found = f"method {method.name!r}"
    elif clip_value is not None:
        found = f"`clip_value = {clip_value}`"
    if found is not None:
        raise ValueError(
            "Parameter `gradients` should be 'dense' or 'auto' unless the Gram matrix of the gradients is all that is "
            f"needed. Found {found}."
        )
