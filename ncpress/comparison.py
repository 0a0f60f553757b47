"""Compare one run with another, claim by claim and number by number; publish a run; find changed verdicts.

A *result* is the part of a run record that is kept in `book/results/`: small JSON, one file a chapter.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ncpress.execution import FORMAT, read_record
from ncpress.project import BOOK, PressError, Project
from ncpress.verdicts import claims_of
from ncutil.evidence.claims import describe
from ncutil.ground.files import write_json

Result = dict[str, Any]

PLACE = ("commit", "modified", "versions", "processor", "system", "started", "seconds")
"""Where and when a run was made, as its record names it."""

ROUNDING = 1e-6
"""Relative difference up to which two numbers count as the same: float32 sums in another order stay below it."""


@dataclass(frozen=True)
class Difference:
    """Two values of one claim or number; `agrees` is False where they cannot be the same finding."""

    name: str
    ours: str
    theirs: str
    remark: str
    agrees: bool


def result_of(record: Mapping[str, Any]) -> Result:
    """The publishable part of a run record: where it came from, its claims with verdicts, its numbers."""
    scalars = {item["name"]: {"value": item["value"], "interval": item["interval"]} for item in record["scalars"]}
    context = {name: record[name] for name in ("profile", "parameters", "seed", *PLACE)}
    return {"format": FORMAT, "chapter": record["chapter"], **context, "claims": claims_of(record), "scalars": scalars}


def read_results(folder: Path) -> dict[str, Result]:
    """Results by chapter from a folder of runs (`_build/runs/book`) or of published results (`book/results`)."""
    if not folder.is_dir():
        raise PressError(f"no such folder of runs or results: {folder}")
    results: dict[str, Result] = {}
    for path in sorted(folder.glob("[0-9][0-9]*-*")):
        if path.is_dir():
            found = read_record(path)
            if found is None:
                raise PressError(f"{path} is not a finished run of this version (format {FORMAT}): run it again")
            results[path.name] = result_of(found)
        elif path.suffix == ".json":
            results[path.stem] = _read_published(path)
    if not results:
        raise PressError(f"no runs and no results in {folder}; expected run folders or NN-name.json files")
    return results


def _read_published(path: Path) -> Result:
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        version = result["format"]
    except (ValueError, KeyError, TypeError):
        raise PressError(f"{path} is not a result file") from None
    if version != FORMAT:
        raise PressError(f"{path} has format {version}, this version reads {FORMAT}: publish it again with --accept")
    return result


def compare(ours: Result, theirs: Result) -> list[Difference]:
    """Every claim and number of two results of one chapter, with what can explain a difference."""
    found = []
    for kind in ("claims", "scalars"):
        for name in dict.fromkeys([*theirs[kind], *ours[kind]]):
            a, b = ours[kind].get(name), theirs[kind].get(name)
            if a is None or b is None:
                where = "only in the second" if a is None else "only in the first"
                found.append(Difference(name, _text(a), _text(b), where, False))
                continue
            found.append(_difference(name, a, b, (ours, theirs)))
    return found


def _text(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return "–"
    number = describe(item["estimate"] if "estimate" in item else item["value"], item["interval"], 3)
    return f"{item['verdict']} {number}" if "verdict" in item else number


def _difference(name: str, a: Mapping[str, Any], b: Mapping[str, Any], results: tuple[Result, Result]) -> Difference:
    first, second = (np.atleast_1d(item["estimate"] if "estimate" in item else item["value"]) for item in (a, b))
    same_verdict = a.get("verdict") == b.get("verdict")
    if first.shape != second.shape:
        return Difference(name, _text(a), _text(b), "a different number of estimates", False)
    apart = float(np.max(np.abs(first - second) / np.maximum(1, np.abs(second))))
    overlap = apart <= ROUNDING or _overlap(a["interval"], b["interval"])
    if apart == 0:
        remark = "identical"
    elif apart <= ROUNDING:
        remark = f"same to rounding ({apart:.0e})"
    else:
        inside = "intervals overlap" if overlap else "intervals apart"
        remark = f"differs by {apart:.2g}, {inside}; {explanation(*results, overlap)}"
    if not same_verdict:
        remark = f"verdict changed; {remark}"
    return Difference(name, _text(a), _text(b), remark, same_verdict and overlap)


def _overlap(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return False
    x, y = np.reshape(a, (-1, 2)), np.reshape(b, (-1, 2))
    return bool(((x[:, 0] <= y[:, 1]) & (y[:, 0] <= x[:, 1])).all())


def explanation(ours: Result, theirs: Result, overlap: bool) -> str:
    """What differs between two runs that can make their numbers differ, strongest first.

    Other versions and processors round otherwise, which is enough for another number but not for intervals that do
    not `overlap`.
    """
    if ours["profile"] != theirs["profile"] or ours["parameters"] != theirs["parameters"]:
        keys = dict.fromkeys([*ours["parameters"], *theirs["parameters"]])
        other = [key for key in keys if ours["parameters"].get(key) != theirs["parameters"].get(key)]
        return f"parameters differ ({', '.join(other)}), so the numbers may"
    packages = dict.fromkeys([*ours["versions"], *theirs["versions"]])
    changed = [name for name in packages if ours["versions"].get(name) != theirs["versions"].get(name)]
    reasons = []
    if changed:
        reasons.append(f"versions ({', '.join(changed)})")
    if (ours["processor"], ours["system"]) != (theirs["processor"], theirs["system"]):
        reasons.append("processor")
    if reasons:
        rounding = "rounding can do this" if overlap else "rounding alone does not do this"
        return f"{' and '.join(reasons)} differ: {rounding}"
    if ours["commit"] != theirs["commit"] or ours["modified"] or theirs["modified"]:
        return "same parameters, versions and processor, but the code may differ"
    return "same code, parameters, versions and processor: nothing explains it"


def drift(project: Project, records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Where the verdicts of runs with the book's own parameters are not the published ones, by chapter."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        if record["profile"] != BOOK or record["parameters"] != record["defaults"]:
            continue
        path = project.results / f"{name}.json"
        if not path.is_file():
            found[name] = [f"no published result ({path.relative_to(project.root)} is missing)"]
            continue
        ours, theirs = claims_of(record), _read_published(path)["claims"]
        lines = [
            f"{claim}: {ours.get(claim, {}).get('verdict', 'not recorded')}, "
            f"published {theirs.get(claim, {}).get('verdict', 'not recorded')}"
            for claim in dict.fromkeys([*theirs, *ours])
            if ours.get(claim, {}).get("verdict") != theirs.get(claim, {}).get("verdict")
        ]
        if lines:
            found[name] = lines
    return found


def accept(project: Project, folder: Path) -> list[str]:
    """Make the runs of a folder the published ones; returns the chapters written."""
    results = read_results(folder)
    changed = [name for name, result in results.items() if result["profile"] != BOOK]
    if changed:
        raise PressError(f"only runs of the book profile are published; not: {', '.join(changed)}")
    project.results.mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        write_json(project.results / f"{name}.json", result)
    return list(results)
