"""The record: nbgrader's gradebook, and `grades.csv`, a table for reading.

What a program computes is written from the kept results each time, so that a grading that was killed is whole after the
next one. What people enter (marks, extra credit, extensions) is kept in the gradebook alone.
"""

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import SaveCells
from sqlalchemy.exc import DatabaseError, SAWarning

from ncclass.collection import Course, Record, keep_copy
from ncclass.problem_sets import ProblemSet, role
from ncclass.tables import write_table
from ncpress.project import PressError

ROW = ("student", "name", "set", "score", "of", "extra", "to_mark")
GRADES = (*ROW, "status", "late", "handed_in", "out_of_time", "note")

Who = tuple[str, str]
"""A student and a set."""


@dataclass(frozen=True)
class Mark:
    """What a teacher has entered for a part of a submission; without points it is only a comment.

    >>> print(Mark(3.5, "Well put"), "|", Mark())
    3.5 points and 'Well put' | no points
    """

    points: float | None = None
    comment: str = ""

    def __str__(self) -> str:
        points = "no" if self.points is None else f"{self.points:g}"
        return f"{points} points" + (f" and {self.comment!r}" if self.comment else "")


NO_MARK = Mark()


@dataclass
class ByHand:
    """What people have entered for one student and set: marks and extra credit by part, and an extension."""

    marks: dict[str, Mark] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    extension: timedelta = timedelta(0)

    def __bool__(self) -> bool:
        return any((any(mark != NO_MARK for mark in self.marks.values()), self.extra, self.extension))


@dataclass(frozen=True)
class Grade:
    """One student and one set: `scores` by part, None where a teacher has to mark; nothing handed in has no record.

    due : of the set, to which this student's extension comes
    by_hand : what people have entered, for what is handed in now
    beside : what was handed in as well and was not opened
    """

    student: str
    name: str
    problem_set: ProblemSet
    record: Record | None
    handed_in: datetime | None
    due: datetime | None
    by_hand: ByHand = field(default_factory=ByHand)
    beside: str = ""

    @property
    def scores(self) -> dict[str, float | None]:
        if self.record is None:
            return {}
        judged = self.record["judged"]
        return {
            part: self.by_hand.marks[part].points if self.is_overruled(part) else judged[part]["score"]
            for part in judged
        }

    def is_overruled(self, part: str) -> bool:
        """Whether a teacher has given the points of a part."""
        return self.by_hand.marks.get(part, NO_MARK).points is not None

    @property
    def score(self) -> float | None:
        """Points so far, with extra credit; None where nothing was handed in."""
        if self.record is None:
            return None
        return sum(points or 0.0 for points in self.scores.values()) + sum(self.by_hand.extra.values())

    @property
    def to_mark(self) -> list[str]:
        """Parts that wait for a teacher."""
        return [part for part, points in self.scores.items() if points is None]

    @property
    def status(self) -> str:
        if self.record is None:
            return "missing"
        ended = str(self.record["status"])
        if ended == "not run":
            return "not run"
        return "run" if ended == "done" else f"stopped: {ended}"

    @property
    def note(self) -> str:
        """What a teacher and the student should know about how it ran."""
        return "; ".join(filter(None, (self.beside, self.record["note"], self.record["remark"]))) if self.record else ""

    @property
    def timeouts(self) -> str:
        """The parts in which something was stopped because it took too long, such as "Part 2, Part 3"."""
        late = self.record.get("timed_out", ()) if self.record else ()
        return ", ".join(part.title.partition(":")[0] for part in self.problem_set.parts if part.id in late)

    @property
    def late(self) -> str:
        """ "" where in time or not due, "unknown" where nobody has written down when it came, else by how much."""
        if self.record is None or self.due is None:
            return ""
        if self.handed_in is None:
            return "unknown"
        hours = (self.handed_in - self.due - self.by_hand.extension).total_seconds() / 3600
        return f"{hours:.1f} h" if hours > 0 else ""


def write_grades(course: Course, grades: Iterable[Grade]) -> None:
    """Write `grades.csv`, a row for every student and set."""
    rows = []
    for grade in grades:
        waiting = {part.id: part.points for part in grade.problem_set.parts if part.id in grade.to_mark}
        rows.append(
            (
                grade.student,
                grade.name,
                grade.problem_set.name,
                "" if grade.score is None else grade.score,
                grade.problem_set.points,
                sum(grade.by_hand.extra.values()),
                sum(waiting.values()),
                grade.status,
                grade.late,
                grade.handed_in.isoformat(sep=" ", timespec="seconds") if grade.handed_in else "",
                grade.timeouts,
                grade.note,
            )
        )
    write_table(course.folder / "grades.csv", GRADES, rows)


def url(course: Course) -> str:
    """The address of a class's gradebook, as nbgrader takes it."""
    return f"sqlite:///{course.folder / 'gradebook.db'}"


def _cells(problem_set: ProblemSet) -> dict[str, str]:
    """The cell for a solution of each part: nbgrader keeps comments with these, and points with the cells of parts."""
    found, last = {}, ""
    for cell in problem_set.source.cells:
        last = cell.metadata.nbgrader.grade_id if role(cell) in ("solution", "by hand") else last
        if role(cell) in ("tests", "by hand"):
            found[cell.metadata.nbgrader.grade_id] = last
    return found


def read(course: Course, sets: Mapping[str, ProblemSet]) -> dict[Who, ByHand]:
    """What people have entered in the gradebook for these sets; PressError if it is none, or has impossible points."""
    path, found = course.folder / "gradebook.db", dict[Who, ByHand]()
    if not path.is_file():
        return found
    try:
        with Gradebook(url(course)) as book:
            for name in sorted({assignment.name for assignment in book.assignments} & sets.keys()):
                for submission in book.assignment_submissions(name):
                    found[submission.student.id, name] = _by_hand(submission, sets[name])
    except DatabaseError as error:
        raise PressError(f"{path} cannot be read as nbgrader's gradebook: {error.orig}") from None
    for (student, name), by_hand in found.items():
        for part in sets[name].parts:
            points = by_hand.marks.get(part.id, NO_MARK).points
            if points is not None and not 0 <= points <= part.points:
                raise PressError(
                    f"{path}: {student}, {name}, {part.id}: {points:g} is not a number of points from 0 to "
                    f"{part.points:g}; what is given beyond them is extra credit"
                )
    return found


def _by_hand(submission: Any, problem_set: ProblemSet) -> ByHand:
    """What a submission has in nbgrader's gradebook that no program computes."""
    found, cells = ByHand(extension=submission.extension or timedelta(0)), _cells(problem_set)
    for notebook in submission.notebooks:
        comments = {comment.name: (comment.manual_comment or "").strip() for comment in notebook.comments}
        for entry in (entry for entry in notebook.grades if entry.name in cells):
            found.marks[entry.name] = Mark(entry.manual_score, comments.get(cells[entry.name], ""))
            if entry.extra_credit:
                found.extra[entry.name] = float(entry.extra_credit)
    return found


def enter(course: Course, sets: Mapping[str, ProblemSet], by_hand: Mapping[Who, ByHand]) -> None:
    """Enter marks for submissions that the gradebook has already; `write_gradebook` does it for new ones."""
    if not (course.folder / "gradebook.db").is_file():
        return
    with Gradebook(url(course)) as book:
        for (student, name), own in by_hand.items():
            with suppress(MissingEntry):
                _enter_marks(book.find_submission(name, student), sets[name], own.marks)
        book.db.commit()


def _enter_marks(submission: Any, problem_set: ProblemSet, marks: Mapping[str, Mark]) -> None:
    by_cell = {cell: marks.get(part, NO_MARK) for part, cell in _cells(problem_set).items()}
    for notebook in submission.notebooks:
        for entry in notebook.grades:
            entry.manual_score = marks.get(entry.name, NO_MARK).points
        for comment in notebook.comments:
            if comment.name in by_cell:
                comment.manual_comment = by_cell[comment.name].comment or None


def write_gradebook(course: Course, sets: Iterable[ProblemSet], grades: Iterable[Grade]) -> list[str]:
    """Bring nbgrader's gradebook up to date with the grades; returns lines that say which sets it has anew."""
    sets, lines = list(sets), []
    with Gradebook(url(course)) as book:
        for problem_set in sets:
            due = course.due.get(problem_set.name)
            book.update_or_create_assignment(problem_set.name, duedate=due.replace(tzinfo=None) if due else None)
        for student, name in course.roster.items():
            book.update_or_create_student(student, last_name=name or None)
    for problem_set in sets:
        resources = {"nbgrader": {"notebook": problem_set.name, "assignment": problem_set.name, "db_url": url(course)}}
        try:
            SaveCells().preprocess(problem_set.source, resources)
        except RuntimeError:
            # nbgrader changes no cells of a set that has submissions.
            copy = keep_copy(course, "gradebook.db")
            lines.append(f"{problem_set.name} has other cells than before; the gradebook that had those: {copy}")
            with Gradebook(url(course)) as book:
                for old in book.assignment_submissions(problem_set.name):
                    book.remove_submission(problem_set.name, old.student.id)
            SaveCells().preprocess(problem_set.source, resources)
    with Gradebook(url(course)) as book, warnings.catch_warnings():
        # nbgrader's own way of adding a submission makes SQLAlchemy wonder.
        warnings.simplefilter("ignore", SAWarning)
        # nbgrader keeps what people enter with a submission, also where nothing was handed in yet.
        kept = {(grade.student, grade.problem_set.name): grade for grade in grades if grade.record or grade.by_hand}
        for problem_set in sets:
            for old in book.assignment_submissions(problem_set.name):
                who = old.student.id, problem_set.name
                if who not in kept and not _by_hand(old, problem_set):
                    book.remove_submission(problem_set.name, who[0])
        for grade in kept.values():
            _enter(book, grade)
        book.db.commit()
    return lines


def _enter(book: Any, grade: Grade) -> None:
    submission = book.update_or_create_submission(grade.problem_set.name, grade.student)
    submission.timestamp = grade.handed_in.replace(tzinfo=None) if grade.handed_in else None
    submission.extension = grade.by_hand.extension or None
    judged = grade.record["judged"] if grade.record else {}
    for entry in (entry for notebook in submission.notebooks for entry in notebook.grades):
        entry.auto_score = judged[entry.name]["score"] if judged else None
        entry.extra_credit = grade.by_hand.extra.get(entry.name)
        entry.needs_manual_grade = entry.name in grade.to_mark
    _enter_marks(submission, grade.problem_set, grade.by_hand.marks)
