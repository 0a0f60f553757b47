"""A student's self-check: which parts pass their own checks, and what else grading would stumble over."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from ncclass.collection import grade_id, written_answers
from ncclass.problem_sets import (
    GIVEN,
    first_line,
    is_text_as_released,
)
from ncpress.assignments import headings

OPEN = "not filled in yet"
"""What the stub of a solution raises, in words."""

POLL = 0.1
"""Seconds between two looks at a notebook that runs."""


@dataclass(frozen=True)
class Finding:
    """A line about a part, or about a cell beside the parts: `bad` where something has to be done about it."""

    bad: bool
    says: str
    part: str = ""
    by_hand: bool = False
    answered: bool = True


def make_task(notebook: NotebookNode, seconds: float) -> dict[str, Any]:
    """The cells as they are, in their order; as in grading, given ones find the class's seed."""
    seed = _about(notebook).get("seed")
    cells = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            given = isinstance(seed, int) and grade_id(cell) and not cell.metadata.nbgrader.get("solution")
            cells.append({"id": str(number), "sources": [f"seed = {seed}"] * bool(given) + [cell.source], "asks": []})
    return {"cells": cells, "cell_seconds": seconds}


def run(task: dict[str, Any], folder: Path, step: Callable[[str], None]) -> dict[str, Any]:
    """Run a task in a folder, as one's own program; `step` is told of every cell. Returns what was answered."""
    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "task.json", Path(scratch) / "answers.json"
        source.write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", "ncclass.runner", str(source), str(target)]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            running = True
            while running:
                running = process.poll() is None
                time.sleep(POLL if running else 0)
                so_far = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
                for cell in task["cells"][len(answers) : len(so_far)]:
                    step(first_line(cell["sources"][-1]))
                answers = so_far
    return answers


def review(notebook: NotebookNode, answers: dict[str, Any]) -> list[Finding]:
    """What there is to say, in the order of the notebook; parts that are missing from it come last."""
    parts = _parts(notebook)
    titles = {part: title for part, (title, _) in parts.items()}
    by_hand = [part for part, (_, read_by_a_person) in parts.items() if read_by_a_person]
    texts = written_answers(notebook, titles, by_hand, lambda cell: is_text_as_released(cell) or _is_stub(cell))
    found = list(_present(notebook, answers, titles, texts))
    present = {finding.part for finding in found}
    for part, title in titles.items():
        if part not in present:
            read = bool(texts.get(part))
            instead = "is marked by hand, from the text in the part" if read else "copy it from the release"
            says = f"{title}: its cell {part} is missing; {instead}"
            found.append(Finding(not read, says, part, part in by_hand, answered=read))
    names = {grade_id(cell) for cell in notebook.cells}
    for name in str(_about(notebook).get("solutions", "")).split():
        if name not in names:
            says = f"the cell {name} is missing; code for it counts in any cell of your own before its check"
            found.append(Finding(False, says))
    return found


def _about(notebook: NotebookNode) -> dict[str, Any]:
    about = notebook.metadata.get("ncutil")
    return about if isinstance(about, dict) else {}


def _is_graded(cell: NotebookNode) -> bool:
    return bool(grade_id(cell)) and bool(cell.metadata.nbgrader.get("grade"))


def _parts(notebook: NotebookNode) -> dict[str, tuple[str, bool]]:
    """Titles of the parts, and whether a person reads them, by the names of their cells.

    As released; from the cells that are there where the notebook no longer says what was released.
    """
    released = _about(notebook).get("parts")
    if isinstance(released, dict) and released:
        known = {part: about for part, about in released.items() if isinstance(about, dict)}
        return {part: (str(about.get("title", part)), bool(about.get("by_hand"))) for part, about in known.items()}
    above = list(headings(notebook))
    found = {}
    for number, cell in enumerate(notebook.cells):
        if _is_graded(cell):
            title = ([title for at, title in above if at < number] or [grade_id(cell)])[-1]
            found[grade_id(cell)] = (title, bool(cell.metadata.nbgrader.get("solution")))
    return found


def _present(
    notebook: NotebookNode, answers: dict[str, Any], titles: dict[str, str], texts: dict[str, str]
) -> Iterator[Finding]:
    run, said = 0, set[str]()
    for number, cell in enumerate(notebook.cells):
        name, error = grade_id(cell), ""
        if cell.cell_type == "code":
            run += 1
            error = answers.get(str(number), {"error": "the notebook ended before this cell"})["error"] or ""
            error = OPEN if error == NotImplementedError.__name__ else error
        title = titles.get(name, name)
        if not _is_graded(cell):
            # Where a stub is left, the check of its part says so.
            if error not in ("", OPEN):
                yield Finding(True, f"cell [{run}], which begins with `{first_line(cell.source)}`: {error}")
            elif name.startswith(GIVEN) and _is_changed(cell):
                says = "is not as it was released; grading runs the released one, so put what is yours in another cell"
                yield Finding(True, f"cell [{run}] {says}")
        elif cell.metadata.nbgrader.get("solution"):
            answered = bool(texts.get(name))
            says = "is marked by hand" if answered else "not answered yet"
            if name not in said:
                yield Finding(False, f"{title}: {says}", name, by_hand=True, answered=answered)
            said.add(name)
        elif _is_changed(cell):
            says = "its check is not as it was released; copy the cell from the release"
            yield Finding(True, f"{title}: {says}", name)
        else:
            yield Finding(bool(error), f"{title}: {error or 'its checks pass'}", name)


def _is_stub(cell: NotebookNode) -> bool:
    return _is_graded(cell) and not _is_changed(cell)


def _is_changed(cell: NotebookNode) -> bool:
    from nbgrader.utils import compute_checksum

    # Empty lines at the end come and go with the program that wrote the file.
    plain = NotebookNode(cell | {"source": cell.source.rstrip()})
    try:
        return bool(cell.metadata.nbgrader.get("checksum") != compute_checksum(plain))
    except (KeyError, TypeError, ValueError):
        return True


def summary(findings: list[Finding]) -> str:
    """How many parts pass, how many a person marks, and what else fails, in one line.

    >>> summary([Finding(False, "fine", "a"), Finding(False, "open", "b", by_hand=True, answered=False)])
    '1 of 1 parts pass their checks, 1 is marked by hand (1 not answered yet)'
    """
    judged = {finding.part: finding.bad for finding in findings if finding.part and not finding.by_hand}
    hand = [finding for finding in findings if finding.by_hand]
    others = sum(finding.bad for finding in findings if not finding.part)
    words = [f"{len(judged) - sum(judged.values())} of {len(judged)} parts pass their checks"]
    if hand:
        open_ones = sum(not finding.answered for finding in hand)
        said = f" ({open_ones} not answered yet)" if open_ones else ""
        words.append(f"{len(hand)} {'is' if len(hand) == 1 else 'are'} marked by hand{said}")
    if others:
        words.append(f"{others} other {'cell fails' if others == 1 else 'cells fail'}")
    return ", ".join(words)
