"""What methods remember, written in place; and Adam for one number for each task.

A step that was captured in a CUDA graph reads and writes, at every replay, the memory that it read and wrote when it
was captured. So a tensor of state stays where it is from its first call on: new values are copied into it, a
checkpoint is, and :meth:`Method.reset` fills it with what it held at first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.capture import capturing

__all__ = [
    "Adam",
    "forget",
    "keep",
    "mark",
    "recall",
    "recall_each",
    "refuse_first",
    "restore",
    "saved",
    "touch",
    "untouched",
    "writable",
]


def recall(
    method: Any,
    name: str,
    shape: tuple[int, ...],
    device: torch.device,
    first: float,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """The memory of that name, to be written to; before the first call, filled with ``first``.

    Args:
        method: Whose attribute it is: a tensor, ``None``, or a number, as in older checkpoints.
        name: Of the attribute.
        shape: Of the tasks or segments in this call.
        device: Where it is needed; it moves there.
        first: What it holds at first.
        dtype: Of a new one.

    Raises:
        ValueError: If it is of other tasks or segments.
        RuntimeError: If it would have to be made while a CUDA graph is captured.
    """
    memory = getattr(method, name)
    if _is_ready(method, name, memory, shape, device):  # in every step but a few
        return memory  # type: ignore[no-any-return]
    if isinstance(memory, Tensor) and untouched(method, name) and tuple(memory.shape) != shape:
        memory = None
    if not isinstance(memory, Tensor):
        refuse_first(method)
        value = first if memory is None else memory
        memory = torch.full(shape, value, dtype=dtype, device=device)
    elif tuple(memory.shape) != shape:
        raise ValueError(
            f"Method {method.name!r} should be called for the same tasks and segments every time "
            f"(`reset()` forgets them). Found shape {shape} after {tuple(memory.shape)}."
        )
    memory = writable(memory).to(device).contiguous()
    setattr(method, name, memory)
    _firsts(method)[name] = first
    touch(method, name)
    return memory


def recall_each(
    method: Any,
    device: torch.device,
    tasks: int,
    memories: tuple[tuple[str, tuple[int, ...], float], ...],
) -> tuple[Tensor, ...]:
    """As :func:`recall`, of several memories, each of which needs but one look in every step but a few.

    Args:
        method: Whose attributes they are.
        device: Where they are needed.
        tasks: T.
        memories: Of each the name, what its shape has before T, and what it holds at first.
    """
    known = vars(method)
    ready = known.get("_ready")
    if ready is not None and ready[0] == tasks and ready[1] == device:
        found: tuple[Tensor, ...] = ready[2]
        same = all(known[one[0]] is memory for one, memory in zip(memories, found, strict=True))
        if same and not known.get("_untouched"):
            return found
    found = tuple(
        recall(method, name, (*before, tasks), device, first) for name, before, first in memories
    )
    if not torch.is_inference_mode_enabled():  # what is made there has to be made anew outside
        method._ready = tasks, device, found
    return found


def _is_ready(
    method: Any, name: str, memory: Any, shape: tuple[int, ...], device: torch.device
) -> bool:
    """Whether a memory was recalled before, and needs no change."""
    if type(memory) is not Tensor or memory.shape != shape or memory.device != device:
        return False
    known = vars(method)
    if name not in known.get("_firsts", ()) or name in known.get("_untouched", ()):
        return False
    return memory.is_contiguous() and not memory.is_inference()


def refuse_first(method: Any) -> None:
    """Refuses to make a memory in a graph, which would make it anew, and fill it, at every replay.

    Raises:
        RuntimeError: If a CUDA graph is being captured.
    """
    if capturing():
        raise RuntimeError(
            f"Method {method.name!r} should take a step before one is captured in a CUDA graph, so that what it "
            "remembers is there. Found none."
        )


def keep(method: Any, **values: Tensor) -> None:
    """Copies new values into memories that were recalled in this call."""
    for name, value in values.items():
        getattr(method, name).copy_(value)


def forget(method: Any, name: str) -> None:
    """Fills a memory with what it held at first; what was never recalled becomes ``None``."""
    memory = getattr(method, name)
    if isinstance(memory, Tensor) and name in _firsts(method):
        memory = writable(memory)
        memory.fill_(_firsts(method)[name])
        setattr(method, name, memory)
        mark(method, name)
    else:
        setattr(method, name, None)


def restore(method: Any, name: str, value: Any) -> None:
    """Puts a value of a checkpoint into a memory: in place where it has the same shape."""
    known = getattr(method, name)
    if value is None:
        forget(method, name)
        return
    if isinstance(known, Tensor) and name in _firsts(method):
        same = not isinstance(value, Tensor) or value.shape == known.shape
        if same:
            known = writable(known)
            known.copy_(torch.as_tensor(value))
            value = known
        else:
            value = value.clone()
        touch(method, name)
    elif isinstance(value, Tensor):
        value = value.clone()
    setattr(method, name, value)


def saved(method: Any, name: str) -> Any:
    """What goes into a checkpoint: ``None`` for a memory that was reset, as before the first call."""
    return None if untouched(method, name) else getattr(method, name)


def untouched(method: Any, name: str) -> bool:
    """Whether a memory was reset and not recalled since."""
    return name in _names(method)


def touch(method: Any, name: str) -> None:
    """From now on the memory holds something."""
    _names(method).pop(name, None)


def mark(method: Any, name: str) -> None:
    """From now on the memory counts as never written to."""
    _names(method)[name] = True


def writable(memory: Tensor) -> Tensor:
    """The memory, or a copy of what was made in ``torch.inference_mode`` and cannot be written to outside."""
    outside = memory.is_inference() and not torch.is_inference_mode_enabled()
    return memory.clone() if outside else memory


def _firsts(method: Any) -> dict[str, float]:
    """What each memory that was ever recalled holds at first."""
    found: dict[str, float] = vars(method).setdefault("_firsts", {})
    return found


def _names(method: Any) -> dict[str, bool]:
    """Memories that were reset and not recalled since; a dict, which is copied before a step."""
    found: dict[str, bool] = vars(method).setdefault("_untouched", {})
    return found


class Adam:
    """The steps of ``torch.optim.Adam`` with β = (0.9, 0.999) and ε = 1e-8, for some of T numbers.

    Each number has a count of steps of its own, so that it is corrected rightly where a task is
    absent from some steps. Nothing here waits for the device.

    Args:
        lr: Learning rate.
        weight_decay: Added to the gradient, times the number.
    """

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        self.lr, self.weight_decay = lr, weight_decay

    def step(self, x: Tensor, grad: Tensor, where: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """New numbers ``(T,)`` and state ``(3, T)``: two moments and the count of steps.

        Args:
            x: ``(T,)`` float64.
            grad: ``(T,)`` float64.
            where: ``(T,)`` bool; other numbers stay, whatever their gradient.
            state: What the last call returned; zeros at first.
        """
        mean, square, steps = state.unbind()
        slope = torch.where(where, grad + self.weight_decay * x, 0.0)
        old = mean, square, steps
        mean, square = mean.lerp(slope, 0.1), 0.999 * square + 0.001 * slope.square()
        mean, square, steps = (
            torch.where(where, new, known)
            for new, known in zip((mean, square, steps + 1), old, strict=True)
        )
        size = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        step = self.lr * mean / (1 - 0.9**steps) / size
        return torch.where(where, x - step, x), torch.stack([mean, square, steps])
