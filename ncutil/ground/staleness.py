"""One rule for what is stale: a kept result may be used again only if all that it depends on is as it was.

That is the code, by its syntax tree, so that comments, docstrings and layout do not count; every module of ours that it
reaches; the parameters; data by path and content; the pins; the versions that are installed; and, where rounding
counts, the vector instructions of the processor. All caches of the book go by this: runs of chapters, blocks of long
studies, outputs of encoders, and machine code. Explained on the page on rerunning.
"""

import ast
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ncutil.ground.files import checksum, digest

Key = dict[str, Any]
"""What a result depends on, part by part; see `PARTS`."""

PARTS = {
    "code": "code cells",
    "parameters": "parameters",
    "modules": "ncutil",
    "pins": "constraints.txt",
    "data": "data",
    "versions": "installed versions",
    "processor": "processor",
}
"""The parts of a key, with the words for them."""

ARITHMETIC = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")
"""Variables that make libraries compute as on another processor."""

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}
"""Vector instructions that change how sums are rounded, the widest first."""

_PACKAGE = Path(__file__).parents[1]


def key(
    *,
    cells: Iterable[str] = (),
    modules: Iterable[str] = (),
    parameters: Mapping[str, Any] | None = None,
    data: Iterable[Path] = (),
    pins: Path | None = None,
    rounding: bool = True,
    packages: Iterable[str] = ("ncutil",),
    root: Path = _PACKAGE.parent,
) -> Key:
    """All that a result depends on.

    Parameters
    ----------
    cells : code of a notebook, cell by cell
    modules : full names of modules of ours; those that they and the cells import count too
    parameters : values that JSON can hold, tuples as lists
    data : files and folders
    pins : file of pinned versions
    rounding : whether results may differ between processors with other vector instructions
    packages : whose modules are followed
    root : folder that these packages lie in

    Raises
    ------
    SyntaxError
        Code that is not Python.
    FileNotFoundError
        Data that is not there.
    """
    sources = list(cells)
    names = set(modules).union(*(imported(source, packages) for source in sources))
    reached = reach(names, packages, root)
    return {
        "code": digest(*map(tree, sources)),
        "parameters": {name: _plain(value) for name, value in (parameters or {}).items()},
        "modules": {name: tree(path.read_text(encoding="utf-8")) for name, path in reached.items()},
        "pins": checksum(pins) if pins and pins.is_file() else "",
        "data": {_place(path, root): checksum(path) for path in data},
        "versions": versions(*sources, *(path.read_text(encoding="utf-8") for path in reached.values())),
        "processor": vectors() if rounding else "",
    }


def changes(old: Key | None, new: Key) -> str:
    """Why a result is stale: which parts of its key differ; empty if none does.

    >>> changes({"code": "a", "data": {}}, {"code": "b", "data": {}})
    'code cells changed'
    """
    if old is None:
        return "no finished run"
    changed = [words for part, words in PARTS.items() if old.get(part) != new.get(part)]
    return ", ".join(changed) + " changed" if changed else ""


def short(of: Key) -> str:
    """A key as a name for a file."""
    return digest(repr(sorted(of.items())))


def tree(source: str) -> str:
    """Hash of code by its syntax tree: comments, docstrings, quotes and layout do not count.

    >>> tree("x = 1  # one") == tree("x=1"), tree("x = 1") == tree("x = 2")
    (True, False)
    """
    return _parsed(source)[0]


def imported(source: str, packages: Iterable[str] = ("ncutil",)) -> set[str]:
    """Full names that code imports from packages of ours; a name may be a module or something inside one."""
    return {name for name in _parsed(source)[1] if name.split(".")[0] in packages}


@cache
def _parsed(source: str) -> tuple[str, frozenset[str]]:
    names: set[str] = set()
    parsed = ast.parse(source)
    for node in [parsed, *_statements(parsed)]:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
                node.body = node.body[1:]
    return digest(ast.dump(parsed)), frozenset(names)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements inside a module or a statement; expressions, which are many, hold none."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, part, ()):
            yield child
            yield from _statements(child)


def reach(names: Iterable[str], packages: Iterable[str] = ("ncutil",), root: Path = _PACKAGE.parent) -> dict[str, Path]:
    """The modules of ours that these names stand for, and all that they import, directly or through others."""
    waiting, reached = set(names), dict[str, Path]()
    while waiting:
        name = waiting.pop()
        # Importing a.b.c runs a, a.b and a.b.c.
        if "." in name:
            waiting.add(name.rpartition(".")[0])
        base = root.joinpath(*name.split("."))
        path = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
        if path is not None and name not in reached:
            reached[name] = path
            waiting |= imported(path.read_text(encoding="utf-8"), packages) - reached.keys()
    return dict(sorted(reached.items()))


def versions(*sources: str) -> dict[str, str]:
    """Python and the packages that `ncutil` needs, as installed; an optional one where the sources name it."""
    found = {"python": platform.python_version()}
    for line in metadata.requires("ncutil") or []:
        name = re.split(r"[^\w-]", line)[0]
        word = name.replace("-", "_")
        named = re.compile(rf"""["']{word}["']|\b(import|from) {word}\b""")
        if "extra ==" not in line or any(word in source and named.search(source) for source in sources):
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
    return found


@cache
def vectors() -> str:
    """The widest vector instructions of this processor, and what makes libraries use others."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    flags = found[1].split() if found else []
    widest = next((name for flag, name in VECTORS.items() if flag in flags), "")
    told = [f"{name}={os.environ[name]}" for name in ARITHMETIC if os.environ.get(name)]
    return " ".join(filter(None, [platform.machine(), widest, *told]))


def processor() -> str:
    """Name of the processor as the system gives it."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    found = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
