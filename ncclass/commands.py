"""The command line of the classroom: `ncutil class release`, `check`, `grade`."""

import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from ncpress.execution import ONE_THREAD
from ncpress.project import PressError, Project
from ncutil.ground.files import cores, lock

if TYPE_CHECKING:
    from ncclass.collection import Course, Record
    from ncclass.gradebook import ByHand, Grade
    from ncclass.problem_sets import ProblemSet
    from ncclass.submissions import Submission

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("class")
def classroom() -> None:
    """Release problem sets, check one's own work, grade a class."""
    if importlib.util.find_spec("nbgrader") is None:
        raise PressError(
            "the classroom needs nbgrader: pip install 'ncpress[classroom]', in a clone -e './ncpress[classroom]'"
        )
    # Before anything is imported: one thread each, and no window. nbgrader calls a program that lies beside Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"), MPLBACKEND="Agg", PATH=path)


@classroom.command(epilog="Example: ncutil class release ../ml-2027 --seed 2027")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of the class's numbers; drawn once if not given.")
def release(folder: Path, seed: int | None) -> None:
    """Write the students' version of every problem set into DIR/release.

    DIR is the folder of one class; it keeps the class's seed in course.yml. Releasing again renews what is there.
    """
    from ncclass import problem_sets, student_kit
    from ncpress import assignments

    project = Project.find()
    seed = student_kit.course_seed(folder, seed, assignments.names(project))
    sets = _read_sets(project, assignments.names(project), seed)
    drawn = {}
    with _progress(len(sets), "set") as step:
        for item in sets:
            drawn[item.name] = problem_sets.pictures(project, item.name)
            step(f"{item.name}, the pictures in its hints")
    student_kit.write(project, folder / "release", sets, drawn)
    for item in sets:
        hand = sum(part.by_hand for part in item.parts)
        click.echo(f"{item.name}: {len(item.parts)} parts ({hand} by hand), {item.points:g} points")
    click.echo(f"released with seed {seed}: {folder / 'release'}")


@classroom.command(epilog="Example: ncutil class check 01-chsh.ipynb")
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(notebook: Path) -> None:
    """Run NOTEBOOK from top to bottom and say which parts pass their own checks.

    Exit status 1 if a check or any other cell fails, or if a check was deleted or changed. Grading asks for more than
    these checks do.
    """
    _refuse_windows()
    from ncclass import checking, collection, submissions

    try:
        read = submissions.read_notebook(notebook)
    except ValueError as error:
        raise PressError(f"{notebook}: {error}") from None
    task = checking.make_task(read, collection.CELL_SECONDS)
    with _progress(len(task["cells"]), "cell") as step:
        answers = checking.run(task, notebook.resolve().parent, step)
    findings = checking.review(read, answers)
    if not any(finding.part for finding in findings):
        raise PressError(f"{notebook} is not a problem set: no cell of it is graded")
    for finding in findings:
        passed = finding.part and not finding.by_hand
        says = submissions.printable(finding.says)
        click.echo(f"{'x' if finding.bad else '+' if passed else ' '} {says}")
    if any(finding.bad for finding in findings):
        raise PressError(checking.summary(findings))
    click.echo(checking.summary(findings))


def _refuse_windows() -> None:
    """Notebooks are stopped by an alarm that Windows does not have."""
    if not hasattr(signal, "SIGALRM"):
        raise PressError("this runs on Linux and macOS; on Windows use it in WSL (https://aka.ms/wsl)")


@contextmanager
def _progress(total: int, unit: str) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, elsewhere a line for each step; the step is told what was done."""
    with tqdm(total=total, unit=unit, disable=None) as bar:
        done = itertools.count(1)

        def step(words: str) -> None:
            number = next(done)
            bar.update()
            if bar.disable:
                click.echo(f"{number} of {total}: {words}", err=True)

        yield step


@classroom.command(epilog="Example: ncutil class grade ../ml-2027 --jobs 2")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--jobs", type=click.IntRange(min=1), default=cores, show_default="cores", help="Submissions at once.")
@click.option(
    "--regrade",
    is_flag=True,
    help="Judge mended sets again; run again what is asked anew or was stopped.",
)
@click.option("--unsafe-no-sandbox", is_flag=True, help="Run submissions as if they were your own programs.")
def grade(folder: Path, jobs: int, regrade: bool, unsafe_no_sandbox: bool) -> None:
    """Run and judge what is in DIR/submitted/<student>/<set>/, and write the grades.

    Goes on where it was stopped. Writes gradebook.db, grades.csv, manual.csv (enter points of parts marked by hand
    there, then grade again), feedback/ and report.html. Exit status 1 if a submission could not be run to its end, if
    a cell of it was stopped because it took too long, or if a notebook or anything else was not opened.
    """
    _refuse_windows()
    from ncclass import collection, gradebook, marks
    from ncclass.submissions import printable
    from ncpress import assignments

    project = Project.find()
    course = collection.read_course(folder)
    known = assignments.names(project)
    with _only_one(folder):
        submissions, strays = collection.collect(course, known)
        used = {submission.name for submission in submissions} | (course.due.keys() & set(known))
        if unknown := course.due.keys() - set(known):
            raise PressError(f"course.yml: no problem set {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        sets = {item.name: item for item in _read_sets(project, sorted(used), course.seed)}
        by_hand, lines = marks.import_table(course, sets, submissions)
        for line in lines:
            click.secho(printable(line), fg="yellow")
        records = _bring_up_to_date(course, sets, submissions, jobs, regrade, unsafe_no_sandbox)
        # While submissions ran, somebody may have entered something in the gradebook.
        for who, now in gradebook.read(course, sets).items():
            own = by_hand.setdefault(who, now)
            own.marks, own.extra, own.extension = own.marks | now.marks, now.extra, now.extension
        grades = _grades(course, sets, submissions, records, by_hand)
        waiting = _write(course, list(sets.values()), grades, strays)
    _summary(course, grades, waiting, strays)


def _grades(
    course: "Course",
    sets: "dict[str, ProblemSet]",
    submissions: "list[Submission]",
    records: "dict[tuple[str, str], Record]",
    by_hand: "dict[tuple[str, str], ByHand]",
) -> "list[Grade]":
    """What there is to say of every student and set."""
    from ncclass.gradebook import ByHand, Grade

    came = {(one.student, one.name): one for one in submissions}
    grades = []
    for who in itertools.product(course.roster, sets):
        student, name = who
        submission = came.get(who)
        grade = Grade(
            student=student,
            name=course.roster[student],
            problem_set=sets[name],
            record=records.get(who),
            handed_in=submission.handed_in if submission else None,
            due=course.due.get(name),
            by_hand=by_hand.get(who, ByHand()),
            beside=submission.beside if submission else "",
        )
        grades.append(grade)
    return grades


def _read_sets(project: Project, names: Sequence[str], seed: int) -> "list[ProblemSet]":
    from ncclass.problem_sets import read_set

    found = []
    with _progress(len(names), "set") as step:
        for name in names:
            found.append(read_set(project, name, seed))
            step(f"{name}, the instructor's version, with seed {seed}")
    return found


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with ExitStack() as held:
        try:
            # A program that a killed command was just starting holds the lock until it has begun.
            held.enter_context(lock(folder / ".lock", wait=2))
        except TimeoutError:
            raise PressError(f"another command is grading {folder}") from None
        yield


def _bring_up_to_date(
    course: "Course",
    sets: "dict[str, ProblemSet]",
    submissions: "list[Submission]",
    jobs: int,
    regrade: bool,
    unsafe: bool,
) -> "dict[tuple[str, str], Record]":
    """Run what has to be run, judge what has to be judged; every record is kept as soon as it is there."""
    from ncclass import collection, grading
    from ncclass.sandbox import isolation

    records: dict[tuple[str, str], Record] = {}
    waiting, judged, outdated = [], 0, 0
    other_parts: set[str] = set()

    def judge_and_keep(one: "Submission", outcome: "Callable[[], Record]") -> None:
        """Judge a submission and keep its record; an error here concerns this submission alone."""
        item = sets[one.name]
        try:
            record = outcome()
            record |= {
                "judge_key": item.judge_key,
                "judged": grading.judge(item, record),
                "remark": grading.remark(item, record),
                "timed_out": grading.timed_out(item, record),
            }
            collection.write_result(course, record)
        except Exception as error:
            # Not kept: the next grading tries it again.
            record = collection.failed_record(item, one, error)
            judged = grading.judge(item, record)
            record |= {"judge_key": item.judge_key, "judged": judged, "remark": "", "timed_out": []}
        records[one.student, one.name] = record

    for submission in submissions:
        item = sets[submission.name]
        record = collection.read_result(course.result(submission.student, submission.name))
        if record is None or _has_to_run(record, submission, item, regrade):
            waiting.append(submission)
        elif record["judge_key"] == item.judge_key:
            records[submission.student, submission.name] = record
        elif regrade:
            judge_and_keep(submission, partial(dict, record))
            judged += 1
        elif record["judged"].keys() != {part.id for part in item.parts}:
            other_parts.add(item.name)
        else:
            records[submission.student, submission.name] = record
            outdated += 1
    if other_parts:
        raise PressError(
            f"{', '.join(sorted(other_parts))}: parts were added, renamed or taken away since submissions were graded; "
            "--regrade runs and judges those again"
        )
    kept = len(records) - judged
    click.echo(f"{len(submissions)} submissions: {len(waiting)} to run, {judged} judged again, {kept} up to date")
    if outdated:
        click.secho(
            f"{outdated} were judged by tests that have changed since; --regrade judges them again", fg="yellow"
        )
    if not waiting:
        return records
    try:
        tool = isolation.NONE
        if not unsafe:
            private = (course.folder, Path(os.path.expanduser("~")), *collection.PRIVATE)
            isolation.keep_private(private, collection.PACKAGES)
            tool = isolation.find_sandbox()
    except isolation.NoSandboxError as error:
        raise PressError(
            "a submission is a program that nobody has checked, and it must not reach the other submissions, the "
            f"solutions or your files. {error}. If you trust every submission as your own program, say so with "
            "--unsafe-no-sandbox"
        ) from None
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {
            pool.submit(collection.run_submission, sets[one.name], one, tool, collection.LIMITS): one for one in waiting
        }
        with _progress(len(waiting), "submission") as step:
            for future in as_completed(futures):
                one = futures[future]
                judge_and_keep(one, future.result)
                step(f"{one.student}, {one.name}")
    except KeyboardInterrupt:
        click.echo("\ninterrupted; what was graded is kept", err=True)
        os._exit(130)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return records


def _has_to_run(record: "Record", submission: "Submission", item: "ProblemSet", regrade: bool) -> bool:
    """Whether something else was handed in; under --regrade also whether it is asked something else, or was stopped."""
    from ncclass import collection

    if record["submission"] != collection.fingerprint(submission):
        return True
    stopped = record["status"] not in ("done", "not run") or record.get("timed_out")
    return regrade and bool(record["run_key"] != item.run_key or stopped)


def _write(course: "Course", sets: "list[ProblemSet]", grades: "list[Grade]", strays: dict[str, list[str]]) -> int:
    """Write everything that a teacher and the students read; returns how many parts wait for a mark."""
    from ncclass import gradebook, marks, reports

    for line in gradebook.write_gradebook(course, sets, grades):
        click.secho(line, fg="yellow")
    gradebook.write_grades(course, grades)
    for student in course.roster:
        own = [grade for grade in grades if grade.student == student]
        reports.write_feedback(course, student, own, strays.get(student, []))
    reports.write_report(course, sets, grades, strays)
    return marks.write_marks(course, grades)


def _summary(course: "Course", grades: "list[Grade]", waiting: int, strays: dict[str, list[str]]) -> None:
    from ncclass.submissions import printable

    present = [grade for grade in grades if grade.record]
    stopped = [grade for grade in present if grade.status.startswith("stopped")]
    not_run = [grade for grade in present if grade.status == "not run"]
    timeouts = [grade for grade in present if grade.timeouts]
    late = sum(grade.late not in ("", "unknown") for grade in present)
    click.echo(
        f"{len(present)} handed in, {len(grades) - len(present)} missing, {late} late, {waiting} parts to mark by hand"
    )
    click.echo(f"wrote gradebook.db, grades.csv, manual.csv, feedback/, report.html in {course.folder}")
    if course.unlisted:
        click.secho(printable(f"graded, and not in students.csv: {', '.join(course.unlisted)}"), fg="yellow")
    for grade in [*stopped, *not_run]:
        note = f": {grade.note}" if grade.note else ""
        click.secho(printable(f"{grade.student}, {grade.problem_set.name}: {grade.status}{note}"), fg="yellow")
    for grade in timeouts:
        click.secho(f"{grade.student}, {grade.problem_set.name}: out of time in {grade.timeouts}", fg="yellow")
    beside = [grade for grade in present if grade.beside]
    for grade in beside:
        if grade not in [*stopped, *not_run]:
            click.secho(printable(f"{grade.student}, {grade.problem_set.name}: {grade.beside}"), fg="yellow")
    for student, lines in strays.items():
        for line in lines:
            click.secho(printable(f"{student}: {line}"), fg="yellow")
    if stopped or not_run or timeouts or beside or strays:
        lost = sum(map(len, strays.values())) + len(beside)
        raise PressError(
            f"{len(stopped)} stopped before their end, {len(not_run)} could not be run, {lost} not recognised, "
            f"{len(timeouts)} with a cell that took too long: see report.html"
        )
