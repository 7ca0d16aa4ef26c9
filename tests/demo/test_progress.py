"""Progress: pace, time left, and what is printed where."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("rich")

from rich.console import Console

from mtl_ops.demo import progress as module
from mtl_ops.demo.progress import Bar, Clock, Lines, progress


class _Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> _Time:
    """A clock that the test moves."""
    time = _Time()
    monkeypatch.setattr(module, "time", time)
    return time


def test_time_left_at_the_pace_so_far(time: _Time) -> None:
    clock = Clock()
    clock.start(100.0)
    assert clock.left() == ""
    time.now += 10.0
    clock.advance(20.0)
    assert (clock.share, clock.left()) == (0.2, "0:40 left")
    time.now += 110.0
    clock.advance(20.0)
    assert clock.left() == "3:00 left"


def test_skipped_work_does_not_count_for_the_pace(time: _Time) -> None:
    clock = Clock()
    clock.start(100.0)
    clock.advance(60.0, skipped=True)
    assert (clock.share, clock.left()) == (0.6, "")
    time.now += 10.0
    clock.advance(10.0)
    assert clock.left() == "0:30 left"


def test_a_pipe_gets_a_line_for_each_tenth() -> None:
    file = io.StringIO()
    listener = progress(Console(file=file, width=80))
    assert isinstance(listener, Lines)
    with listener:
        listener.start(200.0)
        listener.describe("sum, seed 0")
        for _ in range(200):
            listener.advance(1.0)
    lines = file.getvalue().splitlines()
    assert [line.split("%")[0].strip() for line in lines] == [str(10 * i) for i in range(1, 11)]
    assert all(line.endswith("sum, seed 0") for line in lines)
    assert "\x1b" not in file.getvalue()


def test_what_an_earlier_session_did_is_no_news() -> None:
    file = io.StringIO()
    with Lines(Console(file=file, width=80)) as listener:
        listener.start(10.0)
        for _ in range(5):
            listener.advance(1.0, skipped=True)
        assert file.getvalue() == ""
        listener.advance(1.0)
    assert file.getvalue().split("%")[0].strip() == "60"


def test_a_terminal_gets_a_bar_that_does_not_stay() -> None:
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, _environ={"TERM": "xterm"})
    listener = progress(console)
    assert isinstance(listener, Bar)
    with listener:
        listener.start(10.0)
        listener.describe("mgda, seed 2")
        listener.advance(5.0)
        listener.bar.refresh()
        shown = file.getvalue()
    assert "50%" in shown
    assert " left" in shown
    assert "mgda, seed 2" in shown
    assert file.getvalue().rstrip().endswith("\x1b[2K")


def test_a_dumb_terminal_gets_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(progress(console), Lines)
