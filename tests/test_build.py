"""What can go wrong when the extension is built: one sentence each, before anything is compiled."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

if not (ROOT / "setup.py").exists():
    pytest.skip("needs the source tree, with setup.py", allow_module_level=True)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mtl_ops_setup", ROOT / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


setup = load()


def script(path: Path, text: str) -> Path:
    """An executable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fails(call: Any, *args: Any) -> str:
    """The text of the error, which is one line."""
    with pytest.raises(setup.BuildError) as error:
        call(*args)
    text = str(error.value)
    assert text.startswith("mtl_ops: ")
    assert "\n" not in text
    return text


def test_error_ends_the_process_with_its_text_and_no_traceback() -> None:
    code = (
        "import runpy, sys; setup = runpy.run_path(sys.argv[1]); raise setup['BuildError']('why.')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "setup.py")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "mtl_ops: why.\n")


class TestTorch:
    def test_found(self) -> None:
        torch = setup.check_torch()
        assert (torch.root / "include" / "torch" / "csrc" / "stable").is_dir()

    def test_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        text = fails(setup.check_torch)
        assert "torch is not installed" in text
        assert "`pip install torch`" in text
        assert "`pip install --no-build-isolation .`" in text
        assert "isolated build environment" in text

    @pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cu117", "2.4.0a0+git1234", "unknown"])
    def test_too_old(self, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", fake_torch(version))
        text = fails(setup.check_torch)
        assert f"torch should be 2.10 or newer. Found torch {version}." in text
        assert 'pip install --upgrade "torch>=2.10"' in text

    @pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0.dev20270101+cu130"])
    def test_new_enough(self, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", fake_torch(version))
        assert setup.check_torch().version == version

    @pytest.mark.parametrize(
        "line",
        [
            "import no_such_module",
            "raise OSError('libtorch.so: no such file')",
            "from os import no",
        ],
    )
    def test_broken(self, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "torch.py").write_text(line)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torch")
        try:
            text = fails(setup.check_torch)
        finally:
            monkeypatch.undo()
        assert "torch is installed but does not import: " in text


def fake_torch(version: str) -> ModuleType:
    module: Any = ModuleType("torch")
    module.__version__, module.__file__ = version, "/torch/__init__.py"
    module.version = ModuleType("version")
    module.version.cuda = None
    return module


@pytest.mark.parametrize("version", ["58.1.0", "76.0.0"])
def test_setuptools_too_old(version: str) -> None:
    text = fails(setup.check_setuptools, version)
    assert f"setuptools 77 or newer should be installed. Found {version}." in text


class TestCompiler:
    def test_none_on_the_path(self, tmp_path: Path) -> None:
        text = fails(setup.find_compiler, {"PATH": str(tmp_path)})
        assert "no C++ compiler was found" in text
        assert "apt install g++" in text
        assert "CXX" in text

    def test_first_on_the_path(self, tmp_path: Path) -> None:
        script(tmp_path / "clang++", "")
        assert setup.find_compiler({"PATH": str(tmp_path)}) == ["clang++"]
        script(tmp_path / "g++", "")
        assert setup.find_compiler({"PATH": str(tmp_path)}) == ["g++"]

    def test_named_by_cxx_with_arguments(self) -> None:
        env = {"CXX": "ccache 'my g++' -m64", "PATH": ""}
        assert setup.find_compiler(env) == ["ccache", "my g++", "-m64"]

    def test_that_does_not_exist(self) -> None:
        text = fails(setup.check_compiler, ["/no/such/g++"])
        assert "`/no/such/g++` does not run (No such file or directory)" in text

    def test_that_does_not_know_cxx20(self, tmp_path: Path) -> None:
        old = script(
            tmp_path / "g++", '[ "$1" = --version ] && echo "g++ (GCC) 4.8.5" && exit 0; exit 1'
        )
        text = fails(setup.check_compiler, [str(old)])
        assert "(g++ (GCC) 4.8.5) does not compile C++20. Install g++ 11 or clang 14" in text

    @pytest.mark.skipif(
        not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
    )
    def test_that_is_here(self) -> None:
        assert setup.check_compiler(setup.find_compiler())


class TestCuda:
    CPU = setup.Torch("2.13.0+cpu", None, Path("/torch"))
    CU13 = setup.Torch("2.13.0+cu130", "13.0", Path("/torch"))
    NVCC = Path("/usr/local/cuda/bin/nvcc")
    OTHER_MAJOR = "nvcc is of CUDA 12.8, but torch 2.13.0+cu130 is built with CUDA 13.0"

    @pytest.mark.parametrize("forced", [None, "", "1"])
    def test_is_built_where_it_fits(self, forced: str | None) -> None:
        assert setup.check_cuda(self.CU13, self.NVCC, "13.2", forced) == (True, "")

    @pytest.mark.parametrize(
        ("torch", "nvcc", "version", "forced", "why"),
        [
            (CU13, NVCC, "13.0", "0", "MTL_OPS_CUDA=0"),
            (CU13, NVCC, "12.4", "0", "MTL_OPS_CUDA=0"),
            (CPU, NVCC, "13.0", None, "torch is built without CUDA"),
            (CPU, None, None, "", "torch is built without CUDA"),
            (CU13, None, None, None, "nvcc was not found"),
            (CU13, NVCC, "12.8", None, OTHER_MAJOR),
            (CU13, NVCC, "12.8", "", OTHER_MAJOR),
        ],
    )
    def test_is_left_out(
        self, torch: Any, nvcc: Path | None, version: str | None, forced: str | None, why: str
    ) -> None:
        assert setup.check_cuda(torch, nvcc, version, forced) == (False, why)

    def test_forced_with_a_torch_without(self) -> None:
        text = fails(setup.check_cuda, self.CPU, self.NVCC, "13.0", "1")
        assert "MTL_OPS_CUDA=1, but torch 2.13.0+cpu is built without CUDA" in text

    def test_forced_without_nvcc(self) -> None:
        text = fails(setup.check_cuda, self.CU13, None, None, "1")
        assert "MTL_OPS_CUDA=1, but nvcc was not found. Install the CUDA toolkit 13.0" in text
        assert "CUDA_HOME" in text

    def test_forced_with_another_major_version(self) -> None:
        text = fails(setup.check_cuda, self.CU13, self.NVCC, "12.8", "1")
        assert f"MTL_OPS_CUDA=1, and {self.OTHER_MAJOR}: the major versions should agree." in text
        assert "Set CUDA_HOME to a CUDA 13 toolkit, or leave MTL_OPS_CUDA out." in text

    @pytest.mark.parametrize("forced", ["yes", "2", "true"])
    def test_neither_0_nor_1(self, forced: str) -> None:
        text = fails(setup.check_cuda, self.CU13, self.NVCC, "13.0", forced)
        assert f"MTL_OPS_CUDA should be 0 or 1. Found `MTL_OPS_CUDA={forced}`." in text

    def test_nvcc_of_cuda_home_goes_first(self, tmp_path: Path) -> None:
        on_path = script(tmp_path / "path" / "nvcc", "")
        at_home = script(tmp_path / "home" / "bin" / "nvcc", "")
        env = {"PATH": str(on_path.parent)}
        assert setup.find_nvcc(env) == on_path
        assert setup.find_nvcc({**env, "CUDA_HOME": str(tmp_path / "home")}) == at_home
        assert setup.find_nvcc({**env, "CUDA_PATH": str(tmp_path / "home")}) == at_home
        assert setup.find_nvcc({**env, "CUDA_HOME": str(tmp_path)}) is None

    def test_version_of_nvcc(self, tmp_path: Path) -> None:
        nvcc = script(tmp_path / "nvcc", "echo 'Cuda compilation tools, release 12.8, V12.8.93'")
        assert setup.nvcc_version(nvcc) == "12.8"
        nvcc = script(tmp_path / "nvcc", "echo hello")
        assert "does not tell its version: hello" in failed_text(setup.nvcc_version, nvcc)


def failed_text(call: Any, *args: Any) -> str:
    with pytest.raises(setup.BuildError) as error:
        call(*args)
    return str(error.value)


class TestArchitectures:
    @pytest.mark.parametrize(
        ("text", "flags"),
        [
            ("8.0", ["-gencode=arch=compute_80,code=sm_80"]),
            (
                "8.0;9.0+PTX",
                [
                    "-gencode=arch=compute_80,code=sm_80",
                    "-gencode=arch=compute_90,code=sm_90",
                    "-gencode=arch=compute_90,code=compute_90",
                ],
            ),
            (
                " 9.0a 12.0f; ",
                [
                    "-gencode=arch=compute_90a,code=sm_90a",
                    "-gencode=arch=compute_120f,code=sm_120f",
                ],
            ),
        ],
    )
    def test_read(self, text: str, flags: list[str]) -> None:
        assert setup.parse_archs(text) == flags

    @pytest.mark.parametrize("text", ["90", "sm_90", "Ampere", "8.0;;;x", "8.0+ptx", "native"])
    def test_not_understood(self, text: str) -> None:
        found = fails(setup.parse_archs, text)
        assert 'TORCH_CUDA_ARCH_LIST should be like "8.0;9.0+PTX"' in found
        assert f"Found `TORCH_CUDA_ARCH_LIST={text}`" in found

    def test_of_the_defaults(self) -> None:
        assert setup.parse_archs(setup.DEFAULT_ARCHS)
        assert setup.parse_archs(setup.CHECKED_ARCHS)


class TestCheckedArchitectures:
    """To check the sources nvcc reads some of them only once."""

    def test_of_a_cold_and_of_a_hot_source(self) -> None:
        flag = "-gencode=arch=compute_80,code=[sm_80,sm_90]"
        assert setup.one_ptx("8.0;9.0") == [flag]
        assert setup.checked_archs(Path("csrc/cuda/solve.cu")) == [flag]
        assert setup.checked_archs(Path("csrc/cuda/gram.cu")) == setup.parse_archs("8.0;9.0")

    def test_only_the_device_code_is_made(self) -> None:
        step = setup.Step(Path("x.o"), (), ["nvcc", "-O3", "-c", "x.cu", "-o", "x.o"])
        command = ["nvcc", "-O3", "-fatbin", "x.cu", "-o", "x.o"]
        assert setup.device_code(step).command == command

    def test_hot_kernels_are_compiled_as_they_are_shipped(self) -> None:
        folder = ROOT / "csrc" / "cuda"
        for source in folder.glob("*.cu"):
            included = [source, *folder.glob(f"{source.stem}_*.cuh")]
            text = "".join(path.read_text() for path in included)
            hot = any(re.search(rf"\b{name}\(const", text) for name in setup.HOT_KERNELS)
            shipped = setup.checked_archs(source) == setup.parse_archs(setup.CHECKED_ARCHS)
            assert shipped or not hot, source

    def test_no_text_depends_on_the_architecture(self) -> None:
        assert all((ROOT / "csrc" / "cuda" / name).exists() for name in setup.CHECKED_FROM_ONE_PTX)
        files = [path for path in (ROOT / "csrc").rglob("*.*") if path.is_file()]
        asked = [path for path in files if re.search(r"__CUDA_ARCH__\W*[<>=]", path.read_text())]
        assert asked == []


class TestSpills:
    """What ptxas says."""

    LOG = """ptxas info    : Compiling entry function '_ZN9gram_wideIfE' for 'sm_90'
ptxas info    : Function properties for _ZN9gram_wideIfE
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
ptxas info    : Compiling entry function '_ZN8add_jobs' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers
"""

    def test_read(self) -> None:
        wide, add = setup.parse_ptxas(self.LOG)
        assert wide == ("_ZN9gram_wideIfE", "90", 128, 4)
        assert add == ("_ZN8add_jobs", "80", 32, 0)
        table = setup.usage_table([wide, add]).splitlines()
        assert table[1].split() == ["gram_wide", "90", "128", "4"]
        assert table[2].split() == ["others", "80", "32", "0"]

    def test_of_a_hot_kernel_fail(self) -> None:
        wide, add = setup.parse_ptxas(self.LOG)
        text = fails(setup.check_spills, [add, wide])
        assert "`gram_wide` should keep its numbers in registers. Found 4 bytes spilled" in text

    def test_of_others_do_not(self) -> None:
        setup.check_spills([setup.Usage("_ZN14solve_segments", "90", 255, 100)])

    def test_of_the_merge_of_single_coordinates_a_few_do_not(self) -> None:
        (most,) = setup.FEW_SPILLS.values()
        usage = setup.Usage("_ZN17merge_coordinatesIdE", "80", 128, most)
        setup.check_spills([usage])
        text = fails(setup.check_spills, [usage._replace(spilled=most + 1)])
        assert f"`merge_coordinates` should keep its numbers in registers. Found {most + 1}" in text

    def test_every_watched_kernel_exists(self) -> None:
        text = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").glob("*.cu*"))
        assert all(re.search(rf"\b{name}\(const", text) for name in setup.WATCHED_KERNELS)

    def test_the_log_is_kept_and_an_error_shown(self, tmp_path: Path) -> None:
        nvcc = script(tmp_path / "nvcc", 'echo "said $*" >&2; exit $CODE')
        step = setup.with_log(setup.Step(tmp_path / "x.o", (), [str(nvcc), "$a"]))
        for code in ("0", "1"):
            done = subprocess.run(
                step.command, env={**os.environ, "CODE": code}, capture_output=True, text=True
            )
            assert str(done.returncode) == code
            assert setup.log_of(step).read_text() == "said $a -Xptxas -v\n"
            assert ("said" in done.stderr) == (code == "1")


class TestLabel:
    def test_is_added_as_torch_does(self) -> None:
        assert setup.version_label({}) == setup.version_label({"MTL_OPS_LABEL": ""}) == ""
        assert setup.version_label({"MTL_OPS_LABEL": "cu130"}) == "+cu130"
        assert setup.version_label({"MTL_OPS_LABEL": "cpu"}) == "+cpu"

    @pytest.mark.parametrize("text", ["+cpu", "cuda", "cu13", "13.0"])
    def test_not_understood(self, text: str) -> None:
        found = fails(setup.version_label, {"MTL_OPS_LABEL": text})
        assert f"MTL_OPS_LABEL should be like cpu or cu130. Found `MTL_OPS_LABEL={text}`." in found


class TestJobs:
    def test_given(self) -> None:
        assert setup.max_jobs({"MAX_JOBS": "3"}) == 3

    @pytest.mark.parametrize("env", [{}, {"MAX_JOBS": ""}])
    def test_by_default_as_many_as_cores(self, env: dict[str, str]) -> None:
        assert 1 <= setup.max_jobs(env) <= (os.cpu_count() or 1)

    @pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " "])
    def test_not_understood(self, value: str) -> None:
        text = fails(setup.max_jobs, {"MAX_JOBS": value})
        assert f"MAX_JOBS should be a positive integer. Found `MAX_JOBS={value}`." in text


class TestSteps:
    """Running the commands, with ninja and without."""

    @pytest.fixture(params=["ninja", "no ninja"])
    def objects(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        if request.param == "no ninja":
            monkeypatch.setattr(setup, "find_ninja", lambda: None)
        elif not setup.find_ninja():
            pytest.skip("needs ninja")
        return tmp_path / "an $odd: name"

    def copy(self, source: Path, target: Path) -> Any:
        return setup.Step(target, (source,), ["cp", str(source), str(target)])

    def test_run_in_order(self, objects: Path, tmp_path: Path) -> None:
        source = tmp_path / "source file"
        source.write_text("text")
        first, second, last = (objects / name for name in ("1", "2 $x", "3"))
        joined = ["sh", "-c", 'cat "$0" "$1" > "$2"', str(first), str(second), str(last)]
        setup.run_steps(
            [
                self.copy(source, first),
                self.copy(source, second),
                setup.Step(last, (first, second), joined),
            ],
            objects,
        )
        assert last.read_text() == "texttext"

    def test_failure_is_one_sentence(self, objects: Path, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_text("text")
        after = objects / "after"
        steps = [setup.Step(objects / "x", (source,), ["false"]), self.copy(source, after)]
        assert "compiling failed" in fails(setup.run_steps, steps, objects)
        assert not after.exists() or setup.find_ninja()

    def test_only_what_is_out_of_date(self, tmp_path: Path) -> None:
        if not setup.find_ninja():
            pytest.skip("needs ninja")
        source, target, log = (tmp_path / name for name in ("source", "target", "log"))
        source.write_text("text")
        command = ["sh", "-c", f"cp {source} {target}; echo made >> {log}"]
        for _ in range(2):
            setup.run_steps([setup.Step(target, (source,), command)], tmp_path / "objects")
        assert log.read_text() == "made\n"
        os.utime(source, (2e9, 2e9))
        setup.run_steps([setup.Step(target, (source,), command)], tmp_path / "objects")
        assert log.read_text() == "made\nmade\n"


class TestCommands:
    TORCH = setup.Torch("2.13.0", "13.0", Path("/site/torch"))

    def test_cpu_library_links_no_cuda(self) -> None:
        step = setup.link([Path("a.o")], Path("out.so"), self.TORCH, ["c++"], None)
        assert "-ltorch_cpu" in step.command
        assert "-ltorch_cuda" not in step.command

    def test_cuda_library_is_linked_by_nvcc(self) -> None:
        step = setup.link([Path("a.o")], Path("out.so"), self.TORCH, ["c++"], Path("/cuda/nvcc"))
        assert step.command[0] == "/cuda/nvcc"
        assert "-ltorch_cuda" in step.command

    def test_no_path_of_this_machine_gets_into_the_library(self) -> None:
        assert f"-ffile-prefix-map={ROOT}/=" in setup.portable_paths(self.TORCH)
        assert "-ffile-prefix-map=/site/=" in setup.portable_paths(self.TORCH)

    def test_only_one_file_is_compiled_for_each_python(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another Python, with a torch of the same version elsewhere, runs the same commands on the others."""
        monkeypatch.setattr(setup, "ROOT", tmp_path)
        monkeypatch.setattr(
            setup, "sources", lambda *_: [Path("csrc/module.cpp"), Path("csrc/a.cpp")]
        )
        steps = []
        for python in ("cpython-310", "cpython-314"):
            root = tmp_path / python / "site" / "torch"
            (root / "include").mkdir(parents=True)
            monkeypatch.setattr(sys.implementation, "cache_tag", python)
            monkeypatch.setattr(
                setup.sysconfig, "get_path", lambda _, python=python: f"/{python}/include"
            )
            torch = setup.linked(setup.Torch("2.13.0", None, root), Path("build", "x"))
            assert (tmp_path / torch.root / "include").samefile(root / "include")
            steps.append(
                setup.compile_all_cxx(Path("build", "x"), ["c++"], torch, {"VERSION": "1"})
            )
        (module, other), (next_module, next_other) = steps
        assert other == next_other
        newer = setup.include_flags(torch._replace(version="2.14.0"))
        assert newer != setup.include_flags(torch)  # headers are not watched, their version is
        assert not {"/cpython-314/include", '-DMTL_OPS_VERSION="1"'} & {*other.command}
        assert {"/cpython-314/include", '-DMTL_OPS_VERSION="1"'} < {*next_module.command}
        assert module.output == Path("build/x/cpython-310/csrc.module.cpp.o")
        assert next_module.output == Path("build/x/cpython-314/csrc.module.cpp.o")

    def test_flags_of_the_environment_are_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LDFLAGS", "-Wl,--as-needed -L'/a b'")
        step = setup.link([Path("a.o")], Path("out.so"), self.TORCH, ["c++"], None)
        assert step.command[-4:] == ["-Wl,--as-needed", "-L/a b", "-o", "out.so"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What setup.py needs to start, where it can do no harm."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "mtl_ops").mkdir()
    (tmp_path / "mtl_ops" / "__init__.py").touch()
    return tmp_path


def run(tree: Path, *command: str, without_torch: bool = False, **env: str) -> str:
    """Calls setup.py, which fails; its whole output."""
    hide = "sys.modules['torch'] = None; " if without_torch else ""
    code = f"import runpy, sys; {hide}runpy.run_path('setup.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=tree,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", [["build_ext", "--inplace"], ["dist_info"], ["bdist_wheel"]])
def test_without_torch_every_command_of_pip_says_so(tree: Path, command: list[str]) -> None:
    last = run(tree, "--quiet", *command, without_torch=True)
    assert last.startswith("mtl_ops: torch is not installed in the Python that builds")


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"CXX": "/no/such/compiler"}, "`/no/such/compiler` does not run"),
        ({"MTL_OPS_CUDA": "maybe"}, "MTL_OPS_CUDA should be 0 or 1"),
        ({"MTL_OPS_CUDA": "1", "CUDA_HOME": "/no/such/toolkit"}, "MTL_OPS_CUDA=1, but "),
    ],
    ids=lambda value: "",
)
def test_build_stops_before_it_compiles(tree: Path, env: dict[str, str], text: str) -> None:
    last = run(tree, "--quiet", "build_ext", "--inplace", **env)
    assert last.startswith("mtl_ops: ")
    assert text in last
    assert not (tree / "build").exists()
