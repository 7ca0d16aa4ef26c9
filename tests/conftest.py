"""What every test can ask for: a device, and a dtype of gradients. The order in which several processes run tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

import mtl_ops

HERE = Path(__file__).parent

NATIVE_CUDA = torch.cuda.is_available() and mtl_ops.build_info().backends.get("cuda") == "native"

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(
                not NATIVE_CUDA, reason="needs a CUDA device and a build with CUDA kernels"
            ),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that has kernels."""
    return torch.device(request.param)


@pytest.fixture(
    params=[torch.float32, torch.float64, torch.bfloat16, torch.float16],
    ids=["float32", "float64", "bfloat16", "float16"],
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every dtype that gradients may have."""
    chosen: torch.dtype = request.param
    return chosen


# ---- many tests, on several processes --------------------------------------------------------------

#: What takes longest, longest first: files, and folders of which one fixture takes long.
LONGEST = (
    "distributed/test_failures.py",
    "cuda",
    "test_benchmarks.py",
    "cpp",
    "distributed/test_example.py",
    "distributed/test_data_parallel.py",
    "demo/test_resume.py",
    "distributed/test_sharded.py",
    "test_pages.py",
    "plots",
    "demo/test_command.py",
    "integrations/test_transformers.py",
)


def place_of(path: Path) -> int:
    """The place of a file among what takes longest; behind them if it does not."""
    for place, name in enumerate(LONGEST):
        if path.is_relative_to(HERE / name):
            return place
    return len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every process starts with what takes long, so that at the end none is alone with it.

    xdist gives each of them one run of neighbours; one that has no more gets the last ones of another.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes == 1:
        return
    piles: list[list[pytest.Item]] = [[] for _ in range(processes)]
    short = []
    for item in items:
        place = place_of(item.path)
        (short if place == len(LONGEST) else piles[place % processes]).append(item)
    for pile in piles:
        pile.sort(key=lambda item: place_of(item.path))  # stable: a file stays together
    size, first = -(-len(items) // processes), 0
    items.clear()
    for number, pile in enumerate(piles):
        last = max(first, first + size - len(pile)) if number + 1 < processes else len(short)
        items += [*pile, *short[first:last]]
        first = last


#: Whether this is one of several processes that run tests, and not the one that hands them out.
ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ


def pytest_collection() -> None:
    """No rubbish is looked for among millions of objects that all stay, while they come..."""
    if ONE_OF_SEVERAL:
        gc.disable()


def pytest_collection_finish() -> None:
    """... nor afterwards."""
    if ONE_OF_SEVERAL:
        gc.freeze()
        gc.enable()
