"""Text of machines and persons on pages: what is shown is what was given."""

import functools
from types import SimpleNamespace

import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import HEAD, ROOT
from docutils import nodes
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from sphinx.util.nodes import is_smartquotable

from ncpress import assignments, verdicts
from ncpress.markup import code, literal
from ncpress.outputs import handle_mime, verdict_box
from ncpress.pages import headings, run_box
from ncpress.project import Project
from ncutil.evidence.claims import REPRODUCED, Claim, Finding
from ncutil.evidence.outputs import CLAIM_MIME

PROCESSORS = [
    "Intel(R) Xeon(R) Processor @ 2.50GHz",
    "Intel(R) Core(TM) i7-1185G7 @ 3.00GHz",
    "AMD EPYC 7B13 64-Core Processor",
    "Apple M2 Pro",
    "Neoverse-N1",
    "IBM POWER9 (raw), altivec supported",
]
STRANGE = "-- ... (c) \"x\" 'y' $a$ <b>&amp; {sub}`t` [l](u) `c` *e* _f_ | ~g~ {{ h }} :: # +- \\"


@functools.cache
def parser() -> MarkdownIt:
    """MyST under the book's own settings."""
    extensions = yaml.safe_load((ROOT / "_config.yml").read_text())["parse"]["myst_enable_extensions"]
    return create_md_parser(MdParserConfig(enable_extensions=set(extensions)), RendererHTML)


def shown(text: str) -> str:
    """What a page shows of MyST."""
    return BeautifulSoup(parser().render(text), "html.parser").get_text().strip("\n")


@pytest.mark.parametrize("text", [*PROCESSORS, STRANGE])
@pytest.mark.parametrize("as_shown", [literal, code])
def test_literal_shows_what_was_given(text, as_shown):
    assert shown(as_shown(text)) == text


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1))
def test_literal_shows_any_line(text):
    assert shown(f"a {literal(text)} z") == f"a {text} z"
    assert shown(f"a {code(text)} z") == f"a {text} z"


@pytest.mark.parametrize("processor", [*PROCESSORS, STRANGE])
def test_run_box_names_the_processor(processor):
    ran = {
        "parameters": {"text": "a`b"},
        "defaults": {"text": "(c)"},
        "versions": {"numpy": "2.4...(c)"},
        "chapter": "x",
        "profile": "book",
        "commit": None,
        "modified": False,
        "seed": 1,
        "processor": processor,
        "system": "Linux x86_64",
        "seconds": 1.0,
        "started": "2026-01-01T00:00:00+00:00",
    }
    rows = run_box(ran, "ncutil.whl", ["x: -- (c)"]).splitlines()
    page = [shown(row.removeprefix("  - ").removeprefix("- ")) for row in rows]
    assert f"{processor} (Linux x86_64)" in page
    assert "text = 'a`b' (book: '(c)')" in page
    assert "numpy 2.4...(c)" in page
    assert "x: -- (c)" in page


def test_claims_page_and_crosswalk_are_literal():
    claim = Claim("id", "P1", STRANGE, STRANGE, None, reason="R " + STRANGE)
    rows = [verdicts.Entry(claim, verdicts.OUT_OF_REACH, note=claim.reason)]
    for page in (verdicts.page(rows), verdicts.crosswalk(rows)):
        lines = [shown(line.replace("* - ", "").replace("  - ", "").replace("<br>", " ")) for line in page.splitlines()]
        assert any(STRANGE in line for line in lines)
        assert any("R " + STRANGE in line for line in lines)


def test_verdict_box_is_literal():
    claim = Claim("id", "P1", STRANGE, "S " + STRANGE, "01-chsh", "Q " + STRANGE, {"above": 1})
    box = verdict_box(Finding(claim, 2.0, [2.0, 2.0], REPRODUCED))
    assert all(text in box.astext() for text in (f"S {STRANGE} (NCnet, {STRANGE})", f"Q {STRANGE} = 2.000"))
    # Sphinx changes no quotation marks in it.
    assert all(not is_smartquotable(text) for text in box.findall(nodes.Text))


def test_crosswalk_shows_a_heading_as_its_chapter_does():
    heading = "Is `a<b & c`, or $x$ < 2?"
    claim = Claim("id", "P1", "Figure 1", "S.", "01-chsh", "q", {"above": 1})
    page = verdicts.crosswalk([verdicts.Entry(claim, REPRODUCED, "2", "book", heading)])
    (line,) = [line for line in page.splitlines() if "a<b" in line]
    assert shown(line.replace("  - ", "")).endswith(f"Chapter 1: {shown(heading)}")


def test_headings_are_no_comments_in_code():
    assert headings("# One $x$\n\n```{solution} a\n# code\n```\n\n    # code\n\nTwo\n---\n") == ["One $x$", "Two"]


def test_table_of_problem_sets_keeps_a_bar(tmp_path):
    (tmp_path / "notebooks" / "assignments").mkdir(parents=True)
    title, objectives = "Set 1: What $P(a|b)$ is", "You tell `a|b` from b."
    text = f"# {title}\n\n**Objectives.** {objectives}\n\nMore.\n\n"
    text += "```{code-cell}\n:tags: [parameters]\n\nseed = 0\n```\n"
    (tmp_path / "notebooks" / "assignments" / "01-set.md").write_text(HEAD + text)
    page = MarkdownIt().enable("table").render(assignments.table(Project(tmp_path)))
    cells = [cell.get_text() for cell in BeautifulSoup(page, "html.parser").find_all("td")]
    assert cells == ["01-set", "What $P(a|b)$ is", "You tell a|b from b.", "0", "0 min"]


def test_renderer_warns_of_a_broken_file_of_claims(tmp_path, monkeypatch):
    broken = tmp_path / "claims.yml"
    broken.write_text("- id: alone\n")
    monkeypatch.setattr(verdicts, "place", lambda: broken)
    verdicts.read_claims.cache_clear()
    said = []
    renderer = SimpleNamespace(
        renderer=SimpleNamespace(sphinx_env=SimpleNamespace(note_dependency=lambda path: None)),
        logger=SimpleNamespace(warning=lambda text, line: said.append(text)),
    )
    record = {"id": "alone", "estimate": 1.0, "interval": [1.0, 1.0]}
    data = SimpleNamespace(mime_type=CLAIM_MIME, content=record, line=1)
    try:
        assert handle_mime(renderer, data, inline=False) == []
    finally:
        verdicts.read_claims.cache_clear()
    assert len(said) == 1
    assert "claims.yml: claim 'alone'" in said[0]
