"""What a step measured, in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Protocol

from ..merging.report import Report

__all__ = ["log_report"]


class Writer(Protocol):
    """What is asked of ``torch.utils.tensorboard.SummaryWriter``, or of whatever takes its place."""

    def add_scalar(self, tag: str, value: Any, step: int, /) -> Any:
        """Writes one number."""


def log_report(writer: Writer, report: Report, step: int) -> None:
    """Writes the losses, weights, norms and cosines of a step as scalars, by task.

    It reads the report, and so waits for the device: call it every some steps. Weights are of the first
    segment. What was not measured is left out.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``.
        report: ``optimizer.report``.
        step: The number that the scalars are plotted over.

    Example:
        >>> import torch, mtl_ops
        >>> class Printer:
        ...     def add_scalar(self, tag, value, step):
        ...         print(step, tag, round(value, 2))
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> report = mtl_ops.backward({"a": x.sum(), "b": x[0]}, [x], "sum")
        >>> mtl_ops.log_report(Printer(), report, step=7)
        7 loss/a 3.0
        7 loss/b 1.0
        7 weight/a 1.0
        7 weight/b 1.0
        7 norm/a 1.41
        7 norm/b 1.0
        7 cosine/a/b 0.71
    """
    weights = report.weights
    first = None if weights is None or len(weights) == 0 else weights[0]
    for group, values in {"loss": report.losses, "weight": first, "norm": report.norms}.items():
        if values is not None:
            for name, value in zip(_names(report, len(values)), values.tolist(), strict=True):
                writer.add_scalar(f"{group}/{name}", value, step)
    cosines = report.cosines
    if cosines is not None:
        names, table = _names(report, len(cosines)), cosines.tolist()
        for i, j in combinations(range(len(names)), 2):
            writer.add_scalar(f"cosine/{names[i]}/{names[j]}", table[i][j], step)
    if report.clip_scale is not None:
        writer.add_scalar("clip_scale", report.clip_scale.item(), step)


def _names(report: Report, tasks: int) -> Sequence[str]:
    return report.names or [str(t) for t in range(tasks)]
