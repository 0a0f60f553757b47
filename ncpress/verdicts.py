"""Every claim of the papers with its verdict, from the run records: for pages of the book and for a terminal."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import yaml

from ncpress.execution import read_record
from ncpress.markup import literal, table
from ncpress.project import PressError, Project
from ncutil.evidence.claims import (
    CONTRADICTED,
    REPRODUCED,
    SOURCES,
    UNDECIDED,
    Claim,
    claims_in,
    describe,
    judge,
    place,
)

NOT_ATTEMPTED, OUT_OF_REACH = "not attempted", "out of reach"
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_ATTEMPTED, OUT_OF_REACH)

_READING = ("quantity", "holds_if", "condition", "reason")
_ENTRY = ("id", "source", "place", "statement", "chapter", *_READING, "readings")


@dataclass(frozen=True)
class Entry:
    """A claim (or a reading of it) with verdict, measurement, profile of the run, and section that records it."""

    claim: Claim
    verdict: str
    measured: str = ""
    profile: str = ""
    section: str = ""
    note: str = ""


@cache
def read_claims() -> dict[str, Claim]:
    """Every claim of claims.yml, checked; what is wrong with the file is one line."""
    path = place()
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    except yaml.YAMLError as error:
        raise PressError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, OSError) as error:
        raise PressError(str(error)) from None


def parse(entries: object, origin: str = "claims.yml") -> dict[str, Claim]:
    """Claims by id from the parsed YAML list; ValueError names the entry and what is wrong with it."""
    if not isinstance(entries, list):
        raise ValueError(f"{origin}: expected a list of claims, got {type(entries).__name__}")
    claims: dict[str, Claim] = {}
    seen = set[str]()
    for number, entry in enumerate(entries, 1):
        where = f"{origin}: claim {number}"
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"{where} has no id")
        where = f"{origin}: claim {entry['id']!r}"
        unknown = [field for field in entry if field not in _ENTRY]
        missing = [field for field in ("source", "place", "statement") if not entry.get(field)]
        if unknown or missing:
            raise ValueError(f"{where}: unknown {unknown}, missing {missing}; fields are {', '.join(_ENTRY)}")
        if ":" in str(entry["id"]):
            raise ValueError(f"{where}: an id has no colon, which separates it from a reading")
        if entry["id"] in seen:
            raise ValueError(f"{where} stands twice")
        seen.add(entry["id"])
        if "readings" in entry:
            _check_readings(entry, where)
        else:
            _check_reading(entry, where)
        claims |= {claim.id: claim for claim in claims_in(entry)}
    return claims


def _check_readings(entry: Mapping[str, Any], where: str) -> None:
    readings = entry["readings"]
    if both := [field for field in _READING if field in entry]:
        raise ValueError(f"{where}: {', '.join(both)} beside readings; each reading has its own")
    if not isinstance(readings, dict) or not readings:
        raise ValueError(f"{where}: readings is a mapping from name to {', '.join(_READING)}; got {readings!r}")
    for name, reading in readings.items():
        if not isinstance(name, str) or not re.fullmatch("[a-z]+(-[a-z]+)*", name):
            raise ValueError(f"{where}: a reading has a name of lower-case words and hyphens; got {name!r}")
        at = f"{where}, reading {name!r}"
        if not isinstance(reading, dict):
            raise ValueError(f"{at}: expected a mapping of {', '.join(_READING)}; got {reading!r}")
        if unknown := [field for field in reading if field not in _READING]:
            raise ValueError(f"{at}: unknown {unknown}; fields are {', '.join(_READING)}")
        _check_reading(reading, at)
        if reading.get("holds_if") and not reading.get("quantity"):
            raise ValueError(f"{at}: holds_if needs a quantity")


def _check_reading(reading: Mapping[str, Any], where: str) -> None:
    _check_criterion(reading.get("holds_if"), where)
    if reading.get("holds_if") is None and not reading.get("reason"):
        raise ValueError(f"{where}: needs holds_if, or a reason why it is not tested")
    if not isinstance(condition := reading.get("condition", "none"), str) or not condition:
        raise ValueError(f"{where}: condition is a text; got {condition!r}")


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


def read_records(project: Project, profile: str) -> dict[str, dict[str, Any]]:
    """The run records of a profile by chapter; chapters without a finished run are left out."""
    found = {name: read_record(project.runs / profile / name) for name in project.chapters}
    return {name: record for name, record in found.items() if record}


def claims_of(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a run found, by claim id, with the verdict; an error if a claim is another chapter's or recorded twice."""
    claims, found = read_claims(), dict[str, dict[str, Any]]()
    for item in record["claims"]:
        claim = claims.get(item["id"])
        if claim is None or claim.holds_if is None or claim.chapter != record["chapter"]:
            raise PressError(f"{record['chapter']} records claim {item['id']!r}, which claims.yml does not give it")
        if item["id"] in found:
            raise PressError(f"{record['chapter']} records claim {item['id']!r} twice")
        finding = judge(item["id"], item["estimate"], item["interval"])
        found[item["id"]] = {"estimate": finding.estimate, "interval": finding.interval, "verdict": finding.verdict}
    return found


def entries(
    project: Project, records: Mapping[str, Mapping[str, Any]], sections: Mapping[str, str] | None = None
) -> list[Entry]:
    """One row per claim, and per reading of a claim with several, in the order of claims.yml."""
    recorded = {claim_id: (item, r) for r in records.values() for claim_id, item in claims_of(r).items()}
    rows = []
    for claim in read_claims().values():
        if claim.holds_if is None:
            rows.append(Entry(claim, OUT_OF_REACH, note=claim.reason or ""))
        elif claim.id in recorded:
            item, record = recorded[claim.id]
            measured = describe(item["estimate"], item["interval"], 3)
            section = (sections or {}).get(claim.id, "")
            rows.append(Entry(claim, item["verdict"], measured, record["profile"], section))
        else:
            to_come = "its chapter is still to come"
            missing = "no run is recorded" if claim.chapter in project.chapters else to_come
            rows.append(Entry(claim, NOT_ATTEMPTED, note=claim.reason or missing))
    return rows


def counts(rows: Iterable[Entry]) -> dict[str, int]:
    """How many claims have each verdict, all verdicts named; each reading of a claim counts."""
    found = Counter(row.verdict for row in rows)
    return {name: found[name] for name in VERDICTS}


def badge(name: str) -> str:
    """A verdict as HTML, told apart by words and shape as well as colour."""
    return f'<span class="verdict-badge verdict-{name.replace(" ", "-")}">{name}</span>'


def _link(row: Entry, text: str) -> str:
    if not row.measured:
        return text
    return f'<a href="../notebooks/{row.claim.chapter}.html#claim-{row.claim.id}">{text}</a>'


def summary(rows: list[Entry]) -> str:
    """How many claims have each verdict, as one line of badges."""
    parts = [f"{badge(name)} {number}" for name, number in counts(rows).items()]
    return f'<p class="verdict-counts">{" · ".join(parts)}</p>'


def _detail(row: Entry) -> str:
    """What would count and what was measured, or why nothing was."""
    claim = row.claim
    criterion = f"Quantity: {claim.quantity}; holds if {claim.criterion}{_condition(row)}." if claim.holds_if else ""
    profile = f" ({row.profile} profile)" if row.profile not in ("", "book") else ""
    measured = f"Measured: {row.measured}{profile}." if row.measured else ""
    note = f"{row.note[:1].upper()}{row.note[1:].rstrip('.')}." if row.note else ""
    return " ".join(literal(part) for part in (criterion, measured, note) if part)


def _reading(row: Entry) -> str:
    return f"**{literal(row.claim.reading)}:** " if row.claim.reading else ""


def _condition(row: Entry) -> str:
    return f"; conditional on: {row.claim.condition}" if row.claim.condition else ""


def _by_entry(rows: Iterable[Entry]) -> list[list[Entry]]:
    """The rows of each entry of claims.yml: one, or one per reading."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row.claim.id.partition(":")[0])]


def _lines(group: list[Entry]) -> list[list[str]]:
    """The lines of the claims page for an entry: one, or one for the statement and one for each reading."""
    claim = group[0].claim
    statement = f"{literal(claim.statement)} ({SOURCES[claim.source]}, {literal(claim.place)})"
    found = [
        (_link(row, badge(row.verdict)), f'<span class="ledger-detail">{_reading(row)}{_detail(row)}</span>')
        for row in group
    ]
    if not claim.reading:
        ((verdict, detail),) = found
        return [[verdict, f"{statement}<br>{detail}"]]
    return [[f"{len(group)} reading{'s' if len(group) > 1 else ''}", statement], *map(list, found)]


def page(rows: list[Entry]) -> str:
    """The body of the claims page: a table for each chapter."""
    parts = [summary(rows)]
    chapters = list(dict.fromkeys(row.claim.chapter for row in rows))
    for chapter in sorted(chapters, key=lambda name: name or "~"):
        part = [row for row in rows if row.claim.chapter == chapter]
        cells = [line for group in _by_entry(part) for line in _lines(group)]
        title = f"Chapter {int(chapter[:2])}" if chapter else "No chapter"
        heading = ["Verdict", "Claim, criterion, measurement"]
        parts.append(f"## {title}\n\n" + table(heading, "18 82", cells, "ledger"))
    return "\n\n".join(parts)


def crosswalk(rows: list[Entry]) -> str:
    """The body of the crosswalk: where each figure, equation and theorem of the papers is treated."""
    parts = []
    for source, title in SOURCES.items():
        part = sorted((row for row in rows if row.claim.source == source), key=lambda row: row.claim.place)
        cells = []
        for group in _by_entry(part):
            text = literal(group[0].claim.statement)
            for row in group:
                where = _detail(row)
                if row.claim.chapter and row.claim.holds_if:
                    # A heading is the chapter's own Markdown, and reads here as it does there.
                    section = f": {_link(row, row.section)}" if row.section else ""
                    where = f"Chapter {int(row.claim.chapter[:2])}{section}{literal(_condition(row))}"
                text += f'<br>{badge(row.verdict)} <span class="ledger-detail">{_reading(row)}{where}</span>'
            cells.append([literal(group[0].claim.place), text])
        heading = ["In the paper", "Claim, where it is treated, verdict"]
        parts.append(f"## {title}\n\n" + table(heading, "25 75", cells, "ledger"))
    return "\n\n".join(parts)


def terminal(rows: list[Entry]) -> str:
    """Every claim, and every reading of one with several, as a plain line; and how many have each verdict."""
    lines = []
    for row in rows:
        detail = f"{row.measured} ({row.claim.criterion})" if row.measured else row.note
        lines.append(f"{row.verdict:<14} {row.claim.id:<32} {detail}{_condition(row)}")
    spread = ", ".join(f"{number} {name}" for name, number in counts(rows).items())
    return "\n".join([*lines, "", spread])
