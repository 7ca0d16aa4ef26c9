"""From losses to the gradients of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .backward import accumulate
from .reach import narrowed
from .source import PLAIN, Source
from .storage import store
from .streams import lent
from .tasks import Tasks

__all__ = [
    "differentiate",
    "explain",
    "joint_backward",
    "joint_gradient",
    "raw_gradient",
    "task_gradients",
]


def differentiate(
    tasks: Tasks,
    params: Sequence[Tensor],
    retain_graph: bool = False,
    each: Callable[[int, Sequence[Tensor | None]], None] | None = None,
    source: Source = PLAIN,
) -> list[Tensor | None]:
    """Gradients of each loss with respect to each parameter, one backward a loss.

    The graph is freed by the last loss, unless ``retain_graph`` is set. Nothing is copied, and no
    ``.grad`` is touched. Where ``source.dtype`` is another than a parameter's, its gradients are
    converted after each backward, one by one, so that the last copy of a gradient is freed before the
    next is converted.

    Args:
        tasks: The losses.
        params: P parameters.
        retain_graph: Keeps the graph for another backward.
        each: Called with each task and its P gradients, before the next task's backward.
        source: How to differentiate.

    Returns:
        ``T × P`` gradients, row-major; ``None`` where a loss does not reach a parameter.

    Raises:
        RuntimeError: If the graph of a loss was freed by an earlier backward.
    """
    rows: list[Tensor | None] = []
    for t, found in enumerate(task_gradients(tasks, params, retain_graph, source)):
        rows += found
        if each is not None:
            each(t, found)
    return rows


def task_gradients(
    tasks: Tasks,
    params: Sequence[Tensor],
    retain_graph: bool = False,
    source: Source = PLAIN,
    order: Sequence[int] | None = None,
) -> Iterator[list[Tensor | None]]:
    """The P gradients of each task in turn, each computed when it is asked for; see :func:`differentiate`.

    ``order`` names the tasks of which gradients are wanted, each once; the graph is freed by the last of them.
    """
    if source.batching is not None and order is None:
        batched = source.batching.gradients(tasks, params, retain_graph)
        if batched is not None:
            for row in batched:
                yield row if source.dtype is None else store(row, source.dtype)
            return
    turns = range(len(tasks.losses)) if order is None else order
    present = frozenset(tasks.present)
    last = next((t for t in reversed(turns) if t in present), -1)
    reached = _narrowed(tasks, source)
    for t in turns:
        if t not in present:
            yield [None] * len(params)
        else:
            used = None if reached is None else reached[t]
            kept = retain_graph or t != last
            yield _task_gradient(tasks, t, params, kept, used, source)


def _narrowed(tasks: Tasks, source: Source) -> list[set[int]] | None:
    """The leaves of each loss, if autograd would find more; of one that is alone no other can be mistaken."""
    return (
        narrowed(tasks.losses, tasks.roots)
        if source.leaves_known and len(tasks.losses) > 1
        else None
    )


def _task_gradient(
    tasks: Tasks,
    t: int,
    params: Sequence[Tensor],
    retain_graph: bool,
    used: set[int] | None,
    source: Source,
) -> list[Tensor | None]:
    grads = raw_gradient(tasks, t, params, retain_graph, used, source)
    found = source.kept(grads)
    del grads
    return found if source.dtype is None else store(found, source.dtype)


def raw_gradient(
    tasks: Tasks,
    task: int,
    params: Sequence[Tensor],
    retain_graph: bool,
    used: set[int] | None = None,
    source: Source = PLAIN,
) -> Sequence[Tensor | None]:
    """The P gradients of a task that is there, as autograd returns them: they may be sparse.

    Args:
        tasks: The losses.
        task: Which of them.
        params: P tensors.
        retain_graph: Keeps the graph for another backward.
        used: The ``id`` of the leaves that the loss depends on, see :func:`mtl_ops.gradients.reach.narrowed`;
            ``None`` for what autograd finds.
        source: How to differentiate.
    """
    if used is None and params:
        return _derived(tasks, task, params, retain_graph, source)
    leaves = used or ()
    places = [p for p, param in enumerate(params) if id(param) in leaves or not param.is_leaf]
    rows: list[Tensor | None] = [None] * len(params)
    if places:
        found = _derived(tasks, task, [params[p] for p in places], retain_graph, source)
        for p, row in zip(places, found, strict=True):
            rows[p] = row
    return rows


def _derived(
    tasks: Tasks, task: int, params: Sequence[Tensor], retain_graph: bool, source: Source
) -> Sequence[Tensor | None]:
    """As :func:`raw_gradient`, of what autograd finds."""
    start = tasks.roots[task]
    assert start is not None
    try:
        with lent([start], params[0].device) as other:
            found = source.derive([start], params, [tasks.factor(task)], retain_graph)
    except RuntimeError as error:
        explain(error, tasks.label(task))
        raise
    if other is not None:
        other.keep(found)
    return found


def joint_gradient(
    tasks: Tasks,
    weights: Tensor,
    params: Sequence[Tensor],
    retain_graph: bool = False,
    source: Source = PLAIN,
) -> list[Tensor | None]:
    """The gradient of ``Σ_t w_t L_t`` with respect to each parameter, in one backward; see :class:`Source`."""
    losses, factors = _weighted(tasks, weights)
    if not losses:
        return [None] * len(params)
    try:
        rows = source.derive(losses, params, factors, retain_graph)
    except RuntimeError as error:
        explain(error, "one of them")
        raise
    return source.kept(rows)


def joint_backward(
    tasks: Tasks,
    weights: Tensor | Sequence[float],
    params: Sequence[Tensor],
    retain_graph: bool = False,
) -> None:
    """Adds the gradient of ``Σ_t w_t L_t`` to ``.grad``, as ``torch.autograd.backward`` does.

    Numbers as weights are for losses that are all there and finite, without a factor of their own.
    """
    losses: Sequence[Tensor | GradientEdge]
    factors: Sequence[Tensor]
    stacked = tasks.stacked
    if not isinstance(weights, Tensor):
        given = [one for one in tasks.losses if one is not None] if stacked is None else [stacked]
        losses, factors = given, _factors(given, weights)
    elif stacked is not None and weights.device.type == "cpu" and all(weights.tolist()):
        losses, factors = [stacked], [weights.to(stacked.dtype)]
    else:
        losses, factors = _weighted(tasks, weights)
    try:
        accumulate(losses, factors, params, retain_graph)
    except RuntimeError as error:
        explain(error, "one of them")
        raise


def _factors(losses: Sequence[Tensor], numbers: Sequence[float]) -> Sequence[Tensor]:
    """Of each loss on the CPU, or of the only one, which is ``(T,)``, in its dtype and shape."""
    some = losses[0]
    dtype = some.dtype if all(loss.dtype == some.dtype for loss in losses) else torch.float64
    first = numbers[0]
    if all(number == first for number in numbers):  # as of equal weights: in a shorter way
        together = torch.full((len(numbers),), first, dtype=dtype)
    else:
        together = torch.tensor(numbers, dtype=dtype)
    if len(losses) == 1:
        return [together.reshape(some.shape)] if some.dim() != 1 else [together]
    return [
        factor.to(loss.dtype).reshape(loss.shape) if loss.dim() or loss.dtype != dtype else factor
        for loss, factor in zip(losses, together.unbind(), strict=True)
    ]


def _weighted(tasks: Tasks, weights: Tensor) -> tuple[list[Tensor | GradientEdge], list[Tensor]]:
    """The losses that are there, and the factor of each in its own dtype and shape.

    Where it costs no wait, losses that are not finite and have the factor 0 are left out, unless all
    are: 0 times a derivative of Inf is NaN. The others are then differentiated from where they are by
    themselves, as a tensor of losses would hand zeros on to those that were left out.
    """
    used = tasks.present
    if weights.device.type == "cpu" and not all(weights.tolist()):
        good = ((weights != 0) | tasks.values.isfinite()).tolist()
        used = [t for t in used if good[t]] or used
    starts = tasks.losses if len(used) == len(tasks.present) else tasks.roots
    losses: list[Tensor | GradientEdge] = []
    factors: list[Tensor] = []
    by_dtype: dict[torch.dtype, Sequence[Tensor]] = {}
    for t in used:
        loss, start, factor = tasks.losses[t], starts[t], tasks.factor(t)
        assert loss is not None
        assert start is not None
        if loss.dtype not in by_dtype:
            by_dtype[loss.dtype] = weights.to(loss.dtype).unbind()
        weight = by_dtype[loss.dtype][t]
        if loss.dim():
            weight = weight.reshape(loss.shape)
        losses.append(start)
        factors.append(weight if factor is None else weight * factor)
    return losses, factors


def explain(error: RuntimeError, label: str) -> None:
    """One sentence for what users run into; any other error is left as it is.

    Raises:
        RuntimeError: With that sentence.
    """
    text = str(error)
    if "second time" in text:
        raise RuntimeError(
            "Parameter `losses` should hold losses whose graph is still there. "
            f"The graph of {label} was freed by an earlier backward; pass `retain_graph=True` to it."
        ) from error
    if "donated buffer" in text:
        raise RuntimeError(
            "Parameter `losses` should come from a model that can be differentiated once a task. "
            f"The one of {label} was compiled for a single backward: make the optimizer before anything is compiled, "
            "or set `torch._functorch.config.donated_buffer = False` before."
        ) from error
