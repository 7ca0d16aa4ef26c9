"""What a CUDA graph cannot hold: each with the reason, said while the graph is captured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..ops.capture import capturing
from .settings import Settings

__all__ = ["OBSTACLES", "Captured", "Obstacle", "check_capture"]


@dataclass(frozen=True)
class Captured:
    """What is captured, besides the options.

    Attributes:
        first: Whether no step was taken yet.
        fused: Whether the inner optimizer skips a step by itself.
        sums: Whether there are sums of micro-batches, and if so whether they began in a graph.
    """

    first: bool = False
    fused: bool = True
    sums: bool | None = None


@dataclass(frozen=True)
class Obstacle:
    """What a graph would repeat as it was when it was captured, or what waits for the device.

    Attributes:
        option: The option.
        when: Whether it has such a value.
        otherwise: What it should be.
        why: The rest of the sentence.
    """

    option: str
    when: Callable[[Settings, Captured], bool]
    otherwise: str
    why: str


OBSTACLES: tuple[Obstacle, ...] = (
    Obstacle(
        "task_weights",
        lambda s, _: callable(s.task_weights),
        "numbers",
        "whose replays call no function",
    ),
    Obstacle(
        "weights_every",
        lambda s, _: s.weights_every > 1,
        "1",
        "whose replays all measure, or all do not",
    ),
    Obstacle(
        "fresh",
        lambda s, _: s.fresh is not None,
        "None",
        "whose replays differentiate the same tasks every time",
    ),
    Obstacle(
        "groups",
        lambda s, _: s.groups is not None,
        "None",
        "whose replays evaluate no losses anew for each turn",
    ),
    Obstacle(
        "nonfinite",
        lambda s, _: s.nonfinite == "raise",
        "'skip_task', 'skip_step' or 'propagate'",
        "in which nobody can wait for the device",
    ),
    Obstacle(
        "nonfinite",
        lambda s, c: s.nonfinite == "skip_step" and not c.fused,
        "'skip_task' or 'propagate', or the inner optimizer fused,",
        "in which nobody can wait for the device to learn that a step is to be skipped",
    ),
)


def check_capture(settings: Settings, captured: Callable[[], Captured]) -> None:
    """Checks, if a CUDA graph is being captured, that its replays do what steps do.

    Args:
        settings: The options.
        captured: What else bears on it; asked only while a graph is captured.

    Raises:
        RuntimeError: If they would not.
    """
    if not capturing():
        return
    what = captured()
    for obstacle in OBSTACLES:
        if obstacle.when(settings, what):
            raise RuntimeError(
                f"Parameter `{obstacle.option}` should be {obstacle.otherwise} while a CUDA graph is captured, "
                f"{obstacle.why}. Found {_shown(obstacle.option, settings)}."
            )
    if what.first:
        raise RuntimeError(
            "A step should be taken before one is captured in a CUDA graph, so that what is remembered from step to "
            "step is there (with `mtl_ops.backward`, in `state`). Found none."
        )
    if what.sums is False:
        raise RuntimeError(
            "Micro-batches should be accumulated in the CUDA graph that merges them, which would add its own to the "
            "same sums at every replay. Found sums from before the capture."
        )


def _shown(option: str, settings: Settings) -> str:
    value: Any = getattr(settings, option)
    return f"`{option} = a function`" if callable(value) else f"`{option} = {value!r}`"
