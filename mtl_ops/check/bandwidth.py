"""What ``gram`` and ``merge_`` get out of the memory, against a copy in the same rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

from .. import ops
from .finding import Finding, Verdict

__all__ = ["check_bandwidth"]

TASKS = 4
#: Elements of a gradient: far beyond the caches of most machines, 16 MB and 128 MB.
ELEMENTS = {"cpu": 4 << 20, "cuda": 32 << 20}
ROUNDS = 9


def check_bandwidth(device: str) -> Iterator[Finding]:
    """Two lines, and whether the results are right: the other checks run on one thread and on small tensors."""
    elements = ELEMENTS[device]
    if device == "cuda":  # of a small or busy GPU no more than an eighth of what is free
        elements = min(elements, torch.cuda.mem_get_info()[0] // (8 * 4 * (TASKS + 1)))
    rows = [torch.ones(elements, device=device) for _ in range(TASKS)]
    out = torch.empty(elements, device=device)
    weights = torch.full((1, TASKS), 0.25, dtype=torch.float64, device=device)
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: out.copy_(rows[0]),
        "gram": lambda: ops.gram(rows, TASKS),
        "merge_": lambda: ops.merge_([out], rows, weights),
    }
    exact = {
        "gram": bool((ops.gram(rows, TASKS) == elements).all()),
        "merge_": ops.merge_([out.zero_()], rows, weights).item() == 1.0
        and bool((out == 1.0).all()),
    }
    moved = {"copy": 2, "gram": TASKS, "merge_": TASKS + 1}
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, call in calls.items():
            rates[name].append(4 * elements * moved[name] / _seconds(call, device))
    shares = {
        name: median(
            one / copy for one, copy in zip(rates[name][1:], rates["copy"][1:], strict=True)
        )
        for name in ("gram", "merge_")
    }
    speed = f"of the {median(rates['copy'][1:]) / 1e9:.0f} GB/s of a copy"
    for name, share in shares.items():
        detail = f"{share:.0%} {speed} (T = {TASKS}, {4 * elements / 2**20:.0f} MiB a gradient)"
        if not exact[name]:
            detail = f"a wrong result for T = {TASKS} gradients of {elements:,} ones"
        verdict = Verdict.MEASURED if exact[name] else Verdict.WRONG
        yield Finding(f"bandwidth of {name}", device, verdict, detail)


def _seconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
