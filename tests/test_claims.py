"""The evidence layer: verdicts follow from interval and criterion alone, and a bad entry is told by its name."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import myst_nb
import nbformat
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from markdown_it import MarkdownIt
from myst_nb.ext.glue import extract_glue_data_cell
from traitlets.config import Config

from ncpress import verdicts
from ncpress.outputs import verdict_box
from ncpress.project import PressError, Project
from ncpress.verdicts import parse, read_claims
from ncutil.evidence import claims
from ncutil.evidence.claims import (
    CONTRADICTED,
    REPRODUCED,
    UNDECIDED,
    describe,
    verdict,
)
from ncutil.evidence.outputs import CLAIM_MIME, GLUE_PREFIX, SCALAR_MIME, glue

ROOT = Path(__file__).parent.parent
LETTERS = {"R": REPRODUCED, "C": CONTRADICTED, "U": UNDECIDED}
GOOD = {"id": "good", "source": "P1", "place": "Abstract", "statement": "S rises.", "holds_if": {"above": 2}}
READINGS = """
- id: rise
  source: P1
  place: Figure 3
  statement: Gain rises with rank.
  chapter: 03-lora
  readings:
    words:
      quantity: gain on words
      holds_if: {above: 2}
      condition: this vocabulary & this encoder
    on-bits:
      quantity: gain on bits
      holds_if: {below: 1}
    images:
      reason: no data
- id: plain
  source: P1
  place: Figure 4
  statement: It is one.
  chapter: 03-lora
  quantity: one
  holds_if: {within: [1, 1]}
  condition: one seed
"""
ENTRY = yaml.safe_load(READINGS)[0]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A notebook's shell, without a history file."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


@pytest.fixture
def readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of claims, one of which has readings."""
    path = tmp_path / "claims.yml"
    path.write_text(READINGS)
    for module in (claims, verdicts):
        monkeypatch.setattr(module, "place", lambda: path)
    for cached in (claims.load, read_claims):
        cached.cache_clear()
    yield
    for cached in (claims.load, read_claims):
        cached.cache_clear()


# --- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holds_if", "interval", "expected"),
    [
        ({"above": 2}, (2.1, 2.3), "R"),
        ({"above": 2}, (1.7, 1.9), "C"),
        ({"above": 2}, (1.9, 2.1), "U"),
        # An interval that starts at the bound does not lie above it, one that ends there lies wholly not above it.
        ({"above": 2}, (2.0, 2.3), "U"),
        ({"above": 2}, (1.7, 2.0), "C"),
        ({"above": 2}, (2.0, 2.0), "C"),
        ({"below": 2}, (1.7, 1.9), "R"),
        ({"below": 2}, (2.1, 2.3), "C"),
        ({"below": 2}, (1.9, 2.1), "U"),
        ({"below": 2}, (1.7, 2.0), "U"),
        ({"below": 2}, (2.0, 2.3), "C"),
        ({"below": 2}, (2.0, 2.0), "C"),
        ({"within": [1, 2]}, (1.2, 1.8), "R"),
        ({"within": [1, 2]}, (1.0, 2.0), "R"),
        ({"within": [1, 2]}, (2.1, 2.3), "C"),
        ({"within": [1, 2]}, (0.7, 0.9), "C"),
        ({"within": [1, 2]}, (0.9, 1.1), "U"),
        ({"within": [1, 2]}, (1.9, 2.1), "U"),
        ({"within": [1, 2]}, (0.5, 2.5), "U"),
        ({"within": [1, 2]}, (2.0, 2.3), "U"),
        ({"within": [2, 2]}, (2.0, 2.0), "R"),
    ],
)
def test_verdict_of_one_estimate(holds_if: dict[str, Any], interval: tuple[float, float], expected: str) -> None:
    assert verdict(holds_if, float(np.mean(interval)), interval) == LETTERS[expected]


@pytest.mark.parametrize(
    ("intervals", "increasing", "decreasing"),
    [
        ([(0.9, 1.1), (1.8, 2.2), (2.9, 3.1)], "R", "C"),
        ([(2.9, 3.1), (1.8, 2.2), (0.9, 1.1)], "C", "R"),
        ([(0.9, 1.1), (1.0, 1.4), (2.9, 3.1)], "U", "C"),
        ([(0.9, 1.1), (1.1, 1.3), (2.9, 3.1)], "U", "C"),
        ([(0.9, 1.1), (2.9, 3.1), (1.8, 2.2)], "C", "C"),
        ([(0.9, 1.1), (1.0, 1.2), (0.8, 1.3)], "U", "U"),
        ([(1.0, 1.0), (1.0, 1.0)], "U", "U"),
    ],
)
def test_verdict_of_an_order(intervals: list[tuple[float, float]], increasing: str, decreasing: str) -> None:
    estimates = [float(np.mean(pair)) for pair in intervals]
    assert verdict({"ordered": "increasing"}, estimates, intervals) == LETTERS[increasing]
    assert verdict({"ordered": "decreasing"}, estimates, intervals) == LETTERS[decreasing]


def test_order_looks_at_neighbours_only() -> None:
    """A dip between neighbours contradicts a rise even where the ends rise."""
    assert verdict({"ordered": "increasing"}, [1, 3, 2, 4], [(x, x) for x in (1, 3, 2, 4)]) == CONTRADICTED


numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
triples = st.tuples(numbers, numbers, numbers).map(lambda three: tuple(sorted(three)))
SINGLE = st.one_of(
    st.builds(lambda x: {"above": x}, numbers),
    st.builds(lambda x: {"below": x}, numbers),
    st.builds(lambda x, y: {"within": sorted((x, y))}, numbers, numbers),
)


@given(triples, numbers)
def test_above_mirrors_below(three: tuple[float, float, float], edge: float) -> None:
    low, middle, high = three
    assert verdict({"above": edge}, middle, (low, high)) == verdict({"below": -edge}, -middle, (-high, -low))


@given(triples, SINGLE)
def test_a_narrower_interval_never_turns_a_verdict_round(
    three: tuple[float, float, float], holds_if: dict[str, Any]
) -> None:
    low, middle, high = three
    wide, exact = verdict(holds_if, middle, (low, high)), verdict(holds_if, middle, (middle, middle))
    assert exact in (REPRODUCED, CONTRADICTED)
    assert wide in (exact, UNDECIDED)


@given(st.lists(triples, min_size=2, max_size=5))
def test_an_order_read_backwards(rows: list[tuple[float, float, float]]) -> None:
    points, bounds = [row[1] for row in rows], [(row[0], row[2]) for row in rows]
    forward = verdict({"ordered": "increasing"}, points, bounds)
    assert forward == verdict({"ordered": "decreasing"}, points[::-1], bounds[::-1])


@pytest.mark.parametrize(
    ("holds_if", "estimate", "interval", "message"),
    [
        ({"above": 2}, float("nan"), (1, 2), "finite"),
        ({"above": 2}, 1.5, (1, float("inf")), "finite"),
        ({"above": 2}, 1.5, (1, 2, 3), r"\(low, high\)"),
        ({"above": 2}, 2.5, (1, 2), "outside its interval"),
        ({"above": 2}, 1.5, (2, 1), "outside its interval"),
        ({"above": 2}, [1, 2], [(1, 1), (2, 2)], "one estimate"),
        ({"ordered": "increasing"}, 1, (1, 1), "at least two"),
        ({"ordered": "increasing"}, [1, 2], [(1, 1)], r"\(low, high\) each"),
        ({"ordered": "increasing"}, [1, 2], (1, 2), r"\(low, high\) each"),
    ],
)
def test_verdict_refuses(holds_if: dict[str, Any], estimate: Any, interval: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verdict(holds_if, estimate, interval)


# --- the list of claims --------------------------------------------------------------------------------------------


def test_parse_keeps_what_stands() -> None:
    claim = parse([GOOD])["good"]
    assert (claim.source, claim.place, claim.statement, claim.holds_if) == ("P1", "Abstract", "S rises.", {"above": 2})
    assert claim.chapter is claim.quantity is claim.reason is None


@pytest.mark.parametrize(
    ("holds_if", "words"),
    [
        ({"above": 2}, "above 2"),
        ({"below": 0.5}, "below 0.5"),
        ({"within": [1.95, 2.05]}, "within [1.95, 2.05]"),
        ({"ordered": "increasing"}, "ordered increasing"),
        (None, ""),
    ],
)
def test_criterion_in_words(holds_if: dict[str, Any] | None, words: str) -> None:
    assert parse([{**GOOD, "holds_if": holds_if, "reason": "none"}])["good"].criterion == words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, r"claim 'good'.*missing \['source'\]"),
        ({"statement": ""}, r"claim 'good'.*missing \['statement'\]"),
        ({"critereon": 2}, r"claim 'good'.*unknown \['critereon'\]"),
        ({"holds_if": None}, "claim 'good': needs holds_if, or a reason"),
        *(
            ({"holds_if": bad}, "claim 'good': holds_if is one of above: x")
            for bad in (
                {},
                2,
                "above 2",
                {"over": 2},
                {"above": 2, "below": 3},
                {"above": "2"},
                {"above": True},
                {"above": float("nan")},
                {"below": None},
                {"within": 2},
                {"within": [1]},
                {"within": [2, 1]},
                {"within": [1, "2"]},
                {"within": [1, 2, 3]},
                {"ordered": "up"},
                {"ordered": ["increasing"]},
            )
        ),
    ],
)
def test_a_bad_entry_is_named(change: dict[str, Any], message: str) -> None:
    other = {**GOOD, "id": "other"}
    with pytest.raises(ValueError, match=message):
        parse([other, {**GOOD, **change}])


def test_a_bad_list_is_told() -> None:
    with pytest.raises(ValueError, match=r"mine\.yml: expected a list of claims, got dict"):
        parse({"good": GOOD}, "mine.yml")
    for nameless in ({"source": "P1"}, "good", None):
        with pytest.raises(ValueError, match="claim 2 has no id"):
            parse([GOOD, nameless])
    with pytest.raises(ValueError, match="claim 'good' stands twice"):
        parse([GOOD, GOOD])


def test_the_shipped_claims() -> None:
    """Every claim of both papers: unique, and either testable as it stands or with a reason why it is not."""
    entries = yaml.safe_load((ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
    ids = [entry["id"] for entry in entries]
    assert len(ids) == len(set(ids)) >= 35
    shipped = claims.load()
    assert shipped == read_claims()
    assert list(dict.fromkeys(name.partition(":")[0] for name in shipped)) == ids
    for claim in shipped.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*(:[a-z]+(-[a-z]+)*)?", claim.id), claim.id
        assert claim.source in ("P1", "P2"), claim.id
        assert claim.statement.endswith("."), claim.id
        if claim.chapter:
            assert re.fullmatch(r"0[1-6]-[a-z]+(-[a-z]+)*", claim.chapter), claim.id
            assert claim.quantity or claim.reading, claim.id
            assert claim.holds_if or claim.reading, claim.id
        else:
            assert claim.reason, claim.id
            assert not claim.quantity, claim.id
            assert not claim.holds_if, claim.id
    statements = [entry["statement"] for entry in entries]
    assert len(statements) == len(set(statements))
    assert {claim.source for claim in shipped.values()} == {"P1", "P2"}


def test_every_figure_and_theorem_has_a_claim() -> None:
    """P1 has five figures and one theorem; P2 six figures, two theorems and equation 3.1."""
    named: dict[str, set[str]] = {"P1": set(), "P2": set()}
    for claim in claims.load().values():
        for kind, listed in re.findall(r"(Theorem|Equation|Figure)s? ([\d., and]+)", claim.place):
            named[claim.source] |= {f"{kind} {number}" for number in re.findall(r"\d(?:\.\d)?", listed)}
    assert named["P1"] == {"Theorem 1", *(f"Figure {number}" for number in range(1, 6))}
    assert named["P2"] == {"Theorem 1", "Theorem 2", "Equation 3.1", *(f"Figure {number}" for number in range(1, 7))}


# --- readings ------------------------------------------------------------------------------------------------------


def test_entry_with_readings_gives_a_claim_for_each(readings: None) -> None:
    assert claims.load() == read_claims() == parse(yaml.safe_load(READINGS))
    assert list(claims.load()) == ["rise:words", "rise:on-bits", "rise:images", "plain"]
    words, bits, images, plain = claims.load().values()
    assert (words.reading, words.quantity, words.criterion) == ("words", "gain on words", "above 2")
    assert (words.condition, bits.condition, plain.condition) == ("this vocabulary & this encoder", None, "one seed")
    assert (bits.reading, bits.criterion, plain.reading) == ("on-bits", "below 1", "")
    assert (images.holds_if, images.reason) == (None, "no data")
    assert {claim.statement for claim in (words, bits, images)} == {"Gain rises with rank."}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"holds_if": {"above": 1}}, "claim 'rise'.*holds_if beside readings"),
        ({"quantity": "gain", "condition": "one seed"}, "claim 'rise'.*quantity, condition beside readings"),
        *(({"readings": bad}, "claim 'rise': readings is") for bad in ({}, None, [], "words", [{"words": {}}])),
        *(
            ({"readings": {bad: {"reason": "none"}}}, f"claim 'rise'.*got {bad!r}")
            for bad in ("Words", "two words", "a:b", "-a", "", 1, True)
        ),
        ({"readings": {"words": None}}, "claim 'rise', reading 'words': .*got None"),
        ({"readings": {"words": {"holds": 1, "reason": "r"}}}, r"claim 'rise', reading 'words': unknown \['holds'\]"),
        ({"readings": {"words": {"chapter": "03-lora", "reason": "r"}}}, r"reading 'words': unknown \['chapter'\]"),
        ({"readings": {"words": {"quantity": "q"}}}, "claim 'rise', reading 'words': needs holds_if, or a reason"),
        ({"readings": {"words": {"holds_if": {"above": 1}}}}, "claim 'rise', reading 'words': .*quantity"),
        (
            {"readings": {"bits": {"reason": "none"}, "words": {"quantity": "q", "holds_if": {"above": "2"}}}},
            "claim 'rise', reading 'words': holds_if is one of above: x",
        ),
        ({"readings": {"words": {"reason": "r", "condition": ["a"]}}}, r"reading 'words': condition .*got \['a'\]"),
        ({"id": "ri:se"}, "claim 'ri:se'.*colon"),
        ({"reading": "words"}, r"claim 'rise': unknown \['reading'\]"),
    ],
)
def test_a_bad_reading_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse([GOOD, {**ENTRY, **change}])


def test_entry_with_readings_stands_once() -> None:
    for first, second in ((ENTRY, ENTRY), (ENTRY, {**GOOD, "id": "rise"}), ({**GOOD, "id": "rise"}, ENTRY)):
        with pytest.raises(ValueError, match="claim 'rise' stands twice"):
            parse([first, second])


def test_record_of_a_reading(readings: None, shell: InteractiveShell) -> None:
    with capture_output() as captured:
        claims.record("rise:words", 2.5, (2.4, 2.6))
        claims.record("rise:on-bits", 2.5, (2.4, 2.6))
    assert [data["id"] for data in bundles(captured, CLAIM_MIME)] == ["rise:words", "rise:on-bits"]
    assert claims.judge("rise:words", 2.5, (2.4, 2.6)).verdict == REPRODUCED
    assert claims.judge("rise:on-bits", 2.5, (2.4, 2.6)).verdict == CONTRADICTED


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ("rise", "rise:words, rise:on-bits, rise:images"),
        ("rise:bits", "rise:words, rise:on-bits, rise:images"),
        ("plain:words", "plain"),
        ("other", "rise:words, rise:on-bits, rise:images, plain"),
    ],
)
def test_judge_of_an_unknown_reading_lists_those_of_the_entry(readings: None, given: str, listed: str) -> None:
    with pytest.raises(ValueError, match=rf"'{given}'; known: {listed}$"):
        claims.judge(given, 1, (1, 1))
    with pytest.raises(ValueError, match="'rise:images' has no criterion"):
        claims.judge("rise:images", 1, (1, 1))


def run(*ids: str) -> dict[str, Any]:
    """A record of a run of the chapter whose claims have readings."""
    items = [{"id": name, "estimate": 2.5, "interval": [2.4, 2.6]} for name in ids]
    return {"chapter": "03-lora", "profile": "book", "claims": items}


def test_claims_of_a_run_are_by_reading(readings: None) -> None:
    found = verdicts.claims_of(run("rise:words", "rise:on-bits"))
    assert {name: item["verdict"] for name, item in found.items()} == {
        "rise:words": REPRODUCED,
        "rise:on-bits": CONTRADICTED,
    }
    for bad in (run("rise"), run("rise:images"), run("rise:words", "rise:words")):
        with pytest.raises(PressError, match=f"records claim '{bad['claims'][0]['id']}'"):
            verdicts.claims_of(bad)


def test_ledger_keeps_the_readings_of_an_entry_together(readings: None) -> None:
    project = cast(Project, SimpleNamespace(chapters=["03-lora"]))
    sections = {"rise:words": "On words"}
    rows = verdicts.entries(project, {"03-lora": run("rise:words", "rise:on-bits")}, sections)
    assert verdicts.counts(rows) == {
        "reproduced": 1,
        "contradicted": 1,
        "undecided": 0,
        "not attempted": 1,
        "out of reach": 1,
    }
    shown = MarkdownIt().render(verdicts.page(rows))
    assert shown.count("Gain rises with rank.") == shown.count("this vocabulary &amp; this encoder") == 1
    places = [shown.index(text) for text in ("Gain rises", "gain on words", "gain on bits", "No data", "It is one.")]
    assert places == sorted(places)
    assert 'href="../notebooks/03-lora.html#claim-rise:words"' in shown
    crosswalk = MarkdownIt().render(verdicts.crosswalk(rows))
    assert crosswalk.count("Gain rises with rank.") == 1
    assert "on-bits" in crosswalk
    assert ">On words</a>; conditional on: this vocabulary &amp; this encoder<" in crosswalk
    assert "No data." in crosswalk
    line = next(line for line in verdicts.terminal(rows).splitlines() if "rise:words" in line)
    assert line.startswith("reproduced")
    assert "this vocabulary & this encoder" in line


def test_verdict_box_shows_reading_and_condition(readings: None) -> None:
    box = verdict_box(claims.judge("rise:words", 2.5, (2.4, 2.6)))
    assert box["ids"] == ["claim-rise:words"]
    assert "words" in box.astext().replace("gain on words", "")
    assert "this vocabulary & this encoder" in box.astext()
    plain = verdict_box(claims.judge("plain", 1, (1, 1))).astext()
    assert "one seed" in plain
    assert "Reading" not in plain
    assert "Conditional" not in verdict_box(claims.judge("rise:on-bits", 2.5, (2.4, 2.6))).astext()


# --- records -------------------------------------------------------------------------------------------------------


def bundles(captured: Any, mime: str) -> list[Any]:
    return [output.data[mime] for output in captured.outputs if mime in output.data]


def test_record_emits_the_claim(shell: InteractiveShell) -> None:
    with capture_output() as captured:
        claims.record("ncnet-exceeds-2", 2.31, (2.25, 2.37))
    assert bundles(captured, CLAIM_MIME) == [{"id": "ncnet-exceeds-2", "estimate": 2.31, "interval": [2.25, 2.37]}]
    (text,) = bundles(captured, "text/plain")
    assert text == "ncnet-exceeds-2: reproduced (above 2; got 2.31 [2.25, 2.37])"


def test_record_of_an_order_takes_arrays(shell: InteractiveShell) -> None:
    with capture_output() as captured:
        claims.record("ncnet-rise", np.array([1.0, 2.0, 1.5]), np.array([[1.0, 1.1], [1.9, 2.1], [1.4, 1.6]]))
    (data,) = bundles(captured, CLAIM_MIME)
    assert data["estimate"] == [1.0, 2.0, 1.5]
    assert data["interval"] == [[1.0, 1.1], [1.9, 2.1], [1.4, 1.6]]
    assert "contradicted (ordered increasing; got 1.00 [1.00, 1.10], 2.00" in bundles(captured, "text/plain")[0]


def test_judge_follows_the_criterion_of_the_claim() -> None:
    found = claims.judge("ncnet-exceeds-2", np.float64(1.9), np.array([1.8, 1.95]))
    assert (found.claim.id, found.verdict) == ("ncnet-exceeds-2", CONTRADICTED)
    assert (found.estimate, found.interval) == (1.9, [1.8, 1.95])
    assert claims.judge("ncnet-rise", [1, 2], [(1, 1), (2, 2)]).verdict == REPRODUCED


def test_record_refuses_and_emits_nothing(shell: InteractiveShell) -> None:
    with capture_output() as captured:
        with pytest.raises(ValueError, match=r"unknown claim 'ncnet-peek'; known: chsh-bound, .*ncnet-peak"):
            claims.record("ncnet-peek", 1, (1, 1))
        with pytest.raises(ValueError, match="'le-vgg' has no criterion"):
            claims.record("le-vgg", 1, (1, 1))
        with pytest.raises(ValueError, match="outside its interval"):
            claims.record("ncnet-exceeds-2", 3, (1, 2))
    assert not captured.outputs


def test_value_is_one_output_with_text_and_number(shell: InteractiveShell) -> None:
    with capture_output() as captured:
        claims.value("mean-s", np.float64(1.8114), (1.77, 1.85))
        claims.value("runs", 1000, digits=0)
    assert len(captured.outputs) == 2
    assert bundles(captured, SCALAR_MIME) == [
        {"name": "mean-s", "value": 1.8114, "interval": [1.77, 1.85]},
        {"name": "runs", "value": 1000.0, "interval": None},
    ]
    assert bundles(captured, f"{GLUE_PREFIX}text/plain") == ["'1.81 [1.77, 1.85]'", "'1000'"]


@pytest.mark.parametrize("text", ["1.81 [1.77, 1.85]", 'It "rises" -- to 2.', "one\ntwo", "x" * 200])
def test_glue_is_read_as_that_of_myst_nb(shell: InteractiveShell, text: str) -> None:
    with capture_output() as captured:
        glue("name", text, {"text/plain": "name", SCALAR_MIME: {}})
        myst_nb.glue("name", text, display=False)
    found = []
    for output in captured.outputs:
        cell = nbformat.v4.new_code_cell()
        cell.outputs = [nbformat.v4.new_output("display_data", output.data, metadata=output.metadata)]
        ((name, glued),) = extract_glue_data_cell(cell)
        # Nothing is left for the page.
        assert (name, cell.outputs) == ("name", [])
        found.append(glued["data"]["text/plain"])
    assert found[0] == found[1]


@pytest.mark.parametrize("bad", [(float("nan"), None), (1.0, (0.5, float("inf")))])
def test_value_refuses_what_is_not_finite(shell: InteractiveShell, bad: tuple[float, Any]) -> None:
    with capture_output() as captured, pytest.raises(ValueError, match="value 'x' is not finite"):
        claims.value("x", *bad)
    assert not captured.outputs


def test_describe() -> None:
    assert describe(1.2345, digits=3) == "1.234"
    assert describe([1.0, 2.0], [[0.9, 1.1], [2.0, 2.0]]) == "1.00 [0.90, 1.10], 2.00"
    assert describe([1.0, 2.0]) == "1.00, 2.00"
    with pytest.raises(ValueError, match="zip"):
        describe([1.0, 2.0], [[0.9, 1.1]])


# --- how to cite ---------------------------------------------------------------------------------------------------


def test_the_citation_file() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["version"] == version("ncutil")
    authors = [{"name": "The NCnet and neurashed companion authors"}]
    assert citation["authors"] == citation["preferred-citation"]["authors"] == authors
    assert (citation["license"], citation["preferred-citation"]["license"]) == ("MIT", "CC-BY-4.0")
    families = [[author["family-names"] for author in paper["authors"]] for paper in citation["references"]]
    assert families == [["Zhao", "Wu", "Hou"], ["Su"]]
    assert all({"type", "title", "authors"} <= paper.keys() for paper in citation["references"])
