"""The files of a clone: chapters, their parameters, profiles and contents; what is wrong with one is said in a line."""

import ast
import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

import ncutil
from ncpress.parameters import Schema, check, read_schema, unknown

if TYPE_CHECKING:
    from nbformat import NotebookNode

TEXT_FORMAT = {"extension": ".md", "format_name": "myst"}
BOOK = "book"
"""The profile that the defaults in the chapters make, and that the published pages show."""


class PressError(click.ClickException):
    """What a user can mend: one line that names the thing and the choices; exit status 1."""


class WordError(PressError):
    """Words of the command line that name nothing; exit status 2, as click has for its own."""

    exit_code = 2


def read_yaml(path: Path) -> Any:
    """Parsed YAML file; a missing or broken one is an error with the line."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PressError(f"{path.name} is missing (looked in {path.parent})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise PressError(f"{path.name}, line {line}: not valid YAML ({error.problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PressError(f"{path.name}: not valid YAML ({' '.join(str(error).split())})") from None


@dataclass(frozen=True)
class Chapter:
    """A chapter's source: its name, its notebook without outputs, and the parameters with their defaults."""

    name: str
    path: Path
    notebook: "NotebookNode"
    parameters: Mapping[str, Any]

    @property
    def code_cells(self) -> "list[NotebookNode]":
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @property
    def declared_data(self) -> list[Path]:
        """Files that the front matter names under `ncutil: {data: [...]}`, relative to the chapter."""
        names = self.notebook.metadata.get("ncutil", {}).get("data", [])
        return [self.path.parent / name for name in names]

    def with_parameters(self, values: Mapping[str, Any]) -> "NotebookNode":
        """The notebook with these values written into its parameters cell, so that what ran is what is seen."""
        notebook = copy.deepcopy(self.notebook)
        for cell in notebook.cells:
            if is_parameters(cell):
                cell.source = rewrite(cell.source, values)
        return notebook


def is_parameters(cell: "NotebookNode") -> bool:
    return cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])


def _assignments(source: str) -> list[tuple[str, ast.expr]]:
    found = []
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found.append((name, value))
            case _:
                raise ValueError(f"not an assignment of one value to a name: line {node.lineno}")
    return found


def assigned(source: str) -> dict[str, Any]:
    """The values that a parameters cell assigns.

    >>> assigned("runs = 1_000  # networks")
    {'runs': 1000}
    """
    return {name: ast.literal_eval(node) for name, node in _assignments(source)}


def rewrite(source: str, values: Mapping[str, Any]) -> str:
    """A parameters cell with new values; comments and layout stay.

    >>> rewrite("runs = 1_000  # networks", {"runs": 50})
    'runs = 50  # networks'
    """
    lines = source.splitlines()
    defaults = [(node, name) for name, node in _assignments(source) if name in values]
    for node, name in sorted(defaults, key=lambda pair: -pair[0].lineno):
        if values[name] == ast.literal_eval(node):
            continue
        end = node.end_lineno or node.lineno
        # Column offsets of the parser count bytes.
        head = lines[node.lineno - 1].encode()[: node.col_offset].decode()
        tail = lines[end - 1].encode()[node.end_col_offset :].decode()
        lines[node.lineno - 1 : end] = [f"{head}{values[name]!r}{tail}"]
    return "\n".join(lines)


def read_chapter(path: Path) -> Chapter:
    """A chapter from its MyST text, with cell ids that do not change from one reading to the next."""
    import jupytext  # takes a second, which `--version` and `--help` do without

    try:
        notebook = jupytext.read(path, fmt=TEXT_FORMAT)
    except Exception as error:
        raise PressError(f"{path.name} is not a MyST notebook: {' '.join(str(error).split())}") from None
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    cells = [cell for cell in notebook.cells if is_parameters(cell)]
    if len(cells) != 1:
        raise PressError(f"{path.name}: expected one code cell tagged 'parameters', found {len(cells)}")
    try:
        parameters = assigned(cells[0].source)
    except (SyntaxError, ValueError):
        raise PressError(f"{path.name}: the parameters cell may only assign literals, one a line") from None
    if not isinstance(parameters.get("seed"), int):
        raise PressError(f"{path.name}: the parameters cell needs an integer 'seed'")
    return Chapter(path.stem, path, notebook, parameters)


@dataclass(frozen=True)
class Project:
    """A clone of the book; `root` is its top folder."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """The clone around a folder, which must be the one that the imported `ncutil` belongs to."""
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "_toc.yml").is_file() and (folder / "ncutil").is_dir():
                break
        else:
            raise PressError(f"no clone of the book: neither {here} nor a folder above it has _toc.yml and ncutil/")
        imported = Path(ncutil.__file__).resolve().parent
        if imported != folder / "ncutil":
            raise PressError(f"this is ncutil from {imported}, not the clone's: run 'pip install -e .' in {folder}")
        return cls(folder)

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def build(self) -> Path:
        return self.root / "_build"

    @property
    def runs(self) -> Path:
        return self.build / "runs"

    @property
    def results(self) -> Path:
        return self.root / "book" / "results"

    @property
    def studies(self) -> Path:
        return self.root / "book" / "studies"

    @cached_property
    def chapters(self) -> dict[str, Chapter]:
        """Every chapter of `notebooks/` by name, in order."""
        return {path.stem: read_chapter(path) for path in sorted(self.notebooks.glob("[0-9][0-9]*-*.md"))}

    @cached_property
    def pages(self) -> list[str]:
        """Every page of `_toc.yml`, without suffix, front page first."""
        toc = read_yaml(self.root / "_toc.yml")
        if not isinstance(toc, dict) or "root" not in toc:
            raise PressError("_toc.yml has no root page")
        pages: list[str] = []

        def collect(node: Any) -> None:
            if isinstance(node, dict):
                pages.extend(str(node[kind]) for kind in ("root", "file") if kind in node)
                for value in node.values():
                    collect(value)
            elif isinstance(node, list):
                for value in node:
                    collect(value)

        collect(toc)
        missing = [page for page in pages if not list(self.root.glob(f"{page}.*"))]
        if missing:
            raise PressError(f"_toc.yml names pages that do not exist: {', '.join(missing)}")
        return pages

    @cached_property
    def schema(self) -> Schema:
        """What each parameter of each chapter means and may be, from parameters.yml."""
        defaults = {name: chapter.parameters for name, chapter in self.chapters.items()}
        listed = read_yaml(self.notebooks / "parameters.yml")
        try:
            return read_schema(listed, defaults, self.notebooks)
        except ValueError as error:
            raise PressError(f"parameters.yml: {error}") from None

    @cached_property
    def profiles(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Overrides by profile and chapter; "book" has none."""
        profiles = read_yaml(self.notebooks / "profiles.yml") or {}
        if not isinstance(profiles, dict) or not all(isinstance(of or {}, dict) for of in profiles.values()):
            raise PressError("profiles.yml: expected profiles, each with overrides by chapter")
        found: dict[str, dict[str, dict[str, Any]]] = {BOOK: {}}
        for profile, overrides in profiles.items():
            try:
                found[profile] = {name: self._fit(name, values or {}) for name, values in (overrides or {}).items()}
            except ValueError as error:
                raise PressError(f"profiles.yml, {profile}: {error}") from None
        return found

    def _fit(self, chapter: str, values: Mapping[str, Any]) -> dict[str, Any]:
        if chapter not in self.schema:
            raise ValueError(unknown("chapter", str(chapter), self.schema))
        entries = self.schema[chapter]
        for name in values:
            if name not in entries:
                raise ValueError(f"{chapter}: {unknown('parameter', str(name), entries)}")
        return {name: check(name, value, entries[name], chapter, self.notebooks) for name, value in values.items()}

    def select(self, names: Iterable[str]) -> list[Chapter]:
        """Chapters by name, file or number ("2", "2b", "02-ncnet", "notebooks/02-ncnet.md"); all if none is given."""
        wanted = []
        for name in names:
            stem = Path(name).stem
            found = [c for c in self.chapters if c == stem or c.split("-")[0].lstrip("0") == stem.lstrip("0")]
            if not found:
                raise WordError(unknown("chapter", name, self.chapters))
            wanted.append(self.chapters[found[0]])
        return wanted or list(self.chapters.values())


def parse_overrides(
    project: Project, pairs: Iterable[str], chapters: Iterable[Chapter], folder: Path
) -> dict[str, Any]:
    """`key=value` pairs of the command line; paths are taken from the shell's folder.

    An unknown key, one that none of the chapters has, is an error that lists the known ones. A value has to fit every
    chapter that has the key.
    """
    having = {chapter.name: project.schema[chapter.name] for chapter in chapters}
    known = sorted({name for entries in having.values() for name in entries})
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise WordError(f"-p takes key=value, got {pair!r}")
        if key not in known:
            raise WordError(unknown("parameter", key, known, "the chosen chapters know"))
        for chapter, entries in having.items():
            if key in entries:
                try:
                    overrides[key] = check(key, text, entries[key], chapter, folder)
                except ValueError as error:
                    raise WordError(str(error)) from None
    return overrides
