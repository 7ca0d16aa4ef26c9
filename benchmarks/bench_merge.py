"""The whole merge under pytest-benchmark: ``python -m pytest benchmarks/bench_merge.py``."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import merge
from benchmarks.problems import SHAPES, Problem, random_problem
from benchmarks.rivals import available


@pytest.fixture(scope="module", params=[2, 8], ids="T={}".format)
def problem(request: pytest.FixtureRequest) -> Problem:
    return random_problem(SHAPES["ResNet-18"], request.param)


@pytest.mark.parametrize("method", available(merge.MAIN_METHODS))
@pytest.mark.parametrize("rival", ["ours", *merge.RIVALS])
def test_merge(benchmark: Any, problem: Problem, method: str, rival: str) -> None:
    call = merge.contender(problem, method, rival)
    if call is None:
        pytest.skip(f"{rival} does not have {method}")
    benchmark.group = f"{method}, T = {len(problem.rows)}"
    benchmark.pedantic(call, rounds=3, warmup_rounds=1)
