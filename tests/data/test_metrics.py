"""AUC, errors in units, F1: against scikit-learn, and piece by piece."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mtl_ops.data import Goal, Task
from mtl_ops.data.dense import Segmentation
from mtl_ops.data.metrics import AbsoluteError, Label, Ranking, label_figures
from mtl_ops.data.speech import Transcript

pytest.importorskip("sklearn")

from sklearn import metrics as known


def _scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(5000, generator=generator) < 0.06).float()
    output = 2 * torch.randn(5000, 1, generator=generator) + 1.5 * target.unsqueeze(1) - 4
    return output, target


def test_the_auc_is_that_of_all_pairs() -> None:
    output, target = _scores()
    found = Ranking("a").score(output, target).item()
    assert found == pytest.approx(known.roc_auc_score(target, output[:, 0]), abs=2e-4)
    assert Ranking("a").score(torch.zeros(5000, 1), target).item() == 0.5
    assert Ranking("a").score(target.unsqueeze(1), target).item() == 1.0
    assert Ranking("a").score(1e9 * (target.unsqueeze(1) - 0.5), target).item() == 1.0
    assert math.isnan(Ranking("a").score(output, torch.zeros(5000)).item())


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (14.9, 15.1),
        (20, 21),
        (300, 310),
        (-20, -19),
        (-310, -300),
        (-math.inf, math.inf),
        (0, 1e30),
    ],
)
def test_the_auc_of_large_logits(low: float, high: float) -> None:
    """A network that is sure of all examples is judged by their order all the same."""
    output = torch.tensor([[low], [high]])
    assert Ranking("a").score(output, torch.tensor([0.0, 1.0])).item() == 1.0
    assert Ranking("a").score(output, torch.tensor([1.0, 0.0])).item() == 0.0


@pytest.mark.parametrize(
    "goal",
    [Ranking("a"), AbsoluteError("a", 3.0, "meV"), Label("a")],
    ids=lambda g: type(g).__name__,
)
def test_pieces_add_up(goal: Ranking | AbsoluteError | Label) -> None:
    output, target = _scores()
    if isinstance(goal, AbsoluteError):
        target = target.unsqueeze(1)
    pieces = [goal.tally(output[k : k + 999], target[k : k + 999]) for k in range(0, 5000, 999)]
    whole = goal.score(output, target)
    torch.testing.assert_close(goal.figure(sum(pieces[1:], pieces[0])), whole)
    assert goal.loss(output, target).shape == ()


def test_errors_are_in_the_unit_and_losses_are_not() -> None:
    """What is printed as meV is the error times the deviation; without it nothing compares."""
    output, target = torch.full((4, 1), 0.5), torch.zeros(4, 1)
    goal = AbsoluteError("u0", 10_323.8, "meV")
    assert goal.score(output, target).item() == pytest.approx(5161.9)
    assert goal.loss(output, target).item() == 0.25
    assert goal.metric == "MAE, meV"
    assert not goal.higher_is_better


def test_f1_and_hamming_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    target = (torch.rand(200, 4, generator=generator) < 0.3).float()
    output = torch.randn(200, 4, generator=generator) + target
    goals = [Label(str(k)) for k in range(4)]
    tallies = {g.name: g.tally(output[:, k : k + 1], target[:, k]) for k, g in enumerate(goals)}
    found = label_figures(tallies)
    said = (output > 0).float()
    assert found["micro F1"] == pytest.approx(known.f1_score(target, said, average="micro"))
    assert found["macro F1"] == pytest.approx(known.f1_score(target, said, average="macro"))
    assert found["Hamming loss"] == pytest.approx(known.hamming_loss(target, said))
    own = goals[2].figure(tallies["2"]).item()
    assert own == pytest.approx(known.accuracy_score(target[:, 2], said[:, 2]))
    nothing = Label("n").tally(torch.full((3, 1), -1.0), torch.zeros(3))
    assert label_figures({"n": nothing}) == {"micro F1": 0, "macro F1": 0, "Hamming loss": 0}


@pytest.mark.parametrize(
    "goal",
    [
        Ranking("a"),
        Label("a"),
        Task("a", 1, "binary"),
        Task("a", 3, "classes"),
        Segmentation("a", 3),
        Transcript("a"),
    ],
    ids=lambda g: f"{type(g).__name__} {getattr(g, 'kind', '')}",
)
def test_a_network_that_has_diverged_gets_no_figure(goal: Goal) -> None:
    """NaN is not above 0, and is the largest: a rare label would be 97 % right."""
    shapes = {"Segmentation": (4, 3, 2, 2), "Transcript": (4, 5, 3)}
    classes = getattr(goal, "outputs", 1)
    output = torch.zeros(shapes.get(type(goal).__name__, (4, classes)))
    output[1].flatten()[0] = math.nan
    target: Any = torch.zeros(4, dtype=torch.int64 if classes > 1 else torch.float32)
    given: Any = output
    if isinstance(goal, Segmentation):
        target = torch.zeros(4, 2, 2, dtype=torch.int64)
    elif isinstance(goal, Transcript):
        given = output, torch.full((4,), 5)
        target = torch.ones(4, 2, dtype=torch.int64), torch.full((4,), 2)
    if isinstance(goal, Ranking):
        target[0] = 1.0
    assert math.isnan(goal.score(given, target).item())
