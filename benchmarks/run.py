"""Runs the benchmarks, writes the results as JSON, and prints them as tables.

    python -m benchmarks.run                    all of them, under half an hour on two cores
    python -m benchmarks.run --only toy solve   some of them; the results of the others are kept
    python -m benchmarks.run --only steps --case "B = 64"    some of a benchmark's cases, the others are kept
    python -m benchmarks.run --quick            tiny sizes: shows that all run, measures nothing

Each row holds ours against one rival: medians with quartiles, the ratio of interleaved readings, the
distance from the floor and the goal. All rivals of a row run in one process, in turn.
``python -m benchmarks.pages`` writes the tables and pictures of the documentation from the results.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch

from . import machine, results, table

__all__ = ["BENCHMARKS", "main"]

#: What each measures. The module of that name has ``measure(device, quick) -> list[Row]``.
BENCHMARKS = {
    "kernels": "The kernels over the long gradients, against the memory's bandwidth",
    "merge": "Whole merge of T gradients; floor: read them twice, write once",
    "step": "A training step; floor: T bare backwards and the inner step",
    "toy": "A step on the toy problem; floor: two bare backwards and Adam",
    "solve": "From the Gram matrix to the weights",
    "steps": "Every way to take an exact step, against a plain summed backward",
    "cheap": "Steps near the cost of a sum: time against it, error against the exact gradient",
    "memory": "Peak memory; floor: the T gradients and the merged one",
    "gpu": "On a GPU alone: merges in a graph, a small model, waits for the device",
}
GPU = "gpu"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if GPU in (options.only or ()) and not options.device.startswith("cuda"):
        parser.error(f"argument --only: {GPU} is for --device cuda")
    if options.case is not None and options.only != ["steps"]:
        parser.error("argument --case: goes with --only steps")
    path = options.json or _default_path(options.device, options.quick)
    # cvxpy's advice to the author of TorchJD's Nash-MTL.
    warnings.filterwarnings("ignore", message="You are solving a parameterized problem that is not")
    found = machine.facts(options.device, options.quick)
    on_gpu = options.device.startswith("cuda")
    for name in options.only or [name for name in BENCHMARKS if on_gpu or name != GPU]:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        # Saved one by one: what was measured stays, whatever happens to the next.
        for rows in _measured(module, options):
            seconds = time.perf_counter() - start
            rows = rows if options.case is None else _with_kept(rows, path, name)
            results.save(path, {name: {"machine": found, "seconds": seconds, "rows": rows}})
        table.show(f"{BENCHMARKS[name]} ({seconds:.0f} s)", results.load(path)[name])
    print(f"{table.NOTE}\n{table.describe(found)}\nWritten to {_shown(path)}.")


def _measured(module: ModuleType, options: argparse.Namespace) -> Iterator[list[results.Row]]:
    """All rows so far, after each part of a benchmark that has parts."""
    if not hasattr(module, "parts"):
        yield module.measure(options.device, options.quick)
        return
    parts = list(module.parts(options.device, options.quick))
    asked = [(name, part) for name, part in parts if options.case is None or options.case in name]
    if not asked:
        names = "\n  ".join(name for name, _ in parts)
        sys.exit(
            f"--case should be part of a case's name. Found {options.case!r}. There are\n  {names}"
        )
    rows: list[results.Row] = []
    for name, part in asked:
        print(f"  {name}", file=sys.stderr, flush=True)
        rows = rows + part()
        yield rows


def _with_kept(rows: list[results.Row], path: Path, name: str) -> list[results.Row]:
    """Rows that replace those of the same case, among those that were found earlier."""
    known = results.load(path).get(name, {}).get("rows", []) if path.exists() else []
    new = {row.case: [r for r in rows if r.case == row.case] for row in rows}
    measured = set(new)
    kept: list[results.Row] = []
    for row in known:
        kept += new.pop(row.case, []) if row.case in measured else [row]
    return kept + [row for rest in new.values() for row in rest]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument(
        "--case",
        help="of steps, those whose name contains this; the results of the others are kept",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all run")
    parser.add_argument("--device", default="cpu", type=_device, help="cpu (default) or cuda")
    parser.add_argument("--json", type=Path, help="where the results are kept")
    return parser


def _device(name: str) -> str:
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"should be cpu or cuda, found {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("this machine has no CUDA device")
    return name


def _default_path(device: str, quick: bool) -> Path:
    kind = device.split(":")[0]
    return results.FOLDER / f"{kind}-quick.json" if quick else results.FOLDER / f"{kind}.json"


def _shown(path: Path) -> Path:
    """Relative to where the user is, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
