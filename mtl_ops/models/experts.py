"""Mixtures of experts: MMoE, CGC and PLE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Criterion, MultiTaskModel

__all__ = ["CGC", "PLE", "MMoE", "mixed"]

#: Makes one expert, each time with new initial weights.
Expert = Callable[[], nn.Module]


def mixed(gates: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """``Σ_k g_k f_k``: gates ``(B, n)`` and n outputs ``(B, ...)``."""
    stacked = torch.stack(list(outputs), dim=1)
    return (gates.view(*gates.shape, *[1] * (stacked.dim() - 2)) * stacked).sum(dim=1)


class Gate(nn.Module):
    """``softmax(W x)`` over n experts, on the input ``(B, ...)`` made flat."""

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, experts)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, n)``."""
        return torch.softmax(self.linear(x.flatten(1)), dim=1)


class MMoE(MultiTaskModel):
    """Experts that all tasks share, and for each task a gate that mixes them by the input.

    ``x_t = Σ_k g_{t,k}(x) f_k(x)`` with ``g_t(x) = softmax(W_t x)``. With one expert this is hard sharing.

    Args:
        expert: Makes an expert, a module from the input to features.
        experts: How many.
        inputs: Numbers in one input, made flat for the gates.
        heads: For each task a module on top of its mixture.
        criteria: For each task a function ``(output, target) -> loss``.

    Raises:
        ValueError: If there is no expert; or as :class:`MultiTaskModel`.

    Jiaqi Ma, Zhe Zhao, Xinyang Yi, Jilin Chen, Lichan Hong, Ed H. Chi, "Modeling Task Relationships in
    Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = MMoE(
        ...     lambda: nn.Linear(3, 4), 2, 3, {"a": nn.Linear(4, 1)}, {"a": nn.functional.mse_loss}
        ... )
        >>> model(torch.zeros(5, 3))["a"].shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        expert: Expert,
        experts: int,
        inputs: int,
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
    ) -> None:
        super().__init__(heads, criteria)
        self.experts = nn.ModuleList(expert() for _ in range(_positive("experts", experts)))
        self.gates = nn.ModuleDict({task: Gate(inputs, experts) for task in self.tasks})

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """The mixtures; each expert runs once."""
        outputs = [expert(input) for expert in self.experts]
        return {task: mixed(self.gates[task](input), outputs) for task in tasks}


class Extraction(nn.Module):
    """One level of CGC: from the features of each task, and shared ones, to the next.

    Args:
        tasks: Their names.
        expert: Makes an expert.
        own: Experts of each task.
        shared: Experts of all.
        inputs: Numbers in one input of a gate.
        last: Whether no shared features are needed after it.
    """

    def __init__(
        self, tasks: Sequence[str], expert: Expert, own: int, shared: int, inputs: int, last: bool
    ) -> None:
        super().__init__()
        self.shared = nn.ModuleList(expert() for _ in range(shared))
        self.own = nn.ModuleDict(
            {task: nn.ModuleList(expert() for _ in range(own)) for task in tasks}
        )
        self.gates = nn.ModuleDict({task: Gate(inputs, own + shared) for task in tasks})
        self.shared_gate = None if last else Gate(inputs, own * len(tasks) + shared)

    def forward(
        self, features: Mapping[str, Tensor], common: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """New features of the tasks that are given, and new shared ones."""
        made = {
            task: [expert(x) for expert in self.own.get_submodule(task).children()]
            for task, x in features.items()
        }
        shared = [expert(common) for expert in self.shared]
        after = {
            task: mixed(self.gates[task](x), [*made[task], *shared]) for task, x in features.items()
        }
        if self.shared_gate is None or common is None:
            return after, None
        everything = [output for outputs in made.values() for output in outputs]
        return after, mixed(self.shared_gate(common), [*everything, *shared])


class PLE(MultiTaskModel):
    """Progressive layered extraction: levels of experts, some of each task and some of all.

    At each level a task mixes its own experts and the shared ones, ``x_t <- Σ_k g_{t,k}(x_t) f_k``,
    where its own see x_t and the shared ones the shared features, which mix all experts. The last
    level has no shared features. With one level this is :class:`CGC`.

    Args:
        experts: For each level what makes one of its experts.
        inputs: For each level how many numbers one of its inputs has, made flat for the gates.
        heads: For each task a module on top of its mixture.
        criteria: For each task a function ``(output, target) -> loss``.
        own: Experts of each task, at each level.
        shared: Experts of all; without any, tasks are separate.

    Raises:
        ValueError: If there are no levels, or not as many inputs; if there are no experts; or as
            :class:`MultiTaskModel`.

    Hongyan Tang, Junning Liu, Ming Zhao, Xudong Gong, "Progressive Layered Extraction (PLE): A Novel
    Multi-Task Learning (MTL) Model for Personalized Recommendations", RecSys 2020.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> levels = [lambda: nn.Linear(3, 4), lambda: nn.Linear(4, 4)]
        >>> model = PLE(levels, [3, 4], {"a": nn.Linear(4, 1)}, {"a": nn.functional.mse_loss})
        >>> model(torch.zeros(5, 3))["a"].shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        inputs: Sequence[int],
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
        *,
        own: int = 1,
        shared: int = 1,
    ) -> None:
        super().__init__(heads, criteria)
        if not experts or len(inputs) != len(experts):
            raise ValueError(
                "Parameters `experts` and `inputs` should have one entry for each level. "
                f"Found {len(experts)} and {len(inputs)}."
            )
        _positive("own", own)
        if shared < 0:
            raise ValueError(
                f"Parameter `shared` should not be negative. Found `shared = {shared}`."
            )
        last = len(experts) - 1
        self.levels = nn.ModuleList(
            Extraction(self.tasks, expert, own, shared, size, level == last or shared == 0)
            for level, (expert, size) in enumerate(zip(experts, inputs, strict=True))
        )

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """The last mixtures; all tasks' experts run where shared features mix them."""
        current, common = dict.fromkeys(self.tasks, input), input
        for level in self.levels:
            if level.shared_gate is None:  # Nothing looks at the other tasks from here on.
                current = {task: current[task] for task in tasks}
            current, common = level(current, common)
        return current


class CGC(PLE):
    """Customized gate control: experts of each task and of all, mixed by a gate for each task.

    ``x_t = Σ_k g_{t,k}(x) f_k(x)`` over the task's own experts and the shared ones. Without shared
    experts, tasks are separate. It is one level of :class:`PLE`, whose paper it is from.

    Args:
        expert: Makes an expert, a module from the input to features.
        inputs: Numbers in one input, made flat for the gates.
        heads: For each task a module on top of its mixture.
        criteria: For each task a function ``(output, target) -> loss``.
        own: Experts of each task.
        shared: Experts of all.

    Raises:
        ValueError: As :class:`PLE`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = CGC(lambda: nn.Linear(3, 4), 3, {"a": nn.Linear(4, 1)}, {"a": nn.functional.mse_loss})
        >>> model(torch.zeros(5, 3))["a"].shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        expert: Expert,
        inputs: int,
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
        *,
        own: int = 1,
        shared: int = 1,
    ) -> None:
        super().__init__([expert], [inputs], heads, criteria, own=own, shared=shared)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"Parameter `{name}` should be at least 1. Found `{name} = {value}`.")
    return value
