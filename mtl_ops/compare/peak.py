"""Peak memory of a call."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["call_libc", "can_be_measured", "peak"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def can_be_measured(device: torch.device | str) -> bool:
    """Whether :func:`peak` sees every call, and not only those that go beyond what ever was."""
    return torch.device(device).type == "cuda" or _CLEAR.exists()


def peak(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes that a call takes at most, over what is taken before it.

    On CUDA the allocator says so. On Linux the high-water mark of resident memory is set back before
    the call; elsewhere it cannot be, and hides what setting up took at its peak. Collect garbage before.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = call()
        torch.cuda.synchronize(device)
        taken = torch.cuda.max_memory_allocated(device) - before
    else:
        _give_back()
        if _CLEAR.exists():
            _CLEAR.write_text("5")
        before = _high_water()
        held = call()
        taken = _high_water() - before
    del held
    return taken


def call_libc(name: str, *arguments: int) -> None:
    """Calls a function of the C library, if it has it."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)


def _give_back() -> None:
    """Memory that was freed before, and would be used again unseen."""
    call_libc("malloc_trim", 0)


def _high_water() -> int:
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
