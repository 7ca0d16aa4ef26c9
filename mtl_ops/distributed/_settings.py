"""What was chosen in each process, compared before anything depends on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._collectives import Collectives

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["check_settings", "compare", "show"]


def check_settings(
    facts: Mapping[str, Any],
    group: ProcessGroup | None = None,
    device: torch.device | None = None,
) -> None:
    """Checks that all processes of a group have chosen the same.

    What is sent is text, whose size is exchanged first, so the processes may differ in any way, also in
    which facts they have. All of them have to call this.

    Args:
        facts: By the name of the parameter: anything with the same ``repr`` where it is the same; of tensors the
            elements are compared, and of functions and other objects that are shown with an address, the kind.
        group: The process group; ``None`` for the default one.
        device: Through whose memory the group can send; ``None`` for the CPU.

    Raises:
        ValueError: On every process, if something differs: a sentence for each fact that does.
        RuntimeError: If another process fails, or is lost.

    Example:
        >>> check_settings({"method": "upgrad", "max_norm": 1.0})  # doctest: +SKIP
    """
    wire = Collectives(group)
    with wire.call():
        compare(wire, facts, device or torch.device("cpu"))


def compare(wire: Collectives, facts: Mapping[str, Any], device: torch.device) -> None:
    """:func:`check_settings`, within a call."""
    shown = wire.gather({name: show(value) for name, value in facts.items()}, device)
    names = list(dict.fromkeys(name for one in shown for name in one))
    found = []
    for name in names:
        values = [one.get(name, "none") for one in shown]
        other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            found.append(
                f"Parameter `{name}` should be the same on all processes. "
                f"Found {values[0]} on rank 0 and {values[other]} on rank {other}."
            )
    if found:
        raise wire.watch.common(ValueError(" ".join(found)))


def show(value: Any) -> str:
    """The same for the same values, and short."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
        shown = f"a tensor of shape {tuple(value.shape)}"
        return f"{shown} with hash {hashlib.sha256(data).hexdigest()[:16]}"
    if isinstance(value, Callable) and not isinstance(value, type):  # type: ignore[arg-type]
        return "a function"
    text = repr(value)
    return f"a {type(value).__name__}" if " at 0x" in text else text
