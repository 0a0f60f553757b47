"""What the papers claim, what would count as support, and what a run found: verdicts are computed, never written.

`book/claims.yml` holds every claim with its criterion. A chapter calls `record` with an estimate and its interval.
`judge` computes the verdict from these and from the criterion; run records, pages and the command line all call it.
Explained on the claims page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ncutil.evidence.outputs import CLAIM_MIME, SCALAR_MIME, glue, show

REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "undecided"
NOT_ATTEMPTED, OUT_OF_REACH = "not attempted", "out of reach"
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_ATTEMPTED, OUT_OF_REACH)

SOURCES = {"P1": "NCnet", "P2": "neurashed"}
"""The papers, by the short names that claims.yml uses."""

_HERE = Path(__file__).parent
_FIELDS = ("id", "source", "place", "statement", "chapter", "quantity", "holds_if", "reason")

Estimate = float | Sequence[float]
Interval = Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, with the criterion that was fixed before the run.

    `holds_if` is one of `above: x`, `below: x`, `within: [low, high]`, or `ordered: increasing | decreasing`;
    None for a claim that no chapter tests, and then `reason` says why.
    """

    id: str
    source: str
    place: str
    statement: str
    chapter: str | None = None
    quantity: str | None = None
    holds_if: Mapping[str, Any] | None = None
    reason: str | None = None

    @property
    def criterion(self) -> str:
        """The criterion in words, such as "above 2"."""
        if self.holds_if is None:
            return ""
        (kind, value), *_ = self.holds_if.items()
        return f"within [{value[0]:.7g}, {value[1]:.7g}]" if kind == "within" else f"{kind} {value}"


@dataclass(frozen=True)
class Finding:
    """What a run found about a claim, and the verdict that follows from it."""

    claim: Claim
    estimate: Any
    interval: Any
    verdict: str


def parse(entries: object, origin: str = "claims.yml") -> dict[str, Claim]:
    """Claims by id from the parsed YAML list; ValueError names the entry and what is wrong with it."""
    if not isinstance(entries, list):
        raise ValueError(f"{origin}: expected a list of claims, got {type(entries).__name__}")
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{origin}: claim {number}"
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"{where} has no id")
        where = f"{origin}: claim {entry['id']!r}"
        unknown = [field for field in entry if field not in _FIELDS]
        missing = [field for field in ("source", "place", "statement") if not entry.get(field)]
        if unknown or missing:
            raise ValueError(f"{where}: unknown {unknown}, missing {missing}; fields are {', '.join(_FIELDS)}")
        if entry["id"] in claims:
            raise ValueError(f"{where} stands twice")
        _check_criterion(entry.get("holds_if"), where)
        if entry.get("holds_if") is None and not entry.get("reason"):
            raise ValueError(f"{where}: needs holds_if, or a reason why it is not tested")
        claims[entry["id"]] = Claim(**entry)
    return claims


def _check_criterion(holds_if: object, where: str) -> None:
    if holds_if is None:
        return
    forms = "above: x, below: x, within: [low, high], ordered: increasing or decreasing"
    if not isinstance(holds_if, dict) or len(holds_if) != 1:
        raise ValueError(f"{where}: holds_if is one of {forms}; got {holds_if!r}")
    (kind, value), *_ = holds_if.items()
    fits = {
        "above": _is_number(value),
        "below": _is_number(value),
        "within": isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1],
        "ordered": value in ("increasing", "decreasing"),
    }
    if not fits.get(kind, False):
        raise ValueError(f"{where}: holds_if is one of {forms}; got {holds_if!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def place() -> Path:
    """The file of claims: the clone's `book/claims.yml`, or the copy in an installed package."""
    clone, packaged = _HERE.parents[1] / "book" / "claims.yml", _HERE / "claims.yml"
    return clone if clone.is_file() else packaged


@cache
def load() -> dict[str, Claim]:
    """Every claim by id; ValueError if the file of claims is wrong."""
    path = place()
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None


def verdict(holds_if: Mapping[str, Any], estimate: Estimate, interval: Interval) -> str:
    """Verdict of an interval under a criterion.

    The whole interval meets it: reproduced; the whole interval fails it: contradicted; it straddles: undecided.
    "ordered" takes a list of estimates with an interval each: reproduced if every neighbouring pair is apart in the
    stated direction, contradicted if some pair is apart in the other, else undecided.

    Raises ValueError for NaN, a wrong shape, or an estimate outside its interval.

    Examples
    --------
    >>> verdict({"above": 2}, 2.3, (2.2, 2.4)), verdict({"above": 2}, 2.0, (1.9, 2.1))
    ('reproduced', 'undecided')
    >>> verdict({"ordered": "increasing"}, [1, 2, 3], [(0.9, 1.1), (1.8, 2.2), (2.9, 3.1)])
    'reproduced'
    """
    points, bounds = np.atleast_1d(np.asarray(estimate, float)), np.atleast_2d(np.asarray(interval, float))
    if bounds.shape != (*points.shape, 2) or not (np.isfinite(points).all() and np.isfinite(bounds).all()):
        raise ValueError(f"expected finite estimates with a (low, high) each; got {estimate!r} and {interval!r}")
    slack = 1e-9 * (1 + np.abs(points))
    if (bounds[:, 0] > points + slack).any() or (points > bounds[:, 1] + slack).any():
        raise ValueError(f"an estimate lies outside its interval: {estimate!r} and {interval!r}")
    (kind, value), *_ = holds_if.items()
    if kind == "ordered":
        if len(points) < 2:
            raise ValueError(f"an ordered claim needs at least two estimates; got {estimate!r}")
        ordered = bounds if value == "increasing" else bounds[::-1]
        steps = list(pairwise(ordered))
        return _verdict(all(a[1] < b[0] for a, b in steps), any(a[0] > b[1] for a, b in steps))
    if len(points) != 1:
        raise ValueError(f"a claim that is {kind} {value} takes one estimate; got {estimate!r}")
    low, high = map(float, bounds[0])
    if kind == "above":
        return _verdict(low > value, high <= value)
    if kind == "below":
        return _verdict(high < value, low >= value)
    # Exact results carry rounding errors: the ends of a range belong to it.
    least, most = value[0] - slack[0], value[1] + slack[0]
    return _verdict(least <= low and high <= most, high < least or low > most)


def _verdict(meets: bool, fails: bool) -> str:
    return REPRODUCED if meets else CONTRADICTED if fails else UNDECIDED


def judge(claim_id: str, estimate: Estimate, interval: Interval) -> Finding:
    """The finding of a run about a claim; every verdict of the book is computed here.

    Parameters
    ----------
    claim_id : id of a claim in `book/claims.yml`
    estimate : the claim's `quantity` as measured; a list for an ordered claim
    interval : (low, high), or one pair per estimate; (x, x) for an exact result

    Raises ValueError for an unknown id, a claim without a criterion, or an interval that does not fit.
    """
    claims = load()
    if claim_id not in claims:
        raise ValueError(f"unknown claim {claim_id!r}; known: {', '.join(claims)}")
    claim = claims[claim_id]
    if claim.holds_if is None:
        raise ValueError(f"claim {claim_id!r} has no criterion to meet; give it holds_if in claims.yml")
    outcome = verdict(claim.holds_if, estimate, interval)
    return Finding(claim, np.asarray(estimate, float).tolist(), np.asarray(interval, float).tolist(), outcome)


def record(claim_id: str, estimate: Estimate, interval: Interval) -> str:
    """Record what this run found about a claim, show the verdict and return it.

    Parameters and errors are those of `judge`. The record holds the estimate and the interval, not the verdict: a
    criterion that changes later changes the verdict of a kept run.
    """
    found = judge(claim_id, estimate, interval)
    text = f"{found.verdict} ({found.claim.criterion}; got {describe(found.estimate, found.interval)})"
    data = {"id": claim_id, "estimate": found.estimate, "interval": found.interval}
    show({CLAIM_MIME: data, "text/plain": f"{claim_id}: {text}"})
    return found.verdict


def value(name: str, number: float, interval: Sequence[float] | None = None, *, digits: int = 2) -> None:
    """Bind a computed number to a name: prose shows it with {glue:text}`name`, the run record keeps it.

    With an interval (low, high) the text is "1.81 [1.77, 1.85]". `digits` are those after the point.
    Raises ValueError for NaN.
    """
    numbers = [float(number), *(map(float, interval) if interval is not None else ())]
    if not np.isfinite(numbers).all():
        raise ValueError(f"value {name!r} is not finite: {numbers}")
    text = describe(numbers[0], numbers[1:] or None, digits)
    data = {"name": name, "value": numbers[0], "interval": numbers[1:] or None}
    glue(name, text, {SCALAR_MIME: data, "text/plain": f"{name} = {text}"})


def describe(estimate: Any, interval: Any = None, digits: int = 2) -> str:
    """An estimate with its interval as text; a list of them separated by commas, an exact one without interval.

    >>> describe(1.811, [1.77, 1.85]), describe(2.0, [2.0, 2.0])
    ('1.81 [1.77, 1.85]', '2.00')
    """
    if isinstance(estimate, list):
        pairs = interval if interval is not None else [None] * len(estimate)
        return ", ".join(describe(e, i, digits) for e, i in zip(estimate, pairs, strict=True))
    text = f"{estimate:.{digits}f}"
    if interval is None or interval[0] == interval[1]:
        return text
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
