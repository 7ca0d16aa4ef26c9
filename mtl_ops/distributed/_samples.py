"""How many samples a loss is the mean of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

from ..gradients.tasks import Tasks

__all__ = ["Samples", "read_samples"]

#: How many samples of this process's batch each task has: one number, by name, or in order.
Samples = float | Mapping[str, float] | Sequence[float]


def read_samples(samples: Samples, tasks: Tasks) -> list[float]:
    """The number of samples of each task in this process's batch; 0 for one that is absent.

    Raises:
        ValueError: If there are not T numbers of at least 0, or a name is unknown.
    """
    if isinstance(samples, float) and samples == 1.0:  # what is left out, in nearly every step
        return [0.0 if loss is None else 1.0 for loss in tasks.losses]
    if isinstance(samples, Mapping):
        names = tasks.names or ()
        unknown = [name for name in samples if name not in names]
        if unknown:
            raise ValueError(
                f"Parameter `samples` should name tasks out of {list(names)}. Found {unknown[0]!r}."
            )
        given: list[object] = [samples.get(name, 1.0) for name in names]
    elif isinstance(samples, Sequence) and not isinstance(samples, str):
        given = list(samples)
    else:
        given = [samples] * len(tasks.losses)
    numbers = [c for c in given if isinstance(c, Real) and not isinstance(c, bool)]
    counts = [float(count) for count in numbers]
    if len(counts) != len(tasks.losses) or not all(0.0 <= c < float("inf") for c in counts):
        raise ValueError(
            f"Parameter `samples` should hold {len(tasks.losses)} numbers of at least 0. Found {samples!r}."
        )
    return [0.0 if loss is None else c for c, loss in zip(counts, tasks.losses, strict=True)]
