"""The repository itself: lint, types, pins, floors, size, tiers of the tests, what never goes in."""

import ast
import functools
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import PROJECT, ROOT, TIERS
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ncpress.project import read_chapter
from ncutil.ground.files import checksum
from ncutil.ground.staleness import imported, reach


def tracked() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


DISTRIBUTIONS = {name: ROOT / place / "pyproject.toml" for name, place in (("ncutil", ""), ("ncpress", "ncpress"))}


def metadata(name: str) -> dict:
    return tomllib.loads(DISTRIBUTIONS[name].read_text())["project"]


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
    for chapter in [*PROJECT.chapters.values(), *[replace(item, name=f"set-{item.name}") for item in sets]]:
        nbformat.write(chapter.notebook, tmp_path / f"{chapter.name}.ipynb")
    settings = ["--config", str(ROOT / "pyproject.toml")]
    # A notebook imports where a reader first needs it.
    for words in (["check", "--ignore", "E402,B905,SIM300"], ["format", "--check", "--line-length", "72"]):
        command = [sys.executable, "-m", "ruff", *words, *settings, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_jupyter_book_stays_below_2() -> None:
    """Version 2 ignores _config.yml and _toc.yml, writes no site and exits 0: a build would seem to work."""
    (requirement,) = [r for r in map(Requirement, metadata("ncpress")["dependencies"]) if r.name == "jupyter-book"]
    assert requirement.specifier == SpecifierSet(">=1.0.4,<2")
    assert pins()["jupyter-book"] in requirement.specifier


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_pins_meet_the_floors_and_only_explained_ceilings_stand(name: str) -> None:
    project = metadata(name)
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    text = DISTRIBUTIONS[name].read_text().splitlines()
    for requirement in map(Requirement, lines):
        if requirement.name in DISTRIBUTIONS:
            continue
        assert pins()[requirement.name.lower()] in requirement.specifier
        assert any(part.operator == ">=" for part in requirement.specifier)
        if any(part.operator in ("<", "<=", "==") for part in requirement.specifier):
            at = next(number for number, line in enumerate(text) if f'"{requirement.name}>' in line)
            assert text[at - 1].strip().startswith("#")


def test_ncutil_brings_no_command_and_needs_no_press() -> None:
    project = metadata("ncutil")
    assert "scripts" not in project
    needs = {Requirement(line).name for line in project["dependencies"]}
    assert not needs & {"click", "papermill", "jupyter-book", "jupytext", "nbgrader", "psutil", "tqdm", "ncpress"}
    assert metadata("ncpress")["scripts"] == {"ncutil": "ncpress.__main__:main"}


def test_environment_yml_is_thin() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    assert pip == {"pip": ["-c constraints.txt", "-e .", "-e ./ncpress[test]"]}


LIGHT = (
    "ncutil.ground.staleness",
    "ncutil.evidence.stats",
    "ncutil.evidence.figures",
    "ncutil.training.ensembles",
    "ncutil.bell.chsh",
    "ncutil.bell.ncnet",
    "ncutil.neurashed.model",
    "ncutil.neurashed.information",
    "ncpress",
)


def test_light_modules_bring_no_torch() -> None:
    """In one process, which names the first module that does."""
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    program += "    if 'torch' in sys.modules: sys.exit(f'{name} brings torch')"
    done = subprocess.run([sys.executable, "-c", program, *LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


MAY_IMPORT = {
    "ncutil.ground": set(),
    "ncutil.evidence": {"ncutil.ground"},
    "ncutil.training": {"ncutil.ground"},
    "ncutil.bell": {"ncutil.ground", "ncutil.training"},
    "ncutil.neurashed": {"ncutil.ground"},
    "ncutil.lora": {"ncutil.ground", "ncutil.bell"},
    "ncutil.studies": {"ncutil.ground", "ncutil.bell", "ncutil.training", "ncutil.lora"},
    # The command `sweep` alone brings in studies, when it is called.
    "ncpress": {"ncutil.ground", "ncutil.evidence", "ncutil.studies"},
    "ncclass.sandbox": set(),
    "ncclass": {"ncutil.ground", "ncpress", "ncclass.sandbox"},
}
"""The rooms of the house, and what each may import besides itself."""


def room(name: str) -> str:
    """The room that a module stands in; the packages themselves are the roof over their rooms."""
    return max((place for place in MAY_IMPORT if f"{name}.".startswith(f"{place}.")), key=len, default="")


PACKAGES = ("ncutil", "ncpress", "ncclass")


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of ours by name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


@functools.cache
def house() -> dict[str, set[str]]:
    """Every module of ours by name, with the modules of ours that it imports."""
    paths = modules()
    return {name: imported(path.read_text(), PACKAGES) & paths.keys() for name, path in paths.items()}


def test_rooms_import_only_what_they_may() -> None:
    for name, others in house().items():
        found = {room(other) for other in others} - {"", room(name)}
        assert found <= MAY_IMPORT.get(room(name), set()), f"{name} imports {found}"


def test_modules_import_in_no_circle() -> None:
    left = {name: {other for other in others if other != name} for name, others in house().items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"a circle among {sorted(left)}"


@pytest.mark.parametrize("name", sorted(name for name, path in modules().items() if path.name == "__init__.py"))
def test_docstring_of_a_package_names_its_rooms(name: str) -> None:
    told = ast.get_docstring(ast.parse(modules()[name].read_text())) or ""
    inside = {other.rpartition(".")[2] for other in modules() if other.rpartition(".")[0] == name}
    missing = {word for word in inside if not word.startswith("_") and not re.search(rf"`([\w.]+\.)?{word}`", told)}
    assert not missing, f"{name} does not name {sorted(missing)}"


def test_reference_has_every_public_module() -> None:
    listed = set(re.findall(r"^\.\. automodule:: (\S+)$", (ROOT / "book" / "api.md").read_text(), re.MULTILINE))
    public = {
        name
        for name, path in modules().items()
        if name.startswith("ncutil.") and path.name != "__init__.py" and not path.name.startswith("_")
    }
    assert public <= listed <= modules().keys()


def test_changelog_names_what_exists() -> None:
    moved = re.findall(r"^\| `[\w.]+` \| `([\w.]+)`", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert moved
    for name in moved:
        place, _, inside = name.rpartition(".")
        there = name in modules() or (place in modules() and re.search(rf"\b{inside}\b", modules()[place].read_text()))
        assert there, name


def test_devcontainer_installs_what_the_gate_does() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    gate = (ROOT / ".ci" / "run").read_text()
    for package in ("bubblewrap", "chromium", "fonts-dejavu", "fonts-liberation", "make"):
        assert package in gate
        assert package in container["onCreateCommand"].split()
    assert container["postCreateCommand"] == "make book"
    assert container["image"].startswith("python:3.11")


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


LINES, SHARED = 5540, 2670
"""What `ncutil` and its modules that several chapters reach may have; the aim is 5,000 and 2,500."""


def test_ncutil_grows_no_thicker() -> None:
    assert lines((ROOT / "ncutil").rglob("*.py")) <= LINES


def test_what_chapters_share_grows_no_thicker() -> None:
    users: Counter[Path] = Counter()
    for chapter in PROJECT.chapters.values():
        names = set().union(*(imported(cell.source) for cell in chapter.code_cells))
        users.update(reach(names, root=ROOT).values())
    assert lines(path for path, chapters in users.items() if chapters > 1) <= SHARED


def bound(source: str) -> tuple[list[str], set[str]]:
    """The functions and classes that a cell defines, and the other names that it binds outside of them."""
    defined, names, waiting = [], set(), list(ast.iter_child_nodes(ast.parse(source)))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.append(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            waiting += ast.iter_child_nodes(node)
    return defined, names


def test_bound_sees_what_a_cell_binds() -> None:
    source = "def f():\n    inner = 1\nclass G: ...\nfor i in [j for j in (1,)]:\n    (a, b.c) = 1, 2"
    assert (sorted(bound(source)[0]), bound(source)[1]) == (["G", "f"], {"a", "i"})


@pytest.mark.parametrize("name", sorted(PROJECT.chapters))
def test_chapter_binds_the_name_of_a_function_once(name: str) -> None:
    cells = [bound(cell.source) for cell in PROJECT.chapters[name].code_cells]
    times = Counter(function for defined, _ in cells for function in defined)
    others = {other for _, names in cells for other in names}
    again = {function for function, count in times.items() if count > 1 or function in others}
    assert not again, f"bound again: {sorted(again)}"


def test_files_are_hashed_and_replaced_in_one_module() -> None:
    """A path's `replace` has one argument; those of texts and of times have two, or names."""
    for name, path in modules().items():
        if name == "ncutil.ground.files":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "hashlib" not in ast.unparse(node), (name, node.lineno)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
                assert len(node.args) != 1, (name, node.lineno)
                assert ast.unparse(node.func) != "os.replace", (name, node.lineno)


def test_every_test_has_one_tier(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        assert sum(mark.name in TIERS for mark in item.iter_markers()) == 1, item.nodeid


def test_names_of_tests_are_short() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert len(node.name) < 70, f"{path.name}: {node.name}"


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
            assert result.get("table_checksum") in (None, checksum(path.with_suffix(".csv"))), path
            assert {"parameters", "versions", "processor", "started", "seconds"} <= result.keys()
    assert {path.stem for path in folder.glob("*.csv")} <= {path.stem for path in folder.glob("*.json")}
