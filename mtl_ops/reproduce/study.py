"""A study: jobs that are done one by one and kept at once, and a page made of what came out."""

from __future__ import annotations

import math
import platform
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from .._build import __version__
from ..demo.checkpoint import DamagedError, load_json, save_json
from ..demo.writer import FolderError

__all__ = ["BUDGETS", "Job", "Record", "Study", "collect", "environment", "load_results"]

#: ``"quick"`` ends within an hour on two cores; ``"published"`` is the paper's setting.
BUDGETS = ("quick", "published")
#: What is done, as plain values that JSON can hold.
Job = dict[str, Any]
#: A job and its result, ``{"job": ..., "result": ...}``.
Record = dict[str, Any]


class Study(ABC):
    """One published table.

    Attributes:
        name: What ``mtl-ops reproduce`` is given.
        title: Heading of its page.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def settings(self, budget: str) -> dict[str, Any]:
        """All numbers that a budget stands for; they are kept with the results."""

    @abstractmethod
    def jobs(self, settings: Mapping[str, Any]) -> list[Job]:
        """What is to be done, in its order; seeds are among the settings, chosen beforehand."""

    @abstractmethod
    def do(self, job: Job, settings: Mapping[str, Any], done: Sequence[Record]) -> Any:
        """Do one; ``done`` are those before it."""

    @abstractmethod
    def page(self, results: Mapping[str, Any]) -> str:
        """Markdown: what does not reproduce first, then tables whose first row is ``sum``."""


def environment() -> dict[str, Any]:
    """What results are made with."""
    return {
        "commit": _commit(),
        "mtl_ops": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def load_results(path: Path) -> dict[str, Any] | None:
    """What an earlier call has written, if there is anything.

    Raises:
        FolderError: If the file is damaged, or of something else.
    """
    try:
        found = load_json(path)
    except DamagedError as error:
        raise FolderError(f"File {path} {error}; remove it, or choose another.") from error
    if found is not None and not (isinstance(found, dict) and {"study", "records"} <= set(found)):
        raise FolderError(f"File {path} holds no results of this command; choose another.")
    return found


def collect(
    study: Study,
    budget: str,
    path: Path,
    say: Callable[[str], None],
    minutes: float | None = None,
) -> dict[str, Any]:
    """Do the jobs that are not done, and keep each as soon as it is.

    Args:
        study: Which.
        budget: One of :data:`BUDGETS`.
        path: Where results are kept; what is there already is gone on with.
        say: Is told what happens.
        minutes: After which no new job is begun; ``None`` for no limit.

    Returns:
        All results.

    Raises:
        FolderError: If the file holds another study or other settings, or cannot be written.
        DataError: If the data are not there.
    """
    settings, now = study.settings(budget), environment()
    results = load_results(path) or {
        "study": study.name,
        "budget": budget,
        "settings": settings,
        "environment": now,
        "records": [],
    }
    if (results["study"], results["settings"]) != (study.name, settings):
        raise FolderError(
            f"File {path} holds '{results['study']}' with other settings; choose another file."
        )
    records: list[Record] = results["records"]
    for record in records:
        record["result"] = _numbers(record["result"])
    jobs = study.jobs(settings)
    start = time.monotonic()
    for number, job in enumerate(jobs, start=1):
        if any(record["job"] == job for record in records):
            continue
        if minutes is not None and time.monotonic() - start > 60 * minutes:
            say(f"Stopped after {minutes:g} minutes, before job {number} of {len(jobs)}.")
            break
        say(f"{number} of {len(jobs)}: {', '.join(str(value) for value in job.values())}")
        records.append({"job": job, "result": study.do(job, settings, records)})
        if now not in (results["environment"], *results.get("later", [])):
            results.setdefault("later", []).append(now)
        save_json(path, results)
    return results


def _numbers(value: Any) -> Any:
    """JSON has no word for NaN; what is ``null`` there was one."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return math.nan if value is None else value


def _commit() -> str | None:
    """Of the source tree, if this is one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=10", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
