"""From losses to the gradients of each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .graph import root

if TYPE_CHECKING:
    from .distributed import Processes

__all__ = ["Losses", "Tasks", "differentiate", "joint_backward", "joint_gradient", "read_losses"]

#: What a user may hand in: losses by name, in order, or as one tensor (T,).
Losses = Mapping[str, Tensor | None] | Sequence[Tensor | None] | Tensor


@dataclass(frozen=True)
class Tasks:
    """Losses in the order of the tasks; ``None`` for a task that is absent from this batch.

    Attributes:
        names: The tasks' names, or ``None`` if the losses came without.
        losses: T losses.
        scale: A 0-d factor of all gradients, that of a ``GradScaler``; ``None`` for 1.
        shares: What the gradients of this process count for in those of the joint batch.
        part: Whether any process has the task; ``None`` if there is only this one.
        totals: ``(T,)`` float64, the losses of the joint batch.
        parallel: The processes that the joint batch is spread over.
    """

    names: tuple[str, ...] | None
    losses: tuple[Tensor | None, ...]
    scale: Tensor | None = None
    shares: tuple[float, ...] | None = None
    part: tuple[bool, ...] | None = None
    totals: Tensor | None = None
    parallel: Processes | None = None

    def label(self, task: int) -> str:
        """How messages name a task."""
        return f"loss {self.names[task] if self.names else task!r}"

    @property
    def present(self) -> list[int]:
        """Tasks that have a loss."""
        return [t for t, loss in enumerate(self.losses) if loss is not None]

    @property
    def taking_part(self) -> list[int]:
        """Tasks that have a loss in any process."""
        return self.present if self.part is None else [t for t, p in enumerate(self.part) if p]

    def factor(self, task: int) -> Tensor | None:
        """What the gradient of a task is multiplied by; ``None`` for 1."""
        loss = self.losses[task]
        if loss is None or (self.scale is None and self.shares is None):
            return None
        share = torch.full_like(loss, 1.0 if self.shares is None else self.shares[task])
        return share if self.scale is None else share * self.scale.to(loss.dtype)

    @property
    def detached(self) -> list[Tensor | None]:
        """The losses, those of the joint batch if there are several processes, without graphs."""
        if self.totals is None or self.part is None:
            return [None if loss is None else loss.detach() for loss in self.losses]
        return [
            total if part else None
            for total, part in zip(self.totals.unbind(), self.part, strict=True)
        ]

    @property
    def values(self) -> Tensor:
        """``(T,)`` float64, detached; NaN for an absent task."""
        if self.totals is not None:
            return self.totals
        some = next(loss for loss in self.losses if loss is not None)
        absent = torch.full((), torch.nan, dtype=torch.float64, device=some.device)
        return torch.stack(
            [absent if loss is None else loss.detach().reshape(()).double() for loss in self.losses]
        )


def read_losses(
    losses: Losses,
    names: tuple[str, ...] | None = None,
    differentiable: bool = True,
    some: bool = True,
) -> Tasks:
    """Checks what the user handed in and puts it into the order of the tasks.

    Args:
        losses: A dict by name, a sequence, or a ``(T,)`` tensor; each loss a tensor of one element
            that requires a gradient, or ``None``. A name that is missing is ``None``, too.
        names: The tasks' names in order, if they are known already.
        differentiable: Whether the losses have to require a gradient.
        some: Whether there has to be a loss.

    Raises:
        TypeError: If ``losses``, or one of them, is something else.
        ValueError: If a loss is not scalar or needs no gradient, if losses lie on different
            devices, if there is none, or a name is unknown.
    """
    if isinstance(losses, Mapping):
        if names is None:
            names = tuple(losses)
        unknown = [name for name in losses if name not in names]
        if unknown:
            raise ValueError(
                f"Parameter `losses` should hold only the tasks {list(names)}, which were named first. "
                f"Found {unknown[0]!r}."
            )
        tasks = Tasks(names, tuple(losses.get(name) for name in names))
    elif isinstance(losses, Tensor):
        if losses.dim() != 1:
            raise ValueError(
                "Parameter `losses` should be a dict, a sequence or a tensor of shape (T,). "
                f"Found a tensor of shape {tuple(losses.shape)}."
            )
        tasks = Tasks(names, losses.unbind())
    elif isinstance(losses, Sequence) and not isinstance(losses, (str, bytes)):
        tasks = Tasks(names, tuple(losses))
    else:
        raise TypeError(
            "Parameter `losses` should be a dict, a sequence or a tensor of shape (T,). "
            f"Found {type(losses).__name__}."
        )
    if names is not None and len(tasks.losses) != len(names):
        raise ValueError(
            f"Parameter `losses` should hold {len(names)} losses, for {list(names)}. "
            f"Found {len(tasks.losses)}."
        )
    if some and not tasks.present:
        raise ValueError("Parameter `losses` should hold at least one loss. Found none.")
    _check(tasks, differentiable)
    return tasks


def _check(tasks: Tasks, differentiable: bool) -> None:
    device = None
    for t in tasks.present:
        loss = tasks.losses[t]
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"Parameter `losses` should hold tensors. Found {tasks.label(t)} of type "
                f"{type(loss).__name__}."
            )
        if loss.numel() != 1:
            raise ValueError(
                "Parameter `losses` should hold scalars. "
                f"Found {tasks.label(t)} of shape {tuple(loss.shape)}."
            )
        if differentiable and root(loss) is None:
            raise ValueError(
                "Parameter `losses` should hold tensors that require a gradient. "
                f"Found {tasks.label(t)}, which does not."
            )
        if device is None:
            device = loss.device
        elif loss.device != device:
            raise ValueError(
                "Parameter `losses` should hold tensors on one device. "
                f"Found {tasks.label(t)} on {loss.device} and another on {device}."
            )


def differentiate(
    tasks: Tasks,
    params: Sequence[Tensor],
    retain_graph: bool = False,
    each: Callable[[int, Sequence[Tensor | None]], None] | None = None,
) -> list[Tensor | None]:
    """Gradients of each loss with respect to each parameter, one backward a loss.

    The graph is freed by the last loss, unless ``retain_graph`` is set. Nothing is copied, and no
    ``.grad`` is touched.

    Args:
        tasks: The losses.
        params: P parameters.
        retain_graph: Keeps the graph for another backward.
        each: Called with each task and its P gradients, before the next task's backward.

    Returns:
        ``T × P`` gradients, row-major; ``None`` where a loss does not reach a parameter.

    Raises:
        RuntimeError: If the graph of a loss was freed by an earlier backward.
    """
    rows: list[Tensor | None] = []
    last = max(tasks.present, default=-1)
    nothing = [None] * len(params)
    for t, loss in enumerate(tasks.losses):
        if loss is None:
            rows += nothing
            if each is not None:
                each(t, nothing)
            continue
        start, factor = root(loss), tasks.factor(t)
        assert start is not None
        try:
            grads = _derive(tasks, [start], params, [factor], retain_graph or t != last)
        except RuntimeError as error:
            raise _explained(error, tasks.label(t)) from error
        found = [dense(row) for row in grads]
        rows += found
        if each is not None:
            each(t, found)
    return rows


def joint_gradient(
    tasks: Tasks, weights: Tensor, params: Sequence[Tensor], retain_graph: bool = False
) -> list[Tensor | None]:
    """The gradient of ``Σ_t w_t L_t`` with respect to each parameter, in one backward."""
    losses, factors = _weighted(tasks, weights)
    if not losses:
        return [None] * len(params)
    try:
        rows = _derive(tasks, losses, params, factors, retain_graph)
    except RuntimeError as error:
        raise _explained(error, "one of them") from error
    return [dense(row) for row in rows]


def _derive(
    tasks: Tasks,
    outputs: Sequence[Any],
    params: Sequence[Tensor],
    factors: Sequence[Tensor | None],
    retain_graph: bool,
) -> Sequence[Tensor | None]:
    """The gradient of ``Σ factor · output`` by each parameter; ``None`` where none reaches it."""
    if tasks.parallel is not None:
        return tasks.parallel.derive(outputs, params, factors, retain_graph)
    return torch.autograd.grad(
        outputs, params, factors, retain_graph=retain_graph, allow_unused=True
    )


def joint_backward(
    tasks: Tasks, weights: Tensor, params: Sequence[Tensor], retain_graph: bool = False
) -> None:
    """Adds the gradient of ``Σ_t w_t L_t`` to ``.grad``, as ``torch.autograd.backward`` does."""
    losses, factors = _weighted(tasks, weights)
    try:
        torch.autograd.backward(losses, factors, retain_graph=retain_graph, inputs=list(params))
    except RuntimeError as error:
        raise _explained(error, "one of them") from error


def dense(row: Tensor | None) -> Tensor | None:
    """A gradient that the kernels can read: sparse ones are filled in."""
    return row if row is None or row.layout == torch.strided else row.to_dense()


def _weighted(tasks: Tasks, weights: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The losses that are there, and the factor of each in its own dtype and shape.

    Where it costs no wait, losses that are not finite and have the factor 0 are left out, unless all
    are: 0 times a derivative of Inf is NaN.
    """
    used = tasks.present
    if weights.device.type == "cpu":
        good = ((weights != 0) | tasks.values.isfinite()).tolist()
        used = [t for t in used if good[t]] or used
    losses, factors = [], []
    for t in used:
        loss, factor = tasks.losses[t], tasks.factor(t)
        assert loss is not None
        weight = weights[t].to(loss.dtype).reshape(loss.shape)
        losses.append(loss)
        factors.append(weight if factor is None else weight * factor)
    return losses, factors


def _explained(error: RuntimeError, label: str) -> RuntimeError:
    """One sentence for what users run into; any other error as it is."""
    text = str(error)
    if "second time" in text:
        return RuntimeError(
            "Parameter `losses` should hold losses whose graph is still there. "
            f"The graph of {label} was freed by an earlier backward; pass `retain_graph=True` to it."
        )
    if "donated buffer" in text:
        return RuntimeError(
            "Parameter `losses` should come from a model that can be differentiated once a task. "
            f"The one of {label} was compiled for a single backward: make the optimizer before anything is compiled, "
            "or set `torch._functorch.config.donated_buffer = False` before."
        )
    return error
