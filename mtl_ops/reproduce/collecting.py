"""Jobs of a study are kept as soon as they are done, and gone on with by whoever names the same file."""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from .._build import __version__
from ..demo.checkpoint import DamagedError, load_json, save_json
from ..demo.writer import FolderError, locked
from .study import Job, Record, Study
from .workers import Work, perform

__all__ = ["collect", "environment", "load_results"]


def environment(processes: int = 1) -> dict[str, Any]:
    """What results are made with."""
    beside = {"processes": processes} if processes > 1 else {}
    return {
        "commit": _commit(),
        "mtl_ops": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        **beside,
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
    processes: int = 1,
) -> dict[str, Any]:
    """Do the jobs that are not done, and keep each as soon as it is.

    Args:
        study: Which.
        budget: One of :data:`BUDGETS`.
        path: Where results are kept; what is there already is gone on with.
        say: Is told what happens.
        minutes: After which no new job is begun; ``None`` for no limit.
        processes: How many jobs are done at a time, each in a process of its own with one thread.

    Returns:
        All results, in the order of the jobs.

    Raises:
        FolderError: If the file holds another study or other settings, is in use by another process, or cannot
            be written.
        DataError: If the data are not there.
    """
    settings, now = study.settings(budget), environment(processes)
    with _held(path):
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
        for record in perform(Work(study, settings, jobs, minutes, say), records, processes):
            records[:] = [*records, record]
            records.sort(key=lambda each: _place(each["job"], jobs))
            if now not in (results["environment"], *results.get("later", [])):
                results.setdefault("later", []).append(now)
            save_json(path, results)
    return results


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Two processes that go on with one file would write over each other's results."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock")
            stack.enter_context(locked(lock, f"File {path}"))
        except OSError as error:
            raise FolderError(f"File {path} cannot be used: {error.strerror or error}.") from error
        yield


def _place(job: Job, jobs: Sequence[Job]) -> int:
    """In the order of the jobs, whichever ended first; what is none of them comes last."""
    return jobs.index(job) if job in jobs else len(jobs)


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
