"""Which figures the documentation's two pictures show: a training step's time and memory, as times a plain sum's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import step, steps
from .charts import Bar, chart
from .results import Row
from .table import number

__all__ = ["FOLDER", "conditions", "draw"]

FOLDER = Path(__file__).parent / "pictures"

Entries = Mapping[str, dict[str, Any]]
#: Label and kind of what :mod:`benchmarks.steps` measures, from top to bottom.
FROM_STEPS = {
    steps.FEATURES: ('mtl_ops, gram_on="features"', "ours"),
    steps.CHEAP: (f"mtl_ops, factored, weights_every={steps.PERIOD}", "ours"),
    steps.FACTORED: ("mtl_ops, exact, factored", "ours"),
    steps.STREAM: ('mtl_ops, exact, memory="stream"', "ours"),
    'gradients="dense"': ("mtl_ops, exact", "ours"),
    steps.BARE: ("T backwards, nothing merged", "sum"),
    steps.CONCATENATED: ("LibMTL's way, rows concatenated", "other"),
    steps.GRAMIAN: ("TorchJD, autogram", "other"),
    steps.JAC: ("TorchJD, mtl_backward", "other"),
}
#: The same of :mod:`benchmarks.cheap`, :mod:`benchmarks.step` and :mod:`benchmarks.memory`, until that has been run.
CHEAP_CASE = "MLP, 8.4M shared parameters, T = 8, batch 64"
FROM_CHEAP = {
    'upgrad, gram_on="features"': ('mtl_ops, gram_on="features"', "ours"),
    "upgrad, weights_every=8": ("mtl_ops, weights_every=8", "ours"),
    "upgrad, exact": ("mtl_ops, exact", "ours"),
}
FROM_STEP = {
    step.BARE: ("T backwards, nothing merged", "sum"),
    "TorchJD, Gram matrices summed": ("TorchJD, Gram matrices summed", "other"),
    "TorchJD, one by one": ("TorchJD, one by one", "other"),
    "TorchJD, vmap": ("TorchJD, vmap", "other"),
}
MEMORY_CASE = "step of an MLP of 8 layers, T = 8, freed blocks given back"
FROM_MEMORY = {
    "upgrad, grad_dtype=bfloat16": ("mtl_ops, grad_dtype=bfloat16", "ours"),
    'upgrad, memory="stream"': ('mtl_ops, memory="stream"', "ours"),
    "upgrad": ("mtl_ops, exact", "ours"),
}


def draw(entries: Entries) -> dict[str, str]:
    """The pictures' names, and their SVG."""
    bars = {"time": _times, "memory": _memory}
    what = {"time": "Time of a training step", "memory": "Peak memory of a training step"}
    return {
        f"{name}.svg": chart(
            f"{what[name]}, eight tasks",
            "as a multiple of one backward of the sum; shorter is better",
            [*_plain(bars[name](entries)), *bars[name](entries)],
        )
        for name in bars
    }


def conditions(entries: Entries) -> str:
    """What stands below the pictures: the model, the machine, the versions."""
    entry = entries.get("steps") or entries["step"]
    machine, versions = entry["machine"], entry["machine"]["versions"]
    model = f"{steps.PICTURED}" if "steps" in entries else "MLP, 8.4M shared parameters, B = 64"
    return (
        f"UPGrad, T = 8, {model}, float32; forward, backwards, merge and SGD step. {machine['processor']}, "
        f"{machine['threads']} threads, torch {versions['torch']}"
        f"{', TorchJD ' + versions['torchjd'] if 'torchjd' in versions else ''}; medians of interleaved rounds. "
        "No GPU figure: none has been measured."
    )


def _plain(bars: list[Bar]) -> list[Bar]:
    return [Bar("a plain sum, one backward", 1.0, "sum", "")] if bars else []


def _times(entries: Entries) -> list[Bar]:
    if "steps" in entries:
        return list(_from_steps(entries, f"{steps.PICTURED}, T = {steps.PERIOD}"))
    cheap = _by_method(entries["cheap"]["rows"], f"{CHEAP_CASE}: a step", step.PLAIN)
    bars = [_bar(*FROM_CHEAP[name], cheap[name]) for name in FROM_CHEAP]
    rows = {row.rival: row for row in entries["step"]["rows"] if row.method == step.METHOD}
    plain = rows[step.PLAIN].theirs
    for rival, (label, kind) in FROM_STEP.items():
        if rival in rows:
            theirs = rows[rival].theirs.median
            bars.append(
                Bar(label, theirs / plain.median, kind, f"{number(theirs)} {rows[rival].unit}")
            )
    return bars


def _memory(entries: Entries) -> list[Bar]:
    case = f"peak memory of {steps.PICTURED}, T = {steps.PERIOD}"
    if "steps" in entries and any(row.case == case for row in entries["steps"]["rows"]):
        return list(_from_steps(entries, case))
    rows = _by_method(entries["memory"]["rows"], MEMORY_CASE, step.PLAIN)
    bars = [_bar(*FROM_MEMORY[name], rows[name]) for name in FROM_MEMORY]
    bare = _by_method(entries["memory"]["rows"], MEMORY_CASE, step.BARE)["upgrad"].theirs
    times = bare.median / rows["upgrad"].theirs.median
    return [*bars, Bar(*FROM_STEP[step.BARE][:1], times, "sum", f"{number(bare.median)} MB")]


def _from_steps(entries: Entries, case: str) -> Iterator[Bar]:
    rows = _by_method(entries["steps"]["rows"], case, steps.PLAIN)
    for name, (label, kind) in FROM_STEPS.items():
        if name in rows:
            yield _bar(label, kind, rows[name])


def _by_method(rows: list[Row], case: str, rival: str) -> dict[str, Row]:
    return {row.method: row for row in rows if row.case == case and row.rival == rival}


def _bar(label: str, kind: str, row: Row) -> Bar:
    assert row.ratio is not None
    return Bar(label, 1.0 / row.ratio.median, kind, f"{number(row.ours.median)} {row.unit}")
