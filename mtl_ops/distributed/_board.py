"""Notes that the processes of a group leave for one another, in the store that the group was made with."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Board"]

#: How long an answer of the store may take, in seconds.
PATIENCE = 3.0


class Board:
    """A store that never blocks for longer than :data:`PATIENCE`.

    The store is a thread of one process. When that is stopped, but not dead, a call waits for its answer
    without end, whatever time-out it was given; so each call has a thread of its own, which is left
    behind if there is no answer.

    Args:
        store: As of ``torch.distributed``.
        prefix: What all keys start with.
    """

    def __init__(self, store: Any, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._stuck: threading.Thread | None = None

    @property
    def silent(self) -> bool:
        """Whether the store has left a call without an answer."""
        return self._stuck is not None and self._stuck.is_alive()

    def put(self, key: str, note: Any) -> bool:
        """Writes a note, as JSON has it; returns whether the store has taken it."""
        text = json.dumps(note)
        return bool(self._ask(lambda: self._store.set(self._name(key), text) or True))

    def has(self, key: str) -> bool | None:
        """Whether there is such a note; ``None`` if the store does not answer."""
        answer = self._ask(lambda: self._store.check([self._name(key)]))
        return None if answer is None else bool(answer)

    def read(self, key: str) -> Any:
        """The note, or ``None``."""
        if not self.has(key):
            return None
        text = self._ask(lambda: self._store.get(self._name(key)))
        return None if text is None else json.loads(text)

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer of the store; ``None`` if there is none in time, or it was lost."""
        if self.silent:
            return None
        answers: list[Any] = []

        def ask() -> None:
            try:
                answers.append(question())
            except RuntimeError:
                answers.append(None)

        thread = threading.Thread(target=ask, name="mtl_ops store", daemon=True)
        thread.start()
        thread.join(PATIENCE)
        self._stuck = thread if thread.is_alive() else None
        return answers[0] if answers else None
