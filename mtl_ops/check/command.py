"""``mtl-ops check``: is this build right on this machine, and how fast is it?

It needs nothing but torch and numpy. In under a minute it runs every kernel against its definition in
:mod:`mtl_ops.reference` on small hard cases, takes steps, and measures what the two passes get out of the memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from .._build import build_info
from .bandwidth import check_bandwidth
from .finding import Finding, Verdict
from .losses import check_losses
from .passes import check_passes
from .solvers import check_solvers
from .steps import check_steps
from .table import make_printer

__all__ = ["main"]

CHECKS: tuple[Callable[[str], Iterator[Finding]], ...] = (
    check_passes,
    check_solvers,
    check_losses,
    check_steps,
    check_bandwidth,
)


def main(arguments: Sequence[str]) -> int:
    """Checks, prints the table, and returns the exit status: 1 if anything differs, 2 if it cannot be checked.

    Args:
        arguments: Those of the command line, after ``check``.
    """
    parser = argparse.ArgumentParser(
        prog="mtl-ops check",
        description="Check this build on this machine: every kernel against its definition, whole steps, bandwidth.",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="check this one alone; otherwise all that are there",
    )
    asked = parser.parse_args(arguments).device
    print(build_info(), end="\n\n")
    missing = _why_not_cuda()
    if asked == "cuda" and missing:
        print(f"Parameter `--device` should be cpu here: {missing}", file=sys.stderr)
        return 2
    devices = [asked] if asked else ["cpu"] if missing else ["cpu", "cuda"]
    start = time.perf_counter()
    findings = _check(devices)
    if asked is None and missing:
        print(f"CUDA is not checked: {missing}")
    print(f"\n{_conclusion(findings)} ({time.perf_counter() - start:.0f} s)")
    return int(any(finding.verdict is Verdict.WRONG for finding in findings))


def _check(devices: Sequence[str]) -> list[Finding]:
    show = make_printer(coloured=sys.stdout.isatty())
    findings = []
    for device in devices:
        for check in CHECKS:
            with _threads(1 if check is not check_bandwidth else torch.get_num_threads()):
                for finding in check(device):
                    show(finding)
                    findings.append(finding)
    return findings


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Small tensors are done before several threads have met."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _why_not_cuda() -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no GPU."
    if build_info().backends["cuda"] != "native":
        return (
            "this build has no CUDA kernels, and plain PyTorch merges gradients there. "
            "Build mtl_ops with a CUDA build of torch and nvcc."
        )
    return None


def _conclusion(findings: Sequence[Finding]) -> str:
    wrong = [finding.what for finding in findings if finding.verdict is Verdict.WRONG]
    if wrong:
        return (
            f"DIFFERENCES in {len(wrong)} of {len(findings)} checks: {', '.join(wrong)}.\n"
            "Please report this to the authors of mtl_ops, with all of the above and what "
            "`python -m torch.utils.collect_env` prints. Until it is mended, do not train with this build."
        )
    return (
        f"All is well: {sum(f.verdict is Verdict.RIGHT for f in findings)} checks, no difference."
    )
