"""The repository itself: lint, types, pins, floors, what never goes in."""

import ast
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ncutil.press.project import Project, read_chapter
from ncutil.press.skip import imported_modules


def tracked() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def metadata() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=" ".join,
)
def test_checkers_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_chapters_are_linted_through_jupytext(tmp_path: Path) -> None:
    sets = [read_chapter(path) for path in (ROOT / "notebooks" / "assignments").glob("*.md")]
    for chapter in [*Project(ROOT).chapters.values(), *[replace(item, name=f"set-{item.name}") for item in sets]]:
        nbformat.write(chapter.notebook, tmp_path / f"{chapter.name}.ipynb")
    settings = ["--config", str(ROOT / "pyproject.toml")]
    # A notebook imports where a reader first needs it.
    for words in (["check", "--ignore", "E402,B905,SIM300"], ["format", "--check", "--line-length", "72"]):
        command = [sys.executable, "-m", "ruff", *words, *settings, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_jupyter_book_stays_below_2() -> None:
    """Version 2 ignores _config.yml and _toc.yml, writes no site and exits 0: a build would seem to work."""
    (requirement,) = [
        r for r in map(Requirement, metadata()["optional-dependencies"]["book"]) if r.name == "jupyter-book"
    ]
    assert requirement.specifier == SpecifierSet(">=1.0.4,<2")
    assert pins()["jupyter-book"] in requirement.specifier


def test_pins_meet_the_floors_and_only_explained_ceilings_stand() -> None:
    project = metadata()
    assert {"book", "test", "lora", "classroom", "cluster"} <= project["optional-dependencies"].keys()
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    text = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in map(Requirement, lines):
        if requirement.name == "ncutil":
            continue
        assert pins()[requirement.name.lower()] in requirement.specifier
        assert any(part.operator == ">=" for part in requirement.specifier)
        if any(part.operator in ("<", "<=", "==") for part in requirement.specifier):
            at = next(number for number, line in enumerate(text) if f'"{requirement.name}>' in line)
            assert text[at - 1].strip().startswith("#")


def test_environment_yml_is_thin() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[book,test]"]}


def test_importing_the_light_modules_brings_no_torch() -> None:
    program = (
        "import sys, ncutil, ncutil.chsh, ncutil.stats, ncutil.claims, ncutil.press; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_floors_of_the_house() -> None:
    """No module imports upward: asking, records, stats <- science <- claims, figures; the press imports no science."""
    package = ROOT / "ncutil"
    evidence, ground = {"claims", "figures"}, {"asking", "records", "stats"}
    science = {path.stem for path in package.glob("[!_]*.py")} - evidence - ground

    def imports(path: Path) -> set[str]:
        names = imported_modules(ast.parse(path.read_text()))
        return {name.split(".")[1] for name in names if "." in name}

    for path in (package / "press").rglob("*.py"):
        assert not imports(path) & science, path.name
    for name in science:
        assert not imports(package / f"{name}.py") & {*evidence, "press"}, name
    for name in ground:
        assert not imports(package / f"{name}.py"), name


def test_nothing_large_no_outputs_no_machine_paths() -> None:
    for path in tracked():
        assert path.stat().st_size < 1_000_000, path
        assert path.suffix != ".ipynb", path
        if (
            path.suffix in {".md", ".py", ".yml", ".toml", ".txt", ".json", ".css", ".cff", ".bib"}
            or path.name == "run"
        ):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.~/-])/(?:root|home|work|tmp)/\w", text), path


def test_published_results_are_whole() -> None:
    folder = ROOT / "book" / "results"
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        assert result["commit"]
        if re.match(r"\d\d[a-z]?-", path.name):
            assert result["chapter"] == path.stem
        else:
            # A study that took longer than a chapter may: the table beside its record is the one that it made.
            table = path.with_suffix(".csv").read_bytes()
            assert result.get("table_sha256") in (None, hashlib.sha256(table).hexdigest()), path
            assert {"parameters", "versions", "processor", "started", "seconds"} <= result.keys()
    assert {path.stem for path in folder.glob("*.csv")} <= {path.stem for path in folder.glob("*.json")}
