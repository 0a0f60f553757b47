"""Collect submissions, run each in a process of its own, keep what it handed over.

A course folder holds `course.yml` (seed, due dates), `submitted/<student>/<set>/<set>.ipynb`, optionally
`students.csv`, and what grading writes. What came out of a submission is kept as one small file, written whole or not
at all: a grading that was killed goes on with the next one.
"""

import contextlib
import csv
import json
import os
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dateutil.parser
import nbformat
from nbformat import NotebookNode

from ncutil.asking import encode
from ncutil.press import sandbox
from ncutil.press.classroom.problems import ProblemSet
from ncutil.press.project import PressError, read_yaml
from ncutil.press.skip import digest

FORMAT = 1
LARGEST = 10 * 2**20
"""Bytes of a submitted notebook."""
ANSWERS = 8 * 2**20
"""Bytes of what a submission hands over."""
CELL_SECONDS = 60
LIMITS = sandbox.Limits(wall=300, cpu=240)

Record = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """A class: its folder, the seed of its numbers, when each set is due, who is in it with full names where known."""

    folder: Path
    seed: int
    due: dict[str, datetime]
    roster: dict[str, str]

    def result(self, student: str, name: str) -> Path:
        return self.folder / "results" / student / f"{name}.json"


@dataclass(frozen=True)
class Submission:
    """What a student has handed in for a set; `problem` says why it cannot be run, if so."""

    student: str
    name: str
    path: Path | None
    handed_in: datetime | None
    problem: str


def read_course(folder: Path) -> Course:
    """The class in a folder; what is wrong with its files is one line."""
    if not (folder / "course.yml").is_file():
        raise PressError(f"{folder} is no course folder (no course.yml): 'ncutil class release {folder}' makes one")
    given = read_yaml(folder / "course.yml")
    seed = given.get("seed") if isinstance(given, dict) else None
    if not isinstance(seed, int):
        raise PressError(f"{folder / 'course.yml'}: expected 'seed: ' and a whole number")
    due = {str(name): read_time(value, "course.yml") for name, value in (given.get("due") or {}).items()}
    return Course(folder, seed, due, _roster(folder))


def read_time(value: Any, place: str) -> datetime:
    """A point in time, in UTC where no zone is given."""
    try:
        time = value if isinstance(value, datetime) else dateutil.parser.parse(str(value))
    except (ValueError, OverflowError):
        raise PressError(f"{place}: {value!r} is not a date and time, such as 2027-03-01 18:00") from None
    return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)


def _roster(folder: Path) -> dict[str, str]:
    """Students of `students.csv` (columns student, name) and of `submitted/`."""
    path, found = folder / "students.csv", {}
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if not row.get("student"):
                    raise PressError(f"{path}: expected the columns student and name, and a student in every row")
                found[row["student"].strip()] = (row.get("name") or "").strip()
    for place in sorted((folder / "submitted").glob("*")):
        if place.is_dir() and not place.name.startswith("."):
            found.setdefault(place.name, "")
    for student in found:
        if not re.fullmatch(r"[^/\x00-\x1f\x7f\ud800-\udfff]{1,80}", student) or student in (".", ".."):
            raise PressError(f"{student!r} cannot be a student: expected 1 to 80 printable characters without '/'")
    return dict(sorted(found.items()))


def collect(course: Course, names: Iterable[str]) -> list[Submission]:
    """Everything handed in, by student and set; folders of unknown sets are an error before any work is done."""
    names, found = list(names), []
    for student in course.roster:
        place = course.folder / "submitted" / student
        if place.is_symlink():
            raise PressError(f"{place} is a link; expected a folder for each student")
        for folder in sorted(place.glob("*")) if place.is_dir() else []:
            if folder.name.startswith("."):
                continue
            if folder.name not in names:
                raise PressError(f"{folder}: no problem set of this name; known: {', '.join(names)}")
            found.append(_submission(student, folder))
    return found


def _submission(student: str, folder: Path) -> Submission:
    path, problem, stamp = None, "", None
    notebooks = sorted(folder.glob("*.ipynb")) if folder.is_dir() and not folder.is_symlink() else []
    named = [path for path in notebooks if path.stem == folder.name]
    if not notebooks:
        problem = "there is no notebook in the folder"
    elif not named and len(notebooks) > 1:
        problem = f"there are {len(notebooks)} notebooks in the folder, and none is called {folder.name}.ipynb"
    else:
        path = (named or notebooks)[0]
        if path.is_symlink() or not path.is_file():
            problem = "the notebook is a link or a folder, not a file"
        elif path.stat().st_size > LARGEST:
            problem = f"the notebook is larger than {LARGEST // 2**20} MB; clear its outputs and hand it in again"
    with contextlib.suppress(OSError, UnicodeDecodeError, PressError):
        stamp = read_time((folder / "timestamp.txt").read_text().strip()[:80], "timestamp.txt")
    return Submission(student, folder.name, path, stamp, problem)


def read_notebook(path: Path) -> NotebookNode:
    """A stranger's notebook as version 4; ValueError says what is wrong with it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    if not text.strip():
        raise ValueError("the file is empty")
    try:
        notebook = nbformat.reads(text, as_version=4)
        # Reading does not look at the cells.
        for cell in notebook.cells:
            if not isinstance(cell.source, str) or not isinstance(cell.cell_type, str):
                raise ValueError("a cell without text")
            cell.metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else NotebookNode()
    except Exception as error:
        raise ValueError(f"the file is not a notebook ({type(error).__name__})") from None
    return notebook


def grade_id(cell: NotebookNode) -> str:
    """The name that nbgrader gave a cell, or nothing."""
    grading = cell.metadata.get("nbgrader")
    name = grading.get("grade_id") if isinstance(grading, dict) else None
    return name if isinstance(name, str) else ""


def make_task(problem_set: ProblemSet, notebook: NotebookNode) -> tuple[dict[str, Any], dict[str, str]]:
    """What the process of a submission is told, and the texts for grading by hand.

    The order and the teacher's cells are those of the release; of the submission come the cells for solutions, all
    that carry the name where there are several, and the cells that a student has added, each before the next known one.
    """
    ours = {grade_id(cell): cell for cell in problem_set.released.cells if grade_id(cell)}
    sources: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, str] = {}
    added: list[str] = []
    for cell in notebook.cells:
        name = grade_id(cell)
        if name in ours and ours[name].cell_type == "markdown":
            texts[name] = cell.source
        elif cell.cell_type == "code" and name in ours:
            sources[name] += added + ([cell.source] if ours[name].metadata.nbgrader.solution else [])
            added = []
        elif cell.cell_type == "code":
            added.append(cell.source)
    if not sources and not texts:
        raise ValueError("none of its cells belongs to this problem set; some editors drop the names of cells")
    asks = {part.id: part.asks for part in problem_set.parts}
    cells = []
    for name, cell in ours.items():
        if cell.cell_type == "code":
            given = [] if cell.metadata.nbgrader.solution else [cell.source]
            asked = [{"name": ask.name, "inputs": encode(ask.inputs)} for ask in asks.get(name, ())]
            cells.append({"id": name, "sources": [*sources[name], *given], "asks": asked})
    return {"cells": cells, "cell_seconds": CELL_SECONDS}, texts


def run_task(task: dict[str, Any], data: Iterable[Path], tool: str, limits: sandbox.Limits) -> Record:
    """Run a task in a process of its own; returns how it ended and what it handed over."""
    with tempfile.TemporaryDirectory(prefix="ncutil-class-") as scratch:
        folder = Path(scratch) / "submission"
        folder.mkdir()
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        for path in data:
            (folder / path.name).write_bytes(path.read_bytes())
        command = [sys.executable, "-m", "ncutil.press.classroom.runner", "task.json", "answers.json"]
        environment = {"MPLBACKEND": "Agg", "MPLCONFIGDIR": "/tmp", "IPYTHONDIR": "/tmp"}
        ended = sandbox.run(command, folder, limits=limits, sandbox=tool, env=environment)
        answers = _read_answers(folder / "answers.json")
    status = ended.status
    if status in ("done", "failed"):
        # A notebook may end its own process, with whatever status it likes.
        whole = parse_answers(answers).keys() >= {cell["id"] for cell in task["cells"]}
        status = "done" if whole else "ended early"
    return {"status": status, "seconds": round(ended.seconds, 2), "answers": answers}


def _read_answers(path: Path) -> str:
    """The text that a stranger's process has written, if it is short enough; it is looked at when it is judged."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            text = file.read(ANSWERS + 1)
    except OSError:
        return ""
    return text.decode("utf-8", "replace") if len(text) <= ANSWERS else ""


def parse_answers(text: str) -> dict[str, Any]:
    """What a stranger handed over, by cell; empty if it is not even that."""
    try:
        answers = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return answers if isinstance(answers, dict) else {}


def run_submission(problem_set: ProblemSet, submission: Submission, tool: str, limits: sandbox.Limits) -> Record:
    """The record of a submission, not judged yet."""
    record: Record = {
        "format": FORMAT,
        "student": submission.student,
        "set": problem_set.name,
        "submission": fingerprint(submission),
        "run_key": problem_set.run_key,
        "note": "",
        "texts": {},
        "answers": "",
        "seconds": 0.0,
    }
    try:
        if submission.path is None or submission.problem:
            raise ValueError(submission.problem)
        notebook = read_notebook(submission.path)
        task, record["texts"] = make_task(problem_set, notebook)
    except ValueError as error:
        return record | {"status": "not run", "note": str(error)}
    released = notebook.metadata.get("ncutil")
    seed = released.get("seed") if isinstance(released, dict) else None
    if seed != problem_set.seed:
        record["note"] = "the notebook was not released for this class: its numbers are others"
    return record | run_task(task, problem_set.chapter.declared_data, tool, limits)


def fingerprint(submission: Submission) -> str:
    """Changes where a student hands in something else."""
    if submission.path is None or submission.problem:
        return digest(submission.problem)
    return digest(submission.path.read_bytes())


def read_result(path: Path) -> Record | None:
    """A kept record of this version, or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT and "judged" in record else None


def keep(course: Course, record: Record) -> None:
    """Write a judged record, whole or not at all."""
    path = course.result(record["student"], record["set"])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    # In ASCII: a stranger's text may hold what UTF-8 cannot.
    partial.write_text(json.dumps(record, indent=1), encoding="ascii")
    partial.replace(path)
