"""Figures that fields judge their tasks by: AUC, errors in units, F1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from .task import Goal, pair, ratio, unless_nan

__all__ = ["AbsoluteError", "Label", "Ranking", "label_figures"]

#: Places of a logit for the AUC, in [-16, 16]; as they are in [-15, 15], and beyond it ever closer.
BINS, LARGEST, EDGE = 2**16, 16.0, 15.0


@dataclass(frozen=True)
class Ranking(Goal):
    """A binary task that is judged by its AUC: one logit, targets ``(B,)`` float 0 or 1.

    The AUC is the share of pairs of a positive and a negative that are in the right order, ties
    counted half. Logits are counted in 65,536 bins, so that test parts of any size can be judged piece by
    piece; what falls into the same bin is a tie. Bins have a width of 1/2048 between -15 and 15, and of
    about x² / 31,000 at a logit x beyond.

    Example:
        >>> import torch
        >>> output = torch.tensor([[0.1], [0.4], [0.35], [0.8]])
        >>> Ranking("buys").score(output, torch.tensor([0.0, 0.0, 1.0, 1.0]))
        tensor(0.7500)
    """

    name: str
    outputs: ClassVar[int] = 1
    metric: ClassVar[str] = "AUC"
    higher_is_better: ClassVar[bool] = True
    percent: ClassVar[bool] = True

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return functional.binary_cross_entropy_with_logits(output.squeeze(1), target)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """Negatives and positives in each bin, ``(2, 65536)`` float64."""
        logit = output.squeeze(1).float()
        beyond = logit.sign() * (1 - EDGE / logit.abs().clamp(min=EDGE))
        place = logit.clamp(-EDGE, EDGE) + beyond  # an order-preserving map to [-16, 16]
        place = ((place + LARGEST) * (BINS / (2 * LARGEST))).long()
        place = place.clamp(0, BINS - 1) + BINS * (target > 0.5).long()
        counts = torch.bincount(place, minlength=2 * BINS).view(2, BINS).double()
        return unless_nan(counts, output)

    def figure(self, tally: Tensor) -> Tensor:
        """The AUC; NaN if there are no positives, or no negatives."""
        negatives, positives = tally
        below = negatives.cumsum(0) - negatives / 2
        area: Tensor = (positives * below).sum() / (positives.sum() * negatives.sum())
        return area.float()


@dataclass(frozen=True)
class AbsoluteError(Goal):
    """A squared error in training, judged by the mean absolute error in the field's unit.

    Targets are ``(B, 1)`` and have mean 0 and variance 1; the error is multiplied by ``unit``, the
    standard deviation of the target in its unit. Without that factor errors of different
    targets are all about as large and none can be held against a paper.

    Attributes:
        unit: The standard deviation.
        symbol: Of the unit.

    Example:
        >>> import torch
        >>> AbsoluteError("gap", 1200.0, "meV").score(torch.tensor([[0.5]]), torch.tensor([[0.25]]))
        tensor(300.)
    """

    name: str
    unit: float
    symbol: str
    outputs: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    percent: ClassVar[bool] = False

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Such as ``"MAE, meV"``."""
        return f"MAE, {self.symbol}"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        return functional.mse_loss(output, target)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """Sum of the absolute errors and their number, ``(2,)`` float64."""
        return pair((output - target).abs().sum(), target.numel())

    def figure(self, tally: Tensor) -> Tensor:
        """The mean absolute error in the unit."""
        return (ratio(tally) * self.unit).float()


@dataclass(frozen=True)
class Label(Goal):
    """One of several labels: one logit, targets ``(B,)`` float 0 or 1.

    By itself a label is judged by its accuracy, since the F1 of a rare one is often 0, against which no
    relative gain (Δm) can be taken; all of them together by :func:`label_figures`.

    Example:
        >>> import torch
        >>> Label("red").score(torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, 0.0]))
        tensor(0.5000)
    """

    name: str
    outputs: ClassVar[int] = 1
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    percent: ClassVar[bool] = True

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return functional.binary_cross_entropy_with_logits(output.squeeze(1), target)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """True positives, false positives, false negatives, examples: ``(4,)`` float64."""
        said, true = output.squeeze(1) > 0, target > 0.5
        counts = [(said & true).sum(), (said & ~true).sum(), (~said & true).sum()]
        tally = torch.stack([*counts, counts[0].new_tensor(len(target))]).double()
        return unless_nan(tally, output)

    def figure(self, tally: Tensor) -> Tensor:
        """Share of examples that are right, float32."""
        right: Tensor = 1 - tally[1:3].sum() / tally[3]
        return right.float()


def label_figures(tallies: Mapping[str, Tensor]) -> dict[str, float]:
    """Micro F1, macro F1 and Hamming loss of several labels.

    ``F1 = 2 tp / (2 tp + fp + fn)``, and 0 where there is no positive at all: of the sums over all
    labels (micro), or the mean over the labels (macro). The Hamming loss is the share of wrong answers.

    Args:
        tallies: Of :class:`Label`, by task.

    Example:
        >>> import torch
        >>> found = label_figures({"a": torch.tensor([1.0, 0, 0, 2]), "b": torch.tensor([0.0, 1, 1, 2])})
        >>> {name: round(value, 3) for name, value in found.items()}
        {'micro F1': 0.5, 'macro F1': 0.5, 'Hamming loss': 0.5}
    """
    every = torch.stack(list(tallies.values()))
    wrong = every[:, 1:3].sum() / every[:, 3].sum()
    macro = torch.stack([_f1(each) for each in every]).mean()
    return {
        "micro F1": _f1(every.sum(dim=0)).item(),
        "macro F1": macro.item(),
        "Hamming loss": wrong.item(),
    }


def _f1(tally: Tensor) -> Tensor:
    return 2 * tally[0] / (2 * tally[0] + tally[1] + tally[2]).clamp(min=1)
