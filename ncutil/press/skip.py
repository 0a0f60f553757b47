"""The skip rule: a chapter runs again only if something that its results depend on has changed.

That is: its code cells, the parameters used, the `ncutil` modules that it reaches, the pins, its declared data.
Prose and display tags do not count.
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ncutil.press.project import Chapter, PressError, Project, is_parameters

Key = dict[str, Any]

PARTS = {
    "code": "code cells",
    "parameters": "parameters",
    "modules": "ncutil",
    "pins": "constraints.txt",
    "data": "data",
}
"""The parts of a key, with the words for them."""


def digest(*parts: bytes | str) -> str:
    """Short hash of a sequence of texts; where one ends and the next begins counts."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]


def imported_modules(tree: ast.AST) -> set[str]:
    """Full names that a syntax tree imports from `ncutil`; a name may be a module or something inside one."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "ncutil"}


def reached_modules(chapter: Chapter, package: Path) -> dict[str, Path]:
    """The `ncutil` modules that a chapter's code reaches, directly or through others, by name."""
    waiting: set[str] = set()
    for number, cell in enumerate(chapter.code_cells, 1):
        try:
            waiting |= imported_modules(ast.parse(cell.source))
        except SyntaxError as error:
            raise PressError(f"{chapter.path.name}, code cell {number}: {error.msg} (line {error.lineno})") from None
    reached: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        # Importing a.b.c runs a, a.b and a.b.c.
        if "." in name:
            waiting.add(name.rpartition(".")[0])
        path = _module_path(name, package)
        if path is None or name in reached:
            continue
        reached[name] = path
        waiting |= imported_modules(ast.parse(path.read_text(encoding="utf-8"))) - reached.keys()
    return dict(sorted(reached.items()))


def _module_path(name: str, package: Path) -> Path | None:
    base = package.joinpath(*name.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and (name != "ncutil" or path.name == "__init__.py"):
            return path
    return None


def key(project: Project, chapter: Chapter, parameters: Mapping[str, Any]) -> Key:
    """What a chapter's results depend on, part by part, so that a stale run can say which part changed."""
    given = [Path(value) for value in parameters.values() if isinstance(value, str)]
    data = [*chapter.declared_data, *(path for path in given if path.is_absolute())]
    constraints = project.root / "constraints.txt"
    return {
        "code": digest(*(cell.source for cell in chapter.code_cells if not is_parameters(cell))),
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "modules": {n: digest(p.read_bytes()) for n, p in reached_modules(chapter, project.root / "ncutil").items()},
        "pins": digest(constraints.read_bytes()) if constraints.is_file() else "",
        "data": {path.name: checksum(path) for path in data},
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def checksum(path: Path) -> str:
    """Checksum of a data file, or of every file in a folder."""
    if not path.exists():
        raise PressError(f"declared data is missing: {path} (give a file or folder that exists)")
    files: Iterable[Path] = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return digest(*(part for file in files for part in (file.name, file.read_bytes())))


def changes(old: Key | None, new: Key) -> str:
    """Why a chapter has to run: which parts of its key differ; empty if none does."""
    if old is None:
        return "no finished run"
    changed = [words for part, words in PARTS.items() if old.get(part) != new[part]]
    return ", ".join(changed) + " changed" if changed else ""
