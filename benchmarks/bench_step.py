"""Training steps under pytest-benchmark: ``python -m pytest benchmarks/bench_step.py``."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import step, toy


@pytest.mark.parametrize("name", step.names())
def test_step_of_the_mlp(benchmark: Any, name: str) -> None:
    benchmark.group = "MLP, T = 8"
    benchmark.pedantic(step.contender(name), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("name", toy.contenders())
def test_step_of_the_toy_problem(benchmark: Any, name: str) -> None:
    benchmark.group = "toy problem"
    benchmark(toy.contenders()[name])
