"""Columns of categories and of numbers as one row of features, for any model that takes rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import MultiTaskModel

__all__ = ["Embedded", "RecordEmbedding"]


class RecordEmbedding(nn.Module):
    """``(codes, numbers)`` to rows: an embedding of each category, then the numbers as they are.

    All columns are looked up in one table, ``E[c_j + o_j]`` with the offset o_j of column j. A category that
    a column has not, such as one that no example of a smaller train part had, is the unknown one, 0.

    Args:
        sizes: For each column of codes how many there may be, the unknown one (0) included.
        numbers: Columns of numbers.
        width: Of an embedding.

    Raises:
        ValueError: If there is nothing to embed, or a size is not positive.

    Shapes: codes ``(B, columns)`` integers and numbers ``(B, numbers)`` to ``(B, outputs)``.

    Example:
        >>> import torch
        >>> embedding = RecordEmbedding([3, 10], numbers=2, width=4)
        >>> embedding((torch.tensor([[2, 9]]), torch.zeros(1, 2))).shape, embedding.outputs
        (torch.Size([1, 10]), 10)
    """

    offsets: Tensor
    sizes: Tensor

    def __init__(self, sizes: Sequence[int], numbers: int, width: int = 4) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(
                "Parameter `sizes` should have a positive size for each column. "
                f"Found `sizes = {list(sizes)}`."
            )
        self.table = nn.Embedding(sum(sizes), width)
        offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.outputs = width * len(sizes) + numbers

    def forward(self, records: tuple[Tensor, Tensor]) -> Tensor:
        """The rows."""
        codes, numbers = records
        known = torch.where(codes < self.sizes, codes, 0)  # what is beyond is the next column's
        return torch.cat([self.table(known + self.offsets).flatten(1), numbers], dim=1)


class Embedded(MultiTaskModel):
    """A model on top of an embedding that all tasks share.

    ``y_t = h_t(f_t(e(x)))``: the embedding e, then the features and heads of any other model.

    Args:
        embedding: From ``batch["input"]`` to what the model takes.
        model: Any multi-task model; its heads and criteria become those of this one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mtl_ops.models import SharedBottom
        >>> inner = SharedBottom(
        ...     nn.Linear(10, 8), {"a": nn.Linear(8, 1)}, {"a": nn.functional.mse_loss}
        ... )
        >>> model = Embedded(RecordEmbedding([3, 10], 2), inner)
        >>> model((torch.tensor([[2, 9]]), torch.zeros(1, 2)))["a"].shape
        torch.Size([1, 1])
    """

    def __init__(self, embedding: nn.Module, model: MultiTaskModel) -> None:
        super().__init__(dict(model.heads.items()), model.criteria)
        self.embedding = embedding
        self.model = model

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """Those of the model."""
        return self.features_and_penalties(input, tasks)[0]

    def features_and_penalties(
        self, input: Any, tasks: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Those of the model, on the embedded input."""
        return self.model.features_and_penalties(self.embedding(input), tasks)
