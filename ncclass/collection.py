"""The course folder: collect submissions, run each in a process of its own, keep what it handed over.

A course folder holds `course.yml` (seed, due dates), `submitted/<student>/<set>/<set>.ipynb`, optionally
`students.csv`, and what grading writes. What a submission handed over is kept as one small file, written whole or not
at all, so that a grading that was killed goes on where it was.
"""

import csv
import json
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

import ncutil
from ncclass import submissions
from ncclass.answers import encode
from ncclass.problem_sets import GIVEN, ProblemSet, is_text_as_released
from ncclass.sandbox import isolation
from ncclass.submissions import (
    Submission,
    language,
    parse_time,
    read_notebook,
    read_regular,
)
from ncpress.project import PressError, read_yaml
from ncutil.ground.files import digest, replacing, write

FORMAT = 2
ANSWERS = 8 * 2**20
"""Bytes of what a submission hands over."""
CELL_SECONDS = 60
SEEDS = 2**31 - 1
"""The largest seed of a class."""

SETTINGS = ".matplotlib"

PACKAGES = (Path(ncutil.__file__).parent, Path(__file__).parent)
"""Folders of the packages that a submission imports; they need not lie in Python's environment."""
PRIVATE = (Path("notebooks/assignments"), *(package.parent / "notebooks" / "assignments" for package in PACKAGES))
"""The problem sets with their solutions, in any clone that a submission could read, and in that of these packages."""

LIMITS = isolation.Limits(wall=300, cpu=240)

Record = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """A class.

    folder, seed : the course folder, and the seed of the class's numbers
    due : when each set is due
    roster : full names of all students by the names of their folders, "" where not known
    unlisted : students who have handed in and are missing from `students.csv`, where there is one
    """

    folder: Path
    seed: int
    due: dict[str, datetime]
    roster: dict[str, str]
    unlisted: tuple[str, ...] = ()

    def result(self, student: str, name: str) -> Path:
        return self.folder / "results" / student / f"{name}.json"


def read_course(folder: Path) -> Course:
    """The class in a folder; what is wrong with its files is one line."""
    if not (folder / "course.yml").is_file():
        raise PressError(f"{folder} is no course folder (no course.yml): 'ncutil class release {folder}' makes one")
    given = read_yaml(folder / "course.yml")
    seed = given.get("seed") if isinstance(given, dict) else None
    if type(seed) is not int or not 0 <= seed <= SEEDS:
        shown = f", not {seed!r}" if seed is not None else ""
        raise PressError(f"{folder / 'course.yml'}: expected 'seed: ' and a whole number from 0 to {SEEDS}{shown}")
    dates = given.get("due") or {}
    if not isinstance(dates, dict):
        expected = "below 'due:' a line for each set, such as '  01-chsh: 2027-03-01 18:00'"
        raise PressError(f"{folder / 'course.yml'}: expected {expected}, not {str(dates)[:80]!r}")
    due = {str(name): read_time(value, "course.yml") for name, value in dates.items()}
    return Course(folder, seed, due, *_roster(folder))


def read_time(value: Any, place: str) -> datetime:
    """A point in time that a teacher has written down, in UTC where no zone is given."""
    try:
        return parse_time(value)
    except (ValueError, OverflowError):
        raise PressError(f"{place}: {value!r} is not a date and time, such as 2027-03-01 18:00") from None


def _roster(folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Students of `students.csv` (columns student, name) and of `submitted/`; and those that are in the last alone."""
    path, found = folder / "students.csv", dict[str, str]()
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                student = normalized((row.get("student") or "").strip())
                if not _can_be_a_student(student):
                    raise PressError(f"{path}: expected the columns student and name, and in every row {STUDENT}")
                found[student] = (row.get("name") or "").strip()
                if not found[student].isprintable():
                    raise PressError(f"{path}: the name of {student} holds what cannot be printed: {found[student]!a}")
    listed = set(found)
    for place in _student_folders(folder):
        if place.is_dir() and _can_be_a_student(normalized(place.name)):
            found.setdefault(normalized(place.name), "")
    unlisted = sorted(found.keys() - listed) if path.is_file() else []
    return dict(sorted(found.items())), tuple(unlisted)


def _student_folders(folder: Path) -> list[Path]:
    return sorted((folder / "submitted").glob("*"))


def normalized(name: str) -> str:
    """A name in one Unicode form (NFC); a file system may write the same name in another."""
    return unicodedata.normalize("NFC", name)


BYTES = 240
"""Of a student's name: it becomes that of a file, and few systems know longer ones."""
STUDENT = f"a student of 1 to 80 printable characters (at most {BYTES} bytes) without '/', and no space at either end"


def _can_be_a_student(name: str) -> bool:
    # Printable are no marks that turn the direction of writing, nor any that have no width.
    known = re.fullmatch(r"[^/.][^/]{0,79}", name) is not None and name.isprintable() and name == name.strip()
    return known and len(os.fsencode(name)) <= BYTES


def collect(course: Course, names: Collection[str]) -> tuple[list[Submission], dict[str, list[str]]]:
    """Everything handed in, by student and set; and by student, a line for everything that is no submission."""
    found: list[Submission] = []
    strays: dict[str, list[str]] = {}
    seen: set[str] = set()
    for place in _student_folders(course.folder):
        student = normalized(place.name)
        if student in seen:
            strays.setdefault(student, []).append(
                "two folders have this name, in two Unicode forms; one was not opened"
            )
        elif student in course.roster:
            seen.add(student)
            own, lines = submissions.find(place, names)
            found += [replace(one, student=student) for one in own]
            if lines:
                strays[student] = lines
        elif not place.name.startswith("."):
            strays[ascii(place.name)] = [f"not the folder of a student; expected {STUDENT}"]
    return found, strays


def grade_id(cell: NotebookNode) -> str:
    """The name that nbgrader gave a cell, or nothing."""
    grading = cell.metadata.get("nbgrader")
    name = grading.get("grade_id") if isinstance(grading, dict) else None
    return name if isinstance(name, str) else ""


def written_answers(
    notebook: NotebookNode,
    titles: Mapping[str, str],
    by_hand: Collection[str],
    is_given: Callable[[NotebookNode], bool],
) -> dict[str, str]:
    """What a student has written in each part that a person reads, "" where nothing was.

    It need not stand in the part's own cell: a cell that is split is two, and a deleted one may have been typed anew.
    So every text between the headings of the part and the next one counts, in its order, but for what was given.

    titles : of all parts, such as "Part 6: Argue (4 points)", by the name of their graded cell
    is_given : whether a cell is as it was released
    """
    marks = {f"## {title.partition(':')[0]}": part for part, title in titles.items()}
    texts: dict[str, list[str]] = {part: [] for part in by_hand}
    here = ""
    for cell in notebook.cells:
        name = grade_id(cell)
        if cell.cell_type == "code" and name not in texts:
            continue
        here = next((part for mark, part in marks.items() if f"\n{mark}" in f"\n{cell.source}"), here)
        place = name if name in texts else here
        if place in texts and cell.source.strip() and not is_given(cell):
            texts[place].append(cell.source.strip())
    return {part: "\n\n".join(pieces) for part, pieces in texts.items()}


def _missing(problem_set: ProblemSet, notebook: NotebookNode) -> str:
    """Which released cells are not in a notebook, in words; of those that a student fills in or is checked by."""
    present = {grade_id(cell) for cell in notebook.cells}
    names = [name for cell in problem_set.released.cells if (name := grade_id(cell)) and not name.startswith(GIVEN)]
    gone = ", ".join(name for name in names if name not in present)
    return f"released cells are missing from the notebook: {gone}" if gone else ""


def make_task(problem_set: ProblemSet, notebook: NotebookNode) -> tuple[dict[str, Any], dict[str, str]]:
    """What the process of a submission is told, and the texts for grading by hand.

    The order and the teacher's cells are those of the release; of the submission come the cells for solutions, all
    that carry the name where there are several, and the cells that a student has added, each before the next known one.
    A given cell of an earlier release is neither. The teacher's cells find the class's seed, whatever a student has
    called `seed`.
    """
    ours = {grade_id(cell): cell for cell in problem_set.released.cells if grade_id(cell)}
    sources: dict[str, list[str]] = defaultdict(list)
    added: list[str] = []
    for cell in notebook.cells:
        name = grade_id(cell)
        if cell.cell_type == "code" and name in ours:
            sources[name] += added + ([cell.source] if ours[name].metadata.nbgrader.solution else [])
            added = []
        elif cell.cell_type == "code" and not name.startswith(GIVEN):
            added.append(cell.source)
    if not ours.keys() & {grade_id(cell) for cell in notebook.cells}:
        raise ValueError("none of its cells belongs to this problem set; some editors drop the names of cells")
    asks = {part.id: part.asks for part in problem_set.parts}
    cells = []
    for name, cell in ours.items():
        if cell.cell_type == "code":
            given = [] if cell.metadata.nbgrader.solution else [f"seed = {problem_set.seed}", cell.source]
            asked = [{"name": ask.name, "inputs": encode(ask.inputs)} for ask in asks.get(name, ())]
            cells.append({"id": name, "sources": [*sources[name], *given], "asks": asked})
    stands = {cell.source.strip() for cell in problem_set.released.cells}
    titles = {part.id: part.title for part in problem_set.parts}
    by_hand = [part.id for part in problem_set.parts if part.by_hand]
    texts = written_answers(
        notebook, titles, by_hand, lambda cell: cell.source.strip() in stands or is_text_as_released(cell)
    )
    return {"cells": cells, "cell_seconds": CELL_SECONDS}, texts


def run_task(task: dict[str, Any], files: Mapping[str, bytes], tool: str, limits: isolation.Limits) -> Record:
    """Run a task in a process of its own; returns how it ended and what it handed over."""
    with tempfile.TemporaryDirectory(prefix="ncutil-class-") as scratch:
        folder = Path(scratch) / "submission"
        folder.mkdir()
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if (fonts := _known_fonts()).is_file():
            (folder / SETTINGS).mkdir()
            (folder / SETTINGS / fonts.name).write_bytes(fonts.read_bytes())
        command = [sys.executable, "-m", "ncclass.runner", "task.json", "answers.json"]
        environment = {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(str(package.parent) for package in PACKAGES)),
            "MPLBACKEND": "Agg",
            "MPLCONFIGDIR": SETTINGS,
            "IPYTHONDIR": "/tmp",
        }
        ended = isolation.run(
            command, folder, readable=PACKAGES, private=PRIVATE, limits=limits, sandbox=tool, env=environment
        )
        answers = _read_answers(folder / "answers.json")
    status = ended.status
    if status in ("done", "failed"):
        # A notebook may end its own process, with whatever status it likes.
        whole = parse_answers(answers).keys() >= {cell["id"] for cell in task["cells"]}
        status = "done" if whole else "ended early"
    return {"status": status, "seconds": round(ended.seconds, 2), "answers": answers}


@cache
def _known_fonts() -> Path:
    """Matplotlib's list of fonts: without it, every submission looks through all of them again, for a second."""
    from matplotlib import font_manager, get_cachedir

    return Path(get_cachedir()) / f"fontlist-v{font_manager.FontManager.__version__}.json"


def _read_answers(path: Path) -> str:
    """What the process of a submission has written, if it is short enough and JSON in ASCII, as the runner writes it.

    Its contents are checked when it is judged. Anything else is not kept: in a record it would take six times its size.
    """
    try:
        text = read_regular(path, ANSWERS).decode("ascii")
    except ValueError:
        return ""
    return text if parse_answers(text) else ""


def parse_answers(text: str) -> dict[str, Any]:
    """What a submission handed over, by cell; empty if it is no JSON object."""
    try:
        answers = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return answers if isinstance(answers, dict) else {}


def _blank(problem_set: ProblemSet, submission: Submission) -> Record:
    return {
        "format": FORMAT,
        "student": submission.student,
        "set": problem_set.name,
        "submission": "",
        "run_key": problem_set.run_key,
        "note": "",
        "texts": {},
        "answers": "",
        "seconds": 0.0,
    }


def failed_record(problem_set: ProblemSet, submission: Submission, error: Exception) -> Record:
    """The record of a submission on which grading itself failed; nothing in it comes from the submission."""
    note = f"grading it failed ({type(error).__name__}); it is tried again with the next grading"
    return _blank(problem_set, submission) | {"status": "not run", "note": note}


def run_submission(problem_set: ProblemSet, submission: Submission, tool: str, limits: isolation.Limits) -> Record:
    """The record of a submission, not judged yet."""
    record = _blank(problem_set, submission) | {"submission": fingerprint(submission)}
    try:
        if submission.path is None or submission.problem:
            raise ValueError(submission.problem)
        notebook = read_notebook(submission.path)
        task, record["texts"] = make_task(problem_set, notebook)
    except ValueError as error:
        return record | {"status": "not run", "note": str(error)}
    released = notebook.metadata.get("ncutil")
    seed = released.get("seed") if isinstance(released, dict) else None
    notes = [missing] if (missing := _missing(problem_set, notebook)) else []
    if seed is None:
        notes.append("the notebook does not say which class it was released for; it was run with this class's numbers")
    elif seed != problem_set.seed:
        notes.append("the notebook was released for another class: its numbers are others")
    if (spoken := language(notebook)) != "python":
        notes.append(f"the notebook's kernel speaks {spoken!r}; it was run as Python")
    record["note"] = "; ".join(notes)
    return record | run_task(task, problem_set.files, tool, limits)


def fingerprint(submission: Submission) -> str:
    """Hash of what was handed in."""
    if submission.path is None or submission.problem:
        return digest(submission.problem)
    try:
        return digest(read_regular(submission.path, submissions.LARGEST))
    except ValueError as error:
        return digest(str(error))


def read_result(path: Path) -> Record | None:
    """A kept record of this version, or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT and "judged" in record else None


def write_result(course: Course, record: Record) -> None:
    """Write a judged record, whole or not at all."""
    # In ASCII: what a submission has written may hold what UTF-8 cannot.
    write(course.result(record["student"], record["set"]), json.dumps(record, indent=1))


def keep_copy(course: Course, name: str) -> str:
    """Keep a file of the course as it is now; returns the name of the copy, with the date, below the course folder."""
    path = Path(name)
    copy = f"earlier/{path.stem}-{datetime.now():%Y-%m-%d-%H%M%S-%f}{path.suffix}"
    with replacing(course.folder / copy) as part:
        shutil.copyfile(course.folder / name, part)
    return copy
