"""Merging without an optimizer: of a matrix, and of losses into ``.grad``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .distributed import Samples
from .gradients.checks import check_dtypes, check_outside_transforms
from .gradients.layout import Layout
from .gradients.parameters import Parameters
from .gradients.tasks import Losses, Tasks
from .merging.averaged import merge_averages
from .merging.call import Call
from .merging.merge import merge_rows
from .merging.report import Report
from .merging.rules import Rules, read_task_weights
from .methods import Method, Momentum, resolve
from .optim.facts import Situation, check_together
from .optim.merger import Holder, Merger, Request
from .optim.settings import Settings, make_settings

__all__ = ["backward", "merge"]

#: Options of :func:`merge` that are the same for every method.
_RULES = ("max_task_norm", "clip_value", "max_norm", "nonfinite", "normalise", "keep_scale")

#: Options of the optimizer that belong to its ``step``.
_OF_STEPS = ("groups", "order", "closing_joint")


@overload
def merge(
    gradients: Tensor,
    method: str | Method = ...,
    *,
    losses: Tensor | None = ...,
    out: Tensor | None = ...,
    return_weights: Literal[False] = ...,
    **options: Any,
) -> Tensor: ...


@overload
def merge(
    gradients: Tensor,
    method: str | Method = ...,
    *,
    losses: Tensor | None = ...,
    out: Tensor | None = ...,
    return_weights: Literal[True],
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


def merge(
    gradients: Tensor,
    method: str | Method = "upgrad",
    *,
    losses: Tensor | None = None,
    out: Tensor | None = None,
    return_weights: bool = False,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Merges T gradients into one, ``d = Σ_t w_t g_t``.

    Args:
        gradients: ``(T, N)``, one gradient a row; float32, float64, bfloat16 or float16.
        method: A name out of ``mtl_ops.methods.available()``, or a method.
        losses: ``(T,)``, for methods that look at them.
        out: ``(N,)`` of the gradients' dtype and device, to write to instead of a new tensor: most of the
            time that a large one takes is its memory's first touch.
        return_weights: Returns w as well.
        task_weights: T factors of the gradients, or a function of the step (here 0) that returns
            them; a task of weight 0 takes no part.
        max_task_norm: Clips the norm of each gradient.
        clip_value: Clamps each element to ``[-clip_value, clip_value]``.
        max_norm: Clips the norm of the merged gradient.
        nonfinite: ``"propagate"``: a gradient that is not finite makes the result NaN;
            ``"skip_task"``: it is left out, unless no other is left; ``"raise"``: an error.
            (``"skip_step"`` is as ``"propagate"`` here: there is no step.)
        normalise: What each gradient is divided by before it is weighed: ``"none"``; ``"l2"``, its length;
            ``"loss"``, its loss; ``"loss+"``, both. Weights of tasks are factors of what is normalised, and w
            belongs to the gradients as they are. A zero gradient stays; a loss that is not positive makes
            the result NaN. For methods that weigh gradients by their inner products.
        keep_scale: Multiplies all normalised gradients by one number, so that their mean length is kept.
        **options: The seven above, and what the method otherwise draws or remembers, handed on to it.

    Returns:
        ``(N,)`` of the gradients' dtype and device, ``out`` if it was given; with ``return_weights`` also
        ``(T,)`` float64, the clip by ``max_norm`` included.

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
    if gradients.layout != torch.strided or gradients.is_nested:
        kind = "a nested tensor" if gradients.is_nested else f"layout {gradients.layout}"
        raise TypeError(f"Parameter `gradients` should be a dense tensor. Found {kind}.")
    if gradients.dim() != 2 or len(gradients) == 0:
        raise ValueError(
            "Parameter `gradients` should have shape (T, N) with T at least 1. "
            f"Found shape {tuple(gradients.shape)}."
        )
    check_dtypes("gradients", [gradients.dtype])
    check_outside_transforms("gradients", [gradients, losses])
    tasks = len(gradients)
    if losses is not None and (not isinstance(losses, Tensor) or losses.shape != (tasks,)):
        found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"Parameter `losses` should be a tensor of shape ({tasks},). Found {found}."
        )
    weights = read_task_weights(options.pop("task_weights", None), None, tasks, 0)
    rules = Rules(**{name: options.pop(name) for name in _RULES if name in options})
    chosen = resolve(method)
    if return_weights and chosen.needs == "coordinates":
        raise TypeError(
            f"Parameter `return_weights` should be False for method {chosen.name!r}, "
            "which works on single coordinates. Found True."
        )
    if rules.normalise != "none":
        check_together(Settings(chosen, normalise=rules.normalise), Situation())
    matrix = gradients.detach()
    out = torch.empty_like(matrix[0]) if out is None else _checked_out(out, matrix)
    known = Tasks(None, (None,) * tasks, part=(True,) * tasks, totals=losses)
    call = Call(chosen, known, Parameters([out]), weights, rules, options)
    whole = Layout(None, (), 1, 1, (True,) * tasks, (0,))

    def merge_all(call: Call, rows: list[Tensor | None]) -> Report:
        return merge_rows(call, rows, [out], whole)

    if isinstance(chosen, Momentum):
        report = merge_averages(call, lambda: losses, [*matrix.unbind()], lambda: [out], merge_all)
    else:
        report = merge_all(call, [*matrix.unbind()])
    if not return_weights:
        return out
    assert report.weights is not None
    w = report.weights[0]
    return out, w if report.clip_scale is None else w * report.clip_scale


def _checked_out(out: Tensor, matrix: Tensor) -> Tensor:
    """Where to write what is merged of a matrix; the operators check that it overlaps no row."""
    if not isinstance(out, Tensor):
        raise TypeError(f"Parameter `out` should be a tensor. Found {type(out).__name__}.")
    wanted = (matrix.shape[1:], matrix.dtype, matrix.device)
    if (out.shape, out.dtype, out.device) != wanted or out.requires_grad:
        raise ValueError(
            f"Parameter `out` should be a tensor of shape {tuple(wanted[0])}, {wanted[1]}, on {wanted[2]}, that "
            f"requires no gradient. Found shape {tuple(out.shape)}, {out.dtype}, on {out.device}"
            f"{', with a gradient' if out.requires_grad else ''}."
        )
    return out


def backward(
    losses: Losses,
    params: Iterable[Tensor],
    method: str | Method = "upgrad",
    *,
    state: dict[str, Any] | None = None,
    features: Tensor | Sequence[Tensor] | None = None,
    samples: Samples = 1.0,
    retain_graph: bool = False,
    **options: Any,
) -> Report:
    """Adds the merged gradient of several losses to the parameters' ``.grad``.

    For those who keep their own optimizer; :class:`mtl_ops.MultiTaskOptimizer` does the same through the same
    objects, and describes the options. Where a process group is initialised, it merges over the processes.

    Args:
        losses: A dict by name, a sequence, or a ``(T,)`` tensor; ``None`` for an absent task.
        params: The parameters to fill; those that require no gradient are left alone.
        method: A name or a method. One that remembers things from call to call does so in the object that is
            passed, so pass the same one every time.
        state: A dict, empty at first, for what else is remembered from call to call: pass the same one every
            time, with the same parameters, method and options. It is needed for ``weights_every``; it counts
            the calls, for ``task_weights`` that depend on the step; and what is checked once (that processes
            agree, what the graph hides, how gradients are factored) is checked at the first call alone.
        features: With ``gram_on="features"``: what the heads are computed from.
        samples: How many samples of this process's batch each loss is the mean of.
        retain_graph: Keeps the graph for another backward.
        **options: Those of :class:`mtl_ops.MultiTaskOptimizer`, but for ``groups``, ``order`` and
            ``closing_joint``, which belong to its ``step``. ``nonfinite="skip_step"`` is as ``"propagate"``
            here, and a ``grad_scaler`` is not told of an Inf in a task that is left out. What is no option is
            handed to the method: what it otherwise draws or remembers.

    Returns:
        What was measured and decided.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or options do not go together.
        RuntimeError: If the graph of a loss was freed, or if a gradient is not finite and
            ``nonfinite="raise"``.

    After any error, and after Ctrl+C, ``.grad`` and what the method remembers are as before, but for memories
    of the gradients' size.

    Example:
        >>> import torch, mtl_ops
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> report = mtl_ops.backward([x.sum(), (x - 1).square().sum()], [x], "sum")
        >>> x.grad
        tensor([1., 3.])
    """
    if isinstance(params, Tensor):
        raise TypeError("Parameter `params` should be an iterable of parameters. Found a tensor.")
    everything = list(params)
    check_outside_transforms("losses", [p for p in everything if isinstance(p, Tensor)])
    if not any(isinstance(param, Tensor) and param.requires_grad for param in everything):
        raise ValueError(
            "Parameter `params` should hold a tensor that requires a gradient. Found none."
        )
    for name in _OF_STEPS:
        if name in options:
            raise TypeError(
                f"Parameter `{name}` should be given to `MultiTaskOptimizer`, whose `step` takes turns. "
                f"Found `{name} = {options[name]!r}`."
            )
    known = {field.name for field in fields(Settings)}
    given = {name: options.pop(name) for name in list(options) if name not in known}
    merger = _merger(everything, method, options, state)
    with merger.together():
        merger.backward(losses, Request(features, samples, retain_graph, given))
    merger.progress.steps += 1
    return merger.progress.report


def _merger(
    params: list[Tensor],
    method: str | Method,
    options: dict[str, Any],
    state: dict[str, Any] | None,
) -> Merger:
    """What merges: as made at the first call with this state.

    Raises:
        TypeError: If the state is something else.
        ValueError: If it is missing and needed, or of other parameters, another method or other options.
    """
    if state is not None and not isinstance(state, dict):
        raise TypeError(f"Parameter `state` should be a dict. Found {type(state).__name__}.")
    asked = {"params": [id(param) for param in params], "method": method, **options}
    if state:
        found = state["asked"]
        for name in {**found, **asked}:
            if not _same(found.get(name), asked.get(name)):
                raise ValueError(
                    f"Parameter `state` should be passed with the same `{name}` every time. Found another."
                )
        merger: Merger = state["merger"]
        return merger
    settings = make_settings(method, params, "`params`", **options)
    if state is None and settings.fresh is not None:
        raise ValueError(
            "Parameter `state` should be given with `fresh`, which depends on the number of the step that is counted "
            "there. Found `state = None` and a `fresh`."
        )
    if state is None and settings.weights_every != 1:
        raise ValueError(
            "Parameter `state` should be given with `weights_every`, whose weights are remembered there. "
            f"Found `state = None` and `weights_every = {settings.weights_every}`."
        )
    merger = Merger(settings, Holder([{"params": params}]), learns=False)
    if state is None:
        merger.progress.looked_at_graph = True  # it takes longer than a small step
    else:
        state.update(merger=merger, asked=asked)
    return merger


def _same(one: Any, two: Any) -> bool:
    """Whether an option was not changed; of lists of parameters, whether they are the same ones."""
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, Tensor) or isinstance(two, Tensor):
        return one is two
    return one is two or bool(one == two)
