"""Which parameters are shared, and in which segment each is merged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtl_ops.gradients.layout import Layout, find_layout


def rows(pattern: str) -> list[Tensor | None]:
    """One row of gradients a word; ``x`` where the task reaches the parameter."""
    return [torch.ones(2) if mark == "x" else None for mark in pattern.replace(" ", "")]


def tasks(pattern: str) -> int:
    return len(pattern.split())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("xx xx", Layout(None, (), 1, 1, (True, True), (0,))),
        # a trunk and two heads
        ("xx. x.x", Layout(None, (0, 1, 1), 1, 2, (True, True, True, True), (0, -1))),
        # the second parameter is not reached
        ("x.x x..", Layout((0, 2), (0, 1), 1, 2, (True, True, True, False), (0, -1))),
        # reached by two of three
        ("xx xx x.", Layout(None, (), 1, 1, (True, True, True), (0,))),
        # one task is absent
        ("xx .. xx", Layout(None, (), 1, 1, (True, False, True), (0,))),
        # nothing is shared
        ("x. .x", Layout(None, (), 0, 1, (True, True), (-1,))),
        ("xx", Layout(None, (), 0, 1, (True,), (-1,))),
        # nothing is reached
        (".. ..", Layout((), (), 0, 0, (), ())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_found_from_the_gradients(pattern: str, expected: Layout) -> None:
    assert find_layout(rows(pattern), tasks(pattern)) == expected


def test_sets_become_segments_in_order() -> None:
    layout = find_layout(rows("xxx.x xx.xx"), 2, sets=[7, 3, 3, 3, 7])
    # shared: 0 and 4 in set 7, 1 in set 3; the third and fourth are reached once
    assert layout == Layout(None, (1, 0, 2, 2, 1), 2, 3, (True,) * 6, (3, 7, -1))


def test_a_task_that_misses_a_set_takes_no_part_in_it() -> None:
    layout = find_layout(rows("xx xx x."), 3, sets=[0, 1])
    assert layout.shared == layout.total == 2
    assert layout.part == (True, True, True, True, True, False)


def test_sets_of_parameters_that_nobody_shares_are_no_segments() -> None:
    layout = find_layout(rows("xx. x.x"), 2, sets=[0, 1, 2])
    assert (layout.shared, layout.total) == (1, 2)
    assert layout.segments == (0, 1, 1)


@pytest.mark.parametrize(
    ("shared", "segments", "total", "part"),
    [
        ([True, True], (), 1, (True, True)),
        ([False, False], (), 1, (True, True)),
        ([True, False], (0, 1), 2, (True, True, True, False)),
        ([False, True], (1, 0), 2, (True, False, True, True)),
    ],
)
def test_named_instead_of_found(
    shared: list[bool], segments: tuple[int, ...], total: int, part: tuple[bool, ...]
) -> None:
    layout = find_layout(rows("xx x."), 2, shared=shared)
    assert layout.segments == segments
    assert layout.shared == int(any(shared))
    assert layout.total == total
    assert layout.part == part


def test_all_shared_by_name_and_one_set() -> None:
    layout = find_layout(rows("xx xx"), 2, shared=[True, True])
    assert layout == Layout(None, (), 1, 1, (True, True), (0,))
