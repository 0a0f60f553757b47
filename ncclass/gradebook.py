"""The record: nbgrader's gradebook, a table of grades, and the table in which a teacher marks by hand.

All three are written from the kept results each time, so that what was killed on the way is whole after the next run.
"""

import csv
import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ncclass.collection import Course, Record, one_form
from ncclass.problem_sets import ProblemSet
from ncpress.project import PressError

MARKS = ("student", "set", "part", "points", "of", "comment", "submission")
ROW = ("student", "name", "set", "score", "of", "extra", "to_mark")
GRADES = (*ROW, "status", "late", "handed_in", "out_of_time", "note")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Mark:
    """What a teacher entered for a part of one submission; without points it only is a comment."""

    points: float | None
    comment: str
    submission: str


@dataclass(frozen=True)
class Grade:
    """One student and one set: `scores` by part, None where a teacher has to mark; nothing handed in has no record.

    due : of the set, to which this student's extension comes
    beside : what was handed in as well and was not opened
    extra : extra credit by part, which nbgrader's gradebook alone has a place for
    """

    student: str
    name: str
    problem_set: ProblemSet
    record: Record | None
    handed_in: datetime | None
    due: datetime | None
    marks: Mapping[str, Mark]
    beside: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)
    extension: timedelta = timedelta(0)

    @property
    def scores(self) -> dict[str, float | None]:
        if self.record is None:
            return {}
        scores = {part: judged["score"] for part, judged in self.record["judged"].items()}
        return scores | {part: mark.points for part, mark in self.current.items() if self.is_overruled(part)}

    @property
    def current(self) -> dict[str, Mark]:
        """Marks of what is handed in now: not those of an earlier submission."""
        submission = self.record["submission"] if self.record else ""
        return {part: mark for part, mark in self.marks.items() if mark.submission in ("", submission)}

    def is_overruled(self, part: str) -> bool:
        """Whether a teacher has given the points of a part."""
        return part in self.current and self.current[part].points is not None

    @property
    def score(self) -> float | None:
        """Points so far, with extra credit; None where nothing was handed in."""
        if self.record is None:
            return None
        return sum(points or 0.0 for points in self.scores.values()) + sum(self.extra.values())

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
        hours = (self.handed_in - self.due - self.extension).total_seconds() / 3600
        return f"{hours:.1f} h" if hours > 0 else ""


def cell(value: Any) -> str:
    """A value for a table that spreadsheets open: text that would be a formula gets an apostrophe.

    So does text that looks as if it had got one, so that `_bare` gives each back as it was.

    >>> cell("=1+1"), cell("'=1+1"), cell(-0.5)
    ("'=1+1", "''=1+1", '-0.5')
    """
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value).encode("utf-8", "replace").decode()
    return f"'{text}" if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet may take a text, without the apostrophes before it, for a formula.

    Some do not look at what nobody sees before one.
    """
    text = text.lstrip("'")
    seen = next((number for number, sign in enumerate(text) if sign.isprintable() and sign != " "), len(text))
    return text.startswith(FORMULA) or text[seen:].startswith(FORMULA)


def _bare(text: str) -> str:
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write CSV so that a reader sees either the old file or the whole new one."""
    text = io.StringIO()
    # In quotes, a cell stays one cell also for a program that separates by semicolons.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    writer.writerows([[cell(value) for value in row] for row in rows])
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(path)


def read_marks(course: Course, sets: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], dict[str, Mark]]:
    """What the teacher has entered in `manual.csv`, by student and set; `sets` has the points of each part."""
    path, found = course.folder / "manual.csv", dict[tuple[str, str], dict[str, Mark]]()
    if not path.is_file():
        return found
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Spreadsheets of many languages write semicolons.
        semicolons = ";" in file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=";" if semicolons else ",")
        if missing := set(MARKS) - set(reader.fieldnames or ()):
            raise PressError(f"{path}: the columns {', '.join(sorted(missing))} are missing")
        for number, row in enumerate(reader, 2):
            student, name, part = (_bare((row[column] or "").strip()) for column in ("student", "set", "part"))
            student = one_form(student)
            given = (row["points"] or "").strip().replace(",", ".")
            where = f"{path}, line {number}"
            comment = _bare((row["comment"] or "").strip())
            if not given and not comment:
                continue
            if name not in sets or part not in sets[name]:
                raise PressError(f"{where}: no part {part!r} of {name!r}")
            if student not in course.roster:
                raise PressError(f"{where}: no student {student!r}")
            most = sets[name][part]
            try:
                points = float(given) if given else None
            except ValueError:
                points = float("nan")
            if points is not None and not 0 <= points <= most:
                raise PressError(f"{where}: {given!r} is not a number of points from 0 to {most:g}")
            mark = Mark(points, comment, (row["submission"] or "").strip())
            found.setdefault((student, name), {})[part] = mark
    return found


def write_marks(course: Course, grades: Iterable[Grade]) -> int:
    """Write `manual.csv` anew, with what was entered and a row for every part that waits; returns how many wait.

    A mark for an earlier submission becomes a remark: what is handed in now has to be looked at.
    """
    rows, waiting = [], 0
    for grade in grades:
        waiting += len(grade.to_mark)
        for part in grade.problem_set.parts:
            mark = grade.marks.get(part.id)
            if mark is None and part.id not in grade.to_mark:
                continue
            points: float | None = None
            comment, submission = "", grade.record["submission"] if grade.record else ""
            if mark:
                points, comment = mark.points, mark.comment
                if grade.record and part.id not in grade.current:
                    earlier = "" if points is None else f"[{points:g} for an earlier submission] "
                    points, comment = None, earlier + comment
            shown = "" if points is None else points
            rows.append((grade.student, grade.problem_set.name, part.id, shown, part.points, comment, submission))
    write_table(course.folder / "manual.csv", MARKS, rows)
    return waiting


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
                sum(grade.extra.values()),
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


def write_gradebook(course: Course, sets: Iterable[ProblemSet], grades: Iterable[Grade]) -> None:
    """Bring nbgrader's gradebook up to date; what people have entered in it has to be in the grades already."""
    from nbgrader.api import Gradebook
    from nbgrader.preprocessors import SaveCells
    from sqlalchemy.exc import SAWarning

    sets = list(sets)
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
            raise PressError(
                f"{problem_set.name} has gained or lost graded cells since submissions to it were graded, and "
                f"nbgrader keeps those apart: move {course.folder / 'gradebook.db'} away to have it written anew"
            ) from None
    with Gradebook(url(course)) as book, warnings.catch_warnings():
        # nbgrader's own way of adding a submission makes SQLAlchemy wonder.
        warnings.simplefilter("ignore", SAWarning)
        # nbgrader keeps an extension with a submission, also where nothing was handed in yet.
        kept = {(grade.problem_set.name, grade.student): grade for grade in grades if grade.record or grade.extension}
        for problem_set in sets:
            for old in book.assignment_submissions(problem_set.name):
                who = problem_set.name, old.student.id
                if who not in kept and (who[1] in course.roster or not any(by_hand(old))):
                    book.remove_submission(*who)
        for (name, student), grade in kept.items():
            _enter(book, name, student, grade)
        book.db.commit()


def by_hand(submission: Any) -> tuple[dict[str, Mark], dict[str, float], timedelta]:
    """What a submission has in nbgrader's gradebook that no program computes: marks, extra credit, an extension."""
    marks: dict[str, Mark] = {}
    extra: dict[str, float] = {}
    for notebook in submission.notebooks:
        comments = {comment.name: (comment.manual_comment or "").strip() for comment in notebook.comments}
        for entry in notebook.grades:
            comment = comments.get(entry.name, "")
            if entry.manual_score is not None or comment:
                marks[entry.name] = Mark(entry.manual_score, comment, "")
            if entry.extra_credit:
                extra[entry.name] = float(entry.extra_credit)
    return marks, extra, submission.extension or timedelta(0)


def _enter(book: Any, name: str, student: str, grade: Grade) -> None:
    handed_in = grade.handed_in.replace(tzinfo=None) if grade.handed_in else None
    submission = book.update_or_create_submission(name, student)
    submission.timestamp = handed_in
    submission.extension = grade.extension or None
    judged = grade.record["judged"] if grade.record else {}
    current = grade.current if grade.record else {}
    for entry in (entry for notebook in submission.notebooks for entry in notebook.grades):
        mark = current.get(entry.name)
        entry.auto_score = judged[entry.name]["score"] if judged else None
        entry.extra_credit = grade.extra.get(entry.name)
        entry.manual_score = mark.points if mark else None
        entry.needs_manual_grade = entry.name in grade.to_mark
    for comment in (comment for notebook in submission.notebooks for comment in notebook.comments):
        mark = current.get(comment.name)
        comment.manual_comment = mark.comment if mark else None
