"""How far the experiment is, on a terminal as a bar and elsewhere as a few lines."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

__all__ = ["Bar", "Clock", "Lines", "progress"]


class Clock:
    """Work done and time left, at the pace of this session.

    Work of an earlier session took no time in this one, so it does not count for the pace.
    """

    def __init__(self) -> None:
        self.total = self.done = self.skipped = 0.0
        self.begin = time.monotonic()

    def start(self, total: float) -> None:
        """``total`` units lie ahead, and time runs from now."""
        self.total, self.done, self.skipped = total, 0.0, 0.0
        self.begin = time.monotonic()

    def advance(self, amount: float, *, skipped: bool = False) -> None:
        """``amount`` units more; ``skipped`` if they took no time."""
        self.done += amount
        self.skipped += amount if skipped else 0.0

    @property
    def share(self) -> float:
        """Done over total, between 0 and 1."""
        return min(self.done / self.total, 1.0) if self.total else 0.0

    def left(self) -> str:
        """Such as ``1:05 left``; nothing before the pace is known."""
        worked = self.done - self.skipped
        # The first steps are slower than the rest by far.
        if worked <= 0.005 * self.total:
            return ""
        pace = (time.monotonic() - self.begin) / worked
        minutes, seconds = divmod(round(pace * max(self.total - self.done, 0.0)), 60)
        return f"{minutes}:{seconds:02d} left"


class Bar:
    """A bar with the time left, for a terminal; it leaves nothing behind."""

    def __init__(self, console: Console) -> None:
        self.clock = Clock()
        self.bar = Progress(
            SpinnerColumn(style="cyan"),
            BarColumn(32, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            TextColumn("{task.percentage:>3.0f}%"),
            _Left(self.clock),
            TextColumn("[dim]{task.description}"),
            console=console,
            transient=True,
            refresh_per_second=5,
        )
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def start(self, total: float) -> None:
        """See :class:`mtl_ops.demo.experiment.Listener`."""
        self.clock.start(total)
        self.bar.update(self.task, total=total)

    def describe(self, text: str) -> None:
        """See :class:`mtl_ops.demo.experiment.Listener`."""
        self.bar.update(self.task, description=text)

    def advance(self, amount: float, *, skipped: bool = False) -> None:
        """See :class:`mtl_ops.demo.experiment.Listener`."""
        self.clock.advance(amount, skipped=skipped)
        self.bar.advance(self.task, amount)


class Lines:
    """A line for each tenth of the work, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock = Clock()
        self.text = ""
        self.tenths = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """There is nothing to tidy up."""

    def start(self, total: float) -> None:
        """See :class:`mtl_ops.demo.experiment.Listener`."""
        self.clock.start(total)

    def describe(self, text: str) -> None:
        """See :class:`mtl_ops.demo.experiment.Listener`."""
        self.text = text

    def advance(self, amount: float, *, skipped: bool = False) -> None:
        """See :class:`mtl_ops.demo.experiment.Listener`."""
        self.clock.advance(amount, skipped=skipped)
        tenths = int(10 * self.clock.share + 1e-6)
        news = tenths > self.tenths and not skipped
        self.tenths = max(tenths, self.tenths)
        if news:
            parts = (f"{10 * tenths:>3}%", self.clock.left() if tenths < 10 else "", self.text)
            self.console.print("  ".join(part for part in parts if part), highlight=False)


class _Left(ProgressColumn):
    """The time left by our own clock; rich's counts skipped work as fast work."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def render(self, task: Task) -> Text:
        return Text(f"{self.clock.left():>10}")


def progress(console: Console) -> Bar | Lines:
    """What suits the console."""
    return Bar(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)
