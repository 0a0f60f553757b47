"""`manual.csv`, the table in which a teacher marks by hand: written from the gradebook, and imported into it.

The gradebook is the record. A listed row is applied, an emptied cell clears, and a row that is not there changes
nothing. The last column of a row keeps what the row was written with. So a row that nobody has changed since then is
not applied, even from an old copy of the table, and the import sees whether the gradebook has changed since. Every
import keeps dated copies of the table and of the gradebook that it replaces, in the folder `earlier` of the course.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping

from ncclass import gradebook
from ncclass.collection import Course, fingerprint, keep_copy, normalized, read_result
from ncclass.gradebook import NO_MARK, ByHand, Grade, Mark, Who
from ncclass.problem_sets import ProblemSet
from ncclass.submissions import Submission
from ncclass.tables import bare, write_table
from ncpress.project import PressError
from ncutil.ground.files import digest

COLUMNS = ("student", "set", "part", "points", "of", "comment", "written")
NEEDED = COLUMNS[:4] + COLUMNS[5:6]
"""The columns that a table needs; a row without the last one always counts, for what is handed in now."""


Row = tuple[Who, str, Mark, str, str]
"""Student and set, part, mark; the submission for which the row was written, and the digest of its mark then, or ""."""


def import_table(
    course: Course, sets: Mapping[str, ProblemSet], submissions: Iterable[Submission]
) -> tuple[dict[Who, ByHand], list[str]]:
    """Bring the gradebook up to date with the table and with what is handed in now, before anything runs.

    A mark for an earlier submission becomes a comment: what is handed in now has to be read.
    Returns what the gradebook then has by hand, and lines that say what was done.
    """
    came = {(one.student, one.name): one for one in submissions}
    by_hand, lines, changed, count = gradebook.read(course, sets), list[str](), set[Who](), 0
    recorded = set(by_hand)
    if (course.folder / "manual.csv").is_file() and not (course.folder / "gradebook.db").is_file():
        lines.append("gradebook.db is not there and is made from manual.csv, without extra credit and extensions")
    for who, part, new, submission, written in read_table(course, sets):
        marks = by_hand.setdefault(who, ByHand()).marks
        if who in recorded and _digest(new) == written:
            continue
        if submission and who in came and submission != fingerprint(came[who]):
            new = _as_comment(new)
        old = marks.get(part, NO_MARK)
        new, says = _settle(new, old, written if who in recorded else "")
        if says:
            lines.append(f"{', '.join(who)}, {part}: {says}")
        if new != old:
            marks[part], count = new, count + 1
            changed.add(who)
    for who, own in by_hand.items():
        comments = {part: _as_comment(mark) for part, mark in own.marks.items()}
        if comments != own.marks and who in came:
            record = read_result(course.result(*who))
            if record and record["submission"] != fingerprint(came[who]):
                own.marks = comments
                changed.add(who)
    if changed:
        kept = [keep_copy(course, name) for name in ("manual.csv", "gradebook.db") if (course.folder / name).is_file()]
        gradebook.enter(course, sets, {who: by_hand[who] for who in changed})
        lines.append(f"{count} marks taken from manual.csv; the files as they were before: {', '.join(kept)}")
    return by_hand, lines


def _settle(new: Mark, old: Mark, written: str) -> tuple[Mark, str]:
    """Which mark counts, the table's or the gradebook's, and what has to be said; `written` is "" if not known."""
    if _digest(new) == _digest(old):
        return old, ""
    if written == _digest(old) or (not written and old == NO_MARK):
        return new, ""
    if not written or old == NO_MARK:
        return new, f"{new} in manual.csv counts; gradebook.db had {old}"
    says = f"both were changed, gradebook.db to {old} and manual.csv to {new}; the gradebook counts"
    kept = f"[manual.csv had {new}]"
    if new == NO_MARK or kept in old.comment:
        return old, says
    return Mark(old.points, f"{old.comment} {kept}".strip()), f"{says}, the comment keeps what the table had"


def _digest(mark: Mark) -> str:
    """Of points and comment; spreadsheets change how lines end and how numbers look."""
    return digest("" if mark.points is None else f"{mark.points:g}", *mark.comment.split())


def _as_comment(mark: Mark) -> Mark:
    """A mark for what was handed in earlier, as a comment without points."""
    return mark if mark.points is None else Mark(None, f"[{mark.points:g} for an earlier submission] {mark.comment}")


def read_table(course: Course, sets: Mapping[str, ProblemSet]) -> Iterator[Row]:
    """The rows of `manual.csv`; PressError names the line that cannot be used."""
    path = course.folder / "manual.csv"
    if not path.is_file():
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Spreadsheets of many languages write semicolons.
        semicolons = ";" in file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=";" if semicolons else ",")
        if missing := set(NEEDED) - set(reader.fieldnames or ()):
            raise PressError(f"{path}: the columns {', '.join(sorted(missing))} are missing")
        for number, row in enumerate(reader, 2):
            student, name, part, given, comment, written = (
                bare((row.get(column) or "").strip()) for column in (*NEEDED, "written")
            )
            student, where = normalized(student), f"{path}, line {number}"
            parts = {part.id: part for part in sets[name].parts} if name in sets else {}
            if part not in parts or student not in course.roster:
                if given or comment:
                    what = f"student {student!r}" if part in parts else f"part {part!r} of {name!r}"
                    raise PressError(f"{where}: no {what}")
                continue
            try:
                points = float(given.replace(",", ".")) if given else None
            except ValueError:
                points = float("nan")
            if points is not None and not 0 <= points <= parts[part].points:
                raise PressError(f"{where}: {given!r} is not a number of points from 0 to {parts[part].points:g}")
            found = re.fullmatch("as-([0-9a-f]*)-([0-9a-f]+)", written)
            yield (student, name), part, Mark(points, comment), found[1] if found else "", found[2] if found else ""


def write_marks(course: Course, grades: Iterable[Grade]) -> int:
    """Write `manual.csv` anew: a row for every mark, and for every part that waits; returns how many wait."""
    rows, waiting = [], 0
    for grade in grades:
        waiting += len(grade.to_mark)
        submission = grade.record["submission"] if grade.record else ""
        for part in grade.problem_set.parts:
            mark = grade.by_hand.marks.get(part.id, NO_MARK)
            if mark != NO_MARK or part.id in grade.to_mark:
                points = "" if mark.points is None else mark.points
                written = f"as-{submission}-{_digest(mark)}"
                row = grade.student, grade.problem_set.name, part.id, points, part.points, mark.comment, written
                rows.append(row)
    write_table(course.folder / "manual.csv", COLUMNS, rows)
    return waiting
