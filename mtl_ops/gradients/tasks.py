"""What the user hands in: losses, in whatever form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..ops.known import readable
from .checks import check_outside_transforms
from .lazy import Lazy
from .reach import root, roots_of_stack, surely_differentiable

__all__ = ["Losses", "Tasks", "read_losses"]

#: What a user may hand in: losses by name, in order, or as one tensor (T,).
Losses = Mapping[str, Tensor | None] | Sequence[Tensor | None] | Tensor


class _Elements(Sequence[Tensor]):
    """The elements of a tensor ``(T,)``, which is taken apart only if somebody looks at one."""

    def __init__(self, stacked: Tensor) -> None:
        self._stacked, self._count = stacked, stacked.shape[0]
        self._apart: tuple[Tensor, ...] | None = None

    def _all(self) -> tuple[Tensor, ...]:
        if self._apart is None:
            self._apart = self._stacked.unbind()
        return self._apart

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        return self._all()[place]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._all())


@dataclass(eq=False)
class Tasks:
    """Losses in the order of the tasks; ``None`` for a task that is absent from this batch.

    Attributes:
        names: The tasks' names, or ``None`` if the losses came without.
        losses: T losses.
        scale: A 0-d factor of all gradients, that of a ``GradScaler``; ``None`` for 1.
        shares: What the gradients of this process count for in those of the joint batch.
        part: Whether any process has the task; ``None`` if there is only this one.
        totals: ``(T,)`` float64, the losses of the joint batch.
        stacked: ``(T,)``, the tensor whose elements the losses are; ``None`` if they came one by one, or changed.
    """

    names: tuple[str, ...] | None
    losses: Sequence[Tensor | None]
    scale: Tensor | None = None
    shares: tuple[float, ...] | None = None
    part: tuple[bool, ...] | None = None
    totals: Tensor | None = None
    stacked: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def of_elements(cls, names: tuple[str, ...] | None, stacked: Tensor) -> Tasks:
        """The losses that are the elements of a tensor ``(T,)``."""
        tasks = cls(names, _Elements(stacked))
        tasks.stacked = stacked
        return tasks

    def label(self, task: int) -> str:
        """How messages name a task."""
        return f"loss {self.names[task] if self.names else task!r}"

    @property
    def present(self) -> list[int]:
        """Tasks that have a loss."""
        if self.stacked is not None:
            return list(range(len(self.losses)))
        return [t for t, loss in enumerate(self.losses) if loss is not None]

    @property
    def taking_part(self) -> list[int]:
        """Tasks that have a loss in any process."""
        return self.present if self.part is None else [t for t, p in enumerate(self.part) if p]

    def factor(self, task: int) -> Tensor | None:
        """What the gradient of a task is multiplied by; ``None`` for 1."""
        if self.scale is None and self.shares is None:
            return None
        loss = self.losses[task]
        if loss is None:
            return None
        share = torch.full_like(loss, 1.0 if self.shares is None else self.shares[task])
        return share if self.scale is None else share * self.scale.to(loss.dtype)

    @Lazy
    def roots(self) -> list[Tensor | GradientEdge | None]:
        """Where the backward of each loss begins; see :func:`mtl_ops.gradients.reach.root`."""
        stack = None if self.stacked is None else roots_of_stack(self.stacked)
        if stack is not None:
            return [*stack]
        # what is no tensor is refused by its check, one after the other
        return [root(loss) if isinstance(loss, Tensor) else None for loss in self.losses]

    @Lazy
    def detached(self) -> list[Tensor | None]:
        """The losses, those of the joint batch if there are several processes, without graphs."""
        if self.totals is None or self.part is None:
            if self.stacked is not None:
                return [*self.stacked.detach().unbind()]
            return [None if loss is None else loss.detach() for loss in self.losses]
        return [
            total if part else None
            for total, part in zip(self.totals.unbind(), self.part, strict=True)
        ]

    @property
    def shown(self) -> Sequence[Tensor | None] | Tensor:
        """As :attr:`detached`, or a tensor ``(T,)`` of all, which is taken apart only if somebody looks."""
        known: Tensor | None = vars(self).get("values")  # if somebody has asked for them
        if known is not None:
            return known
        if self.totals is None and self.stacked is not None:
            return self.stacked.detach()
        return self.detached

    def summed(self, losses: Sequence[Tensor | None]) -> Tasks:
        """With the sums of what is :attr:`detached` over several batches."""
        if self.totals is None:
            return replace(self, losses=tuple(losses))
        absent = torch.full_like(self.totals[0], torch.nan)
        totals = torch.stack([absent if loss is None else loss for loss in losses])
        return replace(self, totals=totals, part=tuple(loss is not None for loss in losses))

    @property
    def valued(self) -> bool:
        """Whether there is a loss to look at."""
        return self.totals is not None or bool(self.present)

    @Lazy
    def numbers(self) -> list[float] | None:
        """The losses of this process, if all are there and can be read without a wait."""
        stacked = self.stacked
        if stacked is not None:
            return stacked.tolist() if readable(stacked) else None
        if not all(loss is not None and readable(loss) for loss in self.losses):
            return None
        return [loss.item() for loss in self.losses if loss is not None]

    @Lazy
    def values(self) -> Tensor:
        """``(T,)`` float64, detached; NaN for an absent task."""
        if self.totals is not None:
            return self.totals
        if self.stacked is not None:
            return self.stacked.detach().double()
        if self.numbers:  # in fewer calls than without a look at them
            return torch.tensor(self.numbers, dtype=torch.float64)
        known = [loss for loss in self.detached if loss is not None]
        some = known[0]
        alike = len(known) == len(self.losses)
        if alike and all(not loss.dim() and loss.dtype == some.dtype for loss in known):
            return torch.stack(known).double()
        absent = torch.full((), torch.nan, dtype=torch.float64, device=some.device)
        return torch.stack(
            [absent if loss is None else loss.reshape(()).double() for loss in self.detached]
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
    if isinstance(losses, Tensor):
        if losses.dim() != 1:
            raise ValueError(
                "Parameter `losses` should be a dict, a sequence or a tensor of shape (T,). "
                f"Found a tensor of shape {tuple(losses.shape)}."
            )
        tasks = Tasks.of_elements(names, losses)
    elif isinstance(losses, Mapping):
        if names is None:
            names = tuple(losses)
        unknown = [name for name in losses if name not in names]
        if unknown:
            raise ValueError(
                f"Parameter `losses` should hold only the tasks {list(names)}, which were named first. "
                f"Found {unknown[0]!r}."
            )
        tasks = Tasks(names, tuple(losses.get(name) for name in names))
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


def _is_plain(tasks: Tasks, differentiable: bool) -> bool:
    """Whether all losses are right, as the elements of one tensor are that is."""
    stacked = tasks.stacked
    if stacked is None or stacked.is_complex():
        return False
    if not differentiable or surely_differentiable(stacked):
        return True
    return all(start is not None for start in tasks.roots)


def _check(tasks: Tasks, differentiable: bool) -> None:
    stacked = tasks.stacked
    check_outside_transforms("losses", tasks.losses if stacked is None else (stacked,))
    if _is_plain(tasks, differentiable):
        return
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
        if loss.is_complex():
            raise TypeError(
                f"Parameter `losses` should hold real numbers. Found {tasks.label(t)} of {loss.dtype}."
            )
        if differentiable and tasks.roots[t] is None:
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
