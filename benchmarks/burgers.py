"""A physics-informed network trained by methods of the field, for equal steps and for equal time.

    python -m benchmarks.burgers [--steps N] [--seeds N] [--out FILE]

The network of ``mtl_ops.examples.physics`` in float32 with Adam; its error is that of the solution against
the known one inside, ``sqrt(Σ (u - u*)² / Σ u*²)``. Writes ``benchmarks/results/burgers.json`` and prints the
table of it. For equal time the error is that of the last evaluation before the time that ``sum`` took for all
its steps, of the same seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtl_ops import MultiTaskOptimizer, methods
from mtl_ops.examples.physics import Physics
from mtl_ops.methods import Method

from .machine import facts
from .results import FOLDER

__all__ = ["contenders", "run", "table", "train"]

Curve = list[tuple[float, float]]


def contenders() -> dict[str, Callable[[], Method]]:
    """Methods by what the table calls them; an average of gradients only where this build has one."""
    found: dict[str, Callable[[], Method]] = {
        name: lambda name=name: methods.get(name)
        for name in ("config", "norm_balancing", "relobralo", "softadapt", "upgrad")
    }
    found = {"sum": lambda: methods.get("equal"), **found}  # in one backward, as everybody takes it
    if "momentum" in methods.available():
        found["momentum(config)"] = lambda: methods.get("momentum", method="config")
    return found


def train(method: Method, seed: int, steps: int, evaluations: int = 50) -> Curve:
    """The seconds of training and the error, at the end of each of some equal parts."""
    example = Physics()
    split = example.load(seed)
    torch.manual_seed(seed)
    net = example.model(list(example.tasks), split)
    optimizer = MultiTaskOptimizer(torch.optim.Adam(net.parameters(), lr=1e-3), method)
    generator = torch.Generator().manual_seed(seed)
    every, spent, curve = max(1, steps // evaluations), 0.0, []
    for step in range(1, steps + 1):
        batch: dict[str, Any] = {"input": {}}
        for task, points in split.train.items():
            chosen = torch.randint(len(points[task]), (128,), generator=generator)
            batch["input"][task] = points["input"][chosen]
            batch[task] = points[task][chosen]
        start = time.perf_counter()
        optimizer.zero_grad()
        optimizer.backward(net.losses(batch))
        optimizer.step()
        spent += time.perf_counter() - start
        if step % every == 0 or step == steps:
            curve.append((spent, _error(net, split.test["residual"])))
    return curve


@torch.no_grad()
def _error(net: torch.nn.Module, points: dict[str, Tensor]) -> float:
    wanted = points["residual"].double()
    found = net.field(points["input"]).double()
    return float(((found - wanted).square().sum() / wanted.square().sum()).sqrt())


def run(steps: int, seeds: int) -> dict[str, Any]:
    """What the JSON holds: errors of each method by seed, for equal steps and for equal time, and seconds a step."""
    made = contenders()
    results: dict[str, dict[str, list[float]]] = {
        name: {"equal_steps": [], "equal_time": [], "seconds_a_step": []} for name in made
    }
    for seed in range(seeds):
        curves = {name: train(make(), seed, steps) for name, make in made.items()}
        budget = curves["sum"][-1][0]
        for name, curve in curves.items():
            within = [error for spent, error in curve if spent <= budget]
            results[name]["equal_steps"].append(curve[-1][1])
            results[name]["equal_time"].append(within[-1] if within else curve[0][1])
            results[name]["seconds_a_step"].append(curve[-1][0] / steps)
    return {"machine": facts(quick=True), "steps": steps, "seeds": seeds, "results": results}


def table(found: dict[str, Any]) -> str:
    """Medians in Markdown, with the least and the largest."""
    lines = [
        f"Relative error after {found['steps']} steps, and after as long as `sum` takes for them; "
        f"median (least to largest) of {found['seeds']} seeds.",
        "",
        "| method | equal steps | equal time | a step |",
        "|---|---:|---:|---:|",
    ]
    for name, numbers in found["results"].items():
        cells = [_spread(numbers[key]) for key in ("equal_steps", "equal_time")]
        took = 1e3 * statistics.median(numbers["seconds_a_step"])
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} | {took:.2f} ms |")
    return "\n".join(lines)


def _spread(errors: Sequence[float]) -> str:
    low, high = min(errors), max(errors)
    return f"{100 * statistics.median(errors):.2f}% ({100 * low:.2f} to {100 * high:.2f})"


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=FOLDER / "burgers.json")
    given = parser.parse_args()
    found = run(given.steps, given.seeds)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
