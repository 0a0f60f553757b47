"""What the papers claim, what would count as support, and what a run found: verdicts are computed, never written.

`book/claims.yml` holds every claim with its criterion. A chapter calls `record` with an estimate and its interval.
`judge` computes the verdict from these and from the criterion; run records, pages and the command line all call it.
`ncpress.verdicts` checks the file. Explained on the claims page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ncutil.evidence.outputs import CLAIM_MIME, SCALAR_MIME, glue, show
from ncutil.ground.checks import known

REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "undecided"

SOURCES = {"P1": "NCnet", "P2": "neurashed"}
"""The papers, by the short names that claims.yml uses."""

Estimate = float | Sequence[float]
Interval = Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, with the criterion that was fixed before the run.

    `holds_if` is one of `above: x`, `below: x`, `within: [low, high]`, or `ordered: increasing | decreasing`;
    None for a claim that no chapter tests, and then `reason` says why. The verdict is conditional on `condition`.
    An entry of claims.yml with several readings gives a claim for each, with the id "entry:reading".
    """

    id: str
    source: str
    place: str
    statement: str
    chapter: str | None = None
    quantity: str | None = None
    holds_if: Mapping[str, Any] | None = None
    reason: str | None = None
    condition: str | None = None
    reading: str = ""

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


def place() -> Path:
    """The file of claims: the clone's `book/claims.yml`, or the copy in an installed package."""
    clone = Path(__file__).parents[2] / "book" / "claims.yml"
    return clone if clone.is_file() else Path(__file__).with_name("claims.yml")


@cache
def load() -> dict[str, Claim]:
    """Every claim by id."""
    return {c.id: c for entry in yaml.safe_load(place().read_text(encoding="utf-8")) for c in claims_in(entry)}


def claims_in(entry: Mapping[str, Any]) -> list[Claim]:
    """The claim of an entry of claims.yml, or one for each of its readings."""
    if "readings" not in entry:
        return [Claim(**entry)]
    shared = {name: value for name, value in entry.items() if name not in ("id", "readings")}
    return [Claim(f"{entry['id']}:{name}", reading=name, **shared, **own) for name, own in entry["readings"].items()]


def find(claim_id: str) -> Claim:
    """The claim with this id; ValueError for an unknown one, which lists the readings of its entry."""
    alike = [name for name in load() if name.partition(":")[0] == claim_id.partition(":")[0]]
    known("claim", claim_id, alike or load())
    return load()[claim_id]


def verdict(holds_if: Mapping[str, Any], estimate: Estimate, interval: Interval) -> str:
    """Verdict of an interval under a criterion.

    The whole interval meets it: reproduced; the whole interval fails it: contradicted; it straddles: undecided.
    "ordered" takes a list of estimates with an interval each: reproduced if every neighbouring pair is apart in the
    stated direction, contradicted if some pair is apart in the other, else undecided. ValueError for NaN, a wrong
    shape, or an estimate outside its interval.

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
    if len(points) < 2 if kind == "ordered" else len(points) > 1:
        takes = "at least two estimates" if kind == "ordered" else "one estimate"
        raise ValueError(f"a claim that is {kind} {value} takes {takes}; got {estimate!r}")
    low, high = bounds[0]
    if kind == "ordered":
        steps = list(pairwise(bounds if value == "increasing" else bounds[::-1]))
        meets, fails = all(a[1] < b[0] for a, b in steps), any(a[0] > b[1] for a, b in steps)
    elif kind == "above":
        meets, fails = low > value, high <= value
    elif kind == "below":
        meets, fails = high < value, low >= value
    else:
        # Exact results carry rounding errors: the ends of a range belong to it.
        least, most = value[0] - slack[0], value[1] + slack[0]
        meets, fails = least <= low and high <= most, high < least or low > most
    return REPRODUCED if meets else CONTRADICTED if fails else UNDECIDED


def judge(claim_id: str, estimate: Estimate, interval: Interval) -> Finding:
    """The finding of a run about a claim; every verdict of the book is computed here.

    `estimate` is the claim's `quantity` as measured, a list for an ordered claim; `interval` is (low, high), or one
    pair per estimate; (x, x) for an exact result. ValueError for an unknown id, a claim without a criterion, or an
    interval that does not fit.
    """
    claim = find(claim_id)
    if claim.holds_if is None:
        raise ValueError(f"claim {claim_id!r} has no criterion to meet; give it holds_if in claims.yml")
    outcome = verdict(claim.holds_if, estimate, interval)
    return Finding(claim, np.asarray(estimate, float).tolist(), np.asarray(interval, float).tolist(), outcome)


def record(claim_id: str, estimate: Estimate, interval: Interval) -> None:
    """Record what this run found about a claim, and show the verdict.

    Parameters and errors are those of `judge`. The record holds the estimate and the interval, not the verdict: a
    criterion that changes later changes the verdict of a kept run.
    """
    found = judge(claim_id, estimate, interval)
    text = f"{claim_id}: {found.verdict} ({found.claim.criterion}; got {describe(found.estimate, found.interval)})"
    show({CLAIM_MIME: {"id": claim_id, "estimate": found.estimate, "interval": found.interval}, "text/plain": text})


def value(name: str, number: float, interval: Sequence[float] | None = None, *, digits: int = 2) -> None:
    """Bind a computed number to a name: prose shows it with {glue:text}`name`, the run record keeps it.

    With an interval (low, high) the text is "1.81 [1.77, 1.85]". `digits` are those after the point.
    Raises ValueError for NaN.
    """
    exact, ends = float(number), None if interval is None else [float(end) for end in interval]
    if not np.isfinite([exact, *(ends or ())]).all():
        raise ValueError(f"value {name!r} is not finite: {exact}, {ends}")
    text = describe(exact, ends, digits)
    glue(name, text, {SCALAR_MIME: {"name": name, "value": exact, "interval": ends}, "text/plain": f"{name} = {text}"})


def describe(estimate: Any, interval: Any = None, digits: int = 2) -> str:
    """An estimate with its interval as text; a list of them separated by commas, an exact one without interval.

    >>> describe(1.811, [1.77, 1.85]), describe(2.0, [2.0, 2.0])
    ('1.81 [1.77, 1.85]', '2.00')
    """
    if isinstance(estimate, list):
        return ", ".join(describe(*p, digits) for p in zip(estimate, interval or [None] * len(estimate), strict=True))
    ends = "" if interval is None or interval[0] == interval[1] else " [{:.{d}f}, {:.{d}f}]".format(*interval, d=digits)
    return f"{estimate:.{digits}f}{ends}"
