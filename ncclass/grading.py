"""Points for what a submission handed over; nothing here runs any of its code."""

import json
from typing import Any

import numpy as np

from ncclass.answers import Ask, decode
from ncclass.collection import Record, grade_id, parse_answers
from ncclass.problem_sets import Part, ProblemSet, first_line, role
from ncclass.runner import LONGEST
from ncclass.submissions import printable

SHOWN = 300
"""Characters of an answer that feedback shows."""


def judge(problem_set: ProblemSet, record: Record) -> dict[str, Any]:
    """Score and checks of every part; the score of a part that waits for a teacher is None."""
    answers = parse_answers(record["answers"])
    return {
        part.id: _by_hand(record["texts"].get(part.id, "")) if part.by_hand else _asked(problem_set, part, answers)
        for part in problem_set.parts
    }


def remark(problem_set: ProblemSet, record: Record) -> str:
    """Which given cell failed, if one did, because of something that the submission did before it."""
    answers = parse_answers(record["answers"])
    for cell in problem_set.source.cells:
        name = cell.metadata.nbgrader.grade_id if role(cell) == "given" else ""
        found = answers.get(name)
        if isinstance(found, dict) and found.get("error") is not None:
            return f"a given cell failed (`{first_line(cell.source)}`: {_text(found['error'])})"
    return ""


def timed_out(problem_set: ProblemSet, record: Record) -> list[str]:
    """Parts in which a cell, or a call of a function, was stopped because it took too long."""
    answers = parse_answers(record["answers"])
    late = {name for name, cell in answers.items() if isinstance(cell, dict) and cell.get("timed_out") is True}
    return [part.id for part in problem_set.parts if late.intersection(_own_cells(problem_set, part))]


def _own_cells(problem_set: ProblemSet, part: Part) -> list[str]:
    """The cells that belong to a part: from the one behind the part before to its own."""
    found: list[str] = []
    for cell in problem_set.source.cells:
        if role(cell) == "text":
            continue
        found.append(grade_id(cell))
        if found[-1] == part.id:
            break
        if role(cell) in ("tests", "by hand"):
            found = []
    return found


def _asked(problem_set: ProblemSet, part: Part, answers: dict[str, Any]) -> dict[str, Any]:
    cells = [answers.get(name) for name in _own_cells(problem_set, part)]
    errors = [cell["error"] for cell in cells if isinstance(cell, dict) and cell.get("error") is not None]
    cell = cells[-1] if isinstance(cells[-1], dict) else {}
    given = cell.get("asks")
    given = given if isinstance(given, list) and len(given) == len(part.asks) else [None] * len(part.asks)
    checks = [_check(ask, item) for ask, item in zip(part.asks, given, strict=True)]
    return {
        "score": sum(check["points"] for check in checks if check["passed"]),
        "checks": checks,
        "said": _text(errors[0]) if errors else "",
    }


def _check(ask: Ask, item: Any) -> dict[str, Any]:
    """One check: whether it passed, and what was given instead, in words."""
    check = {"says": ask.says, "points": ask.points, "passed": False, "given": "nothing was handed over"}
    if not isinstance(item, dict):
        return check
    if not isinstance(item.get("values"), list):
        return check | {"given": _text(item.get("error", ""))}
    try:
        # The runner checks the length too, but a submission can write the file itself.
        if len(json.dumps(item["values"])) > LONGEST:
            return check | {"given": f"more than {LONGEST} characters as JSON"}
        values = decode(item["values"])
    except Exception:
        return check | {"given": "something that is not data"}
    return check | {"passed": ask.passes(values), "given": "; ".join(_short(value) for value in values)[:SHOWN]}


def _short(value: Any) -> str:
    """A plain value as a person would write it: six digits, arrays as lists, and no more than is shown.

    >>> _short([np.eye(2), 1 / 3, -0.0, True, "a"])
    "[[[1.0, 0.0], [0.0, 1.0]], 0.333333, 0.0, True, 'a']"
    """
    try:
        return _written(value)[: 2 * SHOWN]
    except Exception:  # lists within lists, deeper than can be shown
        return "something that cannot be shown"


def _written(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.ravel()[:SHOWN].tolist() if value.size > SHOWN else value.tolist()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value[:SHOWN]))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_written(item)}' for key, item in list(value.items())[:SHOWN])}}}"
    # A zero has no sign for a reader.
    return repr(float(f"{value + 0.0:.6g}")) if isinstance(value, float) else " ".join(repr(value)[: 2 * SHOWN].split())


def _text(value: Any) -> str:
    """A message that a submission handed over, which need not be text."""
    return printable(value[:SHOWN]) if isinstance(value, str) else "something that is not text"


def _by_hand(text: str) -> dict[str, Any]:
    return {"score": None if text else 0.0, "checks": [], "said": "" if text else "not answered"}
