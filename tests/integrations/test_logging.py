"""``log_report``: with TensorBoard's own writer, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from multitask import NAMES, Net, batch, wrap

import mtl_ops


class Kept(dict[str, float]):
    def add_scalar(self, tag: str, value: float, step: int, /) -> None:
        assert step == 3
        self[tag] = value


def logged(name: str, **options: float) -> Kept:
    net, kept = Net(), Kept()
    optimizer = wrap(net, name, **options)
    optimizer.backward(net.losses(batch()))
    mtl_ops.log_report(kept, optimizer.report, 3)
    return kept


def test_says_what_the_report_says() -> None:
    net, kept = Net(), Kept()
    optimizer = wrap(net, "upgrad", max_norm=0.1)
    optimizer.backward(net.losses(batch()))
    report = optimizer.report
    mtl_ops.log_report(kept, report, 3)
    for place, name in enumerate(NAMES):
        assert kept[f"loss/{name}"] == report.losses[place].item()
        assert kept[f"weight/{name}"] == report.weights[0, place].item()
        assert kept[f"norm/{name}"] == report.norms[place].item()
    assert kept["cosine/a/c"] == report.cosines[0, 2].item()
    assert kept["clip_scale"] == report.clip_scale.item()
    assert len(kept) == 3 * 3 + 3 + 1


def test_leaves_out_what_was_not_measured() -> None:
    assert {tag.split("/")[0] for tag in logged("equal")} == {"loss", "weight"}
    assert "weight" not in {tag.split("/")[0] for tag in logged("median")}


def test_with_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    net = Net()
    optimizer = wrap(net, "upgrad")
    optimizer.backward(net.losses(batch()))
    with SummaryWriter(str(tmp_path)) as writer:
        mtl_ops.log_report(writer, optimizer.report, 5)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Scalars("weight/b")
    assert event.step == 5
    assert event.value == pytest.approx(optimizer.report.weights[0, 1].item(), rel=1e-6)
