"""One rule for what is stale: a kept result may be used again only if all that it depends on is as it was.

That is code (comments, docstrings and layout do not count), the modules of ours that it reaches, parameters, data by
path and content, pins, installed versions and, where rounding counts, the vector instructions of the processor. All
caches of the book go by this rule. Explained on the page on rerunning.
"""

import ast
import os
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ncutil.ground.files import checksum, digest

Key = dict[str, Any]

PARTS = {
    "code": "code cells",
    "parameters": "parameters",
    "modules": "ncutil",
    "pins": "constraints.txt",
    "data": "data",
    "versions": "installed versions",
    "processor": "processor",
}
"""The parts of a key, that is of what a result depends on, with the words for them."""

ARITHMETIC = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")
"""Variables that make libraries compute as on another processor."""

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}
"""Vector instructions that change how sums are rounded, the widest first."""

_ROOT = Path(__file__).parents[2]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def key(
    *,
    cells: Iterable[str] = (),
    modules: Iterable[str] = (),
    parameters: Mapping[str, Any] | None = None,
    data: Iterable[Path] = (),
    pins: Path | None = None,
    rounding: bool = True,
    packages: Iterable[str] = ("ncutil",),
    root: Path = _ROOT,
) -> Key:
    """All that a result depends on.

    `cells` are the code of a notebook, `modules` full names of modules of ours; what both import counts too.
    `parameters` are values that JSON can hold, tuples as lists; `data` files and folders; `pins` a file of pinned
    versions. `rounding` says whether results may differ between processors with other vector instructions. Modules of
    `packages` in the folder `root` are followed. SyntaxError for code that is not Python, FileNotFoundError for missing
    data.
    """
    sources = list(cells)
    names = set(modules).union(*(imported(source, packages) for source in sources))
    reached = {name: path.read_text(encoding="utf-8") for name, path in reach(names, packages, root).items()}
    return {
        "code": digest(*map(tree, sources)),
        "parameters": {name: _plain(value) for name, value in (parameters or {}).items()},
        "modules": {name: tree(source) for name, source in reached.items()},
        "pins": checksum(pins) if pins and pins.is_file() else "",
        "data": {_place(path, root): checksum(path) for path in data},
        "versions": versions(*sources, *reached.values()),
        "processor": vectors() if rounding else "",
    }


def changes(old: Key | None, new: Key) -> str:
    """Why a result is stale: which parts of its key differ, such as "code cells changed"; empty if none does."""
    if old is None:
        return "no finished run"
    changed = [words for part, words in PARTS.items() if old.get(part) != new.get(part)]
    return ", ".join(changed) + " changed" if changed else ""


def short(of: Key) -> str:
    """A key as a name for a file."""
    return digest(repr(sorted(of.items())))


def tree(source: str) -> str:
    """Hash of code by its syntax tree: comments, docstrings, quotes and layout do not count."""
    return _parsed(source)[0]


def imported(source: str, packages: Iterable[str] = ("ncutil",)) -> set[str]:
    """Full names that code imports from packages of ours; a name may be a module or something inside one."""
    return {name for name in _parsed(source)[1] if name.split(".")[0] in packages}


@cache
def _parsed(source: str) -> tuple[str, frozenset[str]]:
    names: set[str] = set()
    parsed = ast.parse(source)
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, _DOCUMENTED) and len(node.body) > 1 and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return digest(ast.dump(parsed)), frozenset(names)


def reach(names: Iterable[str], packages: Iterable[str] = ("ncutil",), root: Path = _ROOT) -> dict[str, Path]:
    """The modules of ours that these names stand for, and all that they import, directly or through others."""
    waiting, reached = set(names), dict[str, Path]()
    while waiting:
        name = waiting.pop()
        # Importing a.b.c runs a, a.b and a.b.c.
        if "." in name:
            waiting.add(name.rpartition(".")[0])
        base = root.joinpath(*name.split("."))
        path = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if name not in reached and path.is_file():
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
            with suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
    return found


@cache
def vectors() -> str:
    """The widest vector instructions of this processor, and what makes libraries use others."""
    flags = _cpuinfo("flags|Features").split()
    widest = next((name for flag, name in VECTORS.items() if flag in flags), "")
    told = [f"{name}={os.environ[name]}" for name in ARITHMETIC if os.environ.get(name)]
    return " ".join(filter(None, [platform.machine(), widest, *told]))


def processor() -> str:
    """Name of the processor as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(fields: str) -> str:
    """What Linux says of the processor under the first of these fields; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    found = re.search(rf"^(?:{fields})\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    return found[1].strip() if found else ""


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
