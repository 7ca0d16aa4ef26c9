"""What the hot kernels issue, read off their machine code: wide loads, many at a time, and no local memory.

Needs what ``make cuda`` compiled, and ``cuobjdump`` with ``nvdisasm``: of the CUDA toolkit, of the triton
that torch's CUDA builds bring, or of the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ROOT / "build" / "compile_cuda"
ARCHS = ("80", "90")

_FUNCTION = re.compile(r"\s*Function : (\w+)")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)")


def instructions(listing: str) -> dict[str, list[str]]:
    """The opcodes of each kernel of a listing of ``cuobjdump -sass``, in their order."""
    found: dict[str, list[str]] = {}
    opcodes: list[str] = []
    for line in listing.splitlines():
        if function := _FUNCTION.match(line):
            opcodes = found.setdefault(function[1], [])
        elif instruction := _INSTRUCTION.match(line):
            opcodes.append(instruction[1])
    return found


def most_in_a_row(opcodes: Sequence[str], load: str, use: str) -> int:
    """The most loads without a use between them."""
    most = run = 0
    for opcode in opcodes:
        if re.match(load, opcode):
            run += 1
            most = max(most, run)
        elif re.match(use, opcode):
            run = 0
    return most


def find_tools() -> str | None:
    """A search path on which both tools are, or ``None``."""
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep)]
    for place in map(Path, sys.path):
        folders += [*place.glob("nvidia/*/bin"), place / "triton/backends/nvidia/bin"]
    for folder in folders:
        path = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
        if all(shutil.which(name, path=path) for name in ("cuobjdump", "nvdisasm")):
            return path
    return None


def files_read(source: Path) -> set[Path]:
    """A source and the headers of this tree that it includes, directly or not."""
    found: set[Path] = set()
    todo = [source.resolve()]
    while todo:
        path = todo.pop()
        if path.exists() and path not in found:
            found.add(path)
            names = re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE)
            todo += [(path.parent / name).resolve() for name in names]
    return found


@cache
def kernels_of(source: str, arch: str) -> dict[str, list[str]]:
    """The kernels that ``make cuda`` made of a source since it last changed, or a skip."""
    compiled = OBJECTS / f"csrc.cuda.{source}.o"
    read = files_read(ROOT / "csrc" / "cuda" / source)
    newest = max((path.stat().st_mtime for path in read), default=0.0)
    if not compiled.exists() or compiled.stat().st_mtime < newest:
        pytest.skip("needs the CUDA sources compiled: make cuda")
    path = find_tools()
    if path is None:
        pytest.skip("needs cuobjdump and nvdisasm")
    done = subprocess.run(
        ["cuobjdump", "-sass", "-arch", f"sm_{arch}", str(compiled)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return instructions(done.stdout)


def named(name: str, source: str, arch: str) -> Iterator[tuple[str, list[str]]]:
    """The instantiations of a kernel template, of which there is at least one."""
    found = {
        kernel: opcodes
        for kernel, opcodes in kernels_of(source, arch).items()
        if re.search(rf"\d{name}I", kernel)
    }
    assert found
    yield from found.items()


USES = r"[FDH](FMA|MUL|ADD)"
LOCAL = {"LDL", "STL"}


def in_local_memory(opcodes: Sequence[str]) -> list[str]:
    return [opcode for opcode in opcodes if opcode.partition(".")[0] in LOCAL]


@pytest.mark.parametrize("arch", ARCHS)
def test_narrow_gram_has_eight_wide_loads_in_flight(arch: str) -> None:
    for kernel, opcodes in named("gram_narrow", "gram.cu", arch):
        assert most_in_a_row(opcodes, r"LDG\.E\.128", USES) == 8, kernel
        assert in_local_memory(opcodes) == [], kernel


@pytest.mark.parametrize("arch", ARCHS)
def test_wide_gram_copies_past_the_registers(arch: str) -> None:
    """16 bytes at a time into shared memory, without the first-level cache, and what it multiplies from there."""
    for kernel, opcodes in named("gram_wide", "gram.cu", arch):
        copies = [opcode for opcode in opcodes if opcode.startswith("LDGSTS")]
        assert copies, kernel
        assert all(".BYPASS" in opcode and opcode.endswith(".128") for opcode in copies), kernel
        shared = [opcode for opcode in opcodes if opcode.startswith("LDS")]
        widest = "LDS" if "HalfE" in kernel or "BFloat16" in kernel else "LDS.128"
        assert shared.count(widest) >= 8, kernel
        assert in_local_memory(opcodes) == [], kernel


@pytest.mark.parametrize("arch", ARCHS)
def test_merge_has_eight_wide_loads_in_flight(arch: str) -> None:
    """Each read once: first to be evicted."""
    for kernel, opcodes in named("merge_columns", "merge.cu", arch):
        assert most_in_a_row(opcodes, r"LDG\.E\.EF\.128", USES) == 8, kernel
        assert any(re.match(r"STG?\.E\.128", opcode) for opcode in opcodes), kernel
        assert in_local_memory(opcodes) == [], kernel


LISTING = """
		Function : _ZN7mtl_ops4cuda11gram_narrowIfLi8EEEv
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;  /* 0x00000a00ff017b82 */
                                                           /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;  /* 0x1 */
        /*0020*/               @P1 LDG.E.128.CONSTANT R8, desc[UR4][R2.64] ;
        /*0030*/                   FFMA R1, R4, R8, R1 ;
        /*0040*/                   LDG.E.128.CONSTANT R8, desc[UR4][R2.64] ;
        /*0050*/                   STL [R1], R4 ;
		Function : _ZN7mtl_ops4cuda8add_jobsE
        /*0000*/                   EXIT ;
"""


def test_a_listing_is_read() -> None:
    found = instructions(LISTING)
    narrow, add = found.values()
    assert add == ["EXIT"]
    assert narrow[:3] == ["LDC", "LDG.E.128.CONSTANT", "LDG.E.128.CONSTANT"]
    assert most_in_a_row(narrow, r"LDG\.E\.128", USES) == 2
    assert in_local_memory(narrow) == ["STL"]
