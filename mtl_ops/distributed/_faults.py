"""Which process has failed, or was lost, and what the others do about it.

The collectives of a group have to be called in the same order by all of its processes. When one of them fails between
two collectives, the others wait in the next one, which never comes. So everything that talks to others runs within
:meth:`Watch.call`: whoever leaves that by an error writes down the error, and how far it has come, before it raises;
whoever waits looks for such notes, and raises, too. Before that all of them make up for the collectives that some have
called and others have not (:meth:`Watch._settle`); where that is impossible, every later call is an error.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ._board import Board
from ._sequences import TORCH, TORCH_FAILED, Launched, longest_of, since_common_call

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Watch", "watch_of"]

#: How long a process waits for news of the others once a collective has failed, in seconds.
PATIENCE = 5.0

#: How often a process that waits for a collective looks whether it has failed elsewhere, at first and later.
LOOK = 0.05, 1.0

#: How long after the time-out of the group a collective may end by itself, in seconds.
SLACK = 2.0

#: Of how many calls the collectives are known: so many may a process be ahead of one that has failed.
KNOWN = 8


class Watch:
    """Waits for collectives of a group, and tells the others of failures.

    Args:
        group: The process group.

    Attributes:
        launched: The collectives that this process has called in the present call.
        resumed: Whether a failure has ended the last call of all processes, and the next one goes on.
    """

    def __init__(self, group: ProcessGroup) -> None:
        from torch.distributed import distributed_c10d  # has the store, which nothing public has

        self.ranks = dist.get_process_group_ranks(group)
        self.me = dist.get_rank()
        self.seconds = _seconds(group)
        self.launched: list[Launched] = []
        self._history: deque[list[Launched]] = deque(maxlen=KNOWN)
        name = "-".join(str(rank) for rank in self.ranks)
        self._board = Board(distributed_c10d._get_default_store(), f"mtl_ops/failed/{name}")
        self._epoch = 0  # how often the processes have gone on after a failure
        self._calls = self._depth = 0
        self._failed = self.resumed = False
        self._common: BaseException | None = None
        self._flying: list[Any] = []
        self._closed: str | None = None

    # ---- calls ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def call(self, launch: Callable[[Launched], Any]) -> Iterator[None]:
        """A part of the program that all processes enter and leave together.

        Args:
            launch: Calls a collective again, with zeros.

        Raises:
            RuntimeError: At the start, if the processes cannot go on after what has failed before.
        """
        self._resume(launch)
        self._calls += 1
        self._depth += 1
        self.launched = []
        self._history.append(self.launched)
        try:
            yield
        except BaseException as error:
            if error is not self._common:
                self._tell(f"{type(error).__name__}: {error}")
                self._settle(launch, min(PATIENCE, self.seconds))
                self._common = error  # calls around this one need not tell again
            raise
        finally:
            self._depth -= 1
            if not self._depth:
                self._common = None  # its traceback holds the gradients

    def common(self, error: Exception) -> Exception:
        """Marks an error that every process raises at the same place, and needs not be told of."""
        self._common = error
        return error

    @contextlib.contextmanager
    def torch_calls(self) -> Iterator[None]:
        """What calls collectives that are not ours, in an order that is torch's."""
        self.launched.append([TORCH])
        try:
            yield
        except BaseException as error:
            self.launched.append([TORCH_FAILED])
            if isinstance(error, RuntimeError):
                self._explain(error)
            raise

    # ---- waiting --------------------------------------------------------------------------------

    def flying(self, work: Any) -> Any:
        """Takes note of a collective that was called and not waited for yet."""
        self._flying.append(work)
        return work

    def wait(self, work: Any, cpu: bool) -> None:
        """Waits for a collective, until the time-out of the group.

        Raises:
            RuntimeError: If it failed, here or elsewhere; the message names the rank that has.
        """
        try:
            if cpu:
                self._wait(work)
            else:  # the device waits, and not this thread
                work.wait()
        except RuntimeError as error:
            raise self.lost(error) from error
        self._flying = [other for other in self._flying if other is not work]

    def _wait(self, work: Any) -> None:
        """Not all of it in ``work.wait``: that does not hear of failures, and its time-outs are costly exceptions."""
        start = time.monotonic()
        try:
            work.wait(datetime.timedelta(seconds=LOOK[0]))
            return
        except RuntimeError as error:
            problem = error
        looked, look, pause = start, LOOK[0], 0.001
        while not work.is_completed():
            now = time.monotonic()
            if now - looked >= look:
                if self._board.has(self._key("any")):
                    raise _ToldError("told of elsewhere")
                looked, look = time.monotonic(), min(2 * look, LOOK[1])
            if now - start > self.seconds + SLACK:
                raise problem
            time.sleep(pause)
            pause = min(1.5 * pause, 0.02)
        work.wait()  # which raises the collective's own error, if there was one

    # ---- telling --------------------------------------------------------------------------------

    def lost(self, error: RuntimeError) -> RuntimeError:
        """What to raise for an error of a collective; tells the others that there was one."""
        self._tell(None)
        told, missing = self._news()
        if told:
            found = f"that {' and '.join(told)}"
        elif missing is None:
            found = "that the process with the store, most often rank 0, was lost"
            self.close(found)
        elif missing:
            found = f"no sign of rank {', '.join(str(rank) for rank in missing)}"
            self.close(found)
        else:
            found = "that all of them failed"
        cause = "" if isinstance(error, _ToldError) else f" ({error})"
        return RuntimeError(
            f"All {len(self.ranks)} processes should take part in merging. Found {found}, on rank {self.me}{cause}."
        )

    def _explain(self, error: RuntimeError) -> None:
        """Raises the same if an error is that of a collective, as those in FSDP's backward are."""
        text = str(error)
        signs = ("gloo", "Operation timed out", "Application timeout", "Connection ")
        if isinstance(error, dist.DistError) or any(sign in text for sign in signs):
            raise self.lost(error) from error

    def _tell(self, text: str | None) -> None:
        """Writes down what this process has failed with; ``None`` if that is another's failure."""
        if self._failed:
            return
        self._failed = True
        note = {"text": text and text[:2000], "calls": self._calls, "launched": list(self._history)}
        self._board.put(self._key(self.me), note)
        self._board.put(self._key("any"), self.me)

    def _news(self) -> tuple[list[str], list[int] | None]:
        """Who failed with what; if nobody says so, who is silent, ``None`` if the store is."""
        end = time.monotonic() + min(PATIENCE, self.seconds)
        while True:
            notes = self._notes()
            told = [
                f"rank {rank} failed with {note['text']}"
                for rank, note in notes.items()
                if note is not None and note["text"] is not None
            ]
            if told:
                return told, []
            missing = [rank for rank, note in notes.items() if note is None]
            if self.me in missing:  # what it has written itself
                return [], None
            if not missing or time.monotonic() > end:
                return [], missing
            time.sleep(0.05)

    def _notes(self) -> dict[int, Any]:
        return {rank: self._board.read(self._key(rank)) for rank in self.ranks}

    def _key(self, last: object) -> str:
        return f"{self._epoch}/{last}"

    # ---- going on -------------------------------------------------------------------------------

    def close(self, found: str) -> RuntimeError:
        """The error of this call and of every later one."""
        self._closed = (
            "All processes should go on from a checkpoint, with a new process group, after one of them has failed. "
            f"Found {found}."
        )
        return RuntimeError(self._closed)

    def _resume(self, launch: Callable[[Launched], Any]) -> None:
        if self._closed is None and self._failed:
            self._settle(launch, self.seconds)
            if self._failed and self._closed is None:
                self.close(f"no sign of rank {', '.join(map(str, self._missing()))} since")
        if self._closed is not None:
            raise RuntimeError(self._closed)

    def _settle(self, launch: Callable[[Launched], Any], seconds: float) -> None:
        """Brings all processes to the same collective, if all of them are there in time.

        At once where it can be: others may use the group, too, and their next collective would be taken for the one
        that was left.
        """
        if self._closed is not None or not self._wait_for_all(seconds):
            return
        try:
            self._catch_up(since_common_call(self._notes()), launch)
            self.resumed = True
        except RuntimeError as error:
            self.close(str(error))
        self._flying = []  # they keep the connections open
        self._failed = False
        self._epoch += 1

    def _catch_up(
        self, sequences: dict[int, list[Launched]], launch: Callable[[Launched], Any]
    ) -> None:
        """Calls what others have called and this process has not, and waits for everything.

        Raises:
            RuntimeError: If the processes cannot go on, with what was found.
        """
        longest = longest_of(sequences)
        self._flying += [launch(one) for one in longest[len(sequences[self.me]) :]]
        for work in self._flying:
            work.wait()
        calls = {rank: note["calls"] for rank, note in self._notes().items()}
        for rank, count in calls.items():
            if count != calls[self.me]:
                first, last = sorted((rank, self.me), key=lambda one: calls[one])
                raise RuntimeError(f"rank {last} in a later step than rank {first}")

    def _wait_for_all(self, seconds: float) -> bool:
        """Whether all have written how far they have come."""
        end, pause = time.monotonic() + seconds, 0.01
        while self._missing():
            if time.monotonic() > end or self._board.silent:
                return False
            time.sleep(pause)
            pause = min(2 * pause, LOOK[1])
        return True

    def _missing(self) -> list[int]:
        return [rank for rank in self.ranks if not self._board.has(self._key(rank))]


class _ToldError(RuntimeError):
    """That a failure elsewhere was found on the board."""


def watch_of(group: ProcessGroup | None) -> Watch:
    """The one watch of a group, whoever uses the group; ``None`` for the default group."""
    chosen = group or dist.distributed_c10d._get_default_group()
    if chosen not in _WATCHES:
        _WATCHES[chosen] = Watch(chosen)
    return _WATCHES[chosen]


_WATCHES: weakref.WeakKeyDictionary[Any, Watch] = weakref.WeakKeyDictionary()


def _seconds(group: ProcessGroup) -> float:
    """The time-out of a group, which torch has under no public name."""
    for device in ("cpu", "cuda"):
        try:
            limit = group._get_backend(torch.device(device)).options._timeout
            return float(limit.total_seconds())
        except (RuntimeError, AttributeError):
            continue
    return math.inf
