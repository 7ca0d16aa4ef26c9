"""Which process was lost, when a collective fails."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Watch"]

#: How long a process waits for news of the others once a collective has failed.
PATIENCE = 5.0

#: How often a process that waits for a collective looks whether it has failed elsewhere.
LOOK = datetime.timedelta(seconds=1)


class Watch:
    """Tells of a lost process by the store that the group was made with.

    When a process dies, the ones that were talking to it get an error at once, and the others wait for
    those until the group's time-out. So each one that fails says so in the store, where those
    that wait look for it; whoever has said nothing after a few seconds is lost.

    Args:
        group: The process group; ``None`` for the default one.
    """

    def __init__(self, group: ProcessGroup | None) -> None:
        self.group = group
        self.ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
        self.me = dist.get_rank()
        from torch.distributed import distributed_c10d  # has the store, which nothing public has

        self._store: Any = distributed_c10d._get_default_store()
        self._prefix = f"mtl_ops/lost/{'-'.join(str(rank) for rank in self.ranks)}"

    def wait(self, work: Any, cpu: bool) -> None:
        """Waits for a collective.

        Raises:
            RuntimeError: If it failed, here or elsewhere; the message names the rank that was lost.
        """
        if not cpu:  # the device waits, and not this thread
            work.wait()
            return
        while True:
            try:
                work.wait(LOOK)
                return
            except RuntimeError as error:
                if work.is_completed() or self._failed_elsewhere():
                    raise self.lost(error) from error

    def lost(self, error: RuntimeError) -> RuntimeError:
        """What to raise for an error of a collective."""
        missing = self._missing()
        if missing is None:
            found = "that the process with the store, most often rank 0, was lost"
        elif missing:
            found = f"no sign of rank {', '.join(str(rank) for rank in missing)}"
        else:
            found = "that all of them failed"
        return RuntimeError(
            f"All {len(self.ranks)} processes should take part in merging. Found {found}, on rank {self.me} ({error})."
        )

    def explain(self, error: RuntimeError) -> None:
        """Raises the same if an error is that of a collective, as those in FSDP's backward are."""
        text = str(error)
        if isinstance(error, dist.DistError) or "gloo" in text or "Operation timed out" in text:
            raise self.lost(error) from error

    def _missing(self) -> list[int] | None:
        """Ranks that say nothing; ``None`` if the store says nothing, either."""
        keys = {rank: f"{self._prefix}/{rank}" for rank in self.ranks}
        end = time.monotonic() + PATIENCE
        try:
            self._store.set(keys[self.me], "failed")
            self._store.set(self._prefix, "failed")
            while True:
                missing = [rank for rank, key in keys.items() if not self._store.check([key])]
                if not missing or time.monotonic() > end:
                    return missing
                time.sleep(0.1)
        except RuntimeError:
            return None

    def _failed_elsewhere(self) -> bool:
        try:
            return bool(self._store.check([self._prefix]))
        except RuntimeError:
            return True
