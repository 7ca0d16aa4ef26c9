"""What runs elsewhere is at least the same command: workflows call make, and forms are what their readers expect."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import mtl_ops

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = sorted(path for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if path.stem != "config")

if not GITHUB.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def targets() -> set[str]:
    """Of the Makefile."""
    lines = re.findall(r"^([\w -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {name for line in lines for name in line.split()}


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "tests", "wheels"]
    assert {"test", "check", "wheel-check", "build"} <= targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    def test_runs_nothing_but_targets_of_the_makefile(self, path: Path) -> None:
        commands = [step["run"] for step in steps(path) if "run" in step]
        assert commands
        known = targets() | (set() if (ROOT / "docs" / "conf.py").exists() else {"docs"})
        for command in commands:
            found = re.fullmatch(r"make ([\w-]+)", command)
            assert found, command
            assert found[1] in known, command

    def test_actions_have_a_version(self, path: Path) -> None:
        used = [step["uses"] for step in steps(path) if "uses" in step]
        assert used
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", action) for action in used), used

    def test_may_only_read_and_ends(self, path: Path) -> None:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())
        assert workflow[True]  # `on`, which YAML reads as a truth value


def test_the_gate_is_run_as_here() -> None:
    commands = [step.get("run") for step in steps(GITHUB / "workflows" / "tests.yml")]
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")
    assert "make test" in commands


def test_a_build_with_a_cuda_build_of_torch_is_tried() -> None:
    job = read(GITHUB / "workflows" / "tests.yml")["jobs"]["cuda"]
    assert {"run": "make cuda-import"} in job["steps"]
    major = re.fullmatch(r"pytorch/manylinux2_28-builder:cuda(\d+)\.\d", job["container"])
    assert major is not None
    assert re.search(rf"/whl/cu{major[1]}\d$", job["env"]["TORCH_INDEX"])  # nvcc's is torch's
    recipe = (ROOT / "Makefile").read_text().partition("\ncuda-import:")[2].partition("\n\n")[0]
    assert "MTL_OPS_CUDA=1" in recipe
    assert "backends['cuda'] != 'native'" in recipe


def test_the_matrix_is_the_range_that_is_stated() -> None:
    matrix = read(GITHUB / "workflows" / "tests.yml")["jobs"]["test"]["strategy"]["matrix"]
    pythons = {one["python"] for one in matrix["include"]}
    torches = {tuple(map(int, one["torch"].split(".")[:2])) for one in matrix["include"]}
    project = (ROOT / "pyproject.toml").read_text()
    assert pythons == {f"3.{minor}" for minor in range(10, 15)}
    assert torches == {(2, minor) for minor in range(10, 15)}
    assert 'requires-python = ">=3.10"' in project
    assert '"torch>=2.10"' in project
    assert 'build = "cp310-* cp311-* cp312-* cp313-* cp314-*"' in project


@pytest.mark.parametrize("path", sorted((ROOT / ".ci").iterdir()), ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]


def test_citation() -> None:
    """What version 1.2.0 of the format asks for, and the facts of the package."""
    cited = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["authors"] == [{"name": "The mtl_ops authors"}]
    assert mtl_ops.__version__.partition("+")[0] == str(cited["version"])
    assert cited["license"] == "MIT"
    assert all(isinstance(value, (str, list)) for value in cited.values())


def test_nothing_is_left_to_fill_in() -> None:
    texts = [path.read_text() for path in GITHUB.rglob("*") if path.is_file()]
    texts += [path.read_text() for path in ROOT.glob("*.md")]
    words = re.compile(r"TODO|FIXME|example\.com|your-org|OWNER/|INSERT ", re.IGNORECASE)
    assert not [found for text in texts for found in words.findall(text)]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
