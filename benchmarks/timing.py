"""Times rivals in turn, in one process, so that a busy machine slows them all alike.

Every round calls each contender once (or as often as a stable reading takes), and each round starts
with the next contender. What is reported are medians with quartiles, and ratios of the readings of
the same round: a drift of the machine cancels in a ratio, but not in a quotient of two medians.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

__all__ = ["Quartiles", "Timing", "interleave", "ratio", "seconds_of"]

#: Fewest readings of a contender, however slow it is.
FEWEST = 3
#: A reading takes at least this long; faster contenders are called several times for it.
READING = 2e-3


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Quartiles:
        """Of at least one value."""
        values = list(values)
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def times(self, factor: float) -> Quartiles:
        """In another unit."""
        return Quartiles(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Timing:
    """Seconds a call of one contender, by round; a slow contender sits some rounds out."""

    by_round: Mapping[int, float]

    @property
    def seconds(self) -> Quartiles:
        """Over all rounds."""
        return Quartiles.of(self.by_round.values())


def ratio(numerator: Timing, denominator: Timing) -> Quartiles:
    """Quartiles of the ratios of readings of the same round.

    A contender that sat a round out is compared by its reading in the nearest round that it took.
    """
    fewer, more = sorted((numerator, denominator), key=lambda timing: len(timing.by_round))
    ratios = []
    for number, own in fewer.by_round.items():
        other = more.by_round[min(more.by_round, key=lambda other: abs(other - number))]
        ratios.append(own / other if fewer is numerator else other / own)
    return Quartiles.of(ratios)


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    seconds: float = 30.0,
    device: str = "cpu",
) -> dict[str, Timing]:
    """Time contenders in turn.

    Args:
        contenders: Functions by name, each the whole of what is timed.
        rounds: Rounds that count. Each contender takes part in all of them, unless that would take
            longer than its share of ``seconds``; then it sits out all but every k-th, and has three
            readings at least.
        seconds: Roughly what all rounds together may take.
        device: On ``"cuda"`` events are recorded around each reading; the host's time to queue the
            work is in it, as the device waits for it.
    """
    clock = _cuda_seconds if device.startswith("cuda") else _cpu_seconds
    plans = {name: _plan(call, clock) for name, call in contenders.items()}
    share = seconds / max(1, len(contenders))
    names = list(contenders)
    readings: dict[str, dict[int, float]] = {name: {} for name in names}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for count in range(rounds):
            start = count % len(names)
            for name in names[start:] + names[:start]:
                plan = plans[name]
                if count % plan.stride(rounds, share) == 0:
                    total = clock(contenders[name], plan.calls)
                    readings[name][count] = total / plan.calls
    finally:
        if was_enabled:
            gc.enable()
    return {name: Timing(by_round) for name, by_round in readings.items()}


def seconds_of(call: Callable[[], object], device: str = "cpu") -> Quartiles:
    """Of a single contender."""
    return interleave({"it": call}, device=device)["it"].seconds


@dataclass(frozen=True)
class _Plan:
    """How often a contender is called in a reading, and what a reading takes."""

    calls: int
    seconds: float

    def stride(self, rounds: int, share: float) -> int:
        """Takes part in every k-th round."""
        affordable = max(FEWEST, math.floor(share / max(self.seconds, 1e-9)))
        longest = (rounds - 1) // (FEWEST - 1)  # still three readings
        return max(1, min(longest, math.ceil(rounds / affordable)))


def _plan(call: Callable[[], object], clock: Callable[[Callable[[], object], int], float]) -> _Plan:
    """Warms the contender up, and counts the calls that a stable reading takes."""
    taken = clock(call, 1)
    if taken < 0.2:  # the first call of anything also loads code and fills caches
        taken = min(clock(call, 1) for _ in range(3))
    calls = max(1, math.ceil(READING / max(taken, 1e-9)))
    if calls > 1:
        taken = clock(call, calls) / calls
    return _Plan(calls, taken * calls)


def _cpu_seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def _cuda_seconds(call: Callable[[], object], calls: int) -> float:
    torch.cuda.synchronize()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3
