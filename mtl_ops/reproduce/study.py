"""What a study is: jobs, and a page made of what came out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

__all__ = ["BUDGETS", "Job", "Record", "Study"]

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

    def chain(self, job: Job) -> Any:
        """Jobs of one chain need those of it before them; jobs of different chains may be done at a time.

        One chain for all unless a study says otherwise.
        """
        return None

    @abstractmethod
    def page(self, results: Mapping[str, Any]) -> str:
        """Markdown: what does not reproduce first, then tables whose first row is ``sum``."""
