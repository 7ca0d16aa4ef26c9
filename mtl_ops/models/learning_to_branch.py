"""Learning to branch: a tree of stages whose branches are learned with the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Criterion, MultiTaskModel

__all__ = ["LearningToBranch"]


class LearningToBranch(MultiTaskModel):
    """Several copies of each stage, and for each of them, and each task, a learned choice of its parent.

    ``x_{c,l} = f_{c,l}(Σ_p d_{c,p} x_{p,l-1})`` with d drawn from the learned probabilities of the
    parents by the Gumbel softmax, ``d_c = softmax((log θ_c + g) / τ)``. In evaluation d is 1 for the
    likeliest parent and 0 for the others: a tree. The lower the temperature τ, the nearer training is
    to that: lower it as training goes on.

    Args:
        encoder: The stages; the first has one copy, the root.
        heads: For each task a module on top of the node it chooses.
        criteria: For each task a function ``(output, target) -> loss``.
        branches: Copies of each stage but the first; as many as tasks if not given.
        temperature: τ, which may be set anew at any time.

    Raises:
        ValueError: If there are no stages or branches, or the temperature is not positive; or as
            :class:`MultiTaskModel`.

    Pengsheng Guo, Chen-Yu Lee, Daniel Ulbricht, "Learning to Branch for Multi-Task Learning", ICML 2020.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> stages = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        >>> heads = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 2)}
        >>> mse = nn.functional.mse_loss
        >>> model = LearningToBranch(stages, heads, {"a": mse, "b": mse}).eval()
        >>> model(torch.zeros(5, 3))["b"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
        *,
        branches: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(heads, criteria)
        count = len(self.tasks) if branches is None else branches
        if not len(encoder) or count < 1:
            raise ValueError(
                "Parameters `encoder` and `branches` should have at least one stage and one branch. "
                f"Found {len(encoder)} and {count}."
            )
        if not temperature > 0.0:
            raise ValueError(
                f"Parameter `temperature` should be positive. Found `temperature = {temperature}`."
            )
        self.temperature = temperature
        sizes = [1] + [count] * (len(encoder) - 1)
        self.levels = nn.ModuleList(
            nn.ModuleList(copy.deepcopy(stage) for _ in range(size))
            for stage, size in zip(encoder, sizes, strict=True)
        )
        children = [*sizes[1:], len(self.tasks)]
        #: ``log θ`` of each level, (children, parents).
        self.choices = nn.ParameterList(
            torch.zeros(below, above) for below, above in zip(children, sizes, strict=True)
        )

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """What the nodes that the tasks choose make."""
        current = [input]
        for level, choice in zip(self.levels, self.choices, strict=True):
            nodes = level.children()
            made = torch.stack([node(x) for node, x in zip(nodes, current, strict=True)])
            current = list(torch.tensordot(self._drawn(choice), made, dims=1))
        return {task: current[self.tasks.index(task)] for task in tasks}

    def _drawn(self, choice: Tensor) -> Tensor:
        """d, ``(children, parents)``."""
        if self.training:
            return nn.functional.gumbel_softmax(choice, tau=self.temperature, dim=1)
        return nn.functional.one_hot(choice.argmax(dim=1), choice.shape[1]).to(choice.dtype)

    def tree(self) -> list[list[int]]:
        """For each level the parent that each node of the next one, and at last each task, chooses."""
        return [choice.argmax(dim=1).tolist() for choice in self.choices]
