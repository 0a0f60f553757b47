"""How the records in a chapter's outputs look on a page: a plugin of MyST-NB and an extension of Sphinx.

MyST-NB finds this module by its entry point and calls `handle_mime` for each form of each output, in `ncutil build` and
in `jupyter-book build .` alike. A claim becomes a box with its verdict. The data of a figure becomes a file of the site
and a link behind the figure. A number needs nothing here: it is shown only where prose names it.

The boxes are made of docutils nodes and not of Markdown, so that text from claims.yml is shown as it stands there.
"""

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

from ncpress.project import PressError
from ncpress.verdicts import read_claims
from ncutil.evidence import claims
from ncutil.evidence.outputs import CLAIM_MIME, TABLE_MIME
from ncutil.ground.files import write

if TYPE_CHECKING:
    from myst_nb.core.render import MimeData, NbElementRenderer
    from sphinx.application import Sphinx

DOWNLOADS = "downloads"
"""Folder of the site for what readers take home."""

mime_priority_overrides = [("*", CLAIM_MIME, 1)]


def handle_mime(renderer: "NbElementRenderer", data: "MimeData", inline: bool) -> list[nodes.Element] | None:
    """The nodes of one form of an output; None for a form that is not ours."""
    environment: Any = renderer.renderer.sphinx_env
    if data.mime_type == CLAIM_MIME:
        # The verdict follows from claims.yml too: Sphinx reads the page again when that file changes.
        environment.note_dependency(str(claims.place()))
        record: Any = data.content
        try:
            read_claims()  # says in one line what is wrong with the file
            return [verdict_box(claims.judge(record["id"], record["estimate"], record["interval"]))]
        except (ValueError, PressError) as error:
            renderer.logger.warning(str(error), line=data.line)
            return []
    if data.mime_type == TABLE_MIME:
        table: Any = data.content
        return [_data_link(table["name"], table["csv"], environment.docname, Path(environment.app.outdir))]
    return None


def verdict_box(found: claims.Finding) -> nodes.container:
    """What a page shows where a claim is recorded: statement, reading, criterion, measurement, verdict, condition."""
    claim, words = found.claim, ["verdict-badge", f"verdict-{found.verdict.replace(' ', '-')}"]
    statement = nodes.paragraph()
    statement += nodes.inline("", found.verdict, classes=words)
    statement += nodes.Text(" ")
    statement += nodes.strong("", "Claim.")
    statement += nodes.Text(f" {claim.statement} ({claims.SOURCES[claim.source]}, {claim.place})")
    parts = {
        "Reading:": claim.reading,
        "Measured:": f"{claim.quantity} = {claims.describe(found.estimate, found.interval, 3)}",
        "Holds if": claim.criterion,
        "Conditional on:": claim.condition,
    }
    measured = nodes.paragraph()
    for label, text in parts.items():
        if text:
            measured += [nodes.strong("", label), nodes.Text(f" {text}. ")]
    box = nodes.container("", statement, measured, ids=[f"claim-{claim.id}"], classes=["verdict"])
    # Sphinx would turn quotation marks, dashes and dots into other characters.
    box["support_smartquotes"] = False
    return box


def _data_link(name: str, csv: str, page: str, site: Path) -> nodes.raw:
    """Write a figure's data into the site; returns the link to it."""
    folder, _, chapter = page.rpartition("/")
    path = f"{DOWNLOADS}/{chapter}/data/{name}.csv"
    write(site / path, csv)
    up = "../" * len(Path(folder).parts)
    link = f'<a href="{html.escape(up + path)}" download>Data of this figure (CSV): {html.escape(name)}</a>'
    return nodes.raw("", link, format="html", classes=["figure-data"])


def move_links(app: "Sphinx", doctree: nodes.document) -> None:
    """Put each link to data behind its figure: of the forms of an output a page shows one, and that is the picture."""
    for link in list(doctree.findall(nodes.raw)):
        if "figure-data" in link["classes"]:
            form = link.parent
            output = form.parent
            output.remove(form)
            shown = output.parent if isinstance(output.parent, nodes.figure) else output
            shown.parent.insert(shown.parent.index(shown) + 1, link)


def setup(app: "Sphinx") -> dict[str, Any]:
    """Connect the extension, which `_config.yml` names."""
    app.connect("doctree-read", move_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
