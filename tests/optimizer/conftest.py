"""What the tests of the optimizer share: one thread, and small pieces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import mtl_ops.gradients.piecewise


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are so small that more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parameter is a piece."""
    monkeypatch.setattr(mtl_ops.gradients.piecewise, "PIECE", 1)
