"""The CUDA kernels on the CPU: csrc/cuda compiled by a C++ compiler against an emulator.

:func:`load` returns ``torch.ops.mtl_ops_emulated``, the operators as a GPU would run them but for
CPU tensors, thread by thread (see ``tests/cuda/emulator``). So the kernels are tested where there is
no GPU, and what is tested there is their text, down to single threads and barriers, not a copy of it.

A product and a sum are rounded once, as ``nvcc`` has it, where the processor can;
``MTL_OPS_EMULATED_FMA=0`` builds it with two roundings instead.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc"
EMULATOR = ROOT / "tests" / "cuda" / "emulator"

#: CUDA that a C++ compiler does not read, as C++ that it does.
TRANSLATION = [
    (r"extern __shared__ __align__\(16\)", "extern"),
    # poisoned by the first thread of each block to come by
    (
        r"__shared__ ([^;]*?)(\w+)((?:\[[^;]*\])?);",
        r"static \1\2\3; emulator::enter_shared(&\2, sizeof(\2));",
    ),
    (r"__CUDACC__|__CUDA_ARCH__", "MTL_EMULATED"),
    (r"STABLE_TORCH_LIBRARY\(mtl_ops,", "STABLE_TORCH_LIBRARY(mtl_ops_emulated,"),
    (
        r"STABLE_TORCH_LIBRARY_IMPL\(mtl_ops, CUDA,",
        "STABLE_TORCH_LIBRARY_IMPL(mtl_ops_emulated, CPU,",
    ),
]

FLAGS = [
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-U_FORTIFY_SOURCE",  # it takes a jump between stacks for an error
    "-w",
    "-fsanitize=alignment,bounds,shift,integer-divide-by-zero,null",
    "-fsanitize-undefined-trap-on-error",
    "-DMTL_EMULATED",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]


def fma_flags() -> list[str]:
    """Contraction, of which -O1 alone does nothing; none where the processor cannot or nobody wants it."""
    if os.environ.get("MTL_OPS_EMULATED_FMA") == "0":
        return ["-ffp-contract=off"]
    if platform.machine() != "x86_64":
        return ["-ffp-contract=fast", "-fexpensive-optimizations"]
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.is_file() else ""
    if not re.search(r"^flags.* fma ", text, re.MULTILINE):
        return ["-ffp-contract=off"]
    return ["-ffp-contract=fast", "-fexpensive-optimizations", "-mfma"]


FLAGS += fma_flags()
CONTRACTED = "-ffp-contract=fast" in FLAGS
BUILD = ROOT / "build" / ("emulated_cuda" if CONTRACTED else "emulated_cuda_plain")


def reason_not_to() -> str | None:
    """Why the emulator cannot be built here, or ``None``."""
    if not SOURCES.is_dir():
        return "the sources are not here"
    if sys.platform != "linux":
        return "the emulator is linked as Linux links"
    if shutil.which("g++") is None:
        return "there is no g++ to compile the emulator"
    return None


@functools.cache
def load() -> Any:
    """The operators of the emulated library, built if anything changed."""
    torch.ops.load_library(str(_build()))
    return torch.ops.mtl_ops_emulated


@functools.cache
def _library() -> ctypes.CDLL:
    load()
    return ctypes.CDLL(str(_build()))


@contextmanager
def emulated(
    *, processors: int = 3, shared_memory: int = 227 * 1024, order: int = 0
) -> Iterator[None]:
    """A device of so many multiprocessors, whose threads run in the given order.

    Args:
        processors: The number of multiprocessors.
        shared_memory: Bytes of shared memory of each.
        order: 0: from the first thread to the last, 1: from the last to the first, otherwise at
            random, from this seed.
    """
    library = _library()
    library.emulate_processors(processors)
    library.emulate_shared_memory(shared_memory)
    library.emulate_order(order)
    try:
        yield
    finally:
        library.emulate_processors(3)
        library.emulate_shared_memory(227 * 1024)
        library.emulate_order(0)


@contextmanager
def failing(error: int, capability: int = 90) -> Iterator[None]:
    """Every launch fails: 1 for an invalid argument, 2 for a device without kernels."""
    library = _library()
    library.emulate_failure(error, capability)
    try:
        yield
    finally:
        library.emulate_failure(0, 90)


def limits_set() -> int:
    """How often a kernel was allowed more shared memory, so far."""
    return int(_library().emulated_attributes())


def launches() -> int:
    """How many kernels were launched so far."""
    return int(_library().emulated_launches())


def most_stages() -> int:
    """The most groups of copies to shared memory that one thread committed since the last call."""
    return int(_library().emulated_commits())


def _translate() -> dict[str, str]:
    """The translated sources and the emulator, by their path in the build folder."""
    texts = {}
    for path in [*SOURCES.rglob("*.h"), *SOURCES.rglob("*.cuh"), *SOURCES.rglob("*.cu")]:
        text = path.read_text()
        for pattern, replacement in TRANSLATION:
            text = re.sub(pattern, replacement, text)
        name = str(path.relative_to(SOURCES))
        texts[f"csrc/{name}.cpp" if path.suffix == ".cu" else f"csrc/{name}"] = text
    ops = (SOURCES / "ops.cpp").read_text()
    for pattern, replacement in TRANSLATION:
        ops = re.sub(pattern, replacement, ops)
    texts["csrc/ops.cpp"] = ops
    for path in EMULATOR.iterdir():
        texts[f"emulator/{path.name}"] = path.read_text()
    return texts


@functools.cache
def _build() -> Path:
    """The library; of several processes that ask at once, one builds it."""
    import fcntl  # not on Windows, where nothing is built

    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build_alone()


def _build_alone() -> Path:
    texts = _translate()
    include = Path(torch.__file__).parent / "include"
    command = [
        "g++",
        *FLAGS,
        f"-I{BUILD / 'emulator'}",
        *("-include", "cuda_runtime.h"),  # as nvcc does
        *("-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")),
    ]
    headers = "".join(texts[name] for name in sorted(texts) if not name.endswith(".cpp"))
    common = hashlib.sha256(repr((command, torch.__version__, headers)).encode())

    def compile_one(name: str) -> Path:
        digest = common.copy()
        digest.update(texts[name].encode())
        output = BUILD / f"{Path(name).name}.{digest.hexdigest()[:16]}.o"
        if not output.exists():
            for old in BUILD.glob(f"{Path(name).name}.*.o"):
                old.unlink()
            partial = output.with_suffix(f".{os.getpid()}")
            subprocess.run([*command, "-c", str(BUILD / name), "-o", str(partial)], check=True)
            partial.rename(output)
        return output

    for name, text in texts.items():
        path = BUILD / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    units = sorted(name for name in texts if name.endswith(".cpp"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, units))
    digest = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    library = BUILD / f"emulated_cuda.{digest}.so"
    if not library.exists():
        for old in BUILD.glob("emulated_cuda.*.so"):
            old.unlink()
        torch_libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]
        partial = library.with_suffix(f".{os.getpid()}")
        # The emulator's own stream and device guard come before torch's.
        link = ["g++", "-shared", "-Wl,-Bsymbolic", *map(str, objects), *torch_libraries]
        subprocess.run([*link, "-o", str(partial)], check=True)
        partial.rename(library)
    return library
