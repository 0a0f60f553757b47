"""Write the source of the site, which Jupyter Book renders: prose from the clone, outputs from the runs.

The page of a chapter has its text and its display settings from the chapter as it stands, and its outputs from the
executed notebook; both must have the same code, cell by cell. The press adds a box about the run, three forms of the
notebook to take home, and the tables of claims, problem sets and benchmarks. Verdicts and links to data are outputs,
and `ncpress.outputs` shows them.
"""

import copy
import os
import re
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from markdown_it import MarkdownIt
from nbformat import NotebookNode

from ncpress import assignments, benchmarks, verdicts
from ncpress.execution import Plan, meaning, read_record
from ncpress.markup import code, literal
from ncpress.outputs import DOWNLOADS
from ncpress.project import (
    TEXT_FORMAT,
    Chapter,
    PressError,
    Project,
    read_yaml,
)
from ncpress.wheels import build_wheel
from ncutil.evidence.outputs import CLAIM_MIME

PROSE = ("index.md", "book")
_GENERATED = re.compile(r"<!-- generated: (\w+) -->.*?<!-- end -->", re.DOTALL)
_HEADINGS = MarkdownIt("zero").enable(["code", "fence", "heading", "lheading"])
_EXERCISE = re.compile(r"^(`{3,}|:{3,})\{exercise\}([^\n]*)\n.*?^\1$", re.DOTALL | re.MULTILINE)


def stage(project: Project, plans: list[Plan], site: Path, drift: Mapping[str, list[str]]) -> None:
    """Write the whole source of the site into an empty folder; `drift` has the warnings for each chapter's page."""
    records = {item.chapter.name: _record(item) for item in plans}
    extra = site / "extra" / DOWNLOADS
    extra.mkdir(parents=True)
    wheel = build_wheel(project.root, extra)
    shutil.copyfile(project.root / "constraints.txt", extra / "constraints.txt")
    sections: dict[str, str] = {}
    for item in plans:
        name, record = item.chapter.name, records[item.chapter.name]
        executed = nbformat.read(item.folder / f"{name}.ipynb", as_version=4)
        notebook = _without_warnings(merge(item.chapter, executed, item.parameters))
        _check_alt(name, notebook)
        sections |= _sections(notebook)
        _write_downloads(notebook, extra / name, name, wheel)
        box = run_box(record, wheel, drift.get(name, []))
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(box, id="run-box"))
        (site / "notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, site / "notebooks" / f"{name}.ipynb")
    rows = verdicts.entries(project, records, sections)
    generated = {
        "claims": verdicts.page(rows),
        "crosswalk": verdicts.crosswalk(rows),
        "verdicts": verdicts.summary(rows),
        "sets": assignments.table(project),
        "benchmarks": benchmarks.page(project),
    }
    _copy_prose(project, site, generated)
    _write_config(project, site)


def _record(item: Plan) -> dict[str, Any]:
    record = read_record(item.folder)
    if record is None:
        raise PressError(
            f"no finished run of {item.chapter.name} in {item.folder}: run 'ncutil run {item.chapter.name}'"
        )
    return record


def merge(chapter: Chapter, executed: NotebookNode, parameters: Mapping[str, Any]) -> NotebookNode:
    """The chapter's notebook as it stands, with the outputs of a run of the same code."""
    notebook = chapter.with_parameters(parameters)
    ours = [cell for cell in notebook.cells if cell.cell_type == "code"]
    theirs = [cell for cell in executed.cells if cell.cell_type == "code"]
    if [meaning(cell) for cell in ours] != [meaning(cell) for cell in theirs]:
        raise PressError(f"{chapter.name}: the run's code is not the chapter's; run it again")
    for cell, ran in zip(ours, theirs, strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    notebook.metadata["language_info"] = executed.metadata.get("language_info", {})
    return notebook


def _without_warnings(notebook: NotebookNode) -> NotebookNode:
    """Take out what was written to stderr: it is for whoever runs the chapter, and may name folders of that machine."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def _check_alt(name: str, notebook: NotebookNode) -> None:
    for number, cell in enumerate(notebook.cells, 1):
        drawn = any(kind.startswith("image/") for out in cell.get("outputs", []) for kind in out.get("data", {}))
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if drawn and not alt.strip():
            raise PressError(f"{name}, cell {number}: the figure has no alt text (mystnb: image: alt)")


def _sections(notebook: NotebookNode) -> dict[str, str]:
    """The heading above each recorded claim, by claim id."""
    found, heading = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = [heading, *headings(cell.source)][-1]
        for output in cell.get("outputs", []):
            if CLAIM_MIME in output.get("data", {}):
                found[output.data[CLAIM_MIME]["id"]] = heading
    return found


def headings(text: str) -> list[str]:
    """The headings in Markdown; a comment in a block of code is none.

    >>> headings("# One\\n\\n```\\n# no heading\\n```")
    ['One']
    """
    tokens = _HEADINGS.parse(text)
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]


def run_box(record: Mapping[str, Any], wheel: str, drift: list[str]) -> str:
    """What produced a page, in MyST: made from the run record alone."""
    name, defaults = record["chapter"], record["defaults"]
    changed = [key for key, value in record["parameters"].items() if value != defaults.get(key)]
    parameters = ", ".join(
        code(f"{key} = {value!r}") + (f" (book: {code(repr(defaults.get(key)))})" if key in changed else "")
        for key, value in record["parameters"].items()
    )
    commit = record["commit"][:12] if record["commit"] else "not in a repository"
    links = {
        "executed notebook": f"{name}-executed.ipynb",
        "notebook without outputs": f"{name}.ipynb",
        "text": f"{name}.md",
    }
    anchors = [f'<a href="../{DOWNLOADS}/{name}/{path}" download>{text}</a>' for text, path in links.items()]
    anchors.append(f'<a href="../{DOWNLOADS}/{wheel}" download>ncutil (wheel)</a>')
    rows = {
        "Parameters": parameters,
        "Commit": f"`{commit}`{', modified' if record['modified'] else ''}",
        "Versions": ", ".join(literal(f"{package} {version}") for package, version in record["versions"].items()),
        "Processor": literal(f"{record['processor']} ({record['system']})"),
        "Took": f"{record['seconds']:.1f} s",
        "When": record["started"].replace("T", " ").replace("+00:00", " UTC"),
    }
    profile = f"**{literal(record['profile'])}** profile{', with changed parameters' if changed else ''}"
    lines = [":::::{admonition} This run", ":class: note run-box", ""]
    lines += [f"{profile}, seed {record['seed']}, {record['seconds']:.0f} s, commit {rows['Commit']}.", ""]
    lines += [f"Take it home: {' · '.join(anchors)}", ""]
    lines += [
        "::::{dropdown} Parameters, versions, processor",
        ":::{list-table}",
        ":stub-columns: 1",
        ":widths: 15 85",
        "",
    ]
    for key, value in rows.items():
        lines += [f"* - {key}", f"  - {value}"]
    lines += [":::", "::::", ":::::"]
    if drift:
        lines += ["", "::::{warning}", "This run departs from the published one:", ""]
        lines += [*(f"- {literal(line)}" for line in drift), "::::"]
    return "\n".join(lines)


def _write_downloads(notebook: NotebookNode, folder: Path, name: str, wheel: str) -> None:
    """The chapter to take home: executed, without outputs, and as text; each says how `ncutil` is installed."""
    folder.mkdir()
    executed = copy.deepcopy(notebook)
    executed.cells.insert(0, nbformat.v4.new_code_cell(_install(wheel, _extras(notebook))))
    executed.cells = [part for cell in executed.cells for part in _with_workspace(cell)]
    for number, cell in enumerate(executed.cells):
        cell["id"] = f"cell-{number}"
    bare = copy.deepcopy(executed)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(executed, folder / f"{name}-executed.ipynb")
    nbformat.write(bare, folder / f"{name}.ipynb")
    (folder / f"{name}.md").write_text(jupytext.writes(bare, fmt=TEXT_FORMAT), encoding="utf-8")


def _with_workspace(cell: NotebookNode) -> list[NotebookNode]:
    """A cell, with an empty code cell to solve each exercise in, right behind it."""
    if cell.cell_type != "markdown":
        return [cell]
    parts: list[NotebookNode] = []
    start = 0
    for match in _EXERCISE.finditer(cell.source):
        title = match[2].strip() or "the exercise above"
        parts.append(nbformat.v4.new_markdown_cell(cell.source[start : match.end()].strip()))
        parts.append(nbformat.v4.new_code_cell(f"# Your solution: {title}"))
        start = match.end()
    rest = cell.source[start:].strip()
    return [*parts, nbformat.v4.new_markdown_cell(rest)] if parts and rest else parts or [cell]


def _extras(notebook: NotebookNode) -> str:
    """What a chapter needs beside `ncutil`: the chapter on LoRA has an encoder and words from packages, and peft."""
    return "[lora,words]" if any("ncutil.lora" in cell.source for cell in notebook.cells) else ""


def _install(wheel: str, extras: str) -> str:
    site = os.environ.get("NCUTIL_SITE_URL", "").rstrip("/")
    source = f"{site}/{DOWNLOADS}/{wheel}" if site else f"./{wheel}"
    source = f"ncutil{extras} @ {source}" if site and extras else source + extras
    where = "" if site else "# (offered on the chapter's page: save it beside this notebook)\n"
    return (
        "# This chapter needs ncutil, the book's helper package. Where it is\n"
        "# installed, this cell does nothing; elsewhere it installs the wheel\n"
        f"{where}import importlib.util\n\n"
        f'if importlib.util.find_spec("ncutil") is None:\n    %pip install --quiet "{source}"'
    )


def _copy_prose(project: Project, site: Path, generated: Mapping[str, str]) -> None:
    for name in PROSE:
        source = project.root / name
        files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
        for path in files:
            if "__pycache__" in path.parts or "results" in path.parts:
                continue
            target = site / path.relative_to(project.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                text = path.read_text(encoding="utf-8")
                target.write_text(_fill(text, generated, path.name), encoding="utf-8")
            else:
                shutil.copyfile(path, target)


def _fill(text: str, generated: Mapping[str, str], origin: str) -> str:
    def part(match: re.Match[str]) -> str:
        if match[1] not in generated:
            raise PressError(f"{origin}: nothing generates {match[1]!r}; known: {', '.join(generated)}")
        return generated[match[1]]

    return _GENERATED.sub(part, text)


def _write_config(project: Project, site: Path) -> None:
    shutil.copyfile(project.root / "_toc.yml", site / "_toc.yml")
    config = read_yaml(project.root / "_config.yml")
    config["execute"] = {"execute_notebooks": "off"}
    config["sphinx"]["config"]["html_extra_path"] = ["extra"]
    (site / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
