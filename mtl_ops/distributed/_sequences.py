"""Which collectives each process has called, and whether the others can catch up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["TORCH", "TORCH_FAILED", "Launched", "longest_of", "since_common_call"]

#: What a collective was called with: its name, the dtype, the number of elements and the kind of device.
Launched = list[Any]

#: In place of the collectives that torch calls by itself in a backward, and if there was an error in them.
TORCH, TORCH_FAILED = "torch", "torch failed"


def since_common_call(notes: Mapping[int, Any]) -> dict[int, list[Launched]]:
    """By rank, the collectives since the last call that all processes have begun.

    Args:
        notes: By rank: ``calls``, how many there were, and what was ``launched`` in the last ones.

    Raises:
        RuntimeError: If one process has gone too far for that.
    """
    common = min(note["calls"] for note in notes.values())
    sequences = {}
    for rank, note in notes.items():
        ahead = note["calls"] - common
        if ahead >= len(note["launched"]):
            raise RuntimeError(f"rank {rank} {ahead} calls ahead")
        sequences[rank] = [one for call in note["launched"][-1 - ahead :] for one in call]
    return sequences


def longest_of(sequences: Mapping[int, list[Launched]]) -> list[Launched]:
    """What every process has to have called in the end.

    Args:
        sequences: By rank.

    Raises:
        RuntimeError: If one cannot catch up with the others, with what was found.
    """
    longest = max(sequences.values(), key=len)
    for rank, sequence in sequences.items():
        if [TORCH_FAILED] in sequence or [TORCH] in longest[len(sequence) :]:
            raise RuntimeError(
                f"that rank {rank} has left, or not begun, a backward that calls collectives of torch"
            )
        if sequence != longest[: len(sequence)]:
            raise RuntimeError(f"another order of collectives on rank {rank}")
    return longest
