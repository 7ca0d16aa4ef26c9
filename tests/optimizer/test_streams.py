"""Gradients that lie in memory of another stream: it is kept for the stream that reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import Net, batch, wrap
from torch import Tensor

from mtl_ops.gradients import streams
from mtl_ops.merging import sink


class Played:
    """Streams played on the CPU: backwards run on one of their own, if there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backwards: str) -> None:
        self.recorded: list[tuple[int, Any]] = []
        monkeypatch.setattr(streams, "_has_streams", lambda device: True)
        monkeypatch.setattr(streams, "_record", self.record)
        monkeypatch.setattr(
            streams,
            "_current",
            lambda device: "caller's" if torch._C._current_graph_task_id() < 0 else backwards,
        )

    def record(self, row: Tensor, stream: Any) -> None:
        self.recorded.append((row.data_ptr(), stream))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batched": True},
    {"gradients": "factored"},
    {"memory": "stream"},
    {"grad_dtype": torch.float64},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_of_another_stream_are_kept_for_the_callers(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(torch.float32)
    optimizer = wrap(net, "mgda", **options)
    played = Played(monkeypatch, "another")
    optimizer.backward(net.losses(batch(like=net)))
    assert played.recorded
    assert {stream for _, stream in played.recorded} == {"caller's"}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_of_the_callers_stream_are_left_alone(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(torch.float32)
    optimizer = wrap(net, "mgda", **options)
    played = Played(monkeypatch, "caller's")
    optimizer.backward(net.losses(batch(like=net)))
    assert played.recorded == []


def test_every_row_is(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(torch.float32)
    played = Played(monkeypatch, "another")
    losses = net.losses(batch(like=net))
    rows: list[Tensor | None] = []
    optimizer = wrap(net, "mgda")
    real = sink.merge_rows

    def seen(call: Any, given: Any, *rest: Any, **more: Any) -> Any:
        rows.extend(given)
        return real(call, given, *rest, **more)

    monkeypatch.setattr(sink, "merge_rows", seen)
    optimizer.backward(losses)
    places = {place for place, _ in played.recorded}
    assert rows
    assert all(row.data_ptr() in places for row in rows if row is not None)
