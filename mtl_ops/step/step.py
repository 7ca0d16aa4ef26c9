"""What every way of taking a step has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from ..gradients.accumulation import Accumulated
from ..gradients.source import PLAIN, Source
from ..merging.call import Call
from ..merging.report import Report
from ..merging.sink import GRADS, Sink

__all__ = ["Step", "as_sparse", "finish"]


class Step(ABC):
    """One way of taking a step, chosen once: which backwards are run, and in which order.

    Args:
        source: Where gradients come from.
        sink: Where the merged gradient lands.

    Attributes:
        takes_features: Whether a call brings features.
        sums: The gradients of micro-batches that are not merged yet.
        how: What a user may want to know of it, for ``repr``; empty for nothing.
    """

    takes_features = False
    how = ""

    def __init__(self, source: Source = PLAIN, sink: Sink = GRADS) -> None:
        self.source, self.sink = source, sink
        self.sums: Accumulated | None = None

    @property
    def counts(self) -> bool:
        """Whether the next backward sees the gradient of each task and counts those that are not finite."""
        return True

    @abstractmethod
    def backward(self, call: Call) -> Report:
        """Differentiates the losses and adds the merged gradient to ``.grad``, with :attr:`sums`, which it takes."""

    @abstractmethod
    def accumulate(self, call: Call) -> None:
        """Differentiates the losses of a micro-batch and adds to :attr:`sums`; no ``.grad`` changes."""

    def take_sums(self) -> Accumulated | None:
        """The sums, which are this step's no more."""
        sums, self.sums = self.sums, None
        return sums

    def forget(self) -> None:
        """As ``zero_grad`` does."""
        self.sums = None

    def state_dict(self) -> dict[str, Any]:
        """What it remembers from step to step, in types that ``torch.load(weights_only=True)`` reads."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restores what :meth:`state_dict` returned."""

    def reset(self) -> None:  # noqa: B027
        """Forgets what it remembers."""


def as_sparse(source: Source, sink: Sink, call: Call) -> Source:
    """The source with gradients as sparse as they are, where what follows takes them."""
    takes = sink.alone and source.dtype is None and not call.method.tracks
    return source.with_sparse if takes else source


def finish(call: Call, report: Report) -> Report:
    """The end of a step: what the method learns itself, and the losses in the report."""
    if call.method.learns:
        losses = call.shown_losses
        if losses is not None:
            call.method.add_grads(losses, call.scale)
    report._losses = call.tasks.shown
    return report
