"""What people have entered: in `manual.csv`, and in nbgrader's gradebook by nbgrader's own means.

The gradebook is the record. A file beside the results keeps what it was told last, so that what somebody has entered in
it since can be told from what was only copied there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from ncclass.collection import Course, read_result
from ncclass.gradebook import Grade, Mark, by_hand, read_marks, url
from ncpress.project import PressError

TOLD = "results/entered.json"
"""What the gradebook was told last."""

NOTHING = (None, "")

Who = tuple[str, str]
"""A student and a set."""

Points = Mapping[str, Mapping[str, float]]
"""The points of each part, by set."""


@dataclass
class Entered:
    """What was entered for one student and set, by part, for a submission."""

    marks: dict[str, Mark] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    extension: timedelta = timedelta(0)
    submission: str = ""


def read(course: Course, sets: Points) -> tuple[dict[Who, Entered], list[str]]:
    """What was entered in the table and in the gradebook, and a line for each mark in which the two differ.

    What has changed in the gradebook since it was told last counts, for the submission of that time; `manual.csv`
    follows. Where that has changed as well, what it had goes into the remark.
    """
    found = {who: Entered(dict(marks)) for who, marks in read_marks(course, sets).items()}
    told, lines = _told(course), []
    book = _in_gradebook(course, sets)
    for who in sorted(told.keys() | book.keys()):
        if who[0] not in course.roster or who[1] not in sets:
            continue
        one, now = found.setdefault(who, Entered()), book.get(who, told.get(who, Entered()))
        one.extra, one.extension = now.extra, now.extension
        before = told.get(who) or Entered(submission=(read_result(course.result(*who)) or {}).get("submission", ""))
        for part in sets[who[1]]:
            if who in book and (line := _settle(part, one, now, before)):
                lines.append(f"{', '.join(who)}, {part}: {line}")
    return found, lines


def _settle(part: str, one: Entered, now: Entered, before: Entered) -> str:
    """Take over what the gradebook has of a part, if somebody has changed it there; returns what is to be said."""
    table, book, last = (_content(each.marks.get(part), before.submission) for each in (one, now, before))
    if book in (last, table):
        return ""
    if table == last:
        says = f"gradebook.db was changed, to {_words(book)}; manual.csv, which had {_words(table)}, follows"
    elif book == NOTHING:
        return f"nothing is left in gradebook.db, but manual.csv was changed, to {_words(table)}, which counts"
    else:
        says = (
            f"both were changed, gradebook.db to {_words(book)} and manual.csv to {_words(table)}; the gradebook is"
            " the record and counts, the remark says what the table had"
        )
        book = book[0], f"{book[1]} [manual.csv had {_words(table)}]".strip()
    one.marks.pop(part, None)
    if book != NOTHING:
        one.marks[part] = Mark(*book, before.submission)
    return says


def _content(mark: Mark | None, submission: str) -> tuple[float | None, str]:
    """Points and remark that a mark has for a submission."""
    return (mark.points, mark.comment) if mark and mark.submission in ("", submission) else NOTHING


def _words(content: tuple[float | None, str]) -> str:
    points, comment = content
    return f"{'no' if points is None else f'{points:g}'} points" + (f" and {comment!r}" if comment else "")


def _in_gradebook(course: Course, sets: Points) -> dict[Who, Entered]:
    from nbgrader.api import Gradebook
    from sqlalchemy.exc import DatabaseError

    path, found = course.folder / "gradebook.db", dict[Who, Entered]()
    if not path.is_file():
        return found
    try:
        with Gradebook(url(course)) as book:
            for name in sorted({assignment.name for assignment in book.assignments} & sets.keys()):
                for submission in book.assignment_submissions(name):
                    found[submission.student.id, name] = Entered(*by_hand(submission))
    except DatabaseError as error:
        raise PressError(f"{path} cannot be read as nbgrader's gradebook: {error.orig}") from None
    for (student, name), entered in found.items():
        for part, mark in entered.marks.items():
            most = sets[name].get(part)
            if most is not None and mark.points is not None and not 0 <= mark.points <= most:
                raise PressError(
                    f"{path}: {student}, {name}, {part}: {mark.points:g} is not a number of points from 0 to {most:g}; "
                    "what is given beyond them is extra credit"
                )
    return found


def _told(course: Course) -> dict[Who, Entered]:
    path = course.folder / TOLD
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    found = {}
    for student, name, submission, marks, extra, seconds in rows:
        own = {part: Mark(points, comment, submission) for part, (points, comment) in marks.items()}
        found[student, name] = Entered(own, extra, timedelta(seconds=seconds), submission)
    return found


def keep(course: Course, grades: Iterable[Grade]) -> None:
    """Write down what the gradebook was told, whole or not at all."""
    rows = []
    for grade in grades:
        submission = grade.record["submission"] if grade.record else ""
        marks = {part: (mark.points, mark.comment) for part, mark in grade.current.items()} if grade.record else {}
        row = grade.student, grade.problem_set.name, submission, marks, grade.extra, grade.extension.total_seconds()
        rows += [row] if any(row[2:]) else []
    path = course.folder / TOLD
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(rows), encoding="utf-8")
    partial.replace(path)
