"""The solvers under pytest-benchmark: ``python -m pytest benchmarks/bench_solve.py``."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import solve


@pytest.mark.parametrize("tasks", [2, 8, 32])
@pytest.mark.parametrize("key", solve.contenders(8), ids=" ".join)
def test_solve(benchmark: Any, tasks: int, key: tuple[str, str]) -> None:
    calls = solve.contenders(tasks)
    if key not in calls:
        pytest.skip(f"{key[0]} needs more tasks")
    benchmark.group = f"{key[0]}, T = {tasks}"
    benchmark(calls[key])
