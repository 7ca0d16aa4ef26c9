"""Cross-stitch networks: towers that exchange features after every stage."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .base import Criterion, MultiTaskModel

__all__ = ["CrossStitch"]


class CrossStitch(MultiTaskModel):
    """A tower for each task, and after each stage a learned mixture of all towers' features.

    ``x_{t,l} = Σ_s A_l[t, s] f_{s,l}(x_{s,l-1})``. With ``A_l = I`` these are separate networks.

    Args:
        encoder: The stages of one tower; every task gets a copy, which starts with the same weights.
        heads: For each task a module on top of its tower.
        criteria: For each task a function ``(output, target) -> loss``.
        own: Where the diagonal of each A starts; the rest of a row shares ``1 - own`` equally. The
            paper starts at 0.9.

    Raises:
        ValueError: If there are no stages, or ``own`` is not in [0, 1]; or as :class:`MultiTaskModel`.

    Ishan Misra, Abhinav Shrivastava, Abhinav Gupta, Martial Hebert, "Cross-stitch Networks for
    Multi-task Learning", CVPR 2016. There A is one for each channel; here, as in most code, one for
    each stage.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> mse = nn.functional.mse_loss
        >>> heads = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 2)}
        >>> model = CrossStitch(nn.Sequential(nn.Linear(3, 4)), heads, {"a": mse, "b": mse})
        >>> model.stitches[0].detach()
        tensor([[0.9000, 0.1000],
                [0.1000, 0.9000]])
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
        *,
        own: float = 0.9,
    ) -> None:
        super().__init__(heads, criteria)
        if not len(encoder):
            raise ValueError("Parameter `encoder` should hold at least one stage. Found none.")
        if not 0.0 <= own <= 1.0:
            raise ValueError(f"Parameter `own` should be between 0 and 1. Found `own = {own}`.")
        count = len(self.tasks)
        self.towers = nn.ModuleDict({task: copy.deepcopy(encoder) for task in self.tasks})
        start = torch.full((count, count), (1.0 - own) / max(count - 1, 1))
        start.fill_diagonal_(own if count > 1 else 1.0)
        self.stitches = nn.ParameterList(start.clone() for _ in encoder)

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """The towers' last mixtures; all towers run, since each task looks at all of them."""
        current = [input] * len(self.tasks)
        for level, stitch in enumerate(self.stitches):
            stages = [self.towers.get_submodule(f"{task}.{level}") for task in self.tasks]
            made = torch.stack([stage(x) for stage, x in zip(stages, current, strict=True)])
            current = list(torch.tensordot(stitch, made, dims=1))
        return {task: current[self.tasks.index(task)] for task in tasks}
