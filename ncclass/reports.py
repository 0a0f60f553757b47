"""What students and teachers read: pages that hold everything they show and escape whatever a student wrote."""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ncclass import collection
from ncclass.collection import Course
from ncclass.gradebook import Grade
from ncclass.problem_sets import Part, ProblemSet, rubric
from ncutil.ground.files import write

LONGEST = 20_000
"""Characters of a written answer that the class report shows."""


PAGES = Environment(
    loader=PackageLoader("ncclass", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""The templates; each is compiled once, and not for each student."""


def _write(path: Path, template: str, **values: Any) -> Path:
    write(path, PAGES.get_template(template).render(**values).encode("utf-8", "replace"))
    return path


def write_feedback(course: Course, student: str, grades: Sequence[Grade], strays: Sequence[str]) -> Path:
    """The page of one student: every set, every check, what was given, and never what was expected."""
    return _write(
        course.folder / "feedback" / student / "feedback.html",
        "feedback.html.j2",
        title=f"Feedback for {course.roster[student] or student}",
        grades=grades,
        strays=strays,
        cell_seconds=collection.CELL_SECONDS,
    )


def write_report(
    course: Course, sets: Iterable[ProblemSet], grades: Sequence[Grade], strays: Mapping[str, Sequence[str]]
) -> Path:
    """The page about the class: how the points are spread, which checks fail most, who needs attention."""
    found = [_about(problem_set, [g for g in grades if g.problem_set is problem_set]) for problem_set in sets]
    return _write(
        course.folder / "report.html",
        "report.html.j2",
        title="Class report",
        seed=course.seed,
        students=len(course.roster),
        unlisted=course.unlisted,
        sets=found,
        strays=[f"{student}: {line}" for student, lines in strays.items() for line in lines],
    )


def _about(problem_set: ProblemSet, grades: Sequence[Grade]) -> dict[str, Any]:
    handed_in = [grade for grade in grades if grade.record]
    failing = Counter(
        (part.title, check["says"])
        for grade in handed_in
        for part in problem_set.parts
        for check in (grade.record or {})["judged"][part.id]["checks"]
        if not check["passed"] and not grade.is_overruled(part.id)
    )
    return {
        "title": problem_set.title,
        "handed_in": len(handed_in),
        "pictures": _histograms(problem_set, handed_in) if handed_in else [],
        "parts": [_row(part, handed_in) for part in problem_set.parts],
        "failing": [(*what, number) for what, number in failing.most_common(10)],
        "missing": [_who(grade) for grade in grades if not grade.record],
        "late": [f"{_who(grade)}: {grade.late}" for grade in handed_in if grade.late not in ("", "unknown")],
        "undated": [_who(grade) for grade in handed_in if grade.late == "unknown"],
        "stopped": [f"{_who(grade)}: {grade.status}" for grade in handed_in if grade.status.startswith("stopped")],
        "timeouts": [f"{_who(grade)}: out of time in {grade.timeouts}" for grade in handed_in if grade.timeouts],
        "not_run": [f"{_who(grade)}: {grade.note}" for grade in handed_in if grade.status == "not run"],
        "notes": [f"{_who(grade)}: {grade.note}" for grade in handed_in if grade.status != "not run" and grade.note],
        "to_mark": [found for part in problem_set.parts if (found := _answers(problem_set, part, handed_in))["texts"]],
    }


def _who(grade: Grade) -> str:
    return f"{grade.name} ({grade.student})" if grade.name else grade.student


def _row(part: Part, grades: Sequence[Grade]) -> dict[str, Any]:
    scores = [score for grade in grades if (score := grade.scores[part.id]) is not None]
    return {
        "title": part.title,
        "points": part.points,
        "mean": float(np.mean(scores)) if scores else None,
        "full": sum(score == part.points for score in scores),
        "zero": sum(score == 0 for score in scores),
        "waiting": len(grades) - len(scores),
    }


def _answers(problem_set: ProblemSet, part: Part, grades: Sequence[Grade]) -> dict[str, Any]:
    waiting = [grade for grade in grades if part.id in grade.to_mark]
    texts = [(_who(grade), str((grade.record or {})["texts"].get(part.id, ""))[:LONGEST]) for grade in waiting]
    cells = problem_set.source.cells
    model = next(cell.source for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == part.id)
    return {"title": part.title, "rubric": rubric(problem_set.source, part.id), "model": model, "texts": texts}


def _histograms(problem_set: ProblemSet, grades: Sequence[Grade]) -> list[tuple[str, int, str]]:
    """For each part and for the sum: title, how many wait for a mark, and a histogram of the points of the others."""
    panels: list[tuple[str, float, list[float | None]]] = []
    for part in problem_set.parts:
        panels.append((part.title.partition(":")[0], part.points, [grade.scores[part.id] for grade in grades]))
    panels.append(("Sum so far", problem_set.points, [sum(s or 0 for s in grade.scores.values()) for grade in grades]))
    found = []
    for title, points, scores in panels:
        known = [score for score in scores if score is not None]
        found.append((title, len(scores) - len(known), _histogram(points, known) if known else ""))
    return found


def _histogram(points: float, scores: Sequence[float]) -> str:
    """A picture as PNG in base64."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(3, 1.9), layout="constrained")
    ax = figure.subplots()
    ax.hist(scores, bins=np.linspace(0, points, min(int(points), 10) + 1).tolist(), color="0.45", edgecolor="white")
    ax.set(xlim=(0, points), xlabel=f"points of {points:g}", ylabel="students")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return base64.b64encode(buffer.getvalue()).decode()
