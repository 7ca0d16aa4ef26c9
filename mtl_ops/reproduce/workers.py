"""Jobs of a study done one after another, or some at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from .study import Job, Record, Study

__all__ = ["Work", "WorkerError", "perform"]


class WorkerError(RuntimeError):
    """A process has ended before its job had."""


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        study, settings: Of which the jobs are.
        jobs: All of them, also those that are done.
        minutes: After which no new one is begun; ``None`` for no limit.
        say: Is told what begins.
    """

    study: Study
    settings: Mapping[str, Any]
    jobs: Sequence[Job]
    minutes: float | None
    say: Callable[[str], None]


def perform(work: Work, done: Sequence[Record], processes: int) -> Iterator[Record]:
    """Does what is not done, and yields each job with its result as soon as it has one.

    Args:
        work: The jobs.
        done: What is done. Whoever takes a record from here adds it there.
        processes: How many at a time; with one they are done here. Jobs of one chain are never done at a time.

    Raises:
        WorkerError: If the system has ended one of them, for want of memory, say.
    """
    left = [job for job in work.jobs if not any(record["job"] == job for record in done)]
    begun = _Clock(work)
    if processes == 1:
        for job in left:
            if begun.is_over(job):
                return
            yield {"job": job, "result": work.study.do(job, work.settings, done)}
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_alone)
    running: dict[Future[Any], Job] = {}
    try:
        while left or running:
            while len(running) < processes and (ready := _ready(work.study, left, running)):
                job = ready[0]
                if begun.is_over(job):
                    left.clear()
                    break
                left.remove(job)
                running[pool.submit(work.study.do, job, work.settings, list(done))] = job
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                yield {"job": running.pop(ended), "result": ended.result()}
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process was ended before its training was, perhaps for want of memory; "
            "what is done is kept, and the same command goes on."
        ) from error
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _ready(study: Study, left: Sequence[Job], running: Mapping[Any, Job]) -> list[Job]:
    """What is left of chains of which nothing is being done."""
    busy = [study.chain(job) for job in running.values()]
    return [job for job in left if study.chain(job) not in busy]


def _alone() -> None:
    """A process of one thread; that it is interrupted is its parent's to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


class _Clock:
    """Says what begins, until the time is over."""

    def __init__(self, work: Work) -> None:
        self.work, self.start = work, time.monotonic()

    def is_over(self, job: Job) -> bool:
        number, minutes = self.work.jobs.index(job) + 1, self.work.minutes
        of = f"{number} of {len(self.work.jobs)}"
        if minutes is not None and time.monotonic() - self.start > 60 * minutes:
            self.work.say(f"Stopped after {minutes:g} minutes, before job {of}.")
            return True
        self.work.say(f"{of}: {', '.join(str(value) for value in job.values())}")
        return False
