"""The problem sets: their form, what every answer scores, and that nothing of a solution reaches a student."""

import json
import re

import nbformat
import pytest
from conftest import ROOT
from nbgrader.nbgraderformat import MetadataValidator
from problem_sets import NAMES, PROJECT, SEED, answers, edited, fill, problem_set, reference, scores

from ncutil.press.classroom import collect
from ncutil.press.classroom.problems import headings, role, secrets
from ncutil.press.project import read_chapter

pytestmark = [pytest.mark.xdist_group("classroom"), pytest.mark.filterwarnings("ignore:More than 20 figures")]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def points(name: str, sources: dict[str, str], seed: int = SEED) -> dict[str, float | None]:
    item = problem_set(name, seed)
    return {part: judged["score"] for part, judged in scores(item, fill(item, sources)).items()}


def full_marks(name: str) -> dict[str, float | None]:
    return {part.id: None if part.by_hand else part.points for part in problem_set(name).parts}


def test_set_has_its_parts(name: str) -> None:
    item = problem_set(name)
    assert 4 <= len(item.parts) <= 7
    assert sum(not part.by_hand for part in item.parts) >= 4
    assert sum(part.by_hand for part in item.parts) >= 1
    assert item.minutes > 0
    opening, text = item.source.cells[0].source, "\n".join(cell.source for cell in item.source.cells)
    for word in ("Objectives.", "You need", "Time", "Points"):
        assert f"**{word}" in opening
    assert f"**Points** {item.points:g}:" in opening
    for part in item.parts:
        assert f"({part.points:g} points)" in part.title
        own = text.split(f"## {part.title}\n")[1].split("\n## ")[0]
        if part.by_hand:
            assert "| points | for |" in own
            assert sum(int(n) for n in re.findall(r"^\| (\d+) \|", own, re.MULTILINE)) == part.points
        else:
            assert [int(n) for n in re.findall(r"<summary>Hint (\d)", own)] == [1, 2, 3]
            assert "what the result looks like</summary>" in own
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert item.files[picture].startswith(b"\x89PNG")
    assert any(file.endswith(".png") for file in item.files)


def test_hints_point_to_sections_that_exist(name: str) -> None:
    found_in = {name: chapter for name, chapter in PROJECT.chapters.items() if name[2] == "-"}
    chapters = {str(int(c[:2])): "\n".join(x.source for x in v.notebook.cells) for c, v in found_in.items()}
    text = "\n".join(cell.source for cell in problem_set(name).source.cells)
    pointers = re.findall(r"where to read</summary>\s+Chapter (\d), sections? (.+?)\n\n", text, re.DOTALL)
    assert len(pointers) >= 4
    for chapter, sections in pointers:
        found = re.findall(r"\*([^*]+)\*", sections)
        assert found, sections
        for section in found:
            title = " ".join(section.split())
            assert re.search(rf"^#+ {re.escape(title)}$", chapters[chapter], re.MULTILINE), title


def test_every_autograded_part_has_visible_checks(name: str) -> None:
    item = problem_set(name)
    visible = {collect.grade_id(cell): cell.source for cell in item.released.cells if role(cell) == "tests"}
    assert set(visible) == {part.id for part in item.parts if not part.by_hand}
    assert all("assert " in source for source in visible.values())


@pytest.mark.parametrize("seed", [SEED, 1, 2, 3])
def test_the_reference_has_full_marks_with_every_class_s_numbers(name: str, seed: int) -> None:
    assert points(name, reference(problem_set(name, seed)), seed) == full_marks(name)


def test_the_untouched_release_has_none(name: str) -> None:
    assert set(points(name, {}).values()) == {0}


def test_last_year_s_answers_do_not_fit(name: str) -> None:
    """Values of another class: what the seed draws differs in at least half of the parts."""
    ours, theirs = problem_set(name), problem_set(name, 1)
    values = [
        [str(ask.expected) for part in item.parts for ask in part.asks if ask.inputs is None and not ask.judge]
        for item in (ours, theirs)
    ]
    assert sum(a != b for a, b in zip(*values, strict=True)) >= len(values[0]) / 2


def test_wrong_answers_lose_exactly_what_they_should(name: str) -> None:
    wrong, expected = answers(name)["wrong"], full_marks(name)
    assert wrong.keys() == {part for part, most in expected.items() if most is not None}
    right = reference(problem_set(name))
    for part, changes in wrong.items():
        assert len(changes) >= 5
        for change in changes:
            assert change["left"] < expected[part]
            found = points(name, right | {change["cell"]: edited(problem_set(name), change)})
            assert found == expected | {part: change["left"]}, change["why"]


def test_right_answers_by_other_ways_keep_their_points(name: str) -> None:
    right = reference(problem_set(name))
    sloppy = answers(name)["sloppy"]
    assert len(sloppy) >= 4
    for change in sloppy:
        assert points(name, right | {change["cell"]: edited(problem_set(name), change)}) == full_marks(name), change[
            "why"
        ]


def test_release_is_a_valid_notebook_of_nbgrader_and_shows_no_solution(name: str) -> None:
    item = problem_set(name)
    text = json.dumps(item.released)
    nbformat.validate(nbformat.reads(text, as_version=4))
    MetadataValidator().validate_nb(item.released)
    hidden = secrets(item.source)
    assert len(hidden) >= 20
    for line in hidden:
        assert json.dumps(line)[1:-1] not in text
    for mark in ("SOLUTION", "HIDDEN", "asking", "judge", "asked"):
        assert mark not in text
    assert not any(cell.get("outputs") for cell in item.released.cells)


def test_source_is_text_that_survives_a_round_trip(name: str) -> None:
    path = ROOT / "notebooks" / "assignments" / f"{name}.md"
    chapter = read_chapter(path)
    assert chapter.parameters.keys() == {"seed"}
    assert next(headings(chapter.notebook))[1].startswith(f"Problem set {int(name[:2])}: ")
    for cell in chapter.notebook.cells:
        if cell.cell_type == "code":
            assert all(len(line) <= 72 for line in cell.source.splitlines()), cell.source
