"""DSelect-k: a mixture of experts whose gates learn to choose k of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Criterion, MultiTaskModel
from .experts import Expert, mixed

__all__ = ["DSelectK", "smooth_step"]


def smooth_step(x: Tensor, width: float = 1.0) -> Tensor:
    """``-2 (x/γ)³ + 3/2 (x/γ) + 1/2`` within γ/2 of 0, and exactly 0 or 1 beyond.

    Example:
        >>> import torch
        >>> smooth_step(torch.tensor([-0.7, -0.5, 0.0, 0.25, 0.5]))
        tensor([0.0000, 0.0000, 0.5000, 0.8438, 1.0000])
    """
    scaled = x / width
    inside = -2.0 * scaled**3 + 1.5 * scaled + 0.5
    return torch.where(scaled <= -0.5, 0.0, torch.where(scaled >= 0.5, 1.0, inside))


class Selector(nn.Module):
    """A gate over n experts that is a mixture of k choices of one.

    With m bits, ``2^m >= n``, a choice is ``r_i = Π_j (s_j if bit j of i is set else 1 - s_j)`` with
    ``s = smooth_step(V x)``; the gate is ``Σ_k softmax(W x)_k r^(k)``. Where every s is 0 or 1, k
    experts at most are chosen.

    Args:
        inputs: Numbers in one input.
        experts: n.
        choices: k.
        width: γ of the smooth step.
    """

    def __init__(self, inputs: int, experts: int, choices: int, width: float) -> None:
        super().__init__()
        self.experts, self.choices, self.width = experts, choices, width
        bits = max(1, (experts - 1).bit_length())
        self.bits = nn.Linear(inputs, choices * bits)
        self.weights = nn.Linear(inputs, choices)
        # Small, so that no step starts where its derivative is 0.
        nn.init.uniform_(self.bits.weight, -width / 100, width / 100)
        nn.init.uniform_(self.bits.bias, -width / 100, width / 100)
        codes = torch.arange(2**bits).unsqueeze(1) >> torch.arange(bits) & 1
        self.register_buffer("codes", codes.bool(), persistent=False)
        self.codes: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gates ``(B, n)``, and what to add to the loss, before its factor: a 0-d tensor.

        That is the mean entropy of the choices, and, if n is no power of two, how far they are from
        experts that exist.
        """
        flat = x.flatten(1)
        s = smooth_step(self.bits(flat), self.width).view(len(flat), self.choices, 1, -1)
        chosen = torch.where(self.codes, s, 1.0 - s).prod(dim=-1)  # (B, k, 2^m)
        there = chosen[..., : self.experts]
        inside = there.sum(dim=-1)
        shares = torch.softmax(self.weights(flat), dim=1)
        gates = (shares.unsqueeze(2) * there).sum(dim=1)
        # Of what exists: where all of it is outside, the penalty has to bring it back.
        gates = gates / gates.sum(dim=1, keepdim=True).clamp(min=1e-6)
        penalty = -torch.special.xlogy(chosen, chosen.clamp(min=1e-12)).sum(dim=(1, 2)).mean()
        if self.experts < 2 ** self.codes.shape[1]:
            penalty = penalty + (1.0 / (inside + 1e-6)).sum(dim=1).mean()
        return gates, penalty


class DSelectK(MultiTaskModel):
    """Experts that all tasks share, and for each task a gate that learns to choose k of them.

    As :class:`MMoE` with another gate: ``g_t = Σ_k softmax(W_t x)_k r(smooth_step(V_t^(k) x))``, where r
    decodes a binary number of an expert. Gates are dense at first and become sparse, with exact
    derivatives all the way. Where the number of experts is no power of two, gates are divided by their
    sum, which the paper leaves to the penalty; choices of nothing but experts that do not exist give 0.

    Args:
        expert: Makes an expert, a module from the input to features.
        experts: How many.
        inputs: Numbers in one input, made flat for the gates.
        heads: For each task a module on top of its mixture.
        criteria: For each task a function ``(output, target) -> loss``.
        choices: k.
        width: γ of the smooth step.
        penalty: Factor of the choices' entropy, and of what they give to numbers without an expert,
            in each task's loss.

    Raises:
        ValueError: If k is not between 1 and the number of experts, or ``width`` or ``penalty`` is out
            of range; or as :class:`MultiTaskModel`.

    Hussein Hazimeh, Zhe Zhao, Aakanksha Chowdhery, Maheswaran Sathiamoorthy, Yihua Chen, Rahul Mazumder,
    Lichan Hong, Ed H. Chi, "DSelect-k: Differentiable Selection in the Mixture of Experts with
    Applications to Multi-Task Learning", NeurIPS 2021.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = DSelectK(
        ...     lambda: nn.Linear(3, 4), 4, 3, {"a": nn.Linear(4, 1)}, {"a": nn.functional.mse_loss}
        ... )
        >>> gates, _ = model.gates["a"](torch.zeros(5, 3))
        >>> gates.sum(dim=1)
        tensor([1., 1., 1., 1., 1.], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        expert: Expert,
        experts: int,
        inputs: int,
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
        *,
        choices: int = 2,
        width: float = 1.0,
        penalty: float = 1e-3,
    ) -> None:
        super().__init__(heads, criteria)
        if not 1 <= choices <= experts:
            raise ValueError(
                f"Parameter `choices` should be from 1 to {experts}, the number of experts. "
                f"Found `choices = {choices}`."
            )
        if not width > 0.0:
            raise ValueError(f"Parameter `width` should be positive. Found `width = {width}`.")
        if not penalty >= 0.0:
            raise ValueError(
                f"Parameter `penalty` should not be negative. Found `penalty = {penalty}`."
            )
        self.penalty = penalty
        self.experts = nn.ModuleList(expert() for _ in range(experts))
        self.gates = nn.ModuleDict(
            {task: Selector(inputs, experts, choices, width) for task in self.tasks}
        )

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """The mixtures."""
        return self.features_and_penalties(input, tasks)[0]

    def features_and_penalties(
        self, input: Any, tasks: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The mixtures, and for each task the penalty of its gate."""
        outputs = [expert(input) for expert in self.experts]
        features, penalties = {}, {}
        for task in tasks:
            gates, penalty = self.gates[task](input)
            features[task], penalties[task] = mixed(gates, outputs), self.penalty * penalty
        return features, penalties
