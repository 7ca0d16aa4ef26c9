"""What was measured on: names and versions, and the memory bandwidth in the same run."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mtl_ops

from .timing import Timing, interleave

__all__ = ["Probe", "facts", "read_probe", "version"]

#: Packages whose versions belong to a result.
PACKAGES = ("mtl-ops", "torch", "torchjd", "numpy", "scipy", "cvxpy", "ecos", "quadprog")


@dataclass(frozen=True)
class Probe:
    """A plain PyTorch call that is bound by memory, and the bytes that it moves."""

    name: str
    call: Callable[[], object]
    bytes: int

    def bandwidth(self, timing: Timing) -> float:
        """Bytes a second."""
        return self.bytes / timing.seconds.median


def read_probe(device: str, quick: bool = False) -> Probe:
    """The fastest of several ways to read memory.

    A sum, a dot product or a reduction of rows: which one comes closest to the bandwidth depends on
    the machine, so all are tried. It takes part in the rounds of a benchmark to say what the memory
    gives at that time; on shared machines that drifts by a factor of two. On a GPU it is a copy within
    its memory, the usual measure there, which counts as reading and writing.
    """
    if device.startswith("cuda"):
        return _copy_probe(device, quick)
    probes = _read_probes(device, quick)
    timings = interleave({p.name: p.call for p in probes}, rounds=5, seconds=2.0, device=device)
    return max(probes, key=lambda probe: probe.bandwidth(timings[probe.name]))


def facts(device: str = "cpu", quick: bool = False) -> dict[str, Any]:
    """Processor, threads, versions and bandwidths; nothing that names a host, a user or a path."""
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
        "build": _build(),
        "versions": {name: found for name in PACKAGES if (found := version(name)) is not None},
        "bandwidth": _bandwidths(device, quick),
    }


def version(package: str) -> str | None:
    """The installed version, if any."""
    if package == "torch":  # its metadata may lack the build, as in 2.10.0+cu128
        return torch.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return mtl_ops.__version__ if package == "mtl-ops" else None


def _read_probes(device: str, quick: bool) -> list[Probe]:
    count = _elements(quick)
    x, y = torch.ones(count, device=device), torch.ones(count, device=device)
    half = x[: count // 2], y[: count // 2]
    return [
        Probe("sum", x.sum, 4 * count),
        Probe("dot", lambda: torch.dot(*half), 4 * count),
        Probe("rows", lambda: x.view(1024, -1).sum(dim=1), 4 * count),
        Probe("maximum", x.amax, 4 * count),
    ]


def _copy_probe(device: str, quick: bool) -> Probe:
    source = torch.ones(_elements(quick) // 2, device=device)
    target = torch.empty_like(source)
    return Probe("copy", lambda: target.copy_(source), 8 * len(source))


def _bandwidths(device: str, quick: bool) -> dict[str, float]:
    """GB/s: the best of the ways to read, and a copy, which reads and writes."""
    probes = _read_probes(device, quick)
    copy = _copy_probe(device, quick)
    timings = interleave(
        {probe.name: probe.call for probe in [*probes, copy]}, rounds=9, seconds=4.0, device=device
    )
    read = max(probe.bandwidth(timings[probe.name]) for probe in probes)
    return {"read": read / 1e9, "copy": copy.bandwidth(timings["copy"]) / 1e9}


def _elements(quick: bool) -> int:
    """256 MiB of float32, far beyond every cache; 16 MiB when only the code is tried out."""
    return (4 if quick else 64) << 20


def _processor() -> str:
    """As the system names it."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _build() -> dict[str, Any]:
    """What the extension was built with."""
    info = mtl_ops.build_info()
    return {"compiler": info.compiler, "simd": info.simd, "cuda": info.cuda}
