"""The classroom's commands, as a teacher and a student use them: a class of twelve, graded in the sandbox."""

import contextlib
import copy
import csv
import functools
import html
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import CANARY, ROOT, clone_environment, copy_project, plant_canaries
from nbgrader.api import Gradebook
from problem_sets import NAMES, PROJECT, SEED, answers, edited, fill, problem_set, reference

from ncclass import (
    checking,
    collection,
    commands,
    gradebook,
    grading,
    marks,
    problem_sets,
    reports,
    submissions,
    tables,
)
from ncclass.problem_sets import first_line, rubric, secrets
from ncpress.__main__ import main
from ncpress.assignments import table as overview
from ncpress.project import PressError, Project
from ncpress.wheels import build_wheel

SET = "01-chsh"
WRONG = [(part, change) for part, changes in answers(SET)["wrong"].items() for change in changes[:1]]

here = pytest.mark.xdist_group("classroom")


def classroom(*words: str) -> Result:
    """Run a command of the classroom in this process, which has imported everything already."""
    with contextlib.chdir(ROOT):
        result = CliRunner().invoke(main, ["class", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def canaried(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with a canary in everything that students must not see."""
    clone = copy_project(tmp_path_factory.mktemp("canaries") / "clone")
    assert plant_canaries(clone) >= 9 * len(NAMES)
    return Project(clone)


def hand_in(course: Path, student: str, notebook: Any, stamp: str = "", name: str = SET) -> Path:
    folder = course / "submitted" / student / name
    folder.mkdir(parents=True)
    path = folder / f"{name}.ipynb"
    path.write_text(notebook if isinstance(notebook, str) else nbformat.writes(notebook))
    if stamp:
        (folder / "timestamp.txt").write_text(stamp)
    return path


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def edit_table(course: Path, **entered: tuple[str, str]) -> None:
    """Enter points and a comment in the rows of some students for the written part, as a spreadsheet would."""
    path = course / "manual.csv"
    rows = table(path)
    for one in rows:
        if one["part"] == "argue" and one["student"] in entered:
            one["points"], one["comment"] = entered[one["student"]]
    write_rows(path, rows)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, marks.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def marked(course: Path, student: str, part: str = "argue") -> tuple[str, str]:
    """Points and comment of a part in the table."""
    (found,) = (one for one in table(course / "manual.csv") if (one["student"], one["part"]) == (student, part))
    return found["points"], found["comment"]


def row(course: Path, student: str) -> dict[str, str]:
    return next(row for row in table(course / "grades.csv") if row["student"] == student)


def contents(course: Path) -> dict[str, Any]:
    """Everything that the gradebook knows of submissions, without the names that it draws for its rows."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        found = {}
        for assignment in book.assignments:
            for submission in book.assignment_submissions(assignment.name):
                (notebook,) = submission.notebooks
                found[assignment.name, submission.student.id] = (
                    submission.score,
                    submission.max_score,
                    submission.needs_manual_grade,
                    submission.timestamp,
                    sorted((g.name, g.auto_score, g.manual_score, g.needs_manual_grade) for g in notebook.grades),
                    sorted((c.name, c.manual_comment or "") for c in notebook.comments),
                )
        return found


LOOP = "import time\n\nwhile True:\n    time.sleep(1)"
CELL_SECONDS = 20
"""Enough for imports on a busy machine, and not too long to wait for the student whose cell never ends."""


@pytest.fixture(scope="module", autouse=True)
def short_commands() -> Iterator[None]:
    """Cells are stopped soon, and commands take sets and pictures that an earlier one has read or drawn."""

    @functools.cache
    def histogram(points: float, scores: tuple[float, ...]) -> str:
        return draw(points, scores)

    draw, drawn = reports._histogram, functools.cache(problem_sets.pictures)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "CELL_SECONDS", CELL_SECONDS)
        patch.setattr(problem_sets, "read_set", functools.cache(problem_sets.read_set))
        # No picture of a hint shows a solution, and so none shows a canary.
        patch.setattr(problem_sets, "pictures", lambda project, name: drawn(PROJECT, name))
        patch.setattr(reports, "_histogram", lambda points, scores: histogram(points, tuple(scores)))
        yield


def make_class(course: Path) -> dict[str, float | None]:
    """Twelve students, one more who hands in nothing, and what each should score before anything is marked by hand."""
    item = problem_set(SET)
    right = reference(item)
    expected: dict[str, float | None] = {}
    hand_in(course, "ada", fill(item, right), "2027-03-01 09:00:00 UTC")
    hand_in(course, "blank", fill(item, {}), "2027-03-01 17:59:00 UTC")
    expected |= {"ada": 26, "blank": 0}
    for number, (part, change) in enumerate(WRONG[:4]):
        most = next(p.points for p in item.parts if p.id == part)
        hand_in(
            course, f"wrong{number}", fill(item, right | {change["cell"]: edited(item, change)}), "2027-03-01 12:00"
        )
        expected[f"wrong{number}"] = 26 - most + change["left"]
    sloppy = {change["cell"]: edited(item, change) for change in answers(SET)["sloppy"]}
    hand_in(course, "sloppy", fill(item, right | sloppy), "2027-03-02 00:00:00+01:00")
    expected["sloppy"] = 26
    quits = "import os\nos._exit(0)"
    hand_in(course, "quits", fill(item, right | {"visibility": quits}))
    expected["quits"] = 4 + 6 + 5
    notebook = fill(item, right)
    for cell in notebook.cells:
        if collection.grade_id(cell) == "total-check":
            cell.source = "print('all tests passed')"
        if "from ncutil import chsh" in cell.source:
            cell.source += "\nchsh.chsh = None"
    helper = nbformat.v4.new_code_cell("def helper(w):\n    return chsh.from_strategies(w)")
    notebook.cells.insert(2, helper)
    for cell in notebook.cells:
        if collection.grade_id(cell) == "total":
            cell.source = cell.source.replace("chsh.from_strategies(weights)", "helper(weights)")
    hand_in(course, "=cmd()", notebook, "2027-03-01 12:00:00 UTC")
    expected["=cmd()"] = 26
    hand_in(course, "garbage", "<script>alert(1)</script>", "2027-03-01 12:00:00 UTC")
    expected["garbage"] = 0
    words = {
        "argue": "<script>alert(document.cookie)</script> and $S$",
        "total": "raise ValueError('<img src=x onerror=a()>')",
    }
    hand_in(course, "script", fill(item, right | words), "2027-03-01 12:00:00 UTC")
    expected["script"] = 22
    hand_in(course, "loop", fill(item, right | {"model": LOOP}), "2027-03-01 12:00:00 UTC")
    expected["loop"] = 26 - 5
    (course / "students.csv").write_text("student,name\nada,Ada L.\nmissing,Nobody Yet\n")
    expected["missing"] = None
    return expected


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float | None], str]:
    """A course folder with a class of twelve, released, handed in, graded once; and what the command said."""
    course = tmp_path_factory.mktemp("class") / "course"
    done = classroom("release", str(course), "--seed", str(SEED))
    assert done.exit_code == 0, done.stderr
    expected = make_class(course)
    given = (course / "course.yml").read_text()
    (course / "course.yml").write_text(given.replace(f"  # {SET}: 2027-03-01 18:00", f"  {SET}: 2027-03-01 18:00"))
    done = classroom("grade", str(course), "--jobs", "2")
    return course, expected, f"{done.exit_code}\n{done.stdout}\n{done.stderr}"


@here
def test_grades_have_expected_points(graded: tuple[Path, dict[str, float | None], str]) -> None:
    course, expected, said = graded
    assert len(expected) == 12 + 1
    found = {row["student"]: row["score"] for row in table(course / "grades.csv")}
    assert found == {
        tables.cell(student): "" if score is None else f"{score:g}" for student, score in expected.items()
    }, said
    book = contents(course)
    assert {student for _, student in book} == expected.keys() - {"missing"}
    assert all(entry[0] == expected[student] and entry[1] == 30 for (_, student), entry in book.items())


@here
def test_grade_summary_and_exit_status(graded: tuple[Path, dict[str, float | None], str]) -> None:
    _, _, said = graded
    assert said.startswith("1\n")
    assert "12 handed in, 1 missing, 1 late, 10 parts to mark by hand" in said
    assert "quits, 01-chsh: stopped: ended early" in said
    assert "garbage, 01-chsh: not run: the file is not a notebook" in said
    assert "loop, 01-chsh: out of time in Part 3" in said
    assert "1 stopped before their end, 1 could not be run, 0 not recognised, 1 with a cell that took too long" in said
    assert "12 of 12: " in said


@here
def test_student_missing_from_list_is_graded_and_named(graded: tuple[Path, dict[str, float | None], str]) -> None:
    course, expected, said = graded
    unlisted = sorted(expected.keys() - {"ada", "missing"})
    assert f"graded, and not in students.csv: {', '.join(unlisted)}\n" in said
    shown = (course / "report.html").read_text().partition("<h2>Not in students.csv</h2>")[2].partition("</ul>")[0]
    assert re.findall("<li>(.*?)</li>", shown) == [html.escape(student, quote=False) for student in unlisted]


@here
def test_late_missing_and_undated_work_is_shown(graded: tuple[Path, dict[str, float | None], str]) -> None:
    course, _, _ = graded
    assert row(course, "missing")["status"] == "missing"
    assert row(course, "missing")["name"] == "Nobody Yet"
    assert row(course, "ada")["late"] == ""
    assert row(course, "sloppy")["late"] == "5.0 h"
    assert row(course, "quits")["late"] == "unknown"
    report = (course / "report.html").read_text()
    for words in ("Nobody Yet (missing)", "sloppy: 5.0 h", "No date recorded", "quits: stopped: ended early"):
        assert words in report
    assert "Nothing was handed in" in (course / "feedback" / "missing" / "feedback.html").read_text()


@here
def test_timeout_is_shown_in_report_feedback_and_table(graded: tuple[Path, dict[str, float | None], str]) -> None:
    course, _, _ = graded
    report = (course / "report.html").read_text()
    assert "loop: out of time in Part 3" in report.partition("<h3>Timeouts</h3>")[2].partition("</ul>")[0]
    page = (course / "feedback" / "loop" / "feedback.html").read_text()
    assert "Your notebook was out of time in Part 3" in page
    assert f"TimeoutError: stopped after {CELL_SECONDS} seconds" in page
    assert row(course, "loop")["status"] == "run"
    assert row(course, "loop")["out_of_time"] == "Part 3"
    assert row(course, "ada")["out_of_time"] == ""


@here
def test_report_has_rubric_beside_answers(
    graded: tuple[Path, dict[str, float | None], str],
) -> None:
    course, _, _ = graded
    asked = next(part for part in problem_set(SET).parts if part.by_hand)
    rows = rubric(problem_set(SET).source, asked.id)
    assert sum(int(points) for points, _ in rows) == asked.points
    to_mark = (course / "report.html").read_text().partition("<h3>To mark by hand</h3>")[2]
    for points, words in rows:
        assert f'<td class="number">{points}</td><td>{words}</td>' in to_mark


@here
def test_overruled_part_is_no_failing_check(graded: tuple[Path, dict[str, float | None], str], tmp_path: Path) -> None:
    course = shutil.copytree(graded[0], tmp_path / "course")

    def failing() -> int:
        (number,) = re.findall(r"<td>the sum of covariances</td><td class=.number.>(\d+)</td>", report.read_text())
        return int(number)

    report = course / "report.html"
    before = failing()
    (course / "manual.csv").write_text(
        f"student,set,part,points,of,comment,submission\nwrong0,{SET},total-check,4,4,My mistake,\n"
    )
    classroom("grade", str(course))
    assert failing() == before - 1
    assert row(course, "wrong0")["score"] == "26"


@here
def test_a_renamed_part_is_run_and_judged_again_on_demand(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command advises, step by step, leads to a whole gradebook."""
    course = shutil.copytree(graded[0], tmp_path / "course")
    for folder in (course / "submitted").iterdir():
        if folder.name != "ada":
            shutil.rmtree(folder)
    clone = copy_project(tmp_path / "clone")
    path = clone / "notebooks" / "assignments" / f"{SET}.md"
    path.write_text(path.read_text().replace("grade_id: model-check", "grade_id: honest-check"))
    monkeypatch.setattr(Project, "find", lambda: Project(clone))
    done = classroom("grade", str(course))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 2), done.stderr
    assert f"{SET}: parts were added, renamed or taken away since submissions were graded; --regrade" in done.stderr
    with open_book(course) as book:
        enter(book, "ada", 3, "Yes")
    done = classroom("grade", str(course), "--regrade")
    assert "1 submissions: 1 to run" in done.stdout
    assert done.exit_code == 0
    (copy,) = (course / "earlier").glob("gradebook-*.db")
    assert f"{SET} has other cells than before; the gradebook that had those: earlier/{copy.name}" in done.stdout
    assert row(course, "ada")["score"] == "29"
    assert marked(course, "ada") == ("3", "Yes")
    assert ("honest-check", 5, None, False) in contents(course)[SET, "ada"][4]


@here
def test_pages_hold_everything_and_run_nothing(graded: tuple[Path, dict[str, float | None], str]) -> None:
    course, expected, _ = graded
    pages = {path.parent.name: path.read_text() for path in course.glob("feedback/*/feedback.html")}
    assert pages.keys() == expected.keys()
    report = (course / "report.html").read_text()
    for page in [*pages.values(), report]:
        assert "<script" not in page
        assert "<img src=x" not in page
        assert not re.findall(r'(?:src|href)="(?!data:image/png)', page)
        assert "prefers-color-scheme: dark" in page
        assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(document.cookie)" in report
    assert "onerror=a()&gt;" in pages["script"]
    assert report.count("data:image/png;base64,") == len(problem_set(SET).parts) + 1
    assert report.count("10 not marked yet") == 1


@here
def test_feedback_never_shows_expected_values(
    graded: tuple[Path, dict[str, float | None], str],
) -> None:
    course, _, _ = graded
    page = (course / "feedback" / "wrong0" / "feedback.html").read_text()
    assert "failed:</span> the sum of covariances" in page
    assert "passed:</span> the sum of E[AB]" in page
    assert "1 of 4 points" in page
    item = problem_set(SET)
    blank = (course / "feedback" / "blank" / "feedback.html").read_text()
    for line in secrets(item.source):
        assert line not in blank
    assert "0 of 30 points" in blank
    assert "(not answered)" in blank


@here
def test_tables_run_no_formula(graded: tuple[Path, dict[str, float | None], str]) -> None:
    course, _, _ = graded
    for name in ("grades.csv", "manual.csv"):
        for record in csv.reader(io.StringIO((course / name).read_text())):
            assert not [value for value in record if value.startswith(("=", "+", "@", "\t"))]
    assert row(course, "'=cmd()")["score"] == "26"


@here
def test_marks_by_hand_reach_every_record(graded: tuple[Path, dict[str, float | None], str], tmp_path: Path) -> None:
    course = shutil.copytree(graded[0], tmp_path / "course")
    waiting = table(course / "manual.csv")
    assert {mark["part"] for mark in waiting} == {"argue"}
    assert len(waiting) == 10
    edit_table(course, ada=("3.5", "A *fine* answer"), sloppy=("", "later"))
    done = classroom("grade", str(course))
    assert "12 submissions: 0 to run, 0 judged again, 12 up to date" in done.stdout
    assert "9 parts to mark by hand" in done.stdout
    assert (row(course, "ada")["score"], row(course, "ada")["to_mark"]) == ("29.5", "0")
    assert contents(course)[SET, "ada"][0] == 29.5
    assert "A *fine* answer" in (course / "feedback" / "ada" / "feedback.html").read_text()
    assert marked(course, "ada") == ("3.5", "A *fine* answer")
    assert marked(course, "sloppy") == ("", "later")
    assert marked(course, "'=cmd()") == ("", "")
    # Something else is handed in: the mark was for another text.
    item = problem_set(SET)
    path = course / "submitted" / "ada" / SET / f"{SET}.ipynb"
    path.write_text(nbformat.writes(fill(item, reference(item) | {"argue": "Another answer."})))
    done = classroom("grade", str(course))
    assert "12 submissions: 1 to run" in done.stdout
    assert row(course, "ada")["score"] == "26"
    assert marked(course, "ada") == ("", "[3.5 for an earlier submission] A *fine* answer")
    assert contents(course)[SET, "ada"][0] == 26


def of_some(graded: Path, folder: Path, *students: str) -> Path:
    """A copy of a graded class, with the submissions of these students alone."""
    course = shutil.copytree(graded, folder / "course")
    for place in (course / "submitted").iterdir():
        if place.name not in students:
            shutil.rmtree(place)
    return course


@contextlib.contextmanager
def open_book(course: Path) -> Iterator[Gradebook]:
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        yield book
        book.db.commit()


def enter(book: Gradebook, student: str, points: float | None, comment: str | None = None) -> None:
    """What a person does in nbgrader's gradebook to the written part."""
    book.find_grade("argue", SET, SET, student).manual_score = points
    book.find_comment("argue", SET, SET, student).manual_comment = comment


@here
def test_gradebook_entries_reach_tables_and_pages(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada", "sloppy")
    with open_book(course) as book:
        enter(book, "ada", 3.5, "Well put")
        book.find_grade("total-check", SET, SET, "ada").extra_credit = 1.5
        book.grant_extension(SET, "sloppy", days=2)
    assert classroom("grade", str(course)).exit_code == 0
    assert (row(course, "ada")["score"], row(course, "ada")["extra"]) == ("31", "1.5")
    assert row(course, "sloppy")["late"] == ""
    assert marked(course, "ada") == ("3.5", "Well put")
    page = (course / "feedback" / "ada" / "feedback.html").read_text()
    assert "31 of 30 points" in page
    assert "1.5 points of extra credit" in page
    # A second grading changes nothing.
    before = contents(course)
    classroom("grade", str(course))
    assert contents(course) == before
    with open_book(course) as book:
        assert book.find_submission(SET, "sloppy").extension == timedelta(days=2)
        assert book.find_comment("argue", SET, SET, "ada").comment == "Well put"


@here
def test_a_gradebook_that_is_gone_is_made_from_the_table(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada")
    edit_table(course, ada=("3", "Yes"))
    classroom("grade", str(course))
    before = contents(course)
    (course / "gradebook.db").unlink()
    assert "gradebook.db is not there" in classroom("grade", str(course)).stdout
    assert contents(course) == before


DIFFERENT = {
    "ada": (2.0, "3", "3", "", ""),
    "wrong0": (3.0, "2", "3", "", ""),
    "wrong1": (None, "2", "", "", ""),
    "wrong2": (2.0, "", "", "", ""),
    "wrong3": (
        1.0,
        "3",
        "1",
        "[manual.csv had 3 points]",
        "both were changed, gradebook.db to 1 points and manual.csv to 3",
    ),
    "sloppy": (1.0, "", "1", "", "both were changed, gradebook.db to 1 points and manual.csv to no points"),
    "script": (None, "3", "3", "", "3 points in manual.csv counts; gradebook.db had no points"),
    "loop": (3.0, "3", "3", "", ""),
}
"""By student: points in the gradebook, points in the table, then the points and comment that count and what is said."""


@here
def test_import_takes_changed_rows_and_says_what_differs(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    """Both had 2 points when the class was graded last."""
    course = shutil.copytree(graded[0], tmp_path / "course")
    edit_table(course, **dict.fromkeys(DIFFERENT, ("2", "")))
    classroom("grade", str(course))
    with open_book(course) as book:
        for student, (in_book, *_) in DIFFERENT.items():
            enter(book, student, in_book)
    edit_table(course, **{student: (in_table, "") for student, (_, in_table, *_) in DIFFERENT.items()})
    done, again = classroom("grade", str(course)), None
    for _ in range(2):
        in_gradebook = contents(course)
        for student, (_, _, points, comment, says) in DIFFERENT.items():
            said = [line for line in done.stdout.splitlines() if line.startswith(f"{student}, {SET}, argue: ")]
            assert [says in line for line in said] == ([True] if says and not again else []), (student, said)
            assert marked(course, student) == (points, comment), student
            score = (graded[1][student] or 0) + float(points or 0)
            assert row(course, student)["score"] == f"{score:g}", student
            assert in_gradebook[SET, student][0] == score, student
        done = again = classroom("grade", str(course))


@here
def test_import_keeps_marks_whose_rows_are_missing(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada", "sloppy")
    edit_table(course, ada=("3", "Yes"), sloppy=("2", ""))
    classroom("grade", str(course))
    (course / "manual.csv").write_text(",".join(marks.COLUMNS) + "\n")
    assert classroom("grade", str(course)).exit_code == 0
    assert (row(course, "ada")["score"], row(course, "sloppy")["score"]) == ("29", "28")
    assert marked(course, "ada") == ("3", "Yes")
    (course / "manual.csv").unlink()
    classroom("grade", str(course))
    assert (marked(course, "ada"), marked(course, "sloppy")) == (("3", "Yes"), ("2", ""))


@here
def test_import_keeps_a_comment_on_a_part_that_a_program_judges(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada")
    with (course / "manual.csv").open("a") as file:
        file.write(f"ada,{SET},total-check,,4,Elegant,\nada,{SET},model-check,1,5,Not your own,\n")
    for _ in range(3):
        done = classroom("grade", str(course))
        assert "ada, 01-chsh" not in done.stdout
        assert marked(course, "ada", "total-check") == ("", "Elegant")
        assert marked(course, "ada", "model-check") == ("1", "Not your own")
        assert row(course, "ada")["score"] == "22"
        page = (course / "feedback" / "ada" / "feedback.html").read_text()
        assert "Elegant" in page
        assert "Not your own" in page
    with open_book(course) as book:
        assert book.find_comment("total", SET, SET, "ada").manual_comment == "Elegant"
        # The same comment, changed where nbgrader shows it.
        book.find_comment("total", SET, SET, "ada").manual_comment = "Elegant and short"
    classroom("grade", str(course))
    assert marked(course, "ada", "total-check") == ("", "Elegant and short")


@here
def test_import_of_an_emptied_row_clears(graded: tuple[Path, dict[str, float | None], str], tmp_path: Path) -> None:
    course = of_some(graded[0], tmp_path, "ada")
    with (course / "manual.csv").open("a") as file:
        file.write(f"ada,{SET},total-check,1,4,Too long,\n")
    edit_table(course, ada=("3", "Yes"))
    classroom("grade", str(course))
    assert row(course, "ada")["score"] == "26"
    rows = [one | {"points": "", "comment": ""} for one in table(course / "manual.csv")]
    write_rows(course / "manual.csv", rows)
    classroom("grade", str(course))
    assert (row(course, "ada")["score"], row(course, "ada")["to_mark"]) == ("26", "4")
    assert marked(course, "ada") == ("", "")
    assert "total-check" not in (course / "manual.csv").read_text()
    assert "Yes" not in str(contents(course))


@here
def test_import_takes_two_copies_of_the_table_one_after_the_other(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    """Two teachers mark a half each, in copies of one table, and one of them sorts it."""
    course = of_some(graded[0], tmp_path, "ada", "sloppy", "wrong0")
    given = (course / "manual.csv").read_text()
    edit_table(course, ada=("3", "Yes"))
    classroom("grade", str(course))
    (course / "manual.csv").write_text(given)
    edit_table(course, sloppy=("2", ""))
    write_rows(course / "manual.csv", table(course / "manual.csv")[::-1])
    classroom("grade", str(course))
    assert marked(course, "ada") == ("3", "Yes")
    assert marked(course, "sloppy") == ("2", "")
    assert marked(course, "wrong0") == ("", "")


@here
def test_import_keeps_dated_copies_of_what_it_replaces(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada")
    before = contents(course)
    edit_table(course, ada=("3", "Yes"))
    entered = (course / "manual.csv").read_text()
    done = classroom("grade", str(course))
    copies = {path.suffix: path for path in (course / "earlier").iterdir()}
    assert copies.keys() == {".csv", ".db"}
    for path in copies.values():
        assert re.search(r"-20\d\d-\d\d-\d\d-\d{6}-", path.name)
        assert f"earlier/{path.name}" in done.stdout
    assert copies[".csv"].read_text() == entered
    copies[".db"].replace(course / "gradebook.db")
    assert contents(course) == before
    # Where nothing is imported, nothing is copied.
    shutil.rmtree(course / "earlier")
    shutil.copy(course / "manual.csv", tmp_path)
    with open_book(course) as book:
        enter(book, "ada", 3, "Yes")
    classroom("grade", str(course))
    assert not (course / "earlier").exists()


@here
def test_import_before_a_grading_that_is_stopped_is_not_lost(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after another text was run and before the gradebook is written: no mark goes over to that text."""
    course = of_some(graded[0], tmp_path, "ada", "sloppy")
    edit_table(course, ada=("3", "Yes"))
    classroom("grade", str(course))
    item = problem_set(SET)
    path = course / "submitted" / "ada" / SET / f"{SET}.ipynb"
    path.write_text(nbformat.writes(fill(item, reference(item) | {"argue": "Another answer."})))
    edit_table(course, ada=("4", "Yes"), sloppy=("2", ""))

    def stop(*_: Any) -> int:
        raise PressError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(commands, "_write", stop)
        assert classroom("grade", str(course)).exit_code == 1
    classroom("grade", str(course))
    assert marked(course, "ada") == ("", "[4 for an earlier submission] Yes")
    assert marked(course, "sloppy") == ("2", "")
    assert (row(course, "ada")["score"], row(course, "sloppy")["score"]) == ("26", "28")


@here
def test_gradebook_entry_for_earlier_submission_becomes_comment(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada")
    with open_book(course) as book:
        enter(book, "ada", 3)
    item = problem_set(SET)
    path = course / "submitted" / "ada" / SET / f"{SET}.ipynb"
    path.write_text(nbformat.writes(fill(item, reference(item) | {"argue": "Another answer."})))
    classroom("grade", str(course))
    assert marked(course, "ada") == ("", "[3 for an earlier submission]")
    assert row(course, "ada")["score"] == "26"


@here
def test_grade_refuses_impossible_points_in_gradebook(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada")
    with open_book(course) as book:
        enter(book, "ada", 7)
    before = (course / "grades.csv").read_bytes()
    done = classroom("grade", str(course))
    assert done.exit_code == 1
    assert "ada, 01-chsh, argue: 7 is not a number of points from 0 to 4" in done.stderr
    (course / "gradebook.db").write_text("no database")
    done = classroom("grade", str(course))
    assert "gradebook.db cannot be read as nbgrader's gradebook: file is not a database" in done.stderr
    assert (course / "grades.csv").read_bytes() == before


@here
@pytest.mark.filterwarnings("ignore:Object of type <Submitted")
def test_extension_before_submission_counts(graded: tuple[Path, dict[str, float | None], str], tmp_path: Path) -> None:
    """As the page for teachers says: nbgrader keeps it with a submission, which nobody has handed in yet."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "book" / "teaching.md").read_text(), re.DOTALL | re.MULTILINE
    )
    course = of_some(graded[0], tmp_path, "ada")
    exec(code.replace("classes/ml-2027", str(course)).replace("eve", "missing"), {})
    assert classroom("grade", str(course)).exit_code == 0
    assert row(course, "missing")["status"] == "missing"
    item = problem_set(SET)
    hand_in(course, "missing", fill(item, reference(item)), "2027-03-03 17:00:00 UTC")
    classroom("grade", str(course))
    assert (row(course, "missing")["score"], row(course, "missing")["late"]) == ("26", "")


@here
def test_nbgrader_exports_what_the_table_has(graded: tuple[Path, dict[str, float | None], str], tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "nbgrader",
            "export",
            "--db",
            f"sqlite:///{graded[0] / 'gradebook.db'}",
            "--to",
            "all.csv",
        ],
        cwd=tmp_path,
        env=clone_environment(ROOT),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    theirs = {one["student_id"]: float(one["score"]) for one in table(tmp_path / "all.csv") if one["assignment"] == SET}
    ours = {one["student"].removeprefix("'"): float(one["score"] or 0) for one in table(graded[0] / "grades.csv")}
    assert theirs == ours


@here
@pytest.mark.parametrize("separator", [",", ";"])
def test_marks_are_read_as_a_spreadsheet_writes_them(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path, separator: str
) -> None:
    rows = [list(marks.COLUMNS)]
    rows.append(["'=cmd()", SET, "argue", "2.5" if separator == "," else "2,5", "4", "Yes", ""])
    text = "\n".join(separator.join(row) for row in rows)
    (tmp_path / "manual.csv").write_text(f"\ufeff{text}\n")
    read = collection.read_course(graded[0])
    course = collection.Course(tmp_path, read.seed, read.due, read.roster)
    (found,) = marks.read_table(course, {SET: problem_set(SET)})
    assert found == (("=cmd()", SET), "argue", gradebook.Mark(2.5, "Yes"), "", "")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("ada,01-chsh,argue,5,4,,", "line 2: '5' is not a number of points from 0 to 4"),
        ("ada,01-chsh,argue,many,4,,", "line 2: 'many' is not a number of points from 0 to 4"),
        ("ada,01-chsh,argues,1,4,,", "no part 'argues' of '01-chsh'"),
        ("adam,01-chsh,argue,1,4,,", "no student 'adam'"),
    ],
)
@here
def test_a_wrong_mark_is_refused_by_its_line(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path, line: str, complaint: str
) -> None:
    (tmp_path / "manual.csv").write_text(f"student,set,part,points,of,comment,submission\n{line}\n")
    read = collection.read_course(graded[0])
    course = collection.Course(tmp_path, read.seed, read.due, read.roster)
    with pytest.raises(PressError, match=re.escape(complaint)):
        list(marks.read_table(course, {SET: problem_set(SET)}))


@here
def test_changed_hidden_test_is_judged_again_on_regrade(
    graded: tuple[Path, dict[str, float | None], str],
    tmp_path: Path,
    canaried: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The canaries are other words in the hidden tests: judging changes, running does not."""
    monkeypatch.setattr(Project, "find", lambda: canaried)
    course = shutil.copytree(graded[0], tmp_path / "course")
    (loop,) = (one for one in collection.collect(collection.read_course(course), NAMES)[0] if one.student == "loop")
    record = collection.read_result(course / "results" / "loop" / f"{SET}.json")
    assert record
    assert [commands._has_to_run(record, loop, problem_set(SET), regrade) for regrade in (False, True)] == [False, True]
    # Which would take its time.
    shutil.rmtree(course / "submitted" / "loop")
    done = classroom("grade", str(course))
    assert "11 were judged by tests that have changed since" in done.stdout
    before = contents(course)
    done = classroom("grade", str(course), "--regrade")
    # What did not come to its end is run again.
    assert "11 submissions: 1 to run, 10 judged again, 0 up to date" in done.stdout
    assert contents(course) == before
    assert "0 to run, 0 judged again, 11 up to date" in classroom("grade", str(course)).stdout


@here
def test_a_killed_grading_goes_on_and_ends_the_same(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = shutil.copytree(graded[0], tmp_path / "course")
    shutil.rmtree(course / "results")
    for name in ("gradebook.db", "grades.csv", "report.html"):
        (course / name).unlink()
    keep = sorted((course / "submitted").iterdir())[:3]
    for folder in (course / "submitted").iterdir():
        if folder not in keep:
            shutil.rmtree(folder)
    command = [sys.executable, "-m", "ncpress", "class", "grade", str(course), "--jobs", "1"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=clone_environment(ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(course.glob("results/*/*.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(course.glob("results/*/*.json")))
    assert 1 <= finished <= 3
    done = classroom("grade", str(course))
    assert f"3 submissions: {3 - finished} to run, 0 judged again, {finished} up to date" in done.stdout, done.stderr
    whole = contents(graded[0])
    assert contents(course) == {key: whole[key] for key in contents(course)}
    assert len(contents(course)) == 3


def checked(folder: Path, notebook: Any) -> Result:
    path = folder / f"{SET}.ipynb"
    path.write_text(nbformat.writes(notebook))
    return classroom("check", str(path))


@here
def test_check_of_an_untouched_release_says_what_is_open(
    graded: tuple[Path, dict[str, float | None], str],
) -> None:
    """For every set: nothing passes, nothing is called changed or missing, the written part is not answered."""
    for name in NAMES:
        done = classroom("check", str(graded[0] / "release" / name / f"{name}.ipynb"))
        item = problem_set(name)
        hand = [part for part in item.parts if part.by_hand]
        assert done.exit_code == 1
        assert f"0 of {len(item.parts) - len(hand)} parts pass their checks, 1 is marked by hand (1 not" in done.stderr
        assert not re.findall("as it was released|missing|its checks pass", done.stdout)
        assert [f"  {part.title}: not answered yet" in done.stdout.splitlines() for part in hand] == [True]
        assert "not filled in yet" in done.stdout
        cells = sum(cell.cell_type == "code" for cell in item.released.cells)
        assert f"{cells} of {cells}: " in done.stderr
        assert f"2 of {cells}: {first_line(item.released.cells[2].source)}" in done.stderr


@here
def test_check_of_a_solved_set_ends_with_a_summary(tmp_path: Path) -> None:
    item = problem_set(SET)
    notebook = fill(item, reference(item))
    # A seed of one's own, and what editors do to the ends of cells.
    notebook.cells.insert(2, nbformat.v4.new_code_cell("seed = 123"))
    for cell in notebook.cells:
        cell.source += "\n"
    done = checked(tmp_path, notebook)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("its checks pass") == 5
    assert "  Part 6: Read a figure, argue (4 points): is marked by hand\n" in done.stdout
    assert done.stdout.endswith("5 of 5 parts pass their checks, 1 is marked by hand\n")


def without(notebook: Any, name: str) -> None:
    notebook.cells = [cell for cell in notebook.cells if collection.grade_id(cell) != name]


def with_pass(notebook: Any, name: str) -> None:
    next(cell for cell in notebook.cells if collection.grade_id(cell) == name).source = "pass"


def with_an_own_cell(notebook: Any, name: str) -> None:
    at = next(number for number, cell in enumerate(notebook.cells) if collection.grade_id(cell) == name)
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("own = 1\nassert own == 2"))


def with_an_error_at_its_end(notebook: Any, name: str) -> None:
    next(cell for cell in notebook.cells if collection.grade_id(cell) == name).source += "\n1 / 0"


@here
@pytest.mark.parametrize(
    ("spoil", "name", "line", "passed", "others"),
    [
        (without, "model-check", "x Part 3: Pass 2 honestly (5 points): its cell model-check is missing", 4, ""),
        (without, "argue", "x Part 6: Read a figure, argue (4 points): its cell argue is missing", 5, ""),
        (with_pass, "model-check", "x Part 3: Pass 2 honestly (5 points): its check is not as it was", 4, ""),
        (with_an_own_cell, "argue", "`own = 1`: not true: assert own == 2", 5, "1 other cell fails"),
        (with_an_error_at_its_end, "total", "`def total(weights, estimator):`: ZeroDivisionError", 5, "1 other cell"),
    ],
)
def test_check_fails_with_whatever_fails(
    tmp_path: Path, spoil: Callable[[Any, str], None], name: str, line: str, passed: int, others: str
) -> None:
    item = problem_set(SET)
    notebook = fill(item, reference(item))
    spoil(notebook, name)
    done = checked(tmp_path, notebook)
    assert done.exit_code == 1
    assert line in done.stdout
    assert f"{passed} of 5 parts pass their checks, 1 is marked by hand" in done.stderr
    assert others in done.stderr
    assert done.stdout.count("\nx ") + done.stdout.startswith("x ") == 1


def test_windows_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGALRM")
    (tmp_path / "a.ipynb").write_text("")
    for command, place in (("check", tmp_path / "a.ipynb"), ("grade", tmp_path)):
        done = classroom(command, str(place))
        assert done.exit_code == 1
        assert done.stderr == "Error: this runs on Linux and macOS; on Windows use it in WSL (https://aka.ms/wsl)\n"


@pytest.mark.parametrize("command", ["release", "check", "grade"])
def test_help_has_an_example(command: str) -> None:
    done = classroom(command, "--help")
    assert done.exit_code == 0
    assert f"Example: ncutil class {command}" in done.stdout


@here
def test_progress_is_a_bar_on_a_terminal(tmp_path: Path) -> None:
    item = problem_set(SET)
    path = tmp_path / f"{SET}.ipynb"
    path.write_text(nbformat.writes(fill(item, reference(item))))
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "ncpress", "class", "check", str(path)],
        cwd=ROOT,
        env=clone_environment(ROOT) | {"TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=writer,
    )
    os.close(writer)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the last writer is
        while part := os.read(reader, 4096):
            shown += part
    assert process.wait() == 0
    cells = sum(cell.cell_type == "code" for cell in item.released.cells)
    assert re.search(rf"100%.*{cells}/{cells}".encode(), shown)


def a_text(words: str) -> Any:
    return nbformat.v4.new_markdown_cell(words)


def at(notebook: Any, name: str) -> int:
    return next(number for number, cell in enumerate(notebook.cells) if collection.grade_id(cell) == name)


def split(notebook: Any) -> None:
    here = at(notebook, "argue")
    notebook.cells[here : here + 1] = [copy.deepcopy(notebook.cells[here]) for _ in range(2)]
    for cell, words in zip(notebook.cells[here:], ("(a) One.", "(b) Two."), strict=False):
        cell.source = words


def below_the_stub(notebook: Any) -> None:
    notebook.cells[at(notebook, "argue") + 1 :] = [a_text("(a) One."), a_text("(b) Two.")]


def typed_anew(notebook: Any) -> None:
    notebook.cells[at(notebook, "argue")] = a_text("(a) One.\n\n(b) Two.")


def before_the_figure(notebook: Any) -> None:
    heading = next(n for n, cell in enumerate(notebook.cells) if "## Part 6" in cell.source)
    notebook.cells.insert(heading + 1, a_text("(a) One.\n\n(b) Two."))


def as_raw_text(notebook: Any) -> None:
    notebook.cells[at(notebook, "argue")].update(cell_type="raw", source="(a) One.\n\n(b) Two.")


def in_an_earlier_part(notebook: Any) -> None:
    notebook.cells.insert(at(notebook, "verdict-check") + 1, a_text("A note of mine."))


def not_at_all(notebook: Any) -> None:
    notebook.cells[at(notebook, "argue")].source += "\n\n"


def deleted(notebook: Any) -> None:
    del notebook.cells[at(notebook, "argue")]


@here
@pytest.mark.parametrize(
    ("write", "answered"),
    [
        *((write, True) for write in (split, below_the_stub, typed_anew, before_the_figure, as_raw_text)),
        *((write, False) for write in (in_an_earlier_part, not_at_all, deleted)),
    ],
)
def test_written_answer_is_read_anywhere_in_its_part(
    tmp_path: Path, write: Callable[[Any], None], answered: bool
) -> None:
    """And a student is told the same as what grading does."""
    item = problem_set(SET)
    notebook = fill(item, {})
    write(notebook)
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps(notebook))
    read = submissions.read_notebook(path)
    _, texts = collection.make_task(item, read)
    judged = grading.judge(item, {"answers": "{}", "texts": texts})["argue"]
    assert judged["score"] == (None if answered else 0)
    assert texts["argue"] == ("(a) One.\n\n(b) Two." if answered else "")
    (found,) = (finding for finding in checking.review(read, {}) if finding.by_hand)
    assert found.answered == answered
    assert found.bad == (write is deleted)
    assert ("is marked by hand" in found.says) == answered


@here
def test_missing_cells_and_another_class_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(collection, "run_task", lambda *_: {"status": "done", "seconds": 0, "answers": "{}"})
    item = problem_set(SET)

    def note(spoil: Callable[[Any], None]) -> str:
        notebook = fill(item, {})
        spoil(notebook)
        path = tmp_path / f"{SET}.ipynb"
        path.write_text(json.dumps(notebook))
        submission = submissions.Submission("ada", SET, path, None, "")
        return str(collection.run_submission(item, submission, "", collection.LIMITS)["note"])

    assert note(lambda notebook: None) == ""
    assert note(lambda notebook: without(notebook, "total")) == "released cells are missing from the notebook: total"
    assert "does not say which class" in note(lambda notebook: notebook.metadata.pop("ncutil"))
    assert "released for another class" in note(lambda notebook: notebook.metadata.ncutil.update(seed=1))


@here
def test_check_finds_solution_in_given_cell(tmp_path: Path) -> None:
    """Grading runs the released cell, so that what was merged into it is lost."""
    item = problem_set(SET)
    notebook = fill(item, reference(item))
    solution = notebook.cells.pop(at(notebook, "visibility"))
    given = next(cell for cell in notebook.cells if cell.source.startswith("rng = np.random.default_rng([seed, 4])"))
    given.source += f"\n{solution.source}"
    done = checked(tmp_path, notebook)
    assert done.exit_code == 1
    assert "is not as it was released; grading runs the released one" in done.stdout
    assert "the cell visibility is missing" in done.stdout
    assert "5 of 5 parts pass their checks, 1 is marked by hand, 1 other cell fails" in done.stderr


@here
def test_second_notebook_is_reported_and_not_opened(
    graded: tuple[Path, dict[str, float | None], str], tmp_path: Path
) -> None:
    course = of_some(graded[0], tmp_path, "ada")
    (course / "submitted" / "ada" / SET / "01-chsh-final.ipynb").write_text("no notebook")
    done = classroom("grade", str(course))
    assert done.exit_code == 1
    said = "of several notebooks the one called 01-chsh.ipynb counts; '01-chsh-final.ipynb' was not opened"
    assert f"ada, {SET}: {said}" in done.stdout
    assert "1 not recognised" in done.stderr
    assert row(course, "ada")["note"] == said
    assert row(course, "ada")["score"] == "26"
    assert said in html.unescape((course / "feedback" / "ada" / "feedback.html").read_text())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: -1", "expected 'seed: ' and a whole number from 0 to 2147483647, not -1"),
        ("seed: true", "a whole number from 0 to 2147483647, not True"),
        ("seed: ten", "a whole number from 0 to 2147483647, not 'ten'"),
        ("due: {}", "a whole number from 0 to 2147483647"),
        ("seed: 1\ndue: 2027-03-01 18:00", "expected below 'due:' a line for each set, such as '  01-chsh: 2027-03-01"),
        ("seed: 1\ndue:\n  - 01-chsh: 2027-03-01 18:00", "expected below 'due:' a line for each set"),
        ("seed: 1\ndue:\n  01-chsh: soon", "course.yml: 'soon' is not a date and time"),
    ],
)
def test_a_wrong_course_file_is_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "course.yml").write_text(text)
    with pytest.raises(PressError, match=re.escape(complaint)) as refused:
        collection.read_course(tmp_path)
    assert "\n" not in str(refused.value)


def test_student_names_are_unicode_normalized(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD"))
    (tmp_path / "course.yml").write_text("seed: 1\n")
    (tmp_path / "students.csv").write_text(f"student,name\n{composed},Zoë\n")
    head = "student,set,part,points,of,comment,submission"
    (tmp_path / "manual.csv").write_text(f"{head}\n{apart},{SET},argue,2,4,,\n")
    (tmp_path / "submitted" / apart / SET).mkdir(parents=True)
    course = collection.read_course(tmp_path)
    assert course.roster == {composed: "Zoë"}
    (found,), strays = collection.collect(course, NAMES)
    assert (found.student, strays) == (composed, {})
    assert [who for who, *_ in marks.read_table(course, {SET: problem_set(SET)})] == [(composed, SET)]
    (tmp_path / "submitted" / composed).mkdir()
    assert "two folders have this name" in collection.collect(course, NAMES)[1][composed][0]


@here
def test_unusable_folders_give_one_line_errors(tmp_path: Path) -> None:
    done = classroom("grade", str(tmp_path))
    assert done.exit_code == 1
    assert "is no course folder (no course.yml)" in done.stderr
    (tmp_path / "course.yml").write_text("seed: 5\n")
    (tmp_path / "submitted" / "ada" / "01-chess").mkdir(parents=True)
    done = classroom("grade", str(tmp_path))
    assert done.exit_code == 1
    assert "'01-chess' is no problem set; expected 01-chsh" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    done = classroom("release", str(tmp_path), "--seed", "6")
    assert done.exit_code == 1
    assert "this class has seed 5, not 6" in done.stderr
    (tmp_path / "notes.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook()))
    done = classroom("check", str(tmp_path / "notes.ipynb"))
    assert "is not a problem set" in done.stderr


def unpacked(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, wheels taken apart."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    found |= {f"{path}/{name}": archive.read(name) for name in archive.namelist()}
    return found


IMPORT = "from ncclass.answers import answer, call"
"""Stands in every hidden test, and on the page about writing them."""


@functools.cache
def forbidden() -> list[bytes]:
    """The canary, and lines of solutions and hidden tests that stand nowhere where they may."""
    chapters = [cell.source for chapter in PROJECT.chapters.values() for cell in chapter.notebook.cells]
    released = [cell.source for name in NAMES for cell in problem_set(name).released.cells]
    package = [path.read_text() for path in (ROOT / "ncutil").rglob("*.py")]
    public = "\n".join([*chapters, *released, *package])
    lines = {line for name in NAMES for line in secrets(problem_set(name).source) if len(line) >= 30}
    lines = {line for line in lines if line not in public} - {IMPORT}
    assert len(lines) > 20 * len(NAMES)
    return [CANARY.encode(), *(form.encode() for line in lines for form in {line, json.dumps(line)[1:-1]})]


@here
def test_no_release_holds_a_solution_or_a_hidden_test(
    canaried: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Project, "find", lambda: canaried)
    done = classroom("release", str(tmp_path / "course"), "--seed", str(SEED))
    assert done.exit_code == 0, done.stderr
    files = unpacked(tmp_path / "course")
    assert len([path for path in files if path.endswith(".ipynb")]) == len(NAMES)
    for path, content in files.items():
        for text in forbidden():
            assert text not in content, (path, text)
    environment = yaml.safe_load((tmp_path / "course" / "release" / "environment.yml").read_text())
    ours, press = sorted(path.name for path in (tmp_path / "course" / "release").glob("*.whl"))[::-1]
    assert (ours.partition("-")[0], press.partition("-")[0]) == ("ncutil", "ncpress")
    assert environment["dependencies"][-1]["pip"] == ["-c constraints.txt", f"./{ours}", f"./{press}[classroom]"]
    told = (tmp_path / "course" / "release" / "README.md").read_text()
    (small_build,) = re.findall(r"^export PIP_\S+$", (ROOT / "README.md").read_text(), re.MULTILINE)
    install = f'pip install -c constraints.txt "./{ours}" "./{press}[classroom]"\n'
    for words in (install, small_build, "`.venv/bin/ncutil`", "WSL", "open `index.html`"):
        assert words in told
    assert f"within {collection.LIMITS.wall // 60} minutes" in told


def test_wheels_of_the_kit_divide_notebooks_and_command(tmp_path: Path) -> None:
    found: dict[str, tuple[set[str], str, str]] = {}
    for source in (ROOT, ROOT / "ncpress"):
        with zipfile.ZipFile(tmp_path / build_wheel(source, tmp_path)) as wheel:
            names = wheel.namelist()
            packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
            (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
            points = [wheel.read(name).decode() for name in names if name.endswith(".dist-info/entry_points.txt")]
            found[source.name if source != ROOT else "ncutil"] = (
                packages,
                wheel.read(metadata).decode(),
                "".join(points),
            )
            assert not [name for name in names if "assignments/" in name or "__pycache__" in name]
            if source != ROOT:
                assert {"ncclass/runner.py", "ncclass/sandbox/isolation.py", "ncclass/feedback.html.j2"} <= {*names}
    (packages, metadata, points), (others, needs, commands) = found["ncutil"], found["ncpress"]
    assert (packages, points) == ({"ncutil"}, "")
    assert not re.findall("Requires-Dist: (?:ncpress|nbgrader|click)", metadata)
    assert others == {"ncpress", "ncclass"}
    assert re.findall(r"^Requires-Dist: ncutil\[words\]$", needs, re.MULTILINE)
    assert re.findall("^Requires-Dist: nbgrader.*extra == 'classroom'$", needs, re.MULTILINE)
    assert "ncutil = ncpress.__main__:main" in commands
    assert "class = ncclass.commands:classroom" in commands


@pytest.mark.xdist_group("book")
def test_the_site_holds_no_solution_and_no_hidden_test(book: Path) -> None:
    sources = [path.read_text() for path in (book / "notebooks" / "assignments").glob("*.md")]
    assert sum(text.count(CANARY) for text in sources) >= 9 * len(NAMES)
    files = unpacked(book / "_build" / "html")
    assert any(path.endswith("searchindex.js") for path in files)
    assert any("_sources" in path for path in files)
    assert any("downloads" in path for path in files)
    for path, content in files.items():
        for text in forbidden():
            assert text not in content, (path, text)


@here
def test_sources_of_problem_sets_are_not_in_the_contents() -> None:
    assert not [page for page in PROJECT.pages if "assignments" in page]


def teaching(kind: str) -> list[str]:
    """The commands that the page for teachers shows."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "book" / "teaching.md").read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith(kind)]


@here
def test_a_term_goes_as_the_page_for_teachers_says(tmp_path: Path) -> None:
    """Every command of the page, in its order, with what it says happens between them."""
    lines = teaching("ncutil")
    assert [line.split()[2] for line in lines] == ["release", "check", "grade", "grade", "grade"]
    course = tmp_path / "classes" / "ml-2027"

    def run(line: str) -> Result:
        return classroom(*line.replace("classes/ml-2027", str(course)).split()[2:])

    done = run(lines[0])
    assert done.exit_code == 0
    for number, name in enumerate(NAMES, 1):
        for words in (f"the instructor's version, with seed {SEED}", "the pictures in its hints"):
            assert f"{number} of {len(NAMES)}: {name}, {words}" in done.stderr
    assert f"seed: {SEED}" in (course / "course.yml").read_text()
    assert {path.name for path in (course / "release").iterdir()} >= {*NAMES, "README.md", "environment.yml"}
    assert run(lines[1]).exit_code == 1
    item = problem_set(SET)
    hand_in(course, "eve", fill(item, reference(item)), "2027-03-01 17:58:00 UTC")
    done = run(lines[2])
    assert done.exit_code == 0, done.output
    for name in ("report.html", "grades.csv", "feedback/eve/feedback.html", "manual.csv", "gradebook.db"):
        assert (course / name).is_file()
        assert f"`{name.replace('eve', '<student>')}`" in (ROOT / "book" / "teaching.md").read_text()
    report = (course / "report.html").read_text()
    assert report.count("1 not marked yet") == 1
    assert report.count("data:image/png;base64,") == sum(not part.by_hand for part in item.parts) + 1
    given = (course / "manual.csv").read_text()
    (course / "manual.csv").write_text(given.replace('"argue","","4",""', '"argue","3","4","Well argued"'))
    assert "0 parts to mark" in run(lines[3]).stdout
    assert row(course, "eve")["score"] == "29"
    assert "1 up to date" in run(lines[4]).stdout


@here
def test_every_problem_set_is_described_without_its_solutions() -> None:
    table = overview(PROJECT)
    for name in NAMES:
        item = problem_set(name)
        assert f"| {name} | {item.title.partition(': ')[2]} |" in table
        assert f"| {item.points:g} | {item.minutes} min |" in table
    for text in forbidden():
        assert text not in table.encode()
