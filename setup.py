"""Builds `mtl_ops._C`: the CPU kernels always, the CUDA kernels when torch is a CUDA build and nvcc is there.

MTL_OPS_CUDA=0|1      leave the CUDA kernels out, or insist on them
TORCH_CUDA_ARCH_LIST  their architectures, as in "8.0;9.0+PTX" (the default)
CUDA_HOME             the CUDA toolkit; otherwise the nvcc on PATH, then /usr/local/cuda
MTL_OPS_LABEL         cpu, cu126, cu130, ...: added to the version of a wheel, as torch adds it to its own
MAX_JOBS              compilers running at a time
CXX, CXXFLAGS, LDFLAGS  as ever

The extension uses the LibTorch stable ABI, so a module built with one torch serves every torch from 2.10 on.  One small
file knows Python; all others are compiled once for all Pythons that build in one tree with one version of torch.

What can go wrong is checked before anything is compiled, and ends in one sentence (a `BuildError` is a `SystemExit`: no
traceback).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import setuptools
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info

ROOT = Path(__file__).resolve().parent
MIN_SETUPTOOLS = 77  # the first to read `license = "MIT"` in pyproject.toml
MIN_TORCH = (2, 10)
DEFAULT_ARCHS = "8.0;9.0+PTX"
CHECKED_ARCHS = "8.0;9.0"  # what `compile_cuda` compiles for
# no -march: the SIMD level is chosen at run time
CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
]
NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden,-Wall",
    "-DUSE_CUDA",
]
SANITIZERS = {
    "memory": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "threads": ["-fsanitize=thread"],
}
STABLE_ABI = f"-DTORCH_TARGET_VERSION=0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"


class BuildError(SystemExit):
    """Ends the build with one sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(f"mtl_ops: {message}")


# ---- what can go wrong, each checked by one function -------------------------------------------


class Torch(NamedTuple):
    version: str
    cuda: str | None
    root: Path


def check_setuptools(version: str = setuptools.__version__) -> None:
    if int(version.split(".")[0]) < MIN_SETUPTOOLS:
        raise BuildError(
            f"setuptools {MIN_SETUPTOOLS} or newer should be installed. Found {version}. "
            f'Run `pip install "setuptools>={MIN_SETUPTOOLS}"`.'
        )


def import_torch() -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise BuildError(f"torch is installed but does not import: {error}.") from None
        raise BuildError(
            "torch is not installed in the Python that builds (pip's isolated build environment never has it, and "
            "would fetch another torch than yours). Run `pip install torch`, then `pip install --no-build-isolation .`"
        ) from None
    except (ImportError, OSError) as error:
        raise BuildError(f"torch is installed but does not import: {error}.") from None
    return torch


def check_torch() -> Torch:
    """The torch to build against."""
    torch = import_torch()
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if not found or tuple(map(int, found.groups())) < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        raise BuildError(
            f"torch should be {needed} or newer. Found torch {torch.__version__}. "
            f'Run `pip install --upgrade "torch>={needed}"`.'
        )
    return Torch(torch.__version__, torch.version.cuda, Path(torch.__file__).parent)


def find_compiler(env: Mapping[str, str] = os.environ) -> list[str]:
    """The words that call the C++ compiler: CXX, or the first of c++, g++, clang++ on PATH."""
    if env.get("CXX"):
        return shlex.split(env["CXX"])
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name, path=env.get("PATH")):
            return [name]
    raise BuildError(
        "no C++ compiler was found. Install g++ 11 or newer (`apt install g++`, `dnf install gcc-c++`, "
        "`xcode-select --install`), or name one in the environment variable CXX."
    )


def check_compiler(compiler: Sequence[str]) -> str:
    """The compiler's name and version; the compiler should know C++20."""
    probe = "#include <concepts>\n#include <span>\nstatic_assert(std::integral<int>);\n"
    advice = "Install g++ 11 or clang 14 or newer, or name one in the environment variable CXX."
    command = [*compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    try:
        done = subprocess.run(command, input=probe, capture_output=True, text=True)
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
    except OSError as error:
        raise BuildError(
            f"the C++ compiler `{shlex.join(compiler)}` does not run ({error.strerror}). {advice}"
        ) from None
    first_line = version.stdout.partition("\n")[0]
    if done.returncode:
        found = f" ({first_line})" if first_line else ""
        raise BuildError(
            f"the C++ compiler `{shlex.join(compiler)}`{found} does not compile C++20. {advice}"
        )
    return first_line


def find_nvcc(env: Mapping[str, str] = os.environ) -> Path | None:
    home = env.get("CUDA_HOME") or env.get("CUDA_PATH")
    if home:
        candidates = [Path(home, "bin", "nvcc")]
    else:
        on_path = shutil.which("nvcc", path=env.get("PATH"))
        candidates = [Path(on_path)] if on_path else [Path("/usr/local/cuda/bin/nvcc")]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def nvcc_version(nvcc: Path) -> str:
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    if not found:
        raise BuildError(
            f"`{nvcc} --version` does not tell its version: {done.stdout + done.stderr}"
        )
    return found.group(1)


def check_cuda(
    torch: Torch, nvcc: Path | None, version: str | None, forced: str | None
) -> tuple[bool, str]:
    """Whether to build the CUDA kernels, and why not. `forced` is MTL_OPS_CUDA, `version` is nvcc's."""
    if forced not in (None, "", "0", "1"):
        raise BuildError(f"MTL_OPS_CUDA should be 0 or 1. Found `MTL_OPS_CUDA={forced}`.")
    if forced == "0":
        return False, "MTL_OPS_CUDA=0"
    if torch.cuda is None:
        if forced == "1":
            raise BuildError(
                f"MTL_OPS_CUDA=1, but torch {torch.version} is built without CUDA. Install a CUDA build of torch "
                "(https://pytorch.org/get-started/locally), or leave MTL_OPS_CUDA out."
            )
        return False, "torch is built without CUDA"
    if nvcc is None or version is None:
        if forced == "1":
            raise BuildError(
                f"MTL_OPS_CUDA=1, but nvcc was not found. Install the CUDA toolkit {torch.cuda}, put its nvcc on PATH "
                "or set CUDA_HOME, or leave MTL_OPS_CUDA out."
            )
        return False, "nvcc was not found"
    major = torch.cuda.split(".")[0]
    if version.split(".")[0] != major:
        found = (
            f"nvcc is of CUDA {version}, but torch {torch.version} is built with CUDA {torch.cuda}"
        )
        if forced == "1":
            raise BuildError(
                f"MTL_OPS_CUDA=1, and {found}: the major versions should agree. Set CUDA_HOME to a CUDA {major} "
                "toolkit, or leave MTL_OPS_CUDA out."
            )
        return False, found
    return True, ""


def parse_archs(text: str) -> list[str]:
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX", or with blanks) as nvcc's -gencode arguments."""
    flags = []
    for arch in re.split(r"[;,\s]+", text.strip("; ")):
        found = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)
        if not found:
            raise BuildError(
                f'TORCH_CUDA_ARCH_LIST should be like "{DEFAULT_ARCHS}". Found `TORCH_CUDA_ARCH_LIST={text}`.'
            )
        number = found.group(1) + found.group(2)
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if found.group(3):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def one_ptx(archs: str) -> list[str]:
    """Arguments for machine code of all of them from the PTX of the first: nvcc reads the source once."""
    numbers = re.findall(r"arch=compute_(\w+),code=sm_", " ".join(parse_archs(archs)))
    code = ",".join(f"sm_{number}" for number in numbers)
    return [f"-gencode=arch=compute_{numbers[0]},code=[{code}]"]


def max_jobs(env: Mapping[str, str] = os.environ) -> int:
    text = env.get("MAX_JOBS")
    if not text:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if not text.isdecimal() or int(text) < 1:
        raise BuildError(f"MAX_JOBS should be a positive integer. Found `MAX_JOBS={text}`.")
    return int(text)


def version_label(env: Mapping[str, str] = os.environ) -> str:
    """What is added to the version: nothing, or a local label as in 0.1.0+cu130."""
    text = env.get("MTL_OPS_LABEL")
    if not text:
        return ""
    if not re.fullmatch(r"cpu|cu\d{3}", text):
        raise BuildError(
            f"MTL_OPS_LABEL should be like cpu or cu130. Found `MTL_OPS_LABEL={text}`."
        )
    return f"+{text}"


# ---- commands ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One command that makes one file; a compiler's `depfile` lists the headers it read."""

    output: Path
    inputs: tuple[Path, ...]
    command: list[str]
    depfile: Path | None = None


def linked(torch: Torch, objects: Path) -> Torch:
    """The same torch by a path in `objects`: then commands, and so what they made, are the same for every Python."""
    link = ROOT / objects / "torch"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists() or not link.samefile(torch.root):
        link.unlink(missing_ok=True)
        link.symlink_to(torch.root)
    return torch._replace(root=objects / "torch")


def include_flags(torch: Torch) -> list[str]:
    # As system headers: their warnings are not ours.  pybind11's headers come with torch.
    include = torch.root / "include"
    headers = [include, include / "torch/csrc/api/include"]
    # Nobody reads the name: another torch is another command, which says that its headers have changed.
    version = f"-DMTL_OPS_HEADERS={json.dumps(torch.version)}"
    return [version, *(flag for path in headers for flag in ("-isystem", str(path)))]


def python_flags() -> list[str]:
    """For the one file that knows Python."""
    include = sysconfig.get_path("include")
    return ["-isystem", include, f"-ffile-prefix-map={include}/="]


def portable_paths(torch: Torch) -> list[str]:
    """Keeps this machine's paths out of the binary (torch's checks store __FILE__)."""
    return [f"-ffile-prefix-map={path}/=" for path in (torch.root.parent, ROOT)]


def compile_cxx(source: Path, objects: Path, compiler: Sequence[str], flags: Sequence[str]) -> Step:
    output = objects / (str(source).replace("/", ".") + ".o")
    depfile = output.with_suffix(".d")
    depend = ["-MMD", "-MF", str(depfile)]
    command = [*compiler, *flags, *depend, "-c", str(source), "-o", str(output)]
    return Step(output, (source,), command, depfile)


def compile_all_cxx(
    objects: Path,
    compiler: Sequence[str],
    torch: Torch,
    facts: Mapping[str, str],
    extra: Sequence[str] = (),
) -> list[Step]:
    flags = [*CXX_FLAGS, *portable_paths(torch), *include_flags(torch), *extra]
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    about = [f"-DMTL_OPS_{name}={json.dumps(fact)}" for name, fact in facts.items()]
    steps = []
    for source in sources("csrc/*.cpp", "csrc/cpu/*.cpp"):
        if source.name == "module.cpp":
            # It calls nothing of torch, and torch 2.10's pybind11 refuses to be included with the stable ABI.
            own = [*flags, *python_flags(), *about]
            steps.append(compile_cxx(source, of_this_python(objects), compiler, own))
        else:
            steps.append(compile_cxx(source, objects, compiler, [*flags, STABLE_ABI]))
    return steps


def of_this_python(objects: Path) -> Path:
    """Where lies what is made for each Python anew."""
    return objects / str(sys.implementation.cache_tag)


# Sources none of whose kernels is hot.  Their text does not depend on the architecture: to check them, one PTX serves
# for all.
CHECKED_FROM_ONE_PTX = ("elementwise.cu", "losses.cu", "solve.cu")

# Of them those in which ptxas takes minutes to arrange registers that nobody counts: here it need not try at all, and
# compiles a function once, not once for every kernel that calls it.
CHECKED_FAST = ("losses.cu", "solve.cu")
FAST = ["-rdc=true", "-Xptxas", "-O0"]

# Kernels over the long gradients: a register that goes to memory there costs bandwidth.  The solvers are not among
# them, which work on T x T numbers.
HOT_KERNELS = ("gram_narrow", "gram_wide", "merge_columns")

# Nor is the merge of single coordinates, which sorts in registers; how many bytes a thread of it may spill.
FEW_SPILLS = {"merge_coordinates": 40}
WATCHED_KERNELS = (*HOT_KERNELS, *FEW_SPILLS)


class Usage(NamedTuple):
    """What ptxas says about one kernel."""

    kernel: str
    arch: str
    registers: int
    spilled: int  # bytes stored


def parse_ptxas(text: str) -> list[Usage]:
    """The kernels in what `nvcc -Xptxas -v` prints."""
    found = re.findall(
        r"Compiling entry function '(\w+)' for 'sm_(\w+)'(?:(?!Compiling entry).)*?"
        r"(\d+) bytes spill stores(?:(?!Compiling entry).)*?Used (\d+) registers",
        text,
        re.DOTALL,
    )
    return [Usage(name, arch, int(used), int(spilled)) for name, arch, spilled, used in found]


def check_spills(usages: Sequence[Usage]) -> None:
    for usage in usages:
        watched = next((name for name in WATCHED_KERNELS if name in usage.kernel), None)
        if watched and usage.spilled > FEW_SPILLS.get(watched, 0):
            raise BuildError(
                f"the kernel `{watched}` should keep its numbers in registers. Found {usage.spilled} bytes spilled on "
                f"sm_{usage.arch} ({usage.kernel}). Give its threads less to hold, or its blocks more registers."
            )


def usage_table(usages: Sequence[Usage]) -> str:
    """The most registers and spilled bytes among a watched kernel's dtypes, and among all others, by architecture."""
    lines = [f"{'kernels':20} {'arch':>5} {'registers':>9} {'spilled':>7}"]
    groups: dict[tuple[str, str], list[Usage]] = {}
    for usage in usages:
        watched = next((name for name in WATCHED_KERNELS if name in usage.kernel), "others")
        groups.setdefault((watched, usage.arch), []).append(usage)
    for (name, arch), group in sorted(groups.items()):
        registers, spilled = max(u.registers for u in group), max(u.spilled for u in group)
        lines.append(f"{name:20} {arch:>5} {registers:9} {spilled:7}")
    return "\n".join(lines)


def compile_cuda(
    source: Path, objects: Path, nvcc: Path, torch: Torch, archs: Sequence[str]
) -> Step:
    host = ["-ccbin", find_compiler()[-1]] if os.environ.get("CXX") else []
    paths = ["-Xcompiler", ",".join(portable_paths(torch))]
    flags = [*host, *NVCC_FLAGS, STABLE_ABI, *paths, *archs, *include_flags(torch)]
    return compile_cxx(source, objects, [str(nvcc)], flags)


def device_code(step: Step) -> Step:
    """The same, of the device's part alone: what of a source the host runs, others compile."""
    return replace(step, command=["-fatbin" if word == "-c" else word for word in step.command])


def link(
    objects: Sequence[Path], output: Path, torch: Torch, compiler: Sequence[str], nvcc: Path | None
) -> Step:
    libraries = [f"-L{torch.root / 'lib'}", "-ltorch_cpu", "-lc10"]
    extra = shlex.split(os.environ.get("LDFLAGS", ""))
    if nvcc:  # nvcc knows where cudart is; shared, so that it is torch's own
        command = [str(nvcc), "-shared", "-cudart", "shared"]
        libraries.append("-ltorch_cuda")
    elif sys.platform == "darwin":
        command = [*compiler, "-bundle", "-undefined", "dynamic_lookup"]
    else:
        command = [*compiler, "-shared"]
    command += [*map(str, objects), *libraries, *extra, "-o", str(output)]
    return Step(output, tuple(objects), command)


def sources(*patterns: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern))


def write_ninja(steps: Sequence[Step], path: Path) -> None:
    def escape(text: object) -> str:
        return re.sub(r"([ :$])", r"$\1", str(text))

    lines = [f"builddir = {path.parent}"]  # where ninja keeps its log
    for number, step in enumerate(steps):
        lines += [f"rule r{number}", "  command = " + shlex.join(step.command).replace("$", "$$")]
        lines += [f"  description = {step.output.name}"]
        if step.depfile:
            lines += [f"  depfile = {step.depfile}", "  deps = gcc"]
        inputs = " ".join(map(escape, step.inputs))
        lines += [f"build {escape(step.output)}: r{number} {inputs}"]
    path.write_text("\n".join(lines) + "\n")


def find_ninja() -> str | None:
    try:
        import ninja
    except ImportError:
        return shutil.which("ninja")
    return str(Path(ninja.BIN_DIR, "ninja"))


def run_steps(steps: Sequence[Step], objects: Path) -> None:
    """Runs what is out of date through ninja; without ninja runs everything, the last step last."""
    for step in steps:
        (ROOT / step.output).parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(objects):
        _run_steps(steps, objects)


@contextmanager
def one_at_a_time(objects: Path) -> Iterator[None]:
    """Two Pythons that build at once share what does not depend on them."""
    import fcntl  # not on Windows, where nothing is built

    objects.mkdir(parents=True, exist_ok=True)
    with (objects / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run_steps(steps: Sequence[Step], objects: Path) -> None:
    ninja = find_ninja()
    if ninja:
        write_ninja(steps, objects / "build.ninja")
        codes = [
            subprocess.call(
                [ninja, "-f", str(objects / "build.ninja"), f"-j{max_jobs()}"], cwd=ROOT
            )
        ]
    else:
        with ThreadPoolExecutor(max_jobs()) as pool:
            codes = list(pool.map(lambda step: subprocess.call(step.command, cwd=ROOT), steps[:-1]))
        codes += [] if any(codes) else [subprocess.call(steps[-1].command, cwd=ROOT)]
    if any(codes):
        raise BuildError("compiling failed; the compiler's message is above.")


# ---- setuptools --------------------------------------------------------------------------------


class CheckedDistInfo(dist_info):  # type: ignore[misc]
    """Asks for torch before pip fetches the dependencies, not after: one of them is torch."""

    def run(self) -> None:
        check_torch()
        super().run()


class NinjaBuild(build_ext):  # type: ignore[misc]
    def build_extension(self, ext: setuptools.Extension) -> None:
        if sys.platform not in ("linux", "darwin"):
            raise BuildError(
                f"Linux and macOS are supported (on Windows, use WSL). Found {sys.platform}."
            )
        torch = check_torch()
        compiler = find_compiler()
        compiler_version = check_compiler(compiler)
        nvcc = find_nvcc() if torch.cuda else None
        version = nvcc_version(nvcc) if nvcc else None
        with_cuda, reason = check_cuda(torch, nvcc, version, os.environ.get("MTL_OPS_CUDA"))
        print(f"mtl_ops: torch {torch.version}, {compiler_version}", end=", ")
        print(f"nvcc {version}" if with_cuda else f"no CUDA kernels ({reason})", flush=True)

        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHS
        facts = {
            "VERSION": self.distribution.get_version(),
            "COMPILER": compiler_version,
            "TORCH": torch.version,
            "CUDA": version if with_cuda else "",
            "CUDA_ARCHS": archs if with_cuda else "",
            "CUDA_LEFT_OUT": reason,
        }
        objects = Path("build", f"torch-{torch.version}-{'cuda' if with_cuda else 'cpu'}")
        torch = linked(torch, objects)
        steps = compile_all_cxx(objects, compiler, torch, facts)
        if with_cuda and nvcc:
            steps += [
                compile_cuda(s, objects, nvcc, torch, parse_archs(archs))
                for s in sources("csrc/cuda/*.cu")
            ]
        library = of_this_python(objects) / Path(self.get_ext_filename(ext.name)).name
        compiled = [step.output for step in steps]
        steps.append(link(compiled, library, torch, compiler, nvcc if with_cuda else None))
        run_steps(steps, ROOT / objects)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # a running Python keeps the old file
        target.unlink(missing_ok=True)
        shutil.copy2(ROOT / library, target)


def checked_archs(source: Path) -> list[str]:
    many = source.name not in CHECKED_FROM_ONE_PTX
    return parse_archs(CHECKED_ARCHS) if many else one_ptx(CHECKED_ARCHS)


class CompileCuda(setuptools.Command):
    """Compiles the kernels for sm_80 and sm_90; needs nvcc, but no GPU and no CUDA build of torch.

    The launches around them are compiled by the tests' emulator, and all of it with a CUDA build of torch.
    """

    description = "check that the CUDA sources compile"
    user_options: list[tuple[str, str | None, str]] = []  # noqa: RUF012

    def initialize_options(self) -> None: ...

    def finalize_options(self) -> None: ...

    def run(self) -> None:
        nvcc = find_nvcc()
        found = sources("csrc/cuda/*.cu")
        if nvcc is None:
            print("nvcc not found: CUDA sources not compiled")
        elif found:
            objects = Path("build", "compile_cuda")
            # the longest first, so that no compiler is alone with it at the end
            found.sort(key=lambda source: -(ROOT / source).stat().st_size)
            torch = check_torch()
            steps = [
                device_code(compile_cuda(s, objects, nvcc, torch, checked_archs(s))) for s in found
            ]
            logged = [
                with_log(step, FAST if source.name in CHECKED_FAST else [])
                for source, step in zip(found, steps, strict=True)
            ]
            run_steps(logged, ROOT / objects)
            text = "".join((ROOT / log_of(step)).read_text(errors="replace") for step in logged)
            usages = parse_ptxas(text)
            print(usage_table(usages))
            check_spills(usages)


class BuildSanitized(setuptools.Command):
    """Builds the extension with a sanitizer into `build/sanitized/KIND`; the one in `mtl_ops` stays as it is.

    ThreadSanitizer knows the threads of the standard library but not those of OpenMP, whose barriers it does not see:
    that build has its own `torch_parallel_for`, on the former (`tests/cpp/parallel_for.cpp`).
    """

    description = "build with -fsanitize"
    user_options: list[tuple[str, str | None, str]] = [("kind=", None, "memory or threads")]  # noqa: RUF012

    def initialize_options(self) -> None:
        self.kind = "memory"

    def finalize_options(self) -> None:
        if self.kind not in SANITIZERS:
            raise BuildError(f"--kind should be one of {', '.join(SANITIZERS)}. Found {self.kind}.")

    def run(self) -> None:
        torch, compiler = check_torch(), find_compiler()
        sanitize = SANITIZERS[self.kind]
        facts = {
            "VERSION": self.distribution.get_version(),
            "COMPILER": check_compiler(compiler),
            "TORCH": torch.version,
            "CUDA": "",
            "CUDA_ARCHS": "",
            "CUDA_LEFT_OUT": "built with sanitizers",
        }
        folder = Path("build", "sanitized", self.kind)
        extra = ["-O1", "-g1", "-fno-omit-frame-pointer", "-DMTL_SIMD_BYTES=16", *sanitize]
        steps = compile_all_cxx(folder, compiler, torch, facts, extra)
        if self.kind == "threads":
            source = Path("tests", "cpp", "parallel_for.cpp")
            steps.append(compile_cxx(source, folder, compiler, [*CXX_FLAGS, *extra]))
        output = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
        compiled = [step.output for step in steps]
        steps.append(link(compiled, output, torch, [*compiler, *sanitize], None))
        run_steps(steps, ROOT / folder)


def log_of(step: Step) -> Path:
    return step.output.with_suffix(".log")


def with_log(step: Step, flags: Sequence[str] = ()) -> Step:
    """The same step, what ptxas says kept beside its output; what goes wrong is shown."""
    script = '"$@" 2> "$0" || { cat "$0" >&2; exit 1; }'
    command = ["sh", "-c", script, str(log_of(step)), *step.command, *flags, "-Xptxas", "-v"]
    return replace(step, command=command)


if __name__ == "__main__":
    check_setuptools()
    setuptools.setup(
        ext_modules=[setuptools.Extension("mtl_ops._C", sources=[])],
        options={"egg_info": {"tag_build": version_label()}},
        cmdclass={
            "build_ext": NinjaBuild,
            "dist_info": CheckedDistInfo,
            "build_sanitized": BuildSanitized,
            "compile_cuda": CompileCuda,
        },
    )
