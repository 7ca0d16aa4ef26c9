"""What a step measured, in TensorBoard, Weights & Biases, MLflow, or wherever scalars go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Protocol

from ..merging.report import Report

__all__ = ["log_report"]


class Writer(Protocol):
    """What is asked of ``torch.utils.tensorboard.SummaryWriter``, or of whatever takes its place."""

    def add_scalar(self, tag: str, value: Any, step: int, /) -> Any:
        """Writes one number."""


#: A function that takes all numbers at once, and the step.
Sink = Callable[[dict[str, float], int], Any]


def log_report(sink: Writer | Sink, report: Report, step: int) -> None:
    """Writes the losses, weights, norms and cosines of a step as scalars, by task.

    It reads the report, and so waits for the device: call it every some steps. Weights are of the first
    segment. What was not measured is left out.

    Args:
        sink: A function that takes a dict of numbers and the step, such as ``wandb.log``,
            ``mlflow.log_metrics``, ``accelerator.log`` or the ``log_metrics`` of a logger of Lightning; or a
            ``torch.utils.tensorboard.SummaryWriter``.
        report: ``optimizer.report``.
        step: The number that the scalars are plotted over.

    Raises:
        TypeError: If ``sink`` is neither.

    Example:
        >>> import torch, mtl_ops
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> report = mtl_ops.backward({"a": x.sum(), "b": x[0]}, [x], "sum")
        >>> def show(scalars, step):
        ...     for tag, value in scalars.items():
        ...         print(step, tag, round(value, 2))
        >>> mtl_ops.log_report(show, report, step=7)
        7 loss/a 3.0
        7 loss/b 1.0
        7 weight/a 1.0
        7 weight/b 1.0
        7 norm/a 1.41
        7 norm/b 1.0
        7 cosine/a/b 0.71
    """
    write = getattr(sink, "add_scalar", None)
    if write is None and not callable(sink):
        raise TypeError(
            "Parameter `sink` should be a function of a dict and a step, or have a method `add_scalar`. "
            f"Found {type(sink).__name__}."
        )
    scalars = _scalars(report)
    if write is None:
        sink(scalars, step)  # type: ignore[operator]
    else:
        for tag, value in scalars.items():
            write(tag, value, step)


def _scalars(report: Report) -> dict[str, float]:
    """Numbers by tag."""
    found: dict[str, float] = {}
    weights = report.weights
    first = None if weights is None or len(weights) == 0 else weights[0]
    for group, values in {"loss": report.losses, "weight": first, "norm": report.norms}.items():
        if values is not None:
            for name, value in zip(_names(report, len(values)), values.tolist(), strict=True):
                found[f"{group}/{name}"] = value
    cosines = report.cosines
    if cosines is not None:
        names, table = _names(report, len(cosines)), cosines.tolist()
        for i, j in combinations(range(len(names)), 2):
            found[f"cosine/{names[i]}/{names[j]}"] = table[i][j]
    if report.clip_scale is not None:
        found["clip_scale"] = report.clip_scale.item()
    return found


def _names(report: Report, tasks: int) -> Sequence[str]:
    return report.names or [str(t) for t in range(tasks)]
