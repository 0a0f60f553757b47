"""Every chapter, executed through papermill in the smoke profile, keeps what the book promises."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from ncpress.project import Project, read_yaml
from ncutil.evidence import claims

pytestmark = pytest.mark.xdist_group("book")

EXACT = {"1.96", "2.83"}
"""Constants that may be typed: the normal quantile of a 95 % interval, 2 sqrt 2."""

PROJECT = Project(ROOT)
CHAPTERS = sorted(PROJECT.chapters)


@pytest.fixture(params=CHAPTERS)
def chapter(request: pytest.FixtureRequest) -> str:
    return request.param


def test_chapter_runs_and_records_every_claim_of_its_own_once(book: Path, chapter: str) -> None:
    record = json.loads((book / "_build/runs/smoke" / chapter / "run.json").read_text())
    recorded = [item["id"] for item in record["claims"]]
    expected = [c.id for c in claims.load().values() if c.chapter == chapter and c.holds_if]
    assert sorted(recorded) == sorted(expected)
    assert record["parameters"] != record["defaults"]


def test_every_figure_has_data(book: Path, chapter: str) -> None:
    record = json.loads((book / "_build/runs/smoke" / chapter / "run.json").read_text())
    figures = [cell for cell in PROJECT.chapters[chapter].code_cells if "figure" in cell.metadata.get("mystnb", {})]
    assert len(figures) >= 3
    assert len(set(record["tables"])) == len(record["tables"]) == len(figures)
    for name in record["tables"]:
        assert len((book / "_build/runs/smoke" / chapter / "data" / f"{name}.csv").read_text().splitlines()) >= 2


def test_no_measured_number_is_typed_into_prose(chapter: str) -> None:
    """A decimal fraction in prose has to be glued, or stand in a formula or a code span."""
    for cell in PROJECT.chapters[chapter].notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"\$[^$]*\$|`[^`]*`|\$\$.*?\$\$", " ", cell.source, flags=re.DOTALL)
            assert set(re.findall(r"\b\d+\.\d{2,}\b", prose)) <= EXACT


def test_chapter_has_its_parts(chapter: str) -> None:
    source = "\n".join(cell.source for cell in PROJECT.chapters[chapter].notebook.cells)
    for part in (
        "In this chapter",
        "## Paper against ours",
        "## Limits",
        "## Exercises",
        "## Summary",
        "## References",
    ):
        assert part in source, part
    assert source.count("{exercise}") + source.count("{exercise-start}") >= 3
    assert "{solution-start}" in source
    assert source.count("{dropdown} Hint") >= 3


def test_code_fits_the_page(chapter: str) -> None:
    for cell in PROJECT.chapters[chapter].code_cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 30, lines[0]
        assert all(len(line) <= 72 for line in lines), max(lines, key=len)


def test_published_result_belongs_to_the_chapter_as_it_stands(chapter: str) -> None:
    result = json.loads((ROOT / "book" / "results" / f"{chapter}.json").read_text())
    parameters = {k: list(v) if isinstance(v, tuple) else v for k, v in PROJECT.chapters[chapter].parameters.items()}
    assert result["profile"] == "book"
    assert result["parameters"] == parameters
    for name, item in result["claims"].items():
        criterion = claims.load()[name].holds_if
        assert criterion is not None
        assert claims.verdict(criterion, item["estimate"], item["interval"]) == item["verdict"]


def test_every_profile_names_real_parameters() -> None:
    assert {"book", "smoke", "paper"} <= PROJECT.profiles.keys()
    assert PROJECT.profiles["smoke"].keys() == set(CHAPTERS)


def test_every_chapter_is_in_the_contents() -> None:
    assert [page for page in PROJECT.pages if page.startswith("notebooks/")] == [f"notebooks/{c}" for c in CHAPTERS]
    assert read_yaml(ROOT / "_toc.yml")["root"] == "index"
