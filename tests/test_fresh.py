"""A fresh machine: the README's commands in a fresh clone, and what environment.yml asks of pip."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import README_RUNS, ROOT, clone_environment, copy_project, git, shared

LEFT_TO_CI = {
    "make test": "this is what runs these tests",
    ".venv/bin/python -m pytest -n 2 --dist loadgroup": "what 'make test' runs",
    ".venv/bin/ncutil build --check": "the weekly workflow, in the book profile",
    ".venv/bin/ncutil compare": "the weekly workflow, in the book profile",
    ".venv/bin/python -m pytest tests/benchmarks --benchmark-only": "the weekly workflow",
    "export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu": "every workflow",
}

QUICKLY = {"PIP_NO_COMPILE": "1"}
"""The same packages, without compiling all of them to bytecode beforehand."""


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def unquoted(command: str) -> str:
    return shlex.join(shlex.split(command))


def test_commands_left_to_ci_are_run_there() -> None:
    workflows = "\n".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    gate, makefile = (ROOT / ".ci" / "run").read_text(), (ROOT / "Makefile").read_text()
    assert "make test" in gate
    assert ".ci/run" in workflows
    assert "pytest -n 2 --dist loadgroup" in makefile
    for command in (".venv/bin/ncutil build --check", ".venv/bin/ncutil compare", "pytest tests/benchmarks"):
        assert command in workflows
    assert "PIP_EXTRA_INDEX_URL: https://download.pytorch.org/whl/cpu" in workflows
    assert set(LEFT_TO_CI) <= set(commands(ROOT / "README.md"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str], list[str]]]:
    """A clone in which README's commands have run, the environment for more of them, and the commands."""
    clone = copy_project(tmp_path_factory.mktemp("fresh") / "clone")
    git(clone, "init", "-q", ".")
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "As it stands")
    environment = {name: value for name, value in clone_environment(clone).items() if name != "PYTHONPATH"}
    # The same commands at the smoke profile's size; the book profile has its own job.
    environment |= {"NCUTIL_BUILD_PROFILE": "smoke", "PYTHON": sys.executable, **QUICKLY}
    ran = [command for command in commands(ROOT / "README.md") if command not in LEFT_TO_CI]
    for command in ran:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    runs = shared(tmp_path_factory, README_RUNS)
    shutil.copytree(clone / "_build" / "runs", runs.with_suffix(".part"))
    runs.with_suffix(".part").rename(runs)
    yield clone, environment, ran
    shutil.rmtree(clone)


@pytest.mark.xdist_group("book")
def test_readme_commands_work_in_a_fresh_clone(fresh: tuple[Path, dict[str, str], list[str]]) -> None:
    clone, _, ran = fresh
    assert "make book" in ran
    assert (clone / "_build" / "html" / "index.html").is_file()
    page = (clone / "_build" / "html" / "notebooks" / "02-ncnet.html").read_text()
    assert "smoke" in page


@pytest.mark.xdist_group("book")
def test_environment_yml_asks_pip_for_readmes_environment(fresh: tuple[Path, dict[str, str], list[str]]) -> None:
    """The section, as pip reads it, finds all of it installed: README's lines install the same, so once is enough."""
    clone, environment, ran = fresh
    section = yaml.safe_load((clone / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert unquoted(f".venv/bin/python -m pip install {' '.join(section)}") in map(unquoted, ran)
    # As conda does it: the section becomes a requirements file beside environment.yml.
    (clone / "condaenv.requirements.txt").write_text("\n".join(section) + "\n")

    def run(*words: str) -> str:
        command = [str(clone / ".venv" / "bin" / "python"), *words]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    before = run("-m", "pip", "list", "--format", "json")
    run("-m", "pip", "install", "-q", "-r", "condaenv.requirements.txt")
    assert run("-m", "pip", "list", "--format", "json") == before
    for package in ("ncutil", "ncpress", "ncclass"):
        # The clone's own files, and no copy of them: an edit counts at once.
        assert str(clone / package) in run("-c", f"import {package}; print({package}.__file__)")
    assert "No broken requirements" in run("-m", "pip", "check")
