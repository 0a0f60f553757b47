"""A problem set: one text source with solutions, the students' version made from it, and what the reference answers.

The source is a MyST notebook in `notebooks/assignments/`. nbgrader's metadata rides in its cells, in short: a code cell
with `solution: true` is for the student to fill in, one with `points` tests it, a text cell with both is graded by
hand, and everything else is given and locked. The form is described in `book/teaching-sets.md`.
"""

import contextlib
import copy
import io
import re
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from ncclass.answers import Ask, encode
from ncpress.assignments import headings
from ncpress.execution import key
from ncpress.project import Chapter, PressError, Project, read_chapter
from ncutil.ground.files import digest, write_json

REGIONS = {"solution": ("BEGIN SOLUTION", "END SOLUTION"), "hidden": ("BEGIN HIDDEN TESTS", "END HIDDEN TESTS")}
"""nbgrader's marks around what a student must not see."""

PICTURES = 2**31 + 4
"""The seed of the pictures in hints, beyond those of classes: a picture of a class's own numbers would show answers."""

SHORT = 12
"""Lines of a solution with fewer characters, such as `x = 1`, may also stand where no solution is."""


@dataclass(frozen=True)
class Part:
    """A graded part: `id` is the name of its graded cell; what is not asked of the process is graded by hand."""

    id: str
    title: str
    points: float
    asks: tuple[Ask, ...]

    @property
    def by_hand(self) -> bool:
        return not self.asks


@dataclass(frozen=True)
class ProblemSet:
    """A problem set with the numbers of one class.

    source : with solutions, hidden tests and complete nbgrader metadata
    released : the students' version
    files : data of the class, which the instructor's version wrote, by name
    run_key, judge_key : change where submissions have to be run again, or only judged again
    """

    chapter: Chapter
    seed: int
    source: NotebookNode
    released: NotebookNode
    parts: tuple[Part, ...]
    files: dict[str, bytes]
    run_key: str
    judge_key: str

    @property
    def name(self) -> str:
        return self.chapter.name

    @property
    def title(self) -> str:
        return next(headings(self.source))[1]

    @property
    def points(self) -> float:
        return sum(part.points for part in self.parts)

    @property
    def minutes(self) -> int:
        """Expected time, from the front matter (`ncutil: {minutes: 120}`)."""
        return int(self.chapter.notebook.metadata.get("ncutil", {}).get("minutes", 0))


def read_set(project: Project, name: str, seed: int) -> ProblemSet:
    """A problem set with the numbers of a class; runs the instructor's version once for what it answers."""
    chapter = read_chapter(project.notebooks / "assignments" / f"{name}.md")
    source = chapter.with_parameters({"seed": seed})
    for cell in source.cells:
        _complete(cell)
    _number_duplicates(source)
    asks, written = _run(name, source)
    files = {file: content for file, content in written.items() if not _is_picture(file)}
    parts = tuple(_parts(name, source, asks))
    released = release(name, seed, source, parts)
    depends = key(project, chapter, {"seed": seed}, ("ncutil", "ncclass"))
    data = [file + digest(content) for file, content in files.items()]
    shared = [str(depends[part]) for part in ("modules", "pins")] + data
    inputs = [str((part.id, [(ask.name, encode(ask.inputs)) for ask in part.asks])) for part in parts]
    return ProblemSet(
        chapter=chapter,
        seed=seed,
        source=source,
        released=released,
        parts=parts,
        files=files,
        run_key=digest(*shared, *_contents(released), *inputs),
        judge_key=digest(*shared, str(seed), *_contents(source)),
    )


GIVEN = "given-"
"""What names of given cells begin with."""


def pictures(project: Project, name: str) -> dict[str, bytes]:
    """The pictures in the hints of a set, by name of the file: drawn with the numbers of no class."""
    chapter = read_chapter(project.notebooks / "assignments" / f"{name}.md")
    source = chapter.with_parameters({"seed": PICTURES})
    for cell in source.cells:
        _complete(cell)
    _, written = _run(name, source)
    return {file: content for file, content in written.items() if _is_picture(file)}


def _is_picture(file: str) -> bool:
    return file.endswith(".png")


def _complete(cell: NotebookNode) -> None:
    """Fill in the nbgrader metadata that follows from what an author writes.

    A given cell is named by its content: a number would name another cell once a cell before it is added.
    """
    given = cell.metadata.get("nbgrader")
    if given is None:
        if cell.cell_type != "code":
            return
        given = {"grade_id": f"{GIVEN}{digest(cell.source)[:8]}"}
    solution = bool(given.get("solution", False))
    cell.metadata["nbgrader"] = NotebookNode(
        {
            "schema_version": 3,
            "task": False,
            "grade": "points" in given,
            "solution": solution,
            "locked": not solution,
            "cell_type": cell.cell_type,
            **given,
        }
    )


def _number_duplicates(source: NotebookNode) -> None:
    """Two given cells with the same content get different names."""
    seen = Counter[str]()
    for cell in source.cells:
        if role(cell) == "given":
            name = cell.metadata.nbgrader.grade_id
            seen[name] += 1
            if seen[name] > 1:
                cell.metadata.nbgrader.grade_id = f"{name}-{seen[name]}"


def role(cell: NotebookNode) -> str:
    """What a cell is: "text", "given", "solution", "tests" or "by hand"."""
    grading = cell.metadata.get("nbgrader")
    if grading is None:
        return "text"
    if grading["grade"]:
        return "by hand" if grading["solution"] else "tests"
    return "solution" if grading["solution"] else "given"


def _contents(notebook: NotebookNode) -> list[str]:
    """Names and sources of the cells that are run or graded; texts are neither."""
    cells = [cell for cell in notebook.cells if role(cell) != "text"]
    return [str((cell.metadata.nbgrader.grade_id, cell.source)) for cell in cells]


def first_line(source: str) -> str:
    """The first line of a cell, which tells its reader which one is meant."""
    return (source.strip().splitlines() or ["nothing"])[0]


def _is_private(cell: NotebookNode) -> bool:
    """Whether a cell stays with the instructor: it draws the data of a class."""
    return "instructor" in cell.metadata.get("tags", [])


def rubric(source: NotebookNode, part: str) -> list[tuple[str, str]]:
    """What a part that is read by a person gives points for: rows of the table `| points | for |` in its text."""
    rows: list[tuple[str, str]] = []
    for cell in source.cells:
        if role(cell) == "text":
            rows = re.findall(r"^\| (\d+) \| (.+) \|$", cell.source, re.MULTILINE) or rows
        elif cell.metadata.nbgrader.grade_id == part:
            break
    return rows


def _run(name: str, source: NotebookNode) -> tuple[dict[str, list[Ask]], dict[str, bytes]]:
    """Execute the instructor's version in a folder of its own; returns what is asked, by part, and what it wrote."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        asks = _run_cells(name, source)
        return asks, {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _run_cells(name: str, source: NotebookNode) -> dict[str, list[Ask]]:
    import matplotlib.pyplot as plt

    space: dict[str, Any] = {"__name__": "__main__"}
    asks: dict[str, list[Ask]] = {}
    plt.switch_backend("Agg")
    for cell in source.cells:
        if cell.cell_type != "code":
            continue
        part = cell.metadata.nbgrader.grade_id
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(cell.source, f"{name}, cell {part}", "exec"), space)
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            raise PressError(
                f"{name}: the instructor's version fails in {part}, line {line}: {type(error).__name__}: {error}"
            ) from error
        if role(cell) == "tests":
            asks[part] = space.pop("asked", [])
        plt.close("all")
    return asks


def _parts(name: str, source: NotebookNode, asks: dict[str, list[Ask]]) -> Iterator[Part]:
    titles, roles = list(headings(source)), [role(cell) for cell in source.cells]
    for number, cell in enumerate(source.cells):
        if role(cell) not in ("tests", "by hand"):
            continue
        part, points = cell.metadata.nbgrader.grade_id, float(cell.metadata.nbgrader.points)
        asked = tuple(asks.get(part, ()))
        if role(cell) == "tests" and sum(ask.points for ask in asked) != points:
            given = ", ".join(f"{ask.points:g}" for ask in asked) or "nothing"
            raise PressError(f"{name}, {part}: what is asked has to add up to its {points:g} points; it gives {given}")
        if role(cell) == "tests" and "solution" not in roles[: roles.index("tests")]:
            raise PressError(
                f"{name}, {part}: there is no cell for a solution before it, to which comments could belong"
            )
        roles = roles[roles.index(role(cell)) + 1 :]
        yield Part(part, [title for at, title in titles if at < number][-1], points, asked)


def release(name: str, seed: int, source: NotebookNode, parts: Iterable[Part]) -> NotebookNode:
    """The students' version, made by nbgrader, and looked through once more for what must not be in it.

    Its metadata say which parts and cells for solutions there are, and how each text cell was released: `ncutil class
    check` cannot see otherwise that one was deleted, or that a student has written something.
    """
    from nbgrader import preprocessors as steps

    notebook = copy.deepcopy(source)
    notebook.cells = [cell for cell in notebook.cells if not _is_private(cell)]
    for cell in notebook.cells:
        for tag in ("tags", "mystnb"):
            cell.metadata.pop(tag, None)
    for step in (
        steps.LockCells,
        steps.ClearSolutions,
        steps.ClearOutput,
        steps.ClearHiddenTests,
        steps.ClearMarkScheme,
    ):
        notebook, _ = step().preprocess(notebook, {})
    for cell in notebook.cells:
        # What was cut out leaves empty lines; checksums are of what students get.
        cell.source = cell.source.rstrip()
    for step in (steps.ComputeChecksums, steps.CheckCellMetadata):
        notebook, _ = step().preprocess(notebook, {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.metadata["ncutil"] = NotebookNode(released=digest(cell.source))
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    parts_of = {part.id: {"title": part.title, "by_hand": part.by_hand} for part in parts}
    solutions = " ".join(cell.metadata.nbgrader.grade_id for cell in notebook.cells if role(cell) == "solution")
    about = {"set": name, "seed": seed, "parts": parts_of, "solutions": solutions}
    notebook.metadata = NotebookNode({"kernelspec": kernel, "language_info": language, "ncutil": about})
    text = "\n".join(cell.source for cell in notebook.cells)
    leaked = [line for line in secrets(source) if line in text]
    if leaked:
        raise PressError(f"{name}: the students' version would show a line of a solution: {leaked[0]!r}")
    return notebook


def is_text_as_released(cell: NotebookNode) -> bool:
    """Whether a text cell says that it was released, with just this text; a piece of one that was split was not."""
    about = cell.metadata.get("ncutil")
    return isinstance(about, dict) and about.get("released") == digest(cell.source.rstrip())


def secrets(source: NotebookNode) -> set[str]:
    """Lines of solutions and hidden tests that stand nowhere else: none of them may reach a student."""
    hidden: set[str] = set()
    shown: set[str] = set()
    for cell in source.cells:
        inside = role(cell) == "by hand" or _is_private(cell)
        for line in cell.source.splitlines():
            if any(begin in line for begin, _ in REGIONS.values()):
                inside = True
            elif any(end in line for _, end in REGIONS.values()):
                inside = False
            else:
                (hidden if inside else shown).add(line.strip())
    visible = "\n".join(shown)
    return {line for line in hidden if len(line) >= SHORT and line not in visible}


def write_release(folder: Path, problem_set: ProblemSet, drawn: Mapping[str, bytes]) -> Path:
    """Write the folder that students get of one set: notebook, pictures of its hints, data of the class."""
    target = folder / problem_set.name
    target.mkdir(parents=True, exist_ok=True)
    for file, content in {**problem_set.files, **drawn}.items():
        (target / file).write_bytes(content)
    write_json(target / f"{problem_set.name}.ipynb", problem_set.released)
    return target
