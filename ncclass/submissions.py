"""What a student has handed in, read without trusting it.

Only regular files are opened, none is read beyond its bound, nothing is unpacked and no link is followed. What cannot
be graded gets one line that says so to student and teacher, and everyone else is graded as if it were not there.
"""

import contextlib
import json
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from nbformat import NotebookNode

LARGEST = 10 * 2**20
"""Bytes of a submitted notebook."""

CELLS = 1000
"""Cells of a submitted notebook; a long one has a hundred."""

ENTRIES = 30
"""Words that nbgrader or a kernel may say of a cell or a notebook; they say about eight."""

LEVELS = 3
"""Dicts in dicts that are kept of it: a release says of each part what it is called."""

STRAYS = 10
"""Lines about what lies in a student's folder and is no submission."""

WORDS = 200
"""Characters of a file's name that a line repeats."""


@dataclass(frozen=True)
class Submission:
    """What a student has handed in for a set: `problem` says why it cannot be run, `beside` what was not opened."""

    student: str
    name: str
    path: Path | None
    handed_in: datetime | None
    problem: str
    beside: str = ""


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most so many; ValueError says why not."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for a process that writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is not a file but something else")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"the file is larger than {most / 2**20:g} MB")
    return data


def find(place: Path, names: Collection[str]) -> tuple[list[Submission], list[str]]:
    """The submissions in the folder of a student, and a line for everything in it that is none.

    Parameters
    ----------
    place : folder of the student, which need not exist
    names : of the problem sets
    """
    try:
        return _find(place, names)
    except OSError as error:
        return [], [f"the student's folder cannot be read ({error.strerror})"]


def _find(place: Path, names: Collection[str]) -> tuple[list[Submission], list[str]]:
    if place.is_symlink():
        return [], ["the student's folder is a link; links are not followed"]
    found, strays = [], []
    for entry in sorted(place.iterdir()) if place.is_dir() else []:
        shown = _shown(entry.name)
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_symlink():
            strays.append(f"{shown} is a link; links are not followed")
        elif not entry.is_dir():
            strays.append(f"{shown} is not in a folder of a problem set, such as {min(names)}; it was not opened")
        elif entry.name not in names:
            strays.append(f"{shown} is no problem set; expected {', '.join(sorted(names))}")
        else:
            found.append(_submission(place.name, entry))
    more = [f"and {len(strays) - STRAYS} more"] if len(strays) > STRAYS else []
    return found, strays[:STRAYS] + more


def _submission(student: str, folder: Path) -> Submission:
    path, problem, beside, stamp = None, "", "", None
    try:
        path, problem = _notebook(folder)
        beside = _beside(folder, path)
    except OSError as error:
        problem = f"the folder cannot be read ({error.strerror})"
    # A stranger's text; what is no time is no time.
    with contextlib.suppress(Exception):
        stamp = parse_time(read_regular(folder / "timestamp.txt", 1000).decode("utf-8").strip()[:80])
    return Submission(student, folder.name, path, stamp, problem, beside)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """What can be seen in the folder of a submission, and what of it goes as a notebook."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return entries, [e for e in entries if e.suffix == ".ipynb" and (e.is_symlink() or not e.is_dir())]


def _beside(folder: Path, path: Path | None) -> str:
    """Which notebooks were not opened, since another one has the name of the set; "" if there is one alone."""
    others = [entry.name for entry in _entries(folder)[1] if entry != path]
    if path is None or not others:
        return ""
    return f"of several notebooks the one called {path.name} counts; {_shown(', '.join(others))} was not opened"


def _notebook(folder: Path) -> tuple[Path | None, str]:
    """The notebook in the folder of a submission, and what is wrong with it, if something is."""
    entries, notebooks = _entries(folder)
    named = [entry for entry in notebooks if entry.stem == folder.name]
    if not notebooks:
        instead = f", only {_shown(', '.join(entry.name for entry in entries))}" if entries else ""
        return None, f"there is no notebook in the folder{instead}"
    if not named and len(notebooks) > 1:
        return None, f"there are {len(notebooks)} notebooks in the folder, and none is called {folder.name}.ipynb"
    path = (named or notebooks)[0]
    if path.is_symlink() or not path.is_file():
        return path, "the notebook is not a file but a link or something else"
    if path.stat().st_size > LARGEST:
        return path, f"the notebook is larger than {LARGEST // 2**20} MB; clear its outputs and hand it in again"
    return path, "" if os.access(path, os.R_OK) else "the notebook cannot be read"


def parse_time(value: Any) -> datetime:
    """A point in time, in UTC where no zone is given; ValueError or OverflowError where it is none."""
    # nbgrader writes " UTC" where ISO has "+00:00".
    time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip().removesuffix(" UTC"))
    return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)


def _shown(name: str) -> str:
    short = name if len(name) <= WORDS else f"{name[:WORDS]}…"
    return repr(short.encode("utf-8", "replace").decode())


def printable(text: str) -> str:
    r"""A stranger's text on one line and with nothing in it that a terminal obeys or cannot write.

    >>> print(printable("two\nlines, \x1b[2J, \u202e, \ud800, é"))
    two lines, \x1b[2J, \u202e, \ud800, é
    """
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def read_notebook(path: Path) -> NotebookNode:
    """A stranger's notebook as version 4; ValueError says what is wrong with it."""
    try:
        text = read_regular(path, LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    if not text.strip():
        raise ValueError("the file is empty")
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the file is not a notebook: broken JSON in line {error.lineno}") from None
    except (ValueError, RecursionError):
        raise ValueError("the file is not a notebook: a number or a nesting beyond all bounds") from None
    version = given.get("nbformat") if isinstance(given, dict) else None
    if type(version) is not int:
        raise ValueError("the file is not a notebook: it has no version of the format")
    if version not in (3, 4):
        raise ValueError(f"the notebook has version {str(version)[:20]} of the format; save it with version 4")
    return _rebuilt(given)


def _rebuilt(given: dict[str, Any]) -> NotebookNode:
    """What grading reads of a notebook, in a new one: the text of its cells, nbgrader's names, language and seed.

    nbformat's own reader validates everything, outputs as well: hundreds of megabytes for a small file made for that.
    """
    # Version 3 kept cells in worksheets, of which nothing ever wrote more than one.
    sheets = given.get("worksheets")
    place = sheets[0] if given["nbformat"] == 3 and isinstance(sheets, list) and sheets else given
    cells = place.get("cells") if isinstance(place, dict) else None
    if not isinstance(cells, list):
        raise ValueError("the file is not a notebook: it has no cells")
    if len(cells) > CELLS:
        raise ValueError(f"the notebook has over {CELLS} cells")
    metadata = _kept(given, ("kernelspec", "language_info", "ncutil"))
    return NotebookNode(nbformat=4, nbformat_minor=4, metadata=metadata, cells=[_cell(cell) for cell in cells])


def _cell(given: Any) -> NotebookNode:
    given = given if isinstance(given, dict) else {}
    source = given.get("source", given.get("input"))
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    kind = given.get("cell_type")
    if not isinstance(source, str) or not isinstance(kind, str):
        raise ValueError("the file is not a notebook: one of its cells has no text or no type")
    return NotebookNode(cell_type=kind, metadata=_kept(given, ("nbgrader", "ncutil")), source=source)


def _kept(given: dict[str, Any], names: Collection[str]) -> NotebookNode:
    """The entries of these names in something's metadata, as far as they are small."""
    metadata = given.get("metadata")
    entries = {name: metadata.get(name) for name in names} if isinstance(metadata, dict) else {}
    return NotebookNode({name: _small(entry) for name, entry in entries.items() if _is_small(entry)})


def _is_small(entry: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(entry, dict) and len(entry) <= ENTRIES


def _small(entry: dict[str, Any], levels: int = LEVELS) -> NotebookNode:
    """Numbers, words and truths of a dict and of the dicts in it; nothing that lies deeper, and no lists."""
    deeper = {key: _small(value, levels - 1) for key, value in entry.items() if levels > 1 and _is_small(value)}
    return NotebookNode({key: value for key, value in entry.items() if not isinstance(value, (list, dict))} | deeper)


def language(notebook: NotebookNode) -> str:
    """The language that a notebook's kernel is said to speak; "python" if nothing is said."""
    for place in ("kernelspec", "language_info"):
        entry = notebook.metadata.get(place)
        name = entry.get("language" if place == "kernelspec" else "name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name:
            return name[:40]
    return "python"
