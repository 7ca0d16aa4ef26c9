"""Steps near the cost of a sum: what they take, and how far their gradient is from the exact one.

Times are of a training step, the mean of eight, so that every period of ``weights_every`` is whole. They are of one
method: what the others' weights take more or less is in the table ``solve``. Errors are of every method that needs
only the Gram matrix, on one trajectory of exact steps with new batches: at each step w is solved from the exact Gram
matrix G of the shared parameters and from what the cheap step has instead, and both merged gradients are compared by G,
``|d - d'|² = (w - w')ᵀ G (w - w')``. So is ``distributed="mean_gram"``, with the mean of G over parts of a batch.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import mtl_ops
from mtl_ops import ops
from mtl_ops.data import digits
from mtl_ops.models import DigitsCNN

from . import step as mlp
from .results import Goal, Quartiles, Row, row_of_times
from .rivals import available, method_of
from .timing import Timing, interleave

__all__ = ["CHEAP", "WAYS", "Subject", "errors", "measure", "subjects"]

#: How often the weights are solved.
EVERY = (2, 4, 8)
FEATURES, LAYER, EXACT = 'gram_on="features"', "gram_on=last layer", "exact"
CHEAP = (FEATURES, LAYER, *(f"weights_every={k}" for k in EVERY))
#: What several processes save bytes by.
PROCESSES = 4
MEAN_GRAM = f'distributed="mean_gram", {PROCESSES} processes'
#: With weights that are not exact.
WAYS = (*CHEAP, MEAN_GRAM)
#: Timed; all others do the same, but for the T×T problem.
METHOD = "upgrad"
PLAIN = mlp.PLAIN
#: Of T = 8 on the MLP.
GOALS = {FEATURES: 1.4, "weights_every=8": 1.6}
PERIOD = max(EVERY)
WHOLE = slice(None)


@dataclass
class Subject:
    """A model and its batches.

    Attributes:
        case: What it is, in words.
        model: The model.
        losses: Features and T losses of the model on the k-th batch, or on a part of its samples.
        batch: The number of samples.
        shared: The parameters below the features.
        last: Those of the last layer among them.
    """

    case: str
    model: nn.Module
    losses: Callable[[nn.Module, int, slice], tuple[Tensor, list[Tensor]]]
    batch: int
    shared: Callable[[nn.Module], list[Tensor]]
    last: Callable[[nn.Module], list[Tensor]]


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Times against the plain summed backward, and errors of every method."""
    rows = []
    for subject in subjects(device, quick):
        rows += _times(subject, device, quick)
        rows += _errors(subject, steps=4 if quick else 40)
    return rows


def subjects(device: str = "cpu", quick: bool = False) -> list[Subject]:
    """The MLP of the benchmark of steps, and the convolutional network of the demo."""
    return [_mlp(device, quick), _digits(device)]


def _mlp(device: str, quick: bool) -> Subject:
    model, _, inputs, targets = mlp.setup(device, quick)

    def losses(net: nn.Module, k: int, part: slice) -> tuple[Tensor, list[Tensor]]:
        assert isinstance(net, mlp.Heads)
        return net.losses(inputs.roll(k, dims=1)[part], targets[:, part])

    case = "small MLP, T = 3" if quick else "MLP, 8.4M shared parameters, T = 8, batch 64"
    return Subject(
        case,
        model,
        losses,
        len(inputs),
        lambda net: list(net.get_submodule("shared").parameters()),
        lambda net: list(net.get_submodule("shared")[-2].parameters()),
    )


def _digits(device: str, batch: int = 64) -> Subject:
    torch.manual_seed(0)
    model = DigitsCNN().to(device)
    data = {name: values.to(device) for name, values in digits(seed=0).train.items()}
    count = len(data["input"]) // batch

    def losses(net: nn.Module, k: int, part: slice) -> tuple[Tensor, list[Tensor]]:
        assert isinstance(net, DigitsCNN)
        samples = {n: values[k % count * batch :][:batch][part] for n, values in data.items()}
        features = net.backbone(samples["input"])
        return features, [
            net.criteria[task](net.heads[task](features), samples[task]) for task in net.tasks
        ]

    return Subject(
        f"digits CNN, T = {len(model.tasks)}, batch {batch}",
        model,
        losses,
        batch,
        lambda net: list(net.get_submodule("backbone").parameters()),
        lambda net: list(net.get_submodule("backbone")[-2].parameters()),
    )


# ---- time ---------------------------------------------------------------------------------------


def _times(subject: Subject, device: str, quick: bool) -> list[Row]:
    contenders = {name: _contender(subject, name) for name in (PLAIN, EXACT, *CHEAP)}
    timings = interleave(
        contenders, rounds=3 if quick else 15, seconds=0.5 if quick else 60.0, device=device
    )
    one = {
        name: Timing({k: seconds / PERIOD for k, seconds in timing.by_round.items()})
        for name, timing in timings.items()
    }
    of_goal = subject.case.startswith("MLP")
    return [
        row_of_times(
            f"{subject.case}: a step",
            f"{METHOD}, {name}",
            one[name],
            "ms",
            rival=PLAIN,
            theirs=one[PLAIN],
            goal=Goal("overhead", GOALS[name]) if of_goal and name in GOALS else None,
        )
        for name in (EXACT, *CHEAP)
    ]


def _contender(subject: Subject, name: str) -> Callable[[], object]:
    """Eight steps."""
    model = copy.deepcopy(subject.model)
    inner = torch.optim.SGD(model.parameters(), lr=1e-3)
    options = _options(name, subject.last(model))
    optimizer = None if name == PLAIN else mtl_ops.MultiTaskOptimizer(inner, METHOD, **options)

    def steps() -> nn.Module:
        for k in range(PERIOD):
            inner.zero_grad()
            features, losses = subject.losses(model, k, WHOLE)
            if optimizer is None:
                torch.stack(losses).sum().backward()
                inner.step()
            else:
                optimizer.backward(losses, features=features if name == FEATURES else None)
                optimizer.step()
        return model

    return steps


def _options(name: str, last: Sequence[Tensor]) -> dict[str, Any]:
    if name.startswith("weights_every"):
        return {"weights_every": int(name.split("=")[1])}
    return {FEATURES: {"gram_on": "features"}, LAYER: {"gram_on": last}}.get(name, {})


# ---- error --------------------------------------------------------------------------------------


def _errors(subject: Subject, steps: int) -> list[Row]:
    found = errors(subject, steps)
    rows = []
    for unit, place, what in (("°", 0, "angle to"), ("%", 1, "relative difference from")):
        case = f"{subject.case}: {what} the exact gradient (ours: {FEATURES})"
        for method, by_way in found.items():
            ours = Quartiles.of(error[place] for error in by_way[FEATURES])
            rows += [
                Row(case, method, ours, unit, way, Quartiles.of(e[place] for e in by_way[way]))
                for way in WAYS[1:]
            ]
    return rows


def errors(
    subject: Subject, steps: int, methods: Sequence[str] | None = None
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Degrees and per cent of each step, by method and by way to save time."""
    model = copy.deepcopy(subject.model)
    tasks = len(subject.losses(model, 0, WHOLE)[1])
    names = _gram_methods(tasks) if methods is None else methods
    makers = {(name, way): method_of(name, tasks) for name in names for way in (EXACT, *WAYS)}
    known: dict[tuple[str, str], Tensor] = {}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {n: defaultdict(list) for n in names}
    inner = torch.optim.SGD(model.parameters(), lr=0.02)
    optimizer = mtl_ops.MultiTaskOptimizer(inner, METHOD)
    for k in range(steps):
        features, losses = subject.losses(model, k, WHOLE)
        grams = _grams(subject, model, features, losses)
        grams[MEAN_GRAM] = _mean_gram(subject, model, k)
        values = torch.stack([loss.detach().double() for loss in losses])
        for name in names:
            for way in (EXACT, *WAYS):
                every = _options(way, ()).get("weights_every", 1)
                if k % every == 0:
                    torch.manual_seed(k)  # the same draws for all
                    gram = grams[way if way in grams else EXACT]
                    known[name, way] = makers[name, way].weights(gram, values)
            for way in WAYS:
                error = _difference(grams[EXACT], known[name, EXACT], known[name, way])
                found[name][way].append(error)
        optimizer.zero_grad()
        optimizer.backward(losses)
        optimizer.step()
    return found


def _gram_methods(tasks: int) -> list[str]:
    made = {name: method_of(name, tasks) for name in available(tasks=tasks)}
    return [name for name, one in made.items() if one.needs == "gram" and not one.tracks]


def _grams(
    subject: Subject, model: nn.Module, features: Tensor, losses: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Of all shared parameters, of the features and of the last shared layer."""
    shared, last = subject.shared(model), subject.last(model)
    params = [features, *shared]
    rows: list[Tensor] = []
    for loss in losses:
        rows += torch.autograd.grad(loss, params, retain_graph=True)
    places = {id(param) for param in last}
    chosen = {
        EXACT: range(1, len(params)),
        FEATURES: range(1),
        LAYER: [k for k, param in enumerate(params) if id(param) in places],
    }
    return {
        way: ops.gram(
            [rows[t * len(params) + k] for t in range(len(losses)) for k in picked], len(losses)
        )[0]
        for way, picked in chosen.items()
    }


def _mean_gram(subject: Subject, model: nn.Module, k: int) -> Tensor:
    """The mean of the Gram matrices of the shared parameters, each on the samples of one process."""
    size = subject.batch // PROCESSES
    grams = []
    for rank in range(PROCESSES):
        losses = subject.losses(model, k, slice(rank * size, (rank + 1) * size))[1]
        rows: list[Tensor] = []
        for loss in losses:
            rows += torch.autograd.grad(loss, subject.shared(model), retain_graph=True)
        grams.append(ops.gram(rows, len(losses))[0])
    return torch.stack(grams).mean(dim=0)


def _difference(gram: Tensor, exact: Tensor, cheap: Tensor) -> tuple[float, float]:
    """Angle in degrees, and difference in per cent of the exact gradient's norm."""

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return a @ gram @ b

    length = inner(exact, exact).clamp(min=0.0).sqrt()
    other = inner(cheap, cheap).clamp(min=0.0).sqrt()
    off = inner(cheap - exact, cheap - exact).clamp(min=0.0).sqrt()
    # Kahan's form: the arc cosine loses half the digits of a small angle
    one, two = cheap * length, exact * other
    apart = inner(one - two, one - two).clamp(min=0.0).sqrt()
    together = inner(one + two, one + two).clamp(min=0.0).sqrt()
    angle = 2.0 * torch.atan2(apart, together)
    return torch.rad2deg(angle).item(), (100.0 * off / length).item()
