"""Multi-task attention network: each task attends to the features of a shared network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Criterion, MultiTaskModel

__all__ = ["MTAN"]


class MTAN(MultiTaskModel):
    """A shared network, and for each task a soft mask on the features of each of its stages.

    ``a_{t,l} = m_{t,l} ⊙ p_l`` with p_l what stage l of the shared network makes, and the mask
    ``m_{t,l} = σ(V relu(U [p_l, F(a_{t,l-1})]))``: 1x1 convolutions U and V, and F a 3x3 convolution,
    pooled to the size of p_l. The head gets the last ``a_t``. With masks of 1 this is hard sharing.

    Args:
        encoder: The stages of the shared network, each from and to ``(B, C, H, W)``.
        channels: C after each stage.
        heads: For each task a module on top of its last masked features.
        criteria: For each task a function ``(output, target) -> loss``.

    Raises:
        ValueError: If there is not one number of channels for each stage; or as
            :class:`MultiTaskModel`.

    Shikun Liu, Edward Johns, Andrew J. Davison, "End-to-End Multi-Task Learning with Attention", CVPR
    2019. There a mask also looks at the features in the middle of a stage.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mtl_ops.models import cnn
        >>> head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 1))
        >>> model = MTAN(cnn(1, (4, 8)), (4, 8), {"a": head}, {"a": nn.functional.mse_loss})
        >>> model(torch.zeros(2, 1, 8, 8))["a"].shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        channels: Sequence[int],
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
    ) -> None:
        super().__init__(heads, criteria)
        if len(channels) != len(encoder) or not len(encoder):
            raise ValueError(
                f"Parameter `channels` should hold a number for each of {len(encoder)} stages, of at "
                f"least one. Found {list(channels)}."
            )
        self.encoder = encoder
        before = [0, *channels[:-1]]
        self.attention = nn.ModuleDict(
            {
                task: nn.ModuleList(
                    Attention(low, own) for low, own in zip(before, channels, strict=True)
                )
                for task in self.tasks
            }
        )

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """The last masked features; the shared network runs once."""
        shared, attended = input, dict.fromkeys(tasks)
        for level, stage in enumerate(self.encoder):
            shared = stage(shared)
            for task in tasks:
                attention = self.attention.get_submodule(f"{task}.{level}")
                attended[task] = attention(shared, attended[task])
        return attended


class Attention(nn.Module):
    """The mask of one task on one stage, applied.

    Args:
        before: Channels of the task's features at the stage before; 0 at the first.
        own: Channels of the stage.
    """

    def __init__(self, before: int, own: int) -> None:
        super().__init__()
        self.carry = nn.Conv2d(before, own, kernel_size=3, padding=1) if before else None
        self.mask = nn.Sequential(
            nn.Conv2d(own * (2 if before else 1), own, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(own, own, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, shared: Tensor, before: Tensor | None) -> Tensor:
        """``(B, own, H, W)``."""
        seen = shared
        if self.carry is not None and before is not None:
            carried = nn.functional.adaptive_max_pool2d(self.carry(before), shared.shape[2:])
            seen = torch.cat([shared, carried], dim=1)
        masked: Tensor = self.mask(seen) * shared
        return masked
