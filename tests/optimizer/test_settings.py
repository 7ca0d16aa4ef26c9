"""The table of options: what it refuses is refused, with both names; whatever it lets pass works.

Run as a script it writes the matrix into the documentation.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from multitask import Net, batch, grads, through, wrap
from torch import Tensor

from mtl_ops.methods import CoordinateMethod
from mtl_ops.optim.facts import TRAITS, Fact, Situation, check_together
from mtl_ops.optim.settings import Settings, make_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "options.md"


class Whole(CoordinateMethod):
    """A method of single coordinates that has to see all of them in one call."""

    name = "whole"
    state_names = ("calls",)
    calls = 0

    def merge_(self, out: Any, rows: Any, scale: Any, *args: Any, **given: Any) -> Tensor:
        count = len(out)
        for p, target in enumerate(out):
            target.zero_()
            for row in rows[p::count]:
                if row is not None:
                    target.add_(row)
        return torch.stack([target.double().square().sum() for target in out]).sum()


#: Of each option a value that changes nothing that is computed for a plain sum (but for `normalise`), by how the
#: table of the documentation calls it. What is no option of the optimizer is in capitals.
VALUES: dict[str, dict[str, Any]] = {
    "a method of losses": {"method": "equal"},
    "a method that remembers gradients": {"method": "moco"},
    "a method of coordinates": {"method": "graddrop"},
    "a method that sees all coordinates at once": {"method": Whole},
    "clip_value": {"clip_value": 1e6},
    "max_task_norm": {"max_task_norm": 1e6},
    "max_norm": {"max_norm": 1e6},
    "normalise": {"normalise": "loss+"},
    'memory="stream"': {"memory": "stream"},
    'gram_on="features"': {"gram_on": "features"},
    "gram_on=parameters": {"gram_on": "LAYER"},
    "weights_every": {"weights_every": 2},
    'granularity="group"': {"granularity": "group"},
    'granularity="tensor"': {"granularity": "tensor"},
    "shared": {"shared": "SHARED"},
    "grad_dtype": {"grad_dtype": torch.float64},
    "batched": {"batched": True},
    'gradients="factored"': {"gradients": "factored"},
    'gradients="auto"': {"gradients": "auto"},
    'gradients="by_sample"': {"gradients": "by_sample"},
    "fresh": {"method": "momentum", "fresh": 3},
    "grad_scaler": {"grad_scaler": "SCALER"},
    "groups": {"groups": [["a", "b"], ["c"]]},
    'nonfinite="raise"': {"nonfinite": "raise"},
    "accumulate": {"ACCUMULATE": True},
    "DTensors": {"SHARDED": True},
    'distributed="mean_gram"': {"distributed": "mean_gram"},
}

#: What a single process cannot be asked for, or not with a loss for each task.
ELSEWHERE = {"DTensors", 'distributed="mean_gram"', 'gradients="by_sample"'}


def joined(labels: Sequence[str]) -> dict[str, Any] | None:
    """The options of several labels; ``None`` if two are values of one."""
    options: dict[str, Any] = {}
    for label in labels:
        if options.keys() & VALUES[label].keys():
            return None
        options |= VALUES[label]
    return options


def settings_of(options: dict[str, Any], net: Net) -> tuple[Settings, Situation]:
    given = {name: value for name, value in real(options, net).items() if name != "method"}
    settings = make_settings(chosen(options), list(net.parameters()), **given)
    several = options.get("distributed") == "mean_gram"
    return settings, Situation("SHARDED" in options, "ACCUMULATE" in options, several)


def chosen(options: dict[str, Any]) -> Any:
    method = options.get("method", "sum")
    return method() if isinstance(method, type) else method


def real(options: dict[str, Any], net: Net) -> dict[str, Any]:
    """Options of the optimizer, for this network."""
    values = {
        "LAYER": lambda: list(net.trunk[2].parameters()),
        "SHARED": lambda: [*net.trunk.parameters(), *net.neck.parameters()],
        "SCALER": lambda: torch.amp.GradScaler("cpu", init_scale=8.0),
    }
    return {
        name: values[value]() if isinstance(value, str) and value in values else value
        for name, value in options.items()
        if not name.isupper() and name != "method"
    }


def refusal(options: dict[str, Any]) -> str | None:
    """What the table says against some options."""
    try:
        check_together(*settings_of(options, Net()))
    except ValueError as error:
        return str(error)
    return None


def run(options: dict[str, Any]) -> list[Tensor | None]:
    """The gradients of a second step."""
    net = Net()
    groups = [
        {"params": [*net.trunk.parameters()]},
        {"params": [*net.neck.parameters(), *net.heads.parameters()]},
    ]
    given = real(options, net)
    torch.default_generator.manual_seed(0)
    optimizer = wrap(groups, chosen(options), lr=0.0, **given)
    features_asked = given.get("gram_on") == "features"
    for step in range(2):
        data = batch(step)
        if "groups" in options:
            optimizer.step(lambda data=data: through(net, data)[1])
            continue
        optimizer.zero_grad()
        if "ACCUMULATE" in options:
            features, losses = through(net, data, 0.5)
            optimizer.accumulate(losses, **({"features": features} if features_asked else {}))
            features, losses = through(net, data, 0.5)
        else:
            features, losses = through(net, data)
        optimizer.backward(losses, features=features if features_asked else None)
        scaler = given.get("grad_scaler")
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return grads(net)


def plain(*names: str) -> list[Tensor | None]:
    """The gradient of the sum of some losses; of all for no names."""
    net = Net()
    losses = through(net, batch(1))[1]
    total = torch.stack([losses[name] for name in names or losses]).sum()
    return list(torch.autograd.grad(total, [*net.parameters()], allow_unused=True))


def combinations() -> list[tuple[str, ...]]:
    sizes = (1, 2, 3)
    return [labels for size in sizes for labels in itertools.combinations(VALUES, size)]


PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_pairs_and_triples(part: int) -> None:
    ran = refused = 0
    expected = {False: plain(), True: plain("c")}  # what the last turn leaves
    for labels in combinations()[part::PARTS]:
        options = joined(labels)
        if options is None or ELSEWHERE & set(labels):
            continue
        if "groups" in options and "ACCUMULATE" in options:
            continue  # a closure evaluates the losses, and nobody calls anything else
        reason = refusal(options)
        if reason is not None:
            refused += 1
            with pytest.raises(ValueError, match="Parameter `") as caught:
                run(options)
            assert str(caught.value) == reason, labels
            continue
        ran += 1
        found = run(options)
        for one, two in zip(found, expected["groups" in options], strict=True):
            assert (one is None) == (two is None), labels
            assert one is None or one.isfinite().all(), labels
            if "method" not in options and "normalise" not in options:
                torch.testing.assert_close(one, two, msg=lambda text, x=labels: f"{x}: {text}")
    assert ran > 20
    assert refused > 20


def test_what_is_refused_names_both_options_and_both_values() -> None:
    for labels in itertools.combinations(VALUES, 2):
        options = joined(labels)
        reason = None if options is None else refusal(options)
        if reason is None:
            continue
        assert "Parameter `" in reason
        names = {name for name in options if not name.isupper()}
        for name in names - {"fresh"}:  # comes with its method, which is named
            assert f"`{name}" in reason.replace("method '", "`method '"), (labels, reason)
        assert reason.count("Found") == 1
        assert reason.endswith("."), reason


def test_facts_are_needed_and_taken_away() -> None:
    needed = {fact for trait in TRAITS for fact in trait.needs}
    taken = {fact for trait in TRAITS for fact in trait.takes}
    assert needed == taken == set(Fact)
    assert {trait.option for trait in TRAITS} <= {
        *Settings.__dataclass_fields__,
        "parameters",
        "accumulate",
        "processes",
    }


# ---- the matrix in the documentation --------------------------------------------------------------


def matrix() -> str:
    """Which options go together, as Markdown."""
    labels = list(VALUES)
    short = [str(number) for number in range(1, len(labels) + 1)]
    lines = ["| | | " + " | ".join(short) + " |", "|---|---|" + "---|" * len(labels)]
    reasons: dict[str, None] = {}
    for number, label in enumerate(labels):
        cells = []
        for other in labels:
            options = joined([label, other]) if label != other else None
            reason = None if options is None else refusal(options)
            cells.append("–" if options is None else "" if reason is None else "✗")
            if reason is not None:
                reasons[f"{reason.partition(' Found')[0].removeprefix('Parameter ')}"] = None
        shown = label if label.startswith("a method") or label == "DTensors" else f"`{label}`"
        lines.append(f"| {number + 1} | {shown} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Why not:", "", *(f"- {reason}" for reason in sorted(reasons))])


def document() -> str:
    """The page with its matrix."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition("<!-- matrix -->\n")
    _, _, after = rest.partition("<!-- /matrix -->")
    return f"{before}<!-- matrix -->\n{matrix()}\n<!-- /matrix -->{after}"


def test_the_documentation_has_the_matrix() -> None:
    assert DOCUMENT.read_text() == document()


if __name__ == "__main__":
    DOCUMENT.write_text(document())
    sys.stdout.write(f"{DOCUMENT.name}\n")
