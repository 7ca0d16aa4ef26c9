"""The kernels over the long gradients, one by one, against what the memory gives and plain PyTorch.

    python -m benchmarks.kernels            as `python -m benchmarks.run --only kernels`, not kept
    python -m benchmarks.kernels --json X   keeps the rows

The floor of a row is the bytes that have to move (each gradient read once, the result written once)
through the bandwidth of the fastest way to read, taken in the same rounds. A kernel can come out
below it: several streams at a time may be faster than any one of torch's reductions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mtl_ops import ops

from . import machine, results, table
from .machine import read_probe
from .results import Goal, Row, row_of_times
from .timing import interleave

__all__ = ["contenders", "main", "measure"]

ELEMENTS = 11_000_000
TASKS = (2, 4, 8, 16)
#: Share of the bandwidth that ``gram`` has to reach, by T; ``merge_`` has to reach the first.
SHARES = {2: 0.8, 4: 0.8, 8: 0.8, 16: 0.55}
#: On a GPU both kernels have to reach these, of the bandwidth of a copy, in bfloat16 as well.
CUDA_SHARES = {2: 0.85, 4: 0.85, 8: 0.85, 16: 0.7, 32: 0.5}

Call = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One kernel and its rivals.

    Attributes:
        case: Sizes and dtype.
        call: The kernel.
        bytes: What it has to move.
        rivals: Others that do the same, and what to reach against each.
        share: Of the bandwidth that is to be reached.
    """

    case: str
    call: Call
    bytes: int
    rivals: dict[str, tuple[Call, Goal | None]]
    share: float | None = None


class Rows:
    """The gradients of T tasks: N numbers each, in T tensors as autograd returns them."""

    def __init__(self, tasks: int, elements: int, dtype: torch.dtype, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        made = [torch.randn(elements, generator=generator) for _ in range(tasks)]
        self.rows = [row.to(device, dtype) for row in made]
        self.weights = torch.linspace(-1, 1, tasks, dtype=torch.float64, device=device)[None]
        self.out = [torch.empty_like(self.rows[0])]

    @cached_property
    def matrix(self) -> Tensor:
        """All in one, as others need it; the time to stack it is not counted."""
        return torch.stack(self.rows)

    @property
    def bytes(self) -> int:
        """Of one gradient."""
        return self.rows[0].numel() * self.rows[0].element_size()


def measure(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Rows for every kernel, and for ``gram`` and ``merge_`` for several T and dtypes."""
    elements = 4096 if quick else ELEMENTS
    rows = []
    for tasks in (2, 8) if quick else CUDA_SHARES if device.startswith("cuda") else TASKS:
        rows += _measure(contenders(tasks, elements, device), device, quick)
    return rows


def contenders(tasks: int, elements: int, device: str) -> dict[str, Contender]:
    """By name; the methods that look at single coordinates and the other dtypes for T = 8 alone."""
    cuda = device.startswith("cuda")
    shares = CUDA_SHARES if cuda else SHARES
    goals = tasks in shares and elements >= ELEMENTS
    share = shares.get(tasks) if goals else None
    full = Rows(tasks, elements, torch.float32, device)
    merge_share = share if cuda or share is None else SHARES[2]
    found = {
        "gram": _gram(full, share, _times_transposed(full)),
        "merge_": _merge(full, merge_share, _weights_times(full)),
    }
    if tasks == 8:
        found |= {
            name: _coordinates(full, name, 15.0 if goals and not cuda else None)
            for name in ("graddrop", "trimmed_mean", "median", "sign_agreement")
        }
        for dtype in (torch.bfloat16, torch.float16):
            half = Rows(tasks, elements, dtype, device)
            wanted = goals and dtype == torch.bfloat16
            goal = Goal("speed-up", 1.6) if wanted and not cuda else None
            half_share = share if wanted and cuda else None
            name = str(dtype).removeprefix("torch.")
            rivals = {part: {"float32": (found[part].call, goal)} for part in ("gram", "merge_")}
            found[f"gram {name}"] = _gram(half, half_share, rivals["gram"])
            found[f"merge_ {name}"] = _merge(half, half_share, rivals["merge_"])
    return found


def _gram(
    data: Rows, share: float | None, rivals: dict[str, tuple[Call, Goal | None]]
) -> Contender:
    tasks = len(data.rows)
    return Contender(
        _case(data), lambda: ops.gram(data.rows, tasks), data.bytes * tasks, rivals, share
    )


def _merge(
    data: Rows, share: float | None, rivals: dict[str, tuple[Call, Goal | None]]
) -> Contender:
    return Contender(
        _case(data),
        lambda: ops.merge_(data.out, data.rows, data.weights),
        data.bytes * (len(data.rows) + 1),
        rivals,
        share,
    )


def _times_transposed(data: Rows) -> dict[str, tuple[Call, Goal | None]]:
    matrix = data.matrix
    return {"J @ J.T": (lambda: matrix @ matrix.T, None)}


def _weights_times(data: Rows) -> dict[str, tuple[Call, Goal | None]]:
    matrix = data.matrix
    weights = data.weights[0].to(matrix.dtype)
    return {"w @ J": (lambda: weights @ matrix, None)}


def _coordinates(data: Rows, method: str, bound: float | None) -> Contender:
    tasks, rows, out = len(data.rows), data.rows, data.out
    leak = [0.0] * tasks
    calls: dict[str, Call] = {
        "graddrop": lambda: ops.merge_graddrop_(out, rows, leak=leak),
        "trimmed_mean": lambda: ops.merge_trimmed_mean_(out, rows, trim=1),
        "median": lambda: ops.merge_median_(out, rows),
        "sign_agreement": lambda: ops.merge_sign_agreement_(out, rows),
    }
    by_torchjd = method in ("graddrop", "trimmed_mean")
    goal = Goal("speed-up", bound) if bound and by_torchjd else None
    rivals = {name: (call, goal) for name, call in _peers(data.matrix, method).items()}
    return Contender(_case(data), calls[method], data.bytes * (tasks + 1), rivals)


def _peers(matrix: Tensor, method: str) -> dict[str, Call]:
    """TorchJD's aggregator where there is one, else plain PyTorch."""
    if method == "median":
        return {"torch.median (the lower)": lambda: matrix.median(dim=0).values}
    if method == "sign_agreement":
        unanimous = len(matrix)
        return {
            "plain PyTorch": lambda: torch.where(
                matrix.sign().sum(dim=0).abs() == unanimous, matrix.mean(dim=0), 0.0
            )
        }
    try:
        from torchjd.aggregation import GradDrop, TrimmedMean
    except ImportError:
        return {}
    aggregator = GradDrop() if method == "graddrop" else TrimmedMean(trim_number=1)
    return {"TorchJD": lambda: aggregator(matrix)}


def _case(data: Rows) -> str:
    dtype = str(data.rows[0].dtype).removeprefix("torch.")
    return f"T = {len(data.rows)}, N = {data.rows[0].numel() / 1e6:g}M, {dtype}"


def _measure(found: dict[str, Contender], device: str, quick: bool) -> list[Row]:
    probe = read_probe(device, quick)
    calls: dict[str, Call] = {"probe": probe.call}
    for name, contender in found.items():
        calls[name] = contender.call
        calls |= {f"{name} {rival}": call for rival, (call, _) in contender.rivals.items()}
    timings = interleave(
        calls, rounds=3 if quick else 31, seconds=0.5 if quick else 40.0, device=device
    )
    bandwidth = probe.bandwidth(timings["probe"])
    rows = []
    for name, contender in found.items():
        floor = contender.bytes / bandwidth
        share = Goal("floor", contender.share) if contender.share else None
        alone = {"case": contender.case, "method": name, "ours": timings[name], "unit": "ms"}
        if share or not contender.rivals:
            rows.append(row_of_times(**alone, floor=floor, goal=share))
        for rival, (_, goal) in contender.rivals.items():
            theirs = timings[f"{name} {rival}"]
            rows.append(row_of_times(**alone, rival=rival, theirs=theirs, floor=floor, goal=goal))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all run")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", type=Path, help="where to keep the rows")
    options = parser.parse_args(arguments)
    entry = {
        "machine": machine.facts(options.device, options.quick),
        "rows": measure(options.device, options.quick),
    }
    if options.json:
        results.save(options.json, {"kernels": entry})
    table.show("Kernels", entry)
    print(table.describe(entry["machine"]))


if __name__ == "__main__":
    main()
