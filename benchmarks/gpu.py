"""What only a GPU shows: a merge in a CUDA graph, what a small model costs, waits for the device."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from mtl_ops import MultiTaskOptimizer

from .machine import read_probe
from .problems import SHAPES, random_problem
from .results import Goal, Quartiles, Row, paired_floor, row_of_times
from .rivals import available, ours
from .timing import interleave

__all__ = ["measure", "waits"]

METHODS = ("pcgrad", "mgda", "cagrad", "upgrad", "nash_mtl")
#: 97,792 parameters, in six tensors.
SMALL: list[tuple[int, ...]] = [(64, 256), (256,), (256, 256), (256,), (256, 59), (59,)]
#: A replayed merge may take so many times what its bytes do.
OF_FLOOR = 1.3
#: Microseconds of a merge of the small model.
DEVICE_TIME, HOST_TIME = 60.0, 250.0


def measure(device: str = "cuda", quick: bool = False) -> list[Row]:
    """Rows for every method; none where there is no GPU."""
    if not device.startswith("cuda"):
        return []
    rows = []
    for method in available(METHODS):
        rows += _replayed(method, device, quick)
        rows += _small(method, device, quick)
    return rows + [_waits(method, device) for method in available(METHODS)]


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """The call as a CUDA graph, after three times on a stream of its own, as torch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> None:
        _ = kept  # the graph writes there
        graph.replay()

    return replay


def _replayed(method: str, device: str, quick: bool) -> list[Row]:
    """The whole merge of a ResNet-18, eager and in a graph, against its bytes."""
    problem = random_problem(SMALL if quick else SHAPES["ResNet-18"], 8, device=device)
    probe = read_probe(device, quick)
    call = ours(problem, method)
    calls: dict[str, Callable[[], Any]] = {"probe": probe.call, "eager": call}
    calls["in a graph"] = captured(call)
    timings = interleave(calls, rounds=5 if quick else 31, seconds=6.0, device=device)
    factor = problem.floor_bytes / probe.bytes
    return [
        row_of_times(
            f"ResNet-18, T = 8, {name}",
            method,
            timings[name],
            "ms",
            floor=paired_floor(timings[name], timings["probe"], factor),
            goal=Goal("floor", 1 / OF_FLOOR) if name == "in a graph" and not quick else None,
        )
        for name in ("eager", "in a graph")
    ]


def _small(method: str, device: str, quick: bool) -> list[Row]:
    """Time of the device (replayed, so that it never waits for the host), and of the host."""
    call = ours(random_problem(SMALL, 4, device=device), method)
    replay = captured(call)
    timings = interleave({"device": replay}, rounds=9 if quick else 31, device=device)
    host = []
    for _ in range(20 if quick else 200):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        host.append(1e6 * (time.perf_counter() - start))
    case = "98k parameters, T = 4"
    return [
        row_of_times(
            f"{case}, time of the device",
            method,
            timings["device"],
            "µs",
            goal=Goal("value", DEVICE_TIME),
        ),
        Row(
            f"{case}, time of the host",
            method,
            Quartiles.of(host),
            "µs",
            goal=Goal("value", HOST_TIME),
        ),
    ]


def _waits(method: str, device: str) -> Row:
    count = Quartiles.of([float(waits(method, device))])
    return Row("waits of the host in a step", method, count, "waits", goal=Goal("value", 0.0))


def waits(method: str, device: str = "cuda") -> int:
    """How often ``backward`` and ``step`` wait for the device, by torch's own count."""
    model = torch.nn.Linear(16, 4, device=device)
    optimizer = MultiTaskOptimizer(torch.optim.Adam(model.parameters(), fused=True), method)
    inputs = torch.randn(8, 16, device=device)
    before = torch.cuda.get_sync_debug_mode()
    count = 0
    for step in range(3):
        losses = model(inputs).square().mean(dim=0)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                optimizer.zero_grad()
                optimizer.backward(losses)
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
        if step > 0:  # the first makes states, which may wait
            count += sum("synchroniz" in str(one.message) for one in caught)
    return count
