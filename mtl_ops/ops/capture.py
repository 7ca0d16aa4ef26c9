"""Whether what is launched now goes into a CUDA graph, to be replayed later, instead of being run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["capturing", "drawing", "refuse_sparse"]


def capturing() -> bool:
    """Whether the current stream is being captured; asks the device only where CUDA is in use already."""
    return _stream_is_captured()


def _stream_is_captured() -> bool:
    """The one place where torch is asked."""
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started and torch.cuda.is_current_stream_capturing()


@contextmanager
def drawing(generator: torch.Generator | None) -> Iterator[None]:
    """Around what draws from a generator: says what to do about one that the graph does not know.

    Raises:
        RuntimeError: If torch refuses to draw from it while a graph is captured.
    """
    try:
        yield
    except RuntimeError as error:
        if generator is None or not capturing():
            raise
        raise RuntimeError(
            "Parameter `generator` should be registered with the CUDA graph before it is captured: "
            f"`graph.register_generator_state(generator)`. Found one from which torch does not draw: {error}"
        ) from error


def refuse_sparse() -> None:
    """Refuses sparse gradients in a graph: how many elements they have is known to the host alone.

    Raises:
        RuntimeError: If a CUDA graph is being captured.
    """
    if capturing():
        raise RuntimeError(
            "Gradients should be dense while a CUDA graph is captured, because the elements of a sparse one are "
            "counted on the host. Found a sparse gradient: use `sparse=False` in the embedding."
        )
